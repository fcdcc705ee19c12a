"""Pictures whose gradient is a client's update: what every such attack shares.

An attack of this kind says how far a picture's gradient is from an update and what
else it asks of pictures (its objective), where it starts and which optimizer of a box
it takes. Here is the rest: all clients at once, each a problem of its own.
"""

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from tff_leak.attacks import box_adam, box_lbfgs
from tff_leak.errors import InputError
from tff_leak.models.network import Network, Tensors, Weights

OPTIMIZERS = ("adam", "lbfgs")

Objective = Callable[[Tensors, tf.Tensor, tf.Tensor], tf.Tensor]
"""From one client's update, images `[n, H, W, C]` and labels `[n]` to a scalar."""


def mean_gradient(
    network: Network, weights: Weights, images: tf.Tensor, labels: tf.Tensor
) -> Tensors:
    """Returns the gradient of the mean cross-entropy in the trainable weights.

    Args:
      network: a classifier; logits `[k]`.
      weights: where the gradient is taken.
      images: float32 `[n, *input_shape]`; the result is differentiable in them.
      labels: int32 `[n]`.
    """
    trainable = list(weights.trainable)
    with tf.GradientTape() as tape:
        tape.watch(trainable)
        logits, _ = network.apply(
            Weights(trainable, list(weights.statistics)), images, True
        )
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        loss = tf.reduce_mean(losses)
    return tape.gradient(
        loss, trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )


def mean_gradient_of_training(
    network: Network,
    weights: Weights,
    images: tf.Tensor,
    labels: tf.Tensor,
    *,
    length: float,
    steps: int,
    batches: int = 1,
) -> Tensors:
    """Returns the mean gradient along a client's training: old minus new over `length`.

    With one batch the training is gradient descent on all pictures at once, and with
    many steps gradient flow, which small steps on small batches follow, too, whatever
    their order.

    Args:
      network: see `mean_gradient`.
      weights: where the descent starts; its statistics stay as they are.
      images: see `mean_gradient`.
      labels: see `mean_gradient`.
      length: the sum of all steps' rates.
      steps: into how many equal ones it is divided; with 1 this is `mean_gradient`.
      batches: step i is on every `batches`-th picture from number i mod `batches` on:
        with labels in ascending order on pictures of all classes that have as many.

    Returns:
      float32, as the network's trainable weights; differentiable in the images.

    Raises:
      InputError: if a batch would be empty, or no step is left.
    """
    if steps < 1 or not 1 <= batches <= (images.shape[0] or batches):
        raise InputError(
            f"{steps} steps on {batches} batches of {images.shape[0]} pictures: "
            "expected a step or more, and a picture or more in a batch; correct them"
        )
    first = list(weights.trainable)
    trainable = first
    for step in range(steps):
        here = Weights(trainable, list(weights.statistics))
        some = slice(step % batches, None, batches)
        gradients = mean_gradient(network, here, images[some], labels[some])
        trainable = [
            weight - length / steps * gradient
            for weight, gradient in zip(trainable, gradients, strict=True)
        ]
    return [(old - new) / length for old, new in zip(first, trainable, strict=True)]


def match_updates(
    objective: Objective,
    updates: Sequence[tf.Tensor],
    labels: tf.Tensor,
    start: tf.Tensor,
    minimise: Callable[..., tuple[tf.Tensor, tf.Tensor]],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Minimises every client's objective within [-1, 1].

    Args:
      objective: of one client; it has to be differentiable in the images.
      updates: float32 `[clients, ...]` each.
      labels: int32 `[clients, n]`.
      start: float32 `[n, H, W, C]`, the same for all clients.
      minimise: from `optimizer`.

    Returns:
      Images float32 `[clients, n, H, W, C]` and the objectives there, `[clients]`.
      Those of a client do not depend on the others.
    """
    shape = start.shape
    clients = tf.shape(labels)[0]

    def one(update, point, classes):
        with tf.GradientTape() as tape:
            tape.watch(point)
            value = objective(update, tf.reshape(point, shape), classes)
        return value, tape.gradient(value, point)

    def value_and_gradient(points):
        return tf.map_fn(
            lambda client: one(*client),
            (list(updates), points, labels),
            fn_output_signature=(tf.float32, tf.float32),
            parallel_iterations=16,
        )

    points = tf.tile(tf.reshape(start, [1, -1]), [clients, 1])
    points, value = minimise(value_and_gradient, points)
    images = tf.reshape(points, tf.concat([[clients], shape], axis=0))
    return tf.ensure_shape(images, [labels.shape[0], *shape]), value


def optimizer(
    name: str, *, iterations: int, step: float, memory: int
) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """Returns `minimise` of `box_adam` or `box_lbfgs` with its settings.

    Args:
      name: one of `OPTIMIZERS`.
      iterations: at most.
      step: of Adam's first steps.
      memory: of L-BFGS.
    """
    if name == "adam":
        return functools.partial(box_adam.minimise, iterations=iterations, rate=step)
    return functools.partial(box_lbfgs.minimise, iterations=iterations, memory=memory)


def check_optimizer(name: str) -> None:
    """Raises InputError unless an optimizer has that name."""
    if name not in OPTIMIZERS:
        raise InputError(
            f"optimizer is {name!r}: expected one of {', '.join(OPTIMIZERS)}; lbfgs "
            "searches along lines, adam does not"
        )


def check_round(
    network: Network, updates: Sequence[tf.Tensor], labels: tf.Tensor
) -> None:
    """Raises InputError unless updates and labels are those of the network's clients.

    Args:
      network: a classifier of pictures `[H, W, C]`; logits `[k]`.
      updates: float32 `[clients, ...]` each, in the order of its trainable weights.
      labels: int32 `[clients, n]` in [0, k).
    """
    if len(network.input_shape) != 3 or len(network.output_shape) != 1:
        raise InputError(
            f"network {network.name} maps {network.input_shape} to "
            f"{network.output_shape}: expected a classifier of pictures [H, W, C] to "
            "logits [k]; give one"
        )
    shapes = tuple(tuple(update.shape[1:]) for update in updates)
    if shapes != tuple(network.trainable_shapes):
        raise InputError(
            f"a client's updates have the shapes {shapes}: expected those of the "
            f"weights of {network.name}, {network.trainable_shapes}; stack the "
            "clients' updates along a first axis"
        )
    if labels.shape.rank != 2 or not labels.shape[1]:
        raise InputError(
            f"labels have the shape {labels.shape}: expected [clients, n], n known and "
            "at least 1; infer_labels gives them"
        )
    known = tf.get_static_value(labels)
    (outputs,) = network.output_shape
    for label in () if known is None else known.flat:
        if not 0 <= label < outputs:
            raise InputError(
                f"label is {label}: expected one of the {outputs} outputs of "
                f"{network.name}, from 0; correct it"
            )
