"""Saved states of a run, by round."""

import asyncio
import pathlib
from collections.abc import Awaitable, Callable
from typing import Any

from tff_leak.runtime import state_archive
from tff_leak.runtime.state_manager import ArchiveStateManager


class Checkpoints:
    """The newest two states of a run, saved while the run goes on."""

    def __init__(self, root: pathlib.Path):
        """Uses the directory `root`, made if it is not there."""
        self._manager = ArchiveStateManager(root, keep_total=2)
        self._saving: asyncio.Task[None] | None = None

    async def latest(
        self, make_template: Callable[[], Awaitable[Any]]
    ) -> tuple[int, Any] | None:
        """The last round whose state can be loaded, and the state; None if none.

        A damaged state counts as absent, and is removed.

        Args:
          make_template: called if the state holds objects; see
            `state_archive.unpack`.
        """
        for round_num in reversed(await self._manager.get_versions() or []):
            try:
                try:
                    return round_num, await self._manager.load(round_num)
                except state_archive.NeedsTemplateError:
                    template = await make_template()
                    return round_num, await self._manager.load(round_num, template)
            except state_archive.DamagedError:
                self._manager.remove(round_num)
        return None

    async def save(self, state: Any, round_num: int) -> None:
        """Starts to save `state`, after the save before it has ended.

        Args:
          state: must be left as it is until `settle` or the next `save` returns.
          round_num: the number of rounds behind it.
        """
        await self.settle()

        def write() -> None:
            # A loop of its own: the save goes on while an arm occupies the caller's.
            asyncio.run(self._manager.save(state, round_num))

        self._saving = asyncio.create_task(asyncio.to_thread(write))

    async def settle(self) -> None:
        """Returns when nothing is being saved; raises if the last save failed."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            await saving
