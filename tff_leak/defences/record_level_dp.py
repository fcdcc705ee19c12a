"""Record-level differential privacy of a participant's training (DP-SGD).

Abadi et al., "Deep Learning with Differential Privacy" (CCS 2016), algorithm 1, in
place of a step of SGD on a minibatch:

    g_i = gradient of the loss of example i alone          (per example, vectorised)
    g_i <- g_i / max(1, |g_i| / C)                         (all weights as one vector)
    g   = (sum of g_i + N(0, (sigma C)^2 I)) / batch size

What a participant uploads, and all that anybody computes from it, is private with
regard to its records: momentum, selective sharing, averaging and later rounds are
post-processing.

**What is guaranteed**, by how minibatches come about (`Sampling`):

- `EPOCHS`: a participant goes through its records, each in one minibatch of a pass.
  Then a pass is one Gaussian mechanism with multiplier sigma for each record, since
  minibatches are disjoint. Neighbouring data sets: one record is replaced by one whose
  gradient is 0 (`REPLACE_SPECIAL`), so that minibatches stay what they are. For a
  record replaced by any other the sensitivity is 2 C: read epsilon at sigma / 2.
  Shuffling does not amplify here: no such claim is made.
- `POISSON`: each step takes each record by a coin of its own, with probability
  q = batch size / records. Then a step is a Poisson-sampled Gaussian mechanism, and its
  amplification is charged. Neighbouring data sets: one record more or less
  (`ADD_OR_REMOVE_ONE`), with q and the number of steps taken as public.

**What is not.**

- The number of records, and the loss that a process reports beside the upload.
- What a record has in common with others: a class that many records show is learnt
  (Hitaj et al., CCS 2017, section 9.4, attack it all the same). A person of k records
  has k times the epsilon at best, and a larger delta.
- A malicious participant need not add its noise, which costs nobody but itself.
- Gaussian noise in 32-bit floating point has gaps that the proof does not allow for
  (Mironov, CCS 2012).

**Why not tensorflow-privacy's optimisers.** They keep variables and draw noise without
a seed, so that a resumed run would not repeat itself; and of its two ways to clip per
example, `GaussianSumQuery.preprocess_record` is not vectorised (`L2Loss` has no rule),
while `clip_and_aggregate_gradients` takes a Jacobian: 3.0 s a step of 64 examples for
the CNN of Hitaj et al. on two busy cores, against .09 s here (and .012 s without
clipping; convolutions' gradients by example are what takes longer). The tests compare
with that query example by example. Events and accounting are dp-accounting's.

Memory: a step on m examples of a network with P parameters holds m P numbers.
"""

import dataclasses
import enum
import logging
from collections.abc import Callable

import tensorflow as tf
from dp_accounting import (
    DpEvent,
    GaussianDpEvent,
    NeighboringRelation,
    NoOpDpEvent,
    PoissonSampledDpEvent,
)

from tff_leak.defences.accounting import check_delta, check_noise, repeated
from tff_leak.errors import InputError
from tff_leak.models.batched_sgd import Batches, BatchResult, BatchSgd, train_on_batches
from tff_leak.models.network import Network, Tensors, Weights, flatten, unflatten
from tff_leak.models.training import (
    LocalData,
    LocalSgd,
    LocalTraining,
    Trained,
    over_minibatches,
    sgd_training,
)
from tff_leak.runtime.seeding import Role, derive

# What TensorFlow tells its own authors whenever it vectorises a convolution.
logging.getLogger("tensorflow").addFilter(
    lambda record: "uses a while_loop. Fix that!" not in record.getMessage()
)


class Sampling(enum.Enum):
    """How minibatches come about; see the module's docstring."""

    EPOCHS = "epochs"
    POISSON = "poisson"


@dataclasses.dataclass(frozen=True)
class RecordLevelDp:
    """What participants agree on.

    Attributes:
      clip: C > 0, bound on the l2 norm of one example's gradient.
      noise_multiplier: sigma >= 0; the noise on a minibatch's sum has standard
        deviation sigma C in every coordinate. 0 is not private.
      sampling: how minibatches come about.
      delta: at which epsilon is stated; below one over the records of a participant.
    """

    clip: float
    noise_multiplier: float
    sampling: Sampling = Sampling.EPOCHS
    delta: float = 1e-5

    def __post_init__(self):
        check_noise(self.clip, self.noise_multiplier)
        check_delta(self.delta)

    @property
    def neighbours(self) -> NeighboringRelation:
        """Which data sets the guarantee makes alike."""
        if self.sampling is Sampling.POISSON:
            return NeighboringRelation.ADD_OR_REMOVE_ONE
        return NeighboringRelation.REPLACE_SPECIAL


def turn_event(privacy: RecordLevelDp, training: LocalSgd, examples: int) -> DpEvent:
    """Returns what one turn of `record_private_sgd` does to a record.

    Args:
      privacy: the agreement; `privacy.neighbours` is the relation of the event.
      training: the local SGD.
      examples: records of the participant; with `EPOCHS` their number hardly matters.
    """
    if not examples:
        return NoOpDpEvent()
    gaussian = GaussianDpEvent(privacy.noise_multiplier)
    batches = -(-examples // training.batch_size)
    steps = batches * training.epochs
    if training.steps is not None:
        steps = min(steps, training.steps)
    if privacy.sampling is Sampling.POISSON:
        probability = min(1.0, training.batch_size / examples)
        return repeated(PoissonSampledDpEvent(probability, gaussian), steps)
    # The last pass may be cut short: whoever is in it is charged for it.
    return repeated(gaussian, -(-steps // batches))


def round_event(privacy: RecordLevelDp, training: BatchSgd) -> DpEvent:
    """Returns what one round of `record_private_batches` does to a record.

    The relation is `REPLACE_SPECIAL`. Every record must stand in one batch of its
    client's dataset, once: a dataset that repeats itself costs as much more.
    """
    return repeated(GaussianDpEvent(privacy.noise_multiplier), training.epochs)


def clipped_sum(
    clip: float,
    network: Network,
    weights: Weights,
    inputs: tf.Tensor,
    labels: tf.Tensor,
    counted: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The sum of per-example gradients, each clipped, and of the losses.

    Args:
      clip: C.
      network: a classifier that treats the examples of a batch apart; of operations
        that `tf.vectorized_map` knows.
      weights: where gradients are taken.
      inputs: `[m, *input_shape]`, m at least 1.
      labels: int32 `[m]`.
      counted: float32 `[m]`, 1 for an example, 0 for padding.

    Returns:
      float32 `[P]`, of which one example changes at most C in the l2 norm (an example
      whose gradient is not finite adds 0); and the sum of losses in nats, not private.
    """

    def of_one(example):
        trainable = list(weights.trainable)
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            logits, _ = network.apply(
                Weights(trainable, list(weights.statistics)),
                example[0][tf.newaxis],
                True,
            )
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
                example[1][tf.newaxis], logits
            )[0]
        gradient = tape.gradient(
            loss, trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return flatten(gradient), loss

    gradients, losses = tf.vectorized_map(
        of_one, (inputs, labels), fallback_to_while_loop=False
    )
    norms = tf.norm(gradients, axis=1)
    # One example must not be able to make everything NaN.
    usable = tf.logical_and(tf.math.is_finite(norms), counted > 0)
    gradients = tf.where(usable[:, tf.newaxis], gradients, 0.0)
    scales = tf.where(usable, clip / tf.maximum(norms, clip), 0.0)
    losses = tf.where(counted > 0, losses, 0.0)
    return tf.linalg.matvec(gradients, scales, transpose_a=True), tf.reduce_sum(losses)


def record_private_training(
    privacy: RecordLevelDp, training: LocalSgd, network: Network
) -> LocalTraining:
    """Returns DP-SGD of a classifier as the local training of DSSGD."""

    def train(shared, constants, data, private, steps, seed):
        del private
        return record_private_sgd(
            privacy, training, network, shared, constants, data, steps, seed
        )

    return sgd_training(training, network)._replace(train=train)


def record_private_sgd(
    privacy: RecordLevelDp,
    training: LocalSgd,
    network: Network,
    parameters: tf.Tensor,
    statistics: list[tf.Tensor],
    data: LocalData,
    steps: tf.Tensor,
    seed: tf.Tensor,
) -> Trained:
    """As `training.local_sgd`, with a private step in the place of each.

    Args:
      privacy: clipping, noise and sampling.
      training: of SGD. With `POISSON` an "epoch" is as many steps as one has, and a
        step divides by the expected size of its minibatch.
      network: a classifier.
      parameters: float32 `[P]`.
      statistics: the network's constants.
      data: inputs `[n, *input_shape]`, labels in [0, outputs); n may be 0.
      steps: int32, minibatches that the participant has trained on before.
      seed: int32 `[2]`, of this participant and turn.

    Returns:
      What was trained; its loss is over the examples seen, and not private.
    """
    count = tf.shape(data.labels)[0]
    private = privacy.sampling is Sampling.POISSON

    def step(index, chosen, state):
        trainable, total, seen = state
        if private:
            chosen, counted, size = _poisson_sample(training, count, index, seed)
        else:
            counted = tf.ones_like(chosen, tf.float32)
            size = tf.reduce_sum(counted)
        gradient, loss = clipped_sum(
            privacy.clip,
            network,
            Weights(unflatten(trainable, network.trainable_shapes), statistics),
            tf.gather(data.inputs, chosen),
            tf.gather(data.labels, chosen),
            counted,
        )
        noise = _noise(privacy, network, derive(seed, Role.RECORD_NOISE, index))
        done = tf.cast(steps + index, tf.float32)
        rate = training.learning_rate / (1.0 + training.learning_rate_decay * done)
        trainable -= rate * (gradient + noise) / size
        return trainable, total + loss, seen + tf.reduce_sum(counted)

    (trainable, total, seen), made = over_minibatches(
        step,
        (parameters, tf.constant(0.0), tf.constant(0.0)),
        count=count,
        batch_size=training.batch_size,
        epochs=training.epochs,
        steps=training.steps,
        seed=seed,
    )
    return Trained(trainable, steps + made, total / tf.maximum(seen, 1.0))


def record_private_batches(
    privacy: RecordLevelDp,
    training: BatchSgd,
    network: Network,
    weights: Weights,
    batches: Batches,
    seed: tf.Tensor,
) -> BatchResult:
    """As `batched_sgd.train_on_batches`, with a private step in the place of each.

    Args:
      privacy: with `Sampling.EPOCHS`, since batches are what they are.
      training: of SGD.
      network: a classifier that returns finite logits for padding (zeros).
      weights: to start from.
      batches: the client's data.
      seed: int32 `[2]`, of this client and round.

    Raises:
      InputError: if `privacy` asks for Poisson sampling.
    """
    check_own_batches(privacy)
    return train_on_batches(
        training, network, weights, batches, gradient=_batch_gradient(privacy, seed)
    )


def check_own_batches(privacy: RecordLevelDp) -> None:
    """Raises InputError if a dataset's own batches are not what `privacy` wants."""
    if privacy.sampling is not Sampling.EPOCHS:
        raise InputError(
            f"sampling is {privacy.sampling.value} for a dataset's own batches: "
            "expected epochs, since they are no Poisson sample; use epochs here, or "
            "DSSGD, which draws its own"
        )


def _batch_gradient(privacy: RecordLevelDp, seed: tf.Tensor) -> Callable:
    """A gradient for `train_on_batches`: the noisy sum of clipped gradients."""

    def gradient(
        place: tuple, network: Network, weights: Weights, batch: Batches
    ) -> tuple[Tensors, tf.Tensor]:
        size = tf.shape(batch.labels)[0]
        total, loss = clipped_sum(
            privacy.clip,
            network,
            weights,
            batch.inputs,
            batch.labels,
            tf.sequence_mask(batch.sizes, size, tf.float32),
        )
        noise = _noise(privacy, network, derive(seed, *place))
        # A batch of size 0 is padding, and changes nothing.
        total += tf.cast(batch.sizes > 0, tf.float32) * noise
        return unflatten(total, network.trainable_shapes), loss

    return gradient


def _noise(privacy: RecordLevelDp, network: Network, seed: tf.Tensor) -> tf.Tensor:
    """The noise on one sum of clipped gradients: float32 `[P]`."""
    deviation = privacy.clip * privacy.noise_multiplier
    return tf.random.stateless_normal([network.num_parameters], seed, 0.0, deviation)


def _poisson_sample(
    training: LocalSgd, count: tf.Tensor, index: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Numbers of the examples of a step, which of them count, and the expected size.

    The first number is padding: a sample may be empty, what is mapped over must not.
    """
    records = tf.cast(count, tf.float32)
    size = tf.minimum(float(training.batch_size), records)
    coins = tf.random.stateless_uniform(
        [count], derive(seed, Role.RECORD_SAMPLING, index)
    )
    taken = tf.where(coins * records < size)[:, 0]
    chosen = tf.concat([[0], tf.cast(taken, tf.int32)], axis=0)
    counted = tf.concat([[0.0], tf.ones_like(taken, tf.float32)], axis=0)
    return chosen, counted, size
