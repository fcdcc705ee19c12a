"""How alike pictures are, and greys for them, whatever their contrast and brightness.

The malicious server compares what it draws with representatives, which show shapes and
not shades (`multitask_gan.py`, `server_gan.py`).

Pure TensorFlow.
"""

import tensorflow as tf


def unit(images: tf.Tensor) -> tf.Tensor:
    """Flattens pictures, centres each and gives it length 1.

    The product of two is their correlation, which no change of contrast or brightness
    touches.

    Args:
      images: float32 `[n, H, W, C]`, or flattened already.

    Returns:
      float32 `[n, H W C]`; 0 for a picture of one shade.
    """
    flat = tf.reshape(images, [tf.shape(images)[0], images.shape[1:].num_elements()])
    centred = flat - tf.reduce_mean(flat, axis=1, keepdims=True)
    return tf.math.l2_normalize(centred, axis=1, epsilon=1e-6)


def unit_means(
    images: tf.Tensor, groups: tf.Tensor, count: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean picture of each group.

    Args:
      images: float32 `[n, H, W, C]`.
      groups: int32 `[n]`, in [0, count).
      count: of groups.

    Returns:
      The means, as `unit` makes them: float32 `[count, H W C]`; and which groups have
      a picture: bool `[count]`.
    """
    flat = tf.reshape(images, [tf.shape(images)[0], images.shape[1:].num_elements()])
    members = tf.one_hot(groups, count)
    number = tf.reduce_sum(members, axis=0)
    sums = tf.matmul(members, flat, transpose_a=True)
    return unit(sums / tf.maximum(number, 1.0)[:, tf.newaxis]), number > 0


def class_spread(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean of 1 - correlation of two of the first 128 pictures that are of one class.

    0 where no two are.

    Args:
      images: float32 `[n, H, W, C]`.
      labels: int32 `[n]`.
    """
    labels = labels[:128]
    vectors = unit(images[:128])
    distances = 1.0 - tf.matmul(vectors, vectors, transpose_b=True)
    alike = tf.equal(labels[:, tf.newaxis], labels[tf.newaxis, :])
    pairs = tf.cast(alike, tf.float32) - tf.eye(tf.size(labels))
    return tf.reduce_sum(pairs * distances) / tf.maximum(tf.reduce_sum(pairs), 1.0)


def with_greys(images: tf.Tensor, palette: tf.Tensor) -> tf.Tensor:
    """Gives pictures other greys, each pixel by its rank within its picture.

    Histogram matching, picture by picture: the k-th darkest pixel gets the mean of the
    k-th darkest ones of the palette's pictures.

    Args:
      images: float32 `[n, H, W, C]`.
      palette: float32 `[m, H, W, C]`.

    Returns:
      float32 `[n, H, W, C]`. Of equal pixels the later one is the brighter.
    """
    size = images.shape[1:].num_elements()
    flat = tf.reshape(images, [tf.shape(images)[0], size])
    greys = tf.reduce_mean(tf.sort(tf.reshape(palette, [-1, size]), axis=1), axis=0)
    ranks = tf.argsort(tf.argsort(flat, axis=1, stable=True), axis=1)
    return tf.reshape(tf.gather(greys, ranks), tf.shape(images))
