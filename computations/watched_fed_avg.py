"""Federated averaging and SGD under defences, before a server that only looks.

    clients   train: SGD, or DP-SGD by record (`record_level_dp`)
              noise their updates                (`local_dp`)
    between   clip, sum, noise the sum           (`user_level_dp`)
              sum securely                       (`secure_aggregation`)
    server    keeps what it sees of the last round, then goes on as agreed

What the server sees follows from the defences and from nothing else (`threat_of`): the
clients' rows as they send them, which are noised if clients add noise; or, if updates
are summed securely, the mean of all of them. Whatever it keeps is in its finalizer's
state, so that it never acts on it, and an attack reads it there after the fact.

Under user-level privacy the server adds the noise, and has the clipped rows before it.
With a secure sum of them it has that sum before the noise, too; what is kept here is
the mean *after* it, as in a deployment whose noise comes from elsewhere (a trusted
third party, or clients that each add a share).

FedSGD with DP-SGD is one private step of rate 1 on all of a client's examples: the
noisy mean of its clipped gradients.
"""

import dataclasses
import enum
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from computations.fed_avg import (
    FinalizerBuilder,
    build_fed_avg,
    build_fed_avg_client_work,
    build_fed_sgd_client_work,
)
from tff_leak.attacks.observation import (
    aggregate_only,
    identify_clients,
    is_observed,
    observing_factory,
)
from tff_leak.defences.local_dp import LocalDp, noise_updates
from tff_leak.defences.record_level_dp import RecordLevelDp
from tff_leak.defences.secure_aggregation import (
    GREATEST_LOSS,
    SecureAggregation,
    secure_counts_factory,
    secure_mean_factory,
    secure_sum_factory,
)
from tff_leak.defences.user_level_dp import (
    Mechanism,
    UserLevelDp,
    build_user_level_factory,
    check_secure_bound,
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


class Algorithm(enum.Enum):
    """What clients send: a gradient at the shared model, or what training changed."""

    FED_SGD = "fed_sgd"
    FED_AVG = "fed_avg"


@dataclasses.dataclass(frozen=True)
class Defences:
    """What protects the clients; None: not used.

    Attributes:
      record_dp: of their training; its batches are their datasets' own.
      local_dp: of what they send.
      user_dp: at the server; `clients_per_round` is the size of the cohort.
      secure_aggregation: of updates, weights and counts.

    Raises:
      InputError: if several mechanisms of differential privacy are given, or the
        range of the secure sum and the clipping of `user_dp` contradict each other.
    """

    record_dp: RecordLevelDp | None = None
    local_dp: LocalDp | None = None
    user_dp: UserLevelDp | None = None
    secure_aggregation: SecureAggregation | None = None

    def __post_init__(self):
        names = ("record_dp", "local_dp", "user_dp")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(
                f"{' and '.join(given)} are given together: expected one mechanism of "
                "differential privacy, since their epsilons protect different things "
                "and do not add up; leave the others out"
            )
        if self.user_dp is not None and self.secure_aggregation is not None:
            check_secure_bound(self.user_dp, self.secure_aggregation.bound)

    @property
    def view(self) -> View:
        """What of the clients' updates reaches the server."""
        if self.secure_aggregation is not None:
            return View.SUM
        noised = self.record_dp is not None or self.local_dp is not None
        return View.NOISED_ROWS if noised else View.ROWS

    @property
    def draws_client_noise(self) -> bool:
        """Whether clients draw noise, for which they need their ids."""
        return self.record_dp is not None or self.local_dp is not None


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


def own_training(algorithm: Algorithm, training: BatchSgd) -> BatchSgd:
    """Returns the client's part of the training: of FedSGD one step of rate 1."""
    return training if algorithm is Algorithm.FED_AVG else BatchSgd(learning_rate=1.0)


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
    work = _client_work(network, algorithm, training, defences, greatest_examples, seed)
    observing = watched is not None and defences.view is not View.SUM
    if observing:
        work = identify_clients(work)
    fed_sgd = algorithm is Algorithm.FED_SGD
    process = build_fed_avg(
        network,
        client_work=work,
        model_aggregator=_aggregator(
            defences,
            # Whatever carries the id, the updates are of this type.
            work.next.type_signature.result.result.member.update,
            greatest_examples * own_training(algorithm, training).epochs,
            seed,
            observing,
        ),
        finalizer=_finalizer_builder(
            training.learning_rate if fed_sgd else 1.0, watched
        ),
        seed=seed,
    )
    check_process(threat, process)
    return process


def _client_work(network, algorithm, training, defences, greatest_examples, seed):
    own = own_training(algorithm, training)
    counts = None
    if defences.secure_aggregation is not None:
        counts = secure_counts_factory(GREATEST_LOSS * greatest_examples * own.epochs)
    if algorithm is Algorithm.FED_SGD and defences.record_dp is None:
        work = build_fed_sgd_client_work(network, metrics_aggregator=counts)
    else:
        work = build_fed_avg_client_work(
            network,
            training=own,
            privacy=defences.record_dp,
            metrics_aggregator=counts,
            seed=seed,
        )
    if defences.local_dp is not None:
        work = noise_updates(defences.local_dp, work, seed=seed)
    return work


def _aggregator(
    defences: Defences,
    update_type: tff.Type,
    greatest_weight: int,
    seed: int,
    observing: bool,
) -> tff.aggregators.WeightedAggregationFactory:
    user, secure = defences.user_dp, defences.secure_aggregation
    if user is not None:
        inner = None if secure is None else secure_sum_factory(secure.bound)
        factory = tff.aggregators.as_weighted_aggregator(
            build_user_level_factory(
                user, seed=seed, record_aggregator=inner, value_type=update_type
            )
        )
    elif secure is not None:
        factory = secure_mean_factory(
            secure.bound, greatest_weight=float(greatest_weight)
        )
    else:
        factory = tff.aggregators.MeanFactory()
    if not observing:
        return factory
    factory = observing_factory(factory)
    if user is not None and user.mechanism is not Mechanism.ADAPTIVE:
        # Clients clip before they send. (An adaptive bound is known inside only: there
        # rows are kept as they were, longer by a factor than what is sent.)
        factory = tff.aggregators.clipping_factory(float(user.clip), factory)
    return factory


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
