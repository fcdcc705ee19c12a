"""The slot of section V-E: labels and pictures of each client from its own update."""

import numpy as np
import tensorflow as tf

from computations.representatives import build_find_representatives
from tff_leak.attacks.representatives import Representatives
from tff_leak.models import classifiers
from tff_leak.models.network import Weights

SEED = tf.constant([2, 3])
SHAPE = (6, 6, 1)
NETWORK = classifiers.mlp(5, SHAPE, hidden=16)
SETTINGS = Representatives(
    images=2, iterations=150, local_rate=0.1, local_steps=1, gamma=0.1, tv_weight=1e-4
)


def _update(trainable, images, labels):
    """One step of SGD with rate 0.1: old minus new weights."""
    with tf.GradientTape() as tape:
        tape.watch(trainable)
        logits = NETWORK.outputs(Weights(trainable, []), images)
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        )
    return [0.1 * g for g in tape.gradient(loss, trainable)]


def test_each_client_gets_its_own_classes_and_pictures():
    weights = Weights(NETWORK.initialize(SEED).trainable, [])
    above = np.full([2, *SHAPE], -0.8, np.float32)
    below = above.copy()
    above[:, :3], below[:, 3:] = 0.8, 0.8
    clients = [(above, [1, 3]), (below, [4, 0])]
    updates = [_update(weights.trainable, *client) for client in clients]
    stacked = [tf.stack(tensors) for tensors in zip(*updates, strict=True)]
    find = tf.function(build_find_representatives(NETWORK, SETTINGS))
    images, labels = find(weights, stacked, SEED)
    assert labels.numpy().tolist() == [[1, 3], [0, 4]]
    assert images.shape == (2, 2, *SHAPE)
    assert float(tf.reduce_max(tf.abs(images))) <= 1.0
    for found, own, other in zip(images, (above, below), (below, above), strict=True):
        mean = found.numpy().mean(axis=0).ravel()
        correlations = [np.corrcoef(mean, p[0].ravel())[0, 1] for p in (own, other)]
        assert correlations[0] > 0.8 > 0 > correlations[1]


def test_the_number_of_pictures_is_known_and_that_of_clients_need_not_be():
    """The server's memory has places for so many pictures."""
    shapes = [tf.TensorSpec([None, *s]) for s in NETWORK.trainable_shapes]
    weights = Weights([tf.TensorSpec(s) for s in NETWORK.trainable_shapes], [])
    find = tf.function(build_find_representatives(NETWORK, SETTINGS))
    traced = find.get_concrete_function(weights, shapes, tf.TensorSpec([2], tf.int32))
    images, labels = traced.structured_outputs
    assert images.shape.as_list() == [None, 2, *SHAPE]
    assert labels.shape.as_list() == [None, 2]
    # All that it computes with is handed in.
    assert not traced.variables and not traced.captured_inputs
