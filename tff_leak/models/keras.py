"""Networks from Keras models, so that any process here takes one's own."""

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.errors import InputError
from tff_leak.models.network import Network, Weights


def from_keras(model: tf.keras.Model) -> Network:
    """Returns a Keras model as a `Network`.

    Args:
      model: one input `[n, ...]`, one output; logits for a classifier. Its present
        weights are the initial ones, whatever the seed. TFF takes the model over:
        afterwards Keras may refuse to call it outside TFF, so keep a copy if needed.

    Returns:
      The network; its name is the model's. TFF lets a Keras model be applied inside a
      TFF computation only (`computations.evaluation` for accuracy), not eagerly.

    Raises:
      InputError: if the model has several inputs or outputs, batch normalisation, or
        layers that draw random numbers, such as dropout.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(
            f"Keras model {model.name} has {len(model.inputs)} inputs and "
            f"{len(model.outputs)} outputs: expected one of each; wrap it in a "
            "model with one input and one output"
        )
    input_shape = tuple(model.inputs[0].shape[1:])
    output_shape = tuple(model.outputs[0].shape[1:])
    _check_layers(model)
    functional = tff.learning.models.functional_model_from_keras(
        model,
        # The loss is the process's; TFF's form wants one all the same.
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        input_spec=(
            tf.TensorSpec([None, *input_shape]),
            tf.TensorSpec([None], tf.int32),
        ),
    )
    trainable, statistics = functional.initial_weights
    trainable = [np.asarray(value) for value in trainable]
    statistics = [np.asarray(value) for value in statistics]

    def initialize(seed: tf.Tensor) -> Weights:
        del seed
        return Weights(
            [tf.constant(value) for value in trainable],
            [tf.constant(value) for value in statistics],
        )

    def apply(weights: Weights, inputs: tf.Tensor, training: bool):
        values = (tuple(weights.trainable), tuple(weights.statistics))
        outputs = functional.predict_on_batch(values, inputs, training=training)
        return outputs, list(weights.statistics)

    return Network(
        name=model.name,
        input_shape=input_shape,
        output_shape=output_shape,
        trainable_shapes=tuple(value.shape for value in trainable),
        statistics_shapes=tuple(value.shape for value in statistics),
        initialize=initialize,
        apply=apply,
    )


_RANDOM_LAYERS = (
    tf.keras.layers.Dropout,
    tf.keras.layers.GaussianDropout,
    tf.keras.layers.AlphaDropout,
    tf.keras.layers.GaussianNoise,
)


def _check_layers(model: tf.keras.Model) -> None:
    for layer in model.submodules:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            raise InputError(
                f"Keras model {model.name} has batch normalisation ({layer.name}), "
                "whose running statistics TFF's functional form would lose: expected "
                "layers without state; use GroupNormalization or LayerNormalization"
            )
        if isinstance(layer, _RANDOM_LAYERS):
            raise InputError(
                f"Keras model {model.name} has the random layer {layer.name}: expected "
                "none, since its draws have no seed and no run could be repeated; "
                "leave it out"
            )
