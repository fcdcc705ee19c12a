"""Differential privacy of a run: what it costs, and when a budget ends it."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dp_accounting import DpEvent

from computations.defended_fed_avg import Defences
from experiments.settings import plain
from tff_leak.defences import local_dp as local_dp_lib
from tff_leak.defences import user_level_dp
from tff_leak.defences.accounting import epsilon, repeated
from tff_leak.defences.local_dp import LocalDp
from tff_leak.defences.record_level_dp import (
    RecordLevelDp,
    record_private_training,
    round_event,
    turn_event,
)
from tff_leak.defences.sparse_vector import SparseVector, total_epsilon
from tff_leak.defences.user_level_dp import UserLevelDp
from tff_leak.errors import InputError
from tff_leak.models.batched_sgd import BatchSgd
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


def config(parts: Mapping[str, Any], budget: float | None) -> dict[str, Any]:
    """Returns what of it stands in `config.json`.

    Only what is set: runs from before there were these flags go on.

    Args:
      parts: dataclasses of settings by flag, or None.
      budget: the largest epsilon, or None.
    """
    found = {name: plain(part) for name, part in parts.items() if part is not None}
    return found if budget is None else found | {"privacy_budget": budget}


def build_spending(
    network: Network,
    training: LocalSgd,
    sparse_vector: SparseVector | None,
    record_dp: RecordLevelDp | None,
    examples: Sequence[int],
    local_dp: LocalDp | None = None,
    user_dp: UserLevelDp | None = None,
) -> Spending | None:
    """Returns what turns of DSSGD cost; None without differential privacy.

    Args:
      network: the shared model.
      training: the local SGD.
      sparse_vector: of the uploads.
      record_dp: of the training.
      examples: records of each participant; 0 for those whose records are nobody's
        concern, the adversaries.
      local_dp: of the uploads, each a participant's whole turn.
      user_dp: of the sum of the uploads of all, at the server.

    Raises:
      InputError: if several mechanisms are given.
    """
    _check_one(
        {
            "record_dp": record_dp,
            "sparse_vector": sparse_vector,
            "local_dp": local_dp,
            "user_dp": user_dp,
        }
    )
    if sparse_vector is not None:
        size = network.num_parameters
        return lambda turns: total_epsilon(sparse_vector, size, max(turns))
    private = record_dp or local_dp or user_dp
    if private is None:
        return None

    # Asked several times a round, by the metrics and the budget.
    @functools.cache
    def of_one(records: int, count: int) -> float:
        if user_dp is not None:
            event = user_level_dp.event(user_dp, count if records else 0)
            return epsilon(event, user_dp.delta, user_dp.neighbours)
        if record_dp is not None:
            event = turn_event(record_dp, training, records)
        else:
            event = local_dp_lib.upload_event(local_dp)
        # Whoever has no records has nothing to lose.
        spent = repeated(event, count if records else 0)
        return epsilon(spent, private.delta, private.neighbours)

    def spending(turns: Sequence[int]) -> float:
        return max(of_one(*one) for one in set(zip(examples, turns, strict=True)))

    return spending


def build_round_spending(
    defences: Defences, training: BatchSgd
) -> Callable[[int], float] | None:
    """Returns what rounds of federated averaging cost; None without privacy.

    Args:
      defences: of the clients, all of whom take part in every round.
      training: of the clients; of FedSGD `own_training`.

    Returns:
      From a number of rounds to the epsilon of every client (or of its records).
    """
    private = mechanism(defences)
    if private is None:
        return None

    def event(rounds: int) -> DpEvent:
        if defences.user_dp is not None:
            return user_level_dp.event(defences.user_dp, rounds)
        if defences.local_dp is not None:
            return repeated(local_dp_lib.upload_event(defences.local_dp), rounds)
        return repeated(round_event(defences.record_dp, training), rounds)

    @functools.cache
    def spending(rounds: int) -> float:
        return epsilon(event(rounds), private.delta, private.neighbours)

    return spending


def mechanism(
    defences: Defences,
) -> RecordLevelDp | LocalDp | user_level_dp.UserLevelDp | None:
    """Returns the differential privacy among the defences, with its delta."""
    return defences.record_dp or defences.local_dp or defences.user_dp


def price(
    defences: Defences, spending: Callable[[int], float] | None, rounds: int
) -> dict[str, Any]:
    """Returns what stands of it in the `summary.json` of a federated averaging.

    Args:
      defences: of the clients.
      spending: see `build_round_spending`.
      rounds: that were run.

    Returns:
      `defences` (names), `epsilon`, `epsilon_round` (one round alone), `delta` and
      `neighbours`, the last four None without differential privacy.
    """
    private = mechanism(defences)
    return {
        "defences": [
            field.name
            for field in dataclasses.fields(defences)
            if getattr(defences, field.name) is not None
        ],
        "epsilon": for_json(spending(rounds)) if spending else None,
        "epsilon_round": for_json(spending(1)) if spending else None,
        "delta": private.delta if private else None,
        "neighbours": private.neighbours.name if private else None,
    }


def build_goes_on(
    spending: Mapping[str, Spending | None], budget: float | None, participants: int
) -> Callable[[int, Mapping[str, Any]], bool] | None:
    """Returns the program loop's question: whether one more round is affordable.

    In a round every participant has a turn.

    Args:
      spending: of each arm that the budget is for; nobody asks what others spend.
      budget: the largest epsilon; None for no end.
      participants: how many there are.

    Raises:
      InputError: if there is a budget but nothing private, or not even one round fits.
    """
    if budget is None:
        return None
    once = [1] * participants
    _check_budget(
        budget,
        {name: of_arm and of_arm(once) for name, of_arm in spending.items()},
        "--record_dp, --local_dp, --user_dp or --sparse_vector",
    )

    def goes_on(round_num: int, states: Mapping[str, Any]) -> bool:
        del round_num
        return all(
            of_arm([int(client.turn) + 1 for client in states[name].clients]) <= budget
            for name, of_arm in spending.items()
        )

    return goes_on


def build_rounds_go_on(
    spending: Callable[[int], float] | None,
    budget: float | None,
    flags: str = "--record_dp, --local_dp or --user_dp",
) -> Callable[[int, Mapping[str, Any]], bool] | None:
    """The same as `build_goes_on` for federated averaging.

    Args:
      spending: see `build_round_spending`.
      budget: the largest epsilon; None for no end.
      flags: those of the binary that make it private, for messages.

    Raises:
      InputError: as `build_goes_on`.
    """
    if budget is None:
        return None
    _check_budget(
        budget,
        {"the federation": spending and spending(1)},
        flags,
    )

    def goes_on(round_num: int, states: Mapping[str, Any]) -> bool:
        del states
        return spending(round_num) <= budget

    return goes_on


def _check_budget(budget: float, first: Mapping[str, float | None], flags: str) -> None:
    """Raises InputError unless all is private and one round affordable."""
    if not (budget > 0 and math.isfinite(budget)):
        raise InputError(
            f"--privacy_budget is {budget}: expected a finite epsilon above 0; leave "
            "it out for none"
        )
    for name, price in first.items():
        if price is None:
            raise InputError(
                f"--privacy_budget is {budget} without differential privacy: expected "
                f"{flags} beside it; add one"
            )
        if price > budget:
            raise InputError(
                f"--privacy_budget is {budget}: expected at least {price:.4g}, what "
                f"one round of {name} costs; raise it, or add noise"
            )


def _check_one(mechanisms: Mapping[str, Any]) -> None:
    """Raises InputError if several mechanisms of differential privacy are given."""
    given = [f"--{name}" for name, part in mechanisms.items() if part is not None]
    if len(given) > 1:
        raise InputError(
            f"{given[0]} is given beside {' and '.join(given[1:])}: expected one of "
            "them, since their epsilons protect different things and do not add up; "
            "leave the others out"
        )


def for_json(value: float | None) -> float | str | None:
    """Returns an epsilon as JSON can hold it: the infinite one is a word."""
    return "infinity" if value == math.inf else value
