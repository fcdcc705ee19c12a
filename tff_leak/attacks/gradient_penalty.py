"""The zero-centred gradient penalty of a discriminator on data, R1.

Mescheder et al., "Which Training Methods for GANs do actually Converge?" (ICML 2018,
Eq. 9): a discriminator that is steep where data lie pushes the generator past them, so
its slope there costs.

Pure TensorFlow.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

Logits = Callable[[list[tf.Tensor]], Sequence[tf.Tensor]]
"""Sets of pictures `[n_i, ...]` to a logit of each, `[n_i]`."""


def gradient_penalty(logits: Logits, pictures: Sequence[tf.Tensor]) -> tf.Tensor:
    """Mean squared length of a logit's gradient by its picture.

    Args:
      logits: each of a set's must depend on its own picture only.
      pictures: sets of float32 `[n_i, ...]`, none of them empty.

    Returns:
      float32, the sum over the sets of each one's mean, 0 or more; differentiable by
      whatever `logits` depends on.
    """
    pictures = list(pictures)
    with tf.GradientTape() as tape:
        tape.watch(pictures)
        total = tf.add_n([tf.reduce_sum(part) for part in logits(pictures)])
    slopes = tape.gradient(
        total, pictures, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return tf.add_n(
        [
            tf.reduce_sum(tf.square(slope)) / tf.cast(tf.shape(slope)[0], tf.float32)
            for slope in slopes
        ]
    )
