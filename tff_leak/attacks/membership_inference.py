"""Membership inference: who was among the training data, by the shared model's loss.

Yeom et al., "Privacy Risk in Machine Learning: Analyzing the Connection to
Overfitting" (CSF 2018): an example is taken for a member if its loss is below a
threshold. The adversary's advantage is

    max over thresholds of  P(taken | member) - P(taken | not member)  in [0, 1],

here with the threshold that is best on the very examples that are scored, so an upper
bound of what a threshold chosen elsewhere gives. On models that tell nothing it is
above 0 by chance, the more so the fewer examples: it is the one-sided statistic of
Kolmogorov and Smirnov, whose test says how often chance alone gives as much.

The curve is that of tensorflow-privacy's `privacy_tests`, their threshold attack. Their
own advantage takes the difference's absolute value, so that it also rises where members
have the larger losses; Yeom et al.'s and this one do not.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from scipy import stats
from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
    data_structures,
    membership_inference_attack,
)

from tff_leak.errors import InputError
from tff_leak.models.network import Network, Weights
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role

_BATCH = 1000
LOW_FALSE_POSITIVE_RATE = 0.01
"""Of non-members, for `true_positive_rate`."""


class Membership(NamedTuple):
    """What a model's losses tell of membership.

    Attributes:
      auc: area under the ROC curve, in [0, 1]; 0.5 tells nothing.
      advantage: of the best threshold, in [0, 1]; 0 tells nothing.
      p_value: how often chance alone gives that advantage or more (one-sided test of
        Kolmogorov and Smirnov).
      true_positive_rate: share of the members that are found where at most one in a
        hundred non-members is taken for one; for that, 100 non-members are needed:
        below, it is the share found without any error.
    """

    auc: float
    advantage: float
    p_value: float
    true_positive_rate: float


def infer_membership(members: np.ndarray, others: np.ndarray) -> Membership:
    """Scores the attack by the loss.

    Args:
      members: float `[n]`, losses of examples that the model was trained on.
      others: float `[m]`, losses of examples from the same source that it was not
        trained on.

    Raises:
      InputError: if either has no examples or a loss is not finite.
    """
    members, others = (np.asarray(part, np.float64) for part in (members, others))
    for name, losses in (("members", members), ("others", others)):
        if losses.ndim != 1 or not len(losses) or not np.isfinite(losses).all():
            raise InputError(
                f"losses of {name} have shape {list(losses.shape)}, "
                f"{int((~np.isfinite(losses)).sum())} not finite: expected a vector of "
                "at least one finite loss; give both groups"
            )
    curve = _curve(members, others)
    # Not from the curve, which has its corners alone and so none where losses tie.
    allowed = int(LOW_FALSE_POSITIVE_RATE * len(others))
    least = np.sort(others)[allowed]
    # "less" speaks of losses, "greater" of their distribution function.
    test = stats.ks_2samp(members, others, alternative="greater")
    return Membership(
        auc=float(curve.get_auc()),
        advantage=float((curve.tpr - curve.fpr).max()),
        p_value=float(test.pvalue),
        true_positive_rate=float(np.mean(members < least)),
    )


def bootstrap_intervals(
    members: np.ndarray,
    others: np.ndarray,
    *,
    seed: int,
    resamples: int = 500,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Intervals of `auc` and `advantage` over examples, for one model.

    Members and others are drawn anew, with replacement, each among themselves (Efron
    and Tibshirani, "An Introduction to the Bootstrap", chapter 13). An interval is over
    examples and says nothing about other runs of the training.

    Of the AUC it is the percentile interval. The advantage is a maximum over
    thresholds: it lies above what the model tells, and that of a resample above it once
    more, so that a percentile would leave the truth below the interval (always where
    nothing leaks). Its low end is therefore the advantage less the most by which, in
    all but `(1 - level) / 2` of the resamples, the ROC curve rises anywhere above the
    one it is drawn from: no threshold's true advantage is below that, whichever is
    best. The high end stays the percentile, which is too high if anything.

    Args:
      members: see `infer_membership`.
      others: see `infer_membership`.
      seed: of the draws.
      resamples: their number.
      level: coverage, in (0, 1): at least that, of the advantage.

    Returns:
      (low, high) by name, each in [0, 1].

    Raises:
      InputError: see `infer_membership`.
    """
    infer_membership(members, others)  # Its checks.
    rng = seeding.generator(seed, Role.BOOTSTRAP)
    grid = np.unique(np.concatenate([members, others]))
    taken, mistaken = (
        _draw_shares(rng, part, grid, resamples) for part in (members, others)
    )
    tail = (1 - level) / 2
    low, high = np.quantile(_areas(taken, mistaken)[1:], [tail, 1 - tail])
    gaps = (taken - mistaken).cumsum(axis=1)
    advantages = gaps.max(axis=1).clip(0)
    rises = (gaps[1:] - gaps[0]).max(axis=1)
    lowest = advantages[0] - np.quantile(rises, 1 - tail)
    ends = np.clip([low, high, lowest, np.quantile(advantages[1:], 1 - tail)], 0, 1)
    low, high, lowest, highest = map(float, ends)
    return {"auc": (low, high), "advantage": (lowest, highest)}


def _draw_shares(
    rng: np.random.Generator, losses: np.ndarray, grid: np.ndarray, resamples: int
) -> np.ndarray:
    """Shares of the losses at each point: as they are, then of each resample."""
    values, counts = np.unique(losses, return_counts=True)
    shares = np.zeros([1 + resamples, len(grid)])
    where = np.searchsorted(grid, values)
    shares[0, where] = counts / len(losses)
    drawn = rng.multinomial(len(losses), counts / len(losses), size=resamples)
    shares[1:, where] = drawn / len(losses)
    return shares


def _areas(members: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How often a member's loss is the smaller, ties by half, of each row's shares."""
    below = members.cumsum(axis=1) - members / 2
    return (below * others).sum(axis=1)


def _curve(members: np.ndarray, others: np.ndarray) -> data_structures.RocCurve:
    """Shares of others (`fpr`) and of members (`tpr`) that are taken for members."""
    losses = data_structures.AttackInputData(
        loss_train=np.asarray(members), loss_test=np.asarray(others)
    )
    # Beside the curve they bound an epsilon, which nobody asks for and which divides
    # by 0 where a threshold takes nobody.
    with np.errstate(divide="ignore", invalid="ignore"):
        results = membership_inference_attack.run_attacks(
            losses, attack_types=(data_structures.AttackType.THRESHOLD_ATTACK,)
        )
    [result] = results.single_attack_results
    return result.roc_curve


def example_losses(
    network: Network, weights: Weights, images: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Returns each example's cross-entropy in nats, at inference: float32 `[n]`.

    Args:
      network: a classifier that returns logits.
      weights: of the shared model.
      images: float32 `[n, *input_shape]`.
      labels: int32 `[n]`.
    """
    losses = _build_losses(network)
    weights = Weights(list(weights.trainable), list(weights.statistics))
    parts = [
        losses(weights, images[i : i + _BATCH], labels[i : i + _BATCH]).numpy()
        for i in range(0, len(images), _BATCH)
    ]
    return np.concatenate([np.zeros(0, np.float32), *parts])


@functools.lru_cache(maxsize=8)
def _build_losses(network: Network) -> Callable[..., tf.Tensor]:
    """One traced function for all rounds of a network."""

    @tf.function(reduce_retracing=True)
    def losses(weights, inputs, classes):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            classes, network.outputs(weights, inputs)
        )

    return losses
