"""Evaluation as a TFF computation: the network's outputs, for Keras models as well."""

import numpy as np
import pytest
import tensorflow as tf

from computations.evaluation import build_predict
from tff_leak.models import classifiers
from tff_leak.models.keras import from_keras
from tff_leak.models.network import flatten

pytestmark = pytest.mark.usefixtures("tff_worker")

SEED = tf.constant([0, 1])
INPUTS = tf.random.stateless_normal([6, 4, 4, 1], SEED).numpy()


def test_outputs_are_the_networks():
    network = classifiers.mlp(3, (4, 4, 1), hidden=5)
    weights = network.initialize(SEED)
    parameters = flatten(weights.trainable).numpy()
    logits = build_predict(network)(parameters, [], INPUTS)
    np.testing.assert_allclose(logits, network.outputs(weights, INPUTS), atol=1e-5)


def test_outputs_of_a_keras_model_are_the_models():
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Input((4, 4, 1)),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(5, activation="relu"),
            tf.keras.layers.Dense(3),
        ]
    )
    expected = model(INPUTS).numpy()  # before TFF takes the model over
    network = from_keras(model)
    parameters = flatten(network.initialize(SEED).trainable).numpy()
    logits = build_predict(network)(parameters, [], INPUTS)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
