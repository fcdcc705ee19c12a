"""What turns cost a run, and when its budget ends it."""

import math
from typing import NamedTuple

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation

from computations.defended_fed_avg import Defences
from experiments.privacy import (
    build_goes_on,
    build_round_spending,
    build_rounds_go_on,
    build_spending,
    for_json,
    local_training,
)
from tff_leak.defences import user_level_dp
from tff_leak.defences.accounting import epsilon, repeated
from tff_leak.defences.local_dp import LocalDp
from tff_leak.defences.record_level_dp import RecordLevelDp, Sampling
from tff_leak.defences.sparse_vector import SparseVector
from tff_leak.errors import InputError
from tff_leak.models import classifiers
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.models.training import LocalSgd, LocalTraining

NETWORK = classifiers.mlp(2, (2, 2, 1), hidden=3)
SGD = LocalSgd(batch_size=10)
RECORD = RecordLevelDp(1.0, 20.0)


class _Client(NamedTuple):
    turn: int


class _State(NamedTuple):
    clients: list


def _spending(sparse_vector=None, record_dp=None, examples=(100, 50)):
    return build_spending(NETWORK, SGD, sparse_vector, record_dp, examples)


def _after(*turns):
    return {"fixed": _State([_Client(turn) for turn in turns])}


def test_the_most_exposed_participant_counts():
    spent = _spending(record_dp=RECORD)([3, 7])
    assert spent == epsilon(repeated(GaussianDpEvent(20.0), 7), 1e-5)
    # A batch of ten is a larger share of 50 records than of 100.
    poisson = RecordLevelDp(1.0, 2.0, Sampling.POISSON)
    both, large = (
        _spending(record_dp=poisson, examples=examples)([1, 1])
        for examples in ((100, 50), (100, 0))
    )
    assert 0 < large != both
    assert _spending(SparseVector(2.0))([3, 7]) == 7 * 2.0 * NETWORK.num_parameters
    assert _spending() is None
    silent = RecordLevelDp(1.0, 0.0)
    assert for_json(_spending(record_dp=silent)([1, 1])) == "infinity"
    assert for_json(2.5) == 2.5 and for_json(None) is None


def test_a_turn_that_its_participant_noises_costs_it_whole():
    """Any two data sets: updates lie 2 C apart, the multiplier counts half."""
    spending = build_spending(NETWORK, SGD, None, None, (100, 0), LocalDp(0.5, 6.0))
    replaced = NeighboringRelation.REPLACE_ONE
    once, thrice = (
        epsilon(repeated(GaussianDpEvent(3.0), count), 1e-5, replaced)
        for count in (1, 3)
    )
    # How many records there are does not matter, but an adversary loses nothing.
    assert spending([3, 9]) == thrice > spending([1, 9]) == once
    assert spending([0, 9]) == 0


RELATIONS = NeighboringRelation.REPLACE_SPECIAL, NeighboringRelation.REPLACE_ONE


@pytest.mark.parametrize(
    "defences, event, relation",
    [
        # Each record is in one batch of each of two epochs.
        (Defences(record_dp=RECORD), repeated(GaussianDpEvent(20.0), 6), RELATIONS[0]),
        (
            Defences(local_dp=LocalDp(1.0, 8.0)),
            repeated(GaussianDpEvent(4.0), 3),
            RELATIONS[1],
        ),
        (
            Defences(user_dp=user_level_dp.UserLevelDp(1.0, 5.0, 40)),
            repeated(GaussianDpEvent(5.0), 3),
            NeighboringRelation.ADD_OR_REMOVE_ONE,
        ),
    ],
    ids=["records", "local", "users"],
)
def test_rounds_of_federated_averaging(defences, event, relation):
    spending = build_round_spending(defences, BatchSgd(epochs=2))
    assert spending(3) == epsilon(event, 1e-5, relation)
    goes_on = build_rounds_go_on(spending, spending(3))
    assert [goes_on(number, {}) for number in (2, 3, 4)] == [True, True, False]


def test_rounds_without_privacy_cost_nothing_that_can_be_named():
    assert build_round_spending(Defences(), BatchSgd()) is None
    assert build_rounds_go_on(None, None) is None
    silent = Defences(user_dp=user_level_dp.UserLevelDp(1.0, 0.0, 40))
    assert build_round_spending(silent, BatchSgd())(1) == math.inf


@pytest.mark.parametrize("budget", [1.0, 2.0])
def test_a_run_ends_before_the_round_that_passes_its_budget(budget):
    spending = _spending(record_dp=RECORD)
    goes_on = build_goes_on({"fixed": spending}, budget, 2)
    made = 0
    while goes_on(made + 1, _after(made, made)):
        made += 1
    assert made > 1
    assert spending([made, made]) <= budget < spending([made + 1, made + 1])
    # One participant is enough to end it, but not one of a federation beside it.
    assert not goes_on(1, _after(0, made))
    beside = {"control": _State([_Client(made), _Client(made)])}
    assert goes_on(1, _after(0, 0) | beside)


def test_training_is_private_only_if_asked():
    assert local_training(NETWORK, SGD, None) is SGD
    assert isinstance(local_training(NETWORK, SGD, RECORD), LocalTraining)


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda: _spending(SparseVector(1.0), RECORD),
            "--record_dp is given beside --sparse_vector: expected one",
        ),
        (
            lambda: build_spending(
                NETWORK, SGD, None, RECORD, (1, 1), LocalDp(1.0, 1.0)
            ),
            "--record_dp is given beside --local_dp: expected one",
        ),
        (
            lambda: build_rounds_go_on(None, 1.0),
            "without differential privacy: expected --record_dp, --local_dp or --user",
        ),
        (
            lambda: build_rounds_go_on(lambda rounds: 2.5 * rounds, 1.0),
            "--privacy_budget is 1.0: expected at least 2.5, what one round",
        ),
        (
            lambda: build_goes_on({"fixed": None}, 1.0, 2),
            "--privacy_budget is 1.0 without differential privacy",
        ),
        (
            lambda: build_goes_on({"fixed": _spending(record_dp=RECORD)}, 0.1, 2),
            r"--privacy_budget is 0.1: expected at least 0.1\d+, what one round",
        ),
        (
            lambda: build_goes_on({"fixed": lambda turns: math.inf}, 9.0, 2),
            "expected at least inf, what one round of fixed costs",
        ),
        (
            lambda: build_goes_on({"fixed": _spending(record_dp=RECORD)}, 0.0, 2),
            "--privacy_budget is 0.0: expected a finite epsilon above 0",
        ),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(InputError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
