"""Noise on the client: what leaves it, its variance, and what it costs."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from dp_accounting import GaussianDpEvent
from scipy import stats

from computations.fed_avg import build_fed_avg, build_fed_avg_client_work
from tff_leak.attacks.observation import (
    client_data,
    identify_clients,
    observing_factory,
)
from tff_leak.defences.accounting import epsilon
from tff_leak.defences.client_noise import ClientNoiseState
from tff_leak.defences.local_dp import LocalDp, noise_updates, noised, upload_event
from tff_leak.errors import InputError
from tff_leak.models import classifiers
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.models.network import flatten

pytestmark = pytest.mark.usefixtures("tff_worker")

SEED = tf.constant([5, 6])
NETWORK = classifiers.mlp(2, (12, 12, 1), hidden=40)


def test_clipping_by_hand():
    silent = LocalDp(1.0, 0.0)
    np.testing.assert_allclose(
        noised(silent, tf.constant([3.0, 4.0]), SEED), [0.6, 0.8], rtol=1e-6
    )
    np.testing.assert_array_equal(
        noised(silent, tf.constant([0.3, 0.4]), SEED), np.float32([0.3, 0.4])
    )
    for broken in (math.nan, math.inf):
        np.testing.assert_array_equal(
            noised(silent, tf.constant([broken, 4.0]), SEED), [0.0, 0.0]
        )


@pytest.mark.parametrize("seed", range(5))
def test_variance_of_the_noise(seed):
    size = 50_000
    drawn = noised(LocalDp(0.5, 3.0), tf.zeros([size]), tf.constant([seed, 1]))
    squares = np.sum((drawn.numpy().astype(np.float64) / 1.5) ** 2)
    low, high = stats.chi2.interval(1 - 1e-5, size)
    assert low < squares < high
    assert not low < squares * 0.95**2 < high


def test_any_two_data_sets_cost_twice_the_sensitivity():
    settings = LocalDp(7.0, 4.0)
    assert upload_event(settings) == GaussianDpEvent(2.0)
    spent = epsilon(upload_event(settings), 1e-5, settings.neighbours)
    assert spent == pytest.approx(epsilon(GaussianDpEvent(2.0), 1e-5), rel=1e-12)
    assert epsilon(upload_event(LocalDp(1.0, 0.0)), 1e-5) == math.inf


class _Rows:
    """An observer keeps rows in the aggregation's result: read them there."""

    def __init__(self, settings):
        work = build_fed_avg_client_work(NETWORK, training=BatchSgd(0.1))
        if settings is not None:
            work = noise_updates(settings, work, seed=3)
        self.work = identify_clients(work)
        sent = self.work.next.type_signature.result.result.member
        observing = observing_factory(tff.aggregators.MeanFactory()).create(
            sent.update, sent.update_weight
        )

        @tff.federated_computation(*self.work.next.type_signature.parameter)
        def rows(state, weights, data):
            output = self.work.next(state, weights, data)
            seen = observing.next(
                observing.initialize(),
                output.result.update,
                output.result.update_weight,
            )
            return output.state, seen.result

        self.next = rows


@functools.cache
def _rows(settings):
    return _Rows(settings)


def _data(number):
    rng = np.random.default_rng(number)
    inputs = rng.normal(size=(6, 12, 12, 1)).astype(np.float32)
    labels = rng.integers(0, 2, 6).astype(np.int32)
    dataset = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(3)
    return client_data(dataset, number)


def _observe(settings, rounds=1, ids=(4, 9)):
    process = _rows(settings)
    state = process.work.initialize()
    weights = tff.learning.models.ModelWeights(
        tuple(w.numpy() for w in NETWORK.initialize(SEED).trainable), ()
    )
    seen = []
    for _ in range(rounds):
        state, observed = process.next(
            state, [weights] * len(ids), [_data(i) for i in ids]
        )
        rows = observed.rows
        seen.append(
            {
                int(number): flatten([value[row] for value in rows.value]).numpy()
                for row, number in enumerate(rows.client_id)
            }
        )
    return state, seen


@functools.cache
def _sent():
    """Rows of two rounds: as they are, those clipped by hand, and as they are sent."""
    plain = _observe(None, rounds=2)[1]
    clipped = [
        {i: row * 0.05 / np.linalg.norm(row) for i, row in rows.items()}
        for rows in plain
    ]
    return plain, clipped, _observe(LocalDp(0.05, 2.0), rounds=2)[1]


def test_the_servers_rows_are_clipped_and_noised():
    plain, clipped, noisy = _sent()
    size = NETWORK.num_parameters
    low, high = stats.chi2.interval(1 - 1e-5, size)
    for number in (4, 9):
        norm = np.linalg.norm(plain[0][number])
        assert norm > 0.06
        noise = (noisy[0][number] - clipped[0][number]).astype(np.float64)
        squares = np.sum((noise / 0.1) ** 2)
        assert low < squares < high
        # Of the update itself next to nothing is left: its cosine is noise's.
        cosine = noisy[0][number] @ plain[0][number] / norm
        assert abs(cosine) / np.linalg.norm(noisy[0][number]) < 5 / math.sqrt(size)


def test_every_client_and_round_has_its_own_noise_and_always_the_same():
    _, clipped, noisy = _sent()
    drawn = [noisy[r][i] - clipped[r][i] for r in (0, 1) for i in (4, 9)]
    correlations = np.corrcoef(drawn)[np.triu_indices(4, k=1)]
    assert np.abs(correlations).max() < 5 / math.sqrt(NETWORK.num_parameters)
    state, again = _observe(LocalDp(0.05, 2.0), rounds=2, ids=(9, 4))
    np.testing.assert_array_equal(again[1][4], noisy[1][4])
    assert isinstance(state, ClientNoiseState)
    assert state.round == 2


def test_in_federated_averaging_without_an_observer():
    work = noise_updates(LocalDp(0.05, 2.0), build_fed_avg_client_work(NETWORK))
    process = build_fed_avg(NETWORK, client_work=work)
    state = process.initialize()
    start = flatten(state.global_model_weights.trainable)
    state, metrics = process.next(state, [_data(4), _data(9)])
    moved = flatten(state.global_model_weights.trainable) - start
    # The mean of two noises of .1: .07, in every number.
    assert np.std(moved) == pytest.approx(0.1 / math.sqrt(2), rel=0.1)
    assert metrics["client_work"]["train"]["examples"] == 12


@pytest.mark.parametrize(
    "settings, message",
    [
        ((0.0, 1.0), "clip is 0.0: expected"),
        ((1.0, -1.0), "noise_multiplier is -1.0: expected"),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        LocalDp(*settings)
