"""Arrays kept from single rounds, such as samples of a generator."""

import os
import pathlib
import re
import zipfile
from collections.abc import Mapping

import numpy as np

from tff_leak.errors import InputError
from tff_leak.runtime.atomic import atomic_write_bytes, npz_bytes, remove_leftovers
from tff_leak.runtime.run_directory import RunDirectory


def save_snapshot(
    directory: RunDirectory, round_num: int, arrays: Mapping[str, np.ndarray]
) -> None:
    """Writes the snapshot of a round, atomically."""
    root = _root(directory)
    root.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(root / f"round_{round_num}.npz", npz_bytes(arrays))


def load_snapshots(directory: RunDirectory) -> dict[int, dict[str, np.ndarray]]:
    """The snapshots of a run: arrays by name, by round in rising order.

    Raises:
      InputError: if a snapshot cannot be read.
    """
    return {number: _load(path) for number, path in _paths(directory).items()}


def drop_snapshots_after(directory: RunDirectory, round_num: int) -> None:
    """Removes the snapshots of rounds that a resumed run will make again."""
    for number, path in _paths(directory).items():
        if number > round_num:
            os.unlink(path)
    remove_leftovers(_root(directory))


def _root(directory: RunDirectory) -> pathlib.Path:
    return directory.program_state / "snapshots"


def _paths(directory: RunDirectory) -> dict[int, pathlib.Path]:
    found = {}
    for path in _root(directory).glob("round_*.npz"):
        number = re.fullmatch(r"round_(\d+)", path.stem)
        if number:
            found[int(number[1])] = path
    return dict(sorted(found.items()))


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected a snapshot of this run; "
            "delete the run directory and run the experiment again"
        ) from None
