"""The multi-task GAN of mGAN-AI (Wang et al., INFOCOM 2019, section V-B).

A discriminator D with the layers of a classifier and three outputs, reality, category
and identity (Eq. 3), and a generator G that is told which category and whose picture
to draw. Equation 4 is read so:

    L_real = -mean log D_real(real) - mean log(1 - D_real(fake))
    L_id   = -mean log D_id(victim) - mean log(1 - D_id(other))
    D descends on L_real + L_id
    G descends on  mean CE(D_cat(fake), category) - mean log D_real(fake)
                   + BCE(D_id(fake), identity asked for)

The paper's text has the opposite sign in front of both logarithms and lets D minimise
and G minimise L_cat - L_real + L_id; taken literally D would learn that real pictures
are fake and training diverges within 60 steps. G's part of L_real is the usual
non-saturating one, and its identity is that which it was asked for.

Pure TensorFlow steps; who calls them when is `server_gan.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tff_leak.attacks.deviations import Deviations
from tff_leak.attacks.disguise import disguise
from tff_leak.attacks.feature_matching import feature_distance, last_features
from tff_leak.attacks.gradient_penalty import gradient_penalty
from tff_leak.attacks.patch_discriminator import (
    Patches,
    fooling_loss,
    initial_patches,
    train_patches,
)
from tff_leak.attacks.picture_likeness import class_spread, unit, unit_means
from tff_leak.errors import InputError
from tff_leak.models.discriminators import Heads, heads
from tff_leak.models.generators import uniform_latents
from tff_leak.models.network import Network, Tensors, Weights
from tff_leak.models.training import binary_cross_entropy, cross_entropy
from tff_leak.runtime.seeding import Role, derive

VICTIM = 1
OTHER = 0

# Streams below a step's seed, beside `Role.LATENT` and those of `disguise.py`.
_CONDITIONS, _AUXILIARY, _VICTIM, _OTHER = range(100, 104)
_PATCHES, _EXPLAINED, _COVERAGE, _FEATURES = range(107, 111)
_CANDIDATES = 4
"""Pictures of which the nearest to a representative counts."""


class Labelled(NamedTuple):
    """Pictures with their classes.

    Attributes:
      images: float32 `[n, H, W, C]` in [-1, 1].
      labels: int32 `[n]`.
    """

    images: tf.Tensor
    labels: tf.Tensor


class Evidence(NamedTuple):
    """What D knows about identities: representatives of the clients (section V-E).

    Attributes:
      victim: of the victim, at least one.
      other: of the others, at least one.
    """

    victim: Labelled
    other: Labelled


class Asked(NamedTuple):
    """What G is asked for.

    Attributes:
      category: int32 `[n]`.
      identity: int32 `[n]`, `VICTIM` or `OTHER`.
    """

    category: tf.Tensor
    identity: tf.Tensor


class Explained(NamedTuple):
    """What the victim's pictures have to explain (`Deviations.explained`).

    Attributes:
      shared: the trainable weights that the round began with.
      update: the victim's row of the round: old minus new weights, or a gradient.
      labels: int32 `[m]`, ascending, of the pictures that are drawn for it.
    """

    shared: Tensors
    update: Tensors
    labels: tf.Tensor


Unexplained = Callable[[Explained, tf.Tensor], tf.Tensor]
"""What pictures `[m, H, W, C]` leave of the update, against its length: 0 or more."""


class Generator(NamedTuple):
    """G as it is trained.

    Attributes:
      weights: G's.
      optimizer: the state of its optimiser.
      average: running mean of its trainable weights; empty without one.
    """

    weights: Weights
    optimizer: Any
    average: Tensors


class Critics(NamedTuple):
    """What G learns from, as it is trained within a round.

    Attributes:
      weights: D's.
      slots: the state of D's optimiser, fresh at a round's start, as D is.
      patches: the patch discriminator, which has nothing of the clients and goes on
        from round to round; empty without one.
    """

    weights: Weights
    slots: Any
    patches: Patches


@dataclasses.dataclass(frozen=True)
class MultitaskGan:
    """The networks and how they are trained.

    Attributes:
      generator: noise, category and identity `[n, 102]` to pictures in [-1, 1]
        (`models.generators.wang_mnist`).
      discriminator: pictures to logits `[n, categories + 2]`
        (`models.discriminators.wang_mnist_multitask`); its last layer is dense.
      generator_optimizer: a `tff.learning.optimizers.Optimizer`; in the paper Adam,
        rate 0.0002, first momentum 0.5.
      discriminator_optimizer: the same for D.
      batch_size: pictures of each kind in a step (not in the text).
      deviations: from the paper.
      patch_discriminator: pictures to logits of patches `[n, h, w, 1]`
        (`models.discriminators.patches`), trained as D is; for
        `Deviations.local_reality` only.
      unexplained: what G's pictures leave of the victim's update; for
        `Deviations.explained` only.
    """

    generator: Network
    discriminator: Network
    generator_optimizer: Any
    discriminator_optimizer: Any
    batch_size: int = 64
    deviations: Deviations = Deviations()
    patch_discriminator: Network | None = None
    unexplained: Unexplained | None = None

    def __post_init__(self):
        drawn, seen = self.generator.output_shape, self.discriminator.input_shape
        if drawn != seen:
            raise InputError(
                f"generator {self.generator.name} draws {drawn}: expected the input of "
                f"{self.discriminator.name}, {seen}; choose a generator of that size"
            )
        if self.batch_size < 2 or self.batch_size % 2:
            raise InputError(
                f"batch_size is {self.batch_size}: expected an even number; the "
                "default is 64"
            )
        if bool(self.deviations.local_reality) != bool(self.patch_discriminator):
            raise InputError(
                f"local_reality is {self.deviations.local_reality} "
                f"{'with' if self.patch_discriminator else 'without'} a patch "
                "discriminator: expected both or neither"
            )
        if bool(self.deviations.explained) != bool(self.unexplained):
            raise InputError(
                f"explained is {self.deviations.explained} "
                f"{'with' if self.unexplained else 'without'} a measure of what is "
                "unexplained: expected both or neither; correct one"
            )
        shift, side = self.deviations.max_shift, min(seen[:2])
        if shift >= side:
            raise InputError(
                f"max_shift is {shift}: expected fewer pixels than the pictures' "
                f"{side}; 1 or 2 are enough"
            )

    @property
    def num_categories(self) -> int:
        """Outputs of D_cat."""
        return self.discriminator.output_shape[0] - 2


def initial_generator(gan: MultitaskGan, seed: tf.Tensor) -> Generator:
    """Returns G before its first step; `seed` is int32 `[2]`."""
    weights = gan.generator.initialize(derive(seed, Role.GENERATOR))
    specs = [tf.TensorSpec(w.shape, w.dtype) for w in weights.trainable]
    optimizer = tf.nest.map_structure(
        tf.convert_to_tensor, gan.generator_optimizer.initialize(specs)
    )
    average = list(weights.trainable) if gan.deviations.average_decay else []
    return Generator(weights, optimizer, average)


def initial_patch_discriminator(gan: MultitaskGan, seed: tf.Tensor) -> Patches:
    """Returns it before its first step; `seed` is int32 `[2]`."""
    return initial_patches(
        gan.patch_discriminator, gan.discriminator_optimizer, derive(seed, _PATCHES)
    )


def generate(
    gan: MultitaskGan, trainable: Tensors, asked: Asked, seed: tf.Tensor
) -> tf.Tensor:
    """Draws pictures from G: float32 `[n, H, W, C]` in [-1, 1].

    With the batch's own statistics, as the generators of this project do; a picture so
    depends a little on what else was asked for in the same call.

    Args:
      gan: the networks.
      trainable: G's weights, its own or their average.
      asked: for n pictures.
      seed: int32 `[2]`.
    """
    return gan.generator.apply(
        Weights(list(trainable), _no_statistics(gan.generator)),
        _inputs(asked, seed),
        True,
    )[0]


def reality_loss(
    real: tf.Tensor, fake: tf.Tensor, judged: tf.Tensor | None = None
) -> tf.Tensor:
    """L_real of Eq. 4 for D, in nats.

    Args:
      real: logits of real pictures `[n]`.
      fake: logits of fake ones `[m]`.
      judged: float32 `[m]`, 1 for fakes that count; None: all.
    """
    return binary_cross_entropy(real, 1.0) + binary_cross_entropy(fake, 0.0, judged)


def identity_loss(victim: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """L_id of Eq. 4 for D, in nats, from logits of the victim's and others' `[n]`."""
    return binary_cross_entropy(victim, 1.0) + binary_cross_entropy(other, 0.0)


def discriminator_loss(
    gan: MultitaskGan,
    weights: Weights,
    real: Labelled,
    fake: tf.Tensor,
    asked: Asked,
    evidence: Evidence | None,
    seed: tf.Tensor,
) -> tf.Tensor:
    """L_real + L_id of one batch, and what deviates from them.

    Args:
      gan: the networks.
      weights: D's.
      real: auxiliary pictures.
      fake: generated pictures `[n, H, W, C]`.
      asked: what they were generated for.
      evidence: representatives, or None: without L_id, as in the active attack.
      seed: int32 `[2]`, of the augmentation.

    Returns:
      float32, in nats but for `Deviations.gradient_penalty`.
    """
    deviations = gan.deviations
    if evidence is None:
        pictures = [real.images, fake]
    else:
        pictures = [real.images, fake, evidence.victim.images, evidence.other.images]
    of_real, of_fake, *of_clients = _answers(gan, weights, pictures, seed)
    judged = _judged(deviations, asked, evidence)
    loss = reality_loss(of_real.reality, of_fake.reality, judged)
    if deviations.auxiliary_category:
        loss += deviations.auxiliary_category * cross_entropy(
            of_real.category, real.labels
        )
    if deviations.gradient_penalty:
        loss += 0.5 * deviations.gradient_penalty * _steepness(gan, weights, pictures)
    if evidence is None:
        return loss
    victim, other = of_clients
    loss += identity_loss(victim.identity, other.identity)
    if deviations.auxiliary_as_other:
        loss += deviations.auxiliary_as_other * binary_cross_entropy(
            of_real.identity, 0.0
        )
    if deviations.generated_as_other:
        as_victim = tf.cast(tf.equal(asked.identity, VICTIM), tf.float32)
        loss += deviations.generated_as_other * binary_cross_entropy(
            of_fake.identity, 0.0, as_victim
        )
    if deviations.victim_as_real:
        loss += deviations.victim_as_real * binary_cross_entropy(victim.reality, 1.0)
    if deviations.representative_category:
        loss += deviations.representative_category * (
            cross_entropy(victim.category, evidence.victim.labels)
            + cross_entropy(other.category, evidence.other.labels)
        )
    return loss


def generator_loss(
    gan: MultitaskGan,
    weights: Weights,
    fake: tf.Tensor,
    asked: Asked,
    evidence: Evidence | None,
    seed: tf.Tensor,
    spread: tf.Tensor | float = 1.0,
) -> tf.Tensor:
    """What G descends on: L_cat, its part of L_real, and L_id.

    Args:
      gan: the networks.
      weights: D's.
      fake: generated pictures `[n, H, W, C]`.
      asked: what they were generated for; of an even batch `ask` asks for the second
        half as for the first.
      evidence: representatives, or None: without L_id, as in the active attack.
      seed: int32 `[2]`, of the augmentation.
      spread: `class_spread` of the auxiliary pictures, for `Deviations.variety`.

    Returns:
      float32, in nats.
    """
    [of_fake] = _answers(gan, weights, [fake], seed)
    loss = cross_entropy(of_fake.category, asked.category)
    judged = _judged(gan.deviations, asked, evidence)
    loss += binary_cross_entropy(of_fake.reality, 1.0, judged)
    if gan.deviations.variety:
        loss += gan.deviations.variety * _sameness(fake, asked, spread)
    if evidence is None:
        return loss
    loss += binary_cross_entropy(of_fake.identity, tf.cast(asked.identity, tf.float32))
    if gan.deviations.class_means:
        loss += gan.deviations.class_means * _class_means_loss(
            gan.num_categories, fake, asked, evidence
        )
    return loss


def start_critics(gan: MultitaskGan, weights: Weights, patches: Patches) -> Critics:
    """Returns the critics at a round's start, with D's weights and without slots."""
    specs = [tf.TensorSpec(w.shape, w.dtype) for w in weights.trainable]
    slots = gan.discriminator_optimizer.initialize(specs)
    return Critics(
        Weights(list(weights.trainable), list(weights.statistics)),
        tf.nest.map_structure(tf.convert_to_tensor, slots),
        patches,
    )


def train_critics(
    gan: MultitaskGan,
    critics: Critics,
    generator: Generator,
    auxiliary: Labelled,
    evidence: Evidence | None,
    steps: tf.Tensor,
    seed: tf.Tensor,
) -> tuple[Critics, tf.Tensor]:
    """Trains D, and the patch discriminator, on G as it stands.

    Args:
      gan: the networks.
      critics: what they start from.
      generator: G; not changed.
      auxiliary: the server's own pictures, "real".
      evidence: representatives, or None.
      steps: int32.
      seed: int32 `[2]`.

    Returns:
      The critics, and D's loss of the last batch (0 without steps).
    """
    optimizer = gan.discriminator_optimizer
    constants = list(critics.weights.statistics)

    def step(index, critics, _loss):
        of_step = derive(seed, index)
        asked = ask(gan, evidence, gan.batch_size, of_step)
        fake = generate(gan, generator.weights.trainable, asked, of_step)
        real = _pick(auxiliary, gan.batch_size, derive(of_step, _AUXILIARY))
        shown = _pick_evidence(evidence, gan.batch_size, of_step)
        trainable = list(critics.weights.trainable)
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            loss = discriminator_loss(
                gan, Weights(trainable, constants), real, fake, asked, shown, of_step
            )
        gradients = tape.gradient(
            loss, trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        slots, trainable = optimizer.next(critics.slots, trainable, gradients)
        patches = critics.patches
        if gan.patch_discriminator:
            patches = train_patches(
                gan.patch_discriminator, optimizer, patches, real.images, fake
            )
        weights = Weights(list(trainable), constants)
        return index + 1, Critics(weights, slots, patches), loss

    _, critics, loss = tf.while_loop(
        lambda index, *_: index < steps,
        step,
        (tf.constant(0), critics, tf.constant(0.0)),
    )
    return critics, loss


def train_generator(
    gan: MultitaskGan,
    critics: Critics,
    generator: Generator,
    auxiliary: Labelled,
    evidence: Evidence | None,
    steps: tf.Tensor,
    seed: tf.Tensor,
    explained: Explained | None = None,
) -> tuple[Generator, tf.Tensor]:
    """Trains G on D, and the patch discriminator, as they stand.

    Args:
      gan: the networks.
      critics: not changed.
      generator: G.
      auxiliary: the server's own pictures; for `Deviations.variety` only.
      evidence: representatives, or None.
      steps: int32.
      seed: int32 `[2]`.
      explained: what the victim's pictures have to explain, for
        `Deviations.explained`; None in the active attack.

    Returns:
      G, and the loss of the last batch (0 without steps).
    """
    decay = gan.deviations.average_decay
    spread = class_spread(*auxiliary) if gan.deviations.variety else 1.0

    def step(index, state, _loss):
        of_step = derive(seed, index)
        asked = ask(gan, evidence, gan.batch_size, of_step)
        trainable = list(state.weights.trainable)
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            fake, statistics = gan.generator.apply(
                Weights(trainable, state.weights.statistics),
                _inputs(asked, of_step),
                True,
            )
            loss = generator_loss(
                gan, critics.weights, fake, asked, evidence, of_step, spread
            )
            if explained is not None:
                loss += tf.cond(
                    tf.equal(index, 0),
                    lambda: (
                        tf.cast(steps, tf.float32)
                        * _unexplained_loss(gan, trainable, explained, of_step)
                    ),
                    lambda: 0.0,
                )
            loss = _with_deviations(
                loss, gan, critics, trainable, fake, evidence, of_step
            )
        gradients = tape.gradient(loss, trainable)
        if explained is not None:
            gradients = _finite_or_none(gradients)
        slots, trainable = gan.generator_optimizer.next(
            state.optimizer, trainable, gradients
        )
        average = [
            decay * mean + (1.0 - decay) * new
            for mean, new in zip(state.average, trainable, strict=bool(decay))
        ]
        state = Generator(Weights(list(trainable), list(statistics)), slots, average)
        return index + 1, state, loss

    start = Generator(
        Weights(list(generator.weights.trainable), list(generator.weights.statistics)),
        generator.optimizer,
        list(generator.average),
    )
    _, generator, loss = tf.while_loop(
        lambda index, *_: index < steps, step, (tf.constant(0), start, tf.constant(0.0))
    )
    return generator, loss


def ask(
    gan: MultitaskGan, evidence: Evidence | None, count: int, seed: tf.Tensor
) -> Asked:
    """Draws what G is asked for in a step.

    Categories are uniform. Every other picture is asked for as the victim's and the
    rest as others'; without evidence there is only the victim. With
    `Deviations.variety` the second half of the batch is asked for as the first.

    Args:
      gan: the networks.
      evidence: representatives, or None.
      count: n.
      seed: int32 `[2]`, of the step.
    """
    seed = derive(seed, _CONDITIONS)
    distinct = count // 2 if gan.deviations.variety else count
    category = tf.random.stateless_uniform(
        [distinct], seed, 0, gan.num_categories, tf.int32
    )
    identity = tf.fill([distinct], VICTIM)
    if evidence is not None:
        identity = tf.cast(tf.equal(tf.range(distinct) % 2, 0), tf.int32)
        if gan.deviations.held_categories:
            held = _pick(evidence.victim, distinct, seed).labels
            category = tf.where(tf.equal(identity, VICTIM), held, category)
    if distinct < count:
        return Asked(tf.tile(category, [2]), tf.tile(identity, [2]))
    return Asked(category, identity)


def _with_deviations(
    loss: tf.Tensor,
    gan: MultitaskGan,
    critics: Critics,
    generator: Tensors,
    fake: tf.Tensor,
    evidence: Evidence | None,
    seed: tf.Tensor,
) -> tf.Tensor:
    """A step's loss with what `Deviations` adds that needs G or the patches' critic."""
    deviations = gan.deviations
    if deviations.coverage and evidence is not None:
        apart = _uncovered(gan, generator, evidence, seed)
        loss += deviations.coverage * apart
    if deviations.feature_matching and evidence is not None:
        apart = _features_apart(gan, critics.weights, generator, evidence, seed)
        loss += deviations.feature_matching * apart
    if gan.patch_discriminator:
        seen_through = fooling_loss(
            gan.patch_discriminator, critics.patches.trainable, fake
        )
        loss += deviations.local_reality * seen_through
    return loss


def _class_means_loss(
    num_categories: int, fake: tf.Tensor, asked: Asked, evidence: Evidence
) -> tf.Tensor:
    """1 - correlation of mean pictures, over the (category, identity) that both have.

    Returns:
      float32, in [0, 2]; 0 where no pair has both.
    """
    victim, other = evidence
    images = tf.concat([other.images, victim.images], axis=0)
    groups = tf.concat([other.labels, victim.labels + num_categories], axis=0)
    wanted, known = unit_means(images, groups, 2 * num_categories)
    of_fake = asked.category + tf.where(
        tf.equal(asked.identity, VICTIM), num_categories, 0
    )
    drawn, present = unit_means(fake, of_fake, 2 * num_categories)
    count = tf.cast(known & present, tf.float32)
    distance = 1.0 - tf.reduce_sum(wanted * drawn, axis=1)
    return tf.reduce_sum(count * distance) / tf.maximum(tf.reduce_sum(count), 1.0)


def _unexplained_loss(
    gan: MultitaskGan, generator: Tensors, explained: Explained, seed: tf.Tensor
) -> tf.Tensor:
    """See `Deviations.explained`; of one step.

    As many pictures are drawn as others', whose categories are uniform, since half of
    all other batches are, by whose statistics G normalises.
    """
    seed = derive(seed, _EXPLAINED)
    count = tf.shape(explained.labels)[0]
    others = tf.random.stateless_uniform(
        [count], derive(seed, _CONDITIONS), 0, gan.num_categories, tf.int32
    )
    asked = Asked(
        tf.concat([explained.labels, others], axis=0),
        tf.repeat([VICTIM, OTHER], count),
    )
    images = generate(gan, generator, asked, seed)[:count]
    images = tf.ensure_shape(
        images, [explained.labels.shape[0], *gan.generator.output_shape]
    )
    return gan.deviations.explained * gan.unexplained(explained, images)


def _uncovered(
    gan: MultitaskGan, generator: Tensors, evidence: Evidence, seed: tf.Tensor
) -> tf.Tensor:
    """How far representatives are from what G draws; see `Deviations.coverage`.

    As many of the victim's as of the others', since half of all other batches are.

    Returns:
      float32, in [0, 2].
    """
    seed = derive(seed, _COVERAGE)
    count = gan.batch_size // 4 or 1
    shown = _pick_evidence(evidence, count, seed)
    asked = Asked(
        tf.repeat(
            tf.concat([shown.victim.labels, shown.other.labels], axis=0), _CANDIDATES
        ),
        tf.repeat([VICTIM, OTHER], count * _CANDIDATES),
    )
    wanted = unit(tf.concat([shown.victim.images, shown.other.images], axis=0))
    drawn = unit(generate(gan, generator, asked, seed))
    drawn = tf.reshape(drawn, [2 * count, _CANDIDATES, wanted.shape[1]])
    alike = tf.linalg.matvec(drawn, wanted)
    return tf.reduce_mean(1.0 - tf.reduce_max(alike, axis=1))


def _features_apart(
    gan: MultitaskGan,
    weights: Weights,
    generator: Tensors,
    evidence: Evidence,
    seed: tf.Tensor,
) -> tf.Tensor:
    """See `Deviations.feature_matching`: the mean over both identities.

    Pictures are drawn for the classes of the representatives that they are compared
    with.
    """
    seed = derive(seed, _FEATURES)
    shown = _pick_evidence(evidence, gan.batch_size, seed)
    asked = Asked(
        tf.concat([shown.victim.labels, shown.other.labels], axis=0),
        tf.repeat([VICTIM, OTHER], gan.batch_size),
    )
    fake = generate(gan, generator, asked, seed)
    seen = tf.concat([shown.victim.images, shown.other.images, fake], axis=0)
    features = last_features(gan.discriminator, weights, seen)
    victim, other, as_victim, as_other = tf.split(features, 4)
    return 0.5 * (
        feature_distance(victim, as_victim) + feature_distance(other, as_other)
    )


def _steepness(
    gan: MultitaskGan, weights: Weights, pictures: list[tf.Tensor]
) -> tf.Tensor:
    """See `Deviations.gradient_penalty`; pictures as `discriminator_loss` has them.

    D's reality by real pictures, its identity by representatives; fakes are no data.
    """
    real, _, *of_clients = pictures

    def logits(parts: list[tf.Tensor]) -> list[tf.Tensor]:
        outputs = gan.discriminator.outputs(weights, tf.concat(parts, axis=0))
        first, *rest = tf.split(outputs, [tf.shape(part)[0] for part in parts])
        return [heads(first).reality, *(heads(part).identity for part in rest)]

    return gradient_penalty(logits, [real, *of_clients])


def _finite_or_none(gradients: Tensors) -> Tensors:
    """Leaves a step out whose gradient overflows.

    Training that is followed in too few steps may diverge on some pictures.
    """
    finite = tf.math.is_finite(tf.linalg.global_norm(gradients))
    return [tf.where(finite, part, 0.0) for part in gradients]


def _judged(
    deviations: Deviations, asked: Asked, evidence: Evidence | None
) -> tf.Tensor | None:
    """Which fakes D_real judges: float32 `[n]`, or None for all.

    Without evidence all are asked for as the victim's, and none would be.
    """
    if not deviations.others_reality or evidence is None:
        return None
    return tf.cast(tf.equal(asked.identity, OTHER), tf.float32)


def _sameness(fake: tf.Tensor, asked: Asked, spread: tf.Tensor | float) -> tf.Tensor:
    """What pictures lack in distance from each other; see `Deviations.variety`.

    Each of the first half is compared with its like in the second (`ask`); identities
    apart, as variety of the others' pictures would hide that the victim's are all one.

    Returns:
      float32 in [0, 1]: the mean over the identities that occur.
    """
    one, other = (unit(half) for half in tf.split(fake, 2))
    distances = 1.0 - tf.reduce_sum(one * other, axis=1)
    members = tf.one_hot(tf.split(asked.identity, 2)[0], 2)
    number = tf.reduce_sum(members, axis=0)
    of_identity = tf.linalg.matvec(members, distances, transpose_a=True)
    mean = of_identity / tf.maximum(number, 1.0)
    lacking = tf.nn.relu(1.0 - mean / tf.maximum(spread, 1e-6))
    occurs = tf.cast(number > 0, tf.float32)
    return tf.reduce_sum(occurs * lacking) / tf.reduce_sum(occurs)


def _inputs(asked: Asked, seed: tf.Tensor) -> tf.Tensor:
    """G's inputs `[n, 102]`: noise, category, identity."""
    noise = uniform_latents(tf.shape(asked.category)[0], derive(seed, Role.LATENT))
    labels = tf.stack([asked.category, asked.identity], axis=1)
    return tf.concat([noise, tf.cast(labels, tf.float32)], axis=1)


def _no_statistics(network: Network) -> Tensors:
    """Stands for running statistics where the batch's own are used."""
    return [tf.zeros(shape) for shape in network.statistics_shapes]


def _pick(pictures: Labelled, count: int, seed: tf.Tensor) -> Labelled:
    """Draws `count` pictures with replacement."""
    chosen = tf.random.stateless_uniform(
        [count], seed, 0, tf.shape(pictures.labels)[0], tf.int32
    )
    return Labelled(
        tf.gather(pictures.images, chosen), tf.gather(pictures.labels, chosen)
    )


def _pick_evidence(
    evidence: Evidence | None, count: int, seed: tf.Tensor
) -> Evidence | None:
    if evidence is None:
        return None
    return Evidence(
        _pick(evidence.victim, count, derive(seed, _VICTIM)),
        _pick(evidence.other, count, derive(seed, _OTHER)),
    )


def _answers(
    gan: MultitaskGan, weights: Weights, pictures: list[tf.Tensor], seed: tf.Tensor
) -> list[Heads]:
    """D's answers to several sets of pictures, seen as the deviations say."""
    sizes = [tf.shape(part)[0] for part in pictures]
    seen = tf.concat(pictures, axis=0)
    seen = disguise(gan.deviations, seen, seed)
    outputs = tf.split(gan.discriminator.outputs(weights, seen), sizes)
    return [heads(part) for part in outputs]
