"""The gradient penalty by hand, and that it can be descended on."""

import numpy as np
import tensorflow as tf

from tff_leak.attacks.gradient_penalty import gradient_penalty


def test_of_a_line_by_hand():
    """The slope of 3 x + 4 y is 5 everywhere, that of x² + y² twice the radius."""
    weights = tf.constant([3.0, 4.0])
    points = tf.constant([[0.5, -2.0], [1.0, 7.0], [0.0, 0.0]])
    on_axes = tf.constant([[1.0, 0.0], [0.0, 3.0]])
    line = gradient_penalty(
        lambda parts: [tf.linalg.matvec(parts[0], weights)], [points]
    )
    np.testing.assert_allclose(line, 25.0, rtol=1e-6)
    both = gradient_penalty(
        lambda parts: [
            tf.linalg.matvec(parts[0], weights),
            tf.reduce_sum(tf.square(parts[1]), axis=1),
        ],
        [points, on_axes],
    )
    np.testing.assert_allclose(both, 25.0 + (4.0 + 36.0) / 2, rtol=1e-6)


def test_a_set_that_no_logit_depends_on_costs_nothing():
    points = tf.ones([4, 2])
    found = gradient_penalty(lambda parts: [tf.zeros([4])], [points])
    assert float(found) == 0.0


def test_its_gradient_by_what_the_logits_depend_on():
    """d (a² + b²) / d (a, b) = 2 (a, b)."""
    weights = tf.Variable([3.0, 4.0])
    with tf.GradientTape() as tape:
        penalty = gradient_penalty(
            lambda parts: [tf.linalg.matvec(parts[0], weights)], [tf.ones([5, 2])]
        )
    np.testing.assert_allclose(tape.gradient(penalty, weights), [6.0, 8.0], rtol=1e-6)
