"""The model inversion experiment: networks are trained side by side, then inverted.

Hitaj et al., CCS 2017, section 9.1 and figure 5: "the deep neural network is trained",
and its exact gradients draw a picture of each class. Training is DSSGD with one
participant, who holds all the data; the adversary gets the finished parameters. What is
inverted:

- attack: a network trained on all classes;
- control: one of the same settings and seed, trained for as many epochs, that never
  saw the target. There are two: `control_low` is trained without the first half of the
  classes and inverted for these, `control_high` without the second half;
- untrained: the initial parameters, which all of these have in common.
"""

import asyncio
import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from computations import dssgd
from experiments.dssgd_arm import (
    ArmState,
    DssgdArm,
    build_accuracy,
    local_dataset,
)
from experiments.evaluation import build_judge
from experiments.networks import papers_classifier
from experiments.run_clock import RunClock
from tff_leak.attacks.model_inversion import ModelInversion, invert
from tff_leak.data.sources import Examples, Source
from tff_leak.errors import InputError
from tff_leak.metrics.reconstruction import TargetInputs, evaluate_targets
from tff_leak.models import classifiers
from tff_leak.models.network import Network
from tff_leak.models.training import LocalSgd
from tff_leak.runtime import program, seeding
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.reconstructions import write_reconstructions
from tff_leak.runtime.run_directory import RunDirectory, atomic_write_json
from tff_leak.runtime.seeding import Role

ATTACK = "attack"
CONTROL = "control"
CONTROL_LOW = "control_low"
CONTROL_HIGH = "control_high"
UNTRAINED = "untrained"
# What --arms takes; `untrained` costs no training and is always there.
ARMS = (ATTACK, CONTROL)
# The program's one arm.
_ARM = "networks"


class NetworkKind(enum.Enum):
    """The networks of section 9.1, and the shared model of Wang et al."""

    CNN = "cnn"
    MLP = "mlp"
    WANG = "wang"  # Table II, for pictures of 64x64


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides what a run computes, but for the data.

    Attributes:
      epochs: passes over the training data, at most.
      stop_accuracy: in [0, 1]; training ends after the first epoch that brings the
        attacked network there on held-out images; None: only after `epochs`.
      seed: of everything random.
      arms: of `ARMS`, `attack` among them.
      network: what is trained.
      training: how; a round is one epoch.
      inversion: the attack.
      targets: classes to invert, different ones.
      descents: pictures of each, at least 1.
    """

    epochs: int
    stop_accuracy: float | None
    seed: int
    arms: Sequence[str]
    network: NetworkKind
    training: LocalSgd
    inversion: ModelInversion
    targets: Sequence[int]
    descents: int = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """The data of a run.

    Attributes:
      source: where it comes from.
      train: what the attacked network is trained on.
      judge: the judge's part.
      reference: real images that nobody holds; networks are tested on them, too.
    """

    source: Source
    train: Examples
    judge: Examples
    reference: Examples


class TrainingState(NamedTuple):
    """Networks under training.

    Attributes:
      networks: of each the server and the one participant.
      accuracies: float64, on held-out images of the classes that it is trained on,
        after the last epoch made; -1 before the first.
    """

    networks: dict[str, ArmState]
    accuracies: dict[str, Any]

    @property
    def epochs(self) -> int:
        """How many they were trained for."""
        return int(self.networks[ATTACK].server.turn)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingArm:
    """Trains networks side by side; see `tff_leak.runtime.program.Arm`.

    A round is an epoch of each. All stop together, as soon as the attacked one is good
    enough: the controls' task is easier, and stopped by their own accuracy they would
    be trained for less. The state says whether it is so, and a resumed run stops where
    an undisturbed one does.

    Attributes:
      networks: `attack` and its controls.
      stop_accuracy: see `Settings`.
    """

    networks: Mapping[str, DssgdArm]
    stop_accuracy: float | None

    async def initialize(self) -> TrainingState:
        """The state before the first epoch."""
        states = {name: await arm.initialize() for name, arm in self.networks.items()}
        return TrainingState(states, {name: np.float64(-1.0) for name in states})

    async def run_round(
        self, state: TrainingState, round_num: int
    ) -> tuple[TrainingState, dict[str, float]]:
        """Trains for an epoch, or leaves finished networks as they are.

        Returns:
          The state, and the metrics: `trained`, 1 or, once they are finished, 0; of
          each network `<name>/task_accuracy` and, while it is trained, the others of
          `DssgdArm`.
        """
        if self._finished(state):
            metrics = {
                f"{name}/task_accuracy": float(accuracy)
                for name, accuracy in state.accuracies.items()
            }
            return state, {**metrics, "trained": 0.0}
        results = await asyncio.gather(
            *(
                arm.run_round(state.networks[name], round_num)
                for name, arm in self.networks.items()
            )
        )
        networks, accuracies, metrics = {}, {}, {"trained": 1.0}
        for name, (network, found) in zip(self.networks, results, strict=True):
            networks[name] = network
            accuracies[name] = np.float64(found["task_accuracy"])
            metrics |= {f"{name}/{key}": value for key, value in found.items()}
        return TrainingState(networks, accuracies), metrics

    def _finished(self, state: TrainingState) -> bool:
        if self.stop_accuracy is None:
            return False
        return bool(state.accuracies[ATTACK] >= self.stop_accuracy)


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A run made ready."""

    settings: Settings
    data: Data
    network: Network
    arm: TrainingArm


class Pictures(NamedTuple):
    """What the descents to one class found, n = `Settings.descents`.

    Attributes:
      images: float32 `[n, H, W, C]` in [-1, 1].
      confidences: float32 `[n]`, of the inverted network that it is the class.
      steps: int32 `[n]`.
    """

    images: np.ndarray
    confidences: np.ndarray
    steps: np.ndarray


def build_experiment(settings: Settings, data: Data) -> Experiment:
    """Builds the networks' training.

    Raises:
      InputError: if settings contradict each other or the data.
    """
    _check(settings, data.source)
    network = _network(settings.network, data.source)
    # One process: it is traced and compiled once.
    process = dssgd.build_dssgd(network, training=settings.training, seed=settings.seed)
    networks = {}
    for name, classes in _classes_of(settings, data.source.num_classes).items():
        networks[name] = DssgdArm(
            process=process,
            network=network,
            datasets=[local_dataset(data.train.of_classes(classes))],
            order=dssgd.TurnOrder.FIXED,
            seed=settings.seed,
            accuracy=build_accuracy(network, data.reference.of_classes(classes)),
        )
    arm = TrainingArm(networks, settings.stop_accuracy)
    return Experiment(settings, data, network, arm)


async def run(
    experiment: Experiment, directory: RunDirectory, progress: Progress
) -> tuple[TrainingState, TrainingState]:
    """Trains all networks, or goes on where an earlier run ended.

    Returns:
      Their states before training and after it.
    """
    states = await program.run(
        {_ARM: experiment.arm},
        rounds=experiment.settings.epochs,
        directory=directory,
        progress=progress,
    )
    return await experiment.arm.initialize(), states[_ARM]


def invert_all(
    experiment: Experiment, initial: TrainingState, trained: TrainingState
) -> dict[str, dict[int, Pictures]]:
    """Inverts the networks for every target, each with the same noise at the start.

    Args:
      experiment: the run.
      initial: the networks before training.
      trained: and after it.

    Returns:
      Pictures by set (`attack`, `control` where it was trained, `untrained`) and
      target.
    """
    settings, network = experiment.settings, experiment.network
    root = tf.constant(seeding.root(settings.seed))

    @tf.function
    def descend(weights, target):
        labels = tf.fill([settings.descents], target)
        seed = seeding.derive(root, Role.SAMPLES, target)
        return invert(settings.inversion, network, weights, labels, seed)

    def pictures(state: ArmState, target: int) -> Pictures:
        weights = dssgd.model_weights(network, state.server)
        found = descend(weights, tf.constant(target))
        # Without an auxiliary term the cost is what the confidence lacks of 1.
        confidences = 1.0 - found.costs.numpy()
        # Without `project` a descent may leave the range of pixels.
        images = np.clip(found.images.numpy(), -1.0, 1.0)
        return Pictures(images, confidences, found.steps.numpy())

    inverted = {ATTACK: lambda target: trained.networks[ATTACK]}
    if CONTROL in settings.arms:
        half = _half(experiment.data.source.num_classes)
        inverted[CONTROL] = lambda target: trained.networks[_control(target, half)]
    inverted[UNTRAINED] = lambda target: initial.networks[ATTACK]
    return {
        name: {target: pictures(state(target), target) for target in settings.targets}
        for name, state in inverted.items()
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What a finished run shows.

    Attributes:
      summary: the figures, as in `summary.json`.
      window: leading rows and columns that the network can see.
      found: pictures by set and target; see `invert_all`.
    """

    summary: Mapping[str, Any]
    window: tuple[int, int]
    found: Mapping[str, Mapping[int, Pictures]]


def evaluate(
    experiment: Experiment,
    initial: TrainingState,
    trained: TrainingState,
    directory: RunDirectory,
    clock: RunClock,
) -> Evaluation:
    """Inverts the networks; writes `reconstructions.npz` and `summary.json`.

    Args:
      experiment: the run.
      initial: its networks before training.
      trained: and after it.
      directory: the run directory.
      clock: of the run.
    """
    settings, data = experiment.settings, experiment.data
    found = invert_all(experiment, initial, trained)
    _write_reconstructions(found[ATTACK], trained.epochs, directory)
    judge, window = build_judge(
        experiment.network, data.source, data.judge, seed=settings.seed
    )
    scores = evaluate_targets(
        [_target_inputs(data, target, found) for target in settings.targets],
        judge,
        foreground=data.source.foreground,
        window=window,
        seed=settings.seed,
    )
    summary = {
        **_outline(experiment, trained),
        "judge_accuracy": judge.accuracy(data.reference),
        "visible_window": list(window),
        "descents": {name: _descents(kept) for name, kept in found.items()},
        "seconds": clock.seconds(),
        **scores,
    }
    atomic_write_json(directory.summary, summary)
    return Evaluation(summary, window, found)


def _outline(experiment: Experiment, trained: TrainingState) -> dict[str, Any]:
    """What was run, and what the networks learnt."""
    settings, source = experiment.settings, experiment.data.source
    accuracies = trained.accuracies.items()
    return {
        "experiment": "model_inversion",
        "dataset": source.name,
        "synthetic": source.synthetic,
        "seed": settings.seed,
        "network": settings.network.value,
        "epochs": trained.epochs,
        "stop_accuracy": settings.stop_accuracy,
        "task_accuracy": {name: float(accuracy) for name, accuracy in accuracies},
    }


def _target_inputs(
    data: Data, target: int, found: Mapping[str, Mapping[int, Pictures]]
) -> TargetInputs:
    images = {name: kept[target].images for name, kept in found.items()}
    return TargetInputs(
        target=target,
        attack=images[ATTACK],
        control=images.get(CONTROL, images[ATTACK][:0]),
        private=data.train.of_class(target).images,
        others=Examples.empty(data.source.image_shape).images,
        heldout=data.reference,
        extra_controls={UNTRAINED: images[UNTRAINED]},
    )


def _descents(found: Mapping[int, Pictures]) -> dict[str, Any]:
    """Mean steps and confidence of one set, over all its pictures and by target."""

    def means(parts: Sequence[Pictures]) -> dict[str, float]:
        return {
            "steps": float(np.concatenate([part.steps for part in parts]).mean()),
            "confidence": float(
                np.concatenate([part.confidences for part in parts]).mean()
            ),
        }

    by_target = [{"target": t, **means([kept])} for t, kept in found.items()]
    return {**means(list(found.values())), "targets": by_target}


def _write_reconstructions(
    found: Mapping[int, Pictures], epochs: int, directory: RunDirectory
) -> None:
    images = np.concatenate([kept.images for kept in found.values()])
    labels = np.repeat(list(found), [len(kept.images) for kept in found.values()])
    write_reconstructions(
        directory.reconstructions,
        images=images,
        labels=labels.astype(np.int32),
        clients=np.zeros(len(images), np.int32),
        round=epochs,
    )


def _network(kind: NetworkKind, source: Source) -> Network:
    """The network of a kind; one output a class, as there are no fakes."""
    if kind is NetworkKind.CNN:
        return papers_classifier(source.image_shape, source.num_classes)
    if kind is NetworkKind.WANG:
        if source.image_shape != (64, 64, 1):
            raise InputError(
                f"--network is wang with pictures of {source.image_shape}: expected "
                "grey ones of 64x64, as of att_faces; choose another --network"
            )
        return classifiers.wang_att(source.num_classes)
    return classifiers.mlp(source.num_classes, source.image_shape)


def _half(num_classes: int) -> int:
    """The first class of the second half."""
    return num_classes // 2


def _control(target: int, half: int) -> str:
    """The network that never saw the target."""
    return CONTROL_LOW if target < half else CONTROL_HIGH


def _classes_of(settings: Settings, num_classes: int) -> dict[str, range]:
    """What each network is trained on; a control that no target needs is left out."""
    classes = {ATTACK: range(num_classes)}
    if CONTROL in settings.arms:
        half = _half(num_classes)
        kept = {CONTROL_LOW: range(half, num_classes), CONTROL_HIGH: range(half)}
        needed = {_control(target, half) for target in settings.targets}
        classes |= {name: kept[name] for name in kept if name in needed}
    return classes


def _check(settings: Settings, source: Source) -> None:
    if ATTACK not in settings.arms:
        raise InputError(
            f"--arms is {','.join(settings.arms)!r}: expected attack among them; add it"
        )
    if CONTROL in settings.arms and source.num_classes < 2:
        raise InputError(
            f"--arms has control but {source.name} has {source.num_classes} class: "
            "expected at least 2, so that one can be left out; use --arms=attack"
        )
    targets = list(settings.targets)
    known = all(0 <= target < source.num_classes for target in targets)
    if not targets or not known or len(set(targets)) < len(targets):
        listed = ",".join(map(str, targets)) or "empty"
        raise InputError(
            f"--targets is {listed}: expected classes from 0 to "
            f"{source.num_classes - 1}, each once; correct the list"
        )
    if settings.descents > 1 and not settings.inversion.start_noise > 0:
        raise InputError(
            f"--descents is {settings.descents} but start_noise is 0: expected noise, "
            "without which all descents to a class are one; add start_noise=0.1 to "
            "--inversion or leave --descents at 1"
        )
