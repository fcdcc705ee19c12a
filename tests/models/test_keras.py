"""Keras models as networks."""

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.errors import InputError
from tff_leak.models.keras import from_keras

SEED = tf.constant([0, 1])


def _model(*extra):
    return tf.keras.Sequential(
        [
            tf.keras.layers.Input((4, 4, 1)),
            tf.keras.layers.Flatten(),
            *extra,
            tf.keras.layers.Dense(3),
        ],
        name="mine",
    )


def test_shapes_and_initial_weights_are_the_models():
    model = _model(tf.keras.layers.Dense(5, activation="relu"))
    size, values = model.count_params(), model.get_weights()  # TFF takes it over
    network = from_keras(model)
    assert network.num_parameters == size
    assert (network.name, network.input_shape, network.output_shape) == (
        "mine",
        (4, 4, 1),
        (3,),
    )
    weights = network.initialize(SEED).trainable
    for ours, theirs in zip(weights, values, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_batch_normalisation_is_refused_with_a_remedy():
    with pytest.raises(InputError, match="use GroupNormalization"):
        from_keras(_model(tf.keras.layers.BatchNormalization()))


def test_nested_batch_normalisation_is_found():
    inner = tf.keras.Sequential([tf.keras.layers.BatchNormalization()])
    with pytest.raises(InputError, match="batch normalisation"):
        from_keras(_model(inner))


def test_random_layers_are_refused():
    with pytest.raises(InputError, match="has the random layer dropout"):
        from_keras(_model(tf.keras.layers.Dropout(0.5, name="dropout")))


def test_several_outputs_are_refused():
    inputs = tf.keras.Input((4,))
    layer = tf.keras.layers.Dense(2)
    model = tf.keras.Model(inputs, [layer(inputs), layer(inputs)])
    with pytest.raises(InputError, match="1 inputs and 2 outputs"):
        from_keras(model)
