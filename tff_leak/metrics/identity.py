"""Whom a reconstructed face shows, by its L1-nearest neighbour.

A judge trained on two pictures a person is weak; the nearest picture among all
people's names the right person for nearly every real picture of AT&T. As a control,
samples made for one person are scored against another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tff_leak.metrics import similarity

if TYPE_CHECKING:
    from tff_leak.data.sources import Examples


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
