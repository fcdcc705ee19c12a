"""The server's private mean: clipping, its noise, its state, and its events."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow_federated as tff
from dp_accounting import DpEvent, GaussianDpEvent, NeighboringRelation
from scipy import stats

from tff_leak.defences.accounting import epsilon, repeated
from tff_leak.defences.user_level_dp import (
    Mechanism,
    UserLevelDp,
    build_user_level_factory,
    event,
)
from tff_leak.errors import InputError

pytestmark = pytest.mark.usefixtures("tff_worker")

SIZE = 4000
VALUE = tff.types.to_type((tff.TensorType(np.float32, [SIZE]), np.float32))
FIXED = UserLevelDp(clip=1.0, noise_multiplier=2.0, clients_per_round=40)
DELTA = 1e-5


def _values(norm, count=40):
    """All of a norm, along the last number."""
    return [(np.zeros(SIZE, np.float32), np.float32(norm))] * count


def _run(settings, values, seed=0, rounds=1):
    factory = build_user_level_factory(settings, seed=seed, value_type=VALUE)
    process = factory.create(VALUE)
    state = process.initialize()
    outputs = []
    for _ in range(rounds):
        outputs.append(process.next(state, values))
        state = outputs[-1].state
    return outputs


def _event(output):
    """As the mechanism states it, through TFF's state."""
    return DpEvent.from_named_tuple(output.state.dp_event)


def test_fixed_clipping_noise_and_event():
    outputs = _run(FIXED, _values(3.0), rounds=2)
    noises = []
    for output in outputs:
        noise, last = output.result
        # The mean of 40 clipped to 1, with noise of 2 / 40.
        assert abs(last - 1.0) < 5 * 0.05
        squares = np.sum((noise.astype(np.float64) / 0.05) ** 2)
        low, high = stats.chi2.interval(1 - 1e-5, SIZE)
        assert low < squares < high
        assert not low < 0.8**2 * squares < high
        noises.append(noise)
        assert epsilon(_event(output), DELTA) == pytest.approx(
            epsilon(GaussianDpEvent(2.0), DELTA), rel=1e-6
        )
    # Another noise every round; the same for the same seed.
    assert abs(np.corrcoef(noises)[0, 1]) < 5 / math.sqrt(SIZE)
    again = _run(FIXED, _values(3.0), rounds=1)[0].result
    np.testing.assert_array_equal(again[0], noises[0])
    other = _run(FIXED, _values(3.0), seed=1)[0].result
    assert abs(np.corrcoef(other[0], noises[0])[0, 1]) < 5 / math.sqrt(SIZE)


def test_adaptive_clipping_follows_the_norms():
    settings = dataclasses.replace(
        FIXED, mechanism=Mechanism.ADAPTIVE, noise_multiplier=1.0
    )
    outputs = _run(settings, _values(10.0), rounds=3)
    clips = [output.measurements["dp_query_metrics"]["clip"] for output in outputs]
    # Nobody is below the bound: it grows by e^(.2 (.5 - share)), the share 0 with a
    # noise of 2 / 40, and is never below 0.
    growth = np.diff(np.log([1.0, *clips])) / 0.2
    assert np.all(growth <= 0.5 + 1e-5)
    assert np.all(growth > 0.5 - 5 * 0.05)
    # The noise follows the bound of its round: the third's is the second's result.
    multiplier = settings.update_multiplier
    assert multiplier == pytest.approx((1 - 1 / 16) ** -0.5)
    squares = np.sum(outputs[2].result[0].astype(np.float64) ** 2)
    low, high = stats.chi2.interval(1 - 1e-5, SIZE)
    assert low < squares / (clips[1] * multiplier / 40) ** 2 < high
    # Update and count together cost what the total multiplier says.
    assert epsilon(_event(outputs[0]), DELTA) == pytest.approx(
        epsilon(GaussianDpEvent(1.0), DELTA), rel=1e-6
    )
    assert epsilon(event(settings, 3), DELTA) == pytest.approx(
        epsilon(repeated(GaussianDpEvent(1.0), 3), DELTA), rel=1e-6
    )


def test_adaptive_clipping_without_noise_goes_to_the_median():
    settings = UserLevelDp(1.0, 0.0, 40, mechanism=Mechanism.ADAPTIVE)
    values = [(np.zeros(SIZE, np.float32), np.float32(i / 10)) for i in range(40)]
    outputs = _run(settings, values, rounds=30)
    clip = outputs[-1].measurements["dp_query_metrics"]["clip"]
    assert abs(clip - 1.95) < 0.2
    assert epsilon(_event(outputs[0]), DELTA) == math.inf


@pytest.mark.parametrize("mechanism", list(Mechanism))
@pytest.mark.parametrize("wrong", [np.inf, np.nan, 3e38], ids=str)
def test_an_update_that_is_not_finite_counts_as_nothing(mechanism, wrong):
    # It would reach everybody otherwise, and by no bound.
    silent = dataclasses.replace(FIXED, mechanism=mechanism, noise_multiplier=0.0)
    bad = (np.full(SIZE, wrong, np.float32), np.float32(0.5))
    [output] = _run(silent, [*_values(0.5, count=39), bad])
    updates, last = output.result
    np.testing.assert_array_equal(updates, np.zeros(SIZE, np.float32))
    np.testing.assert_allclose(last, 39 * 0.5 / 40, rtol=1e-5)


def test_tree_noise_of_a_sum_grows_with_its_logarithm():
    settings = dataclasses.replace(FIXED, mechanism=Mechanism.TREE)
    outputs = _run(settings, _values(3.0), rounds=4)
    total = sum(output.result[0].astype(np.float64) for output in outputs)
    # After four rounds the root is left. Honaker's estimates weigh a node's own noise
    # (variance 1) with that of its children: 1 / (1 + 1/2) at height 1, and at height
    # 2, whose children have twice 2/3 together, 1 / (1 + 3/4).
    variance = np.mean(total**2) / 0.05**2
    exact = 4 / 7
    low, high = np.array(stats.chi2.interval(1 - 1e-5, SIZE)) / SIZE
    assert low * exact < variance < high * exact
    # Independent noise of four rounds would have four times one round's.
    assert variance < 4 / 5
    again = _run(settings, _values(3.0), rounds=1)[0].result
    np.testing.assert_array_equal(again[0], outputs[0].result[0])


def test_tree_events():
    settings = dataclasses.replace(FIXED, mechanism=Mechanism.TREE)
    assert settings.neighbours is NeighboringRelation.REPLACE_SPECIAL

    def spent(rounds, once):
        found = event(settings, rounds, once=once)
        return epsilon(found, DELTA, settings.neighbours)

    # In one round of four, a client stands under three nodes; in all four, under four
    # leaves once, two nodes twice and the root four times.
    three = GaussianDpEvent(2.0 / math.sqrt(3))
    all_four = GaussianDpEvent(2.0 / math.sqrt(4 * 1 + 2 * 4 + 1 * 16))
    assert spent(4, True) == pytest.approx(epsilon(three, DELTA), rel=1e-9)
    assert spent(4, False) == pytest.approx(epsilon(all_four, DELTA), rel=1e-9)
    assert spent(1, True) == spent(1, False) == epsilon(GaussianDpEvent(2.0), DELTA)


@pytest.mark.parametrize("mechanism", Mechanism)
def test_what_a_run_costs(mechanism):
    settings = dataclasses.replace(FIXED, mechanism=mechanism)

    def spent(rounds, **how):
        found = event(settings, rounds, **how)
        return epsilon(found, DELTA, settings.neighbours)

    assert spent(0) == 0.0
    assert spent(1) < spent(2) < spent(20)
    assert spent(20, once=True) < spent(20)
    silent = dataclasses.replace(settings, noise_multiplier=0.0)
    assert epsilon(event(silent, 1), DELTA, settings.neighbours) == math.inf


@pytest.mark.parametrize(
    "change, message",
    [
        ({"clients_per_round": 39}, "clients_per_round is 39: expected at least 40"),
        (
            {"clients_per_round": 0, "least_clients": 0},
            "clients_per_round is 0: expected at least 1",
        ),
        ({"quantile": 1.5}, r"quantile is 1.5: expected it in \[0, 1\]"),
        ({"clip_learning_rate": -1.0}, "clip_learning_rate is -1.0: expected 0 or"),
        ({"clip": -1.0}, "clip is -1.0: expected"),
        (
            {"mechanism": Mechanism.ADAPTIVE, "noise_multiplier": 5.0},
            "noise_multiplier is 5.0: expected less than 4.0 for adaptive",
        ),
    ],
)
def test_values_out_of_range(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(FIXED, **change)


def test_a_small_cohort_by_choice_and_a_tree_without_a_type():
    small = dataclasses.replace(FIXED, clients_per_round=2, least_clients=1)
    assert small.clients_per_round == 2
    tree = dataclasses.replace(FIXED, mechanism=Mechanism.TREE)
    with pytest.raises(InputError, match="value_type is None for tree aggregation"):
        build_user_level_factory(tree)
