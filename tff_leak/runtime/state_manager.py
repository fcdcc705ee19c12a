"""Program states in files, exactly as they were."""

import asyncio
import os
import pathlib
import re
from typing import Any

import tensorflow_federated as tff

from tff_leak.runtime import state_archive
from tff_leak.runtime.atomic import atomic_write_bytes, remove_leftovers


class ArchiveStateManager(tff.program.ProgramStateManager):
    """A `tff.program.ProgramStateManager` that keeps the newest states, one file each.

    `tff.program.FileProgramStateManager` writes a SavedModel: types and structure of
    a state change on the way, two arms of 1.7 M parameters in 32 leaves take 0.2 s,
    and each save leaves objects in memory until Python's garbage collector finds
    them (measured: 0.3 GB after 60 saves of that state, and rising). A file takes
    0.02 s, leaves nothing, and is there whole or not at all.
    """

    def __init__(self, root_dir: str | os.PathLike[str], keep_total: int = 2):
        """Uses the directory `root_dir`, made if it is not there.

        Args:
          root_dir: for files `round_<version>.npz`.
          keep_total: how many states to keep, at least 1.
        """
        self._root = pathlib.Path(root_dir)
        self._keep_total = keep_total
        self._root.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._root)

    async def get_versions(self) -> list[int] | None:
        """The versions saved, rising; None if there is none."""
        names = (re.fullmatch(r"round_(\d+)\.npz", n) for n in os.listdir(self._root))
        return sorted(int(name[1]) for name in names if name) or None

    async def load(self, version: int, structure: Any = None) -> Any:
        """The state saved as `version`.

        Args:
          version: one of `get_versions`.
          structure: see `template` of `state_archive.unpack`.

        Raises:
          tff.program.ProgramStateNotFoundError: if there is none.
          state_archive.NeedsTemplateError: if `structure` is needed.
          state_archive.DamagedError: if the file is not what was written.
        """
        try:
            packed = await asyncio.to_thread(self._path(version).read_bytes)
        except FileNotFoundError:
            raise tff.program.ProgramStateNotFoundError(version) from None
        return state_archive.unpack(packed, structure)

    async def save(self, program_state: Any, version: int) -> None:
        """Saves a state, and removes the oldest beyond the number to keep.

        Raises:
          tff.program.ProgramStateExistsError: if the version is there already.
          TypeError: see `state_archive.pack`.
        """
        path = self._path(version)
        if path.exists():
            raise tff.program.ProgramStateExistsError(version=version, path=self._root)
        state = await tff.program.materialize_value(program_state)
        packed = state_archive.pack(state)
        await asyncio.to_thread(atomic_write_bytes, path, packed)
        for old in (await self.get_versions() or [])[: -self._keep_total]:
            self.remove(old)

    def remove(self, version: int) -> None:
        """Removes the state of a version, if it is there."""
        self._path(version).unlink(missing_ok=True)

    async def remove_all(self) -> None:
        """Removes all states."""
        for version in await self.get_versions() or []:
            self.remove(version)

    def _path(self, version: int) -> pathlib.Path:
        return self._root / f"round_{int(version)}.npz"
