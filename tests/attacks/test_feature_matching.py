"""Feature matching by hand, and where the features come from."""

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.attacks.feature_matching import feature_distance, last_features
from tff_leak.models import classifiers

SEED = tf.constant([5, 6])


@pytest.mark.parametrize(
    "network",
    [classifiers.mlp(5, (4, 4, 1), hidden=7), classifiers.wang_mnist(10, 4)],
    ids=["mlp", "convolutional"],
)
def test_the_last_layer_makes_the_outputs_of_them(network):
    weights = network.initialize(SEED)
    images = tf.random.stateless_uniform([3, *network.input_shape], SEED, -1, 1)
    kernel, bias = weights.trainable[-2:]
    features = last_features(network, weights, images)
    assert features.shape == (3, kernel.shape[0])
    np.testing.assert_allclose(
        features @ kernel + bias, network.outputs(weights, images), atol=1e-5
    )


class TestDistance:
    # Means 2 and 10, variances 1 and 4.
    WANTED = tf.constant([[1.0, 8.0], [3.0, 12.0]])

    def test_by_hand_in_deviations(self):
        drawn = tf.constant([[5.0, 13.0], [3.0, 15.0], [4.0, 14.0]])
        # 2 deviations of the first feature, and of the second.
        np.testing.assert_allclose(
            feature_distance(self.WANTED, drawn), (4.0 + 4.0) / 2, rtol=1e-6
        )

    def test_sets_of_one_mean_agree_whatever_their_size_and_spread(self):
        assert float(feature_distance(self.WANTED, tf.constant([[2.0, 10.0]]))) == 0.0

    @pytest.mark.parametrize("scale", [0.01, 100.0])
    def test_how_large_features_are_does_not_matter(self, scale):
        drawn = tf.constant([[5.0, 13.0], [3.0, 15.0]])
        np.testing.assert_allclose(
            feature_distance(scale * self.WANTED, scale * drawn),
            feature_distance(self.WANTED, drawn),
            rtol=1e-4,
        )

    def test_a_feature_that_does_not_vary_counts_boundedly(self):
        wanted = tf.constant([[1.0, 5.0], [3.0, 5.0]])
        # Mean variance 1/2, mean square 15: the second counts by .005 + .0015.
        found = feature_distance(wanted, tf.constant([[2.0, 5.1]]))
        np.testing.assert_allclose(found, 0.01 / 0.0065 / 2, rtol=1e-3)
        # One picture alone: mean square 4, so by .0004.
        found = feature_distance(tf.constant([[2.0, 2.0]]), tf.constant([[2.0, 2.1]]))
        np.testing.assert_allclose(found, 0.01 / 0.0004 / 2, rtol=1e-3)

    def test_only_what_is_drawn_is_moved(self):
        wanted, drawn = tf.Variable(self.WANTED), tf.Variable([[5.0, 13.0]])
        with tf.GradientTape() as tape:
            distance = feature_distance(wanted, drawn)
        by_wanted, by_drawn = tape.gradient(distance, [wanted, drawn])
        assert by_wanted is None
        # d/dx of ((2 - 5)² / 1 + (10 - 13)² / 4) / 2
        np.testing.assert_allclose(by_drawn, [[3.0, 0.75]], rtol=1e-6)
