"""The program loop: arms side by side, round after round, resumable.

A run has one or more arms (the attack, its control, a passive variant) that do not
influence one another. Each round goes

    all arms' run_round, concurrently
      -> losses checked
      -> on_round: a snapshot, if the caller wants one
      -> snapshot, metrics.csv and TensorBoard written
      -> states saved, while the next round runs.

A state is saved only after everything else of its round, so what a killed run
leaves behind is complete up to its newest state; whatever lies beyond is made
again. With arms whose randomness depends on nothing but the round, a resumed run
ends with the same bits as one that was never disturbed.
"""

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np

from tff_leak.errors import InputError
from tff_leak.runtime.checkpoints import Checkpoints
from tff_leak.runtime.metrics_log import MetricsLog, read_rounds
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.run_directory import RunDirectory
from tff_leak.runtime.snapshots import (
    drop_snapshots_after,
    load_snapshots,
    save_snapshot,
)
from tff_leak.runtime.state_archive import to_numpy

__all__ = ["Arm", "load_snapshots", "run"]

_T = TypeVar("_T")
# Nested containers of numpy arrays and scalars; see `state_archive.pack`.
State = Any
Metrics = dict[str, float]
Snapshot = Mapping[str, np.ndarray] | None
GoesOn = Callable[[int, Mapping[str, State]], bool]
OnRound = Callable[[int, Mapping[str, State], Metrics], Snapshot | Awaitable[Snapshot]]


class Arm(Protocol):
    """One federated process under test."""

    def initialize(self) -> State | Awaitable[State]:
        """The state before round 1; the same at every call."""
        ...

    async def run_round(
        self, state: State, round_num: int
    ) -> tuple[State, Mapping[str, float]]:
        """Runs round `round_num`, from 1.

        The result must depend on the arguments alone, and `state` must be left as
        it is. TFF computations may be awaited here; other long work belongs in
        `asyncio.to_thread`, or the arms wait for one another.

        Returns:
          The new state, and scalar metrics by name. One whose name ends in "loss"
          must be finite.
        """
        ...


async def run(
    arms: Mapping[str, Arm],
    *,
    rounds: int,
    directory: RunDirectory,
    checkpoint_every: int = 1,
    progress: Progress | None = None,
    on_round: OnRound | None = None,
    goes_on: GoesOn | None = None,
) -> dict[str, State]:
    """Runs all arms up to round `rounds`, or goes on where an earlier run ended.

    Args:
      arms: by name; the name must not contain "/".
      rounds: the number of rounds, at least 1.
      directory: receives metrics (columns `<arm>/<metric>`), states and snapshots.
      checkpoint_every: states are saved each so many rounds, and at the end of the
        run, however it ends short of a SIGKILL.
      progress: moved on after each round.
      on_round: called as `on_round(round_num, states, metrics)`, maybe a coroutine
        function. Arrays that it returns are kept; see `load_snapshots`.
      goes_on: asked as `goes_on(round_num, states)` before each round, with the states
        before it; the run ends there when the answer is no. It must depend on its
        arguments alone, so that a resumed run ends where it would have ended.

    Returns:
      The final states by arm, leaves as numpy. At once, if the run is complete.

    Raises:
      InputError: if a loss is not finite; the state of the round before is saved.
        If the directory holds other arms or more rounds than `rounds`, or its
        `metrics.csv` lacks rounds that the states have: figures are taken from both.
    """
    _check_arguments(arms, rounds, checkpoint_every)
    checkpoints = Checkpoints(directory.program_state)
    done, states = await _restore_or_initialize(arms, checkpoints, directory)
    if done > rounds:
        raise InputError(
            f"{directory.path}: holds {done} rounds; expected at most {rounds}, the "
            "number of rounds of this run; give another --output_dir"
        )
    _check_metrics(directory, done)
    drop_snapshots_after(directory, done)
    if progress is not None:
        progress.start(done)
    if done == rounds:
        return states
    log = MetricsLog(directory.metrics_csv, directory.tensorboard)
    await log.replay(done)
    saved = done
    try:
        for round_num in range(done + 1, rounds + 1):
            if goes_on is not None and not goes_on(round_num, states):
                break
            new_states, metrics = await _run_round(arms, states, round_num)
            await _record(directory, log, on_round, round_num, new_states, metrics)
            states, done = new_states, round_num
            if progress is not None:
                progress.update(round_num, metrics)
            if done % checkpoint_every == 0:
                await checkpoints.save(states, done)
                saved = done
    finally:
        if done > saved:
            await checkpoints.save(states, done)
        await checkpoints.settle()
    return states


def _check_metrics(directory: RunDirectory, done: int) -> None:
    """Raises InputError unless the rows begin with those of the rounds done."""
    if not done and not directory.metrics_csv.exists():
        return
    wanted = f"the rounds 1 to {done} of the saved states first" if done else "rounds"
    try:
        held = read_rounds(directory.metrics_csv)
    except (OSError, ValueError, KeyError) as error:
        found = f"cannot be read ({type(error).__name__})"
    else:
        if held[:done] == list(range(1, done + 1)):
            return
        found = f"holds {len(held)} rounds"
    raise InputError(
        f"{directory.metrics_csv} {found}: expected {wanted}; put back the "
        "file as it was, or start again in another --output_dir"
    )


def _check_arguments(
    arms: Mapping[str, Arm], rounds: int, checkpoint_every: int
) -> None:
    if not arms or any("/" in name or not name for name in arms):
        raise ValueError(f"Expected named arms without '/', found {list(arms)}.")
    if rounds < 1:
        raise InputError(f"rounds is {rounds}; expected at least 1; give more --rounds")
    if checkpoint_every < 1:
        raise InputError(
            f"checkpoint_every is {checkpoint_every}; expected at least 1; give a "
            "number of rounds"
        )


async def _restore_or_initialize(
    arms: Mapping[str, Arm], checkpoints: Checkpoints, directory: RunDirectory
) -> tuple[int, dict[str, State]]:
    async def initialize() -> dict[str, State]:
        states = {}
        for name, arm in arms.items():
            state = arm.initialize()
            if inspect.isawaitable(state):
                state = await state
            states[name] = to_numpy(state)
        return states

    restored = await checkpoints.latest(initialize)
    if restored is None:
        return 0, await initialize()
    if set(restored[1]) != set(arms):
        raise InputError(
            f"{directory.path}: holds the arms {sorted(restored[1])}; expected "
            f"{sorted(arms)}; give another --output_dir"
        )
    return restored


async def _run_round(
    arms: Mapping[str, Arm], states: Mapping[str, State], round_num: int
) -> tuple[dict[str, State], Metrics]:
    results = await _gather(
        arm.run_round(states[name], round_num) for name, arm in arms.items()
    )
    new_states, metrics = {}, {}
    for name, (state, arm_metrics) in zip(arms, results, strict=True):
        new_states[name] = to_numpy(state)
        for metric, value in arm_metrics.items():
            value = float(value)
            if metric.endswith("loss") and not math.isfinite(value):
                raise InputError(
                    f"{name}: {metric} is {value} after round {round_num}; expected "
                    "a finite number; lower the learning rate and start again in "
                    "another --output_dir"
                )
            metrics[f"{name}/{metric}"] = value
    return new_states, metrics


async def _record(
    directory: RunDirectory,
    log: MetricsLog,
    on_round: OnRound | None,
    round_num: int,
    states: Mapping[str, State],
    metrics: Metrics,
) -> None:
    if on_round is not None:
        snapshot = on_round(round_num, states, metrics)
        if inspect.isawaitable(snapshot):
            snapshot = await snapshot
        if snapshot is not None:
            save_snapshot(directory, round_num, snapshot)
    await log.release(metrics, round_num)


async def _gather(coroutines: Iterable[Awaitable[_T]]) -> list[_T]:
    """Like `asyncio.gather`, but the others stop when one fails."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
