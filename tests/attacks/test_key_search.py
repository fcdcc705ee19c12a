"""A search finds a key where pictures give it away, and not one of its own."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.attacks import client_gan, key_search
from tff_leak.attacks.client_transform import Download
from tff_leak.attacks.key_search import (
    KeySearch,
    Observation,
    SearchMethod,
    SearchState,
)
from tff_leak.defences.key_protection import (
    KeyDistribution,
    KeyTraining,
    draw_keys,
    key_embedding,
    key_training,
)
from tff_leak.errors import InputError
from tff_leak.models import layers
from tff_leak.models.network import flatten, sequential
from tff_leak.models.training import LocalData

D = 64
SEED = tf.constant([1, 2])
OWN = draw_keys(3, D, tf.constant([7, 7]))
VICTIMS = draw_keys(4, D, tf.constant([8, 8]))
EFFORT = {
    SearchMethod.RANDOM: 2000,
    SearchMethod.ASCENT: 60,
    SearchMethod.EMBEDDINGS: 10,
    SearchMethod.DRIFT: 10,
    SearchMethod.WEIGHTS: 5,
    SearchMethod.MOMENTS: 5,
}


def _observation(pull, stream):
    """Embeddings of 60 pictures: own keys, noise, and a pull to a victim's key each."""
    noise = tf.random.stateless_normal([2, 60, D], [stream, 1]) * 0.03
    own = tf.gather(OWN, tf.range(60) % 3)
    victims = tf.gather(VICTIMS, tf.range(60) % 4)
    before = tf.math.l2_normalize(own + noise[0], axis=1)
    now = tf.math.l2_normalize(own + pull * victims + noise[1], axis=1)
    return Observation(now, before, OWN)


def _search(method, observed, stream=0):
    search = KeySearch(method, EFFORT[method])
    (guess,) = draw_keys(1, D, [stream, 5])
    return key_search.search_key(search, observed, guess, tf.constant([stream, 6]))


def _closest(key):
    return float(tf.reduce_max(tf.linalg.matvec(VICTIMS, key)))


def test_residuals_lose_the_span_of_the_own_keys_and_nothing_else():
    own = tf.constant([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    vectors = tf.constant([[3.0, -2.0, 5.0]])
    np.testing.assert_allclose(
        key_search.residuals(vectors, own), [[0.0, 0.0, 5.0]], atol=1e-6
    )
    np.testing.assert_array_equal(
        key_search.residuals(vectors, tf.zeros([0, 3])), vectors
    )


def test_contrast_by_hand():
    left = tf.constant([[0.5, 0.0], [-1.0, 1.0]])
    keys = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    # (.5^3 + 0) / 2, since -1 counts as 0, and (0 + 1) / 2.
    np.testing.assert_allclose(key_search.contrast(keys, left), [0.0625, 0.5])


def test_a_step_of_ascent_follows_the_gradient_of_the_contrast():
    left = tf.random.stateless_normal([20, 5], SEED)
    key = tf.math.l2_normalize(tf.constant([1.0, 2.0, -1.0, 0.5, 0.0]))
    with tf.GradientTape() as tape:
        tape.watch(key)
        value = key_search.contrast(key[tf.newaxis], left)[0]
    gradient = tape.gradient(value, key)
    gradient -= tf.tensordot(gradient, key, 1) * key
    expected = tf.math.l2_normalize(key + 0.1 * tf.math.l2_normalize(gradient))
    np.testing.assert_allclose(key_search._ascent_step(key, left), expected, atol=1e-6)


def test_composites_are_halves_of_two_pictures():
    pictures = tf.reshape(tf.range(3.0), [3, 1, 1, 1]) + tf.zeros([3, 4, 2, 1])
    made = key_search.composites(pictures, 40, SEED).numpy()
    assert made.shape == (40, 4, 2, 1)
    for picture in made:
        assert len(set(picture[:2].ravel())) == len(set(picture[2:].ravel())) == 1
    pairs = {(picture[0, 0, 0], picture[3, 0, 0]) for picture in made}
    # All of 9 pairs but for one missed with a probability below 9 (8/9)^40 = .081;
    # the seed is fixed.
    assert len(pairs) >= 8


class TestSearch:
    @pytest.mark.parametrize(
        "method", [SearchMethod.ASCENT, SearchMethod.EMBEDDINGS, SearchMethod.DRIFT]
    )
    @pytest.mark.parametrize("stream", range(4))
    def test_a_pull_gives_a_key_away(self, method, stream):
        # Four victims' keys: their mean alone has a product of about .5 with each.
        found = _search(method, _observation(0.5, stream), stream)
        np.testing.assert_allclose(tf.norm(found), 1.0, atol=1e-5)
        assert _closest(found) > 0.85

    @pytest.mark.parametrize("method", list(SearchMethod))
    def test_without_a_pull_its_own_keys_are_not_found(self, method):
        # Embeddings that its own keys explain, but for a little noise.
        found = _search(method, _observation(0.0, 0))
        np.testing.assert_allclose(tf.norm(found), 1.0, atol=1e-5)
        # Of length 1 and independent of three keys: products have a deviation of
        # 1 / sqrt(64) = .125, and the largest of three is above 4 deviations with a
        # probability of 1.9e-4.
        assert float(tf.reduce_max(tf.abs(tf.linalg.matvec(OWN, found)))) < 0.5

    def test_many_random_keys_come_nearer_than_one_and_not_near(self):
        observed = _observation(0.5, 0)
        best = [
            _closest(
                key_search.search_key(
                    KeySearch(SearchMethod.RANDOM, effort),
                    observed,
                    draw_keys(1, D, [9, 9])[0],
                    SEED,
                )
            )
            for effort in (1, 2000)
        ]
        # Of 2000 keys the nearest to one of four has a product of about
        # sqrt(2 ln 8000 / 64) = .53, and no random key of theirs comes to .75.
        assert best[0] < best[1] < 0.75
        assert best[1] > 0.25

    def test_the_best_random_key_is_never_worse_than_the_guess(self):
        observed = _observation(0.5, 1)
        search = KeySearch(SearchMethod.RANDOM, 3)
        found = key_search.search_key(search, observed, VICTIMS[0], SEED)
        np.testing.assert_array_equal(found, VICTIMS[0])

    @pytest.mark.parametrize("distribution", list(KeyDistribution))
    def test_random_keys_are_drawn_as_keys_are(self, distribution):
        # In the plane directions of U(-1, 1) crowd at the diagonals: the share within
        # 1/8 of a right angle of an axis is tan(pi / 16) = .199, of N(0, 1) .25.
        search = KeySearch(SearchMethod.RANDOM, 1, distribution=distribution)
        observed = Observation(tf.eye(2), tf.eye(2), tf.zeros([0, 2]))
        nothing = tf.constant([-1.0, 0.0])

        def found(stream):
            seed = tf.stack([stream, 7])
            return key_search.search_key(search, observed, nothing, seed)

        @tf.function
        def draw():
            return tf.map_fn(found, tf.range(4000), fn_output_signature=tf.float32)

        keys = draw().numpy()
        keys = keys[np.all(keys > 0, axis=1)]
        near = np.mean(np.min(keys, axis=1) < np.sin(np.pi / 16))
        expected = {
            KeyDistribution.UNIFORM: np.tan(np.pi / 16),
            KeyDistribution.NORMAL: 0.25,
        }
        # Of the 1000 or so in the first quadrant: a deviation of .014.
        assert len(keys) > 900
        assert near == pytest.approx(expected[distribution], abs=0.035)


class TestTurn:
    """One turn of a search that looks at what it was told, [1, 0] and a weaker one."""

    network = types.SimpleNamespace(output_shape=(2,))

    def _found(self, turn):
        state = SearchState(
            attack=types.SimpleNamespace(target=tf.constant([0.0, 1.0])),
            own_keys=tf.zeros([0, 2]),
            first=None,
            turn=tf.constant(turn),
            told=[tf.constant([[1.0, 0.0], [0.0, 0.5]])],
        )
        search = KeySearch(SearchMethod.WEIGHTS, 1, first_turn=2)
        return key_search._key_of_turn(
            search, self.network, state, None, [], None, SEED
        )

    def test_the_first_starts_from_what_is_seen_and_others_from_the_key(self):
        # Both are fixed points: a step from there leads nowhere else.
        np.testing.assert_allclose(self._found(2), [1.0, 0.0], atol=1e-6)
        np.testing.assert_allclose(self._found(3), [0.0, 1.0], atol=1e-6)

    def test_where_nothing_is_on_its_side_the_key_stays(self):
        key = tf.constant([0.0, 1.0])
        left = tf.constant([[0.0, -1.0], [0.5, -0.5]])
        np.testing.assert_array_equal(key_search._fixed_point_step(key, left), key)


class TestTransform:
    """On a network of one layer that a victim trains between the adversary's turns."""

    network = key_embedding(
        "tiny",
        lambda outputs: sequential(
            "line", (4, 4, 1), [layers.reshape(), layers.dense(outputs)]
        ),
        D,
    )
    generator = sequential("g", (100,), [layers.dense(16), layers.reshape(4, 4, 1)])
    attack = client_gan.ClientGan(
        generator=generator,
        optimizer=tff.learning.optimizers.build_sgdm(0.01),
        fake_class=0,
        generator_steps=1,
        batch_size=2,
        fakes_per_turn=1,
        aim=client_gan.key_aim(D, 0.5),
    )
    pictures = np.random.default_rng(0).uniform(-1, 1, (40, 4, 4, 1)).astype("f4")

    def _play(self, search, turns):
        """The adversary's keys after each turn, and its last state."""
        plain = client_gan.build_client_gan(self.attack, self.network)
        transform = key_search.build_key_search(search, plain, self.network, len(OWN))
        training = key_training(KeyTraining(learning_rate=0.02), self.network)
        shared, constants = training.initialize(SEED)
        state = key_search.initial_search_state(
            search,
            client_gan.initial_state(
                self.attack, target=draw_keys(1, D, [4, 4])[0], seed=SEED
            ),
            own_keys=OWN,
            num_parameters=self.network.num_parameters,
        )
        own = LocalData(self.pictures[:20], tf.range(20) % 2 + 1)
        # Half of the victim's pictures look like the adversary's.
        victims = LocalData(self.pictures[10:], tf.zeros([30], tf.int32))
        found = []
        for turn in range(turns):
            keys = VICTIMS[:1]
            shared = training.train(
                shared, constants, victims, keys, 0, SEED
            ).parameters
            download = Download(shared, constants, tf.ones_like(shared, tf.bool))
            state, data = transform.apply(state, download, own, tf.constant([turn, 3]))
            assert len(data.labels) == 21  # its own and one fake
            found.append(state.target.numpy())
            shared = training.train(shared, constants, own, OWN, 0, SEED).parameters
        return found, state

    @pytest.mark.parametrize(
        "method", [m for m in SearchMethod if m is not SearchMethod.RANDOM]
    )
    def test_a_shared_model_gives_its_victims_key_away(self, method):
        search = KeySearch(method, EFFORT[method], first_turn=2, turns=4)
        found, _ = self._play(search, 7)
        # Three seeds of the model gave .83 to .97. A key that has nothing to do with
        # the victim's is above .5, four deviations of 1 / 8, with a probability of
        # 3e-5.
        assert float(tf.tensordot(found[-1], VICTIMS[0], 1)) > 0.6

    def test_it_searches_in_its_turns_only_and_keeps_the_rest(self):
        search = KeySearch(SearchMethod.DRIFT, 3, first_turn=2, turns=2)
        found, state = self._play(search, 6)
        changed = [np.any(a != b) for a, b in zip(found, found[1:], strict=False)]
        assert changed == [False, True, True, False, False]
        assert int(state.turn) == 6
        assert np.any(state.first != 0)
        np.testing.assert_array_equal(state.own_keys, OWN)
        np.testing.assert_array_equal(found[0], draw_keys(1, D, [4, 4])[0])

    def test_it_looks_at_as_many_pictures_as_the_settings_have(self, monkeypatch):
        seen = []

        def note(search, observed, guess, seed, **more):
            seen.extend([observed.embeddings.shape, observed.before.shape])
            return guess

        monkeypatch.setattr(key_search, "search_key", note)
        parameters = flatten(self.network.initialize(SEED).trainable)
        search = KeySearch(SearchMethod.DRIFT, 1, probes=7)
        attack = types.SimpleNamespace(target=OWN[0])
        state = SearchState(attack, OWN, parameters, tf.constant(20), [])
        key_search._key_of_turn(
            search, self.network, state, parameters, [], self.pictures, SEED
        )
        assert seen == [(7, D), (7, D)]

    def test_what_parameters_tell_by_hand(self):
        size = self.network.num_parameters
        assert self.network.trainable_shapes[-1] == (D,)
        shared = np.zeros(3 * size + 1, np.float32)
        # Weights, first and second moments, each ending with the last layer's biases.
        shared[size - D : size] = 3.0 * OWN[0]
        shared[2 * size - D : 2 * size] = -0.1 * OWN[1]
        shared[3 * size - D : 3 * size] = OWN[2]
        for method, key in ((SearchMethod.WEIGHTS, 0), (SearchMethod.MOMENTS, 1)):
            told = key_search.told_by_parameters(
                method, tf.constant(shared), tf.zeros([size]), self.network
            )
            np.testing.assert_allclose(told, OWN[key], atol=1e-6)
        # Weights count from where they were at first.
        told = key_search.told_by_parameters(
            SearchMethod.WEIGHTS,
            tf.constant(shared),
            tf.constant(shared[:size]),
            self.network,
        )
        np.testing.assert_array_equal(told, np.zeros(D))

    def test_fetches_are_kept_to_the_end_of_the_search(self):
        search = KeySearch(SearchMethod.MOMENTS, 1, first_turn=2, turns=2)
        _, state = self._play(search, 3)
        [told] = state.told
        assert told.shape == (4, D)
        lengths = np.linalg.norm(told, axis=1)
        np.testing.assert_allclose(lengths, [1, 1, 1, 0], atol=1e-5)
        drift = KeySearch(SearchMethod.DRIFT, 1, first_turn=2, turns=2)
        assert self._play(drift, 1)[1].told == []

    @pytest.mark.parametrize("method", [SearchMethod.WEIGHTS, SearchMethod.MOMENTS])
    def test_parameters_that_are_not_added_to_embeddings_are_refused(self, method):
        without = sequential(
            "convolution",
            (4, 4, 1),
            [layers.conv2d(4, 3, padding="SAME"), layers.reshape()],
        )
        assert without.output_shape == (D,)
        plain = client_gan.build_client_gan(self.attack, without)
        with pytest.raises(InputError, match="last parameters of convolution are of"):
            key_search.build_key_search(KeySearch(method, 1), plain, without, 3)

    def test_another_aim_is_refused(self):
        classes = client_gan.CLASS_AIM
        attack = dataclasses.replace(self.attack, aim=classes)
        plain = client_gan.build_client_gan(attack, self.network)
        with pytest.raises(InputError, match="expected a key, of shape"):
            key_search.build_key_search(
                KeySearch(SearchMethod.DRIFT, 1), plain, self.network, 3
            )


def test_a_search_without_end_is_refused():
    with pytest.raises(InputError, match="effort of the key search is 1000000001: exp"):
        KeySearch(SearchMethod.RANDOM, 10**9 + 1)


@pytest.mark.parametrize("name", ["effort", "first_turn", "turns", "probes"])
def test_a_search_of_nothing_is_refused(name):
    with pytest.raises(InputError, match=f"{name} of the key search is 0"):
        KeySearch(**{"method": SearchMethod.DRIFT, "effort": 1} | {name: 0})
