"""NumPy arrays that share their memory with tensors, and the way back.

A process hands its state out after a round and gets it back before the next. With a
million parameters, or a hundred rows of them, two copies of it take longer than the
round. So a result is the tensor's own memory, which NumPy may read and not write, and
an array that comes back is recognised as the tensor that it was, on whatever device
that is.
"""

import threading
import weakref
from typing import Any

import numpy as np
import tensorflow as tf

from tff_leak.runtime.in_process import shim

_lock = threading.RLock()
# The reference tells an array from a later one at the same address.
_tensors: dict[int, tuple[weakref.ref, tf.Tensor]] = {}


def array_of(tensor: tf.Tensor) -> Any:
    """Returns a tensor's content: a read-only array, or a scalar."""
    array = shim.array_of(tensor)
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        return tensor.numpy()
    if array.dtype == object:
        return array  # strings: they are copies
    array.setflags(write=False)
    key = id(array)

    def forget(_reference, key=key):
        with _lock:
            _tensors.pop(key, None)

    with _lock:
        _tensors[key] = (weakref.ref(array, forget), tensor)
    return array


def tensor_of(array: Any) -> tf.Tensor | None:
    """Returns the tensor that `array_of` made an array of, None for other arrays."""
    known = _tensors.get(id(array))
    if known is None or known[0]() is not array or array.flags.writeable:
        return None
    return known[1]
