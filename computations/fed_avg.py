"""Federated averaging and federated SGD, with every part in a slot of its own.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data" (AISTATS 2017), algorithm 1; composed by TFF's `compose_learning_process`:

    server                               each client
    ------                               -----------
    model          --broadcast-->        read: its dataset as padded tensors
                                         train: SGD on its batches (FedAvg), or the
                                         mean gradient on them (FedSGD)
    aggregator     <--update, weight--   update = old - new weights, or the gradient
    finalizer: model -= rate * aggregate

The result is a `tff.learning.templates.LearningProcess`, equal to TFF's own
`build_weighted_fed_avg` and `build_fed_sgd`: a dataset's batches are trained on as
they are, in their order, and clients are weighted by their examples. What differs is
the client work. It has no variables, and it is two computations mapped one after the
other, of which the second takes and returns tensors only: a runtime can apply it to
many clients at once.
"""

import collections
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.attacks.observation import ClientData, aggregate_only, is_observed
from tff_leak.defences import client_noise
from tff_leak.defences.record_level_dp import (
    RecordLevelDp,
    check_own_batches,
    record_private_batches,
)
from tff_leak.errors import InputError
from tff_leak.models.batched_sgd import (
    Batches,
    BatchResult,
    BatchSgd,
    mean_gradient,
    read_batches,
    train_on_batches,
)
from tff_leak.models.network import Network, Weights
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role, derive

# Given the types of the model's weights and of the aggregate, builds the finalizer.
FinalizerBuilder = Callable[
    [tff.Type, tff.Type], tff.learning.templates.FinalizerProcess
]


def build_fed_avg(
    network: Network,
    *,
    training: BatchSgd | None = None,
    model_aggregator: tff.aggregators.AggregationFactory | None = None,
    finalizer: tff.learning.templates.FinalizerProcess | FinalizerBuilder | None = None,
    client_work: tff.learning.templates.ClientWorkProcess | None = None,
    server_learning_rate: float = 1.0,
    server_momentum: float = 0.0,
    element_spec: Any = None,
    seed: int = 0,
) -> tff.learning.templates.LearningProcess:
    """Builds federated averaging.

    Type signatures, with W the network's trainable weights and S the state, a
    `tff.learning.templates.LearningAlgorithmState`:

        initialize: ( -> S@SERVER)
        next: (<S@SERVER, {<float32[?,...],int32[?]>*}@CLIENTS>
               -> <state=S@SERVER, metrics@SERVER>)
        get_model_weights: (S -> <trainable=W, non_trainable=...>)
        set_model_weights: (<S, <trainable=W, non_trainable=...>> -> S)

    `metrics["client_work"]["train"]` has `examples` (int32, seen in this round, once
    for each epoch), `loss` (float32, their mean cross-entropy in nats) and
    `non_finite` (int32, clients whose update was not finite: they count as clients
    without data).

    Args:
      network: the classifier that is learnt; logits over all classes.
      training: SGD on the clients; None is its defaults.
      model_aggregator: how updates are joined, any aggregation factory of TFF; one
        without weights ignores them. None is the mean weighted by examples. An
        `attacks.observation.observing_factory` wants a `client_work` that tells
        clients' ids (`attacks.observation.identify_clients`).
      finalizer: what the server does with the aggregate: a process, or a function
        that builds one from the types of weights and aggregate. None is SGD with the
        two server settings (and an observing aggregator's rows are dropped).
      client_work: replaces the clients' part and, with it, `training` and
        `element_spec`.
      server_learning_rate: 1 puts the mean of the clients' models in place.
      server_momentum: in [0, 1).
      element_spec: of the clients' datasets, batched pairs (inputs `[None, ...]`,
        labels `[None]` of any integer type); None is float32 inputs and int32 labels.
      seed: of the initial model; the same as that of `build_dssgd` with this seed.

    Raises:
      InputError: if a value is out of its range, settings are given for a part that
        is replaced, or the network keeps running statistics, which are not averaged.
    """
    _check_network(network)
    if client_work is None:
        client_work = build_fed_avg_client_work(
            network, training=training, element_spec=element_spec
        )
    elif training is not None or element_spec is not None:
        raise _unused("training or element_spec", "client_work")
    server = (server_learning_rate, server_momentum)
    if finalizer is not None and server != (1.0, 0.0):
        raise _unused("server_learning_rate or server_momentum", "finalizer")
    return _compose(network, client_work, model_aggregator, finalizer, server, seed)


def build_fed_sgd(
    network: Network,
    *,
    model_aggregator: tff.aggregators.AggregationFactory | None = None,
    finalizer: tff.learning.templates.FinalizerProcess | FinalizerBuilder | None = None,
    client_work: tff.learning.templates.ClientWorkProcess | None = None,
    server_learning_rate: float = 0.1,
    server_momentum: float = 0.0,
    element_spec: Any = None,
    seed: int = 0,
) -> tff.learning.templates.LearningProcess:
    """Builds federated SGD: clients send the mean gradient over all of their examples.

    Type signatures, metrics, slots and errors are those of `build_fed_avg`; how a
    dataset is batched does not change the gradient.

    Args:
      network: see `build_fed_avg`.
      model_aggregator: see `build_fed_avg`.
      finalizer: see `build_fed_avg`.
      client_work: see `build_fed_avg`.
      server_learning_rate: of the step along the aggregate.
      server_momentum: in [0, 1).
      element_spec: see `build_fed_avg`.
      seed: see `build_fed_avg`.

    Raises:
      InputError: see `build_fed_avg`.
    """
    _check_network(network)
    if client_work is None:
        client_work = build_fed_sgd_client_work(network, element_spec=element_spec)
    elif element_spec is not None:
        raise _unused("element_spec", "client_work")
    server = (server_learning_rate, server_momentum)
    if finalizer is not None and server != (0.1, 0.0):
        raise _unused("server_learning_rate or server_momentum", "finalizer")
    return _compose(network, client_work, model_aggregator, finalizer, server, seed)


def build_fed_avg_client_work(
    network: Network,
    *,
    training: BatchSgd | None = None,
    privacy: RecordLevelDp | None = None,
    metrics_aggregator: tff.aggregators.UnweightedAggregationFactory | None = None,
    element_spec: Any = None,
    seed: int = 0,
) -> tff.learning.templates.ClientWorkProcess:
    """Builds what clients do in federated averaging.

    Type signature of `next`, with W the network's trainable weights:

        (<M@SERVER, {<trainable=W, non_trainable=...>}@CLIENTS,
          {<float32[?,...],int32[?]>*}@CLIENTS>
         -> <state=M@SERVER, result={<update=W, update_weight=float32>}@CLIENTS,
             measurements=<train=<examples=int32, loss=float32, non_finite=int32>>>)

    The update is the old minus the new weights (a direction of ascent, as TFF's
    optimizers of the server want it), its weight the number of examples seen. Both are
    0 if the update is not finite.

    With `privacy` a client's data is `{<examples=..., client_id=int32*>}@CLIENTS`
    (`attacks.observation.client_data`) and the state `<inner=M, round=int32>@SERVER`
    (`defences.client_noise.ClientNoiseState`).

    Args:
      network: see `build_fed_avg`.
      training: see `build_fed_avg`.
      privacy: record-level differential privacy of the update, a step for a step; the
        weight and the metrics are not private. None: there is none.
      metrics_aggregator: how the three counts behind the metrics (float32) are summed;
        M is its state. None sums in the clear, also beside a secure aggregation of
        the updates.
      element_spec: see `build_fed_avg`.
      seed: of the noise.

    Raises:
      InputError: if the network keeps running statistics, `element_spec` does not fit
        it, or `privacy` wants batches that the datasets are not.
    """
    training = training or BatchSgd()
    if privacy is not None:
        check_own_batches(privacy)

    def compute(weights: Weights, batches: Batches, *stream: tf.Tensor) -> BatchResult:
        if privacy is None:
            trained = train_on_batches(training, network, weights, batches)
        else:
            trained = record_private_batches(
                privacy, training, network, weights, batches, *stream
            )
        update = [
            old - new
            for old, new in zip(weights.trainable, trained.tensors, strict=True)
        ]
        return trained._replace(tensors=update)

    noise_seed = None if privacy is None else seed
    return _build_client_work(
        network, compute, metrics_aggregator, element_spec, noise_seed
    )


def build_fed_sgd_client_work(
    network: Network,
    *,
    metrics_aggregator: tff.aggregators.UnweightedAggregationFactory | None = None,
    element_spec: Any = None,
) -> tff.learning.templates.ClientWorkProcess:
    """Builds what clients do in federated SGD.

    As `build_fed_avg_client_work`, but that the update is the gradient of the mean
    loss over all examples at the server's weights.

    Args:
      network: see `build_fed_avg`.
      metrics_aggregator: see `build_fed_avg_client_work`.
      element_spec: see `build_fed_avg`.

    Raises:
      InputError: see `build_fed_avg_client_work`.
    """

    def compute(weights: Weights, batches: Batches) -> BatchResult:
        return mean_gradient(network, weights, batches)

    return _build_client_work(network, compute, metrics_aggregator, element_spec)


def _compose(network, client_work, model_aggregator, finalizer, server, seed):
    """Puts the parts together, each built for the types of the one before it."""
    initial_weights = _build_initial_weights(network, seed)
    weights_type = initial_weights.type_signature.result
    factory = model_aggregator or tff.aggregators.MeanFactory()
    if isinstance(factory, tff.aggregators.UnweightedAggregationFactory):
        factory = tff.aggregators.as_weighted_aggregator(factory)
    sent = client_work.next.type_signature.result.result.member
    aggregator = factory.create(sent.update, sent.update_weight)
    aggregate_type = aggregator.next.type_signature.result.result.member
    if finalizer is None:
        finalizer = _build_server_sgd(weights_type, aggregate_type, *server)
    elif not isinstance(finalizer, tff.learning.templates.FinalizerProcess):
        finalizer = finalizer(weights_type, aggregate_type)
    return tff.learning.templates.compose_learning_process(
        initial_weights,
        tff.learning.templates.build_broadcast_process(weights_type),
        client_work,
        aggregator,
        finalizer,
    )


def _build_initial_weights(network: Network, seed: int) -> tff.Computation:
    root = seeding.root(seed)

    @tff.tensorflow.computation
    def initial_weights():
        weights = network.initialize(derive(root, Role.MODEL))
        return tff.learning.models.ModelWeights(
            tuple(weights.trainable), tuple(weights.statistics)
        )

    return initial_weights


def _build_server_sgd(
    weights_type, aggregate_type, learning_rate: float, momentum: float
) -> tff.learning.templates.FinalizerProcess:
    """The server's step along the aggregate."""
    if not learning_rate > 0:
        raise InputError(
            f"server_learning_rate is {learning_rate}: expected a positive number; "
            "1 averages the clients' models"
        )
    if not 0 <= momentum < 1:
        raise InputError(
            f"server_momentum is {momentum}: expected it in [0, 1); 0 is none"
        )
    optimizer = tff.learning.optimizers.build_sgdm(learning_rate, momentum or None)
    finalizer = tff.learning.templates.build_apply_optimizer_finalizer(
        optimizer, weights_type
    )
    if is_observed(aggregate_type):
        finalizer = aggregate_only(finalizer, aggregate_type)
    return finalizer


def _build_client_work(
    network: Network,
    compute: Callable[..., BatchResult],
    metrics_aggregator: tff.aggregators.UnweightedAggregationFactory | None,
    element_spec: Any,
    noise_seed: int | None = None,
) -> tff.learning.templates.ClientWorkProcess:
    """Client work of two computations: a dataset to tensors, tensors to an update.

    With `noise_seed`, `compute` takes a client's stream of this round as well.
    """
    _check_network(network)
    dataset_type = tff.SequenceType(_element_type(network, element_spec))
    noisy = noise_seed is not None

    @tff.tensorflow.computation(dataset_type)
    @tf.function
    def read(dataset):
        return read_batches(network, dataset)

    train = _build_train(network, compute, read.type_signature.result, noisy)
    weights_type = train.type_signature.parameter[0]
    counts_type = train.type_signature.result[1]
    counting = (metrics_aggregator or tff.aggregators.SumFactory()).create(counts_type)
    if noisy:
        return _with_streams(counting, read, train, weights_type, noise_seed)

    @tff.federated_computation(
        counting.initialize.type_signature.result,
        tff.FederatedType(weights_type, tff.CLIENTS),
        tff.FederatedType(dataset_type, tff.CLIENTS),
    )
    def next_round(state, weights, datasets):
        batches = tff.federated_map(read, datasets)
        result, counts = tff.federated_map(train, (weights, batches))
        return _measured(counting.next(state, counts), result)

    return tff.learning.templates.ClientWorkProcess(counting.initialize, next_round)


def _with_streams(
    counting: tff.templates.AggregationProcess,
    read: tff.Computation,
    train: tff.Computation,
    weights_type: tff.Type,
    seed: int,
) -> tff.learning.templates.ClientWorkProcess:
    """The same for clients that draw noise, each from a stream of its own."""
    initialize = client_noise.count_rounds(counting.initialize)
    streams = client_noise.build_streams(Role.RECORD_NOISE, seed)
    data_type = tff.types.to_type(
        ClientData(
            examples=read.type_signature.parameter,
            client_id=streams.type_signature.parameter[1],
        )
    )

    @tff.federated_computation(
        initialize.type_signature.result,
        tff.FederatedType(weights_type, tff.CLIENTS),
        tff.FederatedType(data_type, tff.CLIENTS),
    )
    def next_round(state, weights, data):
        batches = tff.federated_map(read, data.examples)
        round_num = tff.federated_broadcast(state.round)
        stream = tff.federated_map(streams, (round_num, data.client_id))
        result, counts = tff.federated_map(train, (weights, batches, stream))
        summed = counting.next(state.inner, counts)
        return _measured(summed, result, client_noise.after_round(state, summed.state))

    return tff.learning.templates.ClientWorkProcess(initialize, next_round)


def _measured(summed, result, state=None) -> tff.templates.MeasuredProcessOutput:
    """A client work's output, in a federated computation."""
    metrics = tff.federated_map(_metrics, summed.result)
    return tff.templates.MeasuredProcessOutput(
        summed.state if state is None else state,
        result,
        tff.federated_zip(collections.OrderedDict(train=metrics)),
    )


def _build_train(
    network: Network,
    compute: Callable[..., BatchResult],
    batches_type: tff.Type,
    noisy: bool,
) -> tff.Computation:
    """A client's computation from tensors to tensors."""
    weights_spec = tff.learning.models.ModelWeights(
        tuple(tf.TensorSpec(shape) for shape in network.trainable_shapes),
        tuple(tf.TensorSpec(shape) for shape in network.statistics_shapes),
    )

    def result_of(weights, batches, *stream):
        start = Weights(list(weights.trainable), list(weights.non_trainable))
        computed = compute(start, batches, *stream)
        finite = tf.reduce_all(
            tf.stack([tf.reduce_all(tf.math.is_finite(t)) for t in computed.tensors])
        )

        def if_finite(value):
            return tf.where(finite, value, tf.zeros_like(value))

        counts = collections.OrderedDict(
            examples=if_finite(computed.examples),
            loss_sum=if_finite(computed.loss_sum),
            non_finite=1.0 - tf.cast(finite, tf.float32),
        )
        result = tff.learning.templates.ClientResult(
            update=tuple(if_finite(t) for t in computed.tensors),
            update_weight=counts["examples"],
        )
        return result, counts

    types = [tff.types.tensorflow_to_type(weights_spec), batches_type]
    if noisy:
        types.append(tff.types.tensorflow_to_type(tf.TensorSpec([2], tf.int32)))

        @tff.tensorflow.computation(*types)
        def train(weights, batches, stream):
            return result_of(weights, batches, stream)

    else:

        @tff.tensorflow.computation(*types)
        def train(weights, batches):
            return result_of(weights, batches)

    return train


@tff.tensorflow.computation(
    collections.OrderedDict(
        examples=np.float32, loss_sum=np.float32, non_finite=np.float32
    )
)
def _metrics(counts):
    return collections.OrderedDict(
        examples=tf.cast(tf.round(counts["examples"]), tf.int32),
        loss=counts["loss_sum"] / tf.maximum(counts["examples"], 1.0),
        non_finite=tf.cast(tf.round(counts["non_finite"]), tf.int32),
    )


def _element_type(network: Network, element_spec: Any) -> tff.Type:
    """The type of one batch, checked against the network."""
    expected = (
        tf.TensorSpec([None, *network.input_shape]),
        tf.TensorSpec([None], tf.int32),
    )
    spec = element_spec if element_spec is not None else expected
    fits = (
        isinstance(spec, tuple)
        and len(spec) == 2
        and all(isinstance(part, tf.TensorSpec) for part in spec)
        and spec[0].shape.rank == len(expected[0].shape)
        and spec[0].shape[1:].is_compatible_with(expected[0].shape[1:])
        and spec[1].shape.rank in (1, 2)
        and spec[1].dtype.is_integer
    )
    if not fits:
        raise InputError(
            f"element_spec is {spec}: expected batches of pairs like {expected}; "
            f"batch the dataset, and map it to what network {network.name} takes"
        )
    return tff.types.tensorflow_to_type(spec)


def _check_network(network: Network) -> None:
    if network.updates_statistics:
        raise InputError(
            f"network {network.name} keeps running statistics: expected one without, "
            "since only what is trained is averaged; leave out batch normalisation"
        )


def _unused(setting: str, part: str) -> InputError:
    return InputError(
        f"{setting} is given beside {part}: expected one of them, since {part} "
        f"replaces what the setting is for; set it where {part} is built"
    )
