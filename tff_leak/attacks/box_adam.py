"""Adam within a box: the first-order way to many minima at once.

Kingma and Ba, "Adam" (ICLR 2015), algorithm 1, with a rate that falls from its first
value to 0 as a cosine does, and a projection onto [-1, 1] after each step. A step
costs one evaluation and needs no line search, so that problems never wait for one
another. Gradients that jump (those of networks with ReLUs do) do not end it, as they
end a line search.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from tff_leak.models.loop_body import compiled_apart

# Both moments forget faster than Adam's defaults (.9, .999): there are tens of steps.
_FIRST_DECAY = 0.7
_SECOND_DECAY = 0.8
_EPSILON = 1e-8


def minimise(
    value_and_gradient: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    start: tf.Tensor,
    *,
    iterations: int,
    rate: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Minimises problems that do not depend on one another.

    Pure and without variables.

    Args:
      value_and_gradient: from points float32 `[m, d]` to values `[m]` and gradients
        `[m, d]`.
      start: float32 `[m, d]` in [-1, 1].
      iterations: steps; there is one evaluation more.
      rate: of the first step, about as far as a coordinate moves in it.

    Returns:
      The point of the lowest value that each problem met, `[m, d]` in [-1, 1], and
      that value `[m]`. A problem without a finite value keeps its start and infinity.
    """

    def step(index, point, moments, best):
        value, gradient = value_and_gradient(point)
        best = _better(best, point, value)
        point, moments = _move(index, iterations, rate, point, gradient, moments)
        return index + 1, point, moments, best

    value_and_gradient = compiled_apart(value_and_gradient)
    zeros = tf.zeros_like(start)
    best = (start, tf.fill(tf.shape(start)[:1], math.inf))
    _, point, _, best = tf.while_loop(
        lambda *_: True,
        step,
        (tf.constant(0), start, (zeros, zeros), best),
        maximum_iterations=iterations,
    )
    value, _ = value_and_gradient(point)
    return _better(best, point, value)


def _move(index, iterations, rate, point, gradient, moments):
    """One step; `index` counts from 0."""
    first, second = moments
    first = _FIRST_DECAY * first + (1.0 - _FIRST_DECAY) * gradient
    second = _SECOND_DECAY * second + (1.0 - _SECOND_DECAY) * gradient**2
    done = tf.cast(index, tf.float32)
    mean = first / (1.0 - _FIRST_DECAY ** (done + 1.0))
    deviation = tf.sqrt(second / (1.0 - _SECOND_DECAY ** (done + 1.0)))
    now = rate * tf.cos(0.5 * math.pi * done / iterations)
    point = tf.clip_by_value(point - now * mean / (deviation + _EPSILON), -1.0, 1.0)
    return point, (first, second)


def _better(best, point, value):
    """The better one of what is best so far and a new point, for each problem."""
    # Not a number is never better.
    lower = value < best[1]
    return (
        tf.where(lower[:, tf.newaxis], point, best[0]),
        tf.where(lower, value, best[1]),
    )
