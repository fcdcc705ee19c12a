"""Differential privacy of a run of DSSGD: what it costs, and when a budget ends it."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.settings import plain
from tff_leak.defences.accounting import epsilon, repeated
from tff_leak.defences.record_level_dp import (
    RecordLevelDp,
    record_private_training,
    turn_event,
)
from tff_leak.defences.sparse_vector import SparseVector, total_epsilon
from tff_leak.errors import InputError
from tff_leak.models.network import Network
from tff_leak.models.training import LocalSgd, LocalTraining

Spending = Callable[[Sequence[int]], float]
"""From how many turns each participant has had to the epsilon of the most exposed."""


def local_training(
    network: Network, training: LocalSgd, record_dp: RecordLevelDp | None
) -> LocalSgd | LocalTraining:
    """Returns what participants train with."""
    if record_dp is None:
        return training
    return record_private_training(record_dp, training, network)


def config(
    sparse_vector: SparseVector | None,
    record_dp: RecordLevelDp | None,
    budget: float | None,
) -> dict[str, Any]:
    """Returns what of it stands in `config.json`.

    Only what is set: runs from before there were these flags go on.
    """
    parts = {"sparse_vector": sparse_vector, "record_dp": record_dp}
    found = {name: plain(part) for name, part in parts.items() if part is not None}
    return found if budget is None else found | {"privacy_budget": budget}


def build_spending(
    network: Network,
    training: LocalSgd,
    sparse_vector: SparseVector | None,
    record_dp: RecordLevelDp | None,
    examples: Sequence[int],
) -> Spending | None:
    """Returns what turns cost; None without differential privacy.

    Args:
      network: the shared model.
      training: the local SGD.
      sparse_vector: of the uploads.
      record_dp: of the training.
      examples: records of each participant; 0 for those whose records are nobody's
        concern, the adversaries.

    Raises:
      InputError: if two mechanisms are given.
    """
    if sparse_vector is not None and record_dp is not None:
        raise InputError(
            "--record_dp is given beside --sparse_vector: expected one of them, since "
            "their epsilons protect different things and do not add up; leave one out"
        )
    if sparse_vector is not None:
        size = network.num_parameters
        return lambda turns: total_epsilon(sparse_vector, size, max(turns))
    if record_dp is None:
        return None

    # Asked several times a round, by the metrics and the budget.
    @functools.cache
    def of_one(records: int, count: int) -> float:
        event = repeated(turn_event(record_dp, training, records), count)
        return epsilon(event, record_dp.delta, record_dp.neighbours)

    def spending(turns: Sequence[int]) -> float:
        return max(of_one(*one) for one in set(zip(examples, turns, strict=True)))

    return spending


def build_goes_on(
    spending: Mapping[str, Spending | None], budget: float | None, participants: int
) -> Callable[[int, Mapping[str, Any]], bool] | None:
    """Returns the program loop's question: whether one more round is affordable.

    In a round every participant has a turn.

    Args:
      spending: of each arm.
      budget: the largest epsilon; None for no end.
      participants: how many there are.

    Raises:
      InputError: if there is a budget but nothing private, or not even one round fits.
    """
    if budget is None:
        return None
    if not (budget > 0 and math.isfinite(budget)):
        raise InputError(
            f"--privacy_budget is {budget}: expected a finite epsilon above 0; leave "
            "it out for none"
        )
    for name, of_arm in spending.items():
        if of_arm is None:
            raise InputError(
                f"--privacy_budget is {budget} without differential privacy: expected "
                "--record_dp or --sparse_vector beside it; add one"
            )
        first = of_arm([1] * participants)
        if first > budget:
            raise InputError(
                f"--privacy_budget is {budget}: expected at least {first:.4g}, what "
                f"one round of {name} costs; raise it, or add noise"
            )

    def goes_on(round_num: int, states: Mapping[str, Any]) -> bool:
        del round_num
        return all(
            spending[name]([int(client.turn) + 1 for client in state.clients]) <= budget
            for name, state in states.items()
        )

    return goes_on


def for_json(value: float | None) -> float | str | None:
    """Returns an epsilon as JSON can hold it: the infinite one is a word."""
    return "infinity" if value == math.inf else value
