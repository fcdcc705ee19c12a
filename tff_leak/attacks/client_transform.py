"""The slot of a malicious client: what it does between its download and its training.

Algorithm 1 of Hitaj et al. leaves an adversary's turn as everybody else's but for one
block: with the freshly downloaded model in hand it may change the data that it is
about to train on, and keep a private state. That block is a `ClientTransform`.

All clients of a TFF computation have the same type, adversaries and others. A private
state is therefore carried as *rows*: each of its tensors has one more axis in front,
of length 1 for an adversary and 0 for an honest participant, who so carries nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tff_leak.models.training import LocalData

State = Any  # a nested structure of tensors


class Download(NamedTuple):
    """A participant's model right after its download.

    Attributes:
      parameters: what is shared, float32 `[S]`; the first P numbers are the model's.
      statistics: the network's constants.
      fetched: bool `[S]`, which numbers the server gave in this turn; the others are
        the participant's own.
    """

    parameters: tf.Tensor
    statistics: list[tf.Tensor]
    fetched: tf.Tensor


class ClientTransform(NamedTuple):
    """What a malicious client does with its turn.

    Attributes:
      state_spec: nested `tf.TensorSpec` of one adversary's private state.
      apply: `(state, Download, LocalData, seed int32 [2]) -> (state, LocalData)`.
    """

    state_spec: State
    apply: Callable[..., tuple[State, LocalData]]


def rows_spec(spec: State) -> State:
    """Returns the `tf.TensorSpec`s of a private state that may be absent."""
    return tf.nest.map_structure(
        lambda s: tf.TensorSpec([None, *s.shape], s.dtype), spec
    )


def no_rows(spec: State) -> State:
    """Returns an honest participant's private state: NumPy arrays of length 0."""
    return tf.nest.map_structure(
        lambda s: np.zeros([0, *s.shape], s.dtype.as_numpy_dtype), spec
    )


def one_row(state: State) -> State:
    """Returns an adversary's private state as rows: NumPy arrays of length 1."""
    return tf.nest.map_structure(lambda t: np.asarray(t)[np.newaxis], state)


def only_row(rows: State) -> State:
    """Undoes `one_row`."""
    return tf.nest.map_structure(lambda t: t[0], rows)


def has_row(rows: State) -> tf.Tensor:
    """Whether a participant has a private state, and so is an adversary: bool."""
    return tf.shape(tf.nest.flatten(rows)[0])[0] > 0


def apply_to_rows(
    transform: ClientTransform,
    rows: State,
    download: Download,
    data: LocalData,
    seed: tf.Tensor,
) -> tuple[State, LocalData]:
    """Applies the transform if the participant is an adversary; otherwise nothing."""
    leaves = tf.nest.flatten(rows)

    def malicious():
        state, changed = transform.apply(only_row(rows), download, data, seed)
        tf.nest.assert_same_structure(state, transform.state_spec)
        return [t[tf.newaxis] for t in tf.nest.flatten(state)], changed

    leaves, data = tf.cond(has_row(rows), malicious, lambda: (leaves, data))
    return tf.nest.pack_sequence_as(rows, leaves), data
