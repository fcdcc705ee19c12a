"""The patch discriminator: its loss by hand, one step, and that layout escapes it."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.attacks import patch_discriminator
from tff_leak.models import discriminators, layers
from tff_leak.models.network import sequential

SEED = tf.constant([1, 2])
POINTS = sequential("points", (2, 2, 1), [layers.conv2d(1, 1)])  # logit = pixel
IDENTITY = [tf.ones([1, 1, 1, 1]), tf.zeros([1])]
LN3 = np.log(3.0)


def _picture(*pixels):
    return tf.reshape(tf.constant(pixels, tf.float32), [1, 2, 2, 1])


def test_losses_are_means_over_patches():
    """Logit 0 costs ln 2; ln 3 is probability 3/4."""
    real, fake = _picture(LN3, LN3, 0, 0), _picture(LN3, 0, 0, 0)
    of_real = (2 * np.log(4 / 3) + 2 * np.log(2)) / 4
    of_fake = (np.log(4) + 3 * np.log(2)) / 4
    loss = patch_discriminator.patches_loss(POINTS, IDENTITY, real, fake)
    np.testing.assert_allclose(loss, of_real + of_fake, rtol=1e-6)
    fooling = patch_discriminator.fooling_loss(POINTS, IDENTITY, fake)
    np.testing.assert_allclose(fooling, (np.log(4 / 3) + 3 * np.log(2)) / 4, rtol=1e-6)


def test_one_step_is_sgd_on_the_loss():
    sgd = tff.learning.optimizers.build_sgdm(0.5)
    start = patch_discriminator.initial_patches(POINTS, sgd, SEED)
    start = start._replace(trainable=IDENTITY)
    after = patch_discriminator.train_patches(
        POINTS, sgd, start, _picture(1, 1, 1, 1), _picture(-1, -1, -1, -1)
    )
    # d/dk of -log s(k) - log s(k) at k = 1, for a real pixel 1 and a fake one of -1.
    expected = 1.0 + 0.5 * 2 * (1 - 1 / (1 + np.exp(-1)))
    np.testing.assert_allclose(after.trainable[0], [[[[expected]]]], rtol=1e-5)
    np.testing.assert_allclose(after.trainable[1], [0.0], atol=1e-6)


def test_there_may_be_none():
    adam = tff.learning.optimizers.build_adam(0.1)
    assert patch_discriminator.initial_patches(None, adam, SEED) == ([], [])


@pytest.mark.parametrize("side", [28, 64])
def test_a_logit_depends_on_twelve_by_twelve_pixels(side):
    network = discriminators.patches((side, side, 1))
    weights = network.initialize(SEED)
    height, width, planes = network.output_shape
    assert planes == 1
    image = tf.Variable(tf.random.stateless_normal([1, side, side, 1], SEED))
    with tf.GradientTape() as tape:
        logit = network.outputs(weights, image)[0, 3, 4, 0]
    touched = np.argwhere(tape.gradient(logit, image).numpy()[0, ..., 0])
    np.testing.assert_array_equal(touched.min(axis=0), [2 * 3, 2 * 4])
    np.testing.assert_array_equal(touched.max(axis=0), [2 * 3 + 11, 2 * 4 + 11])


def test_it_learns_texture_and_not_layout():
    """Real: stripes in the upper half. Fakes: the same below, or noise above."""
    network = discriminators.patches((32, 32, 1))
    adam = tff.learning.optimizers.build_adam(0.002)
    stripes = np.where(np.arange(32) % 4 < 2, 1.0, -1.0)[:, np.newaxis]
    stripes = np.broadcast_to(stripes, [32, 32])
    noise = np.random.default_rng(0).uniform(-1, 1, [32, 32])
    upper = np.arange(32)[:, np.newaxis] < 16

    def pictures(texture, where):
        return tf.constant(
            np.tile(np.where(where, texture, -1.0), [4, 1, 1])[..., np.newaxis],
            tf.float32,
        )

    real, below = pictures(stripes, upper), pictures(stripes, ~upper)
    noisy = pictures(noise, upper)
    patches = patch_discriminator.initial_patches(network, adam, SEED)
    step = tf.function(patch_discriminator.train_patches)
    for _ in range(60):
        patches = step(network, adam, patches, real, noisy)

    def cost(images):
        return float(
            patch_discriminator.fooling_loss(network, patches.trainable, images)
        )

    assert cost(below) < cost(real) + 0.1
    assert cost(noisy) > cost(real) + 0.5
