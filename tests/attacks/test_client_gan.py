"""The client GAN attack: each step of algorithm 1, and mutations that must show."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.attacks import client_gan
from tff_leak.attacks.client_gan import (
    ClientGan,
    Replica,
    build_client_gan,
    initial_state,
)
from tff_leak.attacks.client_transform import Download
from tff_leak.errors import InputError
from tff_leak.models import classifiers, generators, layers
from tff_leak.models.network import flatten, sequential
from tff_leak.models.training import LocalData

SEED = tf.constant([11, 12])
SHAPE = (8, 8, 1)
FAKE_CLASS = 3
CLASSIFIER = classifiers.mlp(4, SHAPE, hidden=16)
GENERATOR = sequential(
    "small_generator",
    (generators.LATENT_SIZE,),
    [
        layers.dense(32, initializer=layers.normal(0, 0.1)),
        layers.batch_norm(scale=layers.ones),
        layers.activation(tf.nn.relu),
        layers.dense(64, initializer=layers.normal(0, 0.1)),
        layers.activation(tf.nn.tanh),
        layers.reshape(*SHAPE),
    ],
)


@functools.cache
def _attack(**changes) -> ClientGan:
    settings = {
        "generator": GENERATOR,
        "optimizer": tff.learning.optimizers.build_sgdm(0.1),
        "fake_class": FAKE_CLASS,
        "generator_steps": 10,
        "batch_size": 16,
        "fakes_per_turn": 6,
    }
    return ClientGan(**{**settings, **changes})


def _download():
    weights = CLASSIFIER.initialize(SEED)
    parameters = flatten(weights.trainable)
    return Download(parameters, [], tf.ones_like(parameters, tf.bool))


def _own_data(count=5):
    images = tf.random.stateless_uniform([count, *SHAPE], SEED, -1, 1)
    return LocalData(images, tf.fill([count], 2))


@functools.cache
def _graph(attack):
    """Kept for turns of the same attack: to trace it takes longer than to run it."""
    return tf.function(build_client_gan(attack, CLASSIFIER).apply)


def _turn(attack, state=None, data=None, seed=SEED, download=None):
    """One turn in a graph, as in a TFF computation."""
    if state is None:
        state = initial_state(attack, target=1, seed=SEED)
    return _graph(attack)(state, download or _download(), data or _own_data(), seed)


def test_generator_learns_what_the_discriminator_takes_for_the_target():
    attack = _attack(generator_steps=150)
    state, _ = _turn(attack)
    before = initial_state(attack, target=1, seed=SEED)

    def loss(weights):
        images = client_gan.sample(attack, weights, 200, tf.constant([1, 1]))
        logits = CLASSIFIER.outputs(CLASSIFIER.initialize(SEED), images)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            tf.fill([200], 1), logits
        )
        return float(tf.reduce_mean(losses))

    assert loss(state.generator) < 0.5 * loss(before.generator)
    assert int(state.last_turn.generator_steps) == 150


def test_the_attack_aims_at_its_target_only():
    download = _download()
    for target in (0, 2):
        attack = _attack(generator_steps=100)
        state = initial_state(attack, target=target, seed=SEED)
        state, _ = _turn(attack, state, download=download)
        images = client_gan.sample(attack, state.generator, 100, tf.constant([1, 1]))
        answers = tf.argmax(CLASSIFIER.outputs(CLASSIFIER.initialize(SEED), images), 1)
        assert np.mean(answers.numpy() == target) > 0.9


def test_one_step_is_sgd_on_the_cross_entropy_to_the_target():
    attack = _attack(generator_steps=1)
    start = initial_state(attack, target=1, seed=SEED)
    state, _ = _turn(attack, start)
    # The same step, written out with variables and TensorFlow's own optimiser.
    seed = tf.random.fold_in(tf.random.fold_in(SEED, 6), 0)  # Role.LATENT, step 0
    latents = tf.random.stateless_uniform([16, 100], seed, -1, 1)
    variables = [tf.Variable(w) for w in start.generator.trainable]
    with tf.GradientTape() as tape:
        weights = start.generator._replace(trainable=variables)
        images, _ = GENERATOR.apply(weights, latents, True)
        logits = CLASSIFIER.outputs(CLASSIFIER.initialize(SEED), images)
        loss = tf.reduce_mean(-tf.nn.log_softmax(logits)[:, 1])
    gradients = tape.gradient(loss, variables)
    for variable, gradient, after in zip(
        variables, gradients, state.generator.trainable, strict=True
    ):
        np.testing.assert_allclose(variable - 0.1 * gradient, after, atol=2e-6)
    np.testing.assert_allclose(state.last_turn.loss, loss, rtol=1e-5)


def test_fakes_are_merged_under_the_class_of_the_fakes():
    attack = _attack()
    own = _own_data()
    state, data = _turn(attack, data=own)
    np.testing.assert_array_equal(data.inputs[:5], own.inputs)
    assert data.labels.numpy().tolist() == [2] * 5 + [FAKE_CLASS] * 6
    # They are what the generator of this turn draws.
    seed = tf.random.fold_in(SEED, 7)  # Role.FAKES
    drawn = client_gan.sample(attack, state.generator, 6, seed)
    np.testing.assert_allclose(data.inputs[5:], drawn, atol=1e-6)
    assert int(state.last_turn.injected) == 6


def test_an_adversary_without_data_trains_on_fakes_alone():
    empty = LocalData(tf.zeros([0, *SHAPE]), tf.zeros([0], tf.int32))
    _, data = _turn(_attack(), data=empty)
    assert data.labels.numpy().tolist() == [FAKE_CLASS] * 6


def test_without_influence_the_generator_learns_but_data_stay_as_they_are():
    own = _own_data()
    state, data = _turn(_attack(influence=False), data=own)
    np.testing.assert_array_equal(data.inputs, own.inputs)
    np.testing.assert_array_equal(data.labels, own.labels)
    assert int(state.last_turn.generator_steps) == 10
    assert int(state.last_turn.injected) == 0


def test_replay_pool_holds_the_last_turns_newest_first():
    attack = _attack(replay_turns=2)
    state, fakes = None, []
    for turn in range(4):
        state, data = _turn(attack, state, seed=tf.constant([turn, 5]))
        fakes.append(data.inputs[5:11].numpy())
        expected = np.concatenate(fakes[::-1][:3])
        np.testing.assert_array_equal(data.inputs[5:], expected)
        assert int(state.replay_filled) == min(turn + 1, 2)
        assert int(state.last_turn.injected) == 6 * min(turn + 1, 3)


def test_generator_rests_when_the_discriminator_is_convinced():
    eager = _attack(generator_steps=400, stop_share=0.75, stop_window=15)
    state, _ = _turn(eager)
    steps = int(state.last_turn.generator_steps)
    assert 15 <= steps < 400
    # Convinced from the start on: the next turn stops after exactly the window.
    state, _ = _turn(eager, state)
    assert int(state.last_turn.generator_steps) == 15


def test_attack_waits_for_the_start_accuracy_and_then_goes_on():
    own = _own_data()
    weights = CLASSIFIER.initialize(SEED)
    answers = tf.argmax(CLASSIFIER.outputs(weights, own.inputs), 1, tf.int32)
    attack = _attack(start_accuracy=1.0)
    wrong = LocalData(own.inputs, (answers + 1) % 3)
    state, data = _turn(attack, data=wrong)
    assert not bool(state.started)
    assert int(state.last_turn.generator_steps) == 0
    assert data.labels.shape == (5,)
    right = LocalData(own.inputs, answers)
    state, data = _turn(attack, state, data=right)
    assert bool(state.started)
    assert float(state.last_turn.own_accuracy) == 1.0
    assert data.labels.shape == (11,)
    state, data = _turn(attack, state, data=wrong)
    assert int(state.last_turn.injected) == 6  # once started, it does not stop


def test_a_replica_of_what_was_fetched_leaves_out_own_training():
    attack = _attack(replica=Replica.FETCHED)
    size = CLASSIFIER.num_parameters
    start = initial_state(attack, target=1, seed=SEED, num_parameters=size)
    first = _download()
    # Nothing fetched: before its first turn the adversary has the server's own model.
    none = tf.zeros([size], tf.bool)
    state, _ = _turn(attack, start, download=first._replace(fetched=none))
    np.testing.assert_array_equal(state.replica[1:], first.parameters)
    # Then it trains; of the next download every third number is the server's.
    fetched = tf.range(size) % 3 == 0
    second = Download(first.parameters + 0.1, [], fetched)
    after, _ = _turn(attack, state, download=second)
    expected = tf.where(fetched, second.parameters, first.parameters)
    np.testing.assert_array_equal(after.replica[1:], expected)
    # The generator has met that model, and not the adversary's own.
    plain = state._replace(replica=tf.zeros([0]))
    met, _ = _turn(_attack(), plain, download=second._replace(parameters=expected))
    own, _ = _turn(_attack(), plain, download=second)
    weights = [flatten(s.generator.trainable).numpy() for s in (after, met, own)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.abs(weights[0] - weights[2]).max() > 0
    with pytest.raises(InputError, match="num_parameters is 0 with replica fetched"):
        initial_state(attack, target=1, seed=SEED)


def test_the_same_seed_gives_the_same_turn_and_another_seed_another():
    attack = _attack()
    one, first = _turn(attack)
    _graph.cache_clear()  # Of a graph that is traced anew, too.
    two, second = _turn(attack)
    _, other = _turn(attack, seed=tf.constant([11, 13]))
    np.testing.assert_array_equal(first.inputs, second.inputs)
    for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(two), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.inputs.numpy() != other.inputs.numpy()).any()


@pytest.mark.parametrize("build", ["build_adam", "build_rmsprop"])
def test_other_optimisers_keep_their_state_between_turns(build):
    optimizer = getattr(tff.learning.optimizers, build)(0.001)
    attack = _attack(optimizer=optimizer)
    state, _ = _turn(attack)
    before = initial_state(attack, target=1, seed=SEED)
    changed = [
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(
            tf.nest.flatten(before.optimizer),
            tf.nest.flatten(state.optimizer),
            strict=True,
        )
    ]
    assert any(changed)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"generator_steps": 0}, "generator_steps is 0: expected at least 1"),
        ({"fakes_per_turn": 0}, "fakes_per_turn is 0: expected at least 1"),
        ({"stop_share": 1.5}, r"stop_share is 1.5: expected a share in \[0, 1\]"),
        ({"start_accuracy": -0.1}, "start_accuracy is -0.1: expected a share"),
        ({"replay_turns": -1}, "replay_turns is -1: expected 0"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(InputError, match=message):
        _attack(**change)


class TestKeyAim:
    """A guessed key in the place of a class (CLASSIFIER's outputs as embedding)."""

    key = tf.constant([0.6, 0.0, -0.8, 0.0])

    def _attack(self, hit_score=0.5, **changes):
        return _attack(aim=client_gan.key_aim(4, hit_score), **changes)

    def _turn(self, attack, **kwargs):
        state = initial_state(attack, target=self.key, seed=SEED)
        return _turn(attack, state, **kwargs)

    def test_loss_and_hits_by_hand(self):
        aim = client_gan.key_aim(2, 0.5)
        outputs = tf.constant([[1.0, 0.0], [0.0, 1.0], [0.5, 0.0]])
        key = tf.constant([1.0, 0.0])
        assert float(aim.loss(outputs, key)) == -0.5
        assert aim.hits(outputs, key).numpy().tolist() == [True, False, True]

    def test_one_step_is_sgd_on_minus_the_score(self):
        attack = self._attack(generator_steps=1)
        start = initial_state(attack, target=self.key.numpy(), seed=SEED)
        state, _ = _turn(attack, start)
        seed = tf.random.fold_in(tf.random.fold_in(SEED, 6), 0)  # Role.LATENT, step 0
        latents = tf.random.stateless_uniform([16, 100], seed, -1, 1)
        variables = [tf.Variable(w) for w in start.generator.trainable]
        with tf.GradientTape() as tape:
            weights = start.generator._replace(trainable=variables)
            images, _ = GENERATOR.apply(weights, latents, True)
            outputs = CLASSIFIER.outputs(CLASSIFIER.initialize(SEED), images)
            score = tf.reduce_mean(0.6 * outputs[:, 0] - 0.8 * outputs[:, 2])
            loss = -score
        gradients = tape.gradient(loss, variables)
        for variable, gradient, after in zip(
            variables, gradients, state.generator.trainable, strict=True
        ):
            np.testing.assert_allclose(variable - 0.1 * gradient, after, atol=2e-6)
        np.testing.assert_allclose(state.last_turn.loss, loss, rtol=1e-5)
        np.testing.assert_array_equal(state.target, self.key)

    def test_fakes_get_the_row_that_the_adversary_keeps_for_them(self):
        _, data = self._turn(self._attack(fake_class=7))
        assert data.labels.numpy().tolist() == [2] * 5 + [7] * 6

    def test_generator_rests_when_scores_are_high(self):
        eager = self._attack(-1.0, stop_share=1.0, stop_window=3)
        state, _ = self._turn(eager)
        assert int(state.last_turn.generator_steps) == 3
        never = self._attack(1.0, stop_share=1.0, stop_window=3, generator_steps=4)
        state, _ = self._turn(never)
        assert int(state.last_turn.generator_steps) == 4

    def test_the_model_is_the_first_part_of_the_download(self):
        download = _download()
        longer = download._replace(
            parameters=tf.concat([download.parameters, tf.fill([9], 7.0)], axis=0)
        )
        short, _ = self._turn(self._attack(), download=download)
        long, _ = self._turn(self._attack(), download=longer)
        for one, other in zip(
            tf.nest.flatten(short), tf.nest.flatten(long), strict=True
        ):
            np.testing.assert_array_equal(one, other)

    def test_contradictions_are_refused(self):
        message = r"target has shape \(3,\): expected \(4,\)"
        with pytest.raises(InputError, match=message):
            initial_state(self._attack(), target=[1.0, 0.0, 0.0], seed=SEED)
        with pytest.raises(InputError, match=r"target has shape \(4,\): expected \(\)"):
            initial_state(_attack(), target=[1, 0, 0, 0], seed=SEED)
        with pytest.raises(InputError, match=r"targets of shape \(5,\): expected the"):
            build_client_gan(_attack(aim=client_gan.key_aim(5, 0.5)), CLASSIFIER)
        with pytest.raises(InputError, match="fake class is -1: expected a row"):
            build_client_gan(self._attack(fake_class=-1), CLASSIFIER)
        with pytest.raises(InputError, match="start_accuracy is 0.5: expected 0 for"):
            build_client_gan(self._attack(start_accuracy=0.5), CLASSIFIER)
        with pytest.raises(InputError, match=r"hit_score is 1.5: expected a score"):
            client_gan.key_aim(4, 1.5)
        with pytest.raises(InputError, match="key dimension is 0: expected 1 or more"):
            client_gan.key_aim(0, 0.5)


def test_generator_and_model_must_fit():
    attack = dataclasses.replace(_attack(), generator=generators.hitaj_mnist(4))
    with pytest.raises(InputError, match="draws .32, 32, 1.: expected the input"):
        build_client_gan(attack, CLASSIFIER)
    with pytest.raises(InputError, match="fake class is 4: expected one of the 4"):
        build_client_gan(_attack(fake_class=4), CLASSIFIER)
