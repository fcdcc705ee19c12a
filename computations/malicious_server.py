"""mGAN-AI in a learning process: a malicious server, passive or active.

Wang et al., "Beyond Inferring Class Representatives" (INFOCOM 2019), sections V-C and
V-D. What differs from an honest federation:

    passive   aggregator: observing_factory(inner)     the aggregate, and all rows
              finalizer:  build_passive_finalizer      the honest step; then G and D
                          learn from the rows

    active    model:      carrying_isolated            M and M_iso in one broadcast
              clients:    isolate_victim               the victim trains M_iso
              aggregator: as above, maybe without_victim_factory
              finalizer:  build_active_finalizer       the honest step on M; M_iso <- D

Both finalizers take any honest finalizer, keep G and D in their state
(`MaliciousState`), and report what the honest one reports. A passive server's shared
model is the honest run's, bit for bit: no client can tell. `build_passive_mgan` and
`build_active_mgan` put the parts into federated averaging; in another process, give
them to `tff.learning.templates.compose_learning_process`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from computations.fed_avg import (
    FinalizerBuilder,
    build_fed_avg,
    build_fed_avg_client_work,
)
from tff_leak.attacks import server_gan
from tff_leak.attacks.multitask_gan import Evidence, Labelled
from tff_leak.attacks.observation import (
    Identified,
    aggregate_only,
    identify_clients,
    is_observed,
    observing_factory,
)
from tff_leak.attacks.server_gan import ServerGan, Sight
from tff_leak.errors import InputError
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.models.network import Network, Weights
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role, derive

# (weights before the round, updates as float32 [clients, ...] (old minus new), seed
# int32 [2]) -> (images float32 [clients, n, H, W, C] in [-1, 1], labels int32
# [clients, n]); section V-E.
FindRepresentatives = Callable[
    [Weights, list[tf.Tensor], tf.Tensor], tuple[tf.Tensor, tf.Tensor]
]

# Stream below a round's seed, beside those of `server_gan`.
_REPRESENTATIVES = 5


class MaliciousState(NamedTuple):
    """A malicious finalizer's state.

    Attributes:
      honest: that of the finalizer which it hides behind.
      attack: `server_gan.State`.
    """

    honest: Any
    attack: server_gan.State


def build_passive_mgan(
    network: Network,
    attack: ServerGan,
    *,
    victim: int,
    find_representatives: FindRepresentatives,
    auxiliary: Labelled,
    training: BatchSgd | None = None,
    client_work: tff.learning.templates.ClientWorkProcess | None = None,
    model_aggregator: tff.aggregators.AggregationFactory | None = None,
    finalizer: FinalizerBuilder | None = None,
    seed: int = 0,
) -> tff.learning.templates.LearningProcess:
    """Builds federated averaging under the passive attack (section V-C).

    Type signatures are those of `build_fed_avg`, but that the datasets are
    `attacks.observation.ClientData` (`client_data` makes them) and the finalizer's
    state is a `MaliciousState`.

    Args:
      network: the shared classifier.
      attack: the server's settings.
      victim: the id of the client aimed at. A round without it, or without another
        client, teaches the server nothing.
      find_representatives: the slot of section V-E.
      auxiliary: the server's own pictures, X_aux: float32 `[m, H, W, C]`, int32 `[m]`.
      training: SGD on the clients; None is its defaults.
      client_work: replaces the clients' part and, with it, `training`; e.g. one with
        differential privacy (`computations.defended_fed_avg`).
      model_aggregator: how updates are joined; None is the mean weighted by examples.
        The server sees rows as they enter it: what it does to them before they are
        summed (clipping, zeroing), though TFF may let the clients do it, hides nothing
        here. For a defence of the clients give `client_work`.
      finalizer: builds the honest one; None is SGD with rate 1.
      seed: of the initial model, and of the attack.

    Raises:
      InputError: if the aggregation is secure (the server then sees no client's row),
        networks and pictures do not fit, or `training` is given with `client_work`.
    """
    return build_fed_avg(
        network,
        client_work=_identified_work(network, training, client_work),
        model_aggregator=_observing(model_aggregator),
        finalizer=build_passive_finalizer(
            network,
            attack,
            victim=victim,
            find_representatives=find_representatives,
            auxiliary=auxiliary,
            finalizer=finalizer,
            seed=seed,
        ),
        seed=seed,
    )


def build_active_mgan(
    network: Network,
    attack: ServerGan,
    *,
    victim: int,
    auxiliary: Labelled,
    find_representatives: FindRepresentatives | None = None,
    victim_in_average: bool = True,
    training: BatchSgd | None = None,
    client_work: tff.learning.templates.ClientWorkProcess | None = None,
    model_aggregator: tff.aggregators.WeightedAggregationFactory | None = None,
    finalizer: FinalizerBuilder | None = None,
    seed: int = 0,
) -> tff.learning.templates.LearningProcess:
    """Builds federated averaging under the active attack (section V-D).

    The server sends each client a message of its own: the victim M_iso, which is D,
    and everybody else M. TFF has one broadcast, so here both models travel to all
    (M_iso where a model's statistics would, see `carrying_isolated`), and the
    client work, which knows the client's id, takes the one that this client would have
    been sent (`isolate_victim`). No client's computation depends on the other one.

    The process's weights are M as `trainable` and M_iso as `non_trainable`.

    Args:
      network: the shared classifier.
      attack: the server's settings.
      victim: see `build_passive_mgan`.
      auxiliary: see `build_passive_mgan`.
      find_representatives: None is the paper's: neither identities nor representatives.
        Else of whom they are found: of the victim from its update of M_iso, of the
        others from theirs of M; and D learns identities, too.
      victim_in_average: whether the victim's update (of M_iso) enters the average that
        changes M, as Eq. 1 has it; not said in section V-D. If not, its weight is 0.
      training: see `build_passive_mgan`.
      client_work: see `build_passive_mgan`; of `carrying_isolated(network)`.
      model_aggregator: see `build_passive_mgan`.
      finalizer: see `build_passive_mgan`; built for the types of both models.
      seed: see `build_passive_mgan`.

    Raises:
      InputError: see `build_passive_mgan`; or if the victim is to be left out of an
        aggregation without weights.
    """
    carrying = carrying_isolated(network)
    aggregator = _observing(model_aggregator)
    if not victim_in_average:
        if isinstance(model_aggregator, tff.aggregators.UnweightedAggregationFactory):
            raise InputError(
                f"victim_in_average is False with {type(model_aggregator).__name__}: "
                "expected an aggregation with weights, in which the victim's is 0; "
                "give MeanFactory() or another weighted one"
            )
        aggregator = without_victim_factory(aggregator, victim)
    work = _identified_work(carrying, training, client_work)
    return build_fed_avg(
        carrying,
        client_work=isolate_victim(work, victim),
        model_aggregator=aggregator,
        finalizer=build_active_finalizer(
            network,
            attack,
            victim=victim,
            auxiliary=auxiliary,
            find_representatives=find_representatives,
            finalizer=finalizer,
            seed=seed,
        ),
        seed=seed,
    )


def build_passive_finalizer(
    network: Network,
    attack: ServerGan,
    *,
    victim: int,
    find_representatives: FindRepresentatives,
    auxiliary: Labelled,
    finalizer: FinalizerBuilder | None = None,
    update_scale: float = 1.0,
    seed: int = 0,
) -> FinalizerBuilder:
    """Builds the passive server's finalizer, for the types that it will get.

    Type signature of `next`, with S the honest finalizer's state, A the attack's, W the
    weights and R the `Observed` result of an observing aggregation:

        (<<honest=S, attack=A>@SERVER, W@SERVER, R@SERVER>
         -> <state=<honest=S, attack=A>@SERVER, result=W@SERVER, measurements@SERVER>)

    Args:
      network: see `build_passive_mgan`.
      attack: see `build_passive_mgan`.
      victim: see `build_passive_mgan`.
      find_representatives: see `build_passive_mgan`.
      auxiliary: see `build_passive_mgan`.
      finalizer: see `build_passive_mgan`.
      update_scale: how much of a row the victim's model is away from the shared one: 1
        in federated averaging, the learning rate where clients send gradients.
      seed: see `build_passive_mgan`.

    Returns:
      A function from the types of weights and aggregate to the process.

    Raises:
      InputError: see `build_passive_mgan`.
    """
    _check(network, attack, auxiliary)
    root = seeding.root(seed)

    attack_round = _passive_attack(
        attack, victim, find_representatives, auxiliary, update_scale, root
    )

    def update(state, weights, after, rows):
        return after, attack_round(state, weights, rows)

    def initial():
        return server_gan.initial_state(attack, derive(root, Role.SERVER_GAN, 0))

    return lambda weights_type, observed_type: _build_finalizer(
        weights_type, observed_type, finalizer, initial, update
    )


def build_active_finalizer(
    network: Network,
    attack: ServerGan,
    *,
    victim: int,
    auxiliary: Labelled,
    find_representatives: FindRepresentatives | None = None,
    finalizer: FinalizerBuilder | None = None,
    seed: int = 0,
) -> FinalizerBuilder:
    """Builds the active server's finalizer, for the types that it will get.

    The type signature is that of `build_passive_finalizer`'s, where W has M_iso as
    `non_trainable`, and the result has the M_iso of the next round there.

    Args:
      network: the shared classifier, not the carrying one.
      attack: see `build_active_mgan`.
      victim: see `build_active_mgan`.
      auxiliary: see `build_active_mgan`.
      find_representatives: see `build_active_mgan`.
      finalizer: see `build_active_mgan`.
      seed: that of the process: M_0 is D's first state.

    Returns:
      A function from the types of weights and aggregate to the process.

    Raises:
      InputError: see `build_active_mgan`.
    """
    _check(network, attack, auxiliary)
    root = seeding.root(seed)

    attack_round = _active_attack(attack, victim, find_representatives, auxiliary, root)

    def update(state, weights, after, rows):
        state = attack_round(state, weights, rows)
        isolated = server_gan.as_classifier(state.discriminator)
        return after._replace(non_trainable=tuple(isolated)), state

    def initial():
        model = network.initialize(derive(root, Role.MODEL))
        return server_gan.initial_state(
            attack,
            derive(root, Role.SERVER_GAN, 0),
            isolated=list(model.trainable),
            with_representatives=find_representatives is not None,
        )

    return lambda weights_type, observed_type: _build_finalizer(
        weights_type, observed_type, finalizer, initial, update
    )


def carrying_isolated(network: Network) -> Network:
    """Returns the network whose statistics are a second model, M_iso.

    It computes what `network` computes, from its trainable weights alone. Both models
    start alike: M_0^iso = M_0 (section V-D).

    Raises:
      InputError: if the network has statistics of its own.
    """
    if network.statistics_shapes:
        raise InputError(
            f"network {network.name} has statistics: expected one without, since the "
            "isolated model travels in their place; leave out what is not trained"
        )

    def initialize(seed):
        trainable = list(network.initialize(seed).trainable)
        return Weights(trainable, list(trainable))

    def apply(weights, inputs, training):
        plain = Weights(list(weights.trainable), [])
        return network.apply(plain, inputs, training)[0], list(weights.statistics)

    return Network(
        name=f"{network.name}_and_isolated",
        input_shape=network.input_shape,
        output_shape=network.output_shape,
        trainable_shapes=network.trainable_shapes,
        statistics_shapes=network.trainable_shapes,
        initialize=initialize,
        apply=apply,
    )


def isolate_victim(
    client_work: tff.learning.templates.ClientWorkProcess, victim: int
) -> tff.learning.templates.ClientWorkProcess:
    """Lets the victim train M_iso, and everybody else M.

    Args:
      client_work: with identified clients (`attacks.observation.identify_clients`), of
        a `carrying_isolated` network.
      victim: its id.

    Returns:
      Client work of the same type. Each client starts from the model that the server
      would have sent to it alone.
    """
    state, weights, data = client_work.next.type_signature.parameter

    @tff.tensorflow.computation(weights.member, data.member.client_id)
    def sent_to(models, ids):
        isolated = tf.equal(ids.get_single_element(), victim)
        trainable = tuple(
            tf.where(isolated, own, shared)
            for shared, own in zip(models.trainable, models.non_trainable, strict=True)
        )
        return models._replace(trainable=trainable)

    @tff.federated_computation(state, weights, data)
    def next_round(state, weights, data):
        sent = tff.federated_map(sent_to, (weights, data.client_id))
        return client_work.next(state, sent, data)

    return tff.learning.templates.ClientWorkProcess(
        client_work.initialize,
        next_round,
        get_hparams_fn=client_work.get_hparams,
        set_hparams_fn=client_work.set_hparams,
    )


def without_victim_factory(
    inner: tff.aggregators.WeightedAggregationFactory, victim: int
) -> tff.aggregators.WeightedAggregationFactory:
    """Gives the victim weight 0 in an aggregation of identified clients.

    Args:
      inner: takes weights that are `attacks.observation.Identified`, such as an
        observing factory, whose rows then have weight 0 for the victim and its update
        as it was.
      victim: its id.

    Returns:
      A factory of the same type.
    """
    return _WithoutVictim(inner, victim)


class _WithoutVictim(tff.aggregators.WeightedAggregationFactory):
    """See `without_victim_factory`."""

    def __init__(self, inner, victim):
        self._inner = inner
        self._victim = victim

    def create(self, value_type, weight_type):
        process = self._inner.create(value_type, weight_type)
        victim = self._victim

        @tff.tensorflow.computation(weight_type)
        def counted(weight):
            is_victim = tf.equal(weight.client_id, victim)
            content = tf.nest.map_structure(
                lambda t: tf.where(is_victim, tf.zeros_like(t), t), weight.content
            )
            return Identified(weight.client_id, content)

        @tff.federated_computation(
            process.initialize.type_signature.result,
            tff.FederatedType(value_type, tff.CLIENTS),
            tff.FederatedType(weight_type, tff.CLIENTS),
        )
        def next_round(state, value, weight):
            return process.next(state, value, tff.federated_map(counted, weight))

        return tff.templates.AggregationProcess(process.initialize, next_round)


def _identified_work(
    network: Network,
    training: BatchSgd | None,
    client_work: tff.learning.templates.ClientWorkProcess | None,
) -> tff.learning.templates.ClientWorkProcess:
    if client_work is None:
        client_work = build_fed_avg_client_work(network, training=training)
    elif training is not None:
        raise InputError(
            "training is given with client_work: expected one of them, since the work "
            "has a training of its own; leave training out"
        )
    return identify_clients(client_work)


def _observing(
    inner: tff.aggregators.AggregationFactory | None,
) -> tff.aggregators.WeightedAggregationFactory:
    inner = inner or tff.aggregators.MeanFactory()
    if isinstance(inner, tff.aggregators.UnweightedAggregationFactory):
        inner = tff.aggregators.as_weighted_aggregator(inner)
    return observing_factory(inner)


def _build_finalizer(
    weights_type: tff.Type,
    observed_type: tff.Type,
    honest_builder: FinalizerBuilder | None,
    initial: Callable[[], server_gan.State],
    update: Callable[..., tuple[Any, server_gan.State]],
) -> tff.learning.templates.FinalizerProcess:
    """An honest finalizer with an attack behind it.

    Args:
      weights_type: of the model.
      observed_type: of the aggregation's result.
      honest_builder: see `build_passive_mgan`.
      initial: the attack's first state.
      update: `(attack's state, weights before, weights after the honest step, rows)`
        to the weights that are published and the attack's next state.
    """
    honest = _build_honest(weights_type, observed_type, honest_builder)
    honest_state, weights, observed = honest.next.type_signature.parameter

    initial_attack = tff.tensorflow.computation(initial)
    attack_type = initial_attack.type_signature.result
    update_both = tff.tensorflow.computation(
        tf.function(update, autograph=False),
        attack_type,
        weights_type,
        weights_type,
        observed_type.rows,
    )
    state_type = tff.types.to_type(MaliciousState(honest_state.member, attack_type))

    @tff.federated_computation
    def initialize():
        return tff.federated_zip(
            MaliciousState(
                honest.initialize(), tff.federated_eval(initial_attack, tff.SERVER)
            )
        )

    @tff.federated_computation(
        tff.FederatedType(state_type, tff.SERVER), weights, observed
    )
    def next_round(state, weights, observed):
        output = honest.next(state.honest, weights, observed)
        published, attack = tff.federated_map(
            update_both, (state.attack, weights, output.result, observed.rows)
        )
        return tff.templates.MeasuredProcessOutput(
            tff.federated_zip(MaliciousState(output.state, attack)),
            published,
            output.measurements,
        )

    return tff.learning.templates.FinalizerProcess(initialize, next_round)


def _build_honest(
    weights_type: tff.Type, observed_type: tff.Type, builder: FinalizerBuilder | None
) -> tff.learning.templates.FinalizerProcess:
    """The finalizer to hide behind, which takes the aggregate and ignores the rows."""
    if not is_observed(observed_type):
        raise InputError(
            "the aggregation shows the server no rows: expected an observing one; "
            "wrap it in attacks.observation.observing_factory"
        )
    if builder is None:
        rate_one = tff.learning.optimizers.build_sgdm(1.0)
        honest = tff.learning.templates.build_apply_optimizer_finalizer(
            rate_one, weights_type
        )
    else:
        honest = builder(weights_type, observed_type.aggregate)
    return aggregate_only(honest, observed_type)


def _passive_attack(
    attack: ServerGan,
    victim: int,
    find_representatives: FindRepresentatives,
    auxiliary: Labelled,
    update_scale: float,
    root: np.ndarray,
) -> Callable[..., Any]:
    """`(attack's state, weights, rows) -> attack's state`, of one passive round."""

    def attack_round(state, weights, rows):
        victims = tf.equal(rows.client_id, victim)
        shared = list(weights.trainable)
        updates = list(rows.value)

        def learn():
            of_round = derive(root, Role.SERVER_GAN, 1 + state.round)
            watched = server_gan.watched(attack, victims, of_round)
            images, labels = find_representatives(
                Weights(shared, list(weights.non_trainable)),
                [tf.gather(update, watched) for update in updates],
                derive(of_round, _REPRESENTATIVES),
            )
            _check_found(attack, images, labels)
            among = tf.gather(victims, watched)
            found = Evidence(
                _of_clients(among, images, labels),
                _of_clients(~among, images, labels),
            )
            model = _models_of(victims, shared, updates, update_scale)
            sight = Sight(shared, model, found, _row_of(victims, updates))
            return server_gan.passive_round(
                attack, state, sight, _constant(auxiliary), of_round
            )

        def wait():
            # Representatives take most of the time: the memory begins with the attack.
            return state._replace(round=state.round + 1)

        def take_part():
            return tf.cond(server_gan.has_started(attack, state), learn, wait)

        teaches = tf.reduce_any(victims) & ~tf.reduce_all(victims)
        return tf.cond(teaches, take_part, lambda: state)

    return attack_round


def _active_attack(
    attack: ServerGan,
    victim: int,
    find_representatives: FindRepresentatives | None,
    auxiliary: Labelled,
    root: np.ndarray,
) -> Callable[..., Any]:
    """`(attack's state, weights, rows) -> attack's state`, of one active round."""

    def attack_round(state, weights, rows):
        victims = tf.equal(rows.client_id, victim)

        def isolated():
            before = list(weights.non_trainable)
            return _models_of(victims, before, list(rows.value), 1.0)

        def learn():
            of_round = derive(root, Role.SERVER_GAN, 1 + state.round)
            found = None
            if find_representatives is not None:
                found = _found_apart(
                    attack, find_representatives, weights, victims, rows.value, of_round
                )
            return server_gan.active_round(
                attack,
                state,
                list(weights.trainable),
                isolated(),
                _constant(auxiliary),
                of_round,
                found,
            )

        def with_the_victim():
            if find_representatives is None:
                return learn()
            alone = tf.reduce_all(victims)  # With nobody to tell it from.
            rests = alone | ~server_gan.has_started(attack, state)
            return tf.cond(
                rests, lambda: _pass_on(state, isolated(), counts=~alone), learn
            )

        return tf.cond(tf.reduce_any(victims), with_the_victim, lambda: state)

    return attack_round


def _models_of(
    victims: tf.Tensor, weights: list, updates: list, scale: float
) -> list[tf.Tensor]:
    """The victim's model: the weights less its row."""
    row = _row_of(victims, updates)
    return [w - scale * u for w, u in zip(weights, row, strict=True)]


def _row_of(victims: tf.Tensor, updates: list) -> list[tf.Tensor]:
    """The victim's row; the first, if its id is there twice."""
    row = tf.argmax(tf.cast(victims, tf.int32))
    return [update[row] for update in updates]


def _of_clients(chosen: tf.Tensor, images: tf.Tensor, labels: tf.Tensor) -> Labelled:
    """Representatives `[k n, ...]` of the chosen ones of all clients."""
    shape = images.shape[2:]
    return Labelled(
        tf.reshape(tf.boolean_mask(images, chosen), [-1, *shape]),
        tf.reshape(tf.boolean_mask(labels, chosen), [-1]),
    )


def _pass_on(
    state: server_gan.State, isolated: list[tf.Tensor], counts: tf.Tensor
) -> server_gan.State:
    """A round of an active server that rests: M_iso is what the victim made of it."""
    return state._replace(
        discriminator=server_gan.with_classifier(state.discriminator, isolated),
        round=state.round + tf.cast(counts, tf.int32),
    )


def _found_apart(
    attack: ServerGan,
    find_representatives: FindRepresentatives,
    weights: Any,
    victims: tf.Tensor,
    updates: list[tf.Tensor],
    of_round: tf.Tensor,
) -> Evidence:
    """Representatives where the victim trained M_iso and the others M."""
    watched = server_gan.watched(attack, victims, of_round)
    among = tf.gather(victims, watched)
    parts = []
    for model, chosen in ((weights.non_trainable, among), (weights.trainable, ~among)):
        rows = tf.boolean_mask(watched, chosen)
        images, labels = find_representatives(
            Weights(list(model), []),
            [tf.gather(update, rows) for update in updates],
            derive(of_round, _REPRESENTATIVES),
        )
        _check_found(attack, images, labels)
        shape = [-1, *images.shape[2:]]
        parts.append(Labelled(tf.reshape(images, shape), tf.reshape(labels, [-1])))
    return Evidence(*parts)


def _constant(auxiliary: Labelled) -> Labelled:
    return Labelled(
        tf.constant(np.asarray(auxiliary.images, np.float32)),
        tf.constant(np.asarray(auxiliary.labels, np.int32)),
    )


def _check_found(attack: ServerGan, images: tf.Tensor, labels: tf.Tensor) -> None:
    expected = (attack.representatives, *attack.gan.discriminator.input_shape)
    if images.shape[1:] != expected or labels.shape[1:] != expected[:1]:
        raise InputError(
            f"find_representatives gives images {images.shape} and labels "
            f"{labels.shape}: expected {('clients', *expected)} and "
            f"{('clients', *expected[:1])}; set `representatives` alike"
        )


def _check(network: Network, attack: ServerGan, auxiliary: Labelled) -> None:
    discriminator = attack.gan.discriminator
    *shared, kernel, bias = network.trainable_shapes
    expected = (*shared, (*kernel[:-1], kernel[-1] + 2), (bias[-1] + 2,))
    if discriminator.trainable_shapes != expected:
        raise InputError(
            f"discriminator {discriminator.name} does not have the layers of "
            f"{network.name}: expected its structure with two outputs more; build both "
            "by the same function of models.classifiers and models.discriminators"
        )
    images, labels = np.asarray(auxiliary.images), np.asarray(auxiliary.labels)
    if images.shape[1:] != network.input_shape or not len(images):
        raise InputError(
            f"auxiliary pictures have shape {images.shape}: expected at least one of "
            f"{network.input_shape}; give the server pictures of the model's size"
        )
    if labels.shape != images.shape[:1]:
        raise InputError(
            f"auxiliary labels have shape {labels.shape}: expected {images.shape[:1]}, "
            "one for each picture; give both"
        )
