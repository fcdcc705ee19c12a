"""The arms of a run with class keys: what settings reach, without a process traced."""

import asyncio
import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf

from experiments import key_protected_program as program
from experiments.client_gan_program import GeneratorSettings
from experiments.federation import Data, Federation
from experiments.key_federation import KeySettings, draw_tables
from experiments.key_geometry_arm import Geometry
from experiments.key_guesses import SearchTurns, first_key, parse_guesses
from experiments.key_protected_program import Settings, Study
from tff_leak.attacks import client_gan
from tff_leak.data.sources import Examples
from tff_leak.defences.key_protection import (
    KeyDistribution,
    KeyTraining,
    key_embedding,
)
from tff_leak.errors import InputError
from tff_leak.models import classifiers
from tff_leak.runtime.seeding import Role, derive, root

SHAPE = (32, 32, 1)
SEED = 5
# What tests look for differs from its default.
SETTINGS = Settings(
    study=Study.ATTACK,
    rounds=5,
    seed=SEED,
    dimensions=[8],
    keys=KeySettings(KeyDistribution.NORMAL, fixed_from=8, hidden=4, hit_score=0.9),
    training=KeyTraining(learning_rate=0.03),
    guesses=parse_guesses(["known", "random", "drift:2"], SearchTurns(2, 1, 3)),
    controls=True,
    attack={"generator_steps": 1, "fakes_per_turn": 2, "batch_size": 2},
    generator=GeneratorSettings(base_filters=2),
    geometry=Geometry(trials=3, keys=4, others=5),
    snapshot_every=2,
)


def _holding(*labels):
    images = np.zeros((len(labels), *SHAPE), np.float32)
    return Examples(images, np.array(labels, np.int32))


def _data(classes=((0, 1), (2, 3)), adversaries=(1,), targets=(0,)):
    federation = Federation([_holding(*own) for own in classes], adversaries, targets)
    every = _holding(*range(5))
    source = types.SimpleNamespace(image_shape=SHAPE, num_classes=5)
    return Data(source, federation, judge=every, reference=every, test=every)


@pytest.fixture(scope="module")
def noted():
    """What processes are built of; none is."""
    found = []

    def build(network, **settings):
        found.append(settings)
        return f"process {len(found)}"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "build_key_protected", build)
        patch.setattr(program, "check_process", lambda threat, process: None)
        yield found


def _arms(data, **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    return program.build_experiment(settings, data).federations


@pytest.fixture(scope="module")
def built(noted):
    """Arms of an attack and of honest participants, and their processes' settings."""
    noted.clear()
    attack = _arms(_data())
    honest = _arms(_data(adversaries=(), targets=()), study=Study.ACCURACY)
    return attack, honest, list(noted)


def test_the_seed_and_the_training_reach_every_process(built):
    attack, honest, settings = built
    # One of the guesses that do not search, one of the search, one without an attack.
    assert [one["seed"] for one in settings] == 3 * [SEED]
    assert [one["training"] for one in settings] == 3 * [SETTINGS.training]
    assert {arm.arm.seed for arm in (attack | honest).values()} == {SEED}


def test_local_data_are_asked_of_attacks_alone(built):
    attack, honest, _ = built
    controls = [name for name, arm in attack.items() if arm.is_control]
    assert controls
    for name, arm in (attack | honest).items():
        counts = [len(part) for part in arm.evaluator.local]
        assert counts == ([] if name in controls or name in honest else [2, 2])


def test_the_seed_reaches_the_keys_and_the_fixed_layer(built):
    attack, honest, _ = built
    network = key_embedding(
        "direct",
        classifiers.hitaj_mnist,
        8,
        hidden=4,
        normalisation=SETTINGS.keys.normalisation,
        seed=SEED,
    )
    expected = network.initialize(tf.constant([0, 0])).statistics[0]
    for arm in (attack["known_d8"], honest["d8"]):
        [fixed] = arm.arm.network.initialize(tf.constant([1, 1])).statistics
        np.testing.assert_array_equal(fixed, expected)
    drawn = draw_tables(_data().federation, 8, KeyDistribution.NORMAL, SEED)
    for table, expected in zip(attack["known_d8"].evaluator.tables, drawn, strict=True):
        np.testing.assert_array_equal(table.rows, expected.rows)


def test_the_seed_reaches_the_adversarys_key_and_generator(built):
    arm = built[0]["random_d8"]
    true_key = arm.evaluator.tables[0].key_of(0)
    key = first_key(arm.guess, true_key, KeyDistribution.NORMAL, seed=SEED, adversary=1)
    stream = derive(root(SEED), Role.PARTICIPANT, 1)
    expected = client_gan.initial_state(arm.gan, target=key, seed=stream)
    tf.nest.map_structure(np.testing.assert_array_equal, arm.arm.private[1], expected)


def test_the_seed_reaches_pictures_and_keys_alone(built, monkeypatch):
    arm = built[0]["known_d8"]
    experiment = program.Experiment(SETTINGS, None, {}, {})
    seeds = []

    def sample(gan, generator, count, seed):
        seeds.append(seed)
        return tf.zeros([count, *SHAPE])

    monkeypatch.setattr(program.client_gan, "sample", sample)
    row = types.SimpleNamespace(generator=tf.zeros([1]))
    monkeypatch.setattr(program, "only_row", lambda private: row)
    clients = 2 * [types.SimpleNamespace(private=None)]
    state = types.SimpleNamespace(clients=clients)
    drawn = program.draw(experiment, arm, state, 3, 4)
    assert list(drawn) == [1] and drawn[1].shape == (3, *SHAPE)
    np.testing.assert_array_equal(seeds, [derive(root(SEED), Role.SAMPLES, 1, 4)])
    settings = dataclasses.replace(SETTINGS, study=Study.SHARED_CLASSES)
    alone = program.build_experiment(settings, None).geometry.values()
    assert [arm.seed for arm in alone] == [SEED, SEED]
    assert all(arm.sizes == SETTINGS.geometry and arm.shared for arm in alone)


def test_in_a_control_only_those_attack_whose_control_it_is(noted):
    data = _data(((0, 1), (2, 3), (4, 0)), (0, 1, 2), (2, 4, 3))
    arms = _arms(data, guesses=parse_guesses(["known", "random"]))
    for name in ("known", "random"):
        assert sorted(arms[f"{name}_d8"].arm.private) == [0, 1, 2]
        for number in range(3):
            alone = arms[f"control_{name}_d8_{number}"]
            assert list(alone.arm.private) == list(alone.adversaries) == [number]


def test_the_hit_score_and_the_row_of_fakes_reach_the_attack(built):
    gan = built[0]["known_d8"].gan
    outputs = tf.constant([[0.8, 0.6] + 6 * [0.0], [0.95, 0.3] + 6 * [0.0]])
    key = tf.one_hot(0, 8)
    assert gan.aim.hits(outputs, key).numpy().tolist() == [False, True]
    assert gan.fake_class == 0
    assert (gan.generator_steps, gan.fakes_per_turn, gan.batch_size) == (1, 2, 2)


def test_adversaries_that_search_need_as_many_keys(noted):
    data = _data(((0, 1), (2, 3), (4,)), (1, 2), (0, 0))
    with pytest.raises(InputError, match="'drift:2' with adversaries of different num"):
        _arms(data)
    # Those that do not search may have what they like.
    assert len(_arms(data, guesses=parse_guesses(["known"]))) == 2


@pytest.mark.parametrize("every, kept", [(2, [2, 4, 5]), (1, [1, 2, 3, 4, 5])])
def test_generators_are_looked_at_now_and_then_and_at_the_end(
    built, monkeypatch, every, kept
):
    settings = dataclasses.replace(SETTINGS, snapshot_every=every)
    names = ("control_known_d8", "known_d8")
    arms = {name: built[0][name] for name in names}
    experiment = program.Experiment(settings, None, arms, {})
    taken = {}

    async def run(arms, *, rounds, directory, progress, on_round):
        states = {name: f"state of {name}" for name in arms}
        for number in range(1, rounds + 1):
            found = on_round(number, states, {})
            if found is not None:
                taken[number] = found
        return states

    def draw(experiment, arm, state, count, round_num):
        assert state == f"state of {arm.name}"
        return {1: (count, round_num)}

    monkeypatch.setattr(program.program, "run", run)
    monkeypatch.setattr(program, "draw", draw)
    asyncio.run(program.run(experiment, None, None))
    # The control's generators, too.
    assert taken == {
        number: {"control_known_d8/1": (40, number), "known_d8/1": (40, number)}
        for number in kept
    }
