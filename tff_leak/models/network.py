"""Networks as plain functions: weights in, outputs out, batch statistics explicit.

A TFF computation can only use what its arguments bring, so a `Network` holds no
variables. Its weights are a `Weights` value: what is trained, and the running
statistics of batch normalisation, which `apply` returns anew.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tff_leak.errors import InputError

Shape = tuple[int, ...]
Tensors = list[tf.Tensor]


class Weights(NamedTuple):
    """A network's weights: lists of float32 tensors, in the order of its layers.

    Statistics are what is not trained: running statistics, or constants.
    """

    trainable: Tensors
    statistics: Tensors


class Parameter(NamedTuple):
    """One weight tensor: its shape and how it is drawn, `initializer(shape, seed)`."""

    shape: Shape
    initializer: Callable[[Shape, tf.Tensor], tf.Tensor]


class Layer(NamedTuple):
    """A layer that knows its input's shape.

    Attributes:
      output_shape: shape of one example, without the batch.
      trainable: what gradient descent changes.
      statistics: running statistics, or constants.
      apply: `(trainable, statistics, inputs [n, ...], training) ->
        (outputs [n, ...], statistics)`.
      updates_statistics: whether training changes the statistics; if not, they are
        constants.
    """

    output_shape: Shape
    trainable: tuple[Parameter, ...]
    statistics: tuple[Parameter, ...]
    apply: Callable[..., tuple[tf.Tensor, Tensors]]
    updates_statistics: bool = False


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as two functions.

    Attributes:
      name: what reports call it.
      input_shape: shape of one example, without the batch.
      output_shape: the same for the output.
      trainable_shapes: shapes of `Weights.trainable`.
      statistics_shapes: shapes of `Weights.statistics`.
      initialize: `(seed int32 [2]) -> Weights`.
      apply: `(Weights, inputs float32 [n, *input_shape], training: bool) ->
        (outputs float32 [n, *output_shape], statistics)`. With `training`, batch
        normalisation uses the statistics of the batch.
      updates_statistics: whether training changes the statistics; if not, they are
        constants.
    """

    name: str
    input_shape: Shape
    output_shape: Shape
    trainable_shapes: tuple[Shape, ...]
    statistics_shapes: tuple[Shape, ...]
    initialize: Callable[[tf.Tensor], Weights]
    apply: Callable[[Weights, tf.Tensor, bool], tuple[tf.Tensor, Tensors]]
    updates_statistics: bool = False

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(math.prod(shape) for shape in self.trainable_shapes)

    def outputs(self, weights: Weights, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the outputs at inference: `[n, *input_shape]` to
        `[n, *output_shape]`.
        """
        return self.apply(weights, inputs, False)[0]


def flatten(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the tensors' entries as one float32 vector `[P]`, in order."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def unflatten(vector: tf.Tensor, shapes: Sequence[Shape]) -> Tensors:
    """Undoes `flatten`: a vector `[P]` to tensors of `shapes`, whose sizes sum to P."""
    sizes = [math.prod(shape) for shape in shapes]
    pieces = tf.split(vector, sizes)
    return [tf.reshape(p, shape) for p, shape in zip(pieces, shapes, strict=True)]


def sequential(
    name: str, input_shape: Shape, builders: Sequence[Callable[[Shape], Layer]]
) -> Network:
    """Chains layers.

    Args:
      name: of the network.
      input_shape: of one example, without the batch.
      builders: functions from a layer's input shape to the `Layer`.

    Returns:
      The network. Its weights are drawn layer by layer from streams of their own,
      so that a change to one layer leaves the others' initial values.
    """
    layers: list[Layer] = []
    shape = input_shape
    for build in builders:
        layers.append(build(shape))
        shape = layers[-1].output_shape

    def initialize(seed: tf.Tensor) -> Weights:
        def draw(parameters: Sequence[Parameter], offset: int) -> Tensors:
            return [
                p.initializer(p.shape, tf.random.fold_in(seed, offset + i))
                for i, p in enumerate(parameters)
            ]

        trainable: Tensors = []
        statistics: Tensors = []
        for index, layer in enumerate(layers):
            trainable += draw(layer.trainable, 100 * index)
            statistics += draw(layer.statistics, 100 * index + 50)
        return Weights(trainable, statistics)

    def apply(weights: Weights, inputs: tf.Tensor, training: bool):
        trainable, statistics = list(weights.trainable), list(weights.statistics)
        updated: Tensors = []
        outputs = inputs
        for layer in layers:
            n, m = len(layer.trainable), len(layer.statistics)
            outputs, new = layer.apply(trainable[:n], statistics[:m], outputs, training)
            trainable, statistics = trainable[n:], statistics[m:]
            updated += new
        return outputs, updated

    return Network(
        name=name,
        input_shape=input_shape,
        output_shape=shape,
        trainable_shapes=tuple(p.shape for layer in layers for p in layer.trainable),
        statistics_shapes=tuple(p.shape for layer in layers for p in layer.statistics),
        initialize=initialize,
        apply=apply,
        updates_statistics=any(layer.updates_statistics for layer in layers),
    )


def followed_by(
    name: str, network: Network, builders: Sequence[Callable[[Shape], Layer]]
) -> Network:
    """Puts layers behind a network.

    Args:
      name: of the whole.
      network: what comes first; its weights come first, too.
      builders: as of `sequential`.

    Returns:
      The whole. The network in it is initialised as it is alone.
    """
    head = sequential(name, network.output_shape, builders)
    trainable, statistics = (
        len(network.trainable_shapes),
        len(network.statistics_shapes),
    )

    def initialize(seed: tf.Tensor) -> Weights:
        first = network.initialize(seed)
        # A stream of its own: both count their layers from 0.
        second = head.initialize(tf.random.fold_in(seed, -1))
        return Weights(
            [*first.trainable, *second.trainable],
            [*first.statistics, *second.statistics],
        )

    def apply(weights: Weights, inputs: tf.Tensor, training: bool):
        first = Weights(
            list(weights.trainable[:trainable]), list(weights.statistics[:statistics])
        )
        second = Weights(
            list(weights.trainable[trainable:]), list(weights.statistics[statistics:])
        )
        outputs, updated = network.apply(first, inputs, training)
        outputs, further = head.apply(second, outputs, training)
        return outputs, [*updated, *further]

    return Network(
        name=name,
        input_shape=network.input_shape,
        output_shape=head.output_shape,
        trainable_shapes=network.trainable_shapes + head.trainable_shapes,
        statistics_shapes=network.statistics_shapes + head.statistics_shapes,
        initialize=initialize,
        apply=apply,
        updates_statistics=network.updates_statistics or head.updates_statistics,
    )


def visible_window(network: Network, seed: tf.Tensor) -> tuple[int, int]:
    """Returns how many leading rows and columns of a picture the network can see.

    Pooling that rounds down drops the last rows and columns: whatever stands there
    gets no gradient and changes no output, so no attack can recover it and no figure
    should count it.

    Args:
      network: takes pictures `[n, H, W, C]`.
      seed: int32 `[2]`, for a random network and random pictures.

    Returns:
      (rows, columns), 1 to H and 1 to W.

    Raises:
      InputError: if the network's input is not a picture.
    """
    if len(network.input_shape) != 3:
        raise InputError(
            f"network {network.name} takes inputs of shape {network.input_shape}: "
            "expected pictures [H, W, C]; give a network that takes pictures"
        )
    weights = network.initialize(seed)
    inputs = tf.random.stateless_uniform([8, *network.input_shape], seed, -1.0, 1.0)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = network.outputs(weights, inputs)
        # No sum of squares: embeddings of length 1 have the same one for any picture.
        random = tf.random.stateless_normal(tf.shape(outputs), seed)
        functional = tf.reduce_sum(random * outputs)
    gradient = np.abs(tape.gradient(functional, inputs).numpy()).sum(axis=(0, 3))
    rows = np.flatnonzero(gradient.sum(axis=1))
    columns = np.flatnonzero(gradient.sum(axis=0))
    return int(rows[-1]) + 1, int(columns[-1]) + 1
