"""The figures that say how much an attack recovered, and with what certainty."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from tff_leak import errors

SMALLEST_RANGE = 0.05
"""`recovered` is not defined where reference and floor are closer than this."""

REACHED_SHARE = 0.8
"""A target is reached when the judge recognises at least this share of the samples."""

REACHED_DIVERSITY = 0.5
"""... and they differ at least this much, relative to real held-out images."""


def recovered(attack: float, floor: float, reference: float) -> float | None:
    """The attack's place between the floor and the reference.

    (attack - floor) / (reference - floor): 0 is what needs no leak at all, 1 is as
    close as another real image of the class. It may lie outside [0, 1].

    Args:
      attack: Mean similarity of the reconstructions to the private images.
      floor: The largest similarity among controls that hold nothing of the target.
      reference: Mean similarity of real held-out images of the target.

    Returns:
      The ratio; None when the reference is less than `SMALLEST_RANGE` above the floor:
      similarity then cannot tell a leak from none.
    """
    if reference - floor < SMALLEST_RANGE:
        return None
    return (attack - floor) / (reference - floor)


def common_floor(candidates: Mapping[str, float | None]) -> float:
    """The floor by which an attack is compared with its control, or with another one.

    An attack without a target shows some class best, and so does its control: each is
    measured by the floor and reference of its own. In its own floor the control would
    count for itself. The grand mean is left out because it takes from the scales of
    some classes much more than from others', and leaves some none, so that what is
    best would be so among fewer and other classes. The place on this scale says less
    than the distance from the control's.

    Args:
      candidates: The `floor` of a target, or of all pooled, of `evaluate_targets`.

    Returns:
      The largest similarity of a blank, the other classes' means and their images.
    """
    names = ("blank", "other_class_means", "other_class_images")
    return max(candidates[name] for name in names if candidates[name] is not None)


def diversity_ratio(
    diversity: float | None, reference_diversity: float | None
) -> float | None:
    """Diversity (mean pairwise L1) relative to that of real held-out images.

    None where either is not defined, or the reference has none.
    """
    if diversity is None or not reference_diversity:
        return None
    return diversity / reference_diversity


def reached(judge_share: float, ratio: float | None) -> bool | None:
    """Whether a target's samples are recognised and are not one picture repeated.

    Args:
      judge_share: Share of the samples that the judge assigns to the target, 0 to 1.
      ratio: `diversity_ratio` of the samples.

    Returns:
      True when the share is at least `REACHED_SHARE` and the ratio at least
      `REACHED_DIVERSITY`. None where the ratio is not defined, as of one picture.
    """
    if ratio is None:
        return None
    return bool(judge_share >= REACHED_SHARE and ratio >= REACHED_DIVERSITY)


def confidence_interval(
    values: Sequence[float], level: float = 0.95
) -> tuple[float, float] | None:
    """Student's t interval of the mean over independent seeds.

    Args:
      values: One figure a seed.
      level: Coverage, above 0 and below 1.

    Returns:
      (low, high), mean +- t_{n-1} s / sqrt(n); None for fewer than two values, which
      say nothing about their spread.

    Raises:
      InputError: If a value is not finite or the level lies outside (0, 1).
    """
    if not 0 < level < 1:
        raise errors.InputError(
            f"Confidence level {level} is not possible; expected a number between 0 "
            "and 1; 0.95 is usual."
        )
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise errors.InputError(
            f"{values} has an entry that is not finite; expected one number a seed; "
            "leave out the seeds for which the figure is not defined."
        )
    if len(array) < 2:
        return None
    half = stats.t.ppf((1 + level) / 2, len(array) - 1) * stats.sem(array)
    return float(array.mean() - half), float(array.mean() + half)
