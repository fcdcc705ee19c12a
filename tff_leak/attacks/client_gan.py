"""The GAN attack of a malicious client (Hitaj, Ateniese, Perez-Cruz, CCS 2017).

Section 7 and algorithm 1, lines 5-12. On its turn the adversary takes the model it
has just downloaded as discriminator D, trains a generator G towards the class that it
wants to see, draws pictures from G, labels them with the class of the fakes, and
trains and uploads like everybody else. The victim then has to tell its own pictures
from the fakes, and so reveals more of them.
"""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tff_leak.attacks.client_transform import ClientTransform, Download
from tff_leak.errors import InputError
from tff_leak.models.generators import uniform_latents
from tff_leak.models.loop_body import compiled_apart
from tff_leak.models.network import Network, Weights, unflatten
from tff_leak.models.training import LocalData, cross_entropy
from tff_leak.runtime.seeding import Role, derive

_ACCURACY_BATCH = 1000


class Aim(NamedTuple):
    """What the generator is trained towards.

    Attributes:
      spec: of the target that an adversary has in mind.
      loss: `(outputs [n, k], target) -> float32`, what G descends on.
      hits: `(outputs [n, k], target) -> bool [n]`: which of its pictures D takes for
        the target.
      outputs_are_classes: whether the model has an output for each class; if not,
        labels mean something else to its training, and accuracy cannot be read off.
    """

    spec: tf.TensorSpec
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    hits: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    outputs_are_classes: bool = False


def _class_loss(logits: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    return cross_entropy(logits, tf.fill([tf.shape(logits)[0]], target))


def _class_hits(logits: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    return tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), target)


CLASS_AIM = Aim(tf.TensorSpec([], tf.int32), _class_loss, _class_hits, True)
"""A class of the model (Hitaj et al.): int32; cross-entropy in nats."""


def key_aim(dimension: int, hit_score: float) -> Aim:
    """A guessed key, against "Key protected classification" (section 5.4).

    The target is a key, float32 `[dimension]` of length 1. G descends on the mean of
    -<key, D's answer>, the objective of a participant that holds the key (Eq. 5).

    Args:
      dimension: of the keys and of the model's outputs.
      hit_score: in [-1, 1]; D takes for the target what it gives this score or more
        (not in the text: without the other keys there is no arg max). It is reported
        (`Turn.target_share`), and decides something with `stop_share` only.

    Raises:
      InputError: if a value is out of its range.
    """
    if dimension < 1:
        raise InputError(f"key dimension is {dimension}: expected 1 or more numbers")
    if not -1 <= hit_score <= 1:
        raise InputError(
            f"hit_score is {hit_score}: expected a score in [-1, 1], the range of "
            "products of vectors of length 1"
        )

    def scores(outputs, key):
        return tf.linalg.matvec(outputs, key)

    return Aim(
        tf.TensorSpec([dimension]),
        lambda outputs, key: -tf.reduce_mean(scores(outputs, key)),
        lambda outputs, key: scores(outputs, key) >= hit_score,
    )


class Replica(enum.Enum):
    """What the adversary takes as discriminator, where it fetches a part of a model.

    With theta_d = 1 they are the same. With less, its own model is mostly what it has
    trained itself: on its own classes and on fakes, with the target never among them,
    so that such a model comes to know little of the target.
    """

    LOCAL = "local"  # its own model after the download: algorithm 1, line 6
    FETCHED = "fetched"  # only what it ever fetched, apart from its own training


@dataclasses.dataclass(frozen=True)
class ClientGan:
    """The adversary's settings.

    Attributes:
      generator: latents `[n, 100]` to pictures `[n, H, W, C]` in [-1, 1].
      optimizer: a `tff.learning.optimizers.Optimizer` for G.
      fake_class: output of the model in which fakes are put; with another aim than a
        class the label that fakes get, a row of the adversary's keys.
      generator_steps: G's steps in one turn, at most.
      batch_size: fakes in one of these steps.
      fakes_per_turn: pictures drawn for injection in one turn.
      influence: whether they are injected (section 9.3: "no influence" is False).
      start_accuracy: the attack starts at the first turn at which the downloaded
        model classifies at least this share of the adversary's own data; 0 starts at
        once. Section 7, step 3, waits for the server's and both local models; that an
        adversary can only measure on what it holds is not in the text.
      stop_share: G rests for this turn once each of its last `stop_window` batches
        was classified as the target to at least this share; None never rests (not in
        the text).
      stop_window: see `stop_share` (not in the text).
      replay_turns: fakes of this many turns before are injected again (not in the
        text).
      aim: what G is trained towards: a class, or a guessed key (`key_aim`).
      replica: D, where only a part of the model is fetched; `FETCHED` is not in the
        text.
    """

    generator: Network
    optimizer: Any
    fake_class: int
    generator_steps: int = 20
    batch_size: int = 64
    fakes_per_turn: int = 200
    influence: bool = True
    start_accuracy: float = 0.0
    stop_share: float | None = None
    stop_window: int = 15
    replay_turns: int = 0
    aim: Aim = CLASS_AIM
    replica: Replica = Replica.LOCAL

    def __post_init__(self):
        positive = ("generator_steps", "batch_size", "fakes_per_turn", "stop_window")
        for name in positive:
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}: expected at least 1; without "
                    "it there is no attack"
                )
        for name in ("start_accuracy", "stop_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} is {value}: expected a share in [0, 1]")
        if self.replay_turns < 0:
            raise InputError(
                f"replay_turns is {self.replay_turns}: expected 0 (no replay) or more"
            )


class Turn(NamedTuple):
    """What the adversary notes about its last turn, all scalars.

    Attributes:
      loss: G's over its last step's batch; towards a class the mean cross-entropy in
        nats.
      target_share: share of that batch that D takes for the target.
      generator_steps: steps made.
      injected: fakes added to the local data.
      own_accuracy: of the downloaded model on the adversary's own data, 0 without;
        measured only where a start accuracy asks for it, else 1.
    """

    loss: tf.Tensor
    target_share: tf.Tensor
    generator_steps: tf.Tensor
    injected: tf.Tensor
    own_accuracy: tf.Tensor


class State(NamedTuple):
    """What the adversary keeps between its turns; nobody else sees it.

    Attributes:
      target: the class wanted, int32, or what else the aim has.
      started: bool, whether the start accuracy has been reached.
      generator: G's weights.
      optimizer: the state of G's optimiser.
      replay: float32 `[replay_turns, fakes_per_turn, H, W, C]`, newest first.
      replay_filled: int32, turns in `replay`.
      last_turn: see `Turn`.
      replica: for `Replica.FETCHED` the model of what was ever fetched, float32 `[P]`,
        in front of it 1 after the first turn; otherwise of length 0.
    """

    target: tf.Tensor
    started: tf.Tensor
    generator: Weights
    optimizer: Any
    replay: tf.Tensor
    replay_filled: tf.Tensor
    last_turn: Turn
    replica: tf.Tensor


def initial_state(
    attack: ClientGan, *, target: Any, seed: tf.Tensor, num_parameters: int = 0
) -> State:
    """Returns an adversary's state before its first turn.

    Args:
      attack: the settings.
      target: class in [0, outputs) that the adversary wants to see; with `key_aim`
        the key that it guesses, float32 `[d]`.
      seed: int32 `[2]`, the adversary's own.
      num_parameters: P of the shared model, which `Replica.FETCHED` asks for.

    Raises:
      InputError: if the target has another shape than the aim's, or P is missing.
    """
    if attack.replica is Replica.FETCHED and num_parameters < 1:
        raise InputError(
            f"num_parameters is {num_parameters} with replica fetched: expected the "
            "shared model's number of parameters, which the adversary keeps; give it"
        )
    target = tf.convert_to_tensor(target, attack.aim.spec.dtype)
    if target.shape != attack.aim.spec.shape:
        raise InputError(
            f"target has shape {target.shape}: expected {attack.aim.spec.shape}, what "
            "the attack aims at; give a class, or a key of the aim's dimension"
        )
    weights = attack.generator.initialize(derive(seed, Role.GENERATOR))
    specs = [tf.TensorSpec(w.shape, w.dtype) for w in weights.trainable]
    shape = attack.generator.output_shape
    return State(
        target=target,
        started=tf.constant(attack.start_accuracy == 0),
        generator=weights,
        optimizer=tf.nest.map_structure(
            tf.convert_to_tensor, attack.optimizer.initialize(specs)
        ),
        replay=tf.zeros([attack.replay_turns, attack.fakes_per_turn, *shape]),
        replay_filled=tf.constant(0, tf.int32),
        last_turn=Turn(
            loss=tf.constant(0.0),
            target_share=tf.constant(0.0),
            generator_steps=tf.constant(0, tf.int32),
            injected=tf.constant(0, tf.int32),
            own_accuracy=tf.constant(0.0),
        ),
        replica=tf.zeros([_replica_size(attack, num_parameters)]),
    )


def sample(
    attack: ClientGan, weights: Weights, count: int, seed: tf.Tensor
) -> tf.Tensor:
    """Draws pictures from G: float32 `[count, H, W, C]` in [-1, 1].

    With the batch's own statistics: running ones lag behind a generator that changes
    every turn, and blur.
    """
    latents = uniform_latents(count, seed)
    return attack.generator.apply(weights, latents, True)[0]


def build_client_gan(attack: ClientGan, discriminator: Network) -> ClientTransform:
    """Builds the adversary's turn.

    Args:
      attack: the settings.
      discriminator: the shared model's network; its outputs include the target and
        the class of the fakes.

    Returns:
      The transform. Its state is `State`.

    Raises:
      InputError: if the generator's pictures are not the model's inputs, the model
        has no output for the fakes, or a key has another length than the outputs.
    """
    _check(attack, discriminator)

    def apply(state: State, download: Download, data: LocalData, seed: tf.Tensor):
        parameters, state = _replicate(attack, discriminator, state, download)
        trainable = unflatten(parameters, discriminator.trainable_shapes)
        weights = Weights(trainable, list(download.statistics))
        accuracy = tf.constant(1.0)
        if attack.start_accuracy > 0:
            accuracy = _accuracy(discriminator, weights, data)
        started = state.started | (accuracy >= attack.start_accuracy)
        state = state._replace(started=started, last_turn=_idle_turn(state, accuracy))

        def attack_now():
            trained = train_generator(attack, discriminator, weights, state, seed)
            return _inject(attack, trained, data, derive(seed, Role.FAKES))

        return tf.cond(started, attack_now, lambda: (state, data))

    seed = tf.zeros([2], tf.int32)
    no_target = tf.zeros(attack.aim.spec.shape, attack.aim.spec.dtype)
    spec = tf.nest.map_structure(
        lambda t: tf.TensorSpec(t.shape, t.dtype),
        initial_state(
            attack,
            target=no_target,
            seed=seed,
            num_parameters=discriminator.num_parameters,
        ),
    )
    return ClientTransform(spec, apply)


def _replica_size(attack: ClientGan, num_parameters: int) -> int:
    return 0 if attack.replica is Replica.LOCAL else 1 + num_parameters


def _replicate(
    attack: ClientGan, discriminator: Network, state: State, download: Download
) -> tuple[tf.Tensor, State]:
    """D's parameters `[P]` (algorithm 1, line 6), and the state that remembers them."""
    # An optimiser's state may be shared as well, behind the model.
    size = discriminator.num_parameters
    parameters = download.parameters[:size]
    if attack.replica is Replica.LOCAL:
        return parameters, state
    # Before the first turn its own model is the server's first one.
    known = (state.replica[0] > 0) & ~download.fetched[:size]
    parameters = tf.where(known, state.replica[1:], parameters)
    return parameters, state._replace(replica=tf.concat([[1.0], parameters], axis=0))


def train_generator(
    attack: ClientGan,
    discriminator: Network,
    weights: Weights,
    state: State,
    seed: tf.Tensor,
) -> State:
    """Trains G towards the target on D as it stands (algorithm 1, lines 7-8).

    Each step draws a batch of latents and descends on the aim's loss of D's answer:
    towards a class its cross-entropy.

    Args:
      attack: the settings.
      discriminator: D's network.
      weights: D's weights; they are not changed.
      state: the adversary's.
      seed: int32 `[2]`, of this turn.

    Returns:
      The state with G, its optimiser and `last_turn` after the steps.
    """

    @compiled_apart
    def step(index, streak, generator, optimizer, last_loss, last_share):
        del last_loss, last_share
        latents = uniform_latents(attack.batch_size, derive(seed, Role.LATENT, index))
        with tf.GradientTape() as tape:
            tape.watch(generator.trainable)
            fakes, statistics = attack.generator.apply(generator, latents, True)
            outputs = discriminator.outputs(weights, fakes)
            loss = attack.aim.loss(outputs, state.target)
        gradients = tape.gradient(loss, generator.trainable)
        optimizer, trainable = attack.optimizer.next(
            optimizer, generator.trainable, gradients
        )
        hits = attack.aim.hits(outputs, state.target)
        share = tf.reduce_mean(tf.cast(hits, tf.float32))
        convinced = share >= (2.0 if attack.stop_share is None else attack.stop_share)
        streak = tf.where(convinced, streak + 1, 0)
        generator = Weights(list(trainable), list(statistics))
        return index + 1, streak, generator, optimizer, loss, share

    steps, _, generator, optimizer, loss, share = tf.while_loop(
        lambda index, streak, *_: (
            (index < attack.generator_steps) & (streak < attack.stop_window)
        ),
        step,
        (
            tf.constant(0),
            tf.constant(0),
            Weights(list(state.generator.trainable), list(state.generator.statistics)),
            state.optimizer,
            tf.constant(0.0),
            tf.constant(0.0),
        ),
        maximum_iterations=attack.generator_steps,
    )
    turn = state.last_turn._replace(
        loss=loss, target_share=share, generator_steps=steps
    )
    return state._replace(generator=generator, optimizer=optimizer, last_turn=turn)


def _inject(
    attack: ClientGan, state: State, data: LocalData, seed: tf.Tensor
) -> tuple[State, LocalData]:
    """Merges fakes with the adversary's data (algorithm 1, lines 9-11)."""
    if not attack.influence:
        return state, data
    fresh = sample(attack, state.generator, attack.fakes_per_turn, seed)
    pool = tf.concat([fresh[tf.newaxis], state.replay], axis=0)
    filled = state.replay_filled + 1
    fakes = tf.reshape(pool[:filled], [-1, *attack.generator.output_shape])
    labels = tf.fill([tf.shape(fakes)[0]], attack.fake_class)
    merged = LocalData(
        tf.concat([data.inputs, fakes], axis=0),
        tf.concat([data.labels, labels], axis=0),
    )
    state = state._replace(
        replay=pool[: attack.replay_turns],
        replay_filled=tf.minimum(filled, attack.replay_turns),
        last_turn=state.last_turn._replace(injected=tf.shape(fakes)[0]),
    )
    return state, merged


def _accuracy(network: Network, weights: Weights, data: LocalData) -> tf.Tensor:
    """Share of `data` that the network classifies rightly; 0 without data."""
    count = tf.shape(data.labels)[0]

    def add_batch(start, hits):
        # In batches: the activations of a whole data set may not fit in memory.
        chosen = slice(start, start + _ACCURACY_BATCH)
        logits = network.outputs(weights, data.inputs[chosen])
        answers = tf.argmax(logits, 1, tf.int32)
        right = tf.equal(answers, data.labels[chosen])
        hits += tf.reduce_sum(tf.cast(right, tf.float32))
        return start + _ACCURACY_BATCH, hits

    _, hits = tf.while_loop(
        lambda start, _: start < count, add_batch, (tf.constant(0), tf.constant(0.0))
    )
    return hits / tf.cast(tf.maximum(count, 1), tf.float32)


def _idle_turn(state: State, accuracy: tf.Tensor) -> Turn:
    return tf.nest.map_structure(tf.zeros_like, state.last_turn)._replace(
        own_accuracy=accuracy
    )


def _check(attack: ClientGan, discriminator: Network) -> None:
    if attack.generator.output_shape != discriminator.input_shape:
        raise InputError(
            f"generator {attack.generator.name} draws {attack.generator.output_shape}: "
            f"expected the input of {discriminator.name}, {discriminator.input_shape}; "
            "choose a generator of that size"
        )
    (outputs,) = discriminator.output_shape
    if not attack.aim.outputs_are_classes:
        _check_aim(attack, discriminator)
    elif not 0 <= attack.fake_class < outputs:
        raise InputError(
            f"fake class is {attack.fake_class}: expected one of the {outputs} outputs "
            f"of {discriminator.name}; give the model one more output than classes"
        )


def _check_aim(attack: ClientGan, discriminator: Network) -> None:
    """Checks an aim at something else than a class."""
    if attack.aim.spec.shape != discriminator.output_shape:
        raise InputError(
            f"aim has targets of shape {attack.aim.spec.shape}: expected the outputs "
            f"of {discriminator.name}, {discriminator.output_shape}; choose the keys' "
            "dimension alike"
        )
    if attack.fake_class < 0:
        raise InputError(
            f"fake class is {attack.fake_class}: expected a row of the adversary's "
            "keys, 0 or more"
        )
    if attack.start_accuracy > 0:
        raise InputError(
            f"start_accuracy is {attack.start_accuracy}: expected 0 for a model whose "
            "outputs are no classes, since it has no accuracy without all keys"
        )
