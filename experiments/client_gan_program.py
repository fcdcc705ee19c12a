"""The client GAN experiment: federations side by side, then their evaluation.

Hitaj et al., CCS 2017. The arms of a run differ in one thing each:

- attack: adversaries as configured;
- control: the same adversaries, settings and seed, but nobody holds a target;
- passive: the adversaries train their generators but inject nothing (section 9.3).
"""

import dataclasses
import enum
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from computations import dssgd
from computations.cohort_uploads import CohortUploads, build_upload_aggregator
from experiments import client_gan_curves
from experiments.dssgd_arm import (
    ArmState,
    DssgdArm,
    build_accuracy,
    epsilon_spent,
    local_dataset,
    mean_over_rounds,
)
from experiments.evaluation import build_judge
from experiments.federation import Data, Federation
from experiments.networks import papers_networks
from experiments.privacy import (
    Spending,
    build_goes_on,
    build_spending,
    for_json,
    local_training,
)
from experiments.report_parts import metrics_rows
from experiments.run_clock import RunClock
from tff_leak.attacks import client_gan
from tff_leak.attacks.client_transform import ClientTransform, only_row
from tff_leak.data.sources import Examples
from tff_leak.defences.local_dp import LocalDp
from tff_leak.defences.record_level_dp import RecordLevelDp
from tff_leak.defences.secure_aggregation import (
    GREATEST_LOSS,
    check_secure,
    secure_counts_factory,
)
from tff_leak.defences.selective_sharing import SelectiveSharing
from tff_leak.defences.sparse_vector import SparseVector
from tff_leak.errors import InputError
from tff_leak.metrics.identity import evaluate_identity
from tff_leak.metrics.judge import Judge
from tff_leak.metrics.reconstruction import TargetInputs, evaluate_targets
from tff_leak.models.network import Network
from tff_leak.models.training import LocalSgd
from tff_leak.runtime import program, seeding
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.reconstructions import write_reconstructions
from tff_leak.runtime.run_directory import RunDirectory, atomic_write_json
from tff_leak.runtime.seeding import Role
from tff_leak.threat import (
    Adversary,
    Behaviour,
    Knowledge,
    Threat,
    View,
    check_process,
)

SNAPSHOT_SAMPLES = 40
FINAL_SAMPLES = 200
FIXED_ATTACK_FIELDS = ("generator", "optimizer", "fake_class", "aim")
"""Fields of `ClientGan` that the program sets, and no flag."""


class Arm(enum.Enum):
    """The federations of a run; see the module's docstring."""

    ATTACK = "attack"
    CONTROL = "control"
    PASSIVE = "passive"


class GeneratorOptimizer(enum.Enum):
    """Optimisers for the adversary's generator."""

    SGD = "sgd"
    ADAM = "adam"
    RMSPROP = "rmsprop"


@dataclasses.dataclass(frozen=True)
class GeneratorSettings:
    """The adversary's generator and its optimiser.

    Attributes:
      optimizer: the paper's is SGD (section 8.4).
      learning_rate: 0.02 in the paper.
      momentum: Adam's first, in [0, 1); None is DCGAN's 0.5. For Adam only.
      base_filters: of the generator (not in the text).
    """

    optimizer: GeneratorOptimizer = GeneratorOptimizer.SGD
    learning_rate: float = 0.02
    momentum: float | None = None
    base_filters: int = 32

    def __post_init__(self):
        for name in ("learning_rate", "base_filters"):
            if not getattr(self, name) > 0:
                raise InputError(
                    f"generator {name} is {getattr(self, name)}: expected a positive "
                    "number; correct --generator"
                )
        adam = self.optimizer is GeneratorOptimizer.ADAM
        if self.momentum is not None and not (adam and 0 <= self.momentum < 1):
            raise InputError(
                f"generator momentum is {self.momentum} with optimizer "
                f"{self.optimizer.value}: expected it in [0, 1), and with adam only; "
                "correct --generator"
            )

    def build_optimizer(self) -> tff.learning.optimizers.Optimizer:
        """Returns TFF's optimiser of these settings."""
        optimizers = tff.learning.optimizers
        if self.optimizer is GeneratorOptimizer.ADAM:
            beta_1 = 0.5 if self.momentum is None else self.momentum
            return optimizers.build_adam(self.learning_rate, beta_1=beta_1)
        if self.optimizer is GeneratorOptimizer.RMSPROP:
            return optimizers.build_rmsprop(self.learning_rate)
        return optimizers.build_sgdm(self.learning_rate)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides what a run computes, but for the data.

    Attributes:
      rounds: in each, every participant has a turn.
      seed: of everything random.
      arms: the federations to run; `attack` is among them.
      sharing: what participants agreed to share.
      training: their local training.
      order: of the turns in a round.
      max_staleness: turns, above 0 for asynchronous training only.
      attack: fields of `client_gan.ClientGan` that differ from its defaults.
      generator: the adversary's generator.
      snapshot_every: rounds between two looks at the generators.
      privacy: differential privacy of all uploads; None: there is none.
      record_dp: differential privacy of all training; None: there is none.
      local_dp: differential privacy of every honest participant's uploads, a turn
        whole; None: there is none.
      privacy_budget: largest epsilon of a participant; the run ends before a round
        that would pass it. None: there is none.
      uploads: how those of participants that train all at once are joined.
      adversary_training: the adversaries' local training; None: as all train. (Nobody
        can hold them to the agreed one; in a large cohort an adversary that makes as
        few steps as the others has no influence.)
    """

    rounds: int
    seed: int
    arms: Sequence[Arm]
    sharing: SelectiveSharing
    training: LocalSgd
    order: dssgd.TurnOrder
    max_staleness: int
    attack: Mapping[str, Any]
    generator: GeneratorSettings
    snapshot_every: int = 10
    privacy: SparseVector | None = None
    record_dp: RecordLevelDp | None = None
    local_dp: LocalDp | None = None
    privacy_budget: float | None = None
    uploads: CohortUploads = CohortUploads()
    adversary_training: LocalSgd | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A run made ready: its arms, and what is needed to look at their states."""

    settings: Settings
    data: Data
    network: Network
    attacks: Mapping[Arm, client_gan.ClientGan]
    arms: Mapping[Arm, DssgdArm]
    goes_on: program.GoesOn | None = None


def attack_config(attack: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the adversary's settings with their defaults, for `config.json`."""
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(client_gan.ClientGan)
        if field.name not in FIXED_ATTACK_FIELDS
    }
    settings = {**defaults, **attack}
    return {
        name: value.value if isinstance(value, enum.Enum) else value
        for name, value in settings.items()
    }


def build_experiment(settings: Settings, data: Data) -> Experiment:
    """Builds the arms of a run.

    Raises:
      InputError: if settings contradict each other or the data.
    """
    _check_start(settings, data.federation)
    network, generator = papers_networks(
        data.source.image_shape,
        data.source.num_classes,
        settings.generator.base_filters,
    )
    accuracy = build_accuracy(network, data.test)
    attacks, arms, processes = {}, {}, {}
    for arm in settings.arms:
        attack = _attack_of(arm, settings, generator, data.source.num_classes)
        transform = client_gan.build_client_gan(attack, network)
        federation = data.federation
        if arm is Arm.CONTROL:
            federation = federation.without_targets()
        # Refuses mechanisms that do not go together.
        spending = _spending(settings, network, federation)
        # Attack and control are one process: it is traced and compiled once.
        if attack.influence not in processes:
            processes[attack.influence] = _build_process(
                settings, network, transform, data.federation
            )
        attacks[arm] = attack
        arms[arm] = DssgdArm(
            process=processes[attack.influence],
            network=network,
            datasets=[local_dataset(part) for part in federation.data],
            order=settings.order,
            seed=settings.seed,
            accuracy=accuracy,
            transform=transform,
            private=_initial_attacks(attack, network, data.federation, settings.seed),
            spending=spending,
        )
    # The control, which lacks the target, is there to compare with: a federation of
    # other data, whose epsilon is nobody's.
    goes_on = build_goes_on(
        {
            arm.value: built.spending
            for arm, built in arms.items()
            if arm is not Arm.CONTROL
        },
        settings.privacy_budget,
        len(data.federation.data),
    )
    return Experiment(settings, data, network, attacks, arms, goes_on)


def _attack_of(
    arm: Arm, settings: Settings, generator: Network, fake_class: int
) -> client_gan.ClientGan:
    attack = client_gan.ClientGan(
        generator=generator,
        optimizer=settings.generator.build_optimizer(),
        fake_class=fake_class,
        **settings.attack,
    )
    if arm is Arm.PASSIVE:
        attack = dataclasses.replace(attack, influence=False)
    return attack


async def run(
    experiment: Experiment, directory: RunDirectory, progress: Progress
) -> Mapping[Arm, ArmState]:
    """Runs all arms to the last round, or goes on where an earlier run ended.

    Returns:
      The final states by arm.
    """
    settings = experiment.settings

    def look(round_num, states, metrics):
        del metrics
        last = round_num == settings.rounds
        if experiment.goes_on is not None:
            last = last or not experiment.goes_on(round_num + 1, states)
        if round_num % settings.snapshot_every and not last:
            return None
        return {
            f"{name}_{target}": images
            for name, state in states.items()
            for target, images in draw(
                experiment, Arm(name), state, SNAPSHOT_SAMPLES, round_num
            ).items()
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


def draw(
    experiment: Experiment, arm: Arm, state: ArmState, count: int, round_num: int
) -> dict[int, np.ndarray]:
    """Draws pictures from the adversaries' generators.

    Returns:
      By target, float32 `[count, H, W, C]` in [-1, 1]; adversaries that share a target
      share the count.
    """
    federation = experiment.data.federation
    drawn: dict[int, list[np.ndarray]] = {}
    for number, target in zip(federation.adversaries, federation.targets, strict=True):
        private = only_row(state.clients[number].private)
        seed = seeding.derive(
            seeding.root(experiment.settings.seed), Role.SAMPLES, number, round_num
        )
        share = -(-count // list(federation.targets).count(target))
        images = client_gan.sample(
            experiment.attacks[arm], private.generator, share, seed
        )
        drawn.setdefault(target, []).append(images.numpy())
    return {target: np.concatenate(parts)[:count] for target, parts in drawn.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What a finished run shows.

    Attributes:
      summary: the figures, as in `summary.json`.
      window: leading rows and columns that the model can see.
      drawn: final samples by arm and target, `[FINAL_SAMPLES, H, W, C]`.
      curves: by arm: rounds, and for each of them the pooled judge share, SSIM and
        recovered (None where it is not defined, and throughout for the control).
    """

    summary: Mapping[str, Any]
    window: tuple[int, int]
    drawn: Mapping[Arm, Mapping[int, np.ndarray]]
    curves: Mapping[Arm, Mapping[str, Sequence[float | None]]]


def evaluate(
    experiment: Experiment,
    states: Mapping[Arm, ArmState],
    directory: RunDirectory,
    clock: RunClock,
) -> Evaluation:
    """Scores the final samples and writes `reconstructions.npz` and `summary.json`.

    Args:
      experiment: the run.
      states: final states by arm.
      directory: the run directory.
      clock: of the run.
    """
    settings, data = experiment.settings, experiment.data
    judge, window = build_judge(
        experiment.network, data.source, data.judge, seed=settings.seed
    )
    # Fewer than planned if the privacy budget ended the run.
    rounds = len(metrics_rows(directory))
    drawn = {
        arm: draw(experiment, arm, state, FINAL_SAMPLES, rounds + 1)
        for arm, state in states.items()
    }
    _write_reconstructions(data.federation, drawn[Arm.ATTACK], rounds, directory)

    def score(drawn: Mapping[str, Mapping[int, np.ndarray]]) -> dict[str, Any]:
        of_arm = {Arm(name): images for name, images in drawn.items()}
        return _score(data, of_arm, judge, window, settings.seed)

    snapped = client_gan_curves.score_snapshots(directory, score)
    scores = client_gan_curves.with_late(
        _score(data, drawn, judge, window, settings.seed), snapped, rounds
    )
    accuracy = {
        arm.value: experiment.arms[arm].accuracy(state.server)
        for arm, state in states.items()
    }
    summary = {
        "experiment": "client_gan",
        "dataset": data.source.name,
        "synthetic": data.source.synthetic,
        "seed": settings.seed,
        "rounds": rounds,
        "task_accuracy": accuracy,
        "task_accuracy_by_turn": _accuracy_by_turn(settings, directory),
        "judge_accuracy": judge.accuracy(data.reference),
        "visible_window": list(window),
        **_privacy(settings, directory),
        "rounds_planned": settings.rounds,
        "generator_steps": mean_over_rounds(directory.metrics_csv, "generator_steps"),
        "seconds": clock.seconds(),
        "identity": identity_of(data, _inputs(data, drawn), window),
        **scores,
    }
    atomic_write_json(directory.summary, summary)
    curves = client_gan_curves.curves_of(snapped)
    return Evaluation(
        summary, window, drawn, {Arm(name): curve for name, curve in curves.items()}
    )


def _accuracy_by_turn(
    settings: Settings, directory: RunDirectory
) -> dict[str, list[list[float]]]:
    """The shared model's by arm, participant whose turn it was, and round.

    An adversary has just called its pictures of the target fakes, and where the attack
    works so does the model after its turn with real ones; after the victim's it does
    not. Nothing where turns have no fixed order, or are too many to be measured.
    """
    if settings.order is not dssgd.TurnOrder.FIXED:
        return {}
    rows = metrics_rows(directory)
    found: dict[str, list[list[float]]] = {}
    for arm in settings.arms:
        start = f"{arm.value}/task_accuracy_turn_"
        turns = sum(name.startswith(start) for name in rows[0])
        if turns:
            found[arm.value] = [
                [float(row[f"{start}{turn}"]) for row in rows]
                for turn in range(1, turns + 1)
            ]
    return found


def _score(
    data: Data,
    drawn: Mapping[Arm, Mapping[int, np.ndarray]],
    judge: Judge,
    window: tuple[int, int],
    seed: int,
) -> dict[str, Any]:
    foreground = data.source.foreground
    return evaluate_targets(
        _inputs(data, drawn), judge, foreground=foreground, window=window, seed=seed
    )


def identity_of(
    data: Data, inputs: Sequence[TargetInputs], window: tuple[int, int]
) -> dict[str, Any] | None:
    """Whom samples show (`evaluate_identity`); None where classes are no people."""
    if not data.source.shows_people:
        return None
    gallery = Examples.concatenate([*data.federation.data, data.judge])
    return evaluate_identity(inputs, gallery, window=window)


def _inputs(
    data: Data, drawn: Mapping[Arm, Mapping[int, np.ndarray]]
) -> list[TargetInputs]:
    return [
        _target_inputs(data, target, {arm: kept[target] for arm, kept in drawn.items()})
        for target in drawn[Arm.ATTACK]
    ]


def _target_inputs(
    data: Data, target: int, drawn: Mapping[Arm, np.ndarray]
) -> TargetInputs:
    federation = data.federation
    victim = federation.data[federation.victim(target)]
    attack = drawn[Arm.ATTACK]
    extra: Collection[Arm] = set(drawn) - {Arm.ATTACK, Arm.CONTROL}
    return TargetInputs(
        target=target,
        attack=attack,
        control=drawn.get(Arm.CONTROL, attack[:0]),
        private=victim.of_class(target).images,
        others=federation.others_images(target),
        heldout=data.reference,
        extra_controls={arm.value: drawn[arm] for arm in extra},
    )


def _write_reconstructions(
    federation: Federation,
    drawn: Mapping[int, np.ndarray],
    rounds: int,
    directory: RunDirectory,
) -> None:
    images = np.concatenate(list(drawn.values()))
    counts = [len(part) for part in drawn.values()]
    victims = [federation.victim(target) for target in drawn]
    write_reconstructions(
        directory.reconstructions,
        images=images,
        labels=np.repeat(list(drawn), counts).astype(np.int32),
        clients=np.repeat(victims, counts).astype(np.int32),
        round=rounds,
    )


def _initial_attacks(
    attack: client_gan.ClientGan,
    network: Network,
    federation: Federation,
    seed: int,
) -> dict[int, client_gan.State]:
    """Each adversary's initial state, from its own random stream."""
    root = tf.constant(seeding.root(seed))
    return {
        number: client_gan.initial_state(
            attack,
            target=target,
            seed=seeding.derive(root, Role.PARTICIPANT, number),
            num_parameters=network.num_parameters,
        )
        for number, target in zip(
            federation.adversaries, federation.targets, strict=True
        )
    }


def _privacy(settings: Settings, directory: RunDirectory) -> dict[str, Any]:
    """What a finished run has cost those who are attacked, for `summary.json`."""
    private = settings.record_dp or settings.local_dp or settings.uploads.user_dp
    attacked = [arm.value for arm in settings.arms if arm is not Arm.CONTROL]
    metrics = directory.metrics_csv
    return {
        "epsilon": for_json(epsilon_spent(metrics, attacked)),
        "epsilon_turn": for_json(epsilon_spent(metrics, attacked, "epsilon_turn")),
        "delta": private.delta if private else None,
        "neighbours": private.neighbours.name if private else None,
    }


def _spending(
    settings: Settings, network: Network, federation: Federation
) -> Spending | None:
    """What turns cost the honest participants; an adversary's fakes are no records."""
    return build_spending(
        network,
        settings.training,
        settings.privacy,
        settings.record_dp,
        [
            0 if number in federation.adversaries else len(part)
            for number, part in enumerate(federation.data)
        ],
        settings.local_dp,
        settings.uploads.user_dp,
    )


def _build_process(
    settings: Settings,
    network: Network,
    transform: ClientTransform,
    federation: Federation,
) -> tff.templates.IterativeProcess:
    """The federation's process, checked against what a malicious client may see."""
    uploads, participants = settings.uploads, len(federation.data)
    joined = counts = None
    if uploads.wants_a_cohort:
        joined = build_upload_aggregator(
            uploads,
            participants=participants,
            num_shared=network.num_parameters,
            seed=settings.seed,
        )
    if uploads.secure_aggregation is not None:
        counts = secure_counts_factory(
            GREATEST_LOSS * _most_examples(settings, federation)
        )
    process = dssgd.build_dssgd(
        network,
        sharing=settings.sharing,
        privacy=settings.privacy or settings.local_dp,
        adversaries_exempt=settings.local_dp is not None,
        training=local_training(network, settings.training, settings.record_dp),
        transform=transform,
        adversary_training=settings.adversary_training
        or (settings.training if settings.record_dp else None),
        upload_aggregator=joined,
        metrics_aggregator=counts,
        max_staleness=settings.max_staleness,
        seed=settings.seed,
    )
    check_process(
        Threat(Adversary.CLIENT, Behaviour.ACTIVE, View.SUM, {Knowledge.LABELS}),
        process,
    )
    if uploads.secure_aggregation is not None:
        check_secure(process.next)
    return process


def _most_examples(settings: Settings, federation: Federation) -> int:
    """What a participant trains on in a turn at most, fakes included."""
    attack = attack_config(settings.attack)
    fakes = attack["fakes_per_turn"] * (1 + attack["replay_turns"])
    return max(len(part) for part in federation.data) + fakes


def _check_uploads(settings: Settings) -> None:
    """Raises InputError if what is of a cohort is asked of participants in turns."""
    if settings.uploads.wants_a_cohort and (
        settings.order is not dssgd.TurnOrder.ALL_AT_ONCE
    ):
        raise InputError(
            f"--order is {settings.order.value} with --joining=mean, --user_dp or "
            "--secure_aggregation: expected all_at_once, since a participant that "
            "trains in its turn has no cohort to be averaged with or to hide in; add "
            "--order=all_at_once"
        )


def _check_start(settings: Settings, federation: Federation) -> None:
    _check_uploads(settings)
    if Arm.ATTACK not in settings.arms:
        names = ",".join(arm.value for arm in settings.arms)
        raise InputError(f"--arms is {names!r}: expected attack among them; add it")
    if not federation.adversaries:
        raise InputError(
            "--adversaries is empty: expected at least one participant that attacks; "
            "for training without an attack use experiments.run_dssgd"
        )
    for number in federation.adversaries:
        without_data = not len(federation.data[number])
        if settings.attack.get("start_accuracy", 0) > 0 and without_data:
            raise InputError(
                f"start_accuracy is {settings.attack['start_accuracy']} but adversary "
                f"{number} has no data to measure it on: expected 0; correct --attack"
            )
