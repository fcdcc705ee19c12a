"""An adversary that searches for a key ("Key protected classification", beyond it).

The text lets an adversary draw one random key and keep it (section 5.4). Nothing
holds it to that. A participant fetches the whole model every turn, and training pulls
the embeddings of a class to its key (Eq. 5), with nothing that pushes other pictures
away from it. So the embeddings of whatever pictures an adversary has, and how they
move from one fetch to the next, carry something of keys that it was never given.

What it goes by is an `Observation`, made of the models that it fetched, its own
pictures and its own keys, and of nothing else. It looks at the upper half of one of its
pictures above the lower half of another: pictures of none of its classes, which the
model has to put somewhere. (Digits, d = 1024, 40 rounds, two seeds: from such pictures
a victim's key was estimated to a product of .53 and .58, from its pictures as they are
to .27 and .26.) What its own keys explain is taken out:

    r_j = e_j - (the part of e_j in the span of its own keys),   j = 1..m.

A key psi that some pictures are pulled to and most are not makes the contrast

    J(k) = mean of max(0, <k, r_j>)^3,   |k| = 1,

large at psi, where the mean of several keys, which explains all r_j a little, does not:
the cube rewards few large products over many small ones, as in independent component
analysis (Hyvarinen and Oja, "Independent component analysis: algorithms and
applications", 2000). Six searches spend an effort on it:

- RANDOM: the best of many random keys;
- ASCENT: gradient ascent on J from the key that it has;
- EMBEDDINGS: the key is estimated from the fetched model: in the first turn of the
  search from the picture that its own keys explain least, later from the key that it
  has, by fixed-point steps k <- sum of max(0, <k, r_j>)^2 r_j;
- DRIFT: the same, from what changed since the first fetch in place of the embeddings;
- WEIGHTS: the same, from the shared weights alone. The last d parameters are added to
  what tanh and division by the length make an embedding of, so that training towards
  keys adds a sum of these keys to them;
- MOMENTS: the same, from Adam's first moment of these parameters, which is shared, too
  (section 5.1, technique (i)): minus the mean gradient of the last ten steps or so,
  which are those of the participant before. Of a victim that trains towards one key it
  is nearly that key.

For the last two r_j are those of the fetches so far, each divided by its length, and no
picture is looked at. The attack is then that of `client_gan`, aimed at the key that was
found.

What came of it stands in the presets `keys_adaptive_small`, `keys_digits`,
`keys_digits_effort`, `keys_digits_estimates`, `keys_digits_one_class` and
`leak_matrix_digits_wide`. On MNIST ASCENT, EMBEDDINGS and DRIFT found keys that serve
(three seeds), RANDOM did not. On small digits ASCENT (two seeds of three) and
EMBEDDINGS (not in every run) did; RANDOM and DRIFT did not. Of a victim with one class
EMBEDDINGS did in one seed of three, and drew the adversary's own digit in the others.
MOMENTS did not, whose key of such a victim was the nearest of those that were searched
(three seeds): what it has beside the victim's key is common to all embeddings, and a
generator satisfies it with noise or grids. Nor did WEIGHTS, tried on a victim with five
classes (one seed).
"""

import dataclasses
import enum
from typing import NamedTuple

import tensorflow as tf

from tff_leak.attacks import client_gan
from tff_leak.attacks.client_transform import ClientTransform, Download
from tff_leak.defences.key_protection import KeyDistribution, draw_keys
from tff_leak.errors import InputError
from tff_leak.models.network import Network, Weights, unflatten
from tff_leak.models.training import LocalData
from tff_leak.runtime.seeding import Role, derive

# Random keys are drawn and compared in parts, since 16384 numbers each add up.
_CANDIDATES = 500
_MAX_EFFORT = 10**9
# Length of an ascent's step, on the sphere of radius 1.
_ASCENT_STEP = 0.1


class Observation(NamedTuple):
    """All that a search may look at: what a participant sees in its turn.

    Attributes:
      embeddings: float32 `[m, d]`, of pictures of its own, by the model fetched now.
      before: float32 `[m, d]`, of the same pictures by the model fetched in its first
        turn. From one turn to the next embeddings change little once they are learnt.
      own_keys: float32 `[k, d]`, its own, of its classes and its fakes; k may be 0.
    """

    embeddings: tf.Tensor
    before: tf.Tensor
    own_keys: tf.Tensor


class SearchMethod(enum.Enum):
    """Where a key is looked for; see the module's docstring."""

    RANDOM = "best"
    ASCENT = "ascent"
    EMBEDDINGS = "embeddings"
    DRIFT = "drift"
    WEIGHTS = "weights"
    MOMENTS = "moments"

    @property
    def reads_parameters(self) -> bool:
        """Whether it goes by what was fetched as it is, and looks at no picture."""
        return self in (SearchMethod.WEIGHTS, SearchMethod.MOMENTS)


@dataclasses.dataclass(frozen=True)
class KeySearch:
    """Settings of a search; none of it is in the text.

    Attributes:
      method: where a key is looked for.
      effort: in each turn with a search, 1 or more: random keys, or steps.
      first_turn: turns of the adversary before the search, in which the model learns;
        1 or more, since the drift needs an earlier fetch.
      turns: with a search, 1 or more; after them the key stays. A generator hardly
        follows a key that moves to the end (digits, d = 1024, one seed, EMBEDDINGS:
        the judge took .17 of its pictures for the class of the nearest key, and .86
        after ten turns of search behind twenty without).
      probes: pictures that the adversary makes of its own and looks at, 1 or more.
      distribution: of RANDOM's keys; everybody knows what keys are drawn from.
    """

    method: SearchMethod
    effort: int
    first_turn: int = 20
    turns: int = 10
    probes: int = 256
    distribution: KeyDistribution = KeyDistribution.UNIFORM

    @property
    def fetches(self) -> int:
        """How many fetches are kept: all to the search's end, where they are read."""
        return self.first_turn + self.turns if self.method.reads_parameters else 0

    def __post_init__(self):
        for name in ("effort", "first_turn", "turns", "probes"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} of the key search is {getattr(self, name)}: expected 1 "
                    "or more; without it there is no search"
                )
        if self.effort > _MAX_EFFORT:
            raise InputError(
                f"effort of the key search is {self.effort}: expected at most "
                f"{_MAX_EFFORT} a turn; it would not end"
            )


class SearchState(NamedTuple):
    """What a searching adversary keeps between its turns; nobody else sees it.

    Attributes:
      attack: of the client GAN; its target is the key found so far.
      own_keys: float32 `[k, d]`, see `Observation`.
      first: float32 `[P]`, the model fetched in its first turn.
      turn: int32, turns it has had.
      told: one tensor, float32 `[KeySearch.fetches, d]`, what each fetch says of keys,
        newest first, of length 1, and 0 where there was none yet; none where the method
        does not read parameters.
    """

    attack: client_gan.State
    own_keys: tf.Tensor
    first: tf.Tensor
    turn: tf.Tensor
    told: list[tf.Tensor]

    @property
    def target(self) -> tf.Tensor:
        """The key found so far, float32 `[d]`."""
        return self.attack.target

    @property
    def generator(self) -> Weights:
        """The generator's weights."""
        return self.attack.generator

    @property
    def last_turn(self) -> client_gan.Turn:
        """What the client GAN notes about the last turn."""
        return self.attack.last_turn


def observe(
    network: Network,
    fetched: tf.Tensor,
    before: tf.Tensor,
    constants: list[tf.Tensor],
    pictures: tf.Tensor,
    own_keys: tf.Tensor,
) -> Observation:
    """Makes an observation of two fetched models.

    Args:
      network: the embedding, from `key_embedding`.
      fetched: float32 `[P]`, the model fetched now.
      before: float32 `[P]`, the one fetched in the first turn.
      constants: `Weights.statistics`, the same for all participants.
      pictures: float32 `[m, H, W, C]` in [-1, 1], the adversary's own.
      own_keys: float32 `[k, d]`, the adversary's own.
    """

    def embed(parameters):
        trainable = unflatten(parameters, network.trainable_shapes)
        return network.outputs(Weights(trainable, list(constants)), pictures)

    return Observation(embed(fetched), embed(before), own_keys)


def told_by_parameters(
    method: SearchMethod, download: tf.Tensor, first: tf.Tensor, network: Network
) -> tf.Tensor:
    """What the parameters that were fetched say of the keys trained towards.

    Args:
      method: WEIGHTS or MOMENTS.
      download: float32 `[3 P + 1]`, model and moments as `key_training` shares them.
      first: float32 `[P]`, the model fetched in the first turn: biases are not 0 before
        training.
      network: the embedding; its last trainable is `[d]`.

    Returns:
      float32 `[d]` of length 1, or 0 where all of it is 0.
    """
    [dimension] = network.output_shape
    end = network.num_parameters
    if method is SearchMethod.MOMENTS:
        # Steps go against the gradient, and the gradient of a score is the key.
        return tf.math.l2_normalize(-download[2 * end - dimension : 2 * end])
    changed = download[end - dimension : end] - first[end - dimension :]
    return tf.math.l2_normalize(changed)


def composites(pictures: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
    """Upper halves of some pictures above lower halves of others.

    Args:
      pictures: `[n, H, W, C]`, n at least 1.
      count: of composites.
      seed: int32 `[2]`.

    Returns:
      `[count, H, W, C]`; both halves are drawn with replacement.
    """
    most = tf.shape(pictures)[0]
    chosen = tf.random.stateless_uniform([2, count], seed, 0, most, tf.int32)
    middle = pictures.shape[1] // 2
    upper = tf.gather(pictures[:, :middle], chosen[0])
    lower = tf.gather(pictures[:, middle:], chosen[1])
    return tf.concat([upper, lower], axis=1)


def residuals(vectors: tf.Tensor, own_keys: tf.Tensor) -> tf.Tensor:
    """What the span of the own keys `[k, d]` leaves of vectors `[m, d]`."""
    if own_keys.shape[0] == 0:
        return vectors
    basis, _ = tf.linalg.qr(tf.transpose(own_keys))
    return vectors - tf.matmul(tf.matmul(vectors, basis), basis, transpose_b=True)


def contrast(keys: tf.Tensor, left: tf.Tensor) -> tf.Tensor:
    """J of keys `[n, d]` on residuals `[m, d]`: float32 `[n]`, 0 or more."""
    products = tf.nn.relu(tf.matmul(keys, left, transpose_b=True))
    return tf.reduce_mean(products**3, axis=1)


def search_key(
    search: KeySearch,
    observed: Observation,
    guess: tf.Tensor,
    seed: tf.Tensor,
    *,
    first: bool | tf.Tensor = True,
) -> tf.Tensor:
    """Spends the effort of one turn on a better key.

    Args:
      search: the settings.
      observed: what the adversary sees; of WEIGHTS and MOMENTS the embeddings are
        what the fetches say (`told_by_parameters`).
      guess: float32 `[d]` of length 1, the key that it has.
      seed: int32 `[2]`, of this turn.
      first: whether this is the first turn of the search, in which estimates start
        from what is observed and not from the guess.

    Returns:
      float32 `[d]` of length 1. With RANDOM never one of a smaller contrast than the
      guess.
    """
    seen, known = observed.embeddings, observed.own_keys
    if search.method is SearchMethod.DRIFT:
        # Where all pictures were at first they all leave: that is no key's direction.
        start = tf.reduce_mean(observed.before, axis=0, keepdims=True)
        seen -= observed.before
        known = tf.concat([known, start], axis=0)
    left = residuals(seen, known)
    if search.method is SearchMethod.RANDOM:
        return _best_of_random(search, left, guess, seed)
    step = _fixed_point_step
    if search.method is SearchMethod.ASCENT:
        step = _ascent_step
    else:
        least_explained = left[tf.argmax(tf.norm(left, axis=1))]
        guess = tf.where(first, tf.math.l2_normalize(least_explained), guess)
    _, guess = tf.while_loop(
        lambda index, _: index < search.effort,
        lambda index, key: (index + 1, step(key, left)),
        (tf.constant(0), guess),
    )
    return guess


def initial_search_state(
    search: KeySearch,
    attack: client_gan.State,
    *,
    own_keys: tf.Tensor,
    num_parameters: int,
) -> SearchState:
    """Returns a searching adversary's state before its first turn.

    Args:
      search: the settings.
      attack: from `client_gan.initial_state`; its target is the key to begin with.
      own_keys: float32 `[k, d]`, the adversary's table.
      num_parameters: P of the shared model.
    """
    return SearchState(
        attack=attack,
        own_keys=tf.convert_to_tensor(own_keys, tf.float32),
        first=tf.zeros([num_parameters]),
        turn=tf.constant(0, tf.int32),
        told=[
            tf.zeros([search.fetches, *attack.target.shape])
            for _ in range(search.method.reads_parameters)
        ],
    )


def build_key_search(
    search: KeySearch, attack: ClientTransform, network: Network, num_keys: int
) -> ClientTransform:
    """Builds the turn of an adversary that searches and attacks.

    Args:
      search: the settings.
      attack: from `build_client_gan`, aimed at a key.
      network: the embedding.
      num_keys: k, rows of the adversary's table.

    Returns:
      The transform. Its state is `SearchState`.

    Raises:
      InputError: if the attack is not aimed at keys of the network's dimension, or
        the search reads parameters and the network's last ones are not as many.
    """
    target = attack.state_spec.target
    if target.shape != network.output_shape:
        raise InputError(
            f"the attack aims at targets of shape {target.shape}: expected a key, of "
            f"shape {network.output_shape}; build it with key_aim"
        )
    last = tuple(network.trainable_shapes[-1])
    if search.method.reads_parameters and last != tuple(network.output_shape):
        raise InputError(
            f"the last parameters of {network.name} are of shape {last}: expected "
            f"{tuple(network.output_shape)} for {search.method.value}, which reads "
            "what is added to embeddings; choose another method, or build the network "
            "with key_embedding"
        )

    def apply(state: SearchState, download: Download, data: LocalData, seed: tf.Tensor):
        fetched = download.parameters[: network.num_parameters]
        first = tf.where(state.turn > 0, state.first, fetched)
        state = state._replace(
            first=first,
            told=_noted(search, state.told, download.parameters, first, network),
        )
        searching = (state.turn >= search.first_turn) & (
            state.turn < search.first_turn + search.turns
        )
        key = tf.cond(
            searching,
            lambda: _key_of_turn(
                search, network, state, fetched, download.statistics, data.inputs, seed
            ),
            lambda: state.target,
        )
        inner = state.attack._replace(target=key)
        inner, data = attack.apply(inner, download, data, seed)
        return state._replace(attack=inner, turn=state.turn + 1), data

    keys = tf.TensorSpec([num_keys, *network.output_shape])
    parameters = tf.TensorSpec([network.num_parameters])
    turn = tf.TensorSpec([], tf.int32)
    told = [
        tf.TensorSpec([search.fetches, *network.output_shape])
        for _ in range(search.method.reads_parameters)
    ]
    spec = SearchState(attack.state_spec, keys, parameters, turn, told)
    return ClientTransform(spec, apply)


def _noted(
    search: KeySearch,
    told: list[tf.Tensor],
    parameters: tf.Tensor,
    first: tf.Tensor,
    network: Network,
) -> list[tf.Tensor]:
    """What was told so far, and by this fetch."""
    if not told:
        return []
    now = told_by_parameters(search.method, parameters, first, network)
    return [tf.concat([now[tf.newaxis], told[0][:-1]], axis=0)]


def _key_of_turn(
    search: KeySearch,
    network: Network,
    state: SearchState,
    fetched: tf.Tensor,
    constants: list[tf.Tensor],
    own_pictures: tf.Tensor,
    seed: tf.Tensor,
) -> tf.Tensor:
    """Looks at what was fetched, and searches: float32 `[d]`."""
    seed = derive(seed, Role.KEY_SEARCH)
    if search.method.reads_parameters:
        [told] = state.told
        observed = Observation(told, told, state.own_keys)
    else:
        pictures = composites(own_pictures, search.probes, seed)
        observed = observe(
            network, fetched, state.first, constants, pictures, state.own_keys
        )
    first = tf.equal(state.turn, search.first_turn)
    found = search_key(search, observed, state.target, seed, first=first)
    return tf.ensure_shape(found, network.output_shape)


def _best_of_random(
    search: KeySearch, left: tf.Tensor, guess: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    dimension, effort = guess.shape[0], search.effort
    best, value = guess, contrast(guess[tf.newaxis], left)[0]
    parts = -(-effort // _CANDIDATES)

    def body(part, best, value):
        stream = derive(seed, part)
        keys = draw_keys(_CANDIDATES, dimension, stream, search.distribution)
        values = contrast(keys, left)
        # The last part may be longer than what is left of the effort.
        beyond = part * _CANDIDATES + tf.range(_CANDIDATES) >= effort
        values = tf.where(beyond, -1.0, values)
        first = tf.argmax(values)
        better = values[first] > value
        best = tf.where(better, keys[first], best)
        return part + 1, best, tf.maximum(value, values[first])

    _, best, _ = tf.while_loop(
        lambda part, *_: part < parts, body, (tf.constant(0), best, value)
    )
    return best


def _ascent_step(key: tf.Tensor, left: tf.Tensor) -> tf.Tensor:
    """A step of constant length along the gradient of J on the sphere."""
    gradient = _weighted_sum(key, left)
    gradient -= tf.tensordot(gradient, key, 1) * key
    return tf.math.l2_normalize(key + _ASCENT_STEP * tf.math.l2_normalize(gradient))


def _fixed_point_step(key: tf.Tensor, left: tf.Tensor) -> tf.Tensor:
    found = tf.math.l2_normalize(_weighted_sum(key, left))
    # No picture on the key's side: there is nowhere to go.
    return tf.where(tf.norm(found) > 0.5, found, key)


def _weighted_sum(key: tf.Tensor, left: tf.Tensor) -> tf.Tensor:
    """A third of m times the gradient of J at a key `[d]`."""
    weights = tf.nn.relu(tf.linalg.matvec(left, key)) ** 2
    return tf.linalg.matvec(left, weights, transpose_a=True)
