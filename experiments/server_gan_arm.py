"""A federation under a malicious (or honest) server as an arm of the program loop."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tff_leak.attacks import server_gan
from tff_leak.attacks.observation import client_data
from tff_leak.data.sources import Examples
from tff_leak.models.network import Weights
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role


@dataclasses.dataclass(frozen=True, eq=False)
class ServerGanArm:
    """One federation under training; see `tff_leak.runtime.program.Arm`.

    Attributes:
      process: a learning process; with an attack its finalizer's state is a
        `MaliciousState`.
      data: each client's examples; its number is its id.
      batch_size: of the clients' batches, which are drawn anew in each round.
      seed: the run's.
      accuracy: measures the shared model on data that nobody holds.
      attacked: whether the server attacks, and clients say who they are.
    """

    process: Any
    data: Sequence[Examples]
    batch_size: int
    seed: int
    accuracy: Callable[[Weights], float]
    attacked: bool = True

    async def initialize(self) -> Any:
        """The process's state before round 1."""
        return await self.process.initialize()

    async def run_round(
        self, state: Any, round_num: int
    ) -> tuple[Any, dict[str, float]]:
        """All clients take part.

        Returns:
          The new state and the metrics: `task_accuracy`, `train_loss` (nats) and, from
          the attack's note, `discriminator_loss`, `generator_loss`, `category_share`,
          `identity_share` and `score` of the rounds in which it trained.
        """
        state, measured = await self.process.next(state, self._datasets(round_num))
        metrics = {
            "train_loss": float(measured["client_work"]["train"]["loss"]),
            "task_accuracy": await asyncio.to_thread(
                self.accuracy, shared_weights(state)
            ),
        }
        if self.attacked:
            note = state.finalizer.attack.note
            if int(note.generator_steps):
                metrics |= {name: float(getattr(note, name)) for name in _NOTED}
        return state, metrics

    def _datasets(self, round_num: int) -> list[Any]:
        datasets = []
        for number, examples in enumerate(self.data):
            rng = seeding.generator(self.seed, Role.SHUFFLE, round_num, number)
            order = rng.permutation(len(examples))
            dataset = tf.data.Dataset.from_tensor_slices(
                (examples.images[order], examples.labels[order])
            ).batch(self.batch_size)
            options = tf.data.Options()
            options.experimental_optimization.apply_default_optimizations = False
            options.autotune.enabled = False
            dataset = dataset.with_options(options)
            datasets.append(client_data(dataset, number) if self.attacked else dataset)
        return datasets


_NOTED = (
    "discriminator_loss",
    "generator_loss",
    "category_share",
    "identity_share",
    "score",
)


def shared_weights(state: Any) -> Weights:
    """Returns the shared model; what else an active server carries is no part of it."""
    return Weights(list(state.global_model_weights.trainable), [])


def attack_state(state: Any) -> server_gan.State:
    """Returns the attack's part of an arm's state."""
    return state.finalizer.attack
