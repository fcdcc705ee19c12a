"""Model inversion: a step by hand, each rule, and real digits."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.attacks import model_inversion
from tff_leak.attacks.model_inversion import (
    ModelInversion,
    denoise_and_sharpen,
    initial_images,
    invert,
)
from tff_leak.data import sources
from tff_leak.errors import InputError
from tff_leak.models import classifiers, layers
from tff_leak.models.network import Weights, flatten, sequential, unflatten
from tff_leak.models.training import LocalData, LocalSgd, local_sgd

SEED = tf.constant([3, 4])
SHAPE = (2, 2, 1)
LINEAR = sequential("linear", SHAPE, [layers.reshape(), layers.dense(3)])
# It has no gradient, so that an auxiliary term alone decides.
MUTE = sequential(
    "mute", SHAPE, [layers.reshape(), layers.dense(3, initializer=layers.zeros)]
)
CHANCE = 2 / 3  # the cost of a class where three are as likely


def _invert(settings, network=MUTE, labels=(0,), weights=None, **kwargs):
    """In a graph, as it is meant to be called; NumPy arrays."""
    if weights is None:
        weights = network.initialize(SEED)
    labels = tf.constant(labels, tf.int32)
    graph = tf.function(
        lambda: invert(settings, network, weights, labels, SEED, **kwargs)
    ).get_concrete_function()
    assert not graph.variables
    return model_inversion.Inversion(*(part.numpy() for part in graph()))


def _softmax_cost(matrix, bias, image, label):
    """Cost and gradient of a linear softmax model, from the formula."""
    logits = image @ matrix + bias
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    gradient = -shares[label] * (matrix[:, label] - matrix @ shares)
    return 1 - shares[label], gradient


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_step_by_hand_on_a_linear_model(label):
    weights = LINEAR.initialize(SEED)
    matrix, bias = (np.asarray(w, np.float64) for w in weights.trainable)
    start = np.full(4, 0.1)
    before, gradient = _softmax_cost(matrix, bias, start, label)
    expected = start - 0.4 * gradient
    settings = ModelInversion(iterations=1, start=0.1, step=0.4)
    found = _invert(settings, LINEAR, [label], weights)
    np.testing.assert_allclose(found.images.reshape(4), expected, atol=1e-6)
    after, _ = _softmax_cost(matrix, bias, expected, label)
    np.testing.assert_allclose(found.costs, [after], atol=1e-6)
    assert after < before
    assert found.steps.tolist() == [1]


def test_descents_of_a_batch_do_not_influence_one_another():
    settings = ModelInversion(iterations=50, stop_cost=0.6, step=4.0, start=0.0)
    together = _invert(settings, LINEAR, [2, 0, 1, 0])
    assert len(set(together.steps.tolist())) > 1  # some end before others
    for place, label in enumerate([2, 0, 1, 0]):
        alone = _invert(settings, LINEAR, [label])
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one[place], other[0], atol=1e-6)


def test_ends_at_the_first_cost_that_is_low_enough():
    settings = {"stop_cost": 0.4, "step": 2.0, "start": 0.0}
    found = _invert(ModelInversion(iterations=500, **settings), LINEAR)
    [steps] = found.steps
    assert 1 < steps < 500
    assert found.costs[0] <= 0.4
    before = _invert(ModelInversion(iterations=int(steps) - 1, **settings), LINEAR)
    assert before.costs[0] > 0.4


def test_does_not_begin_where_the_cost_is_low_enough():
    found = _invert(ModelInversion(stop_cost=0.7))
    assert found.steps.tolist() == [0]
    np.testing.assert_allclose(found.images, -1.0)
    np.testing.assert_allclose(found.costs, CHANCE, rtol=1e-6)


@pytest.mark.parametrize("patience", [1, 2, 7])
def test_ends_when_beta_costs_in_a_row_are_no_better(patience):
    found = _invert(ModelInversion(iterations=50, patience=patience))
    assert found.steps.tolist() == [patience]


def test_compares_with_the_largest_of_the_last_costs():
    """A cost between the last ones goes on: the paper's rule, not "no new best"."""

    def jagged(images):
        # Gradient 1 whatever the pixel: the picture darkens by 0.1 a step. The cost
        # is taken from the list by how far it came.
        pixel = images[:, 0, 0, 0]
        place = tf.cast(tf.round(-10 * tf.stop_gradient(pixel)), tf.int32)
        costs = tf.gather([0.9, 0.1, 0.5, 0.4, 0.45, 0.8, 0.3, 0.2], place)
        return costs + pixel - tf.stop_gradient(pixel)

    settings = ModelInversion(iterations=7, patience=2, step=0.1, start=0.0)
    found = _invert(settings, auxiliary=jagged)
    # .5 < max(.9, .1); .4 < max(.1, .5); .45 < max(.5, .4); .8 >= max(.4, .45).
    assert found.steps.tolist() == [5]
    np.testing.assert_allclose(found.costs, [CHANCE + 0.1], rtol=1e-5)
    np.testing.assert_allclose(found.images[0, 0, 0, 0], -0.1, rtol=1e-5)


def test_ends_after_alpha_steps():
    found = _invert(ModelInversion(iterations=9, step=1e-4), LINEAR, [0, 1])
    assert found.steps.tolist() == [9, 9]


def test_returns_the_best_picture_not_the_last():
    def distance(images):
        return tf.reduce_sum(tf.abs(images - 0.5), axis=[1, 2, 3])

    # 0, 0.4, 0.8: the middle one is nearest to 0.5.
    settings = ModelInversion(iterations=2, step=0.4, start=0.0)
    found = _invert(settings, auxiliary=distance)
    np.testing.assert_allclose(found.images, 0.4, rtol=1e-6)
    np.testing.assert_allclose(found.costs, [CHANCE + 4 * 0.1], rtol=1e-5)
    assert found.steps.tolist() == [2]


@pytest.mark.parametrize("project, expected", [(True, 1.0), (False, 3.0)])
def test_pictures_stay_in_range_if_they_are_projected(project, expected):
    settings = ModelInversion(iterations=1, step=4.0, project=project)
    found = _invert(
        settings, auxiliary=lambda images: -tf.reduce_sum(images, axis=[1, 2, 3])
    )
    np.testing.assert_allclose(found.images, expected)


def test_starts_are_seeded_and_in_range():
    settings = ModelInversion(start=-0.5, start_noise=0.25)
    first = initial_images(settings, LINEAR, 50, SEED).numpy()
    assert first.shape == (50, *SHAPE)
    assert first.min() >= -0.75 and first.max() <= -0.25
    # Uniform: deviation 0.25 / sqrt(3) = .144, of 200 pixels' mean .0102; five.
    assert abs(first.mean() + 0.5) < 0.051
    assert len(np.unique(first)) > 190
    np.testing.assert_array_equal(first, initial_images(settings, LINEAR, 50, SEED))
    other = initial_images(settings, LINEAR, 50, SEED + 1).numpy()
    assert np.any(first != other)
    black = initial_images(ModelInversion(), LINEAR, 3, SEED)
    np.testing.assert_array_equal(black, np.full((3, *SHAPE), -1.0))


def test_process_removes_specks_and_sharpens_edges():
    speck = np.zeros((1, 5, 5, 1), np.float32)
    speck[0, 2, 2] = 1.0
    np.testing.assert_array_equal(denoise_and_sharpen(speck, 0.5), np.zeros_like(speck))
    edge = np.zeros((1, 4, 4, 2), np.float32)
    edge[0, :, 2:] = 0.9
    # The median leaves an edge. The mean beside it is .3, or .6 on its bright side.
    row = [0.0, -0.5 * 0.3, 0.9 + 0.5 * 0.3, 0.9]
    sharpened = denoise_and_sharpen(edge, 0.5)
    for channel in range(2):
        for line in range(4):
            np.testing.assert_allclose(sharpened[0, line, :, channel], row, atol=1e-6)
    np.testing.assert_allclose(denoise_and_sharpen(edge, 0.0), edge, atol=1e-7)


def test_process_is_applied_each_so_many_steps():
    network = sequential(
        "mute", (6, 6, 1), [layers.reshape(), layers.dense(2, initializer=layers.zeros)]
    )

    def energy(images):
        return tf.reduce_mean(images**2, axis=[1, 2, 3])

    def found(iterations):
        settings = ModelInversion(
            iterations=iterations,
            step=1e-6,
            start=0.0,
            start_noise=1.0,
            process_every=2,
            sharpening=0.0,
        )
        return _invert(settings, network, auxiliary=energy).images

    start = initial_images(ModelInversion(start=0.0, start_noise=1.0), network, 1, SEED)
    once = denoise_and_sharpen(start, 0.0)
    assert np.abs(once - start).max() > 0.5
    np.testing.assert_allclose(found(1), start, atol=1e-5)
    np.testing.assert_allclose(found(2), once, atol=1e-5)
    np.testing.assert_allclose(found(3), once, atol=1e-5)


def _own_class_is_nearest(data, network, weights):
    """How many of ten pictures are nearer (L2) to their class's mean than to others'.

    By chance it is Binomial(10, 1/10): 8 or more has probability 4e-7, 3 or fewer .987.
    """
    settings = ModelInversion(iterations=500, step=4.0)
    found = _invert(settings, network, range(10), weights)
    means = np.stack([data.images[data.labels == k].mean(0) for k in range(10)])
    gaps = found.images[:, np.newaxis] - means
    nearest = np.square(gaps).mean(axis=(2, 3, 4)).argmin(axis=1)
    return int((nearest == np.arange(10)).sum()), found


def test_a_trained_perceptron_gives_its_classes_away():
    """Hitaj et al., section 9.1: "MI works well for MLP networks"."""
    data = sources.load("digits").train
    network = classifiers.mlp(10, data.images.shape[1:])
    local = LocalData(tf.constant(data.images), tf.constant(data.labels))
    first = network.initialize(SEED)
    training = LocalSgd(0.05, batch_size=32, epochs=10)
    train = tf.function(
        lambda start: local_sgd(
            training, network, start, [], local, tf.constant(0), SEED
        )
    )
    trained = train(flatten(first.trainable))
    weights = Weights(unflatten(trained.parameters, network.trainable_shapes), [])
    logits = network.outputs(weights, local.inputs).numpy()
    assert (logits.argmax(axis=1) == data.labels).mean() > 0.95
    right, found = _own_class_is_nearest(data, network, weights)
    assert right >= 8
    assert found.costs.max() < 0.1
    # It is the training that put it there: without it the same attack finds nothing.
    untrained, _ = _own_class_is_nearest(data, network, first)
    assert untrained <= 3


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"iterations": 0}, "iterations is 0: expected at least 1"),
        ({"patience": 0}, "patience is 0: expected at least 1"),
        ({"process_every": 0}, "process_every is 0: expected at least 1"),
        ({"step": 0.0}, "step is 0.0: expected a finite lambda > 0"),
        ({"step": math.nan}, "step is nan: expected a finite lambda > 0"),
        ({"stop_cost": 1.0}, r"stop_cost is 1.0: expected a cost in \[0, 1\)"),
        ({"start": -1.5}, r"start is -1.5: expected a pixel in \[-1, 1\]"),
        ({"start_noise": -0.1}, "start_noise is -0.1: expected a finite number"),
        ({"sharpening": math.inf}, "sharpening is inf: expected a finite number"),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        ModelInversion(**settings)


def test_a_label_without_output_is_refused():
    with pytest.raises(InputError, match="label is 3: expected one of the 3 outputs"):
        invert(
            ModelInversion(), LINEAR, LINEAR.initialize(SEED), tf.constant([0, 3]), SEED
        )


def test_a_network_without_pictures_is_refused():
    flat = sequential("flat", (4,), [layers.dense(3)])
    with pytest.raises(InputError, match=r"network flat maps \(4,\) to \(3,\): expec"):
        invert(ModelInversion(), flat, flat.initialize(SEED), tf.constant([0]), SEED)
