"""How close reconstructions are to the private images they aim at.

Plain SSIM rewards blank pictures: a digit is mostly background, and background
windows that agree score 1. Here SSIM (Wang et al., 2004, through scikit-image) is
averaged over the windows in which either image has foreground, so that a picture is
compared where there is something to compare. Its luminance term needs black at zero, so
pictures are put on the scale from 0 to 1 first.
"""

import dataclasses

import numpy as np
from scipy import ndimage
from scipy.spatial import distance
from skimage import metrics as skimage_metrics

from tff_leak import errors

SSIM_WINDOW = 7
"""Side of the square SSIM window in pixels (scikit-image's default)."""

FOREGROUND_LEVEL = -0.8
"""A pixel above this value, on the scale from -1 to 1, is foreground."""

_DATA_RANGE = 2.0
_MAX_PSNR = 100.0
_CHUNK = 64


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Similarity of n images to their L1-nearest private image.

    Attributes:
      ssim: float64 [n], at most 1 (identical).
      l1: float64 [n], mean absolute difference of the pixels, 0 to 2.
      psnr: float64 [n], in dB, capped at 100 so that means stay finite.
      nearest: int64 [n], index of the private image with the smallest L1.
    """

    ssim: np.ndarray
    l1: np.ndarray
    psnr: np.ndarray
    nearest: np.ndarray


def similarity(
    images: np.ndarray,
    private: np.ndarray,
    *,
    foreground: bool,
    window: tuple[int, int] | None = None,
) -> Similarity:
    """Compares every image with the private image nearest to it in L1.

    Args:
      images: float [n, H, W, C] in [-1, 1], the reconstructions.
      private: float [m, H, W, C] in [-1, 1], m at least 1.
      foreground: Averages SSIM over the windows in which either image has a pixel
        above `FOREGROUND_LEVEL` (digits); False averages over all windows (faces).
        Where neither image has foreground, all windows count.
      window: (h, w), compares the first h rows and w columns only: the part of the
        picture that the attacked classifier can see. None compares everything.

    Returns:
      A `Similarity` of n entries.

    Raises:
      InputError: If the shapes do not fit, nothing is private, a pixel is not
        finite, or what is compared is smaller than an SSIM window.
    """
    l1, chosen = nearest(images, private, window=window)
    images, private = crop(images, window), crop(private, window)
    if min(images.shape[1:3]) < SSIM_WINDOW:
        raise errors.InputError(
            f"Images of {images.shape[1]}x{images.shape[2]} pixels are too small; "
            f"expected at least {SSIM_WINDOW}x{SSIM_WINDOW}, the SSIM window; use "
            "larger images or a larger window."
        )
    ssim = np.empty(len(images))
    psnr = np.empty(len(images))
    for i, image in enumerate(images):
        ssim[i] = _ssim(image, private[chosen[i]], foreground)
        psnr[i] = _psnr(image, private[chosen[i]])
    return Similarity(ssim=ssim, l1=l1, psnr=psnr, nearest=chosen)


def nearest(
    images: np.ndarray,
    private: np.ndarray,
    *,
    window: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the private image with the smallest L1 for each image.

    Args:
      images: float [n, H, W, C] in [-1, 1].
      private: float [m, H, W, C] in [-1, 1], m at least 1.
      window: (h, w), compares the first h rows and w columns only; None compares all.

    Returns:
      (l1, index): float64 [n], mean absolute difference of the pixels, and int64 [n].

    Raises:
      InputError: If the shapes do not fit, nothing is private or a pixel is not finite.
    """
    images, private = crop(images, window), crop(private, window)
    if images.shape[1:] != private.shape[1:] or not len(private):
        raise errors.InputError(
            f"Images {images.shape} cannot be compared with private images "
            f"{private.shape}; expected at least one private image of the same "
            "height, width and channels; give both from the same data source."
        )
    flat = images.reshape(len(images), -1)
    flat_private = private.reshape(len(private), -1)
    l1 = np.empty(len(images))
    index = np.empty(len(images), np.int64)
    for start in range(0, len(images), _CHUNK):
        rows = slice(start, start + _CHUNK)
        distances = distance.cdist(flat[rows], flat_private, "cityblock")
        index[rows] = distances.argmin(axis=1)
        l1[rows] = distances.min(axis=1) / flat.shape[1]
    return l1, index


def mean_pairwise_l1(images: np.ndarray) -> float | None:
    """Diversity: the mean L1 (0 to 2) over all pairs of n different images.

    Args:
      images: float [n, H, W, C] in [-1, 1].

    Returns:
      The mean absolute pixel difference over the n (n - 1) / 2 pairs; None when n is
      below 2, where no pair exists.
    """
    if len(images) < 2:
        return None
    flat = np.asarray(images, np.float64).reshape(len(images), -1)
    return float(distance.pdist(flat, "cityblock").mean() / flat.shape[1])


def crop(images: np.ndarray, window: tuple[int, int] | None) -> np.ndarray:
    """Returns the first h rows and w columns as float64, after checking the pixels.

    Raises:
      InputError: If `images` is not [n, H, W, C], has a pixel that is not finite, or
        the window (h, w) does not lie inside it.
    """
    images = np.asarray(images, np.float64)
    if images.ndim != 4:
        raise errors.InputError(
            f"Images have shape {images.shape}; expected [n, height, width, "
            "channels]; add the missing axis with numpy.expand_dims."
        )
    if not np.isfinite(images).all():
        raise errors.InputError(
            f"{int((~np.isfinite(images)).sum())} pixels are not finite; expected "
            "values in [-1, 1]; look for a diverged generator, or lower its rate."
        )
    if window is None:
        return images
    height, width = window
    if not (0 < height <= images.shape[1] and 0 < width <= images.shape[2]):
        raise errors.InputError(
            f"Window {tuple(window)} does not lie inside images of "
            f"{images.shape[1]}x{images.shape[2]} pixels; expected (rows, columns) up "
            "to that size; leave it out to compare whole images."
        )
    return images[:, :height, :width]


def _ssim(image: np.ndarray, other: np.ndarray, foreground: bool) -> float:
    # From [-1, 1] to [0, 1]: SSIM compares luminances as ratios, and on the other
    # scale a black background would count as bright as a white stroke.
    _, ssim_map = skimage_metrics.structural_similarity(
        (image + 1) / 2,
        (other + 1) / 2,
        win_size=SSIM_WINDOW,
        data_range=_DATA_RANGE / 2,
        channel_axis=-1,
        full=True,
    )
    # Windows that reach over the border do not count, as in scikit-image's own mean.
    margin = SSIM_WINDOW // 2
    inside = (slice(margin, -margin), slice(margin, -margin))
    ssim_map = ssim_map[inside].mean(axis=-1)
    if foreground:
        drawn = np.maximum(image, other).max(axis=-1) > FOREGROUND_LEVEL
        counted = ndimage.maximum_filter(drawn, size=SSIM_WINDOW)[inside]
        if counted.any():
            return float(ssim_map[counted].mean())
    return float(ssim_map.mean())


def _psnr(image: np.ndarray, other: np.ndarray) -> float:
    squared_error = np.mean(np.square(image - other))
    if squared_error == 0:
        return _MAX_PSNR
    psnr = 10 * np.log10(_DATA_RANGE**2 / squared_error)
    return float(min(psnr, _MAX_PSNR))
