"""Noise that clients of a learning process add: a stream for each client and round.

A client work that draws noise needs to know in which round it is and whose it is. The
round is counted in its state, a `ClientNoiseState`; who it is comes with the data
(`attacks.observation.client_data`). From both and the run's seed a client's stream
follows, so that a resumed run draws the same noise.

The type of the state says that a process's clients noise what they send; the check of
a threat model reads it there.

What is simulated: the streams derive from the run's seed, which whoever runs the
simulation knows. In a deployment each client draws from a source of its own that nobody
else can compute; with a known seed noise can be subtracted.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.attacks.observation import ClientData
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role, derive


class ClientNoiseState(NamedTuple):
    """State of a client work whose clients draw noise.

    Attributes:
      inner: the state of the client work without noise.
      round: int32, rounds so far.
    """

    inner: Any
    round: Any


def count_rounds(initialize: tff.Computation) -> tff.Computation:
    """Wraps a client work's `initialize`: `( -> ClientNoiseState@SERVER)`."""

    @tff.tensorflow.computation(initialize.type_signature.result.member)
    def first(inner):
        return ClientNoiseState(inner, tf.constant(0))

    @tff.federated_computation
    def counted():
        return tff.federated_map(first, initialize())

    return counted


def after_round(state: Any, inner: Any) -> Any:
    """The state after a round, in a federated computation.

    Args:
      state: `ClientNoiseState@SERVER` before it.
      inner: the inner client work's state after it.
    """
    return tff.federated_zip(
        ClientNoiseState(inner, tff.federated_map(_add_one, state.round))
    )


def build_streams(role: Role, seed: int) -> tff.Computation:
    """Builds a client's stream: `(<round=int32, ids=int32*> -> int32[2])`.

    Args:
      role: what the noise is for.
      seed: the run's.
    """
    root = seeding.root(seed)

    @tff.tensorflow.computation(np.int32, tff.SequenceType(np.int32))
    def streams(round_num, ids):
        # As in `identify_clients`: no id, or several, fails.
        return derive(root, role, round_num, ids.get_single_element())

    return streams


def is_client_data(data_type: tff.Type) -> bool:
    """Returns whether a client's data has its holder's id with it."""
    return (
        isinstance(data_type, tff.types.StructWithPythonType)
        and data_type.python_container is ClientData
    )


@tff.tensorflow.computation(np.int32)
def _add_one(number):
    return number + 1
