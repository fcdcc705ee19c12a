"""The experiments of "Key protected classification": federations side by side.

What is measured is the study; the arms of a run follow from it:

- orthogonality, shared_classes: random keys alone, without a model; a round is one
  dimension (figures 1 and 8, `key_geometry_arm`);
- accuracy: honest participants, one arm a dimension (figure 2);
- attack: for each dimension one arm a guess of the target's key, and controls
  (figures 3 to 7): the same adversaries, settings and seed where nobody holds what is
  aimed at. An adversary that has the target's key, or one near to it, has a target, and
  the control lacks it. One that has any other key has none: whatever its pictures show
  counts, and the control lacks every class that an honest participant holds. Where
  everybody attacks, each is a victim of the others and has controls of its own, in
  which it alone attacks.
"""

import dataclasses
import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from computations.dssgd import TurnOrder
from computations.key_protected import build_key_protected
from experiments import client_gan_program
from experiments.client_gan_program import GeneratorSettings
from experiments.dssgd_arm import ArmState, DssgdArm, local_dataset
from experiments.federation import Data, Federation
from experiments.key_federation import (
    FAKES_ROW,
    KeySettings,
    KeyTable,
    OfflineEvaluator,
    build_embedding,
    client_state_maker,
    draw_tables,
)
from experiments.key_geometry_arm import Geometry, GeometryArm
from experiments.key_guesses import Guess, GuessKind, first_key
from experiments.networks import papers_networks
from tff_leak.attacks import client_gan
from tff_leak.attacks.client_transform import ClientTransform, only_row
from tff_leak.attacks.key_search import (
    KeySearch,
    build_key_search,
    initial_search_state,
)
from tff_leak.defences.key_protection import (
    KeyDistribution,
    KeyTraining,
    Normalisation,
)
from tff_leak.errors import InputError
from tff_leak.models.network import Network
from tff_leak.runtime import program, seeding
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.run_directory import RunDirectory
from tff_leak.runtime.seeding import Role
from tff_leak.threat import check_process

SNAPSHOT_SAMPLES = 40
# Of each participant's data, in no order of classes; as many as are held out.
_LOCAL_IMAGES = 2000
# A fixed layer of 1024 inputs then has 4 GB.
_MAX_DIMENSION = 2**20
FIXED_ATTACK_FIELDS = (*client_gan_program.FIXED_ATTACK_FIELDS, "start_accuracy")
"""Fields of `ClientGan` that no flag sets; accuracy cannot be had without all keys."""


class Study(enum.Enum):
    """What is measured; see the module's docstring."""

    ORTHOGONALITY = "orthogonality"
    ACCURACY = "accuracy"
    ATTACK = "attack"
    SHARED_CLASSES = "shared_classes"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides what a run computes, but for the data.

    Attributes:
      study: what is measured.
      rounds: in each, every participant has a turn; for keys alone as many as there
        are dimensions.
      seed: of everything random.
      dimensions: of the keys, different ones.
      keys: the keys and the embedding.
      training: the participants' training.
      guesses: of the target's key, at least one for an attack.
      controls: whether attacks have theirs.
      own_controls: whether each guess that is aimed at a key has one of its own.
      attack: fields of `client_gan.ClientGan` that differ from its defaults.
      generator: the adversaries' generator.
      geometry: sizes of the studies of keys alone.
      snapshot_every: rounds between two looks at the generators.
    """

    study: Study
    rounds: int
    seed: int
    dimensions: Sequence[int]
    keys: KeySettings
    training: KeyTraining
    guesses: Sequence[Guess]
    controls: bool
    attack: Mapping[str, Any]
    generator: GeneratorSettings
    geometry: Geometry
    snapshot_every: int = 10
    own_controls: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class KeyArm:
    """One federation of a run.

    Attributes:
      name: of the arm.
      dimension: of its keys.
      arm: under training.
      evaluator: has all its keys.
      guess: of its adversaries; None without an attack.
      gan: their settings; None without an attack.
      controls: by adversary the name of the attack's control; empty where there is
        none.
      is_control: whether nobody holds what is aimed at.
      adversaries: who attacks; in a control those whose control it is.
    """

    name: str
    dimension: int
    arm: DssgdArm
    evaluator: OfflineEvaluator
    guess: Guess | None = None
    gan: client_gan.ClientGan | None = None
    controls: Mapping[int, str] = dataclasses.field(default_factory=dict)
    is_control: bool = False
    adversaries: Sequence[int] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A run made ready: its federations by name, or the arms of keys alone."""

    settings: Settings
    data: Data | None
    federations: Mapping[str, KeyArm]
    geometry: Mapping[str, GeometryArm]


def build_experiment(settings: Settings, data: Data | None) -> Experiment:
    """Builds the arms of a run.

    Args:
      settings: of the run.
      data: None for the studies of keys alone.

    Raises:
      InputError: if settings contradict each other or the data.
    """
    _check_dimensions(settings.dimensions)
    if data is None:
        arms = {
            distribution.value: GeometryArm(
                shared=settings.study is Study.SHARED_CLASSES,
                dimensions=tuple(settings.dimensions),
                distribution=distribution,
                sizes=settings.geometry,
                seed=settings.seed,
            )
            for distribution in KeyDistribution
        }
        return Experiment(settings, None, {}, arms)
    _check(settings, data.federation)
    build = _honest_arm if settings.study is Study.ACCURACY else _attack_arms
    found = [
        arm
        for dimension in settings.dimensions
        for arm in build(settings, data, dimension)
    ]
    return Experiment(settings, data, {arm.name: arm for arm in found}, {})


async def run(
    experiment: Experiment, directory: RunDirectory, progress: Progress
) -> Mapping[str, Any]:
    """Runs all arms to the last round, or goes on where an earlier run ended.

    Returns:
      The final states by arm.
    """
    settings = experiment.settings
    attacked = [arm for arm in experiment.federations.values() if arm.guess]

    def look(round_num, states, metrics):
        del metrics
        last = round_num == settings.rounds
        if not attacked or (round_num % settings.snapshot_every and not last):
            return None
        return {
            f"{arm.name}/{number}": images
            for arm in attacked
            for number, images in draw(
                experiment, arm, states[arm.name], SNAPSHOT_SAMPLES, round_num
            ).items()
        }

    federations = {name: kept.arm for name, kept in experiment.federations.items()}
    return await program.run(
        federations or experiment.geometry,
        rounds=settings.rounds,
        directory=directory,
        progress=progress,
        on_round=look,
    )


def draw(
    experiment: Experiment, arm: KeyArm, state: ArmState, count: int, round_num: int
) -> dict[int, np.ndarray]:
    """Draws pictures from the generator of each adversary of an arm.

    Returns:
      By adversary's number, float32 `[count, H, W, C]` in [-1, 1].
    """
    drawn = {}
    for number in arm.adversaries:
        private = only_row(state.clients[number].private)
        root = seeding.root(experiment.settings.seed)
        seed = seeding.derive(root, Role.SAMPLES, number, round_num)
        images = client_gan.sample(arm.gan, private.generator, count, seed)
        drawn[number] = images.numpy()
    return drawn


def unknown_classes(federation: Federation) -> list[tuple[int, int]]:
    """What an attack without a target may show.

    Returns:
      (adversary, class) for each class that a victim holds and the adversary does not:
      of pictures of its own nothing leaks.
    """
    held = [np.unique(data.labels).astype(int).tolist() for data in federation.data]
    of_victims = {label for number in federation.victims for label in held[number]}
    return [
        (number, label)
        for number in federation.adversaries
        for label in sorted(of_victims - set(held[number]))
    ]


def _honest_arm(settings: Settings, data: Data, dimension: int) -> Iterator[KeyArm]:
    network = build_embedding(data.source, dimension, settings.keys, settings.seed)
    tables = _tables(settings, data.federation, dimension)
    evaluator = _evaluator(settings, network, tables, data)
    process = build_key_protected(
        network, training=settings.training, seed=settings.seed
    )
    arm = _dssgd_arm(process, network, data.federation, tables, evaluator, settings)
    yield KeyArm(f"d{dimension}", dimension, arm, evaluator)


class _Planned(NamedTuple):
    """An arm of an attack.

    Attributes:
      name: of the arm.
      guess: of its adversaries.
      controls: names of its controls by adversary.
      is_control: whether it is one.
      adversaries: who attacks.
      federation: who holds which data.
    """

    name: str
    guess: Guess
    controls: Mapping[int, str]
    is_control: bool
    adversaries: Sequence[int]
    federation: Federation


def _plan(settings: Settings, federation: Federation, dimension: int) -> list[_Planned]:
    """The arms of one dimension: each guess, before it its controls if it has any.

    What is aimed at a key has one control in common, the first one's, unless each is to
    have its own. Each guess without a target has its own, in which it searches as it
    does.
    """
    planned = []
    aimed_controls: Mapping[int, str] = {}
    for guess in settings.guesses:
        name = f"{guess.name.replace(':', '_')}_d{dimension}"
        shared = guess.aimed and not settings.own_controls
        controls = aimed_controls if shared else {}
        if settings.controls and not controls:
            made = _controls(federation, f"control_{name}", guess)
            planned += made
            controls = {number: one.name for one in made for number in one.adversaries}
        if guess.aimed:
            aimed_controls = controls
        adversaries = federation.adversaries
        planned.append(_Planned(name, guess, controls, False, adversaries, federation))
    return planned


def _controls(federation: Federation, name: str, guess: Guess) -> list[_Planned]:
    """Nobody holds the targets; of a guess without one, no victim has data.

    An adversary keeps its own data, also of classes that it shares: it is the same one.
    Where everybody attacks that can be of one adversary at a time, which then attacks
    alone: it lacks the others' fakes as well.
    """
    adversaries, targets = federation.adversaries, federation.targets
    names = {name: adversaries}
    if federation.everybody_attacks:
        names = {f"{name}_{number}": (number,) for number in adversaries}
    wanted = dict(zip(adversaries, targets, strict=True))
    made = []
    for one, numbers in names.items():
        if guess.aimed:
            lacking = federation.without_classes([wanted[n] for n in numbers])
        else:
            lacking = federation.held_by(numbers)
        made.append(_Planned(one, guess, {}, True, numbers, lacking))
    return made


def _attack_arms(settings: Settings, data: Data, dimension: int) -> Iterator[KeyArm]:
    """The arms of one dimension; guesses that search alike share a process."""
    network = build_embedding(data.source, dimension, settings.keys, settings.seed)
    tables = _tables(settings, data.federation, dimension)
    gan = _build_gan(settings, data, dimension)
    evaluator = _evaluator(settings, network, tables, data)
    built: dict[KeySearch | None, tuple[ClientTransform, Any]] = {}
    for planned in _plan(settings, data.federation, dimension):
        guess, federation = planned.guess, data.federation
        if guess.search not in built:
            transform = _transform(settings, gan, network, federation, tables, guess)
            process = build_key_protected(
                network,
                training=settings.training,
                transform=transform,
                seed=settings.seed,
            )
            check_process(guess.threat, process)
            built[guess.search] = transform, process
        transform, process = built[guess.search]
        private = _private(settings, gan, network, federation, tables, guess)
        # In a control not everybody has data: when all are trained is asked of attacks.
        parts = () if planned.is_control else federation.data
        local = [part.take(range(min(len(part), _LOCAL_IMAGES))) for part in parts]
        known = dataclasses.replace(evaluator, local=local)
        arm = _dssgd_arm(
            process,
            network,
            planned.federation,
            tables,
            known,
            settings,
            transform=transform,
            private={number: private[number] for number in planned.adversaries},
        )
        yield KeyArm(
            planned.name,
            dimension,
            arm,
            known,
            guess,
            gan,
            planned.controls,
            planned.is_control,
            planned.adversaries,
        )


def _transform(
    settings: Settings,
    gan: client_gan.ClientGan,
    network: Network,
    federation: Federation,
    tables: Sequence[KeyTable],
    guess: Guess,
) -> ClientTransform:
    """What adversaries with this guess do with their turns."""
    transform = client_gan.build_client_gan(gan, network)
    if guess.search is None:
        return transform
    num_keys = {len(tables[number].rows) for number in federation.adversaries}
    if len(num_keys) > 1:
        raise InputError(
            f"--guesses has {guess.name!r} with adversaries of different numbers of "
            "classes: expected as many classes for each; correct --participants"
        )
    search = dataclasses.replace(guess.search, distribution=settings.keys.distribution)
    return build_key_search(search, transform, network, num_keys.pop())


def _private(
    settings: Settings,
    gan: client_gan.ClientGan,
    network: Network,
    federation: Federation,
    tables: Sequence[KeyTable],
    guess: Guess,
) -> dict[int, Any]:
    """Each adversary's initial state, from its own random stream."""
    states = {}
    root = tf.constant(seeding.root(settings.seed))
    for number, target in zip(federation.adversaries, federation.targets, strict=True):
        key = first_key(
            guess,
            tables[federation.victim(target)].key_of(target),
            settings.keys.distribution,
            seed=settings.seed,
            adversary=number,
        )
        seed = seeding.derive(root, Role.PARTICIPANT, number)
        state = client_gan.initial_state(gan, target=key, seed=seed)
        if guess.kind is GuessKind.SEARCH:
            state = initial_search_state(
                guess.search,
                state,
                own_keys=tables[number].rows,
                num_parameters=network.num_parameters,
            )
        states[number] = state
    return states


def _dssgd_arm(
    process: Any,
    network: Network,
    federation: Federation,
    tables: Sequence[KeyTable],
    evaluator: OfflineEvaluator,
    settings: Settings,
    **attack: Any,
) -> DssgdArm:
    datasets = [
        local_dataset(table.with_rows_as_labels(part))
        for table, part in zip(tables, federation.data, strict=True)
    ]
    return DssgdArm(
        process=process,
        network=network,
        datasets=datasets,
        order=TurnOrder.FIXED,  # others are unstable, says section 5.1
        seed=settings.seed,
        accuracy=evaluator.accuracy,
        initial_client_state=client_state_maker(tables),
        measure=evaluator.measure,
        # Figure 2's mean is over the turns; beside an attack nobody asks for it.
        every_turn=settings.study is Study.ACCURACY,
        **attack,
    )


def _build_gan(settings: Settings, data: Data, dimension: int) -> client_gan.ClientGan:
    _, generator = papers_networks(
        data.source.image_shape,
        data.source.num_classes,
        settings.generator.base_filters,
    )
    return client_gan.ClientGan(
        generator=generator,
        optimizer=settings.generator.build_optimizer(),
        fake_class=FAKES_ROW,
        aim=client_gan.key_aim(dimension, settings.keys.hit_score),
        **settings.attack,
    )


def _tables(
    settings: Settings, federation: Federation, dimension: int
) -> list[KeyTable]:
    return draw_tables(federation, dimension, settings.keys.distribution, settings.seed)


def _evaluator(
    settings: Settings, network: Network, tables: Sequence[KeyTable], data: Data
) -> OfflineEvaluator:
    held = {label for table in tables for label in table.classes}
    [dimension] = network.output_shape
    normalisation = settings.keys.normalisation_of(dimension)
    return OfflineEvaluator(
        network,
        tables,
        data.test.of_classes(sorted(held)),
        each_by_itself=normalisation is not Normalisation.BATCH,
    )


def _check_dimensions(dimensions: Sequence[int]) -> None:
    if not dimensions or len(set(dimensions)) < len(dimensions):
        listed = ",".join(map(str, dimensions)) or "empty"
        raise InputError(
            f"--dimensions is {listed}: expected at least one, each once; correct the "
            "list"
        )
    for dimension in dimensions:
        if not 2 <= dimension <= _MAX_DIMENSION:
            raise InputError(
                f"--dimensions has {dimension}: expected 2 to {_MAX_DIMENSION}; the "
                "paper has 10 to 16384"
            )


def _check(settings: Settings, federation: Federation) -> None:
    if settings.study is Study.ACCURACY:
        if federation.adversaries:
            raise InputError(
                "--adversaries is not empty with --study=accuracy: expected honest "
                "participants; leave it out or choose --study=attack"
            )
        return
    if settings.own_controls and not settings.controls:
        raise InputError(
            "--own_controls is true with --controls=false: expected controls, as each "
            "attack is to have its own; leave one out"
        )
    if not federation.adversaries or not settings.guesses:
        raise InputError(
            "--adversaries or --guesses is empty with --study=attack: expected a "
            "participant that attacks and a guess of its key; name one"
        )
    for guess in settings.guesses:
        if guess.search is not None:
            _check_search(guess, settings.rounds, federation)


def _check_search(guess: Guess, rounds: int, federation: Federation) -> None:
    if guess.search.first_turn >= rounds:
        raise InputError(
            f"first_turn is {guess.search.first_turn} with --rounds={rounds} and "
            f"{guess.name!r} among --guesses: expected it below the rounds, or there "
            "is no search; correct --search"
        )
    for number in federation.adversaries:
        if not len(federation.data[number]):
            raise InputError(
                f"adversary {number} has no data, but --guesses has {guess.name!r}: "
                "expected pictures to look at; give it classes"
            )
