"""How random keys lie to one another ("Key protected classification", figures 1, 8).

Pure geometry: there is no model and no data. Each trial draws its own keys, from a seed
and its number, so that trials may be made in any portions.
"""

from collections.abc import Sequence

import tensorflow as tf

from tff_leak.defences.key_protection import (
    KeyDistribution,
    draw_keys,
    largest_overlap,
    scores,
)
from tff_leak.runtime.seeding import derive

# Of a unit vector that is pulled to two keys; what it needs to settle within 1e-3.
_ASCENT_STEPS = 100
_ASCENT_RATE = 0.1


def largest_overlaps(
    dimension: int,
    distribution: KeyDistribution,
    *,
    keys: int,
    trials: Sequence[int],
    seed: tf.Tensor,
) -> tf.Tensor:
    """Figure 1: the largest product of two of some random keys, for each trial.

    Args:
      dimension: d of the keys.
      distribution: of a key's numbers.
      keys: drawn in a trial, 2 or more; 100 in the paper.
      trials: their numbers, one or more; 1000 trials in the paper, which shows their
        largest.
      seed: int32 `[2]`.

    Returns:
      float32 `[len(trials)]` in [-1, 1].
    """
    return tf.stack(
        [
            largest_overlap(draw_keys(keys, dimension, derive(seed, t), distribution))
            for t in trials
        ]
    )


def shared_class(
    dimension: int,
    distribution: KeyDistribution,
    *,
    others: int,
    trials: Sequence[int],
    seed: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Figure 8 (b) and (c): an embedding between two keys of one class.

    Two participants that share a class have a key each; the embedding of an example of
    both is drawn at random and goes up the gradient of both scores on the sphere until
    it settles. Where it settles is known: half way, at the score sqrt((1 + c) / 2) with
    c the keys' product, .707 for keys at right angles.

    Args:
      dimension: d of the keys.
      distribution: of a key's numbers.
      others: random keys of other classes in a trial; 1000 in the paper.
      trials: their numbers, one or more; 1000 trials in the paper.
      seed: int32 `[2]`.

    Returns:
      float32 `[len(trials), 2]`, the scores of the embedding with both keys, and
      float32 `[len(trials)]`, its largest absolute product with the others.
    """
    rows = []
    for trial in trials:
        drawn = draw_keys(3 + others, dimension, derive(seed, trial), distribution)
        embedding = _settled(drawn[:2], drawn[2])
        found = scores(embedding[tf.newaxis], drawn)[0]
        rows.append([found[0], found[1], tf.reduce_max(tf.abs(found[3:]))])
    table = tf.convert_to_tensor(rows)
    return table[:, :2], table[:, 2]


@tf.function(
    input_signature=[tf.TensorSpec([2, None]), tf.TensorSpec([None])],
    autograph=False,
)
def _settled(pair: tf.Tensor, embedding: tf.Tensor) -> tf.Tensor:
    step = _ASCENT_RATE * tf.reduce_sum(pair, axis=0)
    _, embedding = tf.while_loop(
        lambda index, _: index < _ASCENT_STEPS,
        lambda index, e: (index + 1, tf.math.l2_normalize(e + step)),
        (tf.constant(0), embedding),
    )
    return embedding
