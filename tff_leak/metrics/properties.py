"""Whether pictures have what distinguishes the victim, a property such as a rotation.

A server's attack knows every class from its auxiliary pictures, so that "looks like
the class" says nothing (Wang et al., INFOCOM 2019, claim client-level privacy). What
counts is whether pictures made for the victim are closer to pictures *with* the
victim's property than to those without, and pictures made for others the opposite way.

Two measures say so: the correlation with the mean of real pictures with and without
the property, which no contrast or brightness changes; and the margin, SSIM to the
nearest of the victim's pictures less that to the nearest of others'. A blank, which
shows nothing, has a margin of about 0, and a control that draws others' kind plainly
one far below 0. So the floor of `recovered` is the largest of the control's margin,
that of the pictures asked for as others', which show nothing of the victim either, and
0: a control that is good at others' kind must not flatter the attack, in no class.
What is structured and shows nothing, such as spots, has been seen with margins of up
to .14 on digits and .09 on faces in one class; and where the victim has more pictures
than others have to be nearest to, or fewer, the margin is that much too high or low (of
a person's own pictures .07 for two against one).

No classifier of the property: one that is trained on real pictures takes blanks for
either.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tff_leak.errors import InputError
from tff_leak.metrics.judge import Judge
from tff_leak.metrics.score import diversity_ratio, recovered
from tff_leak.metrics.similarity import mean_pairwise_l1, similarity

VICTIM = "victim"
OTHER = "other"
"""Not of an active server, whose generator is never asked for others' pictures."""
CONTROL = "control"
REFERENCE = "reference"
LEAST_LEAN = 0.05
"""Difference of two correlations below which pictures lean nowhere."""


@dataclasses.dataclass(frozen=True)
class PropertyInputs:
    """What is known about one class. All images are float `[n, H, W, C]` in [-1, 1].

    Attributes:
      target: the class.
      sets: pictures by name: `VICTIM` (asked for as the victim's), `REFERENCE`
        (real ones with the property that nobody holds), `OTHER` (asked for as others')
        unless nothing can be asked for so, and where there is one `CONTROL` (asked for
        as the victim's in a run in which the victim has not the property). More may be
        given.
      private: the victim's pictures of the class.
      others: other clients' pictures of the class, or where nobody else holds it real
        ones without the property.
      template_with: mean of real pictures of the class with the property, `[H, W, C]`.
      template_without: the same without it.
    """

    target: int
    sets: Mapping[str, np.ndarray]
    private: np.ndarray
    others: np.ndarray
    template_with: np.ndarray
    template_without: np.ndarray


def template_correlation(images: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each picture's pixels with a template's.

    Args:
      images: float `[n, H, W, C]`.
      template: float `[H, W, C]`.

    Returns:
      float64 `[n]` in [-1, 1]; 0 for a picture of one shade.
    """
    flat = np.asarray(images, np.float64).reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    wanted = np.asarray(template, np.float64).ravel()
    wanted = wanted - wanted.mean()
    lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(wanted)
    return np.divide(flat @ wanted, lengths, out=np.zeros(len(flat)), where=lengths > 0)


def nearer_share(images: np.ndarray, with_it: np.ndarray, without: np.ndarray) -> float:
    """Share of pictures that correlate more with one template than with the other.

    Args:
      images: float `[n, H, W, C]`, n at least 1.
      with_it: template with the property, `[H, W, C]`.
      without: the same without it.
    """
    closer = template_correlation(images, with_it) > template_correlation(
        images, without
    )
    return float(closer.mean())


def evaluate_properties(
    inputs: Sequence[PropertyInputs], judge: Judge, *, foreground: bool
) -> dict:
    """Scores the sets of each class, and of all of them pooled.

    Args:
      inputs: one entry a class, at least one.
      judge: trained on real pictures with and without the property.
      foreground: see `similarity.similarity`.

    Returns:
      {"targets": [one dictionary a class], "pooled": dictionary}, ready for JSON. Each
      has `sets`: by name {samples, judge_share, template_with, template_without,
      nearer_share (closer to the template with the property), ssim_private,
      ssim_others, margin, diversity, diversity_ratio (to the reference's)}, and
      `recovered`: (victim - floor) / (reference - floor) of the margins, the floor the
      largest of the control's, that of the pictures asked for as others', and 0, as
      pictures that are no nearer to the victim's than to others' show nothing; None
      where it is not defined or there is no control. That of `pooled` is of the
      classes' mean margins and their mean floor. A class has `target` and
      `succeeded`: the victim's pictures are on average closer to the template with the
      property, by at least `LEAST_LEAN`, and those asked for as others' and the
      control's, of which there is at least one kind, as much closer to that without;
      pooled has `targets`, `succeeded` (share of the classes), and means over the
      classes.

    Raises:
      InputError: without classes, or without a set that is needed: victim, reference,
        and other or control.
    """
    if not inputs:
        raise InputError("no class to score: expected at least one that a victim holds")
    targets = [_evaluate(one, judge, foreground) for one in inputs]
    # A set that only some classes have says nothing about the pooled ones.
    names = [
        name
        for name in targets[0]["sets"]
        if all(name in one["sets"] for one in targets)
    ]
    pooled_sets = {
        name: {
            key: _mean([one["sets"][name][key] for one in targets])
            for key in targets[0]["sets"][name]
        }
        for name in names
    }
    for name in names:
        pooled_sets[name]["samples"] = sum(
            one["sets"][name]["samples"] for one in targets
        )
    pooled = {
        "targets": [one["target"] for one in targets],
        "sets": pooled_sets,
        "succeeded": float(np.mean([one["succeeded"] for one in targets])),
        "recovered": _recovered(pooled_sets, [_floor(one["sets"]) for one in targets]),
    }
    return {"targets": targets, "pooled": pooled}


def _evaluate(one: PropertyInputs, judge: Judge, foreground: bool) -> dict:
    opposite = [name for name in (OTHER, CONTROL) if name in one.sets]
    missing = {VICTIM, REFERENCE} - set(one.sets)
    if missing or not opposite:
        lacking = sorted(missing) or [f"{OTHER} or {CONTROL}"]
        raise InputError(
            f"class {one.target} lacks the pictures {', '.join(lacking)}: expected "
            "victim, reference, and other or control; give them"
        )
    sets = {
        name: _score(one, images, judge, foreground)
        for name, images in one.sets.items()
    }
    reference = sets[REFERENCE]["diversity"]
    for scored in sets.values():
        scored["diversity_ratio"] = diversity_ratio(scored["diversity"], reference)
    leans = {
        name: sets[name]["template_with"] - sets[name]["template_without"]
        for name in (VICTIM, *opposite)
    }
    apart = all(leans[name] <= -LEAST_LEAN for name in opposite)
    return {
        "target": int(one.target),
        "sets": sets,
        "succeeded": bool(leans[VICTIM] >= LEAST_LEAN and apart),
        "recovered": _recovered(sets, [_floor(sets)]),
    }


def _score(
    one: PropertyInputs, images: np.ndarray, judge: Judge, foreground: bool
) -> dict:
    with_it = template_correlation(images, one.template_with)
    without = template_correlation(images, one.template_without)
    to_private = similarity(images, one.private, foreground=foreground).ssim.mean()
    to_others = similarity(images, one.others, foreground=foreground).ssim.mean()
    named = judge.all_probabilities(judge.features(images)).argmax(axis=1)
    return {
        "samples": len(images),
        "judge_share": float((named == one.target).mean()),
        "template_with": float(with_it.mean()),
        "template_without": float(without.mean()),
        "nearer_share": nearer_share(images, one.template_with, one.template_without),
        "ssim_private": float(to_private),
        "ssim_others": float(to_others),
        "margin": float(to_private - to_others),
        "diversity": mean_pairwise_l1(images),
    }


def _floor(sets: Mapping[str, Mapping]) -> float:
    """The largest margin, of one class, that shows nothing of the victim."""
    return max([0.0, *(sets[n]["margin"] for n in (CONTROL, OTHER) if n in sets)])


def _recovered(sets: Mapping[str, Mapping], floors: Sequence[float]) -> float | None:
    if CONTROL not in sets:
        return None
    margins = sets[VICTIM]["margin"], float(np.mean(floors)), sets[REFERENCE]["margin"]
    return recovered(*margins)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
