"""Feature matching: what a discriminator sees in data and in fakes is alike.

Salimans et al., "Improved Techniques for Training GANs" (NIPS 2016, section 3.1): the
generator brings the mean of its pictures' features in a layer of the discriminator to
that of data. Theirs is the plain squared distance; here each feature counts in its
own deviations, so that the weight does not depend on how large features are.

Pure TensorFlow.
"""

import tensorflow as tf

from tff_leak.models.network import Network, Weights


def last_features(network: Network, weights: Weights, images: tf.Tensor) -> tf.Tensor:
    """Returns what a network's last layer gets, at inference.

    Args:
      network: its last layer is dense, with a bias and without an activation.
      weights: of it; the last two are that layer's kernel `[m, k]` and bias `[k]`.
      images: float32 `[n, H, W, C]`.

    Returns:
      float32 `[n, m]`.
    """
    size = weights.trainable[-2].shape[0]
    through = [*weights.trainable[:-2], tf.eye(size), tf.zeros([size])]
    return network.outputs(Weights(through, weights.statistics), images)


def feature_distance(wanted: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
    """Mean squared distance of two sets' mean features, in deviations of the first.

    Args:
      wanted: features of data, float32 `[n, m]`; no gradient flows into them.
      drawn: of fakes, `[k, m]`.

    Returns:
      float32, 0 or more. A feature that hardly varies counts with a variance of a
      hundredth of the mean one and a ten-thousandth of the mean square at least, so
      that it stays finite where none varies.
    """
    wanted = tf.stop_gradient(wanted)
    variance = tf.math.reduce_variance(wanted, axis=0)
    square = tf.reduce_mean(tf.square(wanted))
    least = 0.01 * tf.reduce_mean(variance) + 1e-4 * square + 1e-12
    apart = tf.reduce_mean(wanted, axis=0) - tf.reduce_mean(drawn, axis=0)
    return tf.reduce_mean(tf.square(apart) / tf.maximum(variance, least))
