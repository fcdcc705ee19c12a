"""The matcher: labels from the output layer, pictures that make the client's update."""

import numpy as np
import pytest
import tensorflow as tf

from experiments.server_gan_representatives import Matching, build_find_representatives
from tff_leak.errors import InputError
from tff_leak.models import classifiers
from tff_leak.models.network import Weights

SEED = tf.constant([2, 3])
SHAPE = (6, 6, 1)
NETWORK = classifiers.mlp(5, SHAPE, hidden=16)
WEIGHTS = Weights(NETWORK.initialize(SEED).trainable, [])
SETTINGS = Matching(classes=2, per_class=1, iterations=150, scale=0.1, variation=1e-4)


def _update(images, labels):
    """One step of SGD with rate 0.1: old minus new weights."""
    trainable = WEIGHTS.trainable
    with tf.GradientTape() as tape:
        tape.watch(trainable)
        logits = NETWORK.outputs(Weights(trainable, []), images)
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        )
    return [0.1 * g for g in tape.gradient(loss, trainable)]


def test_each_client_gets_its_own_classes_and_pictures():
    above, below = np.full([2, *SHAPE], -0.8, np.float32), None
    below = above.copy()
    above[:, :3], below[:, 3:] = 0.8, 0.8
    clients = [(above, [1, 3]), (below, [4, 0])]
    updates = [_update(images, tf.constant(labels)) for images, labels in clients]
    stacked = [tf.stack(tensors) for tensors in zip(*updates, strict=True)]
    find = tf.function(build_find_representatives(NETWORK, SETTINGS))
    images, labels = find(WEIGHTS, stacked, SEED)
    assert labels.numpy().tolist() == [[1, 3], [0, 4]]
    assert images.shape == (2, 2, *SHAPE)
    assert float(tf.reduce_max(tf.abs(images))) <= 1.0
    for found, own, other in zip(images, (above, below), (below, above), strict=True):
        mean = found.numpy().mean(axis=0).ravel()
        correlations = [np.corrcoef(mean, p[0].ravel())[0, 1] for p in (own, other)]
        assert correlations[0] > 0.8 > 0 > correlations[1]


def test_bad_input():
    with pytest.raises(InputError, match="iterations is 0: expected more than 0"):
        Matching(iterations=0)
