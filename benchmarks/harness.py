"""Measures contenders in turns, and compares them by the ratio of their medians.

A machine is never as fast now as a minute ago. Contenders therefore take turns, A, B,
A, B, ..., within one process, and what is compared is the ratio of their medians over
the same rounds. Its interval comes from a bootstrap that draws whole rounds: what
slowed a round slowed all contenders in it.
"""

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Contender = Callable[[], Any]
# Seconds of every round, float64 `[rounds]`, by contender.
Times = dict[str, np.ndarray]

_RESAMPLES = 2000


class Ratio(NamedTuple):
    """A ratio of medians with its 95% bootstrap interval."""

    value: float
    low: float
    high: float


def interleave(
    contenders: Mapping[str, Contender],
    *,
    seconds: float,
    min_rounds: int = 5,
    max_rounds: int = 100,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Times contenders in turns, in the order in which they are given.

    Args:
      contenders: functions that do the work once and wait for its end, by name.
      seconds: rounds go on until so much time has passed after the warm-up.
      min_rounds: rounds that are made however long they take.
      max_rounds: rounds after which it ends in any case.
      warm_up: rounds before the first that counts (tracing, allocation, caches).
      clock: returns seconds.

    Raises:
      ValueError: if nothing would be measured.
    """
    if not contenders or not 1 <= min_rounds <= max_rounds:
        raise ValueError(
            f"Expected contenders and 1 <= min_rounds <= max_rounds, found "
            f"{len(contenders)} contenders, {min_rounds} and {max_rounds}."
        )
    for _ in range(warm_up):
        for call in contenders.values():
            call()
    # What is there now stays there: no need to look through it between rounds.
    gc.collect()
    gc.freeze()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    end = clock() + seconds
    try:
        for done in range(max_rounds):
            if done >= min_rounds and clock() >= end:
                break
            for name, call in contenders.items():
                started = clock()
                call()
                times[name].append(clock() - started)
    finally:
        gc.unfreeze()
    return {name: np.array(measured) for name, measured in times.items()}


def ratio_of_medians(
    numerator: np.ndarray, denominator: np.ndarray, seed: int = 0
) -> Ratio:
    """Compares two contenders of the same rounds.

    Args:
      numerator: seconds, or seconds per unit, `[rounds]`.
      denominator: the same of the other, `[rounds]`.
      seed: of the bootstrap.

    Raises:
      ValueError: if the rounds are not the same.
    """
    if numerator.shape != denominator.shape or numerator.ndim != 1:
        raise ValueError(
            f"Expected times of the same rounds, found {numerator.shape} and "
            f"{denominator.shape}."
        )
    rounds = len(numerator)
    drawn = np.random.default_rng(seed).integers(rounds, size=(_RESAMPLES, rounds))
    resampled = np.median(numerator[drawn], 1) / np.median(denominator[drawn], 1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    value = np.median(numerator) / np.median(denominator)
    return Ratio(float(value), float(low), float(high))


def medians(times: Times) -> dict[str, float]:
    """Returns the contenders' medians in seconds."""
    return {name: float(np.median(measured)) for name, measured in times.items()}
