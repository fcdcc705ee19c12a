"""What the malicious server's discriminator sees of pictures: each a bit changed.

Representatives have artefacts by which they would be told; see `Deviations.max_shift`,
`recolour` and `noise`.

Pure TensorFlow.
"""

import tensorflow as tf

from tff_leak.attacks.deviations import Deviations
from tff_leak.runtime.seeding import derive

# Streams below a step's seed; those of `multitask_gan.py` are around them.
_SHIFT, _NOISE, _COLOUR = 104, 105, 106


def disguise(deviations: Deviations, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Moves pictures, changes contrast and brightness and adds noise.

    None of it can turn a picture or put glasses on it.

    Args:
      deviations: `max_shift`, `recolour` and `noise` count.
      images: float32 `[n, H, W, C]`.
      seed: int32 `[2]`.

    Returns:
      float32 `[n, H, W, C]`.
    """
    if deviations.max_shift:
        images = shift(images, deviations.max_shift, derive(seed, _SHIFT))
    if deviations.recolour:
        width = deviations.recolour
        shape = [2, tf.shape(images)[0], 1, 1, 1]
        drawn = tf.random.stateless_uniform(shape, derive(seed, _COLOUR))
        images = (1.0 - width * drawn[0]) * images + width * (drawn[1] - 0.5)
    if deviations.noise:
        images += tf.random.stateless_normal(
            tf.shape(images), derive(seed, _NOISE), stddev=deviations.noise
        )
    return images


def shift(images: tf.Tensor, limit: int, seed: tf.Tensor) -> tf.Tensor:
    """Moves each picture by its own whole numbers of pixels; the edge is mirrored.

    Args:
      images: float32 `[n, H, W, C]`.
      limit: pixels along each axis at most, fewer than the pictures' sides have.
      seed: int32 `[2]`.

    Returns:
      float32 `[n, H, W, C]`.
    """
    _, height, width, _ = images.shape
    count = tf.shape(images)[0]
    offsets = tf.random.stateless_uniform(
        [2, count, 1], seed, 0, 2 * limit + 1, tf.int32
    )
    padding = [[0, 0], [limit, limit], [limit, limit], [0, 0]]
    padded = tf.pad(images, padding, "SYMMETRIC")
    rows = tf.gather(padded, offsets[0] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(rows, offsets[1] + tf.range(width), axis=2, batch_dims=1)
