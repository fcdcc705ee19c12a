"""What fills the slot of representatives in the server's attack (section V-E).

A plain matcher: labels are the classes whose output bias rises most in the update,
pictures are found by Adam under tanh on the squared distance of gradients, relative to
the update, plus total variation.
"""

import dataclasses
import math

import tensorflow as tf

from computations.malicious_server import FindRepresentatives
from tff_leak.errors import InputError
from tff_leak.models.network import Network, Weights
from tff_leak.models.training import cross_entropy


@dataclasses.dataclass(frozen=True)
class Matching:
    """Settings of the matcher.

    Attributes:
      classes: how many classes a client is taken to hold.
      per_class: pictures of each.
      iterations: of Adam, whose rate falls as a cosine to 0.
      rate: its first rate, in tanh's argument.
      scale: gamma of Eq. 6: what one gradient of the pictures is multiplied by to be an
        update.
      variation: weight of the total variation, a picture (Eq. 7 with beta 1.25).
    """

    classes: int = 3
    per_class: int = 3
    iterations: int = 100
    rate: float = 0.1
    scale: float = 0.05
    variation: float = 4e-4

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise InputError(
                    f"{field.name} is {getattr(self, field.name)}: expected more than "
                    "0; correct --matching"
                )


def build_find_representatives(
    network: Network, settings: Matching
) -> FindRepresentatives:
    """Builds the slot: `classes * per_class` pictures of each client."""
    count = settings.classes * settings.per_class

    def of_client(weights: Weights, update, labels, seed):
        wanted = [u / settings.scale for u in update]
        size = tf.add_n([tf.reduce_sum(u * u) for u in wanted]) + 1e-12
        start = tf.random.stateless_uniform(
            [count, *network.input_shape], seed, -0.9, 0.9
        )

        def step(index, points, first, second):
            with tf.GradientTape() as tape:
                tape.watch(points)
                images = tf.tanh(points)
                gap = _gap(network, weights, wanted, images, labels) / size
                objective = gap + settings.variation * _variation(images) / count
            gradient = tape.gradient(objective, points)
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            points -= _adam_move(settings, index, first, second)
            return index + 1, points, first, second

        zeros = tf.zeros_like(start)
        _, points, _, _ = tf.while_loop(
            lambda index, *_: index < settings.iterations,
            step,
            (tf.constant(0), tf.atanh(start), zeros, zeros),
        )
        return tf.tanh(points)

    def find(weights, updates, seed):
        # Old minus new: the bias of what a client holds falls here.
        held = tf.math.top_k(-updates[-1], settings.classes).indices
        labels = tf.repeat(tf.sort(held, axis=1), settings.per_class, axis=1)
        images = tf.map_fn(
            lambda one: of_client(weights, one[0], one[1], seed),
            (list(updates), labels),
            fn_output_signature=tf.TensorSpec([count, *network.input_shape]),
            parallel_iterations=1,
        )
        return images, tf.ensure_shape(labels, [None, count])

    return find


def _adam_move(settings: Matching, index, first, second) -> tf.Tensor:
    """Adam's step from its two moments, at a rate that falls as a cosine."""
    done = tf.cast(index, tf.float32)
    rate = 0.5 * settings.rate * (1.0 + tf.cos(math.pi * done / settings.iterations))
    move = first / (1.0 - 0.9 ** (done + 1.0))
    return rate * move / (tf.sqrt(second / (1.0 - 0.999 ** (done + 1.0))) + 1e-10)


def _gap(network, weights, wanted, images, labels) -> tf.Tensor:
    """Squared distance of the pictures' gradient to what is wanted."""
    trainable = list(weights.trainable)
    with tf.GradientTape() as tape:
        tape.watch(trainable)
        logits = network.outputs(Weights(trainable, weights.statistics), images)
        loss = cross_entropy(logits, labels)
    gradients = tape.gradient(loss, trainable)
    return tf.add_n(
        [tf.reduce_sum((g - w) ** 2) for g, w in zip(gradients, wanted, strict=True)]
    )


def _variation(images: tf.Tensor) -> tf.Tensor:
    across = images[:, :-1, 1:] - images[:, :-1, :-1]
    down = images[:, 1:, :-1] - images[:, :-1, :-1]
    return tf.reduce_sum((across**2 + down**2 + 1e-8) ** 1.25)
