import numpy as np
import pytest
from skimage import metrics as skimage_metrics

from tff_leak import errors
from tff_leak.data import sources
from tff_leak.metrics import similarity as similarity_lib

C1, C2 = 0.01**2, 0.03**2


def constant(value, side=8):
    return np.full((1, side, side, 1), value, np.float32)


@pytest.fixture(scope="module")
def digits():
    return sources.load("digits").train


def test_constant_images_by_hand():
    found = similarity_lib.similarity(constant(0.5), constant(0.25), foreground=False)
    # Without variance SSIM is the comparison of the means alone, .75 and .625 on the
    # scale from 0 to 1.
    expected = (2 * 0.75 * 0.625 + C1) / (0.75**2 + 0.625**2 + C1)
    np.testing.assert_allclose(found.ssim, [expected], rtol=1e-6)
    np.testing.assert_allclose(found.l1, [0.25], rtol=1e-6)
    np.testing.assert_allclose(found.psnr, [10 * np.log10(4 / 0.0625)], rtol=1e-6)


def test_one_bright_pixel_by_hand():
    dot = constant(-1, side=16)
    dot[0, 8, 8, 0] = 1
    blank = constant(-1, side=16)
    # On the scale from 0 to 1: the 49 windows that hold the pixel have mean 1/49 and
    # sample variance 1/49, and no covariance with a blank, whose mean is 0.
    window = C1 / (1 / 49**2 + C1) * C2 / (1 / 49 + C2)
    by_foreground = similarity_lib.similarity(dot, blank, foreground=True)
    np.testing.assert_allclose(by_foreground.ssim, [window], rtol=1e-5)
    # Of all 10 x 10 windows, the other 51 agree.
    by_all = similarity_lib.similarity(dot, blank, foreground=False)
    np.testing.assert_allclose(by_all.ssim, [(49 * window + 51) / 100], rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_equals_scikit_image_when_all_windows_count(channels):
    rng = np.random.default_rng(0)
    images, private = rng.uniform(-0.7, 1, (2, 4, 12, 12, channels)).astype(np.float32)
    for foreground in (True, False):  # Every window has a pixel above -0.8.
        found = similarity_lib.similarity(images, private, foreground=foreground)
        for i, image in enumerate(images):
            expected = skimage_metrics.structural_similarity(
                (image.astype(np.float64) + 1) / 2,
                (private[found.nearest[i]].astype(np.float64) + 1) / 2,
                data_range=1,
                channel_axis=-1,
            )
            assert found.ssim[i] == pytest.approx(expected, abs=1e-12)


def test_nearest_is_by_mean_absolute_difference_over_all_chunks():
    values = np.linspace(-1, 1, 150, dtype=np.float32)
    images = np.broadcast_to(values[:, None, None, None], (150, 8, 8, 1))
    private = np.concatenate([constant(-1), constant(0), constant(1)])
    found = similarity_lib.similarity(images, private, foreground=False)
    distances = np.abs(values[:, None] - [-1, 0, 1])
    np.testing.assert_array_equal(found.nearest, distances.argmin(axis=1))
    np.testing.assert_allclose(found.l1, distances.min(axis=1), atol=1e-6)


def test_identical_images_have_finite_psnr_and_ssim_one(digits):
    private = digits.images[:5]
    found = similarity_lib.similarity(private[::-1], private, foreground=True)
    np.testing.assert_allclose(found.ssim, 1)
    np.testing.assert_array_equal(found.psnr, 100)
    np.testing.assert_array_equal(found.nearest, [4, 3, 2, 1, 0])


def test_two_blanks_fall_back_to_all_windows():
    found = similarity_lib.similarity(constant(-1), constant(-1), foreground=True)
    np.testing.assert_allclose(found.ssim, [1])


def test_window_leaves_out_the_border():
    private = constant(0.25, side=10)
    spoilt = private.copy()
    spoilt[:, 8:] = 1
    spoilt[:, :, 9:] = -1
    whole = similarity_lib.similarity(spoilt, private, foreground=False)
    seen = similarity_lib.similarity(spoilt, private, foreground=False, window=(8, 9))
    assert whole.ssim[0] < 0.9
    assert seen.ssim[0] == pytest.approx(1)
    assert seen.l1[0] == 0


def test_blank_scores_high_by_plain_ssim_but_not_by_foreground(digits):
    private = digits.of_class(1).images[:80]
    blank = np.full((1, *private.shape[1:]), -1, np.float32)
    plain = similarity_lib.similarity(blank, private, foreground=False).ssim[0]
    by_foreground = similarity_lib.similarity(blank, private, foreground=True).ssim[0]
    assert plain > 0.2  # The trap: most windows of a thin digit are empty.
    assert by_foreground < 0.1


@pytest.mark.parametrize("target", [1, 3, 8])
def test_real_images_score_above_noise_blank_and_other_classes(digits, target):
    of_class = digits.of_class(target).images
    private, real = of_class[:80], of_class[80:140]
    other = digits.of_class((target + 1) % 10).images[:60]
    noise = np.random.default_rng(0).uniform(-1, 1, real.shape)
    blank = np.full_like(real[:1], -1)

    def mean_ssim(images):
        return similarity_lib.similarity(images, private, foreground=True).ssim.mean()

    score = mean_ssim(real)
    assert score > 0.5
    assert score > mean_ssim(other) + 0.1
    assert score > mean_ssim(noise) + 0.4
    assert score > mean_ssim(blank) + 0.4


def test_mean_pairwise_l1_by_hand():
    images = np.concatenate([constant(-1), constant(0), constant(1)])
    # Pairs: 1, 2, 1.
    assert similarity_lib.mean_pairwise_l1(images) == pytest.approx(4 / 3)
    assert similarity_lib.mean_pairwise_l1(np.repeat(images[:1], 5, axis=0)) == 0
    assert similarity_lib.mean_pairwise_l1(images[:1]) is None


@pytest.mark.parametrize(
    "images, private, window, expected",
    [
        (constant(0)[0], constant(0), None, "numpy.expand_dims"),
        (constant(0), constant(0, side=9), None, "same data source"),
        (constant(0), constant(0)[:0], None, "at least one private image"),
        (constant(np.nan), constant(0), None, "not finite"),
        (constant(0, side=6), constant(0, side=6), None, "at least 7x7"),
        (constant(0), constant(0), (9, 8), "does not lie inside"),
        (constant(0), constant(0), (8, 0), "does not lie inside"),
    ],
)
def test_bad_input_is_one_line(images, private, window, expected):
    with pytest.raises(errors.InputError, match=expected) as raised:
        similarity_lib.similarity(images, private, foreground=True, window=window)
    assert "\n" not in str(raised.value)
