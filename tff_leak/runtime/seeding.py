"""Stateless randomness: every draw is a function of (seed, role, round, ...).

Nothing keeps a random state, so a run that was killed and resumed, or a participant
that is computed on another machine, draws the same numbers.
"""

import enum

import numpy as np
import tensorflow as tf


class Role(enum.IntEnum):
    """What a random stream is for. Values are part of a run's identity: append only."""

    MODEL = 0
    GENERATOR = 1
    PARTICIPANT = 2
    SHUFFLE = 3
    UPLOAD = 4
    DOWNLOAD = 5
    LATENT = 6
    FAKES = 7
    SAMPLES = 8
    TURNS = 9
    STALENESS = 10
    JUDGE = 11
    DATA = 12
    PARTITION = 13
    TURN = 14
    SPARSE_VECTOR = 15
    INVERSION = 16
    KEYS = 17
    KEY_GUESS = 18
    FIXED_LAYER = 19
    KEY_SEARCH = 20
    REPRESENTATIVES = 25
    SERVER_GAN = 26
    RECORD_NOISE = 35
    RECORD_SAMPLING = 36
    LOCAL_NOISE = 37
    USER_NOISE = 38
    BOOTSTRAP = 39
    MEMBERSHIP = 45


def root(seed: int) -> np.ndarray:
    """Returns the root of a run's streams: int32 `[2]`, from any non-negative int."""
    words = np.random.SeedSequence(seed).generate_state(2, np.uint32)
    return words.view(np.int32).copy()


def derive(seed: tf.Tensor, *path: int | tf.Tensor) -> tf.Tensor:
    """Returns the stream at `path` below `seed`.

    Args:
      seed: int32 `[2]`, a root or an already derived stream.
      *path: ints (a `Role`, a round, a step, a participant), scalars.

    Returns:
      int32 `[2]`, for TensorFlow's `stateless_*` functions.
    """
    for step in path:
        seed = tf.random.fold_in(tf.cast(seed, tf.int32), tf.cast(step, tf.int32))
    return seed


def generator(seed: int, role: Role, *path: int) -> np.random.Generator:
    """Returns NumPy's generator for (seed, role, ...), for work outside TensorFlow."""
    return np.random.default_rng([seed, int(role), *path])
