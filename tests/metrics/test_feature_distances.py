import numpy as np
import pytest
from scipy import linalg

from tff_leak import errors
from tff_leak.metrics import feature_distances


def test_fid_of_one_feature_by_hand():
    # Means 0 and 3, sample variances 2 and 8: 9 + 2 + 8 - 2 sqrt(16).
    x, y = np.array([[-1.0], [1.0]]), np.array([[1.0], [5.0]])
    assert feature_distances.fid(x, y) == pytest.approx(11)


def test_fid_of_identical_sets_is_zero_also_with_few_samples():
    x = np.random.default_rng(0).normal(size=(7, 40))
    assert feature_distances.fid(x, x) == pytest.approx(0, abs=1e-5)


def test_fid_equals_the_formula_with_scipys_matrix_square_root():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 6)), rng.normal(1, 2, size=(80, 6))
    y[:, 0] += y[:, 1]
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(cov_x @ cov_y).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2)
    expected += np.trace(cov_x + cov_y - 2 * root)
    assert feature_distances.fid(x, y) == pytest.approx(expected, rel=1e-6)


def test_fid_of_gaussians_is_the_squared_distance_of_their_means():
    rng = np.random.default_rng(2)
    mean = np.array([1.0, -2.0, 0.0, 2.0])
    x, y = rng.normal(size=(20000, 4)), rng.normal(size=(20000, 4)) + mean
    assert feature_distances.fid(x, y) == pytest.approx(9, abs=0.2)


def test_kid_by_hand():
    # k(a, b) = (a b + 1)^3; within x: k(0, 1) = 1; within y: k(2, 2) = 125; between:
    # k(0, 2) = 1 and k(1, 2) = 27, mean 14.
    x, y = np.array([[0.0], [1.0]]), np.array([[2.0], [2.0]])
    assert feature_distances.kid(x, y) == pytest.approx(1 + 125 - 2 * 14)


def test_kid_of_many_is_summed_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 5)), rng.normal(size=(16, 5))
    together = feature_distances.kid(x, y)
    monkeypatch.setattr(feature_distances, "_BLOCK", 4)
    assert feature_distances.kid(x, y) == pytest.approx(together, rel=1e-12)


def test_kid_is_unbiased():
    rng = np.random.default_rng(3)
    same = [
        feature_distances.kid(rng.normal(size=(10, 5)), rng.normal(size=(10, 5)))
        for _ in range(400)
    ]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 4 * error
    assert min(same) < 0 < max(same)


def test_inception_score_spans_one_to_the_number_of_classes():
    assert feature_distances.inception_score(np.eye(10)) == pytest.approx(10)
    one_class = np.tile(np.eye(10)[3], (20, 1))
    assert feature_distances.inception_score(one_class) == pytest.approx(1)
    assert feature_distances.inception_score(np.full((5, 4), 0.25)) == pytest.approx(1)


def test_inception_score_by_hand():
    # Marginal (1/2, 1/2); KL of (.9, .1) to it, twice.
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9]])
    kl = 0.9 * np.log(1.8) + 0.1 * np.log(0.2)
    found = feature_distances.inception_score(probabilities)
    assert found == pytest.approx(np.exp(kl))


def test_too_few_samples_are_not_defined():
    one, two = np.zeros((1, 3)), np.zeros((2, 3))
    for distance in (feature_distances.fid, feature_distances.kid):
        assert distance(one, two) is None
        assert distance(two, one) is None
    assert feature_distances.inception_score(np.zeros((0, 3))) is None


def test_features_of_two_judges_are_refused():
    with pytest.raises(errors.InputError, match="same judge"):
        feature_distances.fid(np.zeros((3, 4)), np.zeros((3, 5)))


class _Shades:
    """Stands in for a judge: features and classes follow a picture's first pixel."""

    def features(self, images):
        return np.stack([images[:, 0, 0, 0], np.zeros(len(images))], axis=1)

    def all_probabilities(self, features):
        return np.eye(2)[(features[:, 0] > 0).astype(int)]


def test_quality_by_hand():
    images = np.full((4, 2, 2, 1), 0.5)
    real = images * np.array([1, 1, -1, -1])[:, None, None, None]
    found = feature_distances.sample_quality(images, real, _Shades())
    # Means .5 and 0; the real features' variance is 4 / 3 * .25, the samples' is 0.
    assert found["fid"] == pytest.approx(0.25 + 1 / 3)
    # k is (x y / 2 + 1)^3: 1.125^3 and .875^3. Of the real pairs a third is alike.
    alike, unlike = 1.125**3, 0.875**3
    within = alike / 3 + 2 * unlike / 3
    expected = alike + within - 2 * (alike + unlike) / 2
    assert found["kid"] == pytest.approx(expected)
    assert found["inception_score"] == pytest.approx(1)
    assert found["real_inception_score"] == pytest.approx(2)
    assert (found["samples"], found["real_samples"]) == (4, 4)
