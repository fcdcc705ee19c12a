"""Scores reconstructions beside everything that must be known to read the score.

A classifier's confidence passes noise, plain SSIM passes blanks, and the class mean
passes both. So each target is scored together with its control, its reference and its
floor, by the same functions on sets of images:

- attack: the reconstructions;
- control: the same attack in a federation where nobody holds the target;
- reference: real held-out images of the class, as if they were reconstructions;
- floor: the largest similarity among the control, a blank image, the means of the
  other classes, real held-out images of the other classes, and the grand mean: the
  mean of those means, the picture of nobody in particular, which of faces comes closer
  to a person than most other persons do. Means and images are pooled over classes. With
  the one class that comes closest in their place it is the strict floor, reported
  beside it. Where there is neither a control nor another class, a blank alone is no
  floor: `recovered` and `reached` are not defined.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tff_leak import errors
from tff_leak.metrics import feature_distances
from tff_leak.metrics import score as score_lib
from tff_leak.metrics.judge import Judge
from tff_leak.metrics.score import confidence_interval, reached, recovered
from tff_leak.metrics.similarity import (
    Similarity,
    crop,
    mean_pairwise_l1,
    similarity,
)

if TYPE_CHECKING:
    from tff_leak.data.sources import Examples

__all__ = [
    "Similarity",
    "TargetInputs",
    "confidence_interval",
    "evaluate_targets",
    "mean_pairwise_l1",
    "reached",
    "recovered",
    "similarity",
]

MAX_SAMPLES = 500
"""At most so many images of a set are scored, drawn at random."""

MAX_OTHER_IMAGES = 50
"""At most so many real images of each other class are scored for the floor."""


MAX_KID_IMAGES = 5000
"""KID is taken to at most so many private images, drawn at random: its time grows with
their square, and its expectation does not depend on their number."""


@dataclasses.dataclass(frozen=True)
class TargetInputs:
    """What is known about the attack on one class. All images are in [-1, 1].

    Attributes:
      target: The class that the attack wants.
      attack: float [n, H, W, C], its reconstructions, n at least 1.
      control: float [m, H, W, C], the control's; empty when no control was run.
      private: float [p, H, W, C], the victim's images of the class, p at least 1.
      others: float [o, H, W, C], other clients' images of the class; may be empty.
      heldout: Real images of all classes that no participant and no judge holds.
      extra_controls: Further controls by name, scored and reported beside the first;
        they do not enter the floor.
    """

    target: int
    attack: np.ndarray
    control: np.ndarray
    private: np.ndarray
    others: np.ndarray
    heldout: Examples
    extra_controls: Mapping[str, np.ndarray] = dataclasses.field(
        default_factory=lambda: types.MappingProxyType({})
    )


@dataclasses.dataclass(frozen=True)
class _Scored:
    """One set of n images, scored against one victim's images of one class."""

    target: int
    similarity: Similarity
    to_others: Similarity | None
    to_heldout: Similarity | None  # None for the held-out images themselves
    diversity: float | None
    probabilities: np.ndarray  # [n, num_classes + 1], the last: none of the classes
    features: np.ndarray  # [n, d]
    private_features: np.ndarray  # [p, d]


@dataclasses.dataclass(frozen=True)
class _ScoredTarget:
    """The sets of one target, and the floor's candidates that need no run."""

    sets: dict[str, _Scored]
    blank: float
    other_class_means: list[float]  # one entry a class
    other_class_images: list[float]  # one entry a class
    grand_mean: float | None  # None without other classes
    class_mean_similarity: float
    private_count: int
    heldout_count: int  # of the target's class, after drawing


def evaluate_targets(
    inputs: Sequence[TargetInputs],
    judge: Judge,
    *,
    foreground: bool,
    window: tuple[int, int] | None,
    seed: int,
) -> dict:
    """Scores the attack on each target, and on all of them pooled.

    Similarity is SSIM to the L1-nearest private image (see `similarity`). Means are
    pooled over samples and targets; the pooled floor is the largest of the pooled
    candidates. Of the other classes each counts the same.

    Args:
      inputs: One entry a target, at least one.
      judge: Trained on real images that are not the victim's.
      foreground: True for drawings on a background of -1 (digits), False for
        pictures that fill the frame (faces).
      window: (h, w), the rows and columns that the attacked classifier can see; pixels
        outside are replaced by the held-out images' mean before the judge looks, and
        left out elsewhere. None for all.
      seed: Draws the subset where a set has more than `MAX_SAMPLES` images, and which
        held-out images the distances to held-out images are taken to.

    Returns:
      {"targets": [one dictionary a target], "pooled": dictionary}, of numbers, strings
      and None (not defined), ready for JSON. Each dictionary has `attack`, `control`
      (None without one), `reference` and `extra_controls` with for each set
      {samples, judge_share, rejected_share, judge_confidence, ssim, l1, psnr,
      diversity, fid, kid, inception_score} (distances to the private images; the judge
      may also name none of the classes) and {ssim, l1, psnr}_to_others and
      _to_heldout (None for the reference, which is the held-out images);
      `compared` with {private, heldout}: among how many images of the class the
      nearest is sought. The held-out ones are drawn to be as many as the private ones;
      where there are fewer, all are taken, and distances to them come out larger for
      that reason alone. `floor` has {control, blank, other_class_means,
      other_class_images, grand_mean, value, source} and, not part of it,
      {closest_class_mean, closest_class_images, strict_value, strict_source};
      `class_mean_similarity` is that of the mean of the victim's images, scored as a
      reconstruction; `recovered` is against `floor.value`, `recovered_closest` against
      `floor.strict_value`. An extra control has `recovered` and `recovered_closest`
      too, against the same floors and reference. A target has `target` and `reached`
      with {value, judge_share, diversity_ratio}; pooled has `targets`, and instead
      `reached_count` and `reached_all`; so has each extra control.

    Raises:
      InputError: If there is no target, no reconstruction or nothing to compare with,
        or the images do not fit each other or the judge.
    """
    if not inputs:
        raise errors.InputError(
            "No target was given to evaluate; expected at least one class that the "
            "victim holds; name it as the attack's target."
        )
    scored = [
        _score_target(one, judge, foreground, window, [seed, i])
        for i, one in enumerate(inputs)
    ]
    targets = []
    for one in scored:
        figures = _figures([one])
        targets.append({"target": one.sets["attack"].target, **figures})
        reference = figures["reference"]
        known = _has_more_than_a_blank(figures["floor"])
        targets[-1]["reached"] = _reached(figures["attack"], reference, known)
        for control in figures["extra_controls"].values():
            control["reached"] = _reached(control, reference, known)
    pooled = {
        "targets": [one["target"] for one in targets],
        **_figures(scored),
        **_reached_together(targets),
    }
    for name, control in pooled["extra_controls"].items():
        control |= _reached_together([one["extra_controls"][name] for one in targets])
    return {"targets": targets, "pooled": pooled}


def _score_target(
    inputs: TargetInputs,
    judge: Judge,
    foreground: bool,
    window: tuple[int, int] | None,
    seeds: Sequence[int],
) -> _ScoredTarget:
    _check(inputs)
    rng = np.random.default_rng(seeds)
    heldout = _subset(
        inputs.heldout.of_class(inputs.target).images,
        len(inputs.private),
        np.random.default_rng([*seeds, 1]),
    )
    fill = np.asarray(inputs.heldout.images).mean(axis=0, dtype=np.float64)
    private_features = judge.features(_hide_outside(inputs.private, window, fill))

    def score_set(name: str, images: np.ndarray) -> _Scored:
        images = _subset(images, MAX_SAMPLES, rng)
        features = judge.features(_hide_outside(images, window, fill))
        return _Scored(
            target=inputs.target,
            similarity=to(images, inputs.private),
            to_others=to(images, inputs.others) if len(inputs.others) else None,
            to_heldout=to(images, heldout) if name != "reference" else None,
            diversity=mean_pairwise_l1(crop(images, window)),
            probabilities=judge.all_probabilities(features),
            features=features,
            private_features=private_features,
        )

    def to(images: np.ndarray, real: np.ndarray) -> Similarity:
        return similarity(images, real, foreground=foreground, window=window)

    def mean_ssim(images: np.ndarray) -> float:
        return float(to(images, inputs.private).ssim.mean())

    others = _other_classes(inputs, rng)
    return _ScoredTarget(
        sets={name: score_set(name, run) for name, run in _sets(inputs).items()},
        blank=mean_ssim(np.full((1, *fill.shape), -1.0)),
        other_class_means=[mean_ssim(mean) for mean, _ in others],
        other_class_images=[mean_ssim(images) for _, images in others],
        grand_mean=mean_ssim(_grand_mean(others)) if others else None,
        class_mean_similarity=mean_ssim(np.mean(inputs.private, 0, keepdims=True)),
        private_count=len(inputs.private),
        heldout_count=len(heldout),
    )


def _check(inputs: TargetInputs) -> None:
    heldout = int(np.sum(inputs.heldout.labels == inputs.target))
    for count, name, remedy in (
        (len(inputs.attack), "reconstructions", "let the attack run to its end"),
        (len(inputs.private), "private images", "aim at a class that a victim holds"),
        (heldout, "held-out images", "keep some real images of every class apart"),
    ):
        if not count:
            raise errors.InputError(
                f"There are 0 {name} of class {inputs.target}; expected at least 1; "
                f"{remedy}."
            )


def _sets(inputs: TargetInputs) -> dict[str, np.ndarray]:
    """The sets of images to score, by name; an empty one is left out."""
    sets = {
        "attack": inputs.attack,
        "control": inputs.control,
        "reference": inputs.heldout.of_class(inputs.target).images,
        **{f"extra:{name}": run for name, run in inputs.extra_controls.items()},
    }
    return {name: images for name, images in sets.items() if len(images)}


def _other_classes(
    inputs: TargetInputs, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each other class the mean [1, H, W, C] and some images of held-out ones."""
    pairs = []
    for label in np.unique(inputs.heldout.labels):
        if label != inputs.target:
            images = inputs.heldout.of_class(int(label)).images
            mean = images.mean(axis=0, keepdims=True)
            pairs.append((mean, _subset(images, MAX_OTHER_IMAGES, rng)))
    return pairs


def _grand_mean(others: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """[1, H, W, C], of means of classes: each counts the same, however large."""
    return np.mean([mean for mean, _ in others], axis=0)


def _subset(images: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    if len(images) <= most:
        return images
    return images[np.sort(rng.choice(len(images), most, replace=False))]


def _hide_outside(
    images: np.ndarray, window: tuple[int, int] | None, fill: np.ndarray
) -> np.ndarray:
    """Puts `fill` [H, W, C] in the place of the pixels outside the window."""
    seen = crop(images, window)
    hidden = np.broadcast_to(fill, (len(images), *fill.shape)).copy()
    hidden[:, : seen.shape[1], : seen.shape[2]] = seen
    return hidden


def _figures(scored: Sequence[_ScoredTarget]) -> dict:
    """Figures of one target, or of several pooled over samples and targets."""
    # A set that only some targets have says nothing about the pooled ones.
    names = [name for name in scored[0].sets if all(name in one.sets for one in scored)]
    sets = {name: _summary([one.sets[name] for one in scored]) for name in names}
    control = sets.get("control")
    floor = _floor(scored, control["ssim"] if control else None)

    def recovered_by(figures: dict) -> dict:
        reference = sets["reference"]["ssim"]
        known = _has_more_than_a_blank(floor)
        return {
            name: score_lib.recovered(figures["ssim"], floor[key], reference)
            if known
            else None
            for name, key in (
                ("recovered", "value"),
                ("recovered_closest", "strict_value"),
            )
        }

    return {
        "attack": sets["attack"],
        "control": control,
        "reference": sets["reference"],
        "extra_controls": {
            name.removeprefix("extra:"): sets[name] | recovered_by(sets[name])
            for name in names
            if name.startswith("extra:")
        },
        "floor": floor,
        "class_mean_similarity": _mean(one.class_mean_similarity for one in scored),
        "compared": {
            "private": sum(one.private_count for one in scored),
            "heldout": sum(one.heldout_count for one in scored),
        },
        **recovered_by(sets["attack"]),
    }


def _floor(scored: Sequence[_ScoredTarget], control: float | None) -> dict:
    candidates = {
        "control": control,
        "blank": _mean(one.blank for one in scored),
        "other_class_means": _pooled(one.other_class_means for one in scored),
        "other_class_images": _pooled(one.other_class_images for one in scored),
        "grand_mean": _mean(one.grand_mean for one in scored),
    }
    closest = {
        "closest_class_mean": _mean(
            max(one.other_class_means, default=None) for one in scored
        ),
        "closest_class_images": _mean(
            max(one.other_class_images, default=None) for one in scored
        ),
    }
    source = _largest(candidates)
    in_both = ("control", "blank", "grand_mean")
    strict = {name: candidates[name] for name in in_both} | closest
    strict_source = _largest(strict)
    return {
        **candidates,
        "value": candidates[source],
        "source": source,
        **closest,
        "strict_value": strict[strict_source],
        "strict_source": strict_source,
    }


def _has_more_than_a_blank(floor: Mapping) -> bool:
    """Whether there was a control, or another class.

    If not, any texture is above the floor, and the judge knows no other answer.
    """
    names = ("control", "other_class_means", "other_class_images", "grand_mean")
    return any(floor[name] is not None for name in names)


def _largest(candidates: Mapping[str, float | None]) -> str:
    """Name of the largest value; a blank image always has one."""
    known = {name: value for name, value in candidates.items() if value is not None}
    return max(known, key=known.get)


def _pooled(parts: Iterable[list[float]]) -> float | None:
    """Mean over targets and classes; None where a target has no other class."""
    parts = list(parts)
    if not all(parts):
        return None
    return float(np.mean([value for part in parts for value in part]))


def _summary(parts: Sequence[_Scored]) -> dict:
    """Figures of one kind of set, its samples pooled over targets."""
    certain = np.concatenate([part.probabilities[:, part.target] for part in parts])
    answers = [part.probabilities.argmax(axis=1) for part in parts]
    named = np.concatenate(
        [named == part.target for named, part in zip(answers, parts, strict=True)]
    )
    none = parts[0].probabilities.shape[1] - 1
    features = np.concatenate([part.features for part in parts])
    private = np.concatenate([part.private_features for part in parts])

    def mean(figure: str, to: str = "similarity") -> float | None:
        runs = [getattr(part, to) for part in parts]
        if any(run is None for run in runs):
            return None
        return float(np.concatenate([getattr(run, figure) for run in runs]).mean())

    return {
        "samples": len(certain),
        "judge_share": float(named.mean()),
        "rejected_share": float((np.concatenate(answers) == none).mean()),
        "judge_confidence": float(certain.mean()),
        "ssim": mean("ssim"),
        "l1": mean("l1"),
        "psnr": mean("psnr"),
        **{
            f"{figure}_{to}": mean(figure, to)
            for to in ("to_others", "to_heldout")
            for figure in ("ssim", "l1", "psnr")
        },
        "diversity": _mean(part.diversity for part in parts),
        "fid": feature_distances.fid(features, private),
        "kid": feature_distances.kid(
            features, _subset(private, MAX_KID_IMAGES, np.random.default_rng(0))
        ),
        "inception_score": feature_distances.inception_score(
            np.concatenate([part.probabilities for part in parts])
        ),
    }


def _reached(samples: dict, reference: dict, known: bool) -> dict:
    ratio = score_lib.diversity_ratio(samples["diversity"], reference["diversity"])
    return {
        "value": score_lib.reached(samples["judge_share"], ratio) if known else None,
        "judge_share": samples["judge_share"],
        "diversity_ratio": ratio,
    }


def _reached_together(targets: Sequence[dict]) -> dict:
    verdicts = [one["reached"]["value"] for one in targets]
    return {
        "reached_count": sum(value is True for value in verdicts),
        "reached_all": _all(verdicts),
    }


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    """False as soon as one is false; otherwise None if one is not defined."""
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean over targets; None where one of them has no value."""
    values = list(values)
    if any(value is None for value in values):
        return None
    return float(np.mean(values))
