"""Federated averaging, and what is like it, as an arm of the program loop."""

import asyncio
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tff_leak.attacks.observation import client_data
from tff_leak.data.sources import Examples
from tff_leak.models.network import Weights
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role


@dataclasses.dataclass(frozen=True, eq=False)
class FedAvgArm:
    """One federation under training; see `tff_leak.runtime.program.Arm`.

    Attributes:
      process: a learning process.
      data: each client's examples; its number is its id.
      batch_size: of the clients' batches, which are drawn anew in each round.
      seed: the run's.
      accuracy: measures the shared model on data that nobody holds.
      identified: whether clients say who they are.
      spending: the epsilon after so many rounds; None without differential privacy.
      measure: what else is measured of the shared model after a round, by metric.
      note: what else the process's state says about the round, by metric.
    """

    process: Any
    data: Sequence[Examples]
    batch_size: int
    seed: int
    accuracy: Callable[[Weights], float]
    identified: bool = False
    spending: Callable[[int], float] | None = None
    measure: Callable[[Weights], Mapping[str, float]] | None = None
    note: Callable[[Any], Mapping[str, float]] | None = None

    async def initialize(self) -> Any:
        """The process's state before round 1."""
        return await self.process.initialize()

    async def run_round(
        self, state: Any, round_num: int
    ) -> tuple[Any, dict[str, float]]:
        """All clients take part.

        Returns:
          The new state and the metrics: `task_accuracy`, `train_loss` (nats; not a
          number if a client's update was none), with differential privacy
          `epsilon_total` (spent so far) and `epsilon_round` (what one round alone
          costs), and those of `measure` and `note`.
        """
        datasets = _client_datasets(
            self.data, self.batch_size, self.seed, round_num, self.identified
        )
        state, measured = await self.process.next(state, datasets)
        weights = shared_weights(state)
        train = measured["client_work"]["train"]
        # A client with an update that is not finite counts as one without data, and
        # its loss as 0: the loop shall end all the same.
        diverged = int(train["non_finite"]) > 0
        metrics = {
            "train_loss": math.nan if diverged else float(train["loss"]),
            "task_accuracy": await asyncio.to_thread(self.accuracy, weights),
        }
        if self.spending is not None:
            metrics["epsilon_total"] = self.spending(round_num)
            metrics["epsilon_round"] = self.spending(1)
        if self.measure is not None:
            metrics |= await asyncio.to_thread(self.measure, weights)
        if self.note is not None:
            metrics |= self.note(state)
        return state, metrics


def _client_datasets(
    data: Sequence[Examples],
    batch_size: int,
    seed: int,
    round_num: int,
    identified: bool,
) -> list[Any]:
    """Returns the clients' datasets of a round, in an order of its own.

    Args:
      data: each client's examples.
      batch_size: of its batches.
      seed: the run's.
      round_num: from 1.
      identified: whether each comes with its number as an id (`ClientData`).
    """
    datasets = []
    for number, examples in enumerate(data):
        rng = seeding.generator(seed, Role.SHUFFLE, round_num, number)
        order = rng.permutation(len(examples))
        dataset = tf.data.Dataset.from_tensor_slices(
            (examples.images[order], examples.labels[order])
        ).batch(batch_size)
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False
        options.autotune.enabled = False
        dataset = dataset.with_options(options)
        datasets.append(client_data(dataset, number) if identified else dataset)
    return datasets


def shared_weights(state: Any) -> Weights:
    """Returns the shared model; what else a server carries along is no part of it."""
    return Weights(list(state.global_model_weights.trainable), [])
