"""Random keys alone as an arm of the program loop: a round is one dimension."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, TypeVar

import numpy as np

from tff_leak.defences.key_protection import KeyDistribution
from tff_leak.errors import InputError
from tff_leak.metrics.key_geometry import largest_overlaps, shared_class
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role

_PORTION = 10  # Trials; a second or two of one core with 1000 keys of 16384 numbers.

_Found = TypeVar("_Found")


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How much is drawn; the defaults are the paper's.

    Attributes:
      trials: for each dimension and distribution.
      keys: drawn in a trial of figure 1.
      others: keys of other classes drawn in a trial of figure 8 (c).
    """

    trials: int = 1000
    keys: int = 100
    others: int = 1000

    def __post_init__(self):
        for name, least in (("trials", 1), ("keys", 2), ("others", 1)):
            if getattr(self, name) < least:
                raise InputError(
                    f"geometry {name} is {getattr(self, name)}: expected {least} or "
                    "more; correct --geometry"
                )


class GeometryState(NamedTuple):
    """Nothing is remembered: what a round finds goes into the metrics."""

    done: np.ndarray  # int32, rounds made


@dataclasses.dataclass(frozen=True)
class GeometryArm:
    """Keys of one distribution; see `tff_leak.runtime.program.Arm`.

    Attributes:
      shared: figure 8 in place of figure 1.
      dimensions: one a round.
      distribution: of a key's numbers.
      sizes: how much is drawn.
      seed: the run's.
    """

    shared: bool
    dimensions: tuple[int, ...]
    distribution: KeyDistribution
    sizes: Geometry
    seed: int

    def initialize(self) -> GeometryState:
        """The state before round 1."""
        return GeometryState(np.int32(0))

    async def run_round(
        self, state: GeometryState, round_num: int
    ) -> tuple[GeometryState, dict[str, float]]:
        """Measures the keys of the round's dimension.

        Returns:
          The state, and the metrics: `dimension`; of figure 1 `largest` and `mean`, of
          the trials' largest products; of figure 8 `score_largest` and `score_mean`, of
          the scores with both keys, `score_least`, and `other_largest` and
          `other_mean`, of the trials' largest absolute products with other keys.
        """
        dimension = self.dimensions[round_num - 1]
        measure = self._shared if self.shared else self._overlaps
        metrics = await measure(dimension)
        return GeometryState(np.int32(round_num)), {"dimension": dimension} | metrics

    async def _overlaps(self, dimension: int) -> dict[str, float]:
        portions = self._in_portions(largest_overlaps, dimension, keys=self.sizes.keys)
        found = np.concatenate([portion async for portion in portions])
        return {"largest": float(found.max()), "mean": float(found.mean())}

    async def _shared(self, dimension: int) -> dict[str, float]:
        portions = self._in_portions(shared_class, dimension, others=self.sizes.others)
        both = [portion async for portion in portions]
        found, others = (np.concatenate(part) for part in zip(*both, strict=True))
        return {
            "score_largest": float(found.max()),
            "score_mean": float(found.mean()),
            "score_least": float(found.min()),
            "other_largest": float(others.max()),
            "other_mean": float(others.mean()),
        }

    async def _in_portions(
        self, measure: Callable[..., _Found], dimension: int, **sizes: int
    ) -> AsyncIterator[_Found]:
        """What `measure` finds in all trials, some at a time.

        A thread cannot be ended from outside, so that a run that is told to end waits
        for one portion and not for a dimension, which may take minutes.
        """
        seed = seeding.derive(seeding.root(self.seed), Role.KEYS, dimension)
        for first in range(0, self.sizes.trials, _PORTION):
            yield await asyncio.to_thread(
                measure,
                dimension,
                self.distribution,
                trials=range(first, min(first + _PORTION, self.sizes.trials)),
                seed=seed,
                **sizes,
            )
