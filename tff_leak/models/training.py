"""Local stochastic gradient descent on one participant's data, as a pure function."""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from tff_leak.errors import InputError
from tff_leak.models.network import Network, Weights, flatten, unflatten


class LocalData(NamedTuple):
    """A participant's data: inputs float32 `[n, ...]`, labels int32 `[n]`."""

    inputs: tf.Tensor
    labels: tf.Tensor


class Trained(NamedTuple):
    """What local training returns.

    Attributes:
      parameters: float32 `[P]`.
      steps: int32, minibatches that the participant has trained on so far.
      loss: float32, mean cross-entropy in nats over the examples seen in this call
        (0 without data).
    """

    parameters: tf.Tensor
    steps: tf.Tensor
    loss: tf.Tensor


@dataclasses.dataclass(frozen=True)
class LocalSgd:
    """Settings of local SGD; the defaults are Hitaj et al.'s for MNIST (section 8.4).

    Attributes:
      learning_rate: of the first step.
      learning_rate_decay: d in learning_rate / (1 + steps * d), Torch7's rule.
      batch_size: examples a step; the last one of an epoch may have fewer.
      epochs: passes over the local data in one turn.
      steps: minibatches in one turn at most, the first of the turn's own order; None
        is all of its epochs (the paper's).
    """

    learning_rate: float = 1e-3
    learning_rate_decay: float = 1e-7
    batch_size: int = 64
    epochs: int = 1
    steps: int | None = None

    def __post_init__(self):
        if not self.learning_rate_decay >= 0:
            raise InputError(
                f"learning_rate_decay is {self.learning_rate_decay}: expected 0 or "
                "more; the paper has 1e-7"
            )
        for name in ("learning_rate", "batch_size", "epochs"):
            if not getattr(self, name) > 0:
                raise InputError(
                    f"{name} is {getattr(self, name)}: expected a positive number; "
                    f"the paper has {type(self).__dataclass_fields__[name].default}"
                )
        if self.steps is not None and self.steps < 1:
            raise InputError(
                f"steps is {self.steps}: expected a positive number of minibatches; leave "
                "it out for whole epochs"
            )


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean softmax cross-entropy in nats: logits `[n, k]`, labels int32 `[n]`."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(losses)


def local_sgd(
    settings: LocalSgd,
    network: Network,
    parameters: tf.Tensor,
    statistics: list[tf.Tensor],
    data: LocalData,
    steps: tf.Tensor,
    seed: tf.Tensor,
) -> Trained:
    """Trains a copy of the model on local data (Hitaj et al., algorithm 1, line 13).

    Args:
      settings: of SGD.
      network: a classifier.
      parameters: float32 `[P]`.
      statistics: the network's constants.
      data: inputs `[n, *input_shape]`, labels in [0, outputs); n may be 0.
      steps: int32, minibatches that the participant has trained on before.
      seed: int32 `[2]`; each epoch has its own order of the examples.
    """
    count = tf.shape(data.labels)[0]
    batches = (count + settings.batch_size - 1) // settings.batch_size

    def epoch_order(epoch):
        noise = tf.random.stateless_uniform([count], tf.random.fold_in(seed, epoch))
        return tf.argsort(noise)

    def step(index, order, trainable, total, seen):
        # Only a new epoch needs a new order; `order` is carried through the others.
        batch = index % batches
        order = tf.cond(
            tf.equal(batch, 0), lambda: epoch_order(index // batches), lambda: order
        )
        chosen = order[batch * settings.batch_size : (batch + 1) * settings.batch_size]
        labels = tf.gather(data.labels, chosen)
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            logits, _ = network.apply(
                Weights(trainable, statistics), tf.gather(data.inputs, chosen), True
            )
            loss = cross_entropy(logits, labels)
        gradients = tape.gradient(loss, trainable)
        done = tf.cast(steps + index, tf.float32)
        rate = settings.learning_rate / (1.0 + settings.learning_rate_decay * done)
        trainable = [
            w if g is None else w - rate * g
            for w, g in zip(trainable, gradients, strict=True)
        ]
        examples = tf.cast(tf.shape(labels)[0], tf.float32)
        total += loss * examples
        return index + 1, order, trainable, total, seen + examples

    limit = batches * settings.epochs
    if settings.steps is not None:
        limit = tf.minimum(limit, settings.steps)
    start = unflatten(parameters, network.trainable_shapes)
    _, _, trainable, total, seen = tf.while_loop(
        lambda index, *_: index < limit,
        step,
        (tf.constant(0), tf.range(count), start, tf.constant(0.0), tf.constant(0.0)),
        shape_invariants=(
            tf.TensorShape([]),
            tf.TensorShape([None]),
            [tensor.shape for tensor in start],
            tf.TensorShape([]),
            tf.TensorShape([]),
        ),
        maximum_iterations=limit,
    )
    return Trained(flatten(trainable), steps + limit, total / tf.maximum(seen, 1.0))
