"""L-BFGS and Adam within a box: minima known by hand, and SciPy's L-BFGS-B."""

import functools

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from tff_leak.attacks import box_adam, box_lbfgs

LBFGS = functools.partial(box_lbfgs.minimise, iterations=200)
ADAM = functools.partial(box_adam.minimise, iterations=300, rate=0.3)


def _found(minimise, function, start):
    """In a graph, as it is meant to be called; NumPy arrays."""

    def value_and_gradient(points):
        with tf.GradientTape() as tape:
            tape.watch(points)
            values = function(points)
        return values, tape.gradient(values, points)

    graph = tf.function(lambda first: minimise(value_and_gradient, first))
    points, values = graph.get_concrete_function(start)(start)
    return points.numpy(), values.numpy()


def _start(problems, size):
    return tf.random.stateless_uniform([problems, size], [1, 2], -1.0, 1.0)


@pytest.mark.parametrize("minimise", [LBFGS, ADAM], ids=["lbfgs", "adam"])
def test_minimum_on_the_border(minimise):
    """sum_i c_i (x_i - t_i)^2 has its minimum in the box at clip(t)."""
    rng = np.random.default_rng(0)
    targets = rng.uniform(-2, 2, (3, 8)).astype(np.float32)
    factors = rng.uniform(0.5, 5, (3, 8)).astype(np.float32)
    outside = np.abs(targets) > 1
    assert 5 < outside.sum() < 19  # both kinds of coordinates
    points, values = _found(
        minimise,
        lambda x: tf.reduce_sum(factors * (x - targets) ** 2, axis=1),
        _start(3, 8),
    )
    expected = np.clip(targets, -1, 1)
    np.testing.assert_allclose(points, expected, atol=2e-3)
    np.testing.assert_array_equal(points[outside], expected[outside])
    lowest = (factors * (expected - targets) ** 2).sum(axis=1)
    np.testing.assert_allclose(values, lowest, rtol=1e-4)


def _bowls(points):
    """Convex, coupled, and with a minimum that lies partly on the border."""
    rng = np.random.default_rng(3)
    mixing = tf.constant(rng.normal(size=(12, 12)), points.dtype)
    offset = tf.constant(rng.normal(size=12), points.dtype)
    mixed = points @ mixing - 2.0 * offset
    return tf.reduce_sum(tf.sqrt(1.0 + mixed**2), axis=1)


def _rosenbrock(points):
    x = 1.2 * points  # the minimum, 1, at 1 / 1.2: within the box
    first, second = x[:, :-1], x[:, 1:]
    valley = 100.0 * (second - first**2) ** 2 + (1.0 - first) ** 2
    return 1.0 + tf.reduce_sum(valley, axis=1)


@pytest.mark.parametrize("function, size", [(_bowls, 12), (_rosenbrock, 4)])
def test_lbfgs_finds_what_scipys_does(function, size):
    start = _start(4, size)
    points, values = _found(LBFGS, function, start)
    for place in range(4):

        def value_and_gradient(x):
            x = tf.constant(x[np.newaxis])  # float64
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = function(x)
            return float(value[0]), tape.gradient(value, x)[0].numpy()

        theirs = scipy.optimize.minimize(
            value_and_gradient,
            start[place].numpy().astype(float),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-1, 1)] * size,
        )
        np.testing.assert_allclose(values[place], theirs.fun, rtol=1e-3)
        assert function(start)[place] > 1.05 * theirs.fun  # there was a way to go
    np.testing.assert_allclose(function(tf.constant(points)), values, rtol=1e-5)
    assert np.abs(points).max() <= 1


def test_lbfgs_needs_its_memory():
    """In so few steps, gradients alone do not get along the valley."""
    start = _start(4, 4)
    few = functools.partial(box_lbfgs.minimise, iterations=30)
    _, with_pairs = _found(functools.partial(few, memory=10), _rosenbrock, start)
    _, steepest = _found(lambda *args: few(*args, memory=1), _rosenbrock, start)
    assert np.median(with_pairs - 1) < 0.5 * np.median(steepest - 1)


@pytest.mark.parametrize("minimise", [LBFGS, ADAM], ids=["lbfgs", "adam"])
def test_problems_do_not_influence_one_another(minimise):
    start = _start(3, 4)
    together = _found(minimise, _rosenbrock, start)
    for place in range(3):
        alone = _found(minimise, _rosenbrock, start[place : place + 1])
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one[place], other[0], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("minimise", [LBFGS, ADAM], ids=["lbfgs", "adam"])
def test_a_problem_without_values_leaves_the_others_alone(minimise):
    broken = tf.constant([0.0, np.nan])
    start = _start(2, 4)
    points, values = _found(
        minimise, lambda x: tf.reduce_sum(x**2, axis=1) + broken, start
    )
    np.testing.assert_allclose(points[0], 0.0, atol=2e-3)
    assert not np.isfinite(values[1])
    np.testing.assert_array_equal(points[1], start[1])


def test_adam_by_hand():
    """With one step, both moments are the gradient: it moves by the rate."""
    points, values = _found(
        functools.partial(box_adam.minimise, iterations=1, rate=0.25),
        lambda x: tf.reduce_sum(tf.constant([3.0, -0.1]) * x, axis=1),
        tf.constant([[0.5, 0.9]]),
    )
    np.testing.assert_allclose(points, [[0.25, 1.0]], atol=1e-6)  # .9 + .25 is cut
    np.testing.assert_allclose(values, [0.75 - 0.1], atol=1e-6)


def test_adam_returns_the_best_not_the_last():
    points, values = _found(
        functools.partial(box_adam.minimise, iterations=2, rate=0.8),
        lambda x: tf.abs(x[:, 0] - 0.1),
        tf.constant([[0.2]]),
    )
    np.testing.assert_allclose(points, [[0.2]])
    np.testing.assert_allclose(values, [0.1], atol=1e-6)
