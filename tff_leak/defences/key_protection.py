"""Key protected classification: scores of a class need its key.

"Key Protected Classification for GAN Attack Resilient Collaborative Learning" (2018).
The shared model is an embedding phi of length 1, and each participant draws for each
of its classes a private random key psi(c) of length 1. The score of class c is

    <psi(c), phi(x)>  in [-1, 1]                                          (Eq. 3),

and x is of the class with the largest score (Eq. 4). Who does not hold the other
classes' keys cannot compare scores, so a participant only raises those of its own
examples: over theta it maximises

    sum of <psi(c), phi(x)> over its (x, c) - lambda ||theta||^2          (Eq. 5).

A malicious participant has to guess a key to aim a generator at; random keys of a
high dimension are nearly orthogonal (section 5.2). A dense layer that is drawn once
and never trained makes keys long without more parameters (section 4.2).

**What is not given.** The text has no proof. Keys are never sent, yet a participant's
upload is a function of its keys, and the embeddings of a class end up close to its
key: who has a picture of the class, or the uploads, has more to go by than a random
guess. The shared model alone has a sum of everybody's keys in its last parameters, and
Adam's shared moments (section 5.1, technique (i)) one of those that were trained
towards last. What an adversary does with that is not in the text;
`attacks/key_search.py` tries.
"""

import dataclasses
import enum
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tff_leak.errors import InputError
from tff_leak.models import layers
from tff_leak.models.network import Network, Weights, flatten, followed_by, unflatten
from tff_leak.models.training import LocalData, LocalTraining, Trained, over_minibatches
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role, derive

# Keys are computed in float32; a table from elsewhere may have been rounded.
_UNIT_TOLERANCE = 1e-3


class KeyDistribution(enum.Enum):
    """What a key's numbers are drawn from, before it is normalised (section 4.1)."""

    NORMAL = "normal"  # N(0, 1): every direction is as likely as any other
    UNIFORM = "uniform"  # U(-1, 1), the paper's choice (section 5.1)


class Normalisation(enum.Enum):
    """Normalisation behind the fixed layer (section 5.1, technique (ii))."""

    BATCH = "batch"  # over the batch: the paper's for MNIST
    INSTANCE = "instance"  # over an example's features: the paper's for faces


class Regularised(enum.Enum):
    """Which parameters lambda of Eq. 5 pulls towards 0."""

    WEIGHTS = "weights"  # no biases, and no scale and offset of a normalisation
    ALL = "all"  # theta as it is written


@dataclasses.dataclass(frozen=True)
class KeyTraining:
    """Settings of a participant's training; defaults are Adam's (Kingma and Ba).

    The text names Adam (section 5.1) and one epoch a turn (section 3.1), and gives
    none of the numbers.

    Attributes:
      learning_rate: of Adam.
      batch_size: examples a step; the last one of an epoch may have fewer.
      epochs: passes over the local data in one turn.
      regularisation: lambda of Eq. 5, beside the *mean* score of a minibatch; 0 or
        more. The paper tunes it with five or more participants (section 5.1), and
        takes a higher one for faces (5.3).
      regularised: what lambda is of. The text writes all of theta. What the score says
        of one of the d scales behind a fixed layer shrinks as 1 / d, so that lambda
        then wins at long keys, and pulls to 0 all that depends on a picture.
      beta_1: decay of the first moment, in [0, 1).
      beta_2: decay of the second moment, in [0, 1).
      epsilon: above 0, added to the root of the second moment.
    """

    learning_rate: float = 1e-3
    batch_size: int = 64
    epochs: int = 1
    regularisation: float = 1e-4
    regularised: Regularised = Regularised.WEIGHTS
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self):
        for name in ("learning_rate", "batch_size", "epochs", "epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(
                    f"{name} is {getattr(self, name)}: expected a positive number; "
                    f"the default is {type(self).__dataclass_fields__[name].default}"
                )
        if not (self.regularisation >= 0 and math.isfinite(self.regularisation)):
            raise InputError(
                f"regularisation is {self.regularisation}: expected a finite lambda "
                ">= 0; 0 is none"
            )
        for name in ("beta_1", "beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}: expected a decay in [0, 1); "
                    "0 keeps nothing of earlier steps"
                )


def draw_keys(
    count: int,
    dimension: int,
    seed: tf.Tensor,
    distribution: KeyDistribution = KeyDistribution.UNIFORM,
) -> tf.Tensor:
    """Draws class keys (sections 4.1 and 5.1): float32 `[count, dimension]`, length 1.

    Args:
      count: keys, 0 or more.
      dimension: d, 1 or more; 4 to 16384 in the paper.
      seed: int32 `[2]`, of who holds them.
      distribution: of a key's numbers before it is normalised.

    Raises:
      InputError: if a value is out of its range.
    """
    if count < 0:
        raise InputError(f"count is {count}: expected 0 or more keys")
    _check_dimension(dimension)
    seed = derive(seed, Role.KEYS)
    if distribution is KeyDistribution.NORMAL:
        keys = tf.random.stateless_normal([count, dimension], seed)
    else:
        keys = tf.random.stateless_uniform([count, dimension], seed, -1.0, 1.0)
    return tf.math.l2_normalize(keys, axis=1)


def key_at_distance(key: tf.Tensor, distance: float, seed: tf.Tensor) -> tf.Tensor:
    """Draws a key at a given distance from another (section 5.4, experiment (ii)).

    Two vectors of length 1 at the distance delta have the product 1 - delta^2 / 2, and
    delta sqrt(1 - delta^2 / 4) is what the second one has in another direction. That
    direction is uniform among those at right angles to the key.

    Args:
      key: float32 `[d]`, d at least 2, of length 1.
      distance: delta, Euclidean, in [0, 2]: 0 is the key, sqrt(2) a right angle, 2
        the opposite. 0.01 to 1.3 in the paper.
      seed: int32 `[2]`, of who guesses.

    Returns:
      float32 `[d]` of length 1.

    Raises:
      InputError: if the distance is out of its range, or the key has another length.
    """
    if not 0 <= distance <= 2:
        raise InputError(
            f"distance is {distance}: expected it in [0, 2], where vectors of length 1 "
            "are; sqrt(2) is a right angle"
        )
    key = tf.convert_to_tensor(key, tf.float32)
    if key.shape.rank != 1 or key.shape[0] < 2:
        raise InputError(
            f"key has shape {key.shape}: expected [d] with d of 2 or more, since there "
            "are no angles otherwise; give one key"
        )
    check_keys(key[tf.newaxis], key.shape[0])
    direction = tf.random.stateless_normal(key.shape, derive(seed, Role.KEY_GUESS))
    direction -= tf.tensordot(direction, key, 1) * key
    direction = tf.math.l2_normalize(direction)
    cosine = 1.0 - distance**2 / 2.0
    return cosine * key + distance * math.sqrt(1.0 - distance**2 / 4.0) * direction


def check_keys(keys: tf.Tensor, dimension: int) -> None:
    """Raises InputError unless keys are float32 `[k, dimension]` of length 1."""
    keys = tf.convert_to_tensor(keys)
    if keys.dtype != tf.float32 or keys.shape.rank != 2 or keys.shape[1] != dimension:
        raise InputError(
            f"keys are {keys.dtype.name} of shape {keys.shape}: expected float32 "
            f"[k, {dimension}], one row a key; draw them with draw_keys"
        )
    lengths = tf.norm(keys, axis=1)
    wrong = ~(tf.abs(lengths - 1.0) <= _UNIT_TOLERANCE)  # NaN is wrong, too.
    if tf.reduce_any(wrong):
        row = int(tf.argmax(tf.cast(wrong, tf.int32)))
        raise InputError(
            f"key {row} has length {float(lengths[row]):g}: expected 1 (l2 norm); "
            "divide it by its length"
        )


def largest_overlap(keys: tf.Tensor) -> tf.Tensor:
    """Largest product of two different keys of `[k, d]`, k at least 2 (figure 1)."""
    products = scores(keys, keys)
    return tf.reduce_max(tf.linalg.set_diag(products, tf.fill([len(keys)], -1.0)))


def scores(embeddings: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Eq. 3: embeddings `[n, d]` and keys `[k, d]` to scores `[n, k]` in [-1, 1]."""
    return tf.matmul(embeddings, keys, transpose_b=True)


def decide(embeddings: tf.Tensor, keys: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Eq. 4: the class of the key with the largest score.

    Args:
      embeddings: float32 `[n, d]`.
      keys: float32 `[k, d]`, any of all participants', at least one.
      classes: int32 `[k]`, the class of each key. Several may have the same: those of
        participants that share a class (section 5.5).

    Returns:
      int32 `[n]`; of equal scores the first key's.
    """
    return tf.gather(classes, tf.argmax(scores(embeddings, keys), axis=1))


def key_embedding(
    name: str,
    build_body: Callable[[int], Network],
    dimension: int,
    *,
    hidden: int = 128,
    normalisation: Normalisation | None = None,
    seed: int = 0,
    moments: layers.Moments | None = None,
) -> Network:
    """Builds the shared model phi: a network whose outputs have length 1 (section 4).

    Without a fixed layer, for short keys: body to `dimension`, tanh, l2 normalisation.
    With one, for long keys (section 4.2): `key_features`, normalisation with a
    trainable scale and offset, tanh, l2 normalisation.

    That normalisation keeps no running statistics, which DSSGD would not share, is not
    in the text: over the batch it takes the statistics of whatever is given, so
    embeddings depend on the pictures beside them, also at inference, unless there are
    `moments`. Pictures of one class alone lose there what they have in common (digits,
    d = 1024: threes scored .13 by themselves, all digits together .56). So do an
    adversary's fakes, which is an obstacle to its generator that has nothing to do with
    keys: measure attacks with `Normalisation.INSTANCE`.

    Args:
      name: of the network.
      build_body: from a number of outputs to a network, e.g. `classifiers.hitaj_mnist`.
      dimension: d of the keys, 2 or more.
      hidden: inputs of the fixed layer; not used without it.
      normalisation: behind the fixed layer; None: there is no fixed layer.
      seed: of the fixed layer; all participants agree on it.
      moments: of features, to normalise over the batch by at inference in place of
        what is given; see `feature_moments`. Not for training.

    Raises:
      InputError: if a value is out of its range.
    """
    _check_dimension(dimension, least=2)
    end = [layers.activation(tf.nn.tanh), layers.unit_length()]
    over_batch = normalisation is Normalisation.BATCH
    if moments is not None and not over_batch:
        raise InputError(
            f"moments are given with {normalisation}: expected {Normalisation.BATCH}, "
            "as nothing else has moments of features; leave them out"
        )
    if normalisation is None:
        return followed_by(name, build_body(dimension), end)
    standardise = layers.standardise(axis=0 if over_batch else 1, moments=moments)
    features = key_features(name, build_body, dimension, hidden=hidden, seed=seed)
    return followed_by(name, features, [standardise, *end])


def key_features(
    name: str,
    build_body: Callable[[int], Network],
    dimension: int,
    *,
    hidden: int = 128,
    seed: int = 0,
) -> Network:
    """Builds what `key_embedding` has before its normalisation (section 4.2).

    Body to `hidden`, tanh, the fixed layer to `dimension`. The fixed layer's weights
    are constants of the network (`Weights.statistics`): they are the same for all, and
    no parameters. Not in the text: the body, `hidden` and its tanh, and these weights.

    Args, errors: as of `key_embedding`, whose first weights are this network's.
    """
    _check_dimension(dimension, least=2)
    if hidden < 1:
        raise InputError(f"hidden is {hidden}: expected 1 or more numbers")
    # NumPy, not a tensor: networks are built into computations of their own.
    fixed_seed = derive(seeding.root(seed), Role.FIXED_LAYER).numpy()
    fixed = layers.fixed_dense(dimension, seed=fixed_seed)
    tanh = layers.activation(tf.nn.tanh)
    return followed_by(name, build_body(hidden), [tanh, fixed])


def feature_moments(
    features: Network, weights: Weights, pictures: np.ndarray, batch_size: int = 500
) -> layers.Moments:
    """Returns mean and variance of each feature over pictures, float32 `[d]` each.

    Args:
      features: from `key_features`.
      weights: of it, or of the `key_embedding` of which it is the beginning.
      pictures: float32 `[n, H, W, C]`, at least one.
      batch_size: pictures at a time; what comes out does not depend on it.
    """
    first = Weights(
        weights.trainable[: len(features.trainable_shapes)], weights.statistics
    )
    total, squares = 0.0, 0.0
    for start in range(0, len(pictures), batch_size):
        batch = tf.constant(pictures[start : start + batch_size])
        found = features.outputs(first, batch).numpy().astype(np.float64)
        total, squares = total + found.sum(axis=0), squares + (found**2).sum(axis=0)
    mean = total / len(pictures)
    variance = np.maximum(squares / len(pictures) - mean**2, 0.0)
    return mean.astype(np.float32), variance.astype(np.float32)


def key_training(settings: KeyTraining, network: Network) -> LocalTraining:
    """Returns a participant's training towards its keys (Eq. 5) by Adam.

    Adam's state is shared with the model (section 5.1, technique (i)), so S = 3 P + 1:
    the parameters, the first and the second moments, and the number of steps, which
    corrects the moments' start at 0. All of it is downloaded and uploaded whole.

    What a participant keeps to itself is its table of keys, float32 `[k, d]`; the
    labels of its local data are rows of the table. An adversary's table has one row
    more, for its fakes.

    Args:
      settings: of Adam and Eq. 5. The objective of a step is the *mean* of
        -<psi(c), phi(x)> over the minibatch plus lambda ||theta||^2; the text has
        the sum over all examples.
      network: from `key_embedding`; outputs `[n, d]` of length 1.

    Returns:
      The training. Its loss is the mean of -score over the examples seen, in [-1, 1],
      without the regulariser.

    Raises:
      InputError: if the network's outputs are no vectors.
    """
    if len(network.output_shape) != 1:
        raise InputError(
            f"network {network.name} has outputs of shape {network.output_shape}: "
            "expected vectors, as long as the keys; build it with key_embedding"
        )
    size = network.num_parameters

    def initialize(seed):
        weights = network.initialize(seed)
        adam = tf.zeros([2 * size + 1])
        shared = tf.concat([flatten(weights.trainable), adam], axis=0)
        return shared, list(weights.statistics)

    def train(shared, constants, data, keys, steps, seed):
        return _train(settings, network, shared, constants, data, keys, steps, seed)

    keys_spec = tf.TensorSpec([None, *network.output_shape])
    return LocalTraining(3 * size + 1, initialize, keys_spec, train)


def _train(
    settings: KeyTraining,
    network: Network,
    shared: tf.Tensor,
    constants: list[tf.Tensor],
    data: LocalData,
    keys: tf.Tensor,
    steps: tf.Tensor,
    seed: tf.Tensor,
) -> Trained:
    """One turn of Adam on local data, from what is shared to what will be."""

    def step(index, chosen, state):
        del index
        adam, total, seen = state
        batch = LocalData(*(tf.gather(part, chosen) for part in data))
        loss, gradient = _loss_and_gradient(
            network, adam[0], constants, batch, keys, pull
        )
        examples = tf.cast(tf.shape(chosen)[0], tf.float32)
        adam = _adam_step(settings, adam, gradient)
        return adam, total + loss * examples, seen + examples

    pull = _pull(settings, network)
    size = network.num_parameters
    adam = tuple(tf.split(shared, [size, size, size, 1]))
    (adam, total, seen), made = over_minibatches(
        step,
        (adam, tf.constant(0.0), tf.constant(0.0)),
        count=tf.shape(data.labels)[0],
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        seed=seed,
    )
    loss = total / tf.maximum(seen, 1.0)
    return Trained(tf.concat(adam, axis=0), steps + made, loss)


def _loss_and_gradient(
    network: Network,
    parameters: tf.Tensor,
    constants: list[tf.Tensor],
    batch: LocalData,
    keys: tf.Tensor,
    pull: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean of -score, and the gradient `[P]` of what is minimised (Eq. 5)."""
    own_keys = tf.gather(keys, batch.labels)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        trainable = unflatten(parameters, network.trainable_shapes)
        embeddings, _ = network.apply(
            Weights(trainable, list(constants)), batch.inputs, True
        )
        loss = -tf.reduce_mean(tf.reduce_sum(embeddings * own_keys, axis=1))
    # The regulariser's gradient by hand: it is exact, and needs no tape.
    gradient = tape.gradient(loss, parameters)
    return loss, gradient + pull * parameters


def _pull(settings: KeyTraining, network: Network) -> tf.Tensor:
    """What Eq. 5's gradient has of each parameter: 2 lambda or 0, float32 `[P]`."""
    strength = 2.0 * settings.regularisation
    # Biases, scales and offsets are vectors.
    least = 2 if settings.regularised is Regularised.WEIGHTS else 0
    return tf.concat(
        [
            tf.fill([math.prod(shape)], strength if len(shape) >= least else 0.0)
            for shape in network.trainable_shapes
        ],
        axis=0,
    )


def _adam_step(
    settings: KeyTraining, adam: tuple[tf.Tensor, ...], gradient: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """One step of Adam (Kingma and Ba, algorithm 1) on (theta, m, v, t)."""
    parameters, first, second, count = adam
    count += 1.0
    first = settings.beta_1 * first + (1.0 - settings.beta_1) * gradient
    # Uploads of a cohort are summed: shrinking moments may so go below 0. What this
    # step adds stays, as a root of 0 below the first moment would be a leap.
    second = tf.maximum(second, 0.0)
    second = settings.beta_2 * second + (1.0 - settings.beta_2) * gradient**2
    mean = first / (1.0 - settings.beta_1**count)
    square = second / (1.0 - settings.beta_2**count)
    parameters -= settings.learning_rate * mean / (tf.sqrt(square) + settings.epsilon)
    return parameters, first, second, count


def _check_dimension(dimension: int, least: int = 1) -> None:
    if dimension < least:
        raise InputError(
            f"key dimension is {dimension}: expected {least} or more; the paper has "
            "4 to 16384"
        )
