"""L-BFGS within a box, many problems at once.

The limited-memory BFGS direction (Nocedal and Wright, "Numerical Optimization", 2nd
edition, algorithm 7.4) in the coordinates that are free, and a line search along the
projected path (Bertsekas, "Projected Newton methods for optimization problems with
simple constraints", SIAM J. Control Optim. 1982): coordinates that lie on the border
and that the gradient pushes outwards stay out of the direction, and

    x(t) = clip(x + t d, -1, 1),   f(x(t)) <= f(x) + c g . (x(t) - x)

decides about t. SciPy's L-BFGS-B (Byrd, Lu, Nocedal and Zhu 1995) finds its free
coordinates by the Cauchy point instead and searches for the strong Wolfe conditions;
here a pair (s, y) without positive curvature is left out. Where minima are isolated
both come to the same ones.

All problems are evaluated together, also those that have ended or whose line search
is over, so that the time is that of the slowest.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tff_leak.models.loop_body import compiled_apart

ValueAndGradient = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

_SUFFICIENT = 1e-4  # c above
_TRIALS = 12  # of a line search
_CURVATURE = 1e-8  # of s . y, relative to y . y
_TINY = 1e-19  # keeps a norm of 0 from dividing
# Relative decrease under which a problem has ended: some units of float32.
_TOLERANCE = 1e-6


def minimise(
    value_and_gradient: ValueAndGradient,
    start: tf.Tensor,
    *,
    iterations: int,
    memory: int = 10,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Minimises problems that do not depend on one another.

    Pure and without variables.

    Args:
      value_and_gradient: from points float32 `[m, d]` to values `[m]` and gradients
        `[m, d]`.
      start: float32 `[m, d]` in [-1, 1].
      iterations: at most; a problem ends earlier when a step lowers its value by less
        than a millionth or its line search finds nothing lower.
      memory: how many pairs (s, y) the direction is made of.

    Returns:
      Points `[m, d]` in [-1, 1], and their values `[m]`, never above the start's.
    """

    def step(state):
        direction = _direction(state)
        found = _search(value_and_gradient, state, direction)
        return (_next_state(state, *found),)

    value_and_gradient = compiled_apart(value_and_gradient)
    value, gradient = value_and_gradient(start)
    pairs = tf.stack([tf.zeros_like(start)] * memory)
    first = _State(start, value, gradient, pairs, pairs, tf.math.is_finite(value))
    (state,) = tf.while_loop(
        lambda state: tf.reduce_any(state.active),
        step,
        (first,),
        maximum_iterations=iterations,
    )
    return state.point, state.value


class _State(NamedTuple):
    """Problems under way; pairs are the newest last, 0 where there is none yet."""

    point: tf.Tensor  # float32 [m, d]
    value: tf.Tensor  # float32 [m]
    gradient: tf.Tensor  # float32 [m, d]
    moves: tf.Tensor  # s, float32 [memory, m, d]
    changes: tf.Tensor  # y, float32 [memory, m, d]
    active: tf.Tensor  # bool [m]


def _direction(state: _State) -> tf.Tensor:
    """Where to go: `[m, d]`, 0 in coordinates that are not free."""
    outwards = ((state.point <= -1.0) & (state.gradient > 0.0)) | (
        (state.point >= 1.0) & (state.gradient < 0.0)
    )
    free = tf.cast(~outwards, tf.float32)
    steepest = -state.gradient * free
    direction = _two_loops(steepest, state.moves * free, state.changes * free)
    # Rounding may turn it; the steepest descent always goes down.
    down = _dot(direction, state.gradient) < 0.0
    return tf.where(down, direction, steepest / (_norm(steepest) + _TINY))


def _two_loops(steepest, moves, changes) -> tf.Tensor:
    """The product of the approximate inverse Hessian and `steepest`."""
    pairs = list(zip(tf.unstack(moves), tf.unstack(changes), strict=True))
    # The first step has length 1, as SciPy's.
    scale = 1.0 / (_norm(steepest) + _TINY)
    weights = []
    for move, change in pairs:
        curvature = _dot(move, change)
        usable = curvature > _CURVATURE * _dot(change, change)
        weights.append(tf.where(usable, tf.math.divide_no_nan(1.0, curvature), 0.0))
        ratio = tf.math.divide_no_nan(curvature, _dot(change, change))
        scale = tf.where(usable, ratio, scale)
    result, factors = steepest, []
    for (move, change), weight in zip(reversed(pairs), reversed(weights), strict=True):
        factors.append(weight * _dot(move, result))
        result -= factors[-1] * change
    result *= scale
    for (move, change), weight in zip(pairs, weights, strict=True):
        result += (factors.pop() - weight * _dot(change, result)) * move
    return result


def _search(value_and_gradient: ValueAndGradient, state: _State, direction):
    """Backtracking along the projected path: (found, point, value, gradient)."""
    slope = _dot(state.gradient, direction)[:, 0]

    def searching(found, *_):
        return tf.reduce_any(state.active & ~found)

    def trial(found, length, point, value, gradient):
        where = tf.clip_by_value(
            state.point + length[:, tf.newaxis] * direction, -1.0, 1.0
        )
        value_there, gradient_there = value_and_gradient(where)
        expected = _SUFFICIENT * _dot(state.gradient, where - state.point)[:, 0]
        low = value_there <= state.value + expected
        new = state.active & ~found & low & (value_there < state.value)
        column = new[:, tf.newaxis]
        return (
            found | new,
            _shorter(length, slope, value_there - state.value),
            tf.where(column, where, point),
            tf.where(new, value_there, value),
            tf.where(column, gradient_there, gradient),
        )

    found = tf.zeros_like(state.active)
    found, _, *there = tf.while_loop(
        searching,
        trial,
        (found, tf.ones_like(slope), state.point, state.value, state.gradient),
        maximum_iterations=_TRIALS,
    )
    return found, *there


def _shorter(length, slope, rise) -> tf.Tensor:
    """The minimum of the parabola through what is known, within [.1, .5] of length."""
    curvature = 2.0 * (rise - slope * length)
    share = tf.math.divide_no_nan(-slope * length, curvature)
    # A value that is not finite says nothing but that the step was too long.
    share = tf.where(tf.math.is_finite(share), share, 0.1)
    return length * tf.clip_by_value(share, 0.1, 0.5)


def _next_state(state: _State, found, point, value, gradient) -> _State:
    move, change = point - state.point, gradient - state.gradient
    curvature = _dot(move, change)
    # A pair without curvature (and none: a problem that stays) would not be one.
    usable = curvature > _CURVATURE * _dot(change, change)

    def remember(pairs, newest):
        shifted = tf.concat([pairs[1:], newest[tf.newaxis]], axis=0)
        return tf.where(usable, shifted, pairs)

    # Relative to the values alone: objectives may be tiny, as squared gradients are.
    scale = tf.maximum(tf.abs(state.value), tf.abs(value))
    falling = state.value - value > _TOLERANCE * scale
    return _State(
        point,
        value,
        gradient,
        remember(state.moves, move),
        remember(state.changes, change),
        state.active & found & falling,
    )


def _dot(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Products of rows: `[m, d]` twice to `[m, 1]`."""
    return tf.reduce_sum(one * other, axis=-1, keepdims=True)


def _norm(rows: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(_dot(rows, rows))
