"""DSSGD: collaborative learning with selective sharing through a parameter server.

The protocol of Shokri and Shmatikov (CCS 2015) as algorithm 1 of Hitaj et al. (CCS
2017) states it. One call of `next` is the turn of one cohort: with a cohort of one,
participants train in sequence; with everybody in it, all at once, and their uploads
are summed, or joined otherwise (`computations.cohort_uploads`). `turn_order` says who
comes when.

    server                               each client of the cohort
    ------                               -------------------------
    parameters, recency  --broadcast-->  fetch theta_d of them
                                         adversary: transform the local data
                                         train on the local data (SGD)
    parameters += sum    <--aggregate--  bound, choose and upload theta_u

What is shared is one vector of S numbers, of which the first P are the model's
parameters; with SGD they are all of it (`models/training.py`, `LocalTraining`).

A participant's shared vector, seed and private values are CLIENTS-placed: they go into
`next` and come out of it, and no value of the server depends on them but through the
upload and the metrics.
"""

import collections
import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.attacks import client_transform
from tff_leak.attacks.client_transform import ClientTransform, Download
from tff_leak.defences.local_dp import LocalDp, noised
from tff_leak.defences.selective_sharing import (
    Criterion,
    SelectiveSharing,
    select_download,
    select_upload,
)
from tff_leak.defences.sparse_vector import SparseVector, private_upload
from tff_leak.errors import InputError
from tff_leak.models.network import Network, Weights, unflatten
from tff_leak.models.training import (
    LocalData,
    LocalSgd,
    LocalTraining,
    Trained,
    sgd_training,
)
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role, derive


class ServerState(NamedTuple):
    """What the parameter server keeps.

    Attributes:
      parameters: what is shared, the model first, float32 `[S]`.
      statistics: the network's constants.
      recency: decayed count, per shared number, of the turns in which it was changed
        (of a cohort that uploads together one, whatever its size), float32 `[S]`.
      history: the last `max_staleness` versions of `parameters`, newest first,
        float32 `[max_staleness, S]`.
      turn: int32, turns so far.
      aggregator: the state of the aggregation.
    """

    parameters: Any
    statistics: Any
    recency: Any
    history: Any
    turn: Any
    aggregator: Any


class ClientState(NamedTuple):
    """What one participant keeps between its turns; it never leaves the participant.

    Attributes:
      participant: int32, its number.
      seed: int32 `[2]`, its own random stream.
      parameters: its own version of what is shared, float32 `[S]`.
      turn: int32, turns it has had.
      steps: int32, minibatches it has trained on.
      private: an adversary's state as rows (`attacks/client_transform.py`); empty for
        an honest participant.
      training: what its training needs and nobody else sees, of the training's
        `private_spec`; a turn leaves it as it is.
    """

    participant: Any
    seed: Any
    parameters: Any
    turn: Any
    steps: Any
    private: Any
    training: Any = ()


class TurnOrder(enum.Enum):
    """Who trains when, in one round (Hitaj et al., algorithm 1, item 7)."""

    FIXED = "fixed"  # one after another, in the order of their numbers
    RANDOM = "random"  # one after another, in a new random order each round
    ALL_AT_ONCE = "all_at_once"  # all from the same model; uploads are joined
    ASYNCHRONOUS = "asynchronous"  # random order, each from a model some turns old


def build_dssgd(
    network: Network,
    *,
    sharing: SelectiveSharing | None = None,
    privacy: SparseVector | LocalDp | None = None,
    training: LocalSgd | LocalTraining | None = None,
    transform: ClientTransform | None = None,
    adversary_training: LocalSgd | LocalTraining | None = None,
    adversaries_exempt: bool = False,
    upload_aggregator: tff.aggregators.UnweightedAggregationFactory | None = None,
    metrics_aggregator: tff.aggregators.UnweightedAggregationFactory | None = None,
    element_spec: Any = None,
    max_staleness: int = 0,
    recency_decay: float = 0.9,
    seed: int = 0,
) -> tff.templates.IterativeProcess:
    """Builds DSSGD as an iterative process.

    Type signatures, with S the number of shared numbers:

        initialize: ( -> ServerState@SERVER)
        next: (<server=ServerState@SERVER,
                data={<float32[?,...],int32[?]>*}@CLIENTS,
                clients={ClientState}@CLIENTS>
               -> <ServerState@SERVER, {ClientState}@CLIENTS, metrics@SERVER>)

    `metrics` has `examples` (int32, trained on in this turn), `loss` (float32, their
    mean loss; of SGD the cross-entropy in nats) and `uploaded` (float32, the share of S
    that a participant of the cohort uploaded, on average). With a `SparseVector` they
    also have `epsilon` (float64, what each participant of the cohort spent in this
    turn); no privacy covers `examples` and `loss`.

    Args:
      network: the classifier that is learnt; logits over all classes.
      sharing: the agreement on what is shared; None shares everything.
      privacy: of all participants' uploads. A `SparseVector` chooses and noises them
        in the place of the upload part of `sharing`; with a `LocalDp` updates are
        clipped and noised, and `sharing` chooses of what they are then. None: there is
        none.
      training: settings of local SGD, or any other local training of this network;
        None is the paper's SGD. All of its S numbers are shared alike: sharing and
        privacy treat them as parameters.
      transform: what adversaries do with their turns; None: there are none.
      adversary_training: how adversaries train, with as many shared numbers; None: as
        all do. Nothing makes an adversary add the noise of a private training.
      adversaries_exempt: whether adversaries leave out a `privacy` that is a `LocalDp`,
        as nothing makes them clip and noise what they upload.
      upload_aggregator: how uploads `[S]` are joined, any factory of TFF for an
        unweighted value; None sums in the clear.
      metrics_aggregator: how the counts behind the metrics (float32) are summed, a
        factory without state; None sums in the clear, also beside a secure sum of the
        uploads. Not beside a `SparseVector`, whose epsilon is a count of 64 bits.
      element_spec: of the clients' datasets, batched pairs (inputs `[None, ...]`,
        labels `[None]` of any integer type); None is float32 inputs and int32 labels.
        The size of the batches does not matter: a dataset is the local data, and
        `training` says how it is trained on.
      max_staleness: participants start from a model up to this many turns old, drawn
        for each turn (asynchronous training); 0 is the present one.
      recency_decay: factor in (0, 1] on the server's counts of uploads each turn; not
        in the text.
      seed: of the initial model and of the staleness.

    Raises:
      InputError: if a value is out of its range, `sharing` and `privacy` disagree on
        uploads, `metrics_aggregator` cannot be used, adversaries are exempt from
        something else than a `LocalDp`, or the network keeps running statistics, which
        this protocol does not share.
    """
    _check(network, max_staleness, recency_decay)
    sharing = sharing or SelectiveSharing()
    _check_uploads(sharing, privacy, adversaries_exempt)
    training = _local_training(network, training)
    if adversary_training is not None:
        adversary_training = _local_training(network, adversary_training)
    aggregation = (upload_aggregator or tff.aggregators.SumFactory()).create(
        tff.types.tensorflow_to_type(tf.TensorSpec([training.num_shared]))
    )
    root = seeding.root(seed)

    initialize = _build_initialize(training, aggregation, max_staleness, root)
    server_type = initialize.type_signature.result.member
    publish = _build_publish(server_type, max_staleness, root)
    choose_upload = _build_upload(
        sharing, privacy, exempt=adversaries_exempt and transform is not None
    )
    take_turn = _build_turn(
        network, sharing, choose_upload, training, transform, adversary_training
    )
    turn_on_client = tff.tensorflow.computation(
        take_turn,
        publish.type_signature.result,
        tff.SequenceType(tff.types.tensorflow_to_type(element_spec or _spec(network))),
        tff.types.tensorflow_to_type(client_state_spec(network, transform, training)),
    )
    counts_type = turn_on_client.type_signature.result.counts
    counting = _build_counting(metrics_aggregator, counts_type, privacy)
    update_server = _build_update(server_type, recency_decay, max_staleness)
    next_turn = _build_next(
        publish, turn_on_client, aggregation, counting, update_server
    )
    return tff.templates.IterativeProcess(initialize, next_turn)


def client_state_spec(
    network: Network,
    transform: ClientTransform | None,
    training: LocalSgd | LocalTraining | None = None,
) -> Any:
    """Returns the `tf.TensorSpec`s of a `ClientState` of the process of these."""
    training = _local_training(network, training)
    return ClientState(
        participant=tf.TensorSpec([], tf.int32),
        seed=tf.TensorSpec([2], tf.int32),
        parameters=tf.TensorSpec([training.num_shared]),
        turn=tf.TensorSpec([], tf.int32),
        steps=tf.TensorSpec([], tf.int32),
        private=client_transform.rows_spec(transform.state_spec) if transform else (),
        training=training.private_spec,
    )


def initial_client_state(
    network: Network,
    server: ServerState,
    *,
    participant: int,
    seed: int,
    transform: ClientTransform | None = None,
    private: Any = None,
    training_private: Any = (),
) -> ClientState:
    """Returns a participant's state before its first turn, as NumPy arrays.

    Args:
      network: the classifier.
      server: the server's initial state; all start from its model.
      participant: number, 0 or more; with `seed` it fixes the random stream.
      seed: the run's.
      transform: the process's, if it has one.
      private: an adversary's initial state for that transform; None is honest.
      training_private: what the process's training wants of it (`private_spec`).
    """
    rows: Any = ()
    if transform is not None:
        rows = client_transform.no_rows(transform.state_spec)
        if private is not None:
            rows = client_transform.one_row(private)
    return ClientState(
        participant=np.int32(participant),
        seed=derive(seeding.root(seed), Role.PARTICIPANT, participant).numpy(),
        parameters=np.asarray(server.parameters, np.float32),
        turn=np.int32(0),
        steps=np.int32(0),
        private=rows,
        training=tf.nest.map_structure(np.asarray, training_private),
    )


def model_weights(network: Network, server: ServerState) -> Weights:
    """Returns the shared model's weights, as the network takes them."""
    parameters = tf.convert_to_tensor(server.parameters)[: network.num_parameters]
    statistics = [tf.convert_to_tensor(value) for value in server.statistics]
    return Weights(unflatten(parameters, network.trainable_shapes), statistics)


def turn_order(
    order: TurnOrder, *, participants: int, round_num: int, seed: int
) -> list[list[int]]:
    """Returns the cohorts of one round, each a list of participants' numbers."""
    if order is TurnOrder.ALL_AT_ONCE:
        return [list(range(participants))]
    numbers = np.arange(participants)
    if order is not TurnOrder.FIXED:
        generator = seeding.generator(seed, Role.TURNS, round_num)
        numbers = generator.permutation(participants)
    return [[int(number)] for number in numbers]


def _spec(network: Network) -> tuple[tf.TensorSpec, tf.TensorSpec]:
    """Of a dataset's elements, batches of inputs and labels."""
    inputs = tf.TensorSpec([None, *network.input_shape])
    return inputs, tf.TensorSpec([None], tf.int32)


def _build_next(
    publish: tff.Computation,
    turn_on_client: tff.Computation,
    aggregation: tff.templates.AggregationProcess,
    counting: tff.templates.AggregationProcess,
    update_server: tff.Computation,
) -> tff.Computation:
    """The turn of one cohort: the table in the module's docstring."""
    measure = _build_metrics(turn_on_client.type_signature.result.counts)
    _, data_type, client_type = turn_on_client.type_signature.parameter

    @tff.federated_computation(
        tff.FederatedType(publish.type_signature.parameter, tff.SERVER),
        tff.FederatedType(data_type, tff.CLIENTS),
        tff.FederatedType(client_type, tff.CLIENTS),
    )
    def next_turn(server, data, clients):
        message = tff.federated_broadcast(tff.federated_map(publish, server))
        turn = tff.federated_map(turn_on_client, (message, data, clients))
        total = aggregation.next(server.aggregator, turn.upload)
        nothing = tff.federated_value((), tff.SERVER)
        counts = counting.next(nothing, turn.counts).result
        return (
            tff.federated_map(update_server, (server, total.result, total.state)),
            turn.state,
            tff.federated_map(measure, counts),
        )

    return next_turn


class _Message(NamedTuple):
    """What the server publishes to a cohort."""

    parameters: Any
    statistics: Any
    recency: Any


class _Counts(NamedTuple):
    """A participant's share in the metrics of a turn."""

    participants: Any
    examples: Any
    loss_sum: Any
    uploaded: Any
    epsilon: Any = ()  # float64, or empty without privacy


class _Turn(NamedTuple):
    upload: Any
    state: Any
    counts: _Counts


def _local_training(
    network: Network, training: LocalSgd | LocalTraining | None
) -> LocalTraining:
    if isinstance(training, LocalTraining):
        return training
    return sgd_training(training or LocalSgd(), network)


def _build_initialize(
    training: LocalTraining,
    aggregation: tff.templates.AggregationProcess,
    max_staleness: int,
    root: np.ndarray,
) -> tff.Computation:
    """The parameter server before the first turn."""
    aggregator_type = aggregation.initialize.type_signature.result.member

    @tff.tensorflow.computation(aggregator_type)
    def first_state(aggregator):
        parameters, constants = training.initialize(derive(root, Role.MODEL))
        return ServerState(
            parameters=parameters,
            statistics=list(constants),
            recency=tf.zeros_like(parameters),
            history=tf.tile(parameters[tf.newaxis], [max_staleness, 1]),
            turn=tf.constant(0, tf.int32),
            aggregator=aggregator,
        )

    @tff.federated_computation
    def initialize():
        return tff.federated_map(first_state, aggregation.initialize())

    return initialize


def _build_publish(server_type, max_staleness: int, root: np.ndarray) -> Callable:
    """The server's message: the present model, or one that is some turns old."""

    @tff.tensorflow.computation(server_type)
    def publish(server):
        parameters = server.parameters
        if max_staleness > 0:
            versions = tf.concat([parameters[tf.newaxis], server.history], axis=0)
            age = tf.random.stateless_uniform(
                [],
                derive(root, Role.STALENESS, server.turn),
                0,
                tf.minimum(max_staleness, server.turn) + 1,
                tf.int32,
            )
            parameters = versions[age]
        return _Message(parameters, server.statistics, server.recency)

    return publish


def _build_turn(
    network: Network,
    sharing: SelectiveSharing,
    choose_upload: Callable,
    training: LocalTraining,
    transform: ClientTransform | None,
    adversary_training: LocalTraining | None,
) -> Callable:
    """A participant's turn: algorithm 1 of Hitaj et al., lines 3 to 15."""
    train = _build_train(training, transform, adversary_training)

    @tf.function
    def take_turn(message, dataset, state):
        seed = derive(state.seed, Role.TURN, state.turn)
        download = _download(sharing, message, state, seed)
        data = _local_data(network, dataset)
        private = state.private
        if transform is not None:
            private, data = client_transform.apply_to_rows(
                transform, private, download, data, seed
            )
        trained = train(download, data, state, derive(seed, Role.SHUFFLE))
        update = trained.parameters - download.parameters
        upload, epsilon = choose_upload(update, seed, state)
        return _Turn(
            upload,
            _state_after(state, trained, private),
            _count(trained, tf.shape(data.labels)[0], upload, epsilon),
        )

    return take_turn


def _build_train(
    training: LocalTraining,
    transform: ClientTransform | None,
    adversary_training: LocalTraining | None,
) -> Callable[..., Trained]:
    """What a participant trains with: adversaries may have their own way."""

    def by(method: LocalTraining, download, data, state, seed) -> Trained:
        return method.train(
            download.parameters,
            download.statistics,
            data,
            state.training,
            state.steps,
            seed,
        )

    def train(*turn) -> Trained:
        if transform is None or adversary_training is None:
            return by(training, *turn)
        _, _, state, _ = turn
        return tf.cond(
            client_transform.has_row(state.private),
            lambda: by(adversary_training, *turn),
            lambda: by(training, *turn),
        )

    return train


def _download(
    sharing: SelectiveSharing, message: _Message, state: ClientState, seed: tf.Tensor
) -> Download:
    """What a participant goes on from."""
    parameters, fetched = select_download(
        sharing,
        state.parameters,
        message.parameters,
        message.recency,
        derive(seed, Role.DOWNLOAD),
    )
    return Download(parameters, list(message.statistics), fetched)


def _state_after(state: ClientState, trained: Trained, private: Any) -> ClientState:
    return ClientState(
        participant=state.participant,
        seed=state.seed,
        parameters=trained.parameters,
        turn=state.turn + 1,
        steps=trained.steps,
        private=private,
        training=state.training,
    )


def _count(
    trained: Trained, examples: tf.Tensor, upload: tf.Tensor, epsilon: Any
) -> _Counts:
    examples = tf.cast(examples, tf.float32)
    return _Counts(
        participants=tf.constant(1.0),
        examples=examples,
        loss_sum=trained.loss * examples,
        uploaded=tf.reduce_mean(tf.cast(tf.not_equal(upload, 0), tf.float32)),
        epsilon=epsilon,
    )


def _build_upload(
    sharing: SelectiveSharing, privacy: SparseVector | LocalDp | None, exempt: bool
) -> Callable:
    """What of an update is uploaded, and its epsilon, empty without privacy."""

    def shared(update, seed, state):
        del state
        return select_upload(sharing, update, derive(seed, Role.UPLOAD)), ()

    def sparse(update, seed, state):
        del state
        return private_upload(privacy, update, derive(seed, Role.SPARSE_VECTOR))

    def local(update, seed, state):
        def private():
            return noised(privacy, update, derive(seed, Role.LOCAL_NOISE))

        if not exempt:
            return shared(private(), seed, state)
        malicious = client_transform.has_row(state.private)
        return shared(tf.cond(malicious, lambda: update, private), seed, state)

    if privacy is None:
        return shared
    return sparse if isinstance(privacy, SparseVector) else local


def _local_data(network: Network, dataset: tf.data.Dataset) -> LocalData:
    """Reads a client's dataset, however it is batched, into tensors."""
    shape = [None, *network.input_shape]
    inputs = tf.TensorArray(
        tf.float32, 1, dynamic_size=True, infer_shape=False, element_shape=shape
    )
    labels = tf.TensorArray(
        tf.int32, 1, dynamic_size=True, infer_shape=False, element_shape=[None]
    )
    # An empty batch in front: a participant without data has no other.
    inputs = inputs.write(0, tf.zeros([0, *network.input_shape]))
    labels = labels.write(0, tf.zeros([0], tf.int32))
    index = tf.constant(1)
    # `iter`: a loop over the dataset itself becomes `reduce`, which is slower.
    for batch_inputs, batch_labels in iter(dataset):
        inputs = inputs.write(index, tf.cast(batch_inputs, tf.float32))
        flat = tf.reshape(tf.cast(batch_labels, tf.int32), [-1])
        labels = labels.write(index, flat)
        index += 1
    return LocalData(
        tf.ensure_shape(inputs.concat(), shape),
        tf.ensure_shape(labels.concat(), [None]),
    )


def _build_update(server_type, decay: float, max_staleness: int) -> Callable:
    """The parameter server's update, with its count of recent uploads."""
    parameters_type, aggregator_type = server_type.parameters, server_type.aggregator

    @tff.tensorflow.computation(server_type, parameters_type, aggregator_type)
    def update_server(server, total, aggregator):
        history = server.history
        if max_staleness > 0:
            history = tf.concat([server.parameters[tf.newaxis], history[:-1]], axis=0)
        changed = tf.cast(tf.not_equal(total, 0), tf.float32)
        return ServerState(
            parameters=server.parameters + total,
            statistics=server.statistics,
            recency=decay * server.recency + changed,
            history=history,
            turn=server.turn + 1,
            aggregator=aggregator,
        )

    return update_server


def _build_counting(
    factory: tff.aggregators.UnweightedAggregationFactory | None,
    counts_type: tff.Type,
    privacy: SparseVector | LocalDp | None,
) -> tff.templates.AggregationProcess:
    """How participants' shares in the metrics are summed."""
    if factory is not None and isinstance(privacy, SparseVector):
        raise InputError(
            "metrics_aggregator is given beside the sparse vector technique: expected "
            "one of them, since its epsilon is a count of another type; leave it out"
        )
    counting = (factory or tff.aggregators.SumFactory()).create(counts_type)
    state_type = counting.initialize.type_signature.result.member
    if state_type != tff.types.to_type(()):
        raise InputError(
            f"metrics_aggregator keeps a state, {state_type.compact_representation()}: "
            "expected one without, which this protocol has no place for; give a sum "
            "with fixed bounds"
        )
    return counting


def _build_metrics(counts_type) -> Callable:
    """The metrics of a turn from the cohort's summed counts."""

    @tff.tensorflow.computation(counts_type)
    def measure(counts):
        examples = tf.maximum(counts.examples, 1.0)
        participants = tf.maximum(counts.participants, 1.0)
        metrics = collections.OrderedDict(
            examples=tf.cast(tf.round(counts.examples), tf.int32),
            loss=counts.loss_sum / examples,
            uploaded=counts.uploaded / participants,
        )
        if tf.is_tensor(counts.epsilon):
            # All spend the same: the mean is what each of them spent.
            metrics["epsilon"] = counts.epsilon / tf.cast(participants, tf.float64)
        return metrics

    return measure


def _check(network: Network, max_staleness: int, recency_decay: float) -> None:
    if network.updates_statistics:
        raise InputError(
            f"network {network.name} keeps running statistics: expected one without, "
            "since DSSGD shares parameters only; leave out batch normalisation"
        )
    if max_staleness < 0:
        raise InputError(
            f"max_staleness is {max_staleness}: expected 0 (none) or more turns"
        )
    if not 0 < recency_decay <= 1:
        raise InputError(f"recency_decay is {recency_decay}: expected it in (0, 1]")


def _check_uploads(
    sharing: SelectiveSharing, privacy: SparseVector | LocalDp | None, exempt: bool
) -> None:
    """Raises InputError if `sharing` asks for uploads that `privacy` does not make.

    Or if adversaries are exempt from a privacy that is not a `LocalDp`.
    """
    if exempt and not isinstance(privacy, LocalDp):
        raise InputError(
            f"adversaries_exempt is given with privacy {privacy}: expected a LocalDp "
            "to be exempt from; leave it out"
        )
    if not isinstance(privacy, SparseVector):
        return
    if sharing.upload_fraction not in (1.0, privacy.upload_fraction):
        raise InputError(
            f"upload_fraction is {sharing.upload_fraction} in sharing and "
            f"{privacy.upload_fraction} in the sparse vector technique: expected it in "
            "the latter alone, which chooses the uploads; leave it out of sharing"
        )
    for name, default in (
        ("criterion", Criterion.LARGEST),
        ("threshold", None),
        ("bound", None),
    ):
        value = getattr(sharing, name)
        if value != default:
            shown = value.value if isinstance(value, Criterion) else value
            raise InputError(
                f"{name} is {shown} in sharing, beside the sparse vector technique: "
                "expected it there alone, since that chooses the uploads; leave it "
                "out of sharing"
            )
