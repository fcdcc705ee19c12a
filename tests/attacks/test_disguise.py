"""What a discriminator sees: whole pixels moved, contrast, brightness and noise."""

import numpy as np
import tensorflow as tf

from tff_leak.attacks.deviations import Deviations
from tff_leak.attacks.disguise import disguise, shift

SEED = tf.constant([3, 4])
PICTURES = tf.random.stateless_uniform([8, 4, 4, 1], [3, 1], -0.5, 0.5)


def test_pictures_are_shifted_each_by_its_own_whole_pixels():
    images = tf.reshape(tf.range(32.0), [2, 4, 4, 1])
    shifted = shift(images, 1, tf.constant([0, 5])).numpy()
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], "symmetric")
    for image, source in zip(shifted, padded, strict=True):
        views = [source[r : r + 4, c : c + 4] for r in range(3) for c in range(3)]
        assert any(np.array_equal(image, view) for view in views)
    seeds = [shift(images, 1, tf.constant([0, s])) for s in range(8)]
    assert len({bytes(s.numpy()) for s in seeds}) > 3


def test_by_hand_and_from_step_to_step():
    noise = disguise(Deviations(noise=0.1), PICTURES, SEED) - PICTURES
    # 128 draws: the deviation's own deviation is 0.006.
    assert abs(float(tf.math.reduce_std(noise)) - 0.1) < 0.03
    found = disguise(Deviations(recolour=0.6), PICTURES, SEED).numpy()
    for before, after in zip(PICTURES.numpy(), found, strict=True):
        contrast, brightness = np.polyfit(before.ravel(), after.ravel(), 1)
        np.testing.assert_allclose(contrast * before + brightness, after, atol=1e-5)
        assert 0.4 <= contrast <= 1.0
        assert -0.3 <= brightness <= 0.3
    other = disguise(Deviations(recolour=0.6), PICTURES, SEED + 1)
    assert np.abs(found - other).max() > 0.1


def test_nothing_changes_unless_it_is_asked_for():
    np.testing.assert_array_equal(disguise(Deviations(), PICTURES, SEED), PICTURES)
    moved = disguise(Deviations(max_shift=1), PICTURES, SEED)
    assert np.any(moved != PICTURES)
    assert set(np.ravel(moved)) <= set(np.ravel(PICTURES))
