"""Whom a reconstructed face shows, by its L1-nearest neighbour.

A judge trained on two pictures a person is weak; the nearest picture among all
people's names the right person for nearly every real picture of AT&T. As a control,
samples made for one person are scored against another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tff_leak.metrics import similarity

if TYPE_CHECKING:
    from tff_leak.data.sources import Examples
    from tff_leak.metrics.properties import PropertyInputs
    from tff_leak.metrics.reconstruction import TargetInputs


def identify(
    images: np.ndarray, gallery: Examples, *, window: tuple[int, int] | None = None
) -> np.ndarray:
    """The person whose picture is nearest in L1, for each image.

    Args:
      images: float [n, H, W, C] in [-1, 1].
      gallery: Pictures [m, H, W, C] of all people with their labels, m at least 1.
      window: (h, w), compares the first h rows and w columns only; None compares all.

    Returns:
      int32 [n], labels of the gallery.

    Raises:
      InputError: If the shapes do not fit or the gallery is empty.
    """
    _, nearest = similarity.nearest(images, gallery.images, window=window)
    return gallery.labels[nearest]


def identity_share(
    images: np.ndarray,
    gallery: Examples,
    target: int,
    *,
    window: tuple[int, int] | None = None,
) -> float:
    """Share of n >= 1 images whose nearest picture is of `target`; see `identify`."""
    return float((identify(images, gallery, window=window) == target).mean())


def evaluate_identity(
    inputs: Sequence[TargetInputs],
    gallery: Examples,
    *,
    window: tuple[int, int] | None,
) -> dict:
    """Whom the reconstructions of each target show, with what else would be shown.

    Args:
      inputs: one entry a target, at least one; see `TargetInputs`.
      gallery: pictures of all people, none of them in `inputs[i].heldout`: those that
        were held out are themselves asked for the person that they show.
      window: as in `identify`.

    Returns:
      {"people": number of people in the gallery, "targets": [one dictionary a target],
      "pooled": dictionary}, ready for JSON. A target's has `target`, the shares of
      samples whose nearest picture is the target's: `attack`, `control` (None without
      one) and `reference` (real held-out pictures of the person); and as the identity
      control, samples made for the target scored against everybody else:
      `closest_other`, the share of the one person named most, and its label
      `closest_other_person`. Pooled are the means over targets of the shares.

    Raises:
      InputError: as `identify`.
    """
    targets = [_identity_of(one, gallery, window) for one in inputs]
    shares = ("attack", "control", "reference", "closest_other")

    def mean(name: str) -> float | None:
        values = [one[name] for one in targets]
        return None if None in values else float(np.mean(values))

    return {
        "people": len(np.unique(gallery.labels)),
        "targets": targets,
        "pooled": {name: mean(name) for name in shares},
    }


def evaluate_people(inputs: Sequence[PropertyInputs], gallery: Examples) -> dict:
    """Whom the sets of a server's attack show, class by class and pooled.

    Args:
      inputs: one entry a person, at least one; see `PropertyInputs`.
      gallery: pictures of all people, none of them in the reference.

    Returns:
      {"people": number of people in the gallery, "targets": [{"target", "sets"}],
      "pooled": {"sets"}}, ready for JSON; `sets` has for each set the share of its
      pictures whose nearest one is the person's, pooled the mean over persons of the
      sets that all have.
    """
    targets = [
        {
            "target": int(one.target),
            "sets": {
                name: identity_share(images, gallery, one.target)
                for name, images in one.sets.items()
            },
        }
        for one in inputs
    ]
    shared = [
        name
        for name in targets[0]["sets"]
        if all(name in one["sets"] for one in targets)
    ]
    pooled = {
        name: float(np.mean([one["sets"][name] for one in targets])) for name in shared
    }
    return {
        "people": len(np.unique(gallery.labels)),
        "targets": targets,
        "pooled": {"sets": pooled},
    }


def _identity_of(
    inputs: TargetInputs, gallery: Examples, window: tuple[int, int] | None
) -> dict:
    def share(images: np.ndarray) -> float | None:
        if not len(images):
            return None
        return identity_share(images, gallery, inputs.target, window=window)

    # At most 1 - attack: the runner-up, and no control of its own.
    named = identify(inputs.attack, gallery, window=window)
    others = gallery.labels[gallery.labels != inputs.target]
    counts = {int(person): float((named == person).mean()) for person in others}
    closest = max(counts, key=counts.get, default=None)
    return {
        "target": inputs.target,
        "attack": share(inputs.attack),
        "control": share(inputs.control),
        "reference": share(inputs.heldout.of_class(inputs.target).images),
        "closest_other": counts.get(closest, 0.0),
        "closest_other_person": closest,
    }
