"""TFF processes: `build_*` functions only."""

import tff_leak  # noqa: F401  (first: it keeps TensorFlow's start-up quiet)
