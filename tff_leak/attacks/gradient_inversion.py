"""Gradient inversion: a client's own pictures from the gradient that it sends.

Pictures X with labels y are sought whose gradient on the shared model is the one sent:

- SQUARED, Zhu, Liu and Han, "Deep Leakage from Gradients" (NeurIPS 2019), eq. 4:

      |dL(X; theta) / dtheta - g|^2

- COSINE, Geiping, Bauermeister, Droege and Moeller, "Inverting Gradients - How easy is
  it to break privacy in federated learning?" (NeurIPS 2020), eq. 4:

      1 - <dL(X; theta) / dtheta, g> / (|dL(X; theta) / dtheta| |g|) + alpha TV(X)

  with X in its box. It does not need to know the length of g, and so no rate.

Labels are read from the output layer beforehand (`label_inference`), as Zhao, Mopuri
and Bilen, "iDLG" (2020), do for one example; in the first paper they are sought, too.
With them the pictures' order is fixed, but for pictures of one class.

`representatives` seeks *few* pictures that stand for all that a client trained on in
several steps. Here there are as many as the client has, one step is assumed, and what
comes out is meant to be those very pictures. The first paper's needs a model with
second derivatives (no ReLU) and few pictures.

Against noise that clients add neither paper tries anything. A large alpha takes it
away, and with it contrast, which `background` gives back.

Not in the texts: SQUARED keeps pictures in their box, too. COSINE takes Adam's own
steps, not their signs, and a rate that falls as `box_adam` has it. TV is the mean
absolute difference of neighbours, down and across. Restarts keep what fits best.
"""

import dataclasses
import enum
import math
from collections.abc import Sequence

import tensorflow as tf

from tff_leak.attacks.representatives import Reconstruction
from tff_leak.attacks.update_matching import (
    check_optimizer,
    check_round,
    match_updates,
    mean_gradient,
    optimizer,
)
from tff_leak.errors import InputError
from tff_leak.models.network import Network, Tensors, Weights
from tff_leak.runtime.seeding import Role, derive

BRIGHT = 0.02
"""Share of pixels that are white in a picture that is stretched."""


class Distance(enum.Enum):
    """Between two gradients; see the module's docstring."""

    SQUARED = "squared"
    COSINE = "cosine"


@dataclasses.dataclass(frozen=True)
class GradientInversion:
    """Settings; `DEEP_LEAKAGE` and `INVERTING_GRADIENTS` are the papers'.

    Attributes:
      distance: between gradients.
      optimizer: "lbfgs" (`box_lbfgs`) or "adam" (`box_adam`).
      iterations: of the optimizer, at most.
      step: of Adam's first steps, in the unit of pixels in [-1, 1].
      memory: of L-BFGS.
      tv_weight: alpha, 0 or more.
      scale: what an update is divided by to be a gradient: rate * steps for federated
        averaging, 1 for federated SGD. For SQUARED only.
      start_noise: half the width of the uniform noise around mid-grey (0) that
        pictures start from, in (0, 1].
      restarts: starts, each with noise of its own.
      background: share of a picture's pixels that are black (-1), in [0, 1), as public
        pictures of the kind show it: what is found is stretched until that share is
        black, and the brightest `BRIGHT` white (1). The cosine says nothing about
        contrast, and a large `tv_weight`, which clients' noise asks for, leaves little
        of it. 0: pictures are as they are found.
    """

    distance: Distance = Distance.SQUARED
    optimizer: str = "lbfgs"
    iterations: int = 300
    step: float = 0.1
    memory: int = 20
    tv_weight: float = 0.0
    scale: float = 1.0
    start_noise: float = 1.0
    restarts: int = 1
    background: float = 0.0

    def __post_init__(self):
        check_optimizer(self.optimizer)
        for name in ("iterations", "memory", "restarts"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}: expected at least 1; the "
                    f"default is {getattr(type(self), name)}"
                )
        for name in ("step", "scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(
                    f"{name} is {getattr(self, name)}: expected a finite number > 0; "
                    f"the default is {getattr(type(self), name)}"
                )
        if not 0 <= self.tv_weight < math.inf:
            raise InputError(
                f"tv_weight is {self.tv_weight}: expected a finite alpha >= 0; 0 asks "
                "nothing of pictures"
            )
        if not 0 < self.start_noise <= 1:
            raise InputError(
                f"start_noise is {self.start_noise}: expected it in (0, 1], as pixels "
                "are in [-1, 1]; from 0 all pictures would be equal"
            )
        if not 0 <= self.background < 1.0 - BRIGHT:
            raise InputError(
                f"background is {self.background}: expected a share of pixels in [0, "
                f"{1.0 - BRIGHT:g}); 0 leaves pictures as they are found"
            )


DEEP_LEAKAGE = GradientInversion()
"""Zhu et al., with the labels known."""

INVERTING_GRADIENTS = GradientInversion(
    distance=Distance.COSINE, optimizer="adam", iterations=1000, tv_weight=0.01
)
"""Geiping et al.; theirs are 4,800 to 24,000 steps, and alpha from 1e-6 to 1e-1."""


def invert_gradients(
    settings: GradientInversion,
    network: Network,
    weights: Weights,
    updates: Sequence[tf.Tensor],
    labels: tf.Tensor,
    seed: tf.Tensor,
) -> Reconstruction:
    """Seeks the pictures of many clients, each from its own update.

    Pure and without variables; to be called within a `tf.function` or a TFF
    computation.

    Args:
      settings: of the attack.
      network: a classifier of pictures `[H, W, C]`; logits `[k]`.
      weights: of the shared model that the round began with.
      updates: gradients, or old minus new weights, float32 `[clients, ...]` each, in
        the order of the network's trainable weights.
      labels: int32 `[clients, n]` in [0, k), from `label_inference.infer_labels`.
      seed: int32 `[2]`, of the starts, which are the same for all clients.

    Returns:
      The pictures, in the order of the labels, and the objective (before contrast is
      given back); that of a client whose update is not finite is not finite.

    Raises:
      InputError: as `representatives.reconstruct`.
    """
    updates = [tf.convert_to_tensor(update) for update in updates]
    labels = tf.convert_to_tensor(labels)
    check_round(network, updates, labels)

    def of_client(update, images, classes):
        return objective(settings, network, weights, update, images, classes)

    minimise = optimizer(
        settings.optimizer,
        iterations=settings.iterations,
        step=settings.step,
        memory=settings.memory,
    )
    images, value = None, None
    for restart in range(settings.restarts):
        start = tf.random.stateless_uniform(
            [labels.shape[1], *network.input_shape],
            derive(seed, Role.INVERSION, restart),
            -settings.start_noise,
            settings.start_noise,
        )
        found = match_updates(of_client, updates, labels, start, minimise)
        if images is None:
            images, value = found
        else:
            # A first start that diverged is no bar for the others.
            better = (found[1] < value) | ~tf.math.is_finite(value)
            column = tf.reshape(better, [-1, 1, 1, 1, 1])
            images = tf.where(column, found[0], images)
            value = tf.where(better, found[1], value)
    if settings.background:
        images = stretched(images, settings.background)
    return Reconstruction(images, labels, value)


def stretched(images: tf.Tensor, background: float) -> tf.Tensor:
    """Gives pictures the contrast of their kind.

    Args:
      images: float32 `[..., H, W, C]`, any range.
      background: see `GradientInversion`.

    Returns:
      Pictures in [-1, 1]; one whose two levels are equal is not stretched.
    """
    pixels = math.prod(images.shape[-3:])
    rows = tf.sort(tf.reshape(images, [-1, pixels]), axis=1)
    dark, bright = (
        tf.reshape(rows[:, int(share * (pixels - 1))], [*images.shape[:-3], 1, 1, 1])
        for share in (background, 1.0 - BRIGHT)
    )
    range_ = bright - dark
    scaled = 2.0 * (images - dark) / tf.where(range_ > 0, range_, 1.0) - 1.0
    return tf.clip_by_value(tf.where(range_ > 0, scaled, images), -1.0, 1.0)


def objective(
    settings: GradientInversion,
    network: Network,
    weights: Weights,
    update: Sequence[tf.Tensor],
    images: tf.Tensor,
    labels: tf.Tensor,
) -> tf.Tensor:
    """How little the pictures explain one client's update.

    Args:
      settings: of the attack.
      network: see `invert_gradients`.
      weights: see `invert_gradients`.
      update: the client's, float32, as the network's trainable weights.
      images: float32 `[n, H, W, C]`.
      labels: int32 `[n]`.

    Returns:
      A float32 scalar, differentiable in `images`.
    """
    gradients = mean_gradient(network, weights, images, labels)
    if settings.distance is Distance.SQUARED:
        sent = [part / settings.scale for part in update]
        gap = tf.add_n(
            [
                tf.reduce_sum((one - other) ** 2)
                for one, other in zip(sent, gradients, strict=True)
            ]
        )
    else:
        lengths = _product(update, update) * _product(gradients, gradients)
        # A gradient of 0 has no direction, and the root no derivative there.
        cosine = _product(update, gradients) / tf.sqrt(tf.maximum(lengths, 1e-30))
        gap = 1.0 - cosine
    pixels = math.prod(network.input_shape)
    variation = tf.reduce_mean(tf.image.total_variation(images)) / pixels
    return gap + settings.tv_weight * variation


def _product(one: Tensors, other: Tensors) -> tf.Tensor:
    pairs = zip(one, other, strict=True)
    return tf.add_n([tf.reduce_sum(a * b) for a, b in pairs])
