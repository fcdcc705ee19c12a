"""What the project measures about its own speed; see `run`."""

import tff_leak  # noqa: F401  (first: it keeps TensorFlow's start-up quiet)
