"""Distances between sets of images in a classifier's features: FID, KID and IS.

The feature network is the judge (`tff_leak.metrics.judge`), not an Inception network
trained on photographs, so the figures compare with each other and not with those of
other papers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg

from tff_leak import errors

if TYPE_CHECKING:
    from tff_leak.metrics.judge import Judge

_BLOCK = 1000


def fid(features: np.ndarray, real_features: np.ndarray) -> float | None:
    """Frechet distance of the Gaussians fitted to two sets (Heusel et al., 2017).

    |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of the square root is taken
    as the sum of the square roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which
    are those of C1 C2: real and non-negative also when there are fewer samples than
    features and the covariances are singular. With few samples the distance is
    biased upwards; compare sets of like size, or use `kid`.

    Args:
      features: float [n, d].
      real_features: float [m, d].

    Returns:
      The distance, at least 0; None when either set has fewer than 2 samples.

    Raises:
      InputError: If the two differ in d.
    """
    x, y = _matching(features, real_features)
    if min(len(x), len(y)) < 2:
        return None
    covariance_x = np.atleast_2d(np.cov(x, rowvar=False))
    covariance_y = np.atleast_2d(np.cov(y, rowvar=False))
    values, vectors = linalg.eigh(covariance_x)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = linalg.eigvalsh(root @ covariance_y @ root)
    trace_of_root = np.sqrt(np.clip(product, 0, None)).sum()
    means = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    traces = np.trace(covariance_x) + np.trace(covariance_y)
    return float(max(means + traces - 2 * trace_of_root, 0.0))


def kid(features: np.ndarray, real_features: np.ndarray) -> float | None:
    """Kernel distance: the unbiased estimate of MMD^2 (Binkowski et al., 2018, Eq. 4).

    The kernel is (x . y / d + 1)^3. Unbiased, so the figure may be below 0 for two
    sets from one distribution. All samples are used at once, without subsets.

    Args:
      features: float [n, d].
      real_features: float [m, d].

    Returns:
      The estimate; None when either set has fewer than 2 samples.

    Raises:
      InputError: If the two differ in d.
    """
    x, y = _matching(features, real_features)
    if min(len(x), len(y)) < 2:
        return None
    between = _kernel_sum(x, y) / (len(x) * len(y))
    return float(_mean_over_pairs(x) + _mean_over_pairs(y) - 2 * between)


def inception_score(probabilities: np.ndarray) -> float | None:
    """Inception Score, exp E KL(p(y|x) || p(y)) (Salimans et al., 2016).

    Over all samples at once. Between 1 (the classifier says the same of every sample)
    and the number of columns (certain of each sample, all classes equally frequent).
    Samples of one class only score near 1, however good they are; the figure over
    several targets says more.

    Args:
      probabilities: float [n, k], rows that sum to 1. With a judge's
        `all_probabilities`, "none of the classes" counts as one more class: samples
        that are all rejected with certainty score 1.

    Returns:
      The score; None when n is 0.
    """
    p = np.asarray(probabilities, np.float64)
    if not len(p):
        return None
    tiny = np.finfo(np.float64).tiny
    marginal = p.mean(axis=0, keepdims=True)
    ratio = np.log(np.maximum(p, tiny)) - np.log(np.maximum(marginal, tiny))
    return float(np.exp((p * ratio).sum(axis=1).mean()))


def sample_quality(images: np.ndarray, real: np.ndarray, judge: Judge) -> dict:
    """Inception Score, FID and KID of samples against real pictures, ready for JSON.

    The same score of the real pictures stands beside them. Pictures that the judge was
    trained on may be among these: their score is then too good, not the samples'.

    Args:
      images: float [n, H, W, C] in [-1, 1].
      real: float [m, H, W, C] in [-1, 1].
      judge: the feature network.

    Returns:
      {samples, real_samples, inception_score, real_inception_score, fid, kid}; None
      where a figure is not defined.
    """
    features, of_real = judge.features(images), judge.features(real)
    scores = [
        inception_score(judge.all_probabilities(part)) for part in (features, of_real)
    ]
    return {
        "samples": len(images),
        "real_samples": len(real),
        "inception_score": scores[0],
        "real_inception_score": scores[1],
        "fid": fid(features, of_real),
        "kid": kid(features, of_real),
    }


def _mean_over_pairs(x: np.ndarray) -> float:
    """Mean of the kernel over the pairs of different samples."""
    diagonal = _cube((x * x).sum(axis=1) / x.shape[1] + 1).sum()
    return (_kernel_sum(x, x) - diagonal) / (len(x) * (len(x) - 1))


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    """Sum of the kernel over all pairs of a row of x and a row of y.

    In blocks of rows: the whole matrix of MNIST's training images has 27 GB.
    """
    blocks = (x[start : start + _BLOCK] for start in range(0, len(x), _BLOCK))
    return sum(_cube(block @ y.T / x.shape[1] + 1).sum() for block in blocks)


def _cube(values: np.ndarray) -> np.ndarray:
    return values * values * values  # `** 3` takes ten times as long


def _matching(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise errors.InputError(
            f"Features {x.shape} and {y.shape} cannot be compared; expected [n, d] and "
            "[m, d]; compute both with the same judge."
        )
    return x, y
