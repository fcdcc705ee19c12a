"""Runs a federated program: execution context, program loop, run directory.

Nothing is imported here, so that a binary can answer `--help` or a wrong flag
without loading TensorFlow. `use` is there nevertheless, once it is asked for.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Returns `use` of `runtimes.py`."""
    if name == "use":
        return importlib.import_module("tff_leak.runtime.runtimes").use
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
