import numpy as np
import pytest

from tff_leak.metrics import non_examples


def draw(images, labels, count=200, seed=0):
    rng = np.random.default_rng(seed)
    return non_examples.non_examples(images, np.asarray(labels), count, rng)


@pytest.mark.parametrize("shape", [(8, 8, 1), (29, 33, 1), (16, 12, 3)])
def test_shape_range_and_seed(shape):
    images = np.random.default_rng(1).uniform(-1, 1, (5, *shape)).astype(np.float32)
    drawn = draw(images, [0, 0, 1, 1, 2])
    assert drawn.shape == (200, *shape) and drawn.dtype == np.float32
    assert drawn.min() >= -1 and drawn.max() <= 1
    np.testing.assert_array_equal(drawn, draw(images, [0, 0, 1, 1, 2]))
    assert np.abs(drawn - draw(images, [0, 0, 1, 1, 2], seed=1)).max() > 0.5


def test_no_real_image_is_called_a_non_example():
    # Every pixel differs, so that any change of place shows.
    images = np.linspace(-1, 1, 3 * 32 * 32, dtype=np.float32).reshape(3, 32, 32, 1)
    for image in images:
        same = (draw(images, [0, 1, 2]) == image).all(axis=(1, 2, 3))
        assert not same.any()


def test_halves_come_from_two_classes_and_shuffles_from_one_image():
    # Classes 0 and 1 are the constants -.5 and .5; noise has neither value alone.
    images = np.repeat([-0.5, -0.5, 0.5], 16 * 16).reshape(3, 16, 16, 1)
    images = images.astype(np.float32)
    kept = [x for x in draw(images, [0, 0, 1]) if set(np.unique(x)) <= {-0.5, 0.5}]
    halves = [x for x in kept if len(np.unique(x)) == 2]
    assert len(halves) > 10
    assert all((x == 0.5).mean() == 0.5 for x in halves)
    # With one class only there are no halves of two.
    alone = draw(images, [0, 0, 0])
    assert not any(set(np.unique(x)) == {-0.5, 0.5} for x in alone)
