"""Class keys: their geometry, the scores, and training by hand and by NumPy."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.defences import key_protection
from tff_leak.defences.key_protection import (
    KeyDistribution,
    KeyTraining,
    Normalisation,
    Regularised,
    check_keys,
    decide,
    draw_keys,
    feature_moments,
    key_at_distance,
    key_embedding,
    key_features,
    key_training,
    largest_overlap,
    scores,
)
from tff_leak.errors import InputError
from tff_leak.models import classifiers, layers
from tff_leak.models.network import Weights, sequential, unflatten
from tff_leak.models.training import LocalData
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role, derive

SEED = tf.constant([3, 4])


def _linear(outputs):
    return sequential("linear", (2,), [layers.dense(outputs)])


class TestKeys:
    @pytest.mark.parametrize("distribution", KeyDistribution)
    def test_they_have_length_1_and_depend_on_the_seed(self, distribution):
        keys = draw_keys(5, 7, SEED, distribution)
        assert keys.shape == (5, 7)
        np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1.0, rtol=1e-6)
        np.testing.assert_array_equal(keys, draw_keys(5, 7, SEED, distribution))
        assert np.all(keys != draw_keys(5, 7, tf.constant([3, 5]), distribution))
        assert draw_keys(0, 7, SEED, distribution).shape == (0, 7)

    def test_uniform_numbers_are_bounded_and_normal_ones_are_not(self):
        def largest(distribution):
            keys = draw_keys(50, 1000, SEED, distribution)
            return float(tf.reduce_max(tf.abs(keys))) * math.sqrt(1000)

        # In units of a number's deviation: sqrt(3) for uniform ones, up to the
        # length's own; 50,000 normal ones reach 4.
        assert largest(KeyDistribution.UNIFORM) < 1.9
        assert largest(KeyDistribution.NORMAL) > 3.5

    def test_the_largest_overlap_by_hand(self):
        keys = tf.constant([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        assert float(largest_overlap(keys)) == pytest.approx(0.8)
        opposite = tf.constant([[1.0, 0.0], [-1.0, 0.0]])
        assert float(largest_overlap(opposite)) == -1.0

    @pytest.mark.parametrize("distribution", KeyDistribution)
    def test_overlap_of_100_keys_is_that_of_numpys(self, distribution):
        dimension, draws = 64, 60
        ours = [
            float(largest_overlap(draw_keys(100, dimension, seed, distribution)))
            for seed in tf.stack([tf.range(draws), tf.range(draws)], axis=1)
        ]
        rng = np.random.default_rng(0)
        theirs = []
        for _ in range(draws):
            numbers = rng.uniform(-1, 1, (100, dimension))
            if distribution is KeyDistribution.NORMAL:
                numbers = rng.normal(size=(100, dimension))
            numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
            theirs.append(np.max(np.triu(numbers @ numbers.T, 1)))
        error = math.sqrt((np.var(ours) + np.var(theirs)) / draws)
        assert abs(np.mean(ours) - np.mean(theirs)) < 5 * error
        # A product of random directions is sub-Gaussian with variance 1/d: the mean
        # of the largest of M is at most sqrt(2 ln M / d).
        bound = math.sqrt(2 * math.log(100 * 99 / 2) / dimension)
        assert 0.75 * bound < np.mean(ours) < bound


class TestKeyAtDistance:
    @pytest.mark.parametrize("distance", [0.0, 0.01, 0.1, 1.0, 1.3, math.sqrt(2), 2.0])
    def test_length_and_distance(self, distance):
        (key,) = draw_keys(1, 256, SEED)
        guess = key_at_distance(key, distance, SEED)
        assert float(tf.norm(guess)) == pytest.approx(1.0, abs=1e-6)
        assert float(tf.norm(guess - key)) == pytest.approx(distance, abs=2e-6)

    def test_no_direction_is_preferred(self):
        key = tf.constant([1.0, 0.0, 0.0])
        seeds = tf.stack([tf.range(400), tf.range(400)], axis=1)
        guesses = np.array([key_at_distance(key, math.sqrt(2), s) for s in seeds])
        np.testing.assert_allclose(guesses[:, 0], 0.0, atol=1e-6)
        angles = np.arctan2(guesses[:, 2], guesses[:, 1])
        counts, _ = np.histogram(angles, bins=4, range=(-np.pi, np.pi))
        # Binomial(400, 1/4): mean 100, deviation 8.7; five deviations.
        assert np.all(np.abs(counts - 100) < 44)

    def test_the_direction_is_of_a_role_of_its_own(self):
        key = np.array([0.6, 0.8, 0.0])
        drawn = tf.random.stateless_normal([3], derive(SEED, Role.KEY_GUESS)).numpy()
        direction = drawn - drawn @ key * key
        # At a right angle nothing of the key is left.
        np.testing.assert_allclose(
            key_at_distance(key, math.sqrt(2), SEED),
            direction / np.linalg.norm(direction),
            atol=1e-6,
        )

    @pytest.mark.parametrize("distribution", KeyDistribution)
    def test_the_stream_that_drew_the_key_may_be_used_again(self, distribution):
        (key,) = draw_keys(1, 16, SEED, distribution)
        guess = key_at_distance(key, 1.0, SEED)
        assert float(tf.norm(guess - key)) == pytest.approx(1.0, abs=1e-6)


class TestScores:
    keys = tf.constant([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]])
    embeddings = tf.constant([[0.6, 0.8], [1.0, 0.0], [-1.0, 0.0]])

    def test_by_hand(self):
        expected = [[0.6, 0.8, 0.28], [1.0, 0.0, -0.6], [-1.0, 0.0, 0.6]]
        result = scores(self.embeddings, self.keys)
        np.testing.assert_allclose(result, expected, atol=1e-6)

    def test_the_largest_score_decides(self):
        classes = tf.constant([4, 7, 2])
        assert decide(self.embeddings, self.keys, classes).numpy().tolist() == [7, 4, 2]

    def test_a_class_may_have_several_keys(self):
        classes = tf.constant([4, 7, 4])
        assert decide(self.embeddings, self.keys, classes).numpy().tolist() == [7, 4, 4]

    def test_any_table_will_do(self):
        own = decide(self.embeddings, self.keys[1:], tf.constant([7, 2]))
        assert own.numpy().tolist() == [7, 7, 2]


class TestEmbedding:
    def _outputs(self, network, inputs, seed=SEED):
        return network.outputs(network.initialize(seed), inputs)

    @pytest.mark.parametrize("normalisation", [None, *Normalisation])
    def test_outputs_have_length_1(self, normalisation):
        network = key_embedding("e", _linear, 16, hidden=3, normalisation=normalisation)
        inputs = tf.random.stateless_normal([5, 2], SEED)
        outputs = self._outputs(network, inputs)
        assert network.output_shape == (16,)
        np.testing.assert_allclose(tf.norm(outputs, axis=1), 1.0, rtol=1e-5)

    def test_without_a_fixed_layer_by_hand(self):
        network = key_embedding("e", _linear, 2)
        weights = Weights([tf.eye(2), tf.zeros([2])], [])
        outputs = network.outputs(weights, tf.constant([[0.5, -2.0]]))
        hand = np.tanh([0.5, -2.0])
        np.testing.assert_allclose(outputs[0], hand / np.linalg.norm(hand), rtol=1e-6)

    @pytest.mark.parametrize("normalisation", Normalisation)
    def test_with_a_fixed_layer_by_numpy(self, normalisation):
        network = key_embedding("e", _linear, 6, hidden=3, normalisation=normalisation)
        weights = network.initialize(SEED)
        weight, bias, scale, offset = (np.array(w) for w in weights.trainable)
        scale, offset = scale + np.arange(6), offset + 0.1
        inputs = np.random.default_rng(0).normal(size=(4, 2))
        fixed = np.tanh(inputs @ weight + bias) @ weights.statistics[0].numpy()
        axis = 0 if normalisation is Normalisation.BATCH else 1
        fixed -= fixed.mean(axis, keepdims=True)
        fixed /= np.sqrt((fixed**2).mean(axis, keepdims=True) + 1e-5)
        expected = np.tanh(fixed * scale + offset)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        trainable = [tf.constant(w, tf.float32) for w in (weight, bias, scale, offset)]
        for training in (True, False):
            outputs, statistics = network.apply(
                Weights(trainable, weights.statistics),
                tf.constant(inputs, tf.float32),
                training,
            )
            np.testing.assert_allclose(outputs, expected, atol=1e-5)
            np.testing.assert_array_equal(statistics[0], weights.statistics[0])

    def test_the_fixed_layer_is_a_constant_that_its_seed_alone_decides(self):
        def fixed(build_seed, seed):
            network = key_embedding(
                "e",
                _linear,
                500,
                hidden=40,
                normalisation=Normalisation.BATCH,
                seed=build_seed,
            )
            assert not network.updates_statistics
            # Body, then scale and offset: nothing of the fixed layer's 20,000.
            assert network.num_parameters == (2 * 40 + 40) + 2 * 500
            (weights,) = network.initialize(seed).statistics
            return weights.numpy()

        first = fixed(0, SEED)
        assert first.shape == (40, 500)
        assert first.std() == pytest.approx(1 / math.sqrt(40), rel=0.03)
        np.testing.assert_array_equal(first, fixed(0, tf.constant([9, 9])))
        assert np.all(first != fixed(1, SEED))

    def test_moments_of_pictures_take_the_place_of_the_batchs(self):
        build = functools.partial(key_embedding, "e", _linear, 8, hidden=4, seed=3)
        features = key_features("f", _linear, 8, hidden=4, seed=3)
        network = build(normalisation=Normalisation.BATCH)
        weights = network.initialize(SEED)
        inputs = tf.random.stateless_normal([7, 2], SEED)
        moments = feature_moments(features, weights, inputs.numpy(), batch_size=3)
        frozen = build(normalisation=Normalisation.BATCH, moments=moments)
        whole = network.outputs(weights, inputs)
        np.testing.assert_allclose(frozen.outputs(weights, inputs), whole, atol=1e-5)
        # One by one, and in training too: neighbours do not count any more.
        for training in (False, True):
            alone, _ = frozen.apply(weights, inputs[2:3], training)
            np.testing.assert_allclose(alone, whole[2:3], atol=1e-5)
        for other in (None, Normalisation.INSTANCE):
            with pytest.raises(InputError, match=f"with {other}: expected .*BATCH"):
                build(normalisation=other, moments=moments)

    def test_the_fixed_layer_is_drawn_from_a_role_of_its_own(self):
        network = key_embedding(
            "e", _linear, 6, hidden=4, normalisation=Normalisation.INSTANCE, seed=5
        )
        stream = derive(seeding.root(5), Role.FIXED_LAYER)
        [fixed] = network.initialize(SEED).statistics
        expected = 0.5 * tf.random.stateless_normal([4, 6], stream)
        np.testing.assert_allclose(fixed, expected, rtol=1e-6)

    def test_batch_statistics_depend_on_the_others_and_instance_ones_do_not(self):
        inputs = tf.random.stateless_normal([5, 2], SEED)
        moved = []
        for normalisation in Normalisation:
            network = key_embedding(
                "e", _linear, 8, hidden=4, normalisation=normalisation
            )
            whole = self._outputs(network, inputs)[:2]
            moved.append(np.abs(whole - self._outputs(network, inputs[:2])).max())
        assert moved[0] > 0.01
        assert moved[1] < 1e-6


def _adam(parameters, gradients, settings, state=(0.0, 0.0, 0)):
    """Kingma and Ba, algorithm 1, in float64; `gradients(parameters)`."""
    first, second, count = state
    gradient = gradients(parameters)
    count += 1
    first = settings.beta_1 * first + (1 - settings.beta_1) * gradient
    second = settings.beta_2 * second + (1 - settings.beta_2) * gradient**2
    mean = first / (1 - settings.beta_1**count)
    square = second / (1 - settings.beta_2**count)
    step = settings.learning_rate * mean / (np.sqrt(square) + settings.epsilon)
    return parameters - step, (first, second, count)


class TestTraining:
    network = key_embedding("e", _linear, 3)
    keys = draw_keys(4, 3, SEED)
    data = LocalData(
        tf.constant([[0.5, -1.0], [2.0, 0.3], [-0.7, 0.1], [1.0, 1.0], [0.2, -0.4]]),
        tf.constant([2, 0, 3, 0, 1]),
    )
    settings = KeyTraining(0.01, batch_size=8, regularisation=0.05, beta_2=0.9)

    def _train(self, settings, shared, data=None, keys=None, steps=0):
        training = key_training(settings, self.network)
        run = tf.function(training.train)
        data = self.data if data is None else data
        keys = self.keys if keys is None else keys
        return run(shared, [], data, keys, tf.constant(steps), SEED)

    def _start(self):
        return key_training(self.settings, self.network).initialize(SEED)[0]

    def _loss_and_gradient(self, parameters):
        """Of Eq. 5 for the linear network, worked out by hand, in float64."""
        inputs = self.data.inputs.numpy().astype(np.float64)
        own = self.keys.numpy().astype(np.float64)[self.data.labels.numpy()]
        weight, bias = parameters[:6].reshape(2, 3), parameters[6:]
        bounded = np.tanh(inputs @ weight + bias)
        length = np.linalg.norm(bounded, axis=1, keepdims=True)
        embeddings = bounded / length
        loss = -np.mean(np.sum(embeddings * own, axis=1))
        along = np.sum(embeddings * own, axis=1, keepdims=True)
        slope = -(own - along * embeddings) / length / len(inputs)
        slope *= 1 - bounded**2
        gradient = np.concatenate([(inputs.T @ slope).ravel(), slope.sum(axis=0)])
        # Of the weight, not of the bias.
        gradient[:6] += 2 * self.settings.regularisation * parameters[:6]
        return loss, gradient

    def test_the_start_is_the_model_and_an_adam_that_has_made_no_step(self):
        training = key_training(self.settings, self.network)
        shared, constants = training.initialize(SEED)
        assert training.num_shared == 3 * 9 + 1
        assert training.private_spec == tf.TensorSpec([None, 3])
        assert constants == []
        weights = self.network.initialize(SEED)
        for ours, theirs in zip(
            unflatten(shared[:9], self.network.trainable_shapes),
            weights.trainable,
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(shared[9:], np.zeros(19))

    def test_two_steps_by_numpy_and_the_state_goes_on_in_the_shared_vector(self):
        def gradients(parameters):
            return self._loss_and_gradient(parameters)[1]

        shared = self._start()
        first = self._train(self.settings, shared)
        parameters = shared[:9].numpy().astype(np.float64)
        loss, _ = self._loss_and_gradient(parameters)
        parameters, state = _adam(parameters, gradients, self.settings)
        expected = np.concatenate([parameters, *state[:2], [1.0]])
        np.testing.assert_allclose(first.parameters, expected, atol=2e-6)
        np.testing.assert_allclose(first.loss, loss, rtol=1e-5)
        second = self._train(self.settings, first.parameters, steps=1)
        parameters, state = _adam(parameters, gradients, self.settings, state)
        expected = np.concatenate([parameters, *state[:2], [2.0]])
        np.testing.assert_allclose(second.parameters, expected, atol=4e-6)
        assert (int(first.steps), int(second.steps)) == (1, 2)

    def test_minibatches_and_epochs_are_counted(self):
        settings = KeyTraining(batch_size=2, epochs=3)
        trained = self._train(settings, self._start())
        assert int(trained.steps) == 9
        assert float(trained.parameters[-1]) == 9.0

    def test_scores_rise(self):
        settings = KeyTraining(0.05, batch_size=5, epochs=100, regularisation=0.0)
        trained = self._train(settings, self._start())
        after = self._train(KeyTraining(batch_size=5), trained.parameters)
        before = self._train(KeyTraining(batch_size=5), self._start())
        assert float(after.loss) < float(before.loss) - 0.5

    def test_no_data_no_change(self):
        shared = self._start() + 1.0
        empty = LocalData(tf.zeros([0, 2]), tf.zeros([0], tf.int32))
        trained = self._train(self.settings, shared, data=empty, keys=tf.zeros([0, 3]))
        np.testing.assert_array_equal(trained.parameters, shared)
        assert (int(trained.steps), float(trained.loss)) == (0, 0.0)

    def test_the_fixed_layer_is_not_trained(self):
        network = key_embedding(
            "e", _linear, 3, hidden=4, normalisation=Normalisation.BATCH
        )
        training = key_training(self.settings, network)
        shared, constants = training.initialize(SEED)
        trained = tf.function(training.train)(
            shared, constants, self.data, self.keys, tf.constant(0), SEED
        )
        # Shared are body, scale and offset, all moved; the constants are no output.
        size = 2 * 4 + 4 + 3 + 3
        assert training.num_shared == 3 * size + 1
        assert constants[0].shape == (4, 3)
        moved = np.abs(trained.parameters - shared)[:size]
        assert np.all(moved > 0)

    @pytest.mark.parametrize("regularised", list(Regularised))
    def test_lambda_is_of_weights_alone_or_of_all(self, regularised):
        network = key_embedding(
            "e", _linear, 3, hidden=4, normalisation=Normalisation.INSTANCE
        )
        shared, constants = key_training(self.settings, network).initialize(SEED)
        ends = []
        for strength in (0.0, 1.0):
            settings = KeyTraining(
                0.01, 8, regularisation=strength, regularised=regularised
            )
            train = tf.function(key_training(settings, network).train)
            steps = tf.constant(0)
            ends.append(train(shared, constants, self.data, self.keys, steps, SEED))
        first, second = (end.parameters[: 2 * 4 + 4 + 3 + 3] for end in ends)
        # Adam's first step is the gradient's sign: only what is pulled strongly enough
        # changes its own, some of the weights and of the scales, which start at 1.
        assert np.any(first[:8] != second[:8])
        alone = regularised is Regularised.WEIGHTS
        assert np.array_equal(first[8:], second[8:]) == alone

    @pytest.mark.parametrize("regularised", list(Regularised))
    def test_kernels_are_weights(self, regularised):
        network = sequential(
            "kernels",
            (4, 4, 1),
            [layers.conv2d(2, 3, padding="SAME"), layers.reshape(), layers.dense(3)],
        )
        settings = KeyTraining(regularisation=0.25, regularised=regularised)
        of_biases = 0.0 if regularised is Regularised.WEIGHTS else 0.5
        # A kernel [3, 3, 1, 2] and its 2 biases, then [32, 3] and 3 biases.
        expected = 18 * [0.5] + 2 * [of_biases] + 96 * [0.5] + 3 * [of_biases]
        pull = key_protection._pull(settings, network)
        np.testing.assert_array_equal(pull, np.float32(expected))

    def test_the_loss_is_the_mean_over_examples_and_not_over_minibatches(self):
        # Four examples and one, by a model that hardly moves.
        settings = KeyTraining(1e-9, batch_size=4)
        loss, _ = self._loss_and_gradient(self._start()[:9].numpy().astype(np.float64))
        train = key_training(settings, self.network).train
        trained = train(self._start(), [], self.data, self.keys, 0, SEED)
        np.testing.assert_allclose(trained.loss, loss, rtol=1e-5)

    def test_a_second_moment_below_0_counts_as_0(self):
        negative = tf.concat([tf.zeros([18]), tf.fill([9], -1.0), [5.0]], axis=0)
        shared = self._start() + negative
        trained = self._train(self.settings, shared)
        assert np.all(np.isfinite(trained.parameters))
        # As from moments of 0: nothing leaps.
        as_zero = self._train(
            self.settings, self._start() + tf.concat([tf.zeros([27]), [5.0]], axis=0)
        )
        np.testing.assert_allclose(trained.parameters, as_zero.parameters, atol=1e-6)


def test_keys_may_have_been_rounded():
    check_keys(np.float32([[1.0009, 0.0], [0.0, 0.9991]]), 2)


def test_the_streams_of_keys_and_guesses_have_roles_of_their_own():
    assert (Role.KEYS, Role.KEY_GUESS, Role.FIXED_LAYER) == (17, 18, 19)
    direct = tf.random.stateless_uniform([1, 4], derive(SEED, Role.KEYS), -1.0, 1.0)
    np.testing.assert_allclose(
        draw_keys(1, 4, SEED), direct / tf.norm(direct), rtol=1e-6
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: draw_keys(-1, 4, SEED), "count is -1: expected 0 or more keys"),
        (lambda: draw_keys(1, 0, SEED), "key dimension is 0: expected 1 or more"),
        (
            lambda: key_at_distance(tf.constant([1.0, 0.0]), 2.1, SEED),
            r"distance is 2.1: expected it in \[0, 2\]",
        ),
        (
            lambda: key_at_distance(tf.constant([1.0, 1.0]), 1.0, SEED),
            "key 0 has length 1.41421: expected 1",
        ),
        (
            lambda: key_at_distance(tf.constant([1.0]), 2.0, SEED),
            r"key has shape \(1,\): expected \[d\]",
        ),
        (
            lambda: check_keys(np.float32([[1, 0], [np.nan, 0]]), 2),
            "key 1 has length nan: expected 1",
        ),
        (lambda: check_keys(tf.zeros([1, 2]), 2), "key 0 has length 0: expected 1"),
        (
            lambda: check_keys(np.float32([[1, 0], [0, 0.998]]), 2),
            "key 1 has length 0.998: expected 1",
        ),
        (
            lambda: check_keys(np.float32([[1.002, 0]]), 2),
            "key 0 has length 1.002: expected 1",
        ),
        (
            lambda: check_keys(np.eye(3, dtype=np.float32), 4),
            r"keys are float32 of shape \(3, 3\): expected float32 \[k, 4\]",
        ),
        (
            lambda: check_keys(np.eye(3), 3),
            r"keys are float64 of shape \(3, 3\): expected float32 \[k, 3\]",
        ),
        (lambda: key_embedding("e", _linear, 1), "key dimension is 1: expected 2"),
        (
            lambda: key_embedding(
                "e", _linear, 4, hidden=0, normalisation=Normalisation.BATCH
            ),
            "hidden is 0: expected 1 or more",
        ),
        (
            lambda: key_training(KeyTraining(), sequential("pictures", (2, 2, 1), [])),
            r"network pictures has outputs of shape \(2, 2, 1\): expected vectors",
        ),
        (lambda: KeyTraining(learning_rate=0), "learning_rate is 0: expected a pos"),
        (lambda: KeyTraining(learning_rate=np.inf), "learning_rate is inf: expected"),
        (lambda: KeyTraining(batch_size=0), "batch_size is 0: expected a positive"),
        (lambda: KeyTraining(epochs=0), "epochs is 0: expected a positive number"),
        (lambda: KeyTraining(epsilon=0), "epsilon is 0: expected a positive number"),
        (
            lambda: KeyTraining(regularisation=-1.0),
            "regularisation is -1.0: expected a finite lambda",
        ),
        (
            lambda: KeyTraining(regularisation=math.inf),
            "regularisation is inf: expected a finite lambda",
        ),
        (
            lambda: KeyTraining(regularisation=math.nan),
            "regularisation is nan: expected a finite lambda",
        ),
        (lambda: KeyTraining(beta_1=1.0), r"beta_1 is 1.0: expected a decay in \[0, 1"),
        (lambda: KeyTraining(beta_2=-0.1), "beta_2 is -0.1: expected a decay"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_hitajs_cnn_is_a_body():
    network = key_protection.key_embedding(
        "cnn",
        classifiers.hitaj_mnist,
        1024,
        hidden=50,
        normalisation=Normalisation.INSTANCE,
    )
    body = classifiers.hitaj_mnist(50)
    assert network.input_shape == body.input_shape
    assert network.num_parameters == body.num_parameters + 2 * 1024
