"""Selective parameter sharing of Shokri and Shmatikov, as Hitaj et al. use it.

Participants agree on an upload fraction theta_u, a download fraction theta_d, a
threshold tau and a bound gamma (Hitaj et al., algorithm 1, "pre-training phase"
3-6, and the criteria that item 8 cites). Both functions work on the flat vector of
all `P` parameters.
"""

import dataclasses
import enum
import math
from typing import NamedTuple

import tensorflow as tf

from tff_leak.errors import InputError


class Criterion(enum.Enum):
    """How the parameters to upload are chosen."""

    LARGEST = "largest"  # the fraction with the largest magnitude
    RANDOM = "random"  # a random fraction of all, from those above the threshold


class DownloadCriterion(enum.Enum):
    """How the parameters to fetch are chosen."""

    RECENT = "recent"  # those with the server's largest decayed counts of uploads
    RANDOM = "random"  # any, anew each turn


@dataclasses.dataclass(frozen=True)
class SelectiveSharing:
    """What participants agree on.

    Attributes:
      upload_fraction: theta_u in (0, 1], of all parameters.
      download_fraction: theta_d in (0, 1], of all parameters.
      criterion: how uploads are chosen.
      threshold: tau >= 0, for `RANDOM` only: changes not above it in magnitude are
        never uploaded (None: 0).
      bound: gamma > 0; changes are clipped to [-gamma, gamma] before they are
        chosen (None: not clipped).
      download_criterion: how downloads are chosen. `RECENT` is Shokri and Shmatikov's;
        Hitaj et al. do not say. With `RECENT` downloads and `LARGEST` uploads much the
        same parameters are exchanged all the time, and the others stay as each
        participant has them.
    """

    upload_fraction: float = 1.0
    download_fraction: float = 1.0
    criterion: Criterion = Criterion.LARGEST
    threshold: float | None = None
    bound: float | None = None
    download_criterion: DownloadCriterion = DownloadCriterion.RECENT

    def __post_init__(self):
        for name in ("upload_fraction", "download_fraction"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise InputError(
                    f"{name} is {value}: expected a fraction in (0, 1]; "
                    "1 shares every parameter"
                )
        if self.threshold is not None and self.threshold < 0:
            raise InputError(
                f"threshold is {self.threshold}: expected tau >= 0; 0 keeps all"
            )
        if self.threshold is not None and self.criterion is Criterion.LARGEST:
            raise InputError(
                f"threshold is {self.threshold} with criterion largest: expected it "
                "with criterion random only, which selects above it; leave it out"
            )
        if (
            self.download_fraction == 1
            and self.download_criterion is not DownloadCriterion.RECENT
        ):
            raise InputError(
                f"download_criterion is {self.download_criterion.value} with "
                "download_fraction 1: expected it with a fraction below 1, since all "
                "is fetched; leave it out"
            )
        if self.bound is not None and self.bound <= 0:
            raise InputError(
                f"bound is {self.bound}: expected gamma > 0; leave it out for none"
            )


def select_upload(
    sharing: SelectiveSharing, update: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Returns what is uploaded of a participant's update.

    Args:
      sharing: the agreement.
      update: newParameters - oldParameters, float32 `[P]` (algorithm 1, line 14).
      seed: int32 `[2]`, for `RANDOM`.

    Returns:
      float32 `[P]`: the bounded update where it was chosen, zero elsewhere. At most
      ceil(theta_u * P) entries are not zero.
    """
    if sharing.bound is not None:
        update = tf.clip_by_value(update, -sharing.bound, sharing.bound)
    magnitude = tf.abs(update)
    if sharing.criterion is Criterion.RANDOM:
        # Random order among those above the threshold, all others behind them.
        above = tf.cast(magnitude > (sharing.threshold or 0.0), tf.float32)
        score = above * tf.random.stateless_uniform(tf.shape(update), seed, 0.5, 1.0)
    else:
        score = magnitude
    chosen = _top(score, sharing.upload_fraction) & (score > 0)
    return tf.where(chosen, update, 0.0)


class Fetched(NamedTuple):
    """A participant's parameters after its download.

    Attributes:
      parameters: float32 `[P]`, the server's where fetched, the participant's own
        elsewhere.
      mask: bool `[P]`, which were fetched.
    """

    parameters: tf.Tensor
    mask: tf.Tensor


def select_download(
    sharing: SelectiveSharing,
    local: tf.Tensor,
    shared: tf.Tensor,
    recency: tf.Tensor,
    seed: tf.Tensor,
) -> Fetched:
    """Returns a participant's parameters after its download.

    Shokri and Shmatikov's server counts uploads per parameter with a decay, and a
    participant fetches the theta_d * P parameters with the largest count, or a random
    theta_d * P of all (`DownloadCriterion`).

    Args:
      sharing: the agreement.
      local: the participant's own parameters, float32 `[P]`.
      shared: the parameter server's, float32 `[P]`.
      recency: the server's decayed count of uploads, float32 `[P]`.
      seed: int32 `[2]`; it decides between equal counts, and with `RANDOM` alone.
    """
    if sharing.download_fraction == 1:
        return Fetched(shared, tf.ones_like(shared, tf.bool))
    if sharing.download_criterion is DownloadCriterion.RANDOM:
        recency = tf.zeros_like(recency)
    # A stable sort of a random permutation: equal counts come in random order, however
    # large they are.
    noise = tf.random.stateless_uniform(tf.shape(recency), seed)
    permutation = tf.argsort(noise)
    shuffled = tf.gather(recency, permutation)
    ranked = tf.gather(
        permutation, tf.argsort(shuffled, direction="DESCENDING", stable=True)
    )
    count = _count(sharing.download_fraction, recency.shape[0])
    mask = _mask(ranked[:count], recency.shape[0])
    return Fetched(tf.where(mask, shared, local), mask)


def _top(score: tf.Tensor, fraction: float) -> tf.Tensor:
    """A mask `[P]` of the ceil(fraction * P) largest scores, ties by position."""
    count = _count(fraction, score.shape[0])
    if count == score.shape[0]:
        return tf.ones(score.shape, tf.bool)
    _, indices = tf.math.top_k(score, count, sorted=False)
    return _mask(indices, score.shape[0])


def _count(fraction: float, size: int | None) -> int:
    if size is None:
        raise ValueError("Expected a vector of known length, found None.")
    return math.ceil(fraction * size)


def _mask(indices: tf.Tensor, size: int) -> tf.Tensor:
    """A mask `[size]` that is true at `indices`."""
    hits = tf.ones(tf.shape(indices), tf.int32)
    return tf.scatter_nd(indices[:, tf.newaxis], hits, [size]) > 0
