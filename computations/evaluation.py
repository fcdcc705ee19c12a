"""Evaluation of a shared model as a TFF computation.

It runs wherever TFF computations run, and takes every `Network`: one made from a
Keras model can be applied nowhere else.
"""

import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.models.network import Network, Weights, unflatten


def build_predict(network: Network) -> tff.Computation:
    """Builds a computation that classifies inputs.

    Type signature, with P the number of parameters and k that of outputs:

        (<parameters=float32[P], statistics=<...>, inputs=float32[?,...]>
          -> float32[?,k])

    Returns:
      The computation; its result are logits.
    """
    shapes = [tf.TensorSpec(s) for s in network.statistics_shapes]

    @tff.tensorflow.computation(
        tff.types.tensorflow_to_type(tf.TensorSpec([network.num_parameters])),
        tff.types.tensorflow_to_type(shapes),
        tff.types.tensorflow_to_type(tf.TensorSpec([None, *network.input_shape])),
    )
    def predict(parameters, statistics, inputs):
        trainable = unflatten(parameters, network.trainable_shapes)
        return network.outputs(Weights(trainable, list(statistics)), inputs)

    return predict
