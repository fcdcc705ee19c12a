"""The sparse vector technique against its definition, and what its noise does."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.defences import sparse_vector
from tff_leak.defences.sparse_vector import (
    Noise,
    SparseVector,
    draw_noise,
    private_upload,
    release,
    total_epsilon,
    turn_epsilon,
)
from tff_leak.errors import InputError

SEED = tf.constant([5, 6])


def _slow(settings, update, noise):
    """The algorithm as the docstring states it, one parameter after the other."""
    f32 = np.float32
    gamma, tau = f32(settings.bound), f32(settings.threshold)
    count = math.ceil(settings.upload_fraction * len(update))
    upload = np.zeros(len(update), np.float32)
    uploaded, threshold = 0, None
    for i, j in enumerate(noise.order):
        if threshold is None:
            threshold = tau + noise.threshold[i]
        w = min(max(update[j], -gamma), gamma)
        if abs(w) + noise.candidate[j] >= threshold:
            upload[j] = min(max(w + noise.release[j], -gamma), gamma)
            uploaded += 1
            threshold = None
            if uploaded == count:
                break
    return upload


def _numpy(noise):
    return Noise(*(np.asarray(part) for part in noise))


@pytest.mark.parametrize("size", [1, 2, 7, 8, 1000])
@pytest.mark.parametrize("fraction", [1.0, 0.1])
@pytest.mark.parametrize("epsilon", [1e4, 100.0, 0.01])
def test_same_as_the_slow_reference_with_the_same_noise(size, fraction, epsilon):
    settings = SparseVector(epsilon, upload_fraction=fraction)
    fast = tf.function(lambda update, noise: release(settings, update, noise).upload)
    taken = 0
    for trial in range(6):
        seed = tf.constant([size, trial])
        # Of the size of gamma: some are clipped, some are below tau.
        update = tf.random.stateless_normal([size], seed, 0.0, 1e-3)
        noise = draw_noise(settings, size, seed)
        expected = _slow(settings, update.numpy(), _numpy(noise))
        np.testing.assert_array_equal(fast(update, noise), expected)
        taken += np.count_nonzero(expected)
    assert taken > 0


def test_same_as_the_slow_reference_with_thresholds_that_last_long():
    """Thresholds of any height at any place, equal numbers, and one never reached."""
    settings = SparseVector(10.0, threshold=0.0, bound=100.0)
    rng = np.random.default_rng(1)
    for size in (5, 33, 500):
        for high in (3, 50):
            noise = Noise(
                order=rng.permutation(size).astype(np.int32),
                # Integers: the comparison with an equal threshold counts.
                threshold=rng.integers(0, high, size).astype(np.float32),
                candidate=rng.integers(0, 3, size).astype(np.float32),
                release=np.zeros(size, np.float32),
            )
            update = rng.integers(-2, 3, size).astype(np.float32)
            upload = release(settings, tf.constant(update), noise).upload
            np.testing.assert_array_equal(upload, _slow(settings, update, noise))


def test_a_turn_by_hand():
    settings = SparseVector(
        1.0, upload_fraction=0.5, threshold=0.25, bound=1.0, selection_share=0.5
    )
    noise = Noise(
        order=tf.constant([2, 0, 3, 1, 4, 5]),
        threshold=tf.constant([0.25, -9.0, 0.5, -9.0, 0.0, -9.0]),
        candidate=tf.constant([0.25, 0.125, -0.25, 0.0, 0.5, 9.0]),
        release=tf.constant([0.25, 9.0, 9.0, -9.0, -0.5, 9.0]),
    )
    update = tf.constant([-0.5, 0.25, 0.5, 2.0, 0.0, 0.5])
    # Threshold 0.5. Parameter 2: 0.5 - 0.25 is below. Parameter 0: 0.5 + 0.25 is above:
    # uploads -0.5 + 0.25. New threshold 0.25 + 0.5. Parameter 3: bounded to 1, above:
    # uploads 1 - 9, bounded to -1. New threshold: 0.25 - 9, and parameter 1 uploads
    # 0.25 + 9, bounded to 1. These are the c = 3 that were agreed on.
    upload, epsilon = release(settings, update, noise)
    np.testing.assert_array_equal(upload, [-0.25, 1.0, 0.0, -1.0, 0.0, 0.0])
    assert epsilon.dtype == tf.float64
    assert float(epsilon) == 3.0


def test_scales_of_the_noise():
    settings = SparseVector(10.0, upload_fraction=0.1, bound=1e-3)
    # As the texts write them, with c = 100 of 1,000 parameters.
    count, epsilon, sensitivity = 100, 100 * 10.0, 2e-3
    first, second = 8 / 9 * epsilon, 2 / 9 * epsilon
    scales = {
        "threshold": 2 * count * sensitivity / first,
        "candidate": 4 * count * sensitivity / first,
        "release": 2 * count * sensitivity / second,
    }
    size = 200_000
    noise = draw_noise(settings, size, SEED)
    for name, scale in scales.items():
        assert getattr(settings, f"{name}_scale") == pytest.approx(scale)
        drawn = np.asarray(getattr(noise, name), np.float64) / scale
        # |Lap(1)| is exponential: its mean has deviation 1/sqrt(n), the sign's mean
        # too, and Pr[|x| > 3] = e^-3 = .0498 has sqrt(.0498 * .95 / n). Five
        # deviations each.
        five = 5 / math.sqrt(size)
        assert abs(np.abs(drawn).mean() - 1) < five
        assert abs(np.sign(drawn).mean()) < five
        assert abs((np.abs(drawn) > 3).mean() - math.exp(-3)) < 0.218 * five
    np.testing.assert_array_equal(np.sort(noise.order), np.arange(size))
    # The four draws are independent: correlations have deviation 1/sqrt(n).
    drawn = np.stack([np.asarray(part, np.float64) for part in noise])
    correlations = np.corrcoef(drawn)[np.triu_indices(4, k=1)]
    assert np.abs(correlations).max() < 5 / math.sqrt(size)


def test_order_is_random():
    """With nothing to tell parameters apart, each is as likely to be among the c."""
    settings = SparseVector(1e6, upload_fraction=0.2, threshold=0.0)

    @tf.function
    def chosen(seeds):
        update = tf.fill([5], 1e-3)
        return tf.map_fn(
            lambda seed: private_upload(settings, update, seed).upload,
            seeds,
            tf.float32,
        )

    seeds = tf.stack([tf.range(1000), 3 * tf.range(1000)], axis=1)
    counts = np.count_nonzero(chosen(seeds), axis=0)
    assert counts.sum() == 1000  # the noise is far below the threshold's distance
    # Binomial(1000, 1/5): mean 200, deviation 12.6; five deviations.
    assert np.all(np.abs(counts - 200) < 64)


def test_with_next_to_no_noise_it_is_selective_sharing():
    settings = SparseVector(1e9, threshold=0.1, bound=0.4)
    update = tf.constant([0.5, -0.3, 0.05, 0.0, 0.2])
    upload = private_upload(settings, update, SEED).upload
    np.testing.assert_allclose(upload, [0.4, -0.3, 0.0, 0.0, 0.2], atol=1e-6)


def test_with_the_papers_smallest_budget_nothing_of_the_update_is_left():
    settings = SparseVector(0.01)
    size = 20_000
    update = tf.random.stateless_normal([size], SEED, 0.0, 1e-3)
    uploads = np.asarray(private_upload(settings, update, SEED).upload)
    chosen = uploads != 0
    # Noise is 1,800 times the bound: signs are coins. n > 5,000: deviation < .0142.
    assert chosen.sum() > 5000
    agreeing = (np.sign(uploads) == np.sign(update.numpy()))[chosen].mean()
    assert abs(agreeing - 0.5) < 5 / math.sqrt(4 * chosen.sum())
    # And whether a parameter was chosen says nothing of its size.
    large = np.abs(update.numpy()) > np.median(np.abs(update.numpy()))
    share = [chosen[large].mean(), chosen[~large].mean()]
    # Neighbours share thresholds, so draws are not quite independent: six deviations
    # of two independent shares of 10,000.
    assert abs(share[0] - share[1]) < 6 * math.sqrt(2 * 0.25 / 10_000)
    # With the largest budget the same update keeps its signs: the test can fail.
    loud = np.asarray(private_upload(SparseVector(100.0), update, SEED).upload)
    assert (np.sign(loud) == np.sign(update.numpy()))[loud != 0].mean() > 0.9


def _largest_log_ratio(settings, low, high, weaken=1.0, draws=20_000):
    """The event of a turn that tells two updates apart best, beyond chance.

    Events: which parameters were uploaded, with the signs of their values. Returns
    the largest |log(Pr[event | low] / Pr[event | high])| less five deviations, and how
    many events were frequent enough to be compared.
    """
    size = len(low)
    flat = draw_noise(settings, size * draws, SEED)
    noise = Noise(
        tf.tile(tf.range(size)[tf.newaxis], [draws, 1]),
        *(tf.reshape(part, [draws, size]) * weaken for part in flat[1:]),
    )

    @tf.function
    def events(update):
        uploads = tf.vectorized_map(
            lambda one: release(settings, update, one).upload, noise
        )
        codes = tf.cast(tf.sign(uploads), tf.int32) + 1
        return tf.linalg.matvec(codes, [3**i for i in range(size)])

    counts = [
        np.bincount(events(tf.constant(update)), minlength=3**size)
        for update in (low, high)
    ]
    frequent = np.minimum(*counts) >= 100
    first, second = (count[frequent] / draws for count in counts)
    # The log of a share has deviation sqrt((1 - p) / (p n)).
    spread = 5 * np.sqrt(((1 - first) / first + (1 - second) / second) / draws)
    ratios = np.abs(np.log(first / second)) - spread
    return ratios.max(), frequent.sum()


@pytest.mark.parametrize(
    "low, high, share",
    [
        ([-1.0, -1.0], [1.0, 1.0], 0.5),  # told apart by the values alone
        ([0.0, 0.0], [1.0, 1.0], 8 / 9),  # told apart by the selection
    ],
)
def test_no_event_is_likelier_than_epsilon_allows(low, high, share):
    settings = SparseVector(0.5, threshold=0.5, bound=1.0, selection_share=share)
    epsilon = turn_epsilon(settings, len(low))
    ratio, events = _largest_log_ratio(settings, low, high)
    assert events == 9  # nothing, plus and minus, for each of two parameters
    assert ratio <= epsilon
    # With a twentieth of the noise events give it away: the test can fail.
    weakened, _ = _largest_log_ratio(settings, low, high, weaken=0.05)
    assert weakened > epsilon


def test_epsilon_is_counted_per_turn_and_adds_up():
    settings = SparseVector(10.0, upload_fraction=0.1)
    assert turn_epsilon(settings, 1000) == 1000.0
    assert turn_epsilon(settings, 1001) == 1010.0  # c is rounded up
    assert total_epsilon(settings, 1000, turns=7) == 7000.0
    assert total_epsilon(settings, 1000, turns=0) == 0.0
    spent = private_upload(settings, tf.zeros([1001]), SEED).epsilon
    assert float(spent) == 1010.0


def test_seeded():
    settings = SparseVector(100.0)
    update = tf.random.stateless_normal([500], SEED, 0.0, 1e-3)
    first = private_upload(settings, update, SEED).upload
    np.testing.assert_array_equal(first, private_upload(settings, update, SEED).upload)
    other = private_upload(settings, update, tf.constant([5, 7])).upload
    assert np.any(first.numpy() != other.numpy())


def test_a_million_parameters_in_a_graph():
    """Long enough a scan that a Python loop would be noticed, and no variable in it."""
    settings = SparseVector(100.0, upload_fraction=0.1)
    size = 1_000_000
    graph = tf.function(
        lambda update, seed: private_upload(settings, update, seed).upload
    ).get_concrete_function(tf.TensorSpec([size]), tf.TensorSpec([2], tf.int32))
    assert not graph.variables
    update = tf.random.stateless_normal([size], SEED, 0.0, 1e-3)
    upload = graph(update, SEED).numpy()
    assert np.count_nonzero(upload) == 100_000
    assert np.abs(upload).max() <= np.float32(1e-3)


def test_a_length_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="known length"):
        tf.function(
            lambda update: private_upload(SparseVector(1.0), update, SEED).upload
        ).get_concrete_function(tf.TensorSpec([None]))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epsilon_per_parameter": 0.0}, "epsilon_per_parameter is 0.0: expected"),
        ({"epsilon_per_parameter": math.inf}, "epsilon_per_parameter is inf: expected"),
        ({"epsilon_per_parameter": math.nan}, "epsilon_per_parameter is nan: expected"),
        ({"upload_fraction": 0.0}, r"upload_fraction is 0.0: expected .* \(0, 1\]"),
        ({"upload_fraction": 1.5}, "upload_fraction is 1.5: expected"),
        ({"threshold": -1.0}, "threshold is -1.0: expected a finite tau >= 0"),
        ({"bound": 0.0}, "bound is 0.0: expected a finite gamma > 0"),
        ({"bound": math.inf}, "bound is inf: expected a finite gamma > 0"),
        ({"selection_share": 1.0}, "selection_share is 1.0: expected a share"),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        SparseVector(**{"epsilon_per_parameter": 1.0, **settings})


def test_defaults_are_the_papers():
    settings = SparseVector(10.0)
    assert (settings.threshold, settings.bound) == (1e-4, 1e-3)
    assert settings.selection_share == pytest.approx(8 / 9)
    assert sparse_vector.turn_epsilon(settings, 106_507) == 1_065_070.0
