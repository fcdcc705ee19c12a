"""DSSGD as an arm of the program loop: a round in which everybody has a turn."""

import asyncio
import csv
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from computations import dssgd
from experiments import evaluation
from tff_leak.attacks.client_transform import ClientTransform
from tff_leak.data import transforms
from tff_leak.data.sources import Examples
from tff_leak.models.network import Network

# More turns a round than this, and accuracy is measured at its end only.
_MAX_MEASURED_TURNS = 8


class ArmState(NamedTuple):
    """The parameter server's state and every participant's own."""

    server: dssgd.ServerState
    clients: list[dssgd.ClientState]


@dataclasses.dataclass(frozen=True, eq=False)
class DssgdArm:
    """One federation under training; see `tff_leak.runtime.program.Arm`.

    Attributes:
      process: from `dssgd.build_dssgd`.
      network: its model.
      datasets: each participant's data; see `local_dataset`.
      order: of the turns in a round.
      seed: the run's.
      accuracy: measures the shared model on data that nobody holds.
      transform: the process's.
      private: the adversaries' initial states, by participant.
      spending: epsilon of the most exposed participant after so many turns of each,
        where the process itself does not state its price.
      initial_client_state: makes a participant's state before its first turn; takes
        what `dssgd.initial_client_state` takes without `training_private`, which is
        the place for what a training keeps private, such as keys.
      measure: what else is measured at the end of a round, by metric; the server's and
        all participants' states are open to it, as to an experimenter after the fact.
      every_turn: whether accuracy is measured after every turn of a round, and not at
        its end alone.
    """

    process: Any
    network: Network
    datasets: Sequence[tf.data.Dataset]
    order: dssgd.TurnOrder
    seed: int
    accuracy: Callable[[dssgd.ServerState], float]
    transform: ClientTransform | None = None
    private: Mapping[int, Any] = dataclasses.field(default_factory=dict)
    spending: Callable[[Sequence[int]], float] | None = None
    initial_client_state: Callable[..., dssgd.ClientState] = dssgd.initial_client_state
    measure: Callable[[ArmState], Mapping[str, float]] | None = None
    every_turn: bool = True

    async def initialize(self) -> ArmState:
        """The state before round 1."""
        server = await self.process.initialize()
        clients = [
            self.initial_client_state(
                self.network,
                server,
                participant=number,
                seed=self.seed,
                transform=self.transform,
                private=self.private.get(number),
            )
            for number in range(len(self.datasets))
        ]
        return ArmState(server, clients)

    async def run_round(
        self, state: ArmState, round_num: int
    ) -> tuple[ArmState, dict[str, float]]:
        """Gives every participant its turn.

        Returns:
          The state, and the metrics: `task_accuracy` at the end of the round and, in
          rounds of 2 to 8 turns, after each (`task_accuracy_turn_1`, ...; if
          `every_turn`),
          `train_loss` (nats, mean over the round's examples), `uploaded` (share of the
          parameters, mean over turns); of
          adversaries the means of `attack_loss` (nats), `attack_share` (share of G's
          last batch that D took for the target), `generator_steps` and `injected`.
          With differential privacy `epsilon_turn`: the price of one turn, an epoch
          of the paper, and `epsilon_total`: what the participant that has
          spent the most has spent in all its turns (`spending`, or by basic
          composition what the process states). At last those of `measure`.
        """
        server, clients = state.server, list(state.clients)
        cohorts = dssgd.turn_order(
            self.order,
            participants=len(clients),
            round_num=round_num,
            seed=self.seed,
        )
        metrics: dict[str, float] = {}
        turns = []
        accuracy = None
        measured = self.every_turn and 1 < len(cohorts) <= _MAX_MEASURED_TURNS
        for number, cohort in enumerate(cohorts, start=1):
            server, new_states, turn = await self.process.next(
                server,
                [self.datasets[participant] for participant in cohort],
                [clients[participant] for participant in cohort],
            )
            for new_state in new_states:
                # By number: TFF does not promise the order of clients.
                clients[int(new_state.participant)] = new_state
            turns.append(turn)
            if measured:
                accuracy = await asyncio.to_thread(self.accuracy, server)
                metrics[f"task_accuracy_turn_{number}"] = accuracy
        if accuracy is None:
            accuracy = await asyncio.to_thread(self.accuracy, server)
        metrics["task_accuracy"] = accuracy
        metrics |= _training_metrics(turns) | self._attack_metrics(clients)
        metrics |= _privacy_metrics(turns, clients, self.spending)
        state = ArmState(server, clients)
        if self.measure is not None:
            metrics |= await asyncio.to_thread(self.measure, state)
        return state, metrics

    def _attack_metrics(self, clients: Sequence[dssgd.ClientState]) -> dict:
        """What adversaries noted: read by the experimenter, never by the server."""
        notes = [clients[number].private.last_turn for number in self.private]
        if not notes:
            return {}
        metrics = {
            "generator_steps": float(np.mean([n.generator_steps for n in notes])),
            "injected": float(np.mean([note.injected for note in notes])),
        }
        active = [note for note in notes if note.generator_steps.item() > 0]
        # An attack that has not begun has no loss; 0 would be a perfect one.
        if active:
            metrics["attack_loss"] = float(np.mean([note.loss for note in active]))
            shares = [note.target_share for note in active]
            metrics["attack_share"] = float(np.mean(shares))
        return metrics


def local_dataset(data: Examples) -> tf.data.Dataset:
    """A participant's data as its TFF dataset, in one batch; empty without data.

    Pictures that come from 8 bits travel as 8 bits: TFF sends a dataset to its worker
    with its content, 100 MB at most.
    """
    images = transforms.to_uint8(data.images)
    if not np.array_equal(_from_uint8(images).numpy(), data.images):
        images = data.images
    dataset = tf.data.Dataset.from_tensor_slices((images, data.labels))
    dataset = dataset.batch(max(len(data), 1))
    if images.dtype == np.uint8:
        dataset = dataset.map(lambda inputs, labels: (_from_uint8(inputs), labels))
    return dataset


def _from_uint8(images: tf.Tensor) -> tf.Tensor:
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def build_accuracy(
    network: Network, test: Examples
) -> Callable[[dssgd.ServerState], float]:
    """Returns a function that measures a shared model on `test`, in [0, 1]."""
    of_weights = evaluation.build_accuracy(network, test)
    return lambda server: of_weights(dssgd.model_weights(network, server))


def _training_metrics(turns: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    examples = np.array([turn["examples"] for turn in turns], np.float64)
    losses = np.array([turn["loss"] for turn in turns], np.float64)
    return {
        "train_loss": float((losses * examples).sum() / max(examples.sum(), 1.0)),
        "uploaded": float(np.mean([turn["uploaded"] for turn in turns])),
    }


def _privacy_metrics(
    turns: Sequence[Mapping[str, Any]],
    clients: Sequence[dssgd.ClientState],
    spending: Callable[[Sequence[int]], float] | None,
) -> dict[str, float]:
    """The budget spent so far, from the price of a turn and every participant's turns.

    A turn costs the same whenever and by whom it is taken, so a participant's number
    of turns, which its state keeps, is all that has to be remembered.
    """
    counts = [int(client.turn) for client in clients]
    if "epsilon" in turns[-1]:
        price = float(turns[-1]["epsilon"])
        return {"epsilon_turn": price, "epsilon_total": max(counts) * price}
    if spending is None:
        return {}
    once = spending([1] * len(counts))
    return {"epsilon_turn": once, "epsilon_total": spending(counts)}


def epsilon_spent(
    metrics_csv: pathlib.Path, arms: Iterable[str], metric: str = "epsilon_total"
) -> float | None:
    """Returns the budget that the most exposed participant of a run has spent.

    Args:
      metrics_csv: of the run, with a column `<arm>/<metric>` for each arm.
      arms: whose participants are asked after. One that is there to compare with, and
        has other data, spends something else, and nobody's secrets.
      metric: `epsilon_total`, or `epsilon_turn` for the price of one turn.

    Returns:
      The largest over these arms at the last round; None without differential privacy.
    """
    with open(metrics_csv, newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    columns = [f"{arm}/{metric}" for arm in arms]
    spent = [float(last[column]) for column in columns if column in last]
    return max(spent, default=None)


def mean_over_rounds(metrics_csv: pathlib.Path, metric: str) -> dict[str, float]:
    """Returns a metric's mean over all rounds that have it, by arm that has it."""
    with open(metrics_csv, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    means = {}
    for key in rows[0]:
        arm, _, name = key.partition("/")
        values = [float(row[key]) for row in rows if row[key]]
        if name == metric and values:
            means[arm] = float(np.mean(values))
    return means
