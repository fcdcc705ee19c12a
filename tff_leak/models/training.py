"""A participant's local training as pure functions: the slot, and the papers' SGD."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tff_leak.errors import InputError
from tff_leak.models.loop_body import compiled_apart
from tff_leak.models.network import Network, Weights, flatten, unflatten


class LocalData(NamedTuple):
    """A participant's data: inputs float32 `[n, ...]`, labels int32 `[n]`."""

    inputs: tf.Tensor
    labels: tf.Tensor


class Trained(NamedTuple):
    """What local training returns.

    Attributes:
      parameters: float32 `[S]`, what is shared; `[P]` after SGD.
      steps: int32, minibatches that the participant has trained on so far.
      loss: float32, the mean of what training minimises over the examples seen in
        this call (0 without data); of SGD the cross-entropy in nats.
    """

    parameters: tf.Tensor
    steps: tf.Tensor
    loss: tf.Tensor


class LocalTraining(NamedTuple):
    """The slot of local training: what is shared, and how a participant changes it.

    What a protocol shares is one vector of S numbers. The first P of them are the
    model's parameters; an optimiser whose state is shared as well puts it behind them.

    Attributes:
      num_shared: S, at least the network's `num_parameters` P.
      initialize: `(seed int32 [2]) -> (shared float32 [S], constants)`, what is there
        before the first turn; the constants are `Weights.statistics`.
      private_spec: nested `tf.TensorSpec` of what a participant needs for its training
        and never shares; a leading dimension may be None. `()` for nothing.
      train: `(shared, constants, LocalData, private, steps int32, seed int32 [2]) ->
        Trained`: one turn on local data. `steps` are those made before.
    """

    num_shared: int
    initialize: Callable[[tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]]
    private_spec: Any
    train: Callable[..., Trained]


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
                f"steps is {self.steps}: expected a positive number of minibatches; "
                "leave it out for whole epochs"
            )


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean softmax cross-entropy in nats: logits `[n, k]`, labels int32 `[n]`."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(losses)


def binary_cross_entropy(
    logits: tf.Tensor, wanted: float | tf.Tensor, weights: tf.Tensor | None = None
) -> tf.Tensor:
    """Mean binary cross-entropy in nats.

    Args:
      logits: float32, of any shape.
      wanted: 0 or 1, one for all or one each.
      weights: 0 or 1 each: the mean is over those of weight 1, and 0 without any.
    """
    targets = tf.broadcast_to(tf.cast(wanted, tf.float32), tf.shape(logits))
    losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    if weights is None:
        return tf.reduce_mean(losses)
    return tf.reduce_sum(weights * losses) / tf.maximum(tf.reduce_sum(weights), 1.0)


def sgd_training(settings: LocalSgd, network: Network) -> LocalTraining:
    """Returns SGD of a classifier as `LocalTraining`: S is P, nothing is private."""

    def initialize(seed):
        weights = network.initialize(seed)
        return flatten(weights.trainable), list(weights.statistics)

    def train(shared, constants, data, private, steps, seed):
        del private
        return local_sgd(settings, network, shared, constants, data, steps, seed)

    return LocalTraining(network.num_parameters, initialize, (), train)


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

    def step(index, chosen, state):
        trainable, total, seen = state
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
        return trainable, total, seen + examples

    start = unflatten(parameters, network.trainable_shapes)
    (trainable, total, seen), made = over_minibatches(
        step,
        (start, tf.constant(0.0), tf.constant(0.0)),
        count=tf.shape(data.labels)[0],
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        steps=settings.steps,
        seed=seed,
    )
    return Trained(flatten(trainable), steps + made, total / tf.maximum(seen, 1.0))


def over_minibatches(
    step: Callable[[tf.Tensor, tf.Tensor, Any], Any],
    state: Any,
    *,
    count: tf.Tensor,
    batch_size: int,
    epochs: int,
    seed: tf.Tensor,
    steps: int | None = None,
) -> tuple[Any, tf.Tensor]:
    """Folds a step over the minibatches of some epochs.

    Args:
      step: `(index int32, chosen int32 [b], state) -> state`; `chosen` are the numbers
        of the examples in this minibatch, b at most `batch_size`.
      state: nested tensors, of the same shapes before and after each step.
      count: int32, examples; without any there is no step.
      batch_size: examples a step; the last one of an epoch may have fewer.
      epochs: passes over the examples, each in an order of its own.
      seed: int32 `[2]`, of the orders.
      steps: of all epochs the first so many minibatches at most; None is all.

    Returns:
      The last state, and int32: how many steps were made.
    """
    batches = -(-count // batch_size)  # The usual sum would pass an int32.

    def epoch_order(epoch):
        noise = tf.random.stateless_uniform([count], tf.random.fold_in(seed, epoch))
        return tf.argsort(noise)

    @compiled_apart
    def on_batch(index, batch, order, state):
        # In here, as its size may be known at run time only. XLA clips no slice's end.
        end = tf.minimum((batch + 1) * batch_size, count)
        return step(index, order[batch * batch_size : end], state)

    def body(index, order, state):
        # Only a new epoch needs a new order; `order` is carried through the others.
        batch = index % batches
        order = tf.cond(
            tf.equal(batch, 0), lambda: epoch_order(index // batches), lambda: order
        )
        return index + 1, order, on_batch(index, batch, order, state)

    limit = batches * tf.minimum(epochs, tf.int32.max // tf.maximum(batches, 1))
    if steps is not None:
        limit = tf.minimum(limit, steps)
    _, _, state = tf.while_loop(
        lambda index, *_: index < limit,
        body,
        (tf.constant(0), tf.range(count), state),
        shape_invariants=(
            tf.TensorShape([]),
            tf.TensorShape([None]),
            tf.nest.map_structure(lambda tensor: tensor.shape, state),
        ),
        maximum_iterations=limit,
    )
    return state, limit
