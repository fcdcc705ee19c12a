"""The closed form for one example: by hand, through real training, and its limits."""

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.attacks.first_layer import denoise, reconstruct_inputs
from tff_leak.data import sources
from tff_leak.errors import InputError
from tff_leak.models import classifiers
from tff_leak.models.batched_sgd import Batches, BatchSgd, train_on_batches

NETWORK = classifiers.mlp(10, (32, 32, 1), hidden=30)


def _update(images, labels, epochs=1):
    """The first layer's part of a real FedAvg update."""
    weights = NETWORK.initialize(tf.constant([0, 1]))
    trained = train_on_batches(
        BatchSgd(learning_rate=0.05, epochs=epochs),
        NETWORK,
        weights,
        Batches(images[None], labels[None], tf.constant([len(images)])),
    )
    return [
        (old - new)[tf.newaxis]
        for old, new in zip(weights.trainable[:2], trained.tensors[:2], strict=True)
    ]


@pytest.fixture(scope="module")
def digits():
    source = sources.load("digits")
    return source.train.images, source.train.labels


def test_two_clients_by_hand():
    inputs = np.array([[1.0, -2.0], [0.5, 0.25]], np.float32)
    slopes = np.array([[3.0, 0.0, -1.0], [0.0, -2.0, 4.0]], np.float32)
    found = reconstruct_inputs(inputs[:, :, None] * slopes[:, None, :], slopes)
    np.testing.assert_allclose(found.examples, inputs, rtol=1e-6)
    np.testing.assert_allclose(found.misfit, [0, 0], atol=1e-6)


def test_two_orthogonal_examples_mix_and_say_so():
    # Example [1, 0] moves unit 0, example [0, 1] unit 1: by least squares both halves.
    found = reconstruct_inputs([[[1.0, 0.0], [0.0, 1.0]]], [[1.0, 1.0]])
    np.testing.assert_allclose(found.examples, [[0.5, 0.5]])
    # What is left has half of the squared norm of the update.
    np.testing.assert_allclose(found.misfit, [np.sqrt(0.5)], rtol=1e-6)


@pytest.mark.parametrize("epochs", [1, 5])
def test_a_digit_comes_out_of_real_training_exactly(digits, epochs):
    images, labels = digits
    found = reconstruct_inputs(*_update(images[:1], labels[:1], epochs=epochs))
    np.testing.assert_allclose(
        found.examples[0], images[0].reshape(-1), atol=2e-4 * epochs
    )
    assert found.misfit[0] < 1e-4 * epochs


def test_a_batch_of_two_digits_is_no_example_and_says_so(digits):
    images, labels = digits
    pair = [0, int(np.flatnonzero(labels != labels[0])[0])]
    update = _update(images[pair], labels[pair])
    found = reconstruct_inputs(*update)
    for image in images[pair]:
        error = np.abs(found.examples[0] - image.reshape(-1)).mean()
        assert error > 0.02
    assert found.misfit[0] > 0.05


def _noisy(scale):
    """Updates of 50 inputs of 20 entries, 8 units, with noise on all of them."""
    rng = np.random.default_rng(0)
    inputs, slopes = rng.normal(size=(50, 20)), rng.normal(size=(50, 8))
    kernels = inputs[:, :, None] * slopes[:, None, :]
    kernels += rng.normal(scale=scale, size=kernels.shape)
    return inputs, slopes, kernels, slopes + rng.normal(scale=scale, size=slopes.shape)


def test_noise_is_averaged_over_rows():
    inputs, slopes, kernels, biases = _noisy(0.05)
    found = reconstruct_inputs(kernels, biases)
    errors = found.examples.numpy() - inputs
    # An entry x has noise of variance s^2 / |slopes|^2 from the kernel, and x^2 times
    # that from the scale, for which there is the bias.
    from_kernel = 0.05**2 / (slopes**2).sum(axis=1)
    expected = (from_kernel[:, None] * (1 + inputs**2)).mean()
    # 1,000 squared normals, weighed, and 50 of scales: a tenth is the deviation.
    np.testing.assert_allclose((errors**2).mean(), expected, rtol=0.3)
    best = np.abs(slopes).argmax(axis=1)
    of_rows = [
        kernel[:, i] / s[i] for kernel, s, i in zip(kernels, biases, best, strict=True)
    ]
    assert (errors**2).mean() < ((np.stack(of_rows) - inputs) ** 2).mean() / 1.2
    # It knows how large its noise is: eight units take a twentieth of it for signal.
    told = found.noise.numpy()
    np.testing.assert_allclose(np.median(told / np.sqrt(from_kernel)), 0.93, atol=0.08)


def test_least_squares_shrink_where_the_bias_is_lost_in_noise():
    inputs, _, kernels, biases = _noisy(0.8)
    found = reconstruct_inputs(kernels, biases).examples.numpy()
    squares = (biases**2).sum(axis=1, keepdims=True)
    shrunk = np.einsum("ndu,nu->nd", kernels, biases) / squares

    def cosines(guesses):
        lengths = np.linalg.norm(guesses, axis=1) * np.linalg.norm(inputs, axis=1)
        return np.abs((guesses * inputs).sum(axis=1)) / lengths

    assert np.median(cosines(found)) > np.median(cosines(shrunk)) + 0.02
    slopes = (shrunk * inputs).sum(axis=1) / (inputs**2).sum(axis=1)
    assert np.median(slopes) < 0.75


def test_denoised_pictures_are_nearer_and_of_the_right_scale(digits):
    images, labels = digits
    kernel, bias = _update(images[:1], labels[:1])
    rng = np.random.default_rng(0)
    sigma = 0.5 * float(np.linalg.norm(bias)) / np.sqrt(bias.shape[1])
    noisy = [x + rng.normal(scale=sigma, size=x.shape) for x in (kernel, bias)]
    found = reconstruct_inputs(*noisy)
    shape = images.shape[1:]

    def error(picture):
        return float(np.abs(picture - images[0]).mean())

    raw = np.clip(found.examples.numpy().reshape(shape), -1, 1)
    [cleaned] = denoise(found, shape, dark_background=True)
    assert cleaned.dtype == np.float32 and np.abs(cleaned).max() <= 1
    assert error(cleaned) < error(raw) / 2
    # The bias had lost its sign: the background has it.
    turned = found._replace(examples=-found.examples)
    np.testing.assert_array_equal(
        denoise(turned, shape, dark_background=True)[0], cleaned
    )
    # Exact ones stay as they are.
    exact = reconstruct_inputs(kernel, bias)
    [same] = denoise(exact, shape, dark_background=False)
    np.testing.assert_allclose(same, images[0], atol=2e-3)


def test_little_noise_needs_no_background_and_colours_stay():
    rng = np.random.default_rng(0)
    picture = np.kron(rng.uniform(-1, 1, (4, 4, 3)), np.ones((4, 4, 1)))
    slopes = rng.normal(size=30)
    update = np.append(picture.reshape(-1), 1)[:, None] * slopes
    update += rng.normal(scale=0.02 * np.linalg.norm(slopes), size=update.shape)
    found = reconstruct_inputs(update[None, :-1], update[None, -1])
    assert 0.015 < found.noise[0] < 0.025
    for dark in (False, True):  # It is not dark, and this must not matter.
        [cleaned] = denoise(found, (16, 16, 3), dark_background=dark)
        raw = found.examples.numpy().reshape(16, 16, 3)
        error = np.abs(cleaned - picture).mean()
        assert error < 0.03 and error < np.abs(raw - picture).mean()


def test_a_ratio_that_is_not_finite_tells_nothing():
    found = reconstruct_inputs(np.full([1, 4, 3], 1e10), np.full([1, 3], 1e-35))
    np.testing.assert_array_equal(found.examples, np.zeros([1, 4]))
    assert (found.misfit[0], found.noise[0]) == (1, 0)


def test_what_is_not_finite_tells_nothing():
    kernels = np.ones([2, 4, 3], np.float32)
    kernels[0, 1, 1] = np.nan
    found = reconstruct_inputs(kernels, np.ones([2, 3]))
    np.testing.assert_allclose(found.examples, [np.zeros(4), np.ones(4)], atol=1e-6)
    np.testing.assert_allclose(found.misfit, [1, 0], atol=1e-6)
    assert found.noise[0] == 0
    nothing = denoise(found, (2, 2, 1), dark_background=True)[0]
    np.testing.assert_array_equal(nothing, np.zeros((2, 2, 1)))


def test_without_a_change_of_the_bias_nothing_is_known():
    found = reconstruct_inputs(np.ones([1, 4, 3]), np.zeros([1, 3]))
    np.testing.assert_array_equal(found.examples, np.zeros([1, 4]))
    np.testing.assert_array_equal(found.misfit, [1])


@pytest.mark.parametrize("kernel, bias", [((4, 3), (3,)), ((2, 4, 3), (2, 4))])
def test_other_shapes_are_refused(kernel, bias):
    with pytest.raises(InputError, match=r"expected a dense layer's kernel"):
        reconstruct_inputs(np.ones(kernel), np.ones(bias))
