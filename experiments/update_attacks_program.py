"""A server that looks: one attack on what it sees, in a federation under defences.

- gradient_inversion (Zhu et al. 2019, Geiping et al. 2020) and first_layer (Aono et al.
  2018): of one round's updates, one picture or more of each victim's images;
- membership (Yeom et al. 2018): of the shared model, after every round, who was among
  its training data.

The server keeps to the protocol. What it sees follows from the defences
(`computations.defended_fed_avg`); under secure aggregation the attacks on updates are
made on the mean of all, as if it were one client that holds everybody's images, and
what they find is held against each victim's. Everything is scored afterwards
(`update_attacks_evaluation`).

The arms of a run:

- attack: the federation;
- control: the same, but the victims hold other images of the same classes. What the
  attack finds there is scored against the images of the first arm. Membership has no
  such arm: its controls are the initial model, and examples that nobody holds against
  others that nobody holds. All that it compares has the same share of each class.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from computations.defended_fed_avg import Algorithm, Defences, own_training
from computations.watched_fed_avg import Seen, build_watched, identified, threat_of
from experiments.evaluation import build_accuracy
from experiments.fed_avg_arm import FedAvgArm
from experiments.networks import papers_classifier
from experiments.privacy import build_round_spending, build_rounds_go_on
from experiments.settings import plain
from experiments.update_attacks_data import Data
from tff_leak.attacks.gradient_inversion import Distance, GradientInversion
from tff_leak.attacks.membership_inference import example_losses, infer_membership
from tff_leak.errors import InputError
from tff_leak.models import classifiers
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.models.network import Network, Weights
from tff_leak.runtime import program, snapshots
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.run_directory import RunDirectory
from tff_leak.threat import Knowledge, Threat

FIXED_INVERSION_FIELDS = ("scale",)
"""Fields of `GradientInversion` that the program sets: it follows the training."""
FIXED_USER_FIELDS = ("clients_per_round",)
"""The same of `UserLevelDp`: all clients take part in every round."""


class Attack(enum.Enum):
    """What the server computes; see the module's docstring."""

    GRADIENT_INVERSION = "gradient_inversion"
    FIRST_LAYER = "first_layer"
    MEMBERSHIP = "membership"


class Labels(enum.Enum):
    """Where the labels of an inversion come from."""

    INFERRED = "inferred"  # from the update itself
    KNOWN = "known"


class NetworkKind(enum.Enum):
    """The shared model."""

    CNN = "cnn"  # Hitaj et al.
    MLP = "mlp"
    LENET = "lenet"  # Zhu et al., smooth


class Arm(enum.Enum):
    """The federations of a run; see the module's docstring."""

    ATTACK = "attack"
    CONTROL = "control"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides what a run computes, but for the data.

    Attributes:
      attack: of the server.
      rounds: of the federation; all clients take part.
      attack_round: the round whose updates are attacked, from 1; for membership the
        last round counts.
      pooled_rounds: how many rounds from `attack_round` on are attacked together.
      seed: of everything random.
      algorithm: what clients send.
      training: theirs; of FedSGD the rate is the server's.
      batch_size: of their batches; None is all of their examples, as FedSGD has it.
      network: the shared model.
      inversion: fields of `GradientInversion` that differ from its defaults.
      labels: of an inversion.
      defences: of the clients.
      privacy_budget: largest epsilon; the run ends before a round that would pass it.
    """

    attack: Attack
    rounds: int
    attack_round: int
    pooled_rounds: int
    seed: int
    algorithm: Algorithm
    training: BatchSgd
    batch_size: int | None
    network: NetworkKind
    inversion: Mapping[str, Any]
    labels: Labels
    defences: Defences
    privacy_budget: float | None = None

    @property
    def attacked_rounds(self) -> range:
        """The rounds that are attacked."""
        return range(self.attack_round, self.attack_round + self.pooled_rounds)


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A run made ready.

    Attributes:
      settings: of the run.
      data: of the run.
      network: the shared model.
      threat: what the server is and sees.
      inversion: the attack's settings, whole.
      arms: the federations.
      goes_on: whether a round is affordable; None without a budget.
    """

    settings: Settings
    data: Data
    network: Network
    threat: Threat
    inversion: GradientInversion
    arms: Mapping[Arm, FedAvgArm]
    goes_on: program.GoesOn | None


def inversion_config(inversion: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an inversion's settings with their defaults, for `config.json`.

    What follows the clients' training is left out, as it stands there.
    """
    settings = plain(GradientInversion(**inversion))
    # Only what is not the default: runs from before there was a background go on.
    if settings["background"] == GradientInversion.background:
        del settings["background"]
    return {k: v for k, v in settings.items() if k not in FIXED_INVERSION_FIELDS}


def build_experiment(settings: Settings, data: Data) -> Experiment:
    """Builds the arms of a run.

    Raises:
      InputError: if settings contradict each other or the data.
    """
    batch_size = settings.batch_size or data.examples
    own = own_training(settings.algorithm, settings.training)
    steps = own.epochs * -(-data.examples // batch_size)
    inversion = GradientInversion(
        **settings.inversion, scale=own.learning_rate * steps / (1.0 - own.momentum)
    )
    _check(settings, inversion)
    network = _network(settings.network, data)
    member = settings.attack is Attack.MEMBERSHIP
    watched = None if member else data.victims
    threat = threat_of(settings.defences, _knowledge(settings))
    process = build_watched(
        network,
        algorithm=settings.algorithm,
        training=settings.training,
        defences=settings.defences,
        threat=threat,
        watched=watched,
        greatest_examples=data.examples,
        seed=settings.seed,
    )
    spending = build_round_spending(settings.defences, own)
    goes_on = _goes_on(settings, spending)
    accuracy = build_accuracy(network, data.test)
    # Attack and control are one process: it is traced and compiled once.
    arms = {
        arm: FedAvgArm(
            process=process,
            data=held,
            batch_size=batch_size,
            seed=settings.seed,
            accuracy=accuracy,
            identified=identified(settings.defences, watched),
            spending=spending,
            measure=_membership(network, data) if member else None,
        )
        for arm, held in ((Arm.ATTACK, data.clients), (Arm.CONTROL, data.control))
        if held
    }
    return Experiment(settings, data, network, threat, inversion, arms, goes_on)


def _goes_on(
    settings: Settings, spending: Callable[[int], float] | None
) -> program.GoesOn | None:
    """Whether a round is affordable; the attacked ones have to be."""
    goes_on = build_rounds_go_on(spending, settings.privacy_budget)
    member = settings.attack is Attack.MEMBERSHIP
    last = settings.attacked_rounds[-1]
    if goes_on and not (member or goes_on(last, {})):
        raise InputError(
            f"--privacy_budget is {settings.privacy_budget}: expected at least "
            f"{spending(last):.4g}, what the rounds up to {last}, the last that is "
            "attacked, cost; raise it, or attack earlier"
        )
    return goes_on


async def run(
    experiment: Experiment, directory: RunDirectory, progress: Progress
) -> Mapping[Arm, Any]:
    """Runs all arms to the last round, or goes on where an earlier run ended.

    What the server saw in an attacked round is kept as that round's snapshot.

    Returns:
      The final states by arm.
    """
    settings = experiment.settings

    def look(round_num, states, metrics):
        del metrics
        member = settings.attack is Attack.MEMBERSHIP
        if member or round_num not in settings.attacked_rounds:
            return None
        return {
            f"{arm}_{name}_{number}": tensor
            for arm, state in states.items()
            for name, tensors in state.finalizer.seen._asdict().items()
            for number, tensor in enumerate(tensors)
        }

    states = await program.run(
        {arm.value: built for arm, built in experiment.arms.items()},
        rounds=settings.rounds,
        directory=directory,
        progress=progress,
        on_round=look,
        goes_on=experiment.goes_on,
    )
    return {Arm(name): state for name, state in states.items()}


def load_seen(experiment: Experiment, directory: RunDirectory) -> dict[Arm, list[Seen]]:
    """Returns what the server saw in the attacked rounds, in their order, by arm."""
    kept = snapshots.load_snapshots(directory)
    numbers = range(len(experiment.network.trainable_shapes))

    def seen(arm, arrays):
        return Seen(
            *(
                [arrays[f"{arm.value}_{name}_{number}"] for number in numbers]
                for name in Seen._fields
            )
        )

    rounds = experiment.settings.attacked_rounds
    return {
        arm: [seen(arm, kept[number]) for number in rounds] for arm in experiment.arms
    }


def membership_losses(
    network: Network, data: Data, weights: Weights
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses (nats) of the parts of `data.compared`."""
    return tuple(
        example_losses(network, weights, part.images, part.labels)
        for part in data.compared
    )


def _membership(
    network: Network, data: Data
) -> Callable[[Weights], Mapping[str, float]]:
    """What is measured of the shared model after each round."""

    def measure(weights: Weights) -> dict[str, float]:
        members, others, more = membership_losses(network, data, weights)
        found, control = (
            infer_membership(members, others),
            infer_membership(more, others),
        )
        return {
            "advantage": found.advantage,
            "auc": found.auc,
            "control_advantage": control.advantage,
            "control_auc": control.auc,
        }

    return measure


def _knowledge(settings: Settings) -> set[Knowledge]:
    if settings.attack is Attack.MEMBERSHIP:
        # It has the examples about which it asks.
        return {Knowledge.AUXILIARY_DATA}
    known = {Knowledge.LABELS} if settings.labels is Labels.KNOWN else set()
    if settings.inversion.get("background"):
        # How dark pictures of the kind are it has from public ones.
        known.add(Knowledge.AUXILIARY_DATA)
    return known


def _network(kind: NetworkKind, data: Data) -> Network:
    shape, classes = data.source.image_shape, data.source.num_classes
    if kind is NetworkKind.CNN:
        return papers_classifier(shape, classes)
    if kind is NetworkKind.LENET:
        return classifiers.zhu_lenet(classes, shape)
    return classifiers.mlp(classes, shape)


def _check(settings: Settings, inversion: GradientInversion) -> None:
    """Raises InputError for what cannot be, or would be another attack."""
    if not 1 <= settings.attack_round <= settings.rounds:
        raise InputError(
            f"--attack_round is {settings.attack_round}: expected a round from 1 to "
            f"{settings.rounds}, as --rounds has it; correct one"
        )
    if settings.attack is Attack.MEMBERSHIP and settings.attack_round != 1:
        raise InputError(
            f"--attack_round is {settings.attack_round} with --attack=membership: "
            "expected none, since it asks the model of every round; leave it out"
        )
    first_layer = settings.attack is Attack.FIRST_LAYER
    _check_pooling(settings)
    if first_layer and settings.network is not NetworkKind.MLP:
        raise InputError(
            f"--network is {settings.network.value} with --attack=first_layer: "
            "expected mlp, whose first layer is dense; give --network=mlp"
        )
    if settings.algorithm is Algorithm.FED_SGD and settings.batch_size is not None:
        raise InputError(
            f"--batch_size is {settings.batch_size} with --algorithm=fed_sgd: expected "
            "none, as clients send one gradient of all their examples; leave it out"
        )
    inverts = settings.attack is Attack.GRADIENT_INVERSION
    if settings.inversion and not inverts:
        raise InputError(
            f"--inversion is given with --attack={settings.attack.value}: expected it "
            "with gradient_inversion only; leave it out"
        )
    if settings.labels is Labels.KNOWN and not inverts:
        raise InputError(
            f"--labels is known with --attack={settings.attack.value}: expected it "
            "with gradient_inversion only, which needs labels; leave it out"
        )
    if inverts and inversion.distance is Distance.SQUARED:
        _check_length(settings.defences)


def _check_pooling(settings: Settings) -> None:
    """Raises InputError for rounds that there are not, or that go with no attack."""
    pooled, most = settings.pooled_rounds, settings.rounds - settings.attack_round + 1
    if not 1 <= pooled <= most:
        raise InputError(
            f"--pooled_rounds is {pooled}: expected 1 to {most}, the rounds from "
            f"--attack_round={settings.attack_round} to --rounds={settings.rounds}; "
            "correct one"
        )
    if pooled > 1 and settings.attack is Attack.MEMBERSHIP:
        raise InputError(
            f"--pooled_rounds is {pooled} with --attack={settings.attack.value}: "
            "expected 1, since it asks the model of the last round; leave it out"
        )


def _check_length(defences: Defences) -> None:
    """Raises InputError if lengths of updates do not tell: a distance uses them."""
    # Each clips: the record-level one the gradients that an update is a mean of.
    clipping = [
        name
        for name in ("user_dp", "local_dp", "record_dp")
        if getattr(defences, name) is not None
    ]
    if clipping:
        raise InputError(
            f"--inversion has distance=squared beside --{clipping[0]}: expected "
            "cosine, since clipping changes the length of what is sent, and squared "
            "distances would fail for that alone, with no noise at all; give "
            "--inversion=distance=cosine"
        )
