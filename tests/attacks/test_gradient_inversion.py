"""Gradient inversion: both objectives by hand, and real digits out of gradients."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.attacks import gradient_inversion
from tff_leak.attacks.gradient_inversion import (
    DEEP_LEAKAGE,
    INVERTING_GRADIENTS,
    Distance,
    GradientInversion,
    invert_gradients,
    objective,
    stretched,
)
from tff_leak.attacks.label_inference import infer_labels
from tff_leak.attacks.representatives import Reconstruction
from tff_leak.attacks.update_matching import mean_gradient
from tff_leak.data import sources, transforms
from tff_leak.errors import InputError
from tff_leak.models import layers
from tff_leak.models.network import sequential

SEED = tf.constant([3, 4])
TINY = sequential(
    "tiny", (1, 2, 1), [layers.reshape(), layers.dense(2, initializer=layers.zeros)]
)
# Smooth, as the first paper wants it, and wide enough to tell a picture.
SMOOTH = sequential(
    "smooth",
    (12, 12, 1),
    [
        layers.conv2d(8, 5, stride=2, padding="SAME"),
        layers.activation(tf.nn.tanh),
        layers.conv2d(8, 5, padding="SAME"),
        layers.activation(tf.nn.tanh),
        layers.reshape(),
        layers.dense(10),
    ],
)


def test_both_distances_by_hand():
    """Logits are 0: the gradient is x (-1/2, 1/2), and (-1/2, 1/2) of the biases."""
    image = np.array([0.6, -0.2])
    columns = np.outer(image, [-0.5, 0.5])
    sent = [np.array([[1.0, 0.0], [0.0, -1.0]]), np.array([0.5, 0.0])]
    weights, images = TINY.initialize(SEED), image.reshape(1, 1, 2, 1)
    update = [tf.constant(part, tf.float32) for part in sent]

    def found(**settings):
        settings = GradientInversion(**settings)
        images_ = tf.constant(images, tf.float32)
        return objective(settings, TINY, weights, update, images_, tf.constant([0]))

    squared = ((sent[0] / 2 - columns) ** 2).sum()
    squared += ((sent[1] / 2 - [-0.5, 0.5]) ** 2).sum()
    np.testing.assert_allclose(found(scale=2.0), squared, rtol=1e-6)
    product = (sent[0] * columns).sum() + sent[1] @ [-0.5, 0.5]
    lengths = np.sqrt(2.25 * ((columns**2).sum() + 0.5))
    # One difference of .8 over two pixels.
    expected = 1 - product / lengths + 0.1 * 0.8 / 2
    cosine = found(distance=Distance.COSINE, tv_weight=0.1)
    np.testing.assert_allclose(cosine, expected, rtol=1e-6)
    # The length of what was sent does not matter to it.
    update = [3 * part for part in update]
    again = found(distance=Distance.COSINE, tv_weight=0.1)
    np.testing.assert_allclose(again, expected, rtol=1e-6)


@pytest.fixture(scope="module")
def clients():
    """Two clients with two digits each, of different classes, and their gradients."""
    digits = sources.load("digits").train
    images = transforms.resize_to(digits.images, 12)
    first = [int(np.flatnonzero(digits.labels == k)[0]) for k in (1, 7, 3, 4)]
    images, labels = images[first].reshape(2, 2, 12, 12, 1), [[1, 7], [3, 4]]
    weights = SMOOTH.initialize(SEED)
    rows = [
        mean_gradient(SMOOTH, weights, tf.constant(part), tf.constant(classes))
        for part, classes in zip(images, labels, strict=True)
    ]
    return weights, [tf.stack(p) for p in zip(*rows, strict=True)], images, labels


def _invert(settings, weights, updates, labels) -> Reconstruction:
    graph = tf.function(
        lambda *args: invert_gradients(settings, SMOOTH, weights, *args, SEED)
    )
    labels = tf.constant(labels)
    return Reconstruction(*(part.numpy() for part in graph(updates, labels)))


def _error(found, images):
    return np.abs(np.asarray(found.images) - images).mean(axis=(2, 3, 4))


@pytest.mark.parametrize(
    "settings, error",
    [
        (DEEP_LEAKAGE, 0.02),
        # It asks for smoothness and stops earlier: near, not exact.
        (dataclasses.replace(INVERTING_GRADIENTS, iterations=400), 0.1),
    ],
    ids=["squared", "cosine"],
)
def test_digits_come_out_of_gradients(clients, settings, error):
    weights, updates, images, labels = clients
    inferred = infer_labels(updates, 2).numpy()
    assert inferred.tolist() == labels
    found = _invert(settings, weights, updates, inferred)
    assert _error(found, images).max() < error
    # Other digits are no explanation: the nearest wrong one is far from it.
    assert _error(found, images[::-1]).min() > 0.2
    assert np.abs(found.images).max() <= 1


def test_a_gradient_however_small_gives_its_digit_away():
    """As that of a model that is sure of itself: squared, it is of the order 1e-5."""
    network = sequential(
        "mlp",
        (6, 6, 1),
        [
            layers.reshape(),
            layers.dense(24),
            layers.activation(tf.nn.sigmoid),
            layers.dense(4),
        ],
    )
    weights = network.initialize(SEED)
    weights.trainable[-1] += tf.constant([9.0, 0.0, 0.0, 0.0])
    image = tf.random.stateless_uniform([1, 6, 6, 1], [1, 2], -1, 1)
    sent = mean_gradient(network, weights, image, tf.constant([0]))
    assert float(tf.add_n([tf.reduce_sum(part**2) for part in sent])) < 1e-5
    updates = [part[tf.newaxis] for part in sent]

    @tf.function
    def attack(updates):
        labels = tf.constant([[0]])
        return invert_gradients(DEEP_LEAKAGE, network, weights, updates, labels, SEED)

    assert _error(attack(updates), image).max() < 0.02


def _noised(updates, times):
    """Normal noise, so many times as large as the updates' entries."""
    size = np.sqrt(sum(float(tf.reduce_mean(u**2)) for u in updates) / len(updates))
    return [
        u + times * size * tf.random.stateless_normal(u.shape, [5, n])
        for n, u in enumerate(updates)
    ]


def test_a_noised_gradient_gives_no_digit(clients):
    """What a defence would do to the error, so that the bound above says something."""
    weights, updates, images, labels = clients
    noised = _noised(updates, 3)
    found = _invert(DEEP_LEAKAGE, weights, noised, labels)
    assert _error(found, images).min() > 0.2


def test_an_attack_that_knows_of_noise_sees_through_some(clients):
    """By total variation and contrast together: either alone does worse."""
    weights, updates, images, labels = clients
    noised = _noised(updates, 0.3)
    plain = GradientInversion(Distance.COSINE, iterations=200)
    dark = float(np.mean(images < -0.9))
    smooth = dataclasses.replace(plain, tv_weight=0.1)
    strong = dataclasses.replace(plain, background=0.9 * dark)
    both = dataclasses.replace(smooth, background=strong.background)
    *alone, together = (
        _error(_invert(settings, weights, noised, labels), images)
        for settings in (plain, smooth, strong, both)
    )
    for error in alone:
        assert together.mean() < 0.85 * error.mean()


def test_contrast_by_hand():
    images = np.zeros((2, 1, 2, 5, 1), np.float32)
    images[0] = np.linspace(0.0, 0.9, 10).reshape(1, 2, 5, 1)
    images[1] = 0.25
    # Of ten pixels, at 0, .1 ... .9: the fifth is black, the ninth white.
    expected = np.clip(2 * (images[0] - 0.4) / 0.4 - 1, -1, 1)
    found = stretched(tf.constant(images), 0.5).numpy()
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    np.testing.assert_array_equal(found[1], images[1])


def test_restarts_keep_the_better_start(clients):
    weights, updates, _, labels = clients
    # By Adam, as what restarts do depends on no optimiser, and eagerly: so few steps
    # take less time than tracing them.
    short = dataclasses.replace(DEEP_LEAKAGE, iterations=5, optimizer="adam")
    once, more = (
        invert_gradients(
            dataclasses.replace(short, restarts=restarts),
            SMOOTH,
            weights,
            updates,
            tf.constant(labels),
            SEED,
        )
        for restarts in (1, 4)
    )
    assert np.all(more.objective <= once.objective)
    assert np.any(more.objective < once.objective)
    # The objective is that of the pictures that are returned.
    for place in range(2):
        value = objective(
            short,
            SMOOTH,
            weights,
            [u[place] for u in updates],
            tf.constant(more.images[place]),
            tf.constant(labels[place]),
        )
        np.testing.assert_allclose(value, more.objective[place], rtol=1e-3)


def test_restarts_go_on_after_a_start_that_diverged(clients, monkeypatch):
    weights, updates, _, labels = clients
    shape = [*np.shape(labels), *SMOOTH.input_shape]
    values = iter([math.nan, 2.0, 3.0])

    def scripted(of_client, updates, labels, start, minimise):
        value = next(values)
        return tf.fill(shape, value), tf.fill([len(labels)], value)

    monkeypatch.setattr(gradient_inversion, "match_updates", scripted)
    settings = dataclasses.replace(DEEP_LEAKAGE, restarts=3)
    found = _invert(settings, weights, updates, labels)
    np.testing.assert_array_equal(found.objective, [2.0, 2.0])
    np.testing.assert_array_equal(found.images, np.full(shape, 2.0))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"optimizer": "sgd"}, "optimizer is 'sgd': expected one of adam, lbfgs"),
        ({"iterations": 0}, "iterations is 0: expected at least 1"),
        ({"restarts": 0}, "restarts is 0: expected at least 1"),
        ({"scale": 0.0}, "scale is 0.0: expected a finite number > 0"),
        ({"tv_weight": -1.0}, "tv_weight is -1.0: expected a finite alpha >= 0"),
        ({"background": 0.98}, r"background is 0.98: expected a share of pixels in"),
        ({"start_noise": 0.0}, r"start_noise is 0.0: expected it in \(0, 1\]"),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        GradientInversion(**settings)
