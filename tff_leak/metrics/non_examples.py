"""Pictures that show none of the classes, for a judge that may say "none of them".

A classifier that must name a class names one for noise too. Outlier exposure
(Hendrycks et al., ICLR 2019) shows it other pictures in training; here they are made
from noise and from the judge's own real images, so that no second data set is needed,
and they go to an output of their own. What the judge shall tell apart from a class is
what a failed generator draws: noise, stripes, blots, and strokes of the right sort in
the wrong places.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

_SMOOTHNESS = (0.0, 0.5, 1.0, 2.0, 4.0)  # deviations of the blur, in pixels
_FEWEST_BLOCKS, _MOST_BLOCKS = 4, 8  # to a side
# Of noise, blots, stripes, blanks, shuffled images and halves.
_SHARES = (0.15, 0.2, 0.1, 0.05, 0.25, 0.25)
_LOWEST, _HIGHEST = -1.0, 1.0


def non_examples(
    images: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws pictures that show no class.

    Each is noise, a blot, stripes, blank, a real image with its blocks shuffled, or the
    halves of two real images of different classes. The last two, strokes in the wrong
    places, are the hardest to tell from a class and make up half.

    Args:
      images: float32 [n, H, W, C] in [-1, 1], real images, n at least 1 and sides of
        at least 8 pixels.
      labels: int [n], their classes.
      count: How many to draw.
      rng: Everything random comes from here.

    Returns:
      float32 [count, H, W, C] in [-1, 1].
    """
    kinds = (_noise, _blot, _stripes, _blank, _shuffled, _halves)
    drawn = np.empty((count, *images.shape[1:]), np.float32)
    for i, kind in enumerate(rng.choice(len(kinds), size=count, p=_SHARES)):
        drawn[i] = np.clip(_draw(kinds[kind], images, labels, rng), _LOWEST, _HIGHEST)
    return drawn


def _draw(
    kind: Callable[..., np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    if kind is _halves:
        return _halves(images, labels, rng)
    return kind(images[rng.integers(len(images))], rng)


def _smooth(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Noise of mean 0 and deviation 1, blurred differently along the two sides."""
    drawn = rng.normal(size=shape) if rng.random() < 0.5 else rng.uniform(size=shape)
    blur = rng.choice(_SMOOTHNESS, size=2)
    drawn = ndimage.gaussian_filter(drawn, (*blur, 0))
    return (drawn - drawn.mean()) / (drawn.std() + 1e-6)


def _noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-1, 0.5) + rng.uniform(0.1, 1) * _smooth(image.shape, rng)


def _blot(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise above a threshold, in the middle of the picture, on a dark ground.

    Its strokes are as wide as those of drawings, and it fills 10% to 40%.
    """
    height, width, channels = image.shape
    drawn = rng.normal(size=(height, width, 1))
    drawn = ndimage.gaussian_filter(drawn, (*rng.uniform(1, 3, size=2), 0))
    rows = np.linspace(-1, 1, height)[:, None, None]
    columns = np.linspace(-1, 1, width)[None, :, None]
    drawn = drawn / drawn.std() - rng.uniform(0, 4) * (rows**2 + columns**2)
    level = np.quantile(drawn, rng.uniform(0.6, 0.9))
    edge = rng.uniform(2, 10)
    return np.repeat(np.tanh(edge * (drawn - level)), channels, axis=2)


def _stripes(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Waves of 2 to 16 pixels along one side or along both, with some noise."""
    waves = [
        np.sin(2 * np.pi * (np.arange(side) / rng.uniform(2, 16) + rng.random()))
        for side in image.shape[:2]
    ]
    along = rng.integers(3)
    rows, columns = waves[0][:, None, None], waves[1][None, :, None]
    drawn = (rows + 0 * columns, columns + 0 * rows, rows * columns)[along]
    drawn = rng.uniform(0.3, 2) * drawn + rng.uniform(-0.5, 0.2)
    return drawn + rng.uniform(0, 0.5) * _smooth(image.shape, rng)


def _blank(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One grey, often black, with faint noise."""
    grey = -1.0 if rng.random() < 0.5 else rng.uniform(-1, 1)
    return grey + rng.uniform(0, 0.1) * _smooth(image.shape, rng)


def _shuffled(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The blocks of a real image in another order; what is left over stays."""
    blocks = int(rng.integers(_FEWEST_BLOCKS, _MOST_BLOCKS + 1))
    height, width, channels = (*(side // blocks for side in image.shape[:2]), -1)
    parts = image[: height * blocks, : width * blocks]
    parts = parts.reshape(blocks, height, blocks, width, channels).swapaxes(1, 2)
    flat = parts.reshape(blocks**2, height, width, -1)[rng.permutation(blocks**2)]
    mixed = flat.reshape(blocks, blocks, height, width, -1).swapaxes(1, 2)
    drawn = image.copy()
    drawn[: height * blocks, : width * blocks] = mixed.reshape(
        height * blocks, width * blocks, -1
    )
    return drawn


def _halves(
    images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The halves of two images of different classes, beside or above each other."""
    first = int(rng.integers(len(images)))
    others = np.flatnonzero(labels != labels[first])
    if not len(others):
        return _shuffled(images[first], rng)
    second = images[rng.choice(others)]
    drawn = images[first].copy()
    height, width = drawn.shape[:2]
    if rng.random() < 0.5:
        drawn[:, width // 2 :] = second[:, width // 2 :]
    else:
        drawn[height // 2 :] = second[height // 2 :]
    return drawn
