"""Epsilon against closed forms and published values, and budgets."""

import math
from unittest import mock

import numpy as np
import pytest
from dp_accounting import (
    ComposedDpEvent,
    GaussianDpEvent,
    NeighboringRelation,
    NonPrivateDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
    UnsupportedDpEvent,
)
from dp_accounting.rdp import RdpAccountant, rdp_privacy_accountant
from scipy import optimize, special, stats

from tff_leak.defences.accounting import PrivacyBudget, epsilon, repeated
from tff_leak.errors import InputError

DELTA = 1e-5
# tensorflow-privacy's tutorial: MNIST, 60 epochs of batches of 256.
TUTORIAL = SelfComposedDpEvent(
    PoissonSampledDpEvent(256 / 60_000, GaussianDpEvent(1.1)), 60 * 60_000 // 256
)

# Noise, epochs of the same batches, epsilon: the table in that tutorial's README.
PUBLISHED = [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)]


def _exact(sigma):
    """Of one Gaussian mechanism (Balle and Wang, ICML 2018, theorem 8)."""

    def delta(eps):
        low, high = 1 / (2 * sigma) - eps * sigma, -1 / (2 * sigma) - eps * sigma
        return stats.norm.cdf(low) - math.exp(eps) * stats.norm.cdf(high)

    return optimize.brentq(lambda eps: delta(eps) - DELTA, 0, 100)


def _renyi(probability, sigma, order):
    """Of one Poisson-sampled Gaussian, for whole orders (Mironov et al., 2019)."""
    k = np.arange(order + 1)
    logs = (
        np.log(special.comb(order, k))
        + k * math.log(probability)
        + (order - k) * math.log1p(-probability)
        + k * (k - 1) / (2 * sigma**2)
    )
    return special.logsumexp(logs) / (order - 1)


@pytest.mark.parametrize("sigma, above", [(0.5, 1.08), (2.0, 1.09), (20.0, 1.14)])
def test_one_gaussian_mechanism_is_close_above_the_closed_form(sigma, above):
    found = epsilon(GaussianDpEvent(sigma), DELTA)
    exact = _exact(sigma)
    assert exact < found < above * exact


def test_rounds_compose_as_one_gaussian_with_more_noise():
    many = epsilon(repeated(GaussianDpEvent(8.0), 16), DELTA)
    assert many == pytest.approx(epsilon(GaussianDpEvent(2.0), DELTA), rel=1e-9)
    both = ComposedDpEvent([GaussianDpEvent(8.0)] * 16)
    assert epsilon(both, DELTA) == pytest.approx(many, rel=1e-9)


def test_the_tutorials_mnist():
    """Published: 3.0, with the conversion of 2017; dp-accounting's is tighter."""
    orders = np.arange(2, 64)
    curve = TUTORIAL.count * np.array([_renyi(256 / 60_000, 1.1, o) for o in orders])
    first = np.min(curve + math.log(1 / DELTA) / (orders - 1))
    assert first == pytest.approx(3.0, abs=0.05)
    # Canonne, Kamath and Steinke, 2020, proposition 12.
    tight = curve + np.log1p(-1 / orders) - np.log(DELTA * orders) / (orders - 1)
    found = epsilon(TUTORIAL, DELTA)
    assert found == pytest.approx(np.min(tight), rel=0.02)
    assert found < first
    # The same steps without a Poisson sample, which is what is never left out.
    assert epsilon(repeated(GaussianDpEvent(1.1), TUTORIAL.count), DELTA) > 1000


@pytest.mark.parametrize("noise, epochs, published", PUBLISHED)
def test_other_published_values(noise, epochs, published):
    """Of tensorflow-privacy's tutorials, all with the conversion of 2017."""
    sampled = PoissonSampledDpEvent(256 / 60_000, GaussianDpEvent(noise))
    steps = epochs * 60_000 // 256
    orders = np.arange(2, 64)
    curve = steps * np.array([_renyi(256 / 60_000, noise, o) for o in orders])
    first = np.min(curve + math.log(1 / DELTA) / (orders - 1))
    assert first == pytest.approx(published, rel=0.02)
    # The present conversion gives less, and not much.
    assert 0.8 * published < epsilon(repeated(sampled, steps), DELTA) < published


def test_a_sampled_events_curve_is_computed_once_and_gives_the_same_bits(monkeypatch):
    counted = mock.Mock(wraps=rdp_privacy_accountant._compute_log_a)
    monkeypatch.setattr(rdp_privacy_accountant, "_compute_log_a", counted)
    single = PoissonSampledDpEvent(0.0123, GaussianDpEvent(0.987))
    found = [epsilon(repeated(repeated(single, 7), n), DELTA) for n in (1, 5, 60)]
    calls = counted.call_count
    assert calls == len(RdpAccountant().orders)
    found.append(epsilon(single, DELTA))
    assert counted.call_count == calls
    counts = (7, 35, 420, 1)
    whole = [
        RdpAccountant().compose(repeated(single, n)).get_epsilon(DELTA) for n in counts
    ]
    assert found == whole


@pytest.mark.parametrize(
    "event",
    [
        NonPrivateDpEvent(),
        GaussianDpEvent(0.0),
        repeated(PoissonSampledDpEvent(0.1, GaussianDpEvent(0.0)), 3),
        ComposedDpEvent([GaussianDpEvent(9.0), NonPrivateDpEvent()]),
    ],
)
def test_no_privacy_is_infinity(event):
    assert epsilon(event, DELTA) == math.inf


def test_nothing_is_free():
    assert epsilon(repeated(GaussianDpEvent(1.0), 0), DELTA) == 0.0
    assert repeated(GaussianDpEvent(1.0), 0) == NoOpDpEvent()


@pytest.mark.parametrize("limit", [1, 2, 10, 1000])
def test_a_budget_ends_one_round_before_it_would_be_passed(limit):
    budget = PrivacyBudget(3.0, DELTA)

    def after(rounds):
        return repeated(GaussianDpEvent(20.0), rounds)

    fitting = budget.rounds(after, limit)
    assert epsilon(after(fitting), DELTA) <= 3.0
    if limit < 1000:
        assert fitting == limit
    else:
        assert 10 < fitting < 1000
        assert epsilon(after(fitting + 1), DELTA) > 3.0


def test_a_budget_that_not_even_one_round_keeps_to():
    assert PrivacyBudget(0.1).rounds(lambda n: GaussianDpEvent(1.0 / n), 5) == 0
    assert PrivacyBudget(1e9).rounds(lambda n: NonPrivateDpEvent(), 5) == 0


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda: PrivacyBudget(0.0), "the budget's epsilon is 0.0: expected a finite"),
        (lambda: PrivacyBudget(math.inf), "the budget's epsilon is inf: expected"),
        (lambda: PrivacyBudget(1.0, 0.0), r"delta is 0.0: expected it in \(0, 1\)"),
        (lambda: epsilon(NoOpDpEvent(), 1.0), r"delta is 1.0: expected it in \(0, 1\)"),
        (
            lambda: epsilon(UnsupportedDpEvent(), DELTA),
            "expected one that the accountant knows",
        ),
        (
            lambda: epsilon(TUTORIAL, DELTA, NeighboringRelation.REPLACE_ONE),
            "under REPLACE_ONE: expected one",
        ),
    ],
)
def test_bad_input(act, message):
    with pytest.raises(InputError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)
