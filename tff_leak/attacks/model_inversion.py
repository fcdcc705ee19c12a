"""Model inversion: a picture of a class from a finished model.

MI-Face of Fredrikson, Jha and Ristenpart (CCS 2015), algorithm 1, the baseline of
Hitaj et al. (CCS 2017, section 9.1), who take the model's exact gradients in the place
of approximations. From a blank picture, gradient descent on

    c(x) = 1 - softmax(f(x))[label] + AuxTerm(x)

    x_i = PROCESS(x_{i-1} - lambda * grad c(x_{i-1})),   i = 1 .. alpha

ends when c(x_i) >= max(c(x_{i-1}), ..., c(x_{i-beta})) or c(x_i) <= gamma, and returns
the picture of the lowest cost.

Not in the text:

- Pictures are in [-1, 1] here and in [0, 1] there. The paper's zero vector is a black
  picture, so the default start is -1; what is black there is what holds no ink in a
  digit. Mid-grey is `start=0`. Steps of lambda in [0, 1] are steps of 4 lambda in
  [-1, 1]: pixels are twice as far apart, and the gradient is half as large.
- The picture is projected onto [-1, 1] after each step (`project`).
- Before there are beta costs to compare with, the first rule does not end a descent.
- The first picture counts among those of which the best is returned.
- PROCESS is the identity by default. The paper's, for its autoencoder, is a denoiser
  (non-local means) and a sharpening filter; here they are a 3x3 median and an unsharp
  mask, each `process_every` steps.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tff_leak.errors import InputError
from tff_leak.models.loop_body import compiled_apart
from tff_leak.models.network import Network, Weights
from tff_leak.runtime.seeding import Role, derive

AuxiliaryTerm = Callable[[tf.Tensor], tf.Tensor]
"""From pictures `[n, H, W, C]` to costs `[n]`, differentiable."""


@dataclasses.dataclass(frozen=True)
class ModelInversion:
    """Settings; alpha, beta, gamma and lambda are the paper's names.

    The defaults are the values usually given for the paper's faces: alpha 5000, beta
    100, gamma 0.99, read as a confidence, and lambda 0.1, which is 0.4 in [-1, 1].

    Attributes:
      iterations: alpha, steps at most.
      patience: beta, costs that the newest one has to stay below the largest of.
      stop_cost: gamma in [0, 1): a cost that is low enough; 1 - confidence without an
        auxiliary term.
      step: lambda > 0, in the unit of pixels in [-1, 1].
      start: value in [-1, 1] of all pixels at the start; -1 is black, 0 mid-grey.
      start_noise: half the width of uniform noise on the start, 0 for none; then
        descents for one class differ.
      project: whether pixels are kept in [-1, 1].
      process_every: steps between two applications of PROCESS; None never applies it.
      sharpening: of the unsharp mask in PROCESS, 0 for none.
    """

    iterations: int = 5000
    patience: int = 100
    stop_cost: float = 0.01
    step: float = 0.4
    start: float = -1.0
    start_noise: float = 0.0
    project: bool = True
    process_every: int | None = None
    sharpening: float = 0.5

    def __post_init__(self):
        for name in ("iterations", "patience", "process_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(
                    f"{name} is {value}: expected at least 1; without it nothing ends "
                    "or happens"
                )
        if not (self.step > 0 and math.isfinite(self.step)):
            raise InputError(
                f"step is {self.step}: expected a finite lambda > 0; 0.4 is the paper's"
            )
        if not 0 <= self.stop_cost < 1:
            raise InputError(
                f"stop_cost is {self.stop_cost}: expected a cost in [0, 1); 0.01 is a "
                "confidence of 0.99"
            )
        if not -1 <= self.start <= 1:
            raise InputError(
                f"start is {self.start}: expected a pixel in [-1, 1]; -1 is black"
            )
        for name in ("start_noise", "sharpening"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise InputError(
                    f"{name} is {getattr(self, name)}: expected a finite number of at "
                    "least 0; 0 is none"
                )


class Inversion(NamedTuple):
    """What the descents found.

    Attributes:
      images: float32 `[n, H, W, C]`, the best picture of each descent.
      costs: float32 `[n]`, its cost.
      steps: int32 `[n]`, steps until the descent ended.
    """

    images: tf.Tensor
    costs: tf.Tensor
    steps: tf.Tensor


def invert(
    settings: ModelInversion,
    network: Network,
    weights: Weights,
    labels: tf.Tensor,
    seed: tf.Tensor,
    auxiliary: AuxiliaryTerm | None = None,
) -> Inversion:
    """Inverts the model for each label; a label may stand more than once.

    Pure and without variables. Call it within a `tf.function` or a TFF computation:
    eagerly it is slow.

    Args:
      settings: of the descent.
      network: a classifier of pictures `[H, W, C]`; logits `[k]`.
      weights: the finished model's.
      labels: int32 `[n]` in [0, k), a class for each descent.
      seed: int32 `[2]`, for `start_noise`.
      auxiliary: the paper's AuxTerm; None is 0, as there.

    Returns:
      The best picture of each descent, its cost and its steps.

    Raises:
      InputError: if the network does not classify pictures, or a label (where known
        when traced) is none of its outputs. While it traces, TensorFlow wraps it in an
        error of its own.
    """
    _check(network, labels)

    def cost_of(images):
        confidences = tf.nn.softmax(network.outputs(weights, images))
        costs = 1.0 - tf.gather(confidences, labels, batch_dims=1)
        return costs if auxiliary is None else costs + auxiliary(images)

    def more(index, state):
        del index
        return tf.reduce_any(state.active)

    @compiled_apart
    def step(index, state):
        moved = _descend(settings, cost_of, state.images, index)
        # A descent that has ended stays where it is.
        moved = _where(state.active, moved, state.images)
        return index + 1, _judge(settings, state, moved, cost_of(moved), index)

    images = initial_images(settings, network, tf.shape(labels)[0], seed)
    _, state = tf.while_loop(
        more,
        step,
        (tf.constant(0), _first_state(settings, images, cost_of(images))),
        maximum_iterations=settings.iterations,
    )
    return Inversion(state.best_images, state.best_costs, state.steps)


def initial_images(
    settings: ModelInversion, network: Network, count: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Returns where descents start: float32 `[count, H, W, C]`."""
    shape = tf.concat([[count], network.input_shape], axis=0)
    noise = tf.random.stateless_uniform(shape, derive(seed, Role.INVERSION), -1.0, 1.0)
    images = settings.start + settings.start_noise * noise
    if settings.project:
        images = tf.clip_by_value(images, -1.0, 1.0)
    return tf.ensure_shape(images, [None, *network.input_shape])


def denoise_and_sharpen(images: tf.Tensor, sharpening: float) -> tf.Tensor:
    """PROCESS: a 3x3 median, then an unsharp mask; see the module's docstring.

    Args:
      images: float32 `[n, H, W, C]`.
      sharpening: how much of the difference to the 3x3 mean is added.

    Returns:
      float32 `[n, H, W, C]`; borders are mirrored.
    """
    denoised = tf.sort(_neighbourhoods(images), axis=-1)[..., 4]
    blurred = tf.reduce_mean(_neighbourhoods(denoised), axis=-1)
    return denoised + sharpening * (denoised - blurred)


class _State(NamedTuple):
    """Descents under way; `recent` has the costs of the last beta pictures."""

    images: tf.Tensor  # float32 [n, H, W, C]
    recent: tf.Tensor  # float32 [n, beta], in any order
    active: tf.Tensor  # bool [n]
    steps: tf.Tensor  # int32 [n]
    best_images: tf.Tensor  # float32 [n, H, W, C]
    best_costs: tf.Tensor  # float32 [n]


def _first_state(
    settings: ModelInversion, images: tf.Tensor, costs: tf.Tensor
) -> _State:
    count = tf.shape(costs)[0]
    # Infinite: a descent cannot fail to improve on costs that it does not have.
    recent = tf.fill([count, settings.patience - 1], math.inf)
    return _State(
        images=images,
        recent=tf.concat([recent, costs[:, tf.newaxis]], axis=1),
        active=costs > settings.stop_cost,
        steps=tf.zeros([count], tf.int32),
        best_images=images,
        best_costs=costs,
    )


def _descend(
    settings: ModelInversion,
    cost_of: Callable[[tf.Tensor], tf.Tensor],
    images: tf.Tensor,
    index: tf.Tensor,
) -> tf.Tensor:
    """One step of each descent; `index` counts from 0."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        # Costs depend on their own picture only, so the sum's gradient is each one's.
        total = tf.reduce_sum(cost_of(images))
    gradient = tape.gradient(
        total, images, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    images -= settings.step * gradient
    if settings.process_every is not None:
        images = tf.cond(
            tf.equal((index + 1) % settings.process_every, 0),
            lambda: denoise_and_sharpen(images, settings.sharpening),
            lambda: images,
        )
    return tf.clip_by_value(images, -1.0, 1.0) if settings.project else images


def _judge(
    settings: ModelInversion,
    state: _State,
    images: tf.Tensor,
    costs: tf.Tensor,
    index: tf.Tensor,
) -> _State:
    """Keeps the best pictures and ends the descents that the rules end."""
    better = state.active & (costs < state.best_costs)
    stuck = costs >= tf.reduce_max(state.recent, axis=1)
    oldest = tf.one_hot(index % settings.patience, settings.patience) > 0
    return _State(
        images=images,
        recent=tf.where(oldest[tf.newaxis], costs[:, tf.newaxis], state.recent),
        active=state.active & ~stuck & (costs > settings.stop_cost),
        steps=state.steps + tf.cast(state.active, tf.int32),
        best_images=_where(better, images, state.best_images),
        best_costs=tf.where(better, costs, state.best_costs),
    )


def _where(mask: tf.Tensor, images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Pictures of one batch where the mask `[n]` is true, else of the other."""
    return tf.where(mask[:, tf.newaxis, tf.newaxis, tf.newaxis], images, others)


def _neighbourhoods(images: tf.Tensor) -> tf.Tensor:
    """Each pixel's 3x3 neighbourhood: `[n, H, W, C]` to `[n, H, W, C, 9]`."""
    height, width = images.shape[1], images.shape[2]
    padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="SYMMETRIC")
    shifted = [
        padded[:, row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
    ]
    return tf.stack(shifted, axis=-1)


def _check(network: Network, labels: tf.Tensor) -> None:
    if len(network.input_shape) != 3 or len(network.output_shape) != 1:
        raise InputError(
            f"network {network.name} maps {network.input_shape} to "
            f"{network.output_shape}: expected a classifier of pictures [H, W, C] to "
            "logits [k]; give one"
        )
    known = tf.get_static_value(labels)
    (outputs,) = network.output_shape
    for label in () if known is None else known:
        if not 0 <= label < outputs:
            raise InputError(
                f"label is {label}: expected one of the {outputs} outputs of "
                f"{network.name}, from 0; correct it"
            )
