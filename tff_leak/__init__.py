"""Measures what a federated-learning process leaks about its training data.

Importing this package prints nothing: TensorFlow's start-up messages are set to
errors only, unless `TF_CPP_MIN_LOG_LEVEL` is already set.
"""

import atexit
import gc
import os
import sys

# TensorFlow 2.14 reports a CPU without CUDA libraries at "error" level, hence 3.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.1.0"


def _drop_tff_default_context() -> None:
    """Drops TFF's default execution context while Python can still do so cleanly.

    Importing TFF 0.87 makes a context whose service manager has a `__del__` that
    needs the `subprocess` module. Left to the interpreter's teardown it runs after
    that module is gone, and every program ends with a traceback.
    """
    tff = sys.modules.get("tensorflow_federated")
    if tff is not None:
        tff.test.set_no_default_context()
        gc.collect()


atexit.register(_drop_tff_default_context)
