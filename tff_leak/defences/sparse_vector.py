"""Differential privacy of uploads by the sparse vector technique.

Shokri and Shmatikov (CCS 2015), section 5 and its algorithm of differentially private
DSSGD, as Hitaj et al. (CCS 2017), section 9.4, use it. In one turn a participant

    draws a threshold tau + r_tau;
    goes through the parameters in random order: for each draws r_w, and
      if |bound(w, gamma)| + r_w >= tau + r_tau:
        uploads bound(bound(w, gamma) + r'_w, gamma), draws a new threshold, and
        stops once c = theta_u * P parameters were uploaded.

`bound` clips to [-gamma, gamma]. With eps the budget of the turn, eps_1 its part for
the selection and sensitivity Delta = 2 gamma, the noise is

    r_tau ~ Lap(2 c Delta / eps_1),  r_w ~ Lap(4 c Delta / eps_1),
    r'_w  ~ Lap(c Delta / (eps - eps_1)).

**Which value comes from where.** c, eps/c = 100, 10, 0.01, tau = 1e-4, gamma = 1e-3 and
the shares 8/9 and 1/9 are in Hitaj et al., section 9.4. The order of draws, the new
threshold after each upload and Delta = 2 gamma are Shokri and Shmatikov's, here by way
of public re-implementations of their algorithm, not checked against their own page. The
scales are those of NumericSparse (Dwork and Roth, *The Algorithmic Foundations of
Differential Privacy*, section 3.6), on which their algorithm stands: it writes the last
one as Lap(2 c Delta / eps_2) with eps_2 = 2/9 eps, of which the proof charges one half,
1/9 eps, to the release. Not in the text:

- w is bounded before r'_w is added. With bound(w + r'_w, gamma) alone nothing bounds
  what one person's data does to w + r'_w, and Delta = 2 gamma would be wrong.
- A parameter is considered once in a turn: the texts do not say whether one comes up
  again. So fewer than c may be uploaded, most visibly with theta_u = 1.
- c is rounded up, and what is charged is eps also where fewer than c were uploaded.

**What is guaranteed.** The selection is the variant with a new threshold after every
answer and c in the scales of both noises, algorithm 2 in Lyu, Su and Li,
*Understanding the Sparse Vector Technique for Differential Privacy* (PVLDB 2017), one
of the two that they find private among the published ones; the values are released
with noise of their own, not with that of the comparison (which breaks their algorithm
3). So one upload is eps-differentially private, eps = c * (eps/c). Since Delta covers
the whole range of a bounded parameter, this holds between *any* two local data sets of
the participant, records or all of it, given the model that it downloaded.

**What is not.**

- eps/c is a guarantee about nothing: it is the price of one parameter, and an upload
  has c of them. With 100,000 parameters and eps/c = 10 a turn has eps = 1,000,000, and
  exp(eps) bounds no adversary. Numbers of a meaningful size need eps/c of about 1/c.
- Turns add up (basic composition, `total_epsilon`): over T turns T * eps.
- Only the upload is covered. The count of examples and the loss that a process reports
  beside it are not noised, nor is what an adversary on the participant's machine sees.
- It hides what changes with somebody's data, not what data have in common: as long as
  the model learns a class, so can who looks at it (Hitaj et al., section 9.4). A
  malicious participant need not add its noise.
- Noise in 32-bit floating point has gaps that an exact proof does not allow for
  (Mironov, CCS 2012).
"""

import dataclasses
import math
from typing import NamedTuple

import tensorflow as tf

from tff_leak.errors import InputError
from tff_leak.runtime.seeding import derive


@dataclasses.dataclass(frozen=True)
class SparseVector:
    """What participants agree on; the defaults are Hitaj et al.'s (section 9.4).

    Attributes:
      epsilon_per_parameter: eps/c > 0, finite; 100, 10 and 0.01 in the paper.
      upload_fraction: theta_u in (0, 1]; at most c = ceil(theta_u * P) parameters are
        uploaded in a turn.
      threshold: tau >= 0, compared with the noisy magnitude of a change.
      bound: gamma > 0; changes and what is uploaded are clipped to [-gamma, gamma].
      selection_share: eps_1 / eps in (0, 1), the share of the budget that pays for
        the selection; the rest pays for the values.
    """

    epsilon_per_parameter: float
    upload_fraction: float = 1.0
    threshold: float = 1e-4
    bound: float = 1e-3
    selection_share: float = 8 / 9

    def __post_init__(self):
        epsilon = self.epsilon_per_parameter
        if not (epsilon > 0 and math.isfinite(epsilon)):
            raise InputError(
                f"epsilon_per_parameter is {epsilon}: expected a finite number above "
                "0; for no privacy leave the sparse vector technique out"
            )
        if not 0 < self.upload_fraction <= 1:
            raise InputError(
                f"upload_fraction is {self.upload_fraction}: expected a fraction in "
                "(0, 1]; 1 considers every parameter"
            )
        if not (self.threshold >= 0 and math.isfinite(self.threshold)):
            raise InputError(
                f"threshold is {self.threshold}: expected a finite tau >= 0; the "
                "paper has 0.0001"
            )
        if not (self.bound > 0 and math.isfinite(self.bound)):
            raise InputError(
                f"bound is {self.bound}: expected a finite gamma > 0, without which "
                "no noise is enough; the paper has 0.001"
            )
        if not 0 < self.selection_share < 1:
            raise InputError(
                f"selection_share is {self.selection_share}: expected a share in "
                "(0, 1), since selection and values both cost; the paper has 8/9"
            )

    @property
    def threshold_scale(self) -> float:
        """Scale of r_tau, 2 c Delta / eps_1: c is in eps_1 too, and cancels."""
        return 4 * self.bound / (self.selection_share * self.epsilon_per_parameter)

    @property
    def candidate_scale(self) -> float:
        """Scale of r_w, 4 c Delta / eps_1."""
        return 2 * self.threshold_scale

    @property
    def release_scale(self) -> float:
        """Scale of r'_w, c Delta / (eps - eps_1)."""
        share = 1 - self.selection_share
        return 2 * self.bound / (share * self.epsilon_per_parameter)


class Noise(NamedTuple):
    """Everything random in one turn.

    Attributes:
      order: int32 `[P]`, a permutation: `order[i]` is considered as the i-th.
      threshold: float32 `[P]`: entry i is r_tau if a threshold is drawn right before
        the i-th parameter is considered; the other entries are not used.
      candidate: float32 `[P]`, r_w by parameter.
      release: float32 `[P]`, r'_w by parameter.
    """

    order: tf.Tensor
    threshold: tf.Tensor
    candidate: tf.Tensor
    release: tf.Tensor


class Release(NamedTuple):
    """A private upload and its price.

    Attributes:
      upload: float32 `[P]`, in [-gamma, gamma] where it was chosen, zero elsewhere.
      epsilon: float64 scalar, what the participant has spent with this upload.
    """

    upload: tf.Tensor
    epsilon: tf.Tensor


def turn_epsilon(settings: SparseVector, num_parameters: int) -> float:
    """Returns eps = c * (eps/c), what a participant spends in one turn."""
    return _limit(settings, num_parameters) * settings.epsilon_per_parameter


def total_epsilon(settings: SparseVector, num_parameters: int, turns: int) -> float:
    """Returns what a participant has spent after `turns` turns (basic composition)."""
    return turns * turn_epsilon(settings, num_parameters)


def private_upload(
    settings: SparseVector, update: tf.Tensor, seed: tf.Tensor
) -> Release:
    """Returns what a participant uploads, and what that costs.

    Args:
      settings: the agreement.
      update: newParameters - oldParameters (Hitaj et al., algorithm 1, line 14),
        float32 `[P]`, finite, P known when traced.
      seed: int32 `[2]`, of this participant and turn.

    Returns:
      The upload; at most ceil(theta_u * P) entries are not zero.
    """
    noise = draw_noise(settings, _size(update), seed)
    return release(settings, update, noise)


def draw_noise(settings: SparseVector, num_parameters: int, seed: tf.Tensor) -> Noise:
    """Draws all noise of one turn, from the stream `seed` (int32 `[2]`)."""

    def laplace(stream, scale):
        # The difference of two exponentials: finite, and symmetric by its making.
        uniform = tf.random.stateless_uniform([2, num_parameters], derive(seed, stream))
        exponential = -tf.math.log1p(-uniform)
        return scale * (exponential[0] - exponential[1])

    # Integers: among a million 32-bit floats in [0, 1) many are equal.
    keys = tf.random.stateless_uniform(
        [num_parameters], derive(seed, 0), None, None, tf.int32
    )
    return Noise(
        order=tf.argsort(keys, stable=True),
        threshold=laplace(1, settings.threshold_scale),
        candidate=laplace(2, settings.candidate_scale),
        release=laplace(3, settings.release_scale),
    )


def release(settings: SparseVector, update: tf.Tensor, noise: Noise) -> Release:
    """Returns the upload that given noise leads to; see `private_upload`."""
    size = _size(update)
    bounded = tf.clip_by_value(update, -settings.bound, settings.bound)
    scores = tf.abs(bounded) + noise.candidate
    in_order = _scan(
        tf.gather(scores, noise.order),
        settings.threshold + noise.threshold,
        _limit(settings, size),
    )
    chosen = tf.scatter_nd(noise.order[:, tf.newaxis], in_order, [size]) > 0
    values = tf.clip_by_value(bounded + noise.release, -settings.bound, settings.bound)
    epsilon = tf.constant(turn_epsilon(settings, size), tf.float64)
    return Release(tf.where(chosen, values, 0.0), epsilon)


def _scan(scores: tf.Tensor, thresholds: tf.Tensor, limit: int) -> tf.Tensor:
    """Which candidates a sequential scan takes.

    The scan holds a threshold, takes the first candidate at or above it, and then
    holds the threshold that belongs to the next candidate. From a threshold that was
    drawn at i the scan therefore always goes to the same place, `following[i]`, and on
    with the threshold drawn at `following[i] + 1`. So the scan is a path of pointers
    from 0, and pointer doubling marks all of it in log P steps.

    Args:
      scores: float32 `[P]`, in the order in which they are considered.
      thresholds: float32 `[P]`; entry i is used if one is drawn right before i.
      limit: the scan ends after so many.

    Returns:
      int32 `[P]`, 1 where a candidate was taken, 0 elsewhere.
    """
    size = _size(scores)
    following = _first_reaching(scores, thresholds)
    # Node P is the end, and leads to itself.
    pointer = tf.concat([tf.minimum(following + 1, size), [size]], axis=0)
    on_path = tf.concat([[1], tf.zeros([size], tf.int32)], axis=0)
    for _ in range(size.bit_length()):
        # Here `on_path` has the first 2^k nodes, and `pointer` leads 2^k nodes on.
        on_path = tf.maximum(on_path, _spread(on_path, pointer, size + 1))
        pointer = tf.gather(pointer, pointer)
    taken = _spread(on_path[:-1], following, size + 1)[:-1]
    return taken * tf.cast(tf.cumsum(taken) <= limit, tf.int32)


def _first_reaching(scores: tf.Tensor, thresholds: tf.Tensor) -> tf.Tensor:
    """For each i the first j >= i with scores[j] >= thresholds[i], P if there is none.

    Binary search over the maxima of windows of 2^k scores: int32 `[P]`.
    """
    size = _size(scores)
    levels = size.bit_length()
    # Level k has max(scores[j : j + 2^k]); behind the end everything is reached.
    maxima = [tf.concat([scores, [math.inf]], axis=0)]
    for level in range(levels - 1):
        shorter, width = maxima[-1], 2**level
        shifted = tf.concat([shorter[width:], tf.fill([width], math.inf)], axis=0)
        maxima.append(tf.maximum(shorter, shifted))
    position = tf.range(size)
    for level in reversed(range(levels)):
        below = tf.gather(maxima[level], position) < thresholds
        position += tf.where(below, 2**level, 0)
    return position


def _spread(marks: tf.Tensor, targets: tf.Tensor, size: int) -> tf.Tensor:
    """Marks (0 or 1) of nodes carried to their targets: int32 `[size]`."""
    return tf.maximum(tf.math.unsorted_segment_max(marks, targets, size), 0)


def _limit(settings: SparseVector, num_parameters: int) -> int:
    return math.ceil(settings.upload_fraction * num_parameters)


def _size(vector: tf.Tensor) -> int:
    size = vector.shape[0]
    if size is None:
        raise ValueError("Expected a vector of known length, found None.")
    return size
