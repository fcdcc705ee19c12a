import numpy as np
import pytest
import tensorflow as tf

from tff_leak import errors
from tff_leak.data import sources
from tff_leak.metrics import judge as judge_lib

SHAPE = (32, 32, 1)


@pytest.fixture(scope="module")
def digits():
    examples = sources.load("digits").train
    return examples.take(np.random.default_rng(0).permutation(len(examples)))


def short(examples, seed, **options):
    return judge_lib.train_judge(
        examples, num_classes=10, image_shape=SHAPE, seed=seed, epochs=2, **options
    )


@pytest.fixture(scope="module")
def judge(digits):
    return judge_lib.train_judge(
        digits.take(range(600)), num_classes=10, image_shape=SHAPE, seed=0
    )


def test_names_held_out_digits_and_has_the_promised_shapes(judge, digits):
    assert judge.accuracy(digits.take(range(600, 1797))) > 0.97
    probabilities = judge.probabilities(digits.images[:7])
    assert probabilities.shape == (7, 10) and probabilities.dtype == np.float32
    rejected = judge.rejected(digits.images[:7])
    assert rejected.shape == (7,)
    np.testing.assert_allclose(probabilities.sum(axis=1) + rejected, 1, rtol=1e-5)
    features = judge.features(digits.images[:7])
    assert features.shape == (7, 128) and features.dtype == np.float32
    assert judge.probabilities(digits.images[:0]).shape == (0, 10)


def strange_pictures(digits):
    """Pictures of no digit, by name, not made by the code that trains the judge."""
    rng = np.random.default_rng(7)
    uniform = rng.uniform(-1, 1, (50, *SHAPE))
    # Four bars of noise on a grey ground: what a passive adversary's generator drew.
    bars = np.where(np.arange(32) // 4 % 2 == 0, 1.0, 0.2)[:, None, None]
    real = digits.images[600:650]
    # Tiles of 8 x 8 pixels, turned by one place along both sides and mirrored.
    tiles = real.reshape(-1, 4, 8, 4, 8, 1)[:, [2, 0, 3, 1]][:, :, :, [1, 3, 0, 2]]
    return {
        "uniform": uniform,
        "faint": -0.7 + 0.2 * uniform,
        "bars": bars * uniform,
        "stripes": np.broadcast_to(2 * bars - 1, (50, *SHAPE)),
        "turned stripes": np.broadcast_to(2 * bars - 1, (50, *SHAPE)).swapaxes(1, 2),
        "shuffled": tiles.reshape(real.shape),
        "blank": np.full((1, *SHAPE), -1.0),
    }


def test_rejects_what_is_no_digit(judge, digits):
    for name, images in strange_pictures(digits).items():
        assert (judge.rejected(images) > 0.5).mean() >= 0.9, name
        # And it does not name a class with confidence.
        assert judge.probabilities(images).max(axis=1).mean() < 0.2, name


def test_does_not_reject_held_out_digits(judge, digits):
    assert (judge.rejected(digits.images[600:]) > 0.5).mean() < 0.02


def test_a_rejected_example_counts_as_wrong(judge, digits):
    shuffled = strange_pictures(digits)["shuffled"]
    examples = sources.Examples(shuffled, digits.labels[600:650])
    assert judge.accuracy(examples) < 0.1


def test_same_seed_same_bits_and_no_global_random_state(digits):
    few, probe = digits.take(range(64)), digits.images[-300:]
    tf.random.set_seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = short(few, seed=3).probabilities(probe)
    drawn = tf.random.uniform([4]).numpy(), np.random.rand(4)  # noqa: NPY002
    # Another global seed changes nothing, and training has drawn from none.
    tf.random.set_seed(2)
    np.testing.assert_array_equal(short(few, seed=3).probabilities(probe), first)
    tf.random.set_seed(1)
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(tf.random.uniform([4]), drawn[0])
    np.testing.assert_array_equal(np.random.rand(4), drawn[1])  # noqa: NPY002
    assert np.abs(short(few, seed=4).probabilities(probe) - first).max() > 1e-3


def test_hidden_pixels_do_not_matter(digits):
    judge = short(digits.take(range(64)), seed=0, mean_pixels_visible=(28, 27))
    images = digits.images[64:80]
    spoilt = images.copy()
    spoilt[:, 28:] = 1
    spoilt[:, :, 27:] = 1
    np.testing.assert_array_equal(
        judge.probabilities(spoilt), judge.probabilities(images)
    )
    spoilt[:, 10:20] = 1
    assert np.abs(judge.probabilities(spoilt) - judge.probabilities(images)).max() > 0


def test_bad_input(digits):
    few = digits.take(range(20))
    with pytest.raises(errors.InputError, match="same data source"):
        judge_lib.train_judge(few, num_classes=10, image_shape=(28, 28, 1), seed=0)
    with pytest.raises(errors.InputError, match="number of real classes"):
        judge_lib.train_judge(few, num_classes=3, image_shape=SHAPE, seed=0)
    with pytest.raises(errors.InputError, match="keep some real images"):
        judge_lib.train_judge(few.take([]), num_classes=10, image_shape=SHAPE, seed=0)
