"""Gradient descent on a client's data in the batches in which they arrive.

`training.local_sgd` takes a dataset as a heap of examples and draws its own batches.
Federated averaging as TFF has it takes the dataset's batches, in the dataset's order.
Both steps here are plain tensor functions without variables and without loops over a
dataset, so that a runtime can apply them to many clients at once.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tff_leak.errors import InputError
from tff_leak.models.loop_body import compiled_apart
from tff_leak.models.network import Network, Tensors, Weights


class Batches(NamedTuple):
    """A client's batches, each padded with zeros to the largest one.

    Further padding changes nothing: neither more examples in a batch, nor batches of
    size 0 at the end. (Clients that are computed together must have equal shapes.)

    Attributes:
      inputs: float32 `[b, m, ...]`.
      labels: int32 `[b, m]`.
      sizes: int32 `[b]`, how many examples of each batch, the first ones, are data.
    """

    inputs: tf.Tensor
    labels: tf.Tensor
    sizes: tf.Tensor


class BatchResult(NamedTuple):
    """What a client computed on its batches.

    Attributes:
      tensors: float32, as the network's trainable weights: new weights, or a gradient.
      loss_sum: float32, cross-entropy in nats summed over the examples seen, each
        under the weights of its step.
      examples: float32, how many examples were seen, once for each epoch.
    """

    tensors: Tensors
    loss_sum: tf.Tensor
    examples: tf.Tensor


@dataclasses.dataclass(frozen=True)
class BatchSgd:
    """Settings of SGD on batches as they arrive.

    Attributes:
      learning_rate: of every step.
      momentum: m in v <- m v + gradient, w <- w - learning_rate v; v starts at 0 in
        every round. In [0, 1).
      epochs: passes over the batches, in their order.
    """

    learning_rate: float = 0.1
    momentum: float = 0.0
    epochs: int = 1

    def __post_init__(self):
        if not self.learning_rate > 0:
            raise InputError(
                f"learning_rate is {self.learning_rate}: expected a positive number; "
                "the default is 0.1"
            )
        if not 0 <= self.momentum < 1:
            raise InputError(
                f"momentum is {self.momentum}: expected it in [0, 1); 0 is plain SGD"
            )
        if not (self.epochs >= 1 and int(self.epochs) == self.epochs):
            raise InputError(
                f"epochs is {self.epochs}: expected 1 or a larger whole number; "
                "one pass over the batches is the least"
            )


def read_batches(network: Network, dataset: tf.data.Dataset) -> Batches:
    """Reads a client's dataset into tensors; to be called in a graph.

    Args:
      network: whose inputs they are.
      dataset: batches (inputs `[n, *input_shape]`, labels `[n]` or `[n, 1]`), of any
        numeric types and any sizes, or none.
    """
    shape = [None, *network.input_shape]
    inputs = tf.TensorArray(
        tf.float32, 1, dynamic_size=True, infer_shape=False, element_shape=shape
    )
    labels = tf.TensorArray(
        tf.int32, 1, dynamic_size=True, infer_shape=False, element_shape=[None]
    )
    sizes = tf.TensorArray(tf.int32, 0, dynamic_size=True, element_shape=[])
    # `concat` of nothing has no shape: an empty batch stands in front.
    inputs = inputs.write(0, tf.zeros([0, *network.input_shape]))
    labels = labels.write(0, tf.zeros([0], tf.int32))
    index = tf.constant(0)
    # `iter`: a loop over the dataset itself becomes `reduce`, which is slower.
    for batch_inputs, batch_labels in iter(dataset):
        flat = tf.reshape(tf.cast(batch_labels, tf.int32), [-1])
        inputs = inputs.write(index + 1, tf.cast(batch_inputs, tf.float32))
        labels = labels.write(index + 1, flat)
        sizes = sizes.write(index, tf.size(flat))
        index += 1
    sizes = sizes.stack()

    def padded(values):
        rows = tf.RaggedTensor.from_row_lengths(values, sizes, validate=False)
        return rows.to_tensor()

    return Batches(
        tf.ensure_shape(padded(inputs.concat()), [None, *shape]),
        tf.ensure_shape(padded(labels.concat()), [None, None]),
        sizes,
    )


def train_on_batches(
    settings: BatchSgd,
    network: Network,
    weights: Weights,
    batches: Batches,
    *,
    gradient: Callable[..., tuple[Tensors, tf.Tensor]] | None = None,
) -> BatchResult:
    """One step for each batch, in order (McMahan et al., AISTATS 2017, algorithm 1).

    Args:
      settings: of SGD.
      network: a classifier that returns finite logits for padding (zeros).
      weights: to start from.
      batches: the client's data.
      gradient: `(place, network, weights, batch) -> (tensors, loss_sum)`, what a step
        takes for the gradient of the loss summed over one batch's examples, 0 for a
        batch of size 0; `place` is two int32, the epoch and the batch's number. None
        is that gradient.

    Returns:
      The weights after the last step.
    """
    gradient_of = gradient or _gradient
    start = list(weights.trainable)
    with_momentum = settings.momentum > 0

    def step(place, batch, state):
        trainable, velocity = state
        summed, loss_sum = gradient_of(
            place, network, Weights(trainable, weights.statistics), batch
        )
        count = tf.maximum(tf.cast(batch.sizes, tf.float32), 1.0)
        direction = [g / count for g in summed]
        if with_momentum:
            # A batch of size 0 is padding: it must not go on with the velocity.
            real = tf.cast(batch.sizes > 0, tf.float32)
            velocity = [
                v + real * ((settings.momentum - 1.0) * v + g)
                for v, g in zip(velocity, direction, strict=True)
            ]
            direction = [real * v for v in velocity]
        rate = settings.learning_rate
        trainable = [w - rate * d for w, d in zip(trainable, direction, strict=True)]
        return (trainable, velocity), loss_sum

    velocity = [tf.zeros_like(w) for w in start] if with_momentum else []
    (trainable, _), loss_sum = _over_batches(
        step, (start, velocity), batches, settings.epochs
    )
    seen = settings.epochs * tf.reduce_sum(batches.sizes)
    return BatchResult(trainable, loss_sum, tf.cast(seen, tf.float32))


def mean_gradient(network: Network, weights: Weights, batches: Batches) -> BatchResult:
    """The gradient of the mean loss over all examples, at the given weights.

    Args:
      network: a classifier that returns finite logits for padding (zeros).
      weights: where the gradient is taken.
      batches: the client's data; without examples the gradient is 0.
    """

    def step(place, batch, total):
        gradient, loss_sum = _gradient(place, network, weights, batch)
        return [t + g for t, g in zip(total, gradient, strict=True)], loss_sum

    zeros = [tf.zeros_like(w) for w in weights.trainable]
    total, loss_sum = _over_batches(step, zeros, batches, epochs=1)
    seen = tf.cast(tf.reduce_sum(batches.sizes), tf.float32)
    return BatchResult([t / tf.maximum(seen, 1.0) for t in total], loss_sum, seen)


def _gradient(
    place: tuple, network: Network, weights: Weights, batch: Batches
) -> tuple[Tensors, tf.Tensor]:
    """Gradient of the loss summed over one batch's examples, and that sum."""
    del place  # It is the same at every step.
    trainable = list(weights.trainable)
    data = tf.sequence_mask(batch.sizes, tf.shape(batch.labels)[0], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(trainable)
        logits, _ = network.apply(
            Weights(trainable, list(weights.statistics)), batch.inputs, True
        )
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch.labels, logits)
        loss_sum = tf.reduce_sum(data * losses)
    gradient = tape.gradient(
        loss_sum, trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return gradient, loss_sum


def _over_batches(
    step: Callable, state, batches: Batches, epochs: int
) -> tuple[list, tf.Tensor]:
    """Folds `step(place, batch, state) -> (state, loss_sum)` over epochs of batches."""
    step = compiled_apart(step)
    number = tf.shape(batches.sizes)[0]
    limit = number * epochs

    def body(index, state, total):
        batch = tf.nest.map_structure(lambda t: t[index % number], batches)
        place = index // number, index % number
        state, loss_sum = step(place, batch, state)
        return index + 1, state, total + loss_sum

    _, state, total = tf.while_loop(
        lambda index, *_: index < limit,
        body,
        (tf.constant(0), state, tf.constant(0.0)),
        maximum_iterations=limit,
    )
    return state, total
