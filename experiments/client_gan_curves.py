"""How a client GAN's pictures did over the rounds, by snapshots of its generators.

A generator's pictures wander from round to round, the more so under differential
privacy, so that what the last round shows is luck. Steadier is

    late_recovered = mean of `recovered` over the snapshots of the later half of rounds

with floor and reference of the final evaluation: fixed, so that it does not move with
what a round's control happens to show. The best round would be no fair figure: to pick
it takes the truth, and it favours whatever wanders most.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tff_leak.metrics.score import recovered
from tff_leak.runtime import snapshots
from tff_leak.runtime.run_directory import RunDirectory

_KEYS = ("judge_share", "ssim", "recovered")

Scores = Mapping[str, Any]
"""`targets` and `pooled`, as `evaluate_targets` returns them."""

Score = Callable[[Mapping[str, Mapping[int, np.ndarray]]], Scores]
"""From pictures by arm's name and target, `[n, H, W, C]` in [-1, 1], to scores."""


def score_snapshots(directory: RunDirectory, score: Score) -> dict[int, Scores]:
    """Returns the scores of every snapshot of a run, by round in rising order.

    Args:
      directory: of the run, whose snapshots have arrays `<arm>_<target>`.
      score: of pictures.
    """
    scored = {}
    for round_num, arrays in snapshots.load_snapshots(directory).items():
        drawn: dict[str, dict[int, np.ndarray]] = {}
        for name, images in arrays.items():
            arm, _, target = name.rpartition("_")
            drawn.setdefault(arm, {})[int(target)] = images
        scored[round_num] = score(drawn)
    return scored


def curves_of(
    scored: Mapping[int, Scores],
) -> dict[str, dict[str, list[float | None]]]:
    """Returns figures over rounds, pooled over targets, against each round's floor.

    Returns:
      By arm's name: `round`, and for each of them `judge_share`, `ssim` and `recovered`
      (None where it is not defined, and throughout for the control).
    """
    curves: dict[str, dict[str, list[float | None]]] = {}
    for round_num, scores in scored.items():
        pooled = scores["pooled"]
        attack = pooled["attack"] | {"recovered": pooled["recovered"]}
        for name, figures in (_arms_of(pooled) | {"attack": attack}).items():
            curve = curves.setdefault(name, {"round": []})
            curve["round"].append(round_num)
            for key in _KEYS:
                curve.setdefault(key, []).append(figures.get(key))
    return curves


def with_late(
    scores: Scores, scored: Mapping[int, Scores], rounds: int
) -> dict[str, Any]:
    """Returns the final scores with the figures of the last half of the rounds.

    Args:
      scores: of the final evaluation, whose floor and reference are used.
      scored: of snapshots by round, one of the last round among them.
      rounds: of the run.

    Returns:
      `scores` with `late_rounds`, the rounds of the snapshots that count; and in each
      target's dictionary and the pooled one, by arm's name, `late_ssim`, their mean
      similarity, and `late_recovered` (see the module's docstring), None where it is
      not defined.
    """
    late = [round_num for round_num in scored if 2 * round_num > rounds]
    targets = []
    for one in scores["targets"]:
        snapped = [_of_target(scored[number], one["target"]) for number in late]
        targets.append(one | _late(one, snapped))
    pooled = scores["pooled"]
    pooled = pooled | _late(pooled, [scored[number]["pooled"] for number in late])
    return {**scores, "targets": targets, "pooled": pooled, "late_rounds": late}


def late_figures(
    figures: Mapping[str, Any], ssim: Mapping[str, float]
) -> dict[str, dict]:
    """Returns `late_ssim` and `late_recovered` of one target, or of all pooled.

    Args:
      figures: of the final evaluation: `floor`, `reference` and `recovered`.
      ssim: mean similarity of the later snapshots' pictures, by arm's name.

    Returns:
      Both by arm's name; `late_recovered` is None where `recovered` is not defined.
    """
    return {"late_ssim": dict(ssim), "late_recovered": recovered_by_arm(figures, ssim)}


def recovered_by_arm(
    figures: Mapping[str, Any], ssim: Mapping[str, float]
) -> dict[str, float | None]:
    """Returns `recovered` of other pictures than a final evaluation's, by arm's name.

    Args:
      figures: of the final evaluation: `floor`, `reference` and `recovered`.
      ssim: mean similarity of the pictures, by arm's name.
    """
    floor, reference = figures["floor"]["value"], figures["reference"]["ssim"]
    # The mean of `recovered` is that of the mean similarity: the scale is one for all,
    # and where it is not defined for the last round, it is for none.
    defined = figures["recovered"] is not None
    return {
        arm: recovered(value, floor, reference) if defined else None
        for arm, value in ssim.items()
    }


def _late(figures: Mapping, snapped: list[Mapping]) -> dict[str, dict]:
    """Of one target, or of all pooled; `snapped` are the same of snapshots."""
    ssim = {
        arm: float(np.mean([_arms_of(one)[arm]["ssim"] for one in snapped]))
        for arm in _arms_of(figures)
    }
    return late_figures(figures, ssim)


def _of_target(scores: Scores, target: int) -> Mapping:
    [found] = [one for one in scores["targets"] if one["target"] == target]
    return found


def _arms_of(figures: Mapping) -> dict[str, Mapping]:
    """The sets of pictures that an arm drew, by its name."""
    sets = {"attack": figures["attack"], "control": figures["control"]}
    found = {**sets, **figures["extra_controls"]}
    return {name: one for name, one in found.items() if one is not None}
