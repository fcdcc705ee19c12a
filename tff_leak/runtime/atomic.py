"""Files that are either whole or absent: written beside, then renamed."""

import io
import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replaces the file at `path` by `data`, so that no reader sees a part of it.

    A process killed while writing leaves the old file, and a hidden file
    `.<name>.<pid>.tmp` that `remove_leftovers` removes.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replaces the file at `path` by `text` in UTF-8."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: str | os.PathLike[str], value: object) -> None:
    """Replaces the file at `path` by `value` as indented JSON with sorted keys.

    Raises:
      ValueError: if a number is not finite; JSON has no word for it.
      TypeError: if a value is not of JSON's types.
    """
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    atomic_write_text(path, text + "\n")


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an uncompressed .npz file; equal arrays give equal bytes.

    NumPy stores the memory order of an array, hence the copy to C order, and no
    time stamps.

    Raises:
      TypeError: if an array holds Python objects, which would need pickling.
    """
    ordered = {}
    for name, array in arrays.items():
        ordered[name] = np.asarray(array, order="C")
        if ordered[name].dtype.hasobject:
            raise TypeError(f"Array {name!r} holds Python objects, not numbers.")
    buffer = io.BytesIO()
    np.savez(buffer, **ordered)
    return buffer.getvalue()


def remove_leftovers(directory: pathlib.Path) -> None:
    """Removes what killed processes left half-written directly in `directory`."""
    for leftover in directory.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
