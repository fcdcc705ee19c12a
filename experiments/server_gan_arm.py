"""A federation under a malicious (or honest) server as an arm of the program loop."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from experiments.fed_avg_arm import client_datasets, shared_weights
from tff_leak.attacks import server_gan
from tff_leak.data.sources import Examples
from tff_leak.models.network import Weights


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
        datasets = client_datasets(
            self.data, self.batch_size, self.seed, round_num, self.attacked
        )
        state, measured = await self.process.next(state, datasets)
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


_NOTED = (
    "discriminator_loss",
    "generator_loss",
    "category_share",
    "identity_share",
    "score",
)


def attack_state(state: Any) -> server_gan.State:
    """Returns the attack's part of an arm's state."""
    return state.finalizer.attack
