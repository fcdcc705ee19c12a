"""Local differential privacy of updates: clipped and noised before they leave.

The Gaussian mechanism on each client's own machine (Dwork and Roth, *The Algorithmic
Foundations of Differential Privacy*, appendix A; for updates of federated learning
e.g. Geyer, Klein and Nabi, 2017, with the noise at the server):

    u <- u * min(1, C / |u|)             (all tensors as one vector)
    upload u + N(0, (sigma C)^2 I)

**What is guaranteed.** Neighbouring: *any* two data sets of one client
(`REPLACE_ONE`, with a client as the record). Two clipped updates lie at most 2 C apart,
so that an upload is a Gaussian mechanism with multiplier sigma / 2: this is what
`upload_event` states. It holds against everybody, the server included, with no trust in
anything but the client's own machine; a client that takes part in T rounds has T of
them. Nothing is claimed for sampled cohorts.

**What is not.** The weight that goes with an update (the number of examples) and the
counts behind metrics are not noised. In a network of P parameters the noise has norm
sigma C sqrt(P), against C of the update: a meaningful epsilon leaves little of the
update of a single client, and the mean over n clients has a signal of C against
sigma C sqrt(P / n). That is the price of trusting nobody.

**In DSSGD** an upload is what a participant's turn changed, all of its local training
together, so that a turn is the unit: user-level privacy of one turn, and a participant
of T turns has T of them. It also covers what a participant kept of earlier turns, as an
upload is private whatever the update was computed from. Not covered: how many turns it
has, the counts and losses behind metrics, and its own model, which does not leave it.
An adversary need not clip or noise what it uploads.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from dp_accounting import DpEvent, GaussianDpEvent, NeighboringRelation

from tff_leak.attacks.observation import ClientData
from tff_leak.defences import client_noise
from tff_leak.defences.accounting import check_delta, check_noise
from tff_leak.models.network import flatten, unflatten
from tff_leak.runtime.seeding import Role


@dataclasses.dataclass(frozen=True)
class LocalDp:
    """What clients do to their updates.

    Attributes:
      clip: C > 0, bound on an update's l2 norm.
      noise_multiplier: sigma >= 0; noise of standard deviation sigma C in every
        coordinate. 0 is not private.
      delta: at which epsilon is stated; below one over the number of clients.
    """

    clip: float
    noise_multiplier: float
    delta: float = 1e-5

    def __post_init__(self):
        check_noise(self.clip, self.noise_multiplier)
        check_delta(self.delta)

    @property
    def neighbours(self) -> NeighboringRelation:
        """One client's data set, replaced by any other."""
        return NeighboringRelation.REPLACE_ONE


def upload_event(settings: LocalDp) -> DpEvent:
    """Returns what one upload does, under `settings.neighbours`."""
    return GaussianDpEvent(settings.noise_multiplier / 2)


def noised(settings: LocalDp, update: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns what a client sends in place of its update.

    Args:
      settings: clipping and noise.
      update: float32 `[P]`; one that is not finite counts as 0.
      seed: int32 `[2]`, of this client and round.
    """
    norm = tf.norm(update)
    # `where`: 0 times something that is not finite would not be 0.
    update = tf.where(tf.math.is_finite(norm), update, 0.0)
    norm = tf.where(tf.math.is_finite(norm), norm, 0.0)
    clipped = update * (settings.clip / tf.maximum(norm, settings.clip))
    deviation = settings.clip * settings.noise_multiplier
    return clipped + tf.random.stateless_normal(tf.shape(update), seed, 0.0, deviation)


def noise_updates(
    settings: LocalDp,
    client_work: tff.learning.templates.ClientWorkProcess,
    *,
    seed: int = 0,
) -> tff.learning.templates.ClientWorkProcess:
    """Makes any client work locally private.

    Type signature of `next`, from a client work with state S, weights W, datasets D*,
    updates U and weights of updates w:

        (<ClientNoiseState<S>@SERVER, {W}@CLIENTS,
          {<examples=D*, client_id=int32*>}@CLIENTS>
         -> <state=ClientNoiseState<S>@SERVER,
             result={<update=U, update_weight=w>}@CLIENTS, measurements@SERVER>)

    For an observing aggregation put `attacks.observation.identify_clients` around it:
    the rows that the server then sees are the noised ones.

    Args:
      settings: clipping and noise.
      client_work: with float32 updates of static shapes; one whose datasets are
        `ClientData` already gets them whole.
      seed: the run's.
    """
    state, weights, data = client_work.next.type_signature.parameter
    identified = client_noise.is_client_data(data.member)
    data_type = data.member
    if not identified:
        ids = tff.SequenceType(np.int32)
        data_type = tff.types.to_type(ClientData(examples=data.member, client_id=ids))
    streams = client_noise.build_streams(Role.LOCAL_NOISE, seed)
    initialize = client_noise.count_rounds(client_work.initialize)
    apply = _build_apply(settings, client_work.next.type_signature.result.result.member)

    @tff.federated_computation(
        initialize.type_signature.result,
        weights,
        tff.FederatedType(data_type, tff.CLIENTS),
    )
    def next_round(state, weights, data):
        examples = data if identified else data.examples
        output = client_work.next(state.inner, weights, examples)
        round_num = tff.federated_broadcast(state.round)
        stream = tff.federated_map(streams, (round_num, data.client_id))
        return tff.templates.MeasuredProcessOutput(
            client_noise.after_round(state, output.state),
            tff.federated_map(apply, (output.result, stream)),
            output.measurements,
        )

    return tff.learning.templates.ClientWorkProcess(initialize, next_round)


def _build_apply(settings: LocalDp, result_type: tff.Type) -> tff.Computation:
    """A client's result and stream to its result with a noised update."""
    seed_type = tff.types.tensorflow_to_type(tf.TensorSpec([2], tf.int32))

    @tff.tensorflow.computation(result_type, seed_type)
    def apply(result, seed):
        tensors = tf.nest.flatten(result.update)
        sent = unflatten(noised(settings, flatten(tensors), seed), _shapes(tensors))
        return result._replace(update=tf.nest.pack_sequence_as(result.update, sent))

    return apply


def _shapes(tensors: Sequence[tf.Tensor]) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]
