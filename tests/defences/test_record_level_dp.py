"""DP-SGD: clipping example by example, its noise, its samples, and what they cost."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_privacy as tfp
from dp_accounting import GaussianDpEvent, NoOpDpEvent, PoissonSampledDpEvent
from scipy import stats

from tff_leak.defences import record_level_dp
from tff_leak.defences.accounting import epsilon, repeated
from tff_leak.defences.record_level_dp import (
    RecordLevelDp,
    Sampling,
    clipped_sum,
    record_private_batches,
    record_private_sgd,
    round_event,
    turn_event,
)
from tff_leak.errors import InputError
from tff_leak.models import classifiers, layers
from tff_leak.models.batched_sgd import Batches, BatchSgd, train_on_batches
from tff_leak.models.network import Weights, flatten, sequential
from tff_leak.models.training import LocalData, LocalSgd, cross_entropy, local_sgd

SEED = tf.constant([5, 6])
LINEAR = sequential("linear", (1,), [layers.dense(2)])
MLP = classifiers.mlp(3, (4, 4, 1), hidden=8)
# Its gradients grow with the inputs; those of hyperbolic tangents do not.
LOGISTIC = sequential("logistic", (16,), [layers.dense(3)])
POISSON = Sampling.POISSON
_TRACED = {}


@pytest.fixture(scope="module", autouse=True)
def _forget_traces():
    """What TensorFlow has traced must go before Python's modules do."""
    yield
    _TRACED.clear()


def _graph(function):
    """A function that is traced once for each settings and network."""
    return _TRACED.setdefault(function, tf.function(function, reduce_retracing=True))


def _data(count, network=MLP, scale=1.0):
    inputs = tf.random.stateless_normal([count, *network.input_shape], SEED, 0.0, scale)
    labels = tf.random.stateless_uniform([count], SEED, 0, 3, tf.int32)
    return LocalData(inputs, labels)


def _clipped(clip, data, network=MLP, counted=None):
    counted = tf.ones([len(data.labels)]) if counted is None else counted
    weights = network.initialize(SEED)
    return _graph(clipped_sum)(
        tf.constant(clip), network, weights, data.inputs, data.labels, counted
    )


def _example_by_example(clip, data, network=MLP):
    """tensorflow-privacy's own clipping of every single gradient, and their sum."""
    weights = network.initialize(SEED)
    query = tfp.GaussianSumQuery(clip, 0.0)
    params = query.derive_sample_params(query.initial_global_state())
    total = query.initial_sample_state(weights.trainable)
    for i in range(len(data.labels)):
        with tf.GradientTape() as tape:
            tape.watch(weights.trainable)
            logits = network.outputs(weights, data.inputs[i : i + 1])
            loss = cross_entropy(logits, data.labels[i : i + 1])
        gradient = tape.gradient(loss, weights.trainable)
        total = query.accumulate_record(params, total, gradient)
    return flatten(total)


def _train(privacy, settings, data, network=MLP, seed=SEED, parameters=None):
    if parameters is None:
        parameters = flatten(network.initialize(SEED).trainable)
    return _graph(record_private_sgd)(
        privacy, settings, network, parameters, [], data, tf.constant(0), seed
    )


def _with_outlier(data, index, inputs):
    """One example replaced by one far away, labelled as what it is least like."""
    changed, labels = data.inputs.numpy(), data.labels.numpy()
    changed[index] = inputs
    logits = LOGISTIC.outputs(LOGISTIC.initialize(SEED), tf.constant(changed))
    labels[index] = np.argmin(logits[index])
    return LocalData(tf.constant(changed), tf.constant(labels))


def test_by_hand():
    # Logits 0: gradients (-1, 1) and (-.5, .5) of the weights and biases for input 2,
    # of norm sqrt(2.5); with input 0 only those of the biases, of norm sqrt(.5) < 1.
    weights = Weights([tf.zeros([1, 2]), tf.zeros([2])], [])
    total, loss = clipped_sum(
        1.0,
        LINEAR,
        weights,
        tf.constant([[2.0], [0.0], [9.0]]),
        tf.constant([0, 1, 0]),
        tf.constant([1.0, 1.0, 0.0]),
    )
    first = np.array([-1, 1, -0.5, 0.5]) / math.sqrt(2.5)
    np.testing.assert_allclose(total, first + [0, 0, 0.5, -0.5], rtol=1e-6)
    np.testing.assert_allclose(loss, 2 * math.log(2), rtol=1e-6)


@pytest.mark.parametrize(
    "network",
    [MLP, classifiers.hitaj_mnist(num_outputs=11)],
    ids=lambda network: network.name,
)
def test_vectorised_is_tensorflow_privacys_clipping_example_by_example(network):
    data = _data(5, network)
    expected = _example_by_example(0.5, data, network)
    total, _ = _clipped(0.5, data, network)
    np.testing.assert_allclose(total, expected, rtol=0, atol=1e-5)
    assert tf.norm(expected) > 0.3


@pytest.mark.parametrize("seed", range(5))
def test_one_outlier_changes_a_sum_by_at_most_c(seed):
    data = _data(8, LOGISTIC)
    direction = np.random.default_rng(seed).normal(size=16)
    outlier = _with_outlier(data, seed, direction * 1e3)
    without = tf.constant(np.arange(8) != seed, tf.float32)
    clip = 0.25

    def change(bound):
        with_it, _ = _clipped(bound, outlier, LOGISTIC)
        without_it, _ = _clipped(bound, outlier, LOGISTIC, counted=without)
        return float(tf.norm(with_it - without_it))

    # Sums of eight numbers of size 1 are off by some 1e-6.
    assert change(clip) == pytest.approx(clip, abs=1e-5)
    # Without clipping it is what moves everything: the test can fail.
    assert change(1e9) > 100 * clip


def test_an_example_without_a_finite_gradient_adds_nothing():
    data = _data(3)
    inputs = data.inputs.numpy()
    inputs[1] = np.nan
    total, _ = _clipped(1.0, LocalData(tf.constant(inputs), data.labels))
    rest, _ = _clipped(1.0, data, counted=tf.constant([1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(total, rest)
    assert tf.norm(rest) > 0.1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sampling", Sampling)
def test_variance_of_the_noise(sampling, seed):
    """One step less the same step without noise: P normal numbers."""
    network = classifiers.mlp(3, (20, 20, 1), hidden=50)
    privacy = RecordLevelDp(0.5, 1.5, sampling)
    settings = LocalSgd(0.1, learning_rate_decay=0.0, batch_size=8, steps=1)
    data = _data(16, network)
    stream = tf.constant([seed, 7])
    noisy = _train(privacy, settings, data, network, stream)
    plain = dataclasses.replace(privacy, noise_multiplier=0.0)
    silent = _train(plain, settings, data, network, stream)
    noise = (noisy.parameters - silent.parameters).numpy().astype(np.float64)
    # Learning rate over the expected size of a batch, times sigma C.
    deviation = 0.1 / 8 * 1.5 * 0.5
    squares = np.sum((noise / deviation) ** 2)
    size = network.num_parameters
    assert size > 20_000
    # The sum of squares is chi-square distributed: of 6 such tests one is outside of
    # this interval in 20,000 repetitions.
    low, high = stats.chi2.interval(1 - 1e-5, size)
    # Rounding of parameters of size .1 adds 1e-8 to each, .01 to the sum of squares.
    assert low - 1 < squares < high + 1
    # Four times the noise, or three quarters of it, is far outside.
    assert not low - 1 < squares * 0.75**2 < high + 1
    # Coordinates are independent: neighbours' correlation has deviation 1/sqrt(P).
    neighbours = np.corrcoef(noise[:-1], noise[1:])[0, 1]
    assert abs(neighbours) < 5 / math.sqrt(size)


def test_without_noise_and_bound_it_is_plain_sgd():
    settings = LocalSgd(0.2, learning_rate_decay=0.1, batch_size=3, epochs=2)
    data = _data(8)
    parameters = flatten(MLP.initialize(SEED).trainable)
    expected = tf.function(local_sgd)(
        settings, MLP, parameters, [], data, tf.constant(0), SEED
    )
    trained = _train(RecordLevelDp(1e9, 0.0), settings, data)
    np.testing.assert_allclose(trained.parameters, expected.parameters, atol=1e-6)
    np.testing.assert_allclose(trained.loss, expected.loss, rtol=1e-5)
    assert int(trained.steps) == int(expected.steps) == 6
    bound = _train(RecordLevelDp(0.1, 0.0), settings, data)
    assert np.abs(bound.parameters - expected.parameters).max() > 1e-2


def test_a_private_step_moves_at_most_by_c_over_the_batch():
    """A turn of one step, two participants that differ in one record."""
    settings = LocalSgd(1.0, learning_rate_decay=0.0, batch_size=8)
    data = _data(8, LOGISTIC)
    other = _with_outlier(data, 3, data.inputs[3].numpy() * 1e4)

    def distance(clip):
        privacy = RecordLevelDp(clip, 0.0)
        first, second = (
            _train(privacy, settings, one, LOGISTIC) for one in (data, other)
        )
        return float(tf.norm(first.parameters - second.parameters))

    assert 0 < distance(0.5) <= 2 * 0.5 / 8 + 1e-5
    assert distance(1e9) > 10


def test_poisson_samples():
    """Each record by a coin of its own; the seeds' sizes are binomial."""
    settings = LocalSgd(batch_size=20)

    @tf.function
    def sample(index):
        chosen, counted, size = record_level_dp._poisson_sample(
            settings, tf.constant(100), index, SEED
        )
        return tf.math.bincount(chosen, counted, 100, 100), size

    drawn = np.stack([sample(tf.constant(i))[0].numpy() for i in range(400)])
    assert float(sample(tf.constant(0))[1]) == 20.0
    assert set(np.unique(drawn)) == {0.0, 1.0}
    # 40,000 coins of .2: deviation .002; a record's 400 coins: deviation .02. Five.
    assert abs(drawn.mean() - 0.2) < 0.01
    assert np.abs(drawn.mean(axis=0) - 0.2).max() < 0.1
    # A sample's size has variance 16; of 400 sizes it is chi-square over 399.
    low, high = stats.chi2.interval(1 - 1e-5, 399)
    assert low < 399 * drawn.sum(axis=1).var(ddof=1) / 16 < high
    # A fixed size, which is no Poisson sample, would have none.


def test_seeded_and_without_data():
    privacy = RecordLevelDp(1.0, 1.0, POISSON)
    settings = LocalSgd(0.1, batch_size=4, epochs=2)
    data = _data(10)
    first = _train(privacy, settings, data).parameters
    np.testing.assert_array_equal(first, _train(privacy, settings, data).parameters)
    other = _train(privacy, settings, data, seed=tf.constant([5, 7])).parameters
    assert np.abs(first - other).max() > 1e-3
    nobody = LocalData(tf.zeros([0, 4, 4, 1]), tf.zeros([0], tf.int32))
    trained = _train(privacy, settings, nobody)
    assert int(trained.steps) == 0
    np.testing.assert_array_equal(
        trained.parameters, flatten(MLP.initialize(SEED).trainable)
    )


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("steps", [None, 4])
def test_the_event_counts_the_steps_that_are_made(sampling, steps):
    privacy = RecordLevelDp(1.0, 2.0, sampling)
    settings = LocalSgd(0.1, batch_size=4, epochs=2, steps=steps)
    made = int(_train(privacy, settings, _data(10)).steps)
    event = turn_event(privacy, settings, 10)
    if sampling is POISSON:
        sampled = PoissonSampledDpEvent(0.4, GaussianDpEvent(2.0))
        assert event == repeated(sampled, made)
    else:
        # Three minibatches a pass, in each of which a record is once.
        assert event == repeated(GaussianDpEvent(2.0), math.ceil(made / 3))
    assert 0 < epsilon(event, privacy.delta, privacy.neighbours) < math.inf
    assert turn_event(privacy, settings, 0) == NoOpDpEvent()


def test_poisson_amplifies_and_epochs_do_not():
    settings = LocalSgd(batch_size=10, steps=5)

    def spent(sampling, noise=1.0):
        privacy = RecordLevelDp(1.0, noise, sampling)
        event = turn_event(privacy, settings, 1000)
        return epsilon(event, privacy.delta, privacy.neighbours)

    assert spent(POISSON) < 0.5 * spent(Sampling.EPOCHS)
    one = epsilon(GaussianDpEvent(1.0), 1e-5)
    assert spent(Sampling.EPOCHS) == pytest.approx(one, rel=1e-9)
    assert spent(POISSON, 0.0) == spent(Sampling.EPOCHS, 0.0) == math.inf


class TestBatches:
    """A client's own batches, as federated averaging has them."""

    settings = BatchSgd(0.1, momentum=0.5, epochs=2)

    def _batches(self, padding=0):
        data = _data(5)
        inputs = np.zeros((2 + padding, 3 + padding, 4, 4, 1), np.float32)
        labels = np.zeros(inputs.shape[:2], np.int32)
        inputs[0, :3], inputs[1, :2] = data.inputs[:3], data.inputs[3:]
        labels[0, :3], labels[1, :2] = data.labels[:3], data.labels[3:]
        sizes = np.array([3, 2] + [0] * padding, np.int32)
        return Batches(*map(tf.constant, (inputs, labels, sizes)))

    def _train(self, privacy, batches, seed=SEED):
        return _graph(record_private_batches)(
            privacy, self.settings, MLP, MLP.initialize(SEED), batches, seed
        )

    def test_without_noise_and_bound_it_is_plain_sgd(self):
        expected = tf.function(train_on_batches)(
            self.settings, MLP, MLP.initialize(SEED), self._batches()
        )
        found = self._train(RecordLevelDp(1e9, 0.0), self._batches())
        for ours, theirs in zip(found.tensors, expected.tensors, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
        np.testing.assert_allclose(found.loss_sum, expected.loss_sum, rtol=1e-5)

    def test_padding_changes_nothing_not_even_the_noise(self):
        privacy = RecordLevelDp(0.5, 1.0)
        first = self._train(privacy, self._batches())
        padded = self._train(privacy, self._batches(padding=2))
        silent = self._train(RecordLevelDp(0.5, 0.0), self._batches())
        for one, other, quiet in zip(
            first.tensors, padded.tensors, silent.tensors, strict=True
        ):
            np.testing.assert_allclose(one, other, atol=1e-6)
            assert np.abs(one - quiet).max() > 1e-2

    def test_every_step_has_its_own_noise(self):
        """Four steps' noise: its variance is the sum of theirs."""
        privacy = RecordLevelDp(1e-3, 1e3)
        plain = BatchSgd(1.0, epochs=2)
        network = classifiers.mlp(3, (20, 20, 1), hidden=50)
        weights = network.initialize(SEED)
        inputs = tf.zeros([2, 3, 20, 20, 1])
        batches = Batches(inputs, tf.zeros([2, 3], tf.int32), tf.constant([3, 2]))
        found = _graph(record_private_batches)(
            privacy, plain, network, weights, batches, SEED
        )
        noise = (flatten(found.tensors) - flatten(weights.trainable)).numpy()
        variance = 2 * (1 / 9 + 1 / 4)
        squares = np.sum(noise.astype(np.float64) ** 2) / variance
        # Signals are at most C = 1e-3 a step: a thousandth of the noise in one number.
        low, high = stats.chi2.interval(1 - 1e-5, network.num_parameters)
        assert low - 1 < squares < high + 1

    def test_the_event_counts_epochs(self):
        event = round_event(RecordLevelDp(1.0, 2.0), self.settings)
        assert event == repeated(GaussianDpEvent(2.0), 2)

    def test_batches_are_no_poisson_sample(self):
        with pytest.raises(InputError, match="sampling is poisson for a dataset's own"):
            record_private_batches(
                RecordLevelDp(1.0, 1.0, POISSON), self.settings, MLP, None, None, None
            )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"clip": 0.0}, "clip is 0.0: expected a finite bound above 0"),
        ({"clip": math.inf}, "clip is inf: expected"),
        ({"noise_multiplier": -1.0}, "noise_multiplier is -1.0: expected a finite"),
        ({"noise_multiplier": math.nan}, "noise_multiplier is nan: expected"),
        ({"delta": 1.0}, r"delta is 1.0: expected it in \(0, 1\)"),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        RecordLevelDp(**{"clip": 1.0, "noise_multiplier": 1.0, **settings})
