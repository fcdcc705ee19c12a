"""Hand-computed cases for the image transforms."""

import numpy as np
import pytest
import skimage.transform

from tff_leak.data import transforms


def test_unit_range_ends_and_middle():
    levels = np.array([0, 51, 255], np.uint8)
    scaled = transforms.to_unit_range(levels)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [-1.0, -0.6, 1.0], atol=1e-7)


def test_all_levels_survive_the_round_trip():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(
        transforms.to_uint8(transforms.to_unit_range(levels)), levels
    )


def test_to_uint8_clips_and_rounds():
    values = np.array([-1.5, -1.0, 0.0, 0.003, 1.2], np.float32)
    np.testing.assert_array_equal(transforms.to_uint8(values), [0, 0, 128, 128, 255])


def test_unit_range_refuses_floats():
    with pytest.raises(TypeError, match="uint8"):
        transforms.to_unit_range(np.zeros(3, np.float32))


def test_padding_centres_or_follows_the_offset():
    ones = np.ones((2, 2, 4, 1), np.float32)
    centred = transforms.pad_to(ones, 6)
    assert centred.shape == (2, 6, 6, 1)
    expected = -np.ones((6, 6))
    expected[2:4, 1:5] = 1
    np.testing.assert_array_equal(centred[0, :, :, 0], expected)
    cornered = transforms.pad_to(ones, 6, offset=(0, 2))
    expected = -np.ones((6, 6))
    expected[0:2, 2:6] = 1
    np.testing.assert_array_equal(cornered[1, :, :, 0], expected)


@pytest.mark.parametrize("size, offset", [(3, None), (6, (0, 3)), (6, (-1, 0))])
def test_padding_refuses_what_does_not_fit(size, offset):
    with pytest.raises(ValueError, match="inside"):
        transforms.pad_to(np.ones((1, 2, 4, 1), np.float32), size, offset)


def test_shrinking_averages_areas():
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1) / 16 - 0.5
    halved = transforms.resize_to(np.concatenate([image, -image]), 2)
    blocks = image.reshape(2, 2, 2, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(halved[0, :, :, 0], blocks, atol=1e-6)
    np.testing.assert_allclose(halved[1, :, :, 0], -blocks, atol=1e-6)


def test_shrinking_keeps_images_and_channels_apart():
    levels = np.array([[-0.5, 0.0, 0.5], [0.25, 0.75, -1.0]], np.float32)
    images = np.broadcast_to(levels[:, None, None, :], (2, 9, 7, 3))
    resized = transforms.resize_to(images, 4)
    np.testing.assert_allclose(
        resized, np.broadcast_to(levels[:, None, None, :], (2, 4, 4, 3)), atol=1e-6
    )


def test_enlarging_agrees_with_scikit_image_and_stays_in_range():
    image = np.random.default_rng(0).choice([-1.0, 1.0], (1, 8, 8, 2))
    enlarged = transforms.resize_to(image, 24)
    assert enlarged.dtype == np.float32
    assert enlarged.min() == -1.0 and enlarged.max() == 1.0
    expected = skimage.transform.resize(
        image[0, :, :, 1], (24, 24), order=3, mode="edge"
    )
    np.testing.assert_allclose(enlarged[0, :, :, 1], expected, atol=1e-6)


def test_same_size_is_left_alone():
    image = np.random.default_rng(0).uniform(-1, 1, (1, 5, 5, 1)).astype(np.float32)
    np.testing.assert_array_equal(transforms.resize_to(image, 5), image)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3, -1])
def test_quarter_turns_are_exact_and_counter_clockwise(quarters):
    images = np.random.default_rng(1).uniform(-1, 1, (2, 6, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        transforms.rotate(images, 90 * quarters), np.rot90(images, quarters, (1, 2))
    )


def test_rotation_agrees_with_scikit_image_inside_and_is_black_outside():
    images = np.random.default_rng(2).uniform(-1, 1, (1, 32, 32, 1))
    rotated = transforms.rotate(images.astype(np.float32), 40)[0, :, :, 0]
    expected = skimage.transform.rotate(images[0, :, :, 0], 40, order=1, cval=-1)
    np.testing.assert_allclose(rotated[8:24, 8:24], expected[8:24, 8:24], atol=1e-5)
    corners = rotated[[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_array_equal(corners, -np.ones(4))
