"""Judges that were trained before, kept in files.

To train a judge takes a good part of a short run, and runs of one seed on one data set
have the same one, whatever is attacked and defended. What decides it is in its file's
name, and the machine's name, so that a folder may be shared by runs of any kind and by
machines, also at the same time: the worst that happens is that two train the same
judge. A kept judge answers as the trained one does, bit for bit.
"""

import hashlib
import inspect
import pathlib
import platform
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_leak.data.sources import Examples
from tff_leak.metrics import judge as judge_lib
from tff_leak.metrics import non_examples, similarity
from tff_leak.metrics.judge import Judge
from tff_leak.runtime.atomic import atomic_write_bytes, npz_bytes

# What was imported, also if a file changes under a process.
_SOURCES = [
    inspect.getsource(module) for module in (judge_lib, non_examples, similarity)
]


def kept_judge(
    folder: pathlib.Path | None,
    train: Callable[..., Judge],
    examples: Examples,
    **settings: Any,
) -> Judge:
    """Returns a judge of the folder; one that is not there is trained and put there.

    Args:
      folder: made if it is not there; None keeps nothing. A file in it that cannot be
        read is made anew.
      train: `train_judge`, with its further argument `weights`.
      examples: its first argument.
      **settings: its other ones.
    """
    if folder is None:
        return train(examples, **settings)
    path = folder / f"{_key(examples, settings)}.npz"
    weights = _read(path)
    if weights is not None:
        return train(examples, **settings, weights=weights)
    judge = train(examples, **settings)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {str(number): array for number, array in enumerate(judge.weights())}
    atomic_write_bytes(path, npz_bytes(arrays))
    return judge


def _key(examples: Examples, settings: dict[str, Any]) -> str:
    """Of all that decides a judge: what it learns from, how, and what computes it."""
    parts = [
        *_SOURCES,
        *(tf.__version__, np.__version__, platform.node()),
        [device.device_type for device in tf.config.get_visible_devices()],
        tf.config.threading.get_intra_op_parallelism_threads(),
        sorted(tf.config.optimizer.get_experimental_options().items()),
        sorted(settings.items()),
        *((array.shape, array.dtype) for array in (examples.images, examples.labels)),
    ]
    found = hashlib.sha256("\n".join(map(str, parts)).encode())
    for array in (examples.images, examples.labels):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:32]


def _read(path: pathlib.Path) -> Sequence[np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[str(number)] for number in range(len(file.files))]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None
