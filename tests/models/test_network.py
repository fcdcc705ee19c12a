"""The functional form: flattening, initial values, batch statistics, what is seen."""

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.errors import InputError
from tff_leak.models import classifiers, generators, layers
from tff_leak.models.network import (
    Weights,
    flatten,
    sequential,
    unflatten,
    visible_window,
)

SEED = tf.constant([3, 4])


def test_flatten_and_unflatten_are_inverse_and_ordered():
    tensors = [tf.constant([[1.0, 2.0], [3.0, 4.0]]), tf.constant([5.0])]
    vector = flatten(tensors)
    assert vector.numpy().tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    again = unflatten(vector, [(2, 2), (1,)])
    for before, after in zip(tensors, again, strict=True):
        np.testing.assert_array_equal(before, after)


def test_initial_weights_depend_on_the_seed_alone():
    network = classifiers.hitaj_mnist()
    first, second = network.initialize(SEED), network.initialize(SEED)
    other = network.initialize(tf.constant([3, 5]))
    for a, b, c in zip(*(w.trainable for w in (first, second, other)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a.numpy() != c.numpy()).any()


def test_a_dense_layer_computes_what_a_hand_does():
    network = sequential("hand", (2,), [layers.dense(2), layers.activation(tf.nn.relu)])
    weights = Weights(
        [tf.constant([[1.0, -1.0], [2.0, 0.5]]), tf.constant([0.5, 0.0])], []
    )
    # [1, 2] @ W = [5, 0]; + b = [5.5, 0].
    outputs = network.outputs(weights, tf.constant([[1.0, 2.0]]))
    assert outputs.numpy().tolist() == [[5.5, 0.0]]


def test_batch_norm_uses_the_batch_in_training_and_running_values_otherwise():
    network = sequential(
        "bn", (1,), [layers.batch_norm(scale=layers.ones, epsilon=0.0, momentum=0.75)]
    )
    weights = network.initialize(SEED)
    batch = tf.constant([[1.0], [3.0]])  # mean 2, variance 1
    outputs, (mean, variance) = network.apply(weights, batch, True)
    assert outputs.numpy().ravel().tolist() == [-1.0, 1.0]
    assert mean.numpy().tolist() == [0.5]  # 0.75 * 0 + 0.25 * 2
    assert variance.numpy().tolist() == [1.0]  # 0.75 * 1 + 0.25 * 1
    # Running mean 0 and variance 1 leave the batch as it is.
    assert network.outputs(weights, batch).numpy().ravel().tolist() == [1.0, 3.0]
    assert network.updates_statistics


def test_a_padded_transposed_convolution_has_the_size_of_wangs_table():
    build = layers.conv2d_transpose(
        192, 5, output_size=7, stride=2, padding=1, initializer=layers.normal(0, 1)
    )
    layer = build((3, 3, 384))
    weights = [p.initializer(p.shape, SEED) for p in layer.trainable]
    outputs, _ = layer.apply(weights, [], tf.ones([2, 3, 3, 384]), True)
    assert outputs.shape == (2, 7, 7, 192)


def test_pooling_hides_the_border_that_it_rounds_away():
    # 32 -> 28 -> pool 3: 27 used; -> 9 -> 5 -> pool 2: 4 used, which reach row 27.
    assert visible_window(classifiers.hitaj_mnist(), SEED) == (28, 28)
    assert visible_window(classifiers.hitaj_att(), SEED) == (64, 64)


def test_outputs_of_constant_length_see_what_they_depend_on():
    def on_the_circle(angles):
        return tf.concat([tf.cos(angles[:, :1]), tf.sin(angles[:, :1])], axis=1)

    network = sequential(
        "circle",
        (5, 5, 1),
        # Pooling 2 by 2 drops the last row and column.
        [
            layers.max_pool(2),
            layers.reshape(),
            layers.dense(2),
            layers.activation(on_the_circle),
        ],
    )
    assert visible_window(network, SEED) == (4, 4)


def test_visible_window_refuses_networks_without_pictures():
    with pytest.raises(InputError, match="takes inputs of shape"):
        visible_window(generators.hitaj_mnist(), SEED)


def test_what_is_outside_the_window_changes_no_output():
    network = classifiers.hitaj_mnist()
    weights = network.initialize(SEED)
    images = tf.random.stateless_uniform([2, 32, 32, 1], SEED).numpy()
    before = network.outputs(weights, images).numpy()
    images[:, 28:, :, :] = 7.0
    images[:, :, 28:, :] = -7.0
    np.testing.assert_array_equal(network.outputs(weights, images).numpy(), before)
    images[:, 27, :, :] = 7.0
    assert (network.outputs(weights, images).numpy() != before).any()
