"""Layers whose constants or statistics are special, by hand."""

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.models import layers
from tff_leak.models.network import Weights, followed_by, sequential

SEED = tf.constant([3, 4])


@pytest.mark.parametrize(
    "axis, expected",
    [
        (0, [[-1.0, 1.0], [1.0, -1.0]]),  # columns (1, 3) and (6, 2)
        (1, [[-1.0, 1.0], [1.0, -1.0]]),  # rows (1, 6) and (3, 2)
    ],
)
def test_standardise_along_an_axis(axis, expected):
    network = sequential("s", (2,), [layers.standardise(axis, epsilon=0.0)])
    inputs = tf.constant([[1.0, 6.0], [3.0, 2.0]])
    start = network.initialize(SEED)
    assert [w.numpy().tolist() for w in start.trainable] == [[1.0, 1.0], [0.0, 0.0]]
    assert not network.updates_statistics
    weights = Weights([tf.constant([2.0, 3.0]), tf.constant([0.5, 0.0])], [])
    hand = np.array(expected) * [2.0, 3.0] + [0.5, 0.0]
    for training in (True, False):
        outputs, statistics = network.apply(weights, inputs, training)
        np.testing.assert_allclose(outputs, hand, rtol=1e-6)
        assert statistics == []


def test_standardise_takes_the_axis_and_not_the_other():
    inputs = tf.constant([[1.0, 1.0], [3.0, 3.0]])
    for axis, expected in ((0, [[-1, -1], [1, 1]]), (1, [[0, 0], [0, 0]])):
        network = sequential("s", (2,), [layers.standardise(axis)])
        outputs = network.outputs(network.initialize(SEED), inputs)
        np.testing.assert_allclose(outputs, expected, atol=1e-4)


def test_a_fixed_layer_is_a_constant():
    network = sequential(
        "f", (2,), [layers.dense(2), layers.fixed_dense(3, seed=np.array([1, 2]))]
    )
    assert network.trainable_shapes == ((2, 2), (2,))
    assert network.statistics_shapes == ((2, 3),)
    assert not network.updates_statistics
    first, second = network.initialize(SEED), network.initialize(tf.constant([8, 8]))
    np.testing.assert_array_equal(first.statistics[0], second.statistics[0])
    assert np.any(first.trainable[0] != second.trainable[0])
    weights = Weights(
        [tf.eye(2), tf.zeros([2])], [tf.constant([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]])]
    )
    outputs = network.outputs(weights, tf.constant([[2.0, 3.0]]))
    assert outputs.numpy().tolist() == [[2.0, 7.0, -3.0]]


def test_unit_length_and_the_zero_vector():
    network = sequential("u", (2,), [layers.unit_length()])
    outputs = network.outputs(Weights([], []), tf.constant([[3.0, -4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(outputs, [[0.6, -0.8], [0.0, 0.0]], rtol=1e-6)


def test_layers_behind_a_network_leave_it_as_it_is():
    scale = layers.normal(1.0, 0.1)
    body = sequential("b", (2,), [layers.dense(3), layers.batch_norm(scale=scale)])
    head = [layers.dense(3), layers.fixed_dense(2, seed=np.array([1, 2]))]
    network = followed_by("whole", body, head)
    alone, whole = body.initialize(SEED), network.initialize(SEED)
    for ours, theirs in zip(whole.trainable, alone.trainable, strict=False):
        np.testing.assert_array_equal(ours, theirs)
    assert network.trainable_shapes == tuple(w.shape for w in whole.trainable)
    assert network.statistics_shapes == ((3,), (3,), (3, 2))
    assert network.updates_statistics  # the body's batch normalisation does
    inputs = tf.constant([[1.0, 2.0], [-1.0, 0.5]])
    outputs, statistics = network.apply(whole, inputs, True)
    between, running = body.apply(alone, inputs, True)
    expected = (between @ whole.trainable[4] + whole.trainable[5]) @ statistics[2]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(statistics, running, strict=False):
        np.testing.assert_array_equal(ours, theirs)
    # The head does not repeat the body's draws.
    assert np.all(whole.trainable[5] != whole.trainable[1])
