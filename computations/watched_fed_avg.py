"""Federated averaging and SGD under defences, before a server that only looks.

The server keeps what it sees of the last round, then goes on as agreed. What that is
follows from the defences (`computations.defended_fed_avg`) and from nothing else
(`threat_of`): the clients' rows as they send them, which are noised if clients add
noise; or, if updates are summed securely, the mean of all of them. Whatever it keeps is
in its finalizer's state, so that it never acts on it, and an attack reads it there
after the fact.

Under user-level privacy the server adds the noise, and has the clipped rows before it.
With a secure sum of them it has that sum before the noise, too; what is kept here is
the mean *after* it, as in a deployment whose noise comes from elsewhere (a trusted
third party, or clients that each add a share).
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from computations.defended_fed_avg import (
    Algorithm,
    Defences,
    build_defended_aggregator,
    build_defended_client_work,
    own_training,
)
from computations.fed_avg import FinalizerBuilder, build_fed_avg
from tff_leak.attacks.observation import (
    aggregate_only,
    identify_clients,
    is_observed,
)
from tff_leak.errors import InputError
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.models.network import Network
from tff_leak.threat import (
    Adversary,
    Behaviour,
    Knowledge,
    Threat,
    View,
    check_process,
)


class Seen(NamedTuple):
    """What the server saw of one round.

    Attributes:
      weights: the model that it began with, as the network's trainable weights.
      updates: float32 `[k, ...]` each: the rows of the k clients that are watched, in
        their order, or one row, the mean of all clients.
    """

    weights: Any
    updates: Any


class WatchingState(NamedTuple):
    """A watching server's state.

    Attributes:
      honest: the state of the agreed finalizer.
      seen: `Seen` of the last round; zeros before the first.
    """

    honest: Any
    seen: Any


def threat_of(defences: Defences, knowledge: Collection[Knowledge] = ()) -> Threat:
    """Returns the threat model of a server that looks, under these defences."""
    return Threat(
        Adversary.SERVER, Behaviour.PASSIVE, defences.view, frozenset(knowledge)
    )


def identified(defences: Defences, watched: Sequence[int] | None) -> bool:
    """Whether the process of these wants datasets with ids (`ClientData`)."""
    rows = watched is not None and defences.view is not View.SUM
    return rows or defences.draws_client_noise


def build_watched(
    network: Network,
    *,
    algorithm: Algorithm,
    training: BatchSgd,
    defences: Defences,
    threat: Threat,
    watched: Sequence[int] | None,
    greatest_examples: int,
    seed: int = 0,
) -> tff.learning.templates.LearningProcess:
    """Builds the process, and checks that it keeps to the threat.

    Type signatures are those of `build_fed_avg`; with `watched` the state's finalizer
    is a `WatchingState`, and if `identified` datasets are `ClientData`.

    Args:
      network: the classifier that is learnt.
      algorithm: with FED_SGD a client's examples should come in one batch.
      training: of the clients; with FED_SGD its rate is the server's, and momentum and
        epochs have to be the defaults.
      defences: of the clients.
      threat: what the server is said to see; see `threat_of`.
      watched: clients whose rows are kept, all of whom take part in every round; under
        secure aggregation the mean is, whatever they are. None: nothing is kept.
      greatest_examples: of a client, for the ranges of secure sums.
      seed: of the model and of all noise.

    Raises:
      InputError: as `build_fed_avg`, `Threat` and `check_process`; if FED_SGD is asked
        for momentum or epochs.
    """
    _check_algorithm(algorithm, training)
    work = build_defended_client_work(
        network,
        training=training,
        defences=defences,
        algorithm=algorithm,
        greatest_examples=greatest_examples,
        seed=seed,
    )
    observing = watched is not None and defences.view is not View.SUM
    if observing:
        work = identify_clients(work)
    fed_sgd = algorithm is Algorithm.FED_SGD
    process = build_fed_avg(
        network,
        client_work=work,
        model_aggregator=build_defended_aggregator(
            defences,
            # Whatever carries the id, the updates are of this type.
            work.next.type_signature.result.result.member.update,
            greatest_weight=greatest_examples
            * own_training(algorithm, training).epochs,
            observing=observing,
            seed=seed,
        ),
        finalizer=_finalizer_builder(
            training.learning_rate if fed_sgd else 1.0, watched
        ),
        seed=seed,
    )
    check_process(threat, process)
    return process


def _finalizer_builder(rate: float, watched: Sequence[int] | None) -> FinalizerBuilder:
    """Plain SGD of the server, with eyes if anything is watched."""

    def build(weights_type, aggregate_type):
        honest = tff.learning.templates.build_apply_optimizer_finalizer(
            tff.learning.optimizers.build_sgdm(rate), weights_type
        )
        if is_observed(aggregate_type):
            honest = aggregate_only(honest, aggregate_type)
        if watched is None:
            return honest
        return _watching(honest, watched, weights_type, aggregate_type)

    return build


def _watching(
    honest: tff.learning.templates.FinalizerProcess,
    watched: Sequence[int],
    weights_type: tff.Type,
    aggregate_type: tff.Type,
) -> tff.learning.templates.FinalizerProcess:
    """The same finalizer, which notes what it was given."""
    rows_seen = is_observed(aggregate_type)

    @tff.tensorflow.computation(weights_type, aggregate_type)
    def look(weights, aggregate):
        if rows_seen:
            is_row = tf.equal(
                tf.constant(watched, tf.int32)[:, tf.newaxis], aggregate.rows.client_id
            )
            places = tf.argmax(tf.cast(is_row, tf.int32), axis=1)
            updates = [tf.gather(t, places) for t in aggregate.rows.value]
        else:
            updates = [t[tf.newaxis] for t in aggregate]
        return Seen(tuple(weights.trainable), tuple(updates))

    @tff.tensorflow.computation
    def nothing():
        shapes = [t.shape for t in weights_type.trainable]
        number = len(watched) if rows_seen else 1
        return Seen(
            tuple(tf.zeros(shape) for shape in shapes),
            tuple(tf.zeros([number, *shape]) for shape in shapes),
        )

    @tff.federated_computation
    def initialize():
        return tff.federated_zip(
            WatchingState(honest.initialize(), tff.federated_eval(nothing, tff.SERVER))
        )

    @tff.federated_computation(
        initialize.type_signature.result,
        tff.FederatedType(weights_type, tff.SERVER),
        tff.FederatedType(aggregate_type, tff.SERVER),
    )
    def next_round(state, weights, aggregate):
        output = honest.next(state.honest, weights, aggregate)
        seen = tff.federated_map(look, (weights, aggregate))
        return tff.templates.MeasuredProcessOutput(
            tff.federated_zip(WatchingState(output.state, seen)),
            output.result,
            output.measurements,
        )

    return tff.learning.templates.FinalizerProcess(initialize, next_round)


def _check_algorithm(algorithm: Algorithm, training: BatchSgd) -> None:
    if algorithm is Algorithm.FED_AVG:
        return
    for name in ("momentum", "epochs"):
        default = getattr(BatchSgd, name)
        if getattr(training, name) != default:
            raise InputError(
                f"{name} is {getattr(training, name)} with fed_sgd: expected "
                f"{default}, since clients send one gradient; use fed_avg"
            )
