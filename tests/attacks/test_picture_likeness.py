"""Likeness of pictures and their greys, by hand."""

import numpy as np
import tensorflow as tf

from tff_leak.attacks import picture_likeness

SHAPE = (4, 4, 1)


def _pictures(count, seed):
    return tf.random.stateless_uniform([count, *SHAPE], [seed, 1], -0.5, 0.5)


def test_a_product_of_units_is_the_correlation():
    images = _pictures(5, 7)
    vectors = picture_likeness.unit(images).numpy()
    expected = np.corrcoef(images.numpy().reshape(5, 16))
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-5)
    np.testing.assert_array_equal(picture_likeness.unit(tf.ones([1, *SHAPE])), 0.0)


def test_means_of_groups():
    images = _pictures(5, 8)
    groups = tf.constant([2, 0, 2, 2, 0])
    means, present = picture_likeness.unit_means(images, groups, 4)
    assert present.numpy().tolist() == [True, False, True, False]
    for group, members in ((0, [1, 4]), (2, [0, 2, 3])):
        mean = tf.reduce_mean(tf.gather(images, members), axis=0, keepdims=True)
        np.testing.assert_allclose(
            means[group], picture_likeness.unit(mean)[0], atol=1e-6
        )


def test_class_spread_is_within_classes():
    halves = np.full([4, 16], -1.0, np.float32)
    halves[0, :8], halves[1, ::2], halves[2, 8:], halves[3, 8:] = 1.0, 1.0, 1.0, 1.0
    images, labels = tf.constant(halves.reshape(4, *SHAPE)), tf.constant([5, 5, 2, 7])
    # Above and stripes are uncorrelated; all other pairs are of two classes.
    np.testing.assert_allclose(
        picture_likeness.class_spread(images, labels), 1.0, rtol=1e-5
    )
    assert picture_likeness.class_spread(images[1:], labels[1:]) == 0


class TestGreys:
    def test_by_hand(self):
        images = tf.reshape([0.1, 0.4, 0.2, 0.3], [1, 2, 2, 1])
        palette = tf.reshape([-1.0, 1, -1, -1, 0, 1, -1, -1], [2, 2, 2, 1])
        # Sorted -1 -1 -1 1 and -1 -1 0 1; ranks 0 3 1 2.
        found = picture_likeness.with_greys(images, palette)
        assert found.numpy().ravel().tolist() == [-1.0, 1.0, -1.0, -0.5]

    def test_what_is_brighter_stays_so_whatever_the_contrast(self):
        images, palette = _pictures(3, 5), _pictures(7, 6)
        found = picture_likeness.with_greys(images, palette)
        again = picture_likeness.with_greys(0.2 * images - 0.7, palette)
        np.testing.assert_array_equal(found, again)
        for one, other in zip(images.numpy(), found.numpy(), strict=True):
            order = np.argsort(one.ravel())
            assert (np.diff(other.ravel()[order]) >= 0).all()
