"""What the evaluations of several experiments have in common."""

import pathlib
from collections.abc import Callable

import tensorflow as tf

from tff_leak.data.sources import Examples, Source
from tff_leak.metrics.judge import Judge, train_judge
from tff_leak.metrics.kept_judges import kept_judge
from tff_leak.models.network import Network, Weights, visible_window
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role

_BATCH = 1000

_judges: pathlib.Path | None = None


def keep_judges(folder: pathlib.Path | None) -> None:
    """From now on looks for judges in a folder and keeps them there; None: nowhere."""
    global _judges
    _judges = folder


def build_accuracy(network: Network, test: Examples) -> Callable[[Weights], float]:
    """Returns a function that measures a classifier's weights on `test`, in [0, 1]."""
    images, labels = tf.constant(test.images), tf.constant(test.labels)

    @tf.function
    def hits(weights, start):
        logits = network.outputs(weights, images[start : start + _BATCH])
        answers = tf.argmax(logits, axis=1, output_type=tf.int32)
        right = tf.equal(answers, labels[start : start + _BATCH])
        return tf.reduce_sum(tf.cast(right, tf.int32))

    def accuracy(weights: Weights) -> float:
        starts = range(0, len(test), _BATCH)
        total = sum(int(hits(weights, tf.constant(start))) for start in starts)
        return total / len(test)

    return accuracy


def build_judge(
    network: Network, source: Source, examples: Examples, *, seed: int
) -> tuple[Judge, tuple[int, int]]:
    """Trains, or finds, the judge that looks at what the attacked network can see.

    Args:
      network: the attacked classifier.
      source: where the pictures come from.
      examples: the judge's part of it, at least one.
      seed: the run's.

    Returns:
      The judge, and how many leading rows and columns the network sees.
    """
    window = visible_window(network, seeding.root(seed))
    judge = kept_judge(
        _judges,
        train_judge,
        examples,
        num_classes=source.num_classes,
        image_shape=source.image_shape,
        seed=int(seeding.generator(seed, Role.JUDGE).integers(2**31)),
        mean_pixels_visible=window,
    )
    return judge, window
