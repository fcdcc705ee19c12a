"""Experiment binaries and what they are wired from."""

import tff_leak  # noqa: F401  (first: it keeps TensorFlow's start-up quiet)
