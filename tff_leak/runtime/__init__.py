"""Runs a federated program: execution context, program loop, run directory.

Nothing is imported here, so that a binary can answer `--help` or a wrong flag
without loading TensorFlow.
"""
