"""Saved states of a run, by round."""

import asyncio
import pathlib
import shutil
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime import state_archive

_PREFIX = "round_"
# FileProgramStateManager drops the structure and needs one to load: a single leaf.
_STRUCTURE = {"packed": np.zeros(0, np.uint8)}


class Checkpoints:
    """States in a directory, saved in the background, the newest two kept.

    A `tff.program.FileProgramStateManager` whose version is the round.
    """

    def __init__(self, root: pathlib.Path):
        """Uses `root`, and removes what a killed process left half-written there."""
        self._root = root
        self._manager = tff.program.FileProgramStateManager(
            root, prefix=_PREFIX, keep_total=2, keep_first=False
        )
        self._saving: asyncio.Task[None] | None = None
        for leftover in root.glob(f"{_PREFIX}*_temp*"):
            shutil.rmtree(leftover)

    async def latest(
        self, make_template: Callable[[], Awaitable[Any]]
    ) -> tuple[int, Any] | None:
        """The last round whose state can be loaded, and the state; None if none.

        A state that cannot be loaded was being written, or removed, when a process
        was killed. It counts as absent, and is removed.

        Args:
          make_template: called if the state holds objects; see
            `state_archive.unpack`.
        """
        for round_num in reversed(await self._manager.get_versions() or []):
            try:
                loaded = await self._manager.load(round_num, _STRUCTURE)
                packed = loaded["packed"]
                try:
                    return round_num, state_archive.unpack(packed)
                except state_archive.NeedsTemplateError:
                    pass
            except (MemoryError, PermissionError, tf.errors.ResourceExhaustedError):
                raise  # Nothing is wrong with the state.
            except Exception:  # SavedModel raises many types for damaged files.
                shutil.rmtree(self._root / f"{_PREFIX}{round_num}")
                continue
            return round_num, state_archive.unpack(packed, await make_template())
        return None

    async def save(self, state: Any, round_num: int) -> None:
        """Starts to save `state`, after the save before it has ended.

        The state is packed before this returns; it may change afterwards.
        """
        await self.settle()
        packed = {"packed": state_archive.pack(state)}

        def write() -> None:
            # A loop of its own: the save goes on while an arm occupies the caller's.
            asyncio.run(self._manager.save(packed, round_num))

        self._saving = asyncio.create_task(asyncio.to_thread(write))

    async def settle(self) -> None:
        """Returns when nothing is being saved; raises if the last save failed."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            await saving
