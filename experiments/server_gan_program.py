"""The server's attack as an experiment: federations side by side, then their scores.

Wang et al., INFOCOM 2019. The arms of a run differ in one thing each:

- attack: the server attacks, passively or actively, and the victim's pictures have a
  property (a rotation, glasses) that nobody else's have;
- control: the same server, settings and seed, but the victim's pictures have it not;
- honest: the federation of the attack arm under an honest server, for Fig. 7.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from computations.defended_fed_avg import Defences, build_defended_client_work
from computations.fed_avg import build_fed_avg
from computations.malicious_server import (
    build_active_mgan,
    build_passive_mgan,
    carrying_isolated,
)
from computations.representatives import build_find_representatives
from experiments.evaluation import build_accuracy, build_judge
from experiments.fed_avg_arm import FedAvgArm, shared_weights
from experiments.privacy import build_round_spending, build_rounds_go_on, price
from experiments.report_parts import metrics_rows, series_of
from experiments.run_clock import RunClock
from experiments.server_gan_data import Data
from experiments.server_gan_state import attack_metrics, attack_state
from experiments.settings import plain
from tff_leak.attacks import representatives, server_gan
from tff_leak.attacks.deviations import Deviations, Mode
from tff_leak.attacks.multitask_gan import (
    OTHER,
    VICTIM,
    Asked,
    Explained,
    Labelled,
    MultitaskGan,
    Unexplained,
)
from tff_leak.attacks.representatives import Representatives
from tff_leak.attacks.server_gan import ServerGan
from tff_leak.data.sources import Examples
from tff_leak.errors import InputError
from tff_leak.metrics import properties
from tff_leak.metrics.feature_distances import sample_quality
from tff_leak.metrics.identity import evaluate_people
from tff_leak.metrics.judge import Judge
from tff_leak.metrics.properties import (
    PropertyInputs,
    evaluate_properties,
    nearer_share,
)
from tff_leak.models import classifiers, discriminators, generators
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.models.network import Network, Weights
from tff_leak.runtime import program, seeding, snapshots
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.reconstructions import write_reconstructions
from tff_leak.runtime.run_directory import RunDirectory, atomic_write_json
from tff_leak.runtime.seeding import Role
from tff_leak.threat import (
    Adversary,
    Behaviour,
    Knowledge,
    Threat,
    check_process,
)

SNAPSHOT_SAMPLES = 20
FINAL_SAMPLES = 100
"""Of each class and identity."""
QUALITY_SAMPLES = 400
"""Of all classes together: Table III's."""
FIXED_ATTACK_FIELDS = ("gan", "representatives", "other_representatives")
"""Fields of `ServerGan` that the program sets, and no flag."""
FIXED_MATCHING_FIELDS = ("local_rate", "local_steps")
"""The same of `Representatives`: they follow the clients' training."""
REPRESENTATIVES = "representatives"


class Arm(enum.Enum):
    """The federations of a run; see the module's docstring."""

    ATTACK = "attack"
    CONTROL = "control"
    HONEST = "honest"


class Server(enum.Enum):
    """What the malicious server does."""

    PASSIVE = "passive"  # section V-C
    ACTIVE = "active"  # section V-D; the victim's update enters the average
    ACTIVE_APART = "active_apart"  # the same, and it does not


@dataclasses.dataclass(frozen=True)
class GanSettings:
    """The GAN's networks and optimisers.

    Attributes:
      learning_rate: Adam's for both networks; the paper's is 0.0002.
      momentum: Adam's first; the paper's is 0.5.
      batch_size: of each kind of pictures in a step (not in the text).
      planes: of the first convolution of classifier and discriminator; 32 in Table I.
      base_filters: of G's last hidden layer; 96 in Table I, 64 in Table II.
      patch_planes: of the patch discriminator's first convolution, where there is one.
    """

    learning_rate: float = 0.0002
    momentum: float = 0.5
    batch_size: int = 64
    planes: int = 32
    base_filters: int = 96
    patch_planes: int = 32

    def __post_init__(self):
        for name in ("learning_rate", "planes", "base_filters", "patch_planes"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(
                    f"gan {name} is {getattr(self, name)}: expected a positive number; "
                    "correct --gan"
                )
        if not 0 <= self.momentum < 1:
            raise InputError(
                f"gan momentum is {self.momentum}: expected it in [0, 1); correct --gan"
            )


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides what a run computes, but for the data.

    Attributes:
      rounds: of federated averaging; all clients take part.
      seed: of everything random.
      arms: the federations to run; `attack` is among them.
      server: what the malicious one does.
      training: the clients' local training.
      batch_size: of their batches (not in the text).
      gan: networks and optimisers.
      deviations: from the paper's attack.
      attack: fields of `ServerGan` that differ from its defaults.
      matching: fields of `Representatives` that differ from its defaults.
      snapshot_every: rounds between two looks at the generator.
      defences: of the clients, who add their noise before the server sees anything
        (`record_dp`, `local_dp`): what a server does to a sum is no defence against it.
      privacy_budget: largest epsilon; the run ends before a round that would pass it.
    """

    rounds: int
    seed: int
    arms: Sequence[Arm]
    server: Server
    training: BatchSgd
    batch_size: int
    gan: GanSettings
    deviations: Deviations
    attack: Mapping[str, Any]
    matching: Mapping[str, Any]
    snapshot_every: int = 5
    defences: Defences = Defences()
    privacy_budget: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A run made ready: its arms, and what is needed to look at their states."""

    settings: Settings
    data: Data
    network: Network
    attack: ServerGan
    matching: Representatives
    arms: Mapping[Arm, FedAvgArm]
    goes_on: program.GoesOn | None


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What a finished run shows.

    Attributes:
      summary: the figures, as in `summary.json`.
      drawn: for each of the victim's classes the sets of pictures that were scored.
    """

    summary: Mapping[str, Any]
    drawn: Sequence[PropertyInputs]


def attack_config(attack: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the server's settings with their defaults, for `config.json`.

    Without `other_clients` where all are meant: runs from before there was it go on.
    """
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(ServerGan)
        if field.name not in (*FIXED_ATTACK_FIELDS, "other_clients")
    }
    settings = {**defaults, **attack}
    if settings.get("other_clients", 1) is None:
        del settings["other_clients"]
    return settings


def matching_config(matching: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how representatives are found, with defaults, for `config.json`.

    What follows the clients' training is left out, as it stands there.
    """
    settings = plain(
        Representatives(**matching),
        newer=("unrolled_steps", "unrolled_batches", "background"),
    )
    return {k: v for k, v in settings.items() if k not in FIXED_MATCHING_FIELDS}


def build_experiment(settings: Settings, data: Data) -> Experiment:
    """Builds the arms of a run.

    Raises:
      InputError: if settings contradict each other or the data, or the process the
        threat (`threat`).
    """
    _check_defences(settings.defences)
    _check_explained(settings)
    _check_paper(settings)
    _check_start(settings)
    if Arm.ATTACK not in settings.arms:
        names = ",".join(arm.value for arm in settings.arms)
        raise InputError(f"--arms is {names!r}: expected attack among them; add it")
    matching = _matching(settings, data)
    network, attack = _networks(settings, data, matching)
    malicious = _malicious(settings, data, network, attack, matching)
    check_process(threat(settings), malicious)
    accuracy = build_accuracy(network, data.test)
    spending = build_round_spending(settings.defences, settings.training)
    goes_on = build_rounds_go_on(
        spending, settings.privacy_budget, "--record_dp or --local_dp"
    )
    arms = {}
    for arm in settings.arms:
        honest = arm is Arm.HONEST
        arms[arm] = FedAvgArm(
            process=_honest(settings, network) if honest else malicious,
            data=data.control if arm is Arm.CONTROL else data.clients,
            batch_size=settings.batch_size,
            seed=settings.seed,
            accuracy=accuracy,
            identified=not honest or settings.defences.draws_client_noise,
            spending=spending,
            note=None if honest else attack_metrics,
        )
    return Experiment(settings, data, network, attack, matching, arms, goes_on)


def active_finds_representatives(settings: Settings) -> bool:
    """Whether an active server finds any, which the paper's does not."""
    active = settings.server is not Server.PASSIVE
    return active and settings.deviations.mode is Mode.STRENGTHENED


def threat(settings: Settings) -> Threat:
    """Returns who attacks, what it sees and what it knows."""
    passive = settings.server is Server.PASSIVE
    return Threat(
        Adversary.SERVER,
        Behaviour.PASSIVE if passive else Behaviour.ACTIVE,
        settings.defences.view,
        frozenset({Knowledge.AUXILIARY_DATA}),
    )


async def run(
    experiment: Experiment, directory: RunDirectory, progress: Progress
) -> Mapping[Arm, Any]:
    """Runs all arms to the last round, or goes on where an earlier run ended.

    Returns:
      The final states by arm.
    """
    settings = experiment.settings

    def look(round_num, states, metrics):
        del metrics
        last = round_num == settings.rounds
        if round_num % settings.snapshot_every and not last:
            return None
        return {
            f"{name}_{label}_{identity}": images
            for name, state in states.items()
            if Arm(name) is not Arm.HONEST
            for (label, identity), images in draw(
                experiment, state, SNAPSHOT_SAMPLES, round_num
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
    experiment: Experiment, state: Any, count: int, round_num: int
) -> dict[tuple[int, int], np.ndarray]:
    """Draws pictures from an arm's generator, all in one batch.

    An active server's G knows one identity only; what it was never asked for is drawn
    all the same, as what it is.

    Returns:
      By (class that the victim holds, identity), float32 `[count, H, W, C]`.
    """
    held = experiment.data.held
    pairs = [(label, identity) for label in held for identity in (VICTIM, OTHER)]
    return _draw(experiment, state, pairs, count, round_num)


def _draw(
    experiment: Experiment,
    state: Any,
    pairs: Sequence[tuple[int, int]],
    count: int,
    stream: int,
) -> dict[tuple[int, int], np.ndarray]:
    """As `draw`, of any pairs; `stream` is the round, or beyond the last one."""
    asked = Asked(
        tf.constant(np.repeat([p[0] for p in pairs], count), tf.int32),
        tf.constant(np.repeat([p[1] for p in pairs], count), tf.int32),
    )
    root = seeding.root(experiment.settings.seed)
    seed = seeding.derive(root, Role.SAMPLES, stream)
    images = server_gan.sample(experiment.attack, attack_state(state), asked, seed)
    parts = np.split(images.numpy(), len(pairs))
    return dict(zip(pairs, parts, strict=True))


def evaluate(
    experiment: Experiment,
    states: Mapping[Arm, Any],
    directory: RunDirectory,
    clock: RunClock,
) -> Evaluation:
    """Scores the final samples and writes `reconstructions.npz` and `summary.json`."""
    settings, data = experiment.settings, experiment.data
    judge, _ = build_judge(
        experiment.network, data.source, data.judge, seed=settings.seed
    )
    drawn = {
        arm: draw(experiment, states[arm], FINAL_SAMPLES, settings.rounds + 1)
        for arm in states
        if arm is not Arm.HONEST
    }
    inputs = [
        _inputs(settings, data, label, drawn, attack_state(states[Arm.ATTACK]))
        for label in data.held
    ]
    _write_reconstructions(data, drawn[Arm.ATTACK], directory)
    scores = evaluate_properties(inputs, judge, foreground=data.source.foreground)
    accuracy = {
        arm.value: experiment.arms[arm].accuracy(shared_weights(state))
        for arm, state in states.items()
    }
    summary = {
        **_outline(experiment, directory),
        "task_accuracy": accuracy,
        "task_accuracy_by_round": _accuracy_by_round(directory),
        "judge_accuracy": judge.accuracy(
            Examples.concatenate([data.without_property, data.with_property])
        ),
        "template_check": _template_check(data),
        "seconds": clock.seconds(),
        **scores,
    }
    if data.gallery is not None:
        summary["identity"] = evaluate_people(inputs, data.gallery)
        summary["quality"] = _quality(experiment, states, judge)
    atomic_write_json(directory.summary, summary)
    return Evaluation(summary, inputs)


def _outline(experiment: Experiment, directory: RunDirectory) -> dict[str, Any]:
    """What was run, and what it cost."""
    settings, data = experiment.settings, experiment.data
    # Fewer than planned if the privacy budget ended the run.
    rounds = len(metrics_rows(directory))
    spending = experiment.arms[Arm.ATTACK].spending
    return {
        "experiment": "server_gan",
        "dataset": data.source.name,
        "synthetic": data.source.synthetic,
        "seed": settings.seed,
        "rounds": rounds,
        "rounds_planned": settings.rounds,
        "rounds_attacked": max(0, rounds - settings.deviations.start_round),
        "view": threat(settings).view.value,
        **price(settings.defences, spending, rounds),
        "server": settings.server.value,
        "mode": settings.deviations.mode.value,
        "victim": data.victim,
        "angle": data.angle,
        "words": list(data.words),
    }


def _template_check(data: Data) -> list[dict[str, Any]]:
    """What the templates say of real pictures that they are not made of.

    Of faces the reference is what the template with the property is made of, so that
    its own figures say nothing about the templates.

    Returns:
      For each of the victim's classes `target`, and the share of its pictures (`with`)
      and of its pictures in the control (`without`) that are nearer to the template
      with the property: 1 and 0 if the templates are right about all of them.
    """
    return [
        {
            "target": label,
            **{
                name: nearer_share(
                    federation[data.victim].of_class(label).images,
                    *data.templates(label),
                )
                for name, federation in (
                    ("with", data.clients),
                    ("without", data.control),
                )
            },
        }
        for label in data.held
    ]


def _accuracy_by_round(directory: RunDirectory) -> dict[str, list[float]]:
    """The shared model's after each round, by arm (Fig. 7)."""
    curves = series_of(
        metrics_rows(directory), [arm.value for arm in Arm], "task_accuracy"
    )
    return {arm: values for arm, (_, values) in curves.items()}


def _quality(
    experiment: Experiment, states: Mapping[Arm, Any], judge: Judge
) -> dict[str, Any]:
    """Table III's measure, and better ones beside it, by arm that has a generator.

    Pictures of every class, as many of each, asked for as the victim's, against all
    real ones, as the paper's are of no class in particular. Of the victim's classes
    alone there are too few real pictures. With `Deviations.held_categories` G was
    never asked for the victim's pictures of other classes, and this says little.
    """
    source = experiment.data.source
    each = -(-QUALITY_SAMPLES // source.num_classes)
    pairs = [(label, VICTIM) for label in range(source.num_classes)]
    stream = experiment.settings.rounds + 2
    return {
        arm.value: sample_quality(
            np.concatenate(
                list(_draw(experiment, state, pairs, each, stream).values())
            ),
            source.train.images,
            judge,
        )
        for arm, state in states.items()
        if arm is not Arm.HONEST
    }


def _matching(settings: Settings, data: Data) -> Representatives:
    """How representatives are found, given what the victim does in a round.

    The server knows rate, momentum, epochs and batches: it sets them. Clients that hold
    more or less than the victim are taken to make as many steps. Momentum m makes
    a step longer by 1 / (1 - m), but for the first of a round.
    """
    training = settings.training
    batches = math.ceil(len(data.clients[data.victim]) / settings.batch_size)
    return Representatives(
        local_rate=training.learning_rate / (1.0 - training.momentum),
        local_steps=training.epochs * batches,
        **settings.matching,
    )


def _networks(
    settings: Settings, data: Data, matching: Representatives
) -> tuple[Network, ServerGan]:
    """The papers' networks for the size of the pictures, and the attack with them."""
    side, classes = data.source.image_shape[0], data.source.num_classes
    gan = settings.gan
    if data.source.image_shape[2] != 1 or side not in (28, 64):
        raise InputError(
            f"pictures are {data.source.image_shape}: expected grey ones of 32x32 or "
            "64x64, the sizes of the paper's networks; choose another --dataset"
        )
    if side == 28:
        network = classifiers.wang_mnist(classes, gan.planes)
        discriminator = discriminators.wang_mnist_multitask(classes, gan.planes)
        generator = generators.wang_mnist(classes, gan.base_filters)
    else:
        network = classifiers.wang_att(classes, gan.planes)
        discriminator = discriminators.wang_att_multitask(classes, gan.planes)
        generator = generators.wang_att(classes, gan.base_filters)
    others = len(data.clients) - 1
    if (wanted := settings.attack.get("other_clients") or others) > 0:
        others = min(others, wanted)
    adam = tff.learning.optimizers.build_adam(gan.learning_rate, beta_1=gan.momentum)
    attack = ServerGan(
        MultitaskGan(
            generator,
            discriminator,
            adam,
            adam,
            gan.batch_size,
            settings.deviations,
            discriminators.patches(data.source.image_shape, gan.patch_planes)
            if settings.deviations.local_reality
            else None,
            _unexplained(matching, network) if settings.deviations.explained else None,
        ),
        representatives=matching.images,
        other_representatives=matching.images * others,
        **settings.attack,
    )
    return network, attack


def _unexplained(matching: Representatives, network: Network) -> Unexplained:
    """What pictures leave of an update, as representatives are found by it."""

    def share(explained: Explained, images: tf.Tensor) -> tf.Tensor:
        shared = Weights(list(explained.shared), [])
        return representatives.unexplained(
            matching, network, shared, explained.update, images, explained.labels
        )

    return share


def _malicious(
    settings: Settings,
    data: Data,
    network: Network,
    attack: ServerGan,
    matching: Representatives,
) -> tff.learning.templates.LearningProcess:
    """The process of attack and control, which differ in the data only."""
    shared = {
        "victim": data.victim,
        "auxiliary": Labelled(data.auxiliary.images, data.auxiliary.labels),
        "seed": settings.seed,
    }
    if settings.server is Server.PASSIVE:
        return build_passive_mgan(
            network,
            attack,
            find_representatives=build_find_representatives(network, matching),
            client_work=_client_work(settings, network),
            **shared,
        )
    return build_active_mgan(
        network,
        attack,
        find_representatives=build_find_representatives(network, matching)
        if active_finds_representatives(settings)
        else None,
        client_work=_client_work(settings, carrying_isolated(network)),
        victim_in_average=settings.server is Server.ACTIVE,
        **shared,
    )


def _honest(
    settings: Settings, network: Network
) -> tff.learning.templates.LearningProcess:
    return build_fed_avg(
        network, client_work=_client_work(settings, network), seed=settings.seed
    )


def _client_work(
    settings: Settings, network: Network
) -> tff.learning.templates.ClientWorkProcess:
    """What clients do, whatever the server is."""
    return build_defended_client_work(
        network,
        training=settings.training,
        defences=settings.defences,
        seed=settings.seed,
    )


def _check_explained(settings: Settings) -> None:
    if not settings.deviations.explained:
        return
    if settings.server is not Server.PASSIVE:
        raise InputError(
            f"explained is {settings.deviations.explained} with "
            f"--server={settings.server.value}: "
            "expected a passive server, whose victim trains the shared model; leave "
            "one out"
        )
    if settings.matching.get("unrolled_steps") is None:
        raise InputError(
            f"explained is {settings.deviations.explained} without unrolled_steps: "
            "expected the victim's training to be followed; give e.g. "
            "--matching=unrolled_steps=50"
        )


def _check_paper(settings: Settings) -> None:
    """What is called the paper's attack finds representatives as the paper does."""
    if settings.deviations.mode is not Mode.PAPER:
        return
    given = {**settings.matching, **settings.attack}
    for name in ("unrolled_steps", "background", "other_clients"):
        if given.get(name):
            raise InputError(
                f"{name} is {given[name]} with --mode=paper: expected it with "
                "--mode=strengthened alone, as it is not in the paper; change the "
                "mode, or leave it out"
            )


def _check_start(settings: Settings) -> None:
    start = settings.deviations.start_round
    if start >= settings.rounds:
        raise InputError(
            f"the attack starts after {start} rounds (start_round of --deviations): "
            f"expected fewer than --rounds={settings.rounds}, or there is none; raise "
            "--rounds, or start earlier"
        )


def _check_defences(defences: Defences) -> None:
    for name in ("user_dp", "secure_aggregation"):
        if getattr(defences, name) is not None:
            raise InputError(
                f"{name} is given with a server's GAN: expected record_dp or local_dp, "
                "since the attack needs one client's row, which the server has before "
                "it adds user-level noise, and never under a secure sum; leave it out"
            )


def _inputs(
    settings: Settings,
    data: Data,
    label: int,
    drawn: Mapping[Arm, Mapping[tuple[int, int], np.ndarray]],
    state: server_gan.State,
) -> PropertyInputs:
    reference = data.with_property.of_class(label).images
    template_with, template_without = data.templates(label)
    sets = {
        properties.VICTIM: drawn[Arm.ATTACK][label, VICTIM],
        properties.REFERENCE: reference[:FINAL_SAMPLES],
    }
    if settings.server is Server.PASSIVE or active_finds_representatives(settings):
        # The paper's active server has a generator that learns no identities.
        sets[properties.OTHER] = drawn[Arm.ATTACK][label, OTHER]
    if Arm.CONTROL in drawn:
        sets[properties.CONTROL] = drawn[Arm.CONTROL][label, VICTIM]
    # All that the memory holds, unless nothing was found of this class.
    found = np.asarray(state.memory.victim.images)[
        np.asarray(state.memory.victim.labels) == label
    ]
    found = found[np.abs(found).max(axis=(1, 2, 3), initial=0) > 0]
    if len(found):
        sets[REPRESENTATIVES] = np.clip(found, -1, 1)
    return PropertyInputs(
        target=label,
        sets=sets,
        private=data.clients[data.victim].of_class(label).images,
        others=data.others_images(label),
        template_with=template_with,
        template_without=template_without,
    )


def _write_reconstructions(
    data: Data,
    drawn: Mapping[tuple[int, int], np.ndarray],
    directory: RunDirectory,
) -> None:
    """What was drawn as the victim's, class by class."""
    images = [drawn[label, VICTIM] for label in data.held]
    labels = np.repeat(data.held, FINAL_SAMPLES).astype(np.int32)
    write_reconstructions(
        directory.reconstructions,
        images=np.concatenate(images),
        labels=labels,
        clients=np.full(len(labels), data.victim, np.int32),
        # Fewer than planned if the privacy budget ended the run.
        round=len(metrics_rows(directory)),
    )


def load_looks(
    directory: RunDirectory,
) -> dict[int, dict[tuple[str, int, int], np.ndarray]]:
    """Snapshots by round; in each by (arm, class, identity)."""
    looks: dict[int, dict[tuple[str, int, int], np.ndarray]] = {}
    for round_num, arrays in snapshots.load_snapshots(directory).items():
        for name, images in arrays.items():
            arm, label, identity = name.rsplit("_", 2)
            looks.setdefault(round_num, {})[arm, int(label), int(identity)] = images
    return looks
