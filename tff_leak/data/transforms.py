"""Transforms of image batches: value range, padding, size and rotation.

A batch is `[n, H, W, C]`. Unless a function says otherwise its values are float32
in [-1, 1], the range of the generators' tanh, and -1 is the (black) background.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage
import skimage.transform

BACKGROUND = -1.0


def to_unit_range(images: np.ndarray) -> np.ndarray:
    """Maps uint8 grey levels to float32: 0 to -1 and 255 to 1, any shape.

    Raises:
        TypeError: the images are not uint8; other types have no agreed range.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise TypeError(f"Expected uint8 images, found {images.dtype}.")
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Maps [-1, 1] to the nearest of 0..255; values outside [-1, 1] are clipped."""
    levels = (np.asarray(images, np.float32) + 1.0) * 127.5
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def pad_to(
    images: np.ndarray, size: int, offset: tuple[int, int] | None = None
) -> np.ndarray:
    """Sets `[n, H, W, C]` images into `[n, size, size, C]` squares of background.

    Args:
        images: values in [-1, 1].
        size: the side of the squares, at least H and W.
        offset: row and column of the picture's upper left corner; None centres it
            (28 in 32 leaves 2 pixels on each side, Hitaj et al., section 8.1.1).

    Raises:
        ValueError: the picture does not lie inside the square.
    """
    _, height, width, _ = images.shape
    top, left = offset or ((size - height) // 2, (size - width) // 2)
    bottom, right = size - height - top, size - width - left
    if min(top, left, bottom, right) < 0:
        raise ValueError(
            f"Expected a {height}x{width} picture at ({top}, {left}) to lie inside "
            f"{size}x{size}."
        )
    return np.pad(
        np.asarray(images, np.float32),
        ((0, 0), (top, bottom), (left, right), (0, 0)),
        constant_values=BACKGROUND,
    )


def resize_to(images: np.ndarray, size: int) -> np.ndarray:
    """Resizes `[n, H, W, C]` images to `[n, size, size, C]`, clipped to [-1, 1].

    Pictures at least as large as `size` in both directions are averaged over the
    area of each new pixel, which leaves no aliasing. Others are enlarged with
    bicubic splines. The aspect ratio is not kept.
    """
    images = np.asarray(images, np.float32)
    count, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    if min(height, width) >= size:
        # Averaging treats the channel axis apart, so the whole batch can stand there.
        stacked = np.moveaxis(images, 0, 2).reshape(height, width, count * channels)
        resized = skimage.transform.resize_local_mean(
            stacked, (size, size), channel_axis=-1
        ).reshape(size, size, count, channels)
        resized = np.moveaxis(resized, 2, 0)
    else:
        resized = np.empty((count, size, size, channels), np.float32)
        smooth = max(height, width) > size
        for index, channel in np.ndindex(count, channels):
            resized[index, :, :, channel] = skimage.transform.resize(
                images[index, :, :, channel],
                (size, size),
                order=3,
                mode="edge",
                anti_aliasing=smooth,
            )
    return np.ascontiguousarray(np.clip(resized, -1.0, 1.0), np.float32)


def rotate(images: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates `[n, H, W, C]` images about their centre, counter-clockwise.

    Pixels are interpolated linearly, so no value leaves the range of its
    neighbours; multiples of 90 degrees move the pixels of a square exactly. What
    comes in from outside the picture is background.
    """
    rotated = scipy.ndimage.rotate(
        np.asarray(images, np.float32),
        degrees,
        axes=(2, 1),
        reshape=False,
        order=1,
        mode="constant",
        cval=BACKGROUND,
    )
    return np.clip(rotated, -1.0, 1.0)
