"""Representatives of a client's data, from its update alone.

Wang, Song, Zhang, Song, Wang and Qi, "Beyond Inferring Class Representatives"
(INFOCOM 2019), section V-E. Pictures X whose gradient on the shared model is the
client's update u, smoothed by their total variation:

    u_X = -gamma dL(X; theta) / dtheta                                         (6)
    TV(X) = sum_x sum_ij ((x_i,j+1 - x_ij)^2 + (x_i+1,j - x_ij)^2)^beta        (7)
    min_X |u - u_X|_2 + lambda TV(X),   X in [-1, 1]                           (8)

Here all of (8) is divided by gamma: the objective is

    |update / gamma - dL(X; theta) / dtheta|_2 + (lambda / gamma) TV(X)

with updates as old minus new weights, which is the sign of `computations.fed_avg`, and
L the mean cross-entropy. The minimum is the same; its scale no longer depends on the
clients' learning rate.

A client's several local steps are a sum of gradients, each at other weights. (6) takes
them for *one* gradient at the weights that the round began with, times gamma: a few
pictures stand for all that the client trained on, and no step is unrolled. Ours, and
not the paper's, are `unrolled_steps`: u_X is then what training on X for as long as the
client did changes, with its steps gathered in a few. That is expensive, and tells far
more: a client of three classes has learnt most of what (6) is about after a tenth of
its steps.

Not in the text:

- gamma. By the sum above it would be rate * steps, which gives faint, grey pictures:
  the mean of a class has a smaller gradient than its pictures. A quarter of that gives
  contrast and is the default; 1 gives blanks. FedSGD sends the gradient itself: there
  rate * steps is 1.
- Labels. `label_inference.infer_labels` reads them from the output layer.
- The border in (7): a missing neighbour counts as equal.
- The noise that pictures start from is the same for all clients of a round, so that
  representatives of two clients differ by what the clients sent.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tff_leak.attacks.update_matching import (
    check_optimizer,
    check_round,
    match_updates,
    mean_gradient,
    mean_gradient_of_training,
    optimizer,
)
from tff_leak.errors import InputError
from tff_leak.models.network import Network, Weights
from tff_leak.runtime.seeding import Role, derive


@dataclasses.dataclass(frozen=True)
class Representatives:
    """Settings.

    The paper's values: box-constrained L-BFGS, lambda 0.00015, beta 1.25, clients'
    rate 0.002. With 30 local steps `tv_weight` is then lambda / gamma = 0.01.

    Attributes:
      optimizer: "adam" (`box_adam`) or "lbfgs" (`box_lbfgs`), the paper's.
      iterations: of the optimizer, at most.
      step: of Adam's first steps, in the unit of pixels in [-1, 1].
      memory: of L-BFGS.
      images: pictures for each client that labels are inferred for.
      local_rate: the clients' learning rate.
      local_steps: how many steps a client makes in a round.
      gamma: of (6); None is local_rate * local_steps / 4. Not with `unrolled_steps`,
        where it is local_rate * local_steps.
      unrolled_steps: of gradient descent that stand for the client's `local_steps`;
        None is (6). Too few for a long training diverge: a start that is not finite
        stays what it is.
      unrolled_batches: into which the pictures are divided for them, a step on each in
        turn; at most `images`.
      background: weight of the mean squared distance of pixels from -1, for pictures
        on black ground; 0 in the paper.
      tv_weight: lambda / gamma.
      tv_power: beta, at least 1.
      start_noise: half the width of the uniform noise around mid-grey (0) that
        pictures start from, in (0, 1].
    """

    optimizer: str = "adam"
    iterations: int = 32
    step: float = 0.1
    memory: int = 10
    images: int = 3
    local_rate: float = 0.002
    local_steps: int = 30
    gamma: float | None = None
    unrolled_steps: int | None = None
    unrolled_batches: int = 1
    background: float = 0.0
    tv_weight: float = 0.01
    tv_power: float = 1.25
    start_noise: float = 0.1

    def __post_init__(self):
        check_optimizer(self.optimizer)
        for name in ("iterations", "memory", "images", "local_steps"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}: expected at least 1; the "
                    f"default is {getattr(type(self), name)}"
                )
        for name, least in (
            ("step", None),
            ("local_rate", None),
            ("gamma", None),
            ("start_noise", None),
            ("tv_weight", 0.0),
            ("background", 0.0),
            ("tv_power", 1.0),
        ):
            _check_number(name, getattr(self, name), least)
        self._check_unrolled()
        if self.start_noise > 1.0:
            raise InputError(
                f"start_noise is {self.start_noise}: expected it in (0, 1], as pixels "
                "are in [-1, 1]; the default is 0.1"
            )

    def _check_unrolled(self) -> None:
        if not 1 <= self.unrolled_batches <= self.images:
            raise InputError(
                f"unrolled_batches is {self.unrolled_batches}: expected 1 to the "
                f"number of images, {self.images}; correct it"
            )
        if self.unrolled_steps is None:
            if self.unrolled_batches > 1:
                raise InputError(
                    f"unrolled_batches is {self.unrolled_batches} without "
                    "unrolled_steps: expected steps to take on them; give both"
                )
            return
        if self.unrolled_steps < 1 or self.unrolled_steps % self.unrolled_batches:
            raise InputError(
                f"unrolled_steps is {self.unrolled_steps}: expected a multiple of "
                f"unrolled_batches, {self.unrolled_batches}, or none for the paper's "
                "single gradient"
            )
        if self.gamma is not None:
            raise InputError(
                f"gamma is {self.gamma} with unrolled_steps: expected it with the "
                "paper's single gradient only; leave one out"
            )

    @property
    def scale(self) -> float:
        """The gamma of (6) that is used; if unrolled, the length of the training."""
        if self.gamma is not None:
            return self.gamma
        length = self.local_rate * self.local_steps
        return length / 4.0 if self.unrolled_steps is None else length


class Reconstruction(NamedTuple):
    """What the clients' updates gave away.

    Attributes:
      images: float32 `[clients, n, H, W, C]` in [-1, 1].
      labels: int32 `[clients, n]`, as given.
      objective: float32 `[clients]`, (8) / gamma at the images; infinite or not a
        number for a client whose update is not finite.
    """

    images: tf.Tensor
    labels: tf.Tensor
    objective: tf.Tensor


def reconstruct(
    settings: Representatives,
    network: Network,
    weights: Weights,
    updates: Sequence[tf.Tensor],
    labels: tf.Tensor,
    seed: tf.Tensor,
) -> Reconstruction:
    """Computes the representatives of many clients, each from its own update.

    Pure and without variables. Call it within a `tf.function` or a TFF computation:
    eagerly it is slow.

    Args:
      settings: of the objective and its optimizer.
      network: a classifier of pictures `[H, W, C]`; logits `[k]`.
      weights: of the shared model that the round began with.
      updates: old minus new weights, float32 `[clients, ...]` each, in the order of
        the network's trainable weights; clients may be of unknown number.
      labels: int32 `[clients, n]` in [0, k), of the pictures that are looked for.
      seed: int32 `[2]`, for the noise at the start.

    Returns:
      The representatives. Those of a client do not depend on the others.

    Raises:
      InputError: if the network does not classify pictures, updates have not the
        shapes of its weights, or a label (where known when traced) is none of its
        outputs. While it traces, TensorFlow wraps it in an error of its own.
    """
    updates = [tf.convert_to_tensor(update) for update in updates]
    labels = tf.convert_to_tensor(labels)
    check_round(network, updates, labels)

    def of_client(update, images, classes):
        return objective(settings, network, weights, update, images, classes)

    images, value = match_updates(
        of_client,
        updates,
        labels,
        initial_images(settings, network, labels.shape[1], seed),
        optimizer(
            settings.optimizer,
            iterations=settings.iterations,
            step=settings.step,
            memory=settings.memory,
        ),
    )
    return Reconstruction(images, labels, value)


def initial_images(
    settings: Representatives, network: Network, images: int, seed: tf.Tensor
) -> tf.Tensor:
    """Returns what every client's pictures start from: float32 `[images, H, W, C]`."""
    noise = settings.start_noise
    stream = derive(seed, Role.REPRESENTATIVES)
    shape = [images, *network.input_shape]
    return tf.random.stateless_uniform(shape, stream, -noise, noise)


def objective(
    settings: Representatives,
    network: Network,
    weights: Weights,
    update: Sequence[tf.Tensor],
    images: tf.Tensor,
    labels: tf.Tensor,
) -> tf.Tensor:
    """Eq. 8 divided by gamma, for one client, with the background's term.

    Args:
      settings: of the objective.
      network: see `reconstruct`.
      weights: see `reconstruct`.
      update: the client's, float32, as the network's trainable weights.
      images: float32 `[n, H, W, C]`.
      labels: int32 `[n]`.

    Returns:
      A float32 scalar, differentiable in `images`.
    """
    gap = _gap(settings, network, weights, update, images, labels)
    smoothness = settings.tv_weight * total_variation(images, settings.tv_power)
    darkness = settings.background * tf.reduce_mean((images + 1.0) ** 2)
    return gap + smoothness + darkness


def unexplained(
    settings: Representatives,
    network: Network,
    weights: Weights,
    update: Sequence[tf.Tensor],
    images: tf.Tensor,
    labels: tf.Tensor,
) -> tf.Tensor:
    """What pictures leave of a client's update unexplained: |u - u_X| / |u|.

    Args are those of `objective`; its terms of pictures alone do not count.

    Returns:
      A float32 scalar >= 0, differentiable in `images`: 1 for pictures that teach
      nothing, more for what is worse than nothing, and 0 for an update of 0.
    """
    length = tf.linalg.global_norm(list(update)) / settings.scale
    gap = _gap(settings, network, weights, update, images, labels)
    return tf.math.divide_no_nan(gap, length)


def total_variation(images: tf.Tensor, power: float) -> tf.Tensor:
    """Eq. 7: float32 `[n, H, W, C]` to a scalar, summed over pictures and channels."""
    across = images[:, :, 1:] - images[:, :, :-1]
    down = images[:, 1:] - images[:, :-1]
    squares = tf.pad(across**2, [[0, 0], [0, 0], [0, 1], [0, 0]])
    squares += tf.pad(down**2, [[0, 0], [0, 1], [0, 0], [0, 0]])
    return tf.reduce_sum(squares**power)


def _gap(
    settings: Representatives,
    network: Network,
    weights: Weights,
    update: Sequence[tf.Tensor],
    images: tf.Tensor,
    labels: tf.Tensor,
) -> tf.Tensor:
    """The first term of Eq. 8, divided by gamma."""
    if settings.unrolled_steps is None:
        gradients = mean_gradient(network, weights, images, labels)
    else:
        gradients = mean_gradient_of_training(
            network,
            weights,
            images,
            labels,
            length=settings.scale,
            steps=settings.unrolled_steps,
            batches=settings.unrolled_batches,
        )
    gaps = [
        tf.reduce_sum((sent / settings.scale - gradient) ** 2)
        for sent, gradient in zip(update, gradients, strict=True)
    ]
    # At a gap of exactly 0 the norm has no gradient.
    return tf.sqrt(tf.maximum(tf.add_n(gaps), 1e-24))


def _check_number(name: str, value: float | None, least: float | None) -> None:
    """Refuses what is not finite, below `least`, or, without one, not positive."""
    if value is None:
        return
    enough = value > 0.0 if least is None else value >= least
    if not (enough and math.isfinite(value)):
        expected = "a finite number > 0" if least is None else f"at least {least:g}"
        raise InputError(
            f"{name} is {value}: expected {expected}; the default is "
            f"{getattr(Representatives, name)}"
        )
