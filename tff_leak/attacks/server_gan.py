"""mGAN-AI: a malicious server's GAN against one client (Wang et al., INFOCOM 2019).

Algorithm 1 and sections V-C and V-D, one function a round:

    passive   D <- M_t + u_t^v;  representatives X_k of all clients;
              D learns X_aux from G(z) and X_v from the others' X_k;  G learns from D
    active    the victim trains D itself, M^iso;  D learns X_aux from G(z);
              G learns from D;  no identities, no representatives (unless the server
              finds some, which the paper's does not: then as in the passive attack)

The GAN is `multitask_gan.py`, what the strengthened attack changes `deviations.py`.
Pure TensorFlow, without TFF: `computations/malicious_server.py` puts it in a server.
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from tff_leak.attacks import multitask_gan, picture_likeness
from tff_leak.attacks.multitask_gan import (
    VICTIM,
    Asked,
    Evidence,
    Explained,
    Generator,
    Labelled,
    MultitaskGan,
)
from tff_leak.attacks.patch_discriminator import Patches
from tff_leak.errors import InputError
from tff_leak.models.discriminators import heads
from tff_leak.models.network import Tensors, Weights
from tff_leak.runtime.seeding import derive

_SCORED = 200  # pictures of each identity that a round is judged by
# Streams below a round's seed; phases follow.
_INITIAL, _SCORE, _CROWD, _WATCHED, _PHASES = 0, 1, 2, 3, 10


@dataclasses.dataclass(frozen=True)
class ServerGan:
    """The malicious server's settings.

    Attributes:
      gan: networks, their training, and `Deviations` from the paper.
      discriminator_steps: D's steps in round 0 (not in the text).
      discriminator_growth: steps more in each later round: D starts anew from a model
        that has seen more and more real data, and no fakes (section V-C; how many is
        not in the text).
      generator_steps: G's steps in a round (not in the text).
      stop_share: the attack ends once this share of G's pictures was classified as
        asked for by the shared model, in each of the last `stop_window` rounds
        (section V-C, criterion 2); None: it ends with the learning.
      stop_window: see `stop_share` (not in the text).
      representatives: pictures that the slot finds for each client in a round (not in
        the text).
      other_representatives: as many of the others' are kept, drawn from all of theirs.
      other_clients: of so many others representatives are found in a round, drawn anew
        each time, for where finding them is what takes long; None is all of them.
    """

    gan: MultitaskGan
    discriminator_steps: int = 50
    discriminator_growth: int = 5
    generator_steps: int = 100
    stop_share: float | None = None
    stop_window: int = 3
    representatives: int = 18
    other_representatives: int = 162
    other_clients: int | None = None

    def __post_init__(self):
        least = {
            "discriminator_steps": 0,
            "discriminator_growth": 0,
            "generator_steps": 1,
            "stop_window": 1,
            "representatives": 1,
            "other_representatives": 1,
        }
        if self.other_clients is not None:
            least["other_clients"] = 1
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InputError(
                    f"{name} is {getattr(self, name)}: expected at least {value}; "
                    "correct it"
                )
        if self.stop_share is not None and not 0 < self.stop_share <= 1:
            raise InputError(
                f"stop_share is {self.stop_share}: expected a share in (0, 1], or none "
                "to go on to the last round"
            )


class Note(NamedTuple):
    """What the server notes about its last round, all scalars.

    Attributes:
      discriminator_loss: D's over its last batch, in nats; 0 where it rested.
      generator_loss: G's, the same.
      discriminator_steps: int32, steps made.
      generator_steps: int32, steps made.
      category_share: share of the pictures asked for as the victim's that the shared
        model classifies as asked.
      identity_share: share of them, as the victim's and as others', that look more
        like the representatives of that identity than like the other's of the class
        (by correlation with their mean; over classes that both have; 1 without any).
      score: `category_share` x `identity_share` x what they vary against auxiliary
        pictures (standard deviation, at most half counts, that as 1).
    """

    discriminator_loss: tf.Tensor
    generator_loss: tf.Tensor
    discriminator_steps: tf.Tensor
    generator_steps: tf.Tensor
    category_share: tf.Tensor
    identity_share: tf.Tensor
    score: tf.Tensor


class Memory(NamedTuple):
    """Representatives of the last rounds, newest first; length 0 where none are found.

    Attributes:
      victim: `[rounds * representatives, ...]`.
      other: `[rounds * other_representatives, ...]`.
      filled: int32, rounds in it.
    """

    victim: Labelled
    other: Labelled
    filled: tf.Tensor


class Chosen(NamedTuple):
    """G of the best round so far; without weights where no snapshot is chosen.

    Attributes:
      trainable: its weights.
      score: `Note.score` of that round, -1 before the first.
    """

    trainable: Tensors
    score: tf.Tensor


class State(NamedTuple):
    """What the malicious server keeps between rounds.

    Attributes:
      round: int32, rounds in which the victim took part.
      discriminator: D's weights.
      patches: the patch discriminator; empty without one.
      generator: G.
      memory: see `Memory`.
      chosen: see `Chosen`.
      streak: int32, rounds in a row that met `stop_share`.
      note: see `Note`.
    """

    round: tf.Tensor
    discriminator: Weights
    patches: Patches
    generator: Generator
    memory: Memory
    chosen: Chosen
    streak: tf.Tensor
    note: Note


class Sight(NamedTuple):
    """What a passive server sees of a round in which the victim took part.

    Attributes:
      shared: M_t's trainable weights, before the round.
      victim: M_t + u_t^v, the victim's model.
      representatives: n of the victim, any number of the others.
      update: the victim's row, as it was sent; for `Deviations.explained` only.
    """

    shared: Tensors
    victim: Tensors
    representatives: Evidence
    update: Tensors = ()


def initial_state(
    attack: ServerGan,
    seed: tf.Tensor,
    *,
    isolated: Tensors | None = None,
    with_representatives: bool | None = None,
) -> State:
    """Returns the server's state before the first round.

    Args:
      attack: the settings.
      seed: int32 `[2]`.
      isolated: for the active attack M_0, which D starts as (section V-D): the
        classifier's trainable weights.
      with_representatives: whether rounds come with some, which are remembered; None:
        of the passive attack's.
    """
    if with_representatives is None:
        with_representatives = isolated is None
    gan, deviations = attack.gan, attack.gan.deviations
    discriminator = gan.discriminator.initialize(derive(seed, _INITIAL))
    discriminator = Weights(
        list(discriminator.trainable), list(discriminator.statistics)
    )
    if isolated is not None:
        discriminator = with_classifier(discriminator, isolated)
    generator = multitask_gan.initial_generator(gan, seed)
    rounds = deviations.representative_rounds if with_representatives else 0
    chosen = list(generator.weights.trainable) if deviations.choose_snapshot else []
    zero, none = tf.constant(0.0), tf.constant(0, tf.int32)
    return State(
        round=none,
        discriminator=discriminator,
        patches=multitask_gan.initial_patch_discriminator(gan, seed),
        generator=generator,
        memory=Memory(
            _blank(gan, rounds * attack.representatives),
            _blank(gan, rounds * attack.other_representatives),
            none,
        ),
        chosen=Chosen(chosen, tf.constant(-1.0)),
        streak=none,
        note=Note(zero, zero, none, none, zero, zero, zero),
    )


def passive_round(
    attack: ServerGan,
    state: State,
    sight: Sight,
    auxiliary: Labelled,
    seed: tf.Tensor,
) -> State:
    """One round of algorithm 1; nothing of it reaches a client.

    Args:
      attack: the settings.
      state: the server's.
      sight: what it saw.
      auxiliary: its own pictures, X_aux; the labels are used by deviations only.
      seed: int32 `[2]`, of this round.
    """
    memory, evidence = _learnt_from(
        attack, state.memory, sight.representatives, auxiliary, seed
    )
    state = state._replace(
        memory=memory,
        discriminator=with_classifier(state.discriminator, sight.victim),
    )
    explained = None
    if attack.gan.deviations.explained:
        labels = sight.representatives.victim.labels
        explained = Explained(list(sight.shared), list(sight.update), labels)
    return _attack_unless_over(
        attack, state, sight.shared, evidence, auxiliary, seed, explained
    )


def active_round(
    attack: ServerGan,
    state: State,
    shared: Tensors,
    isolated: Tensors,
    auxiliary: Labelled,
    seed: tf.Tensor,
    found: Evidence | None = None,
) -> State:
    """One round of section V-D; the victim's next model is `as_classifier(D)`.

    Args:
      attack: the settings.
      state: the server's.
      shared: M_t's trainable weights, which the stop rule asks.
      isolated: M_t^iso plus the victim's update: what the victim made of D.
      auxiliary: see `passive_round`.
      seed: int32 `[2]`, of this round.
      found: representatives of the victim and of others; None: D learns no identities,
        as in the paper.
    """
    evidence = None
    if found is not None:
        memory, evidence = _learnt_from(attack, state.memory, found, auxiliary, seed)
        state = state._replace(memory=memory)
    state = state._replace(discriminator=with_classifier(state.discriminator, isolated))
    return _attack_unless_over(attack, state, shared, evidence, auxiliary, seed, None)


def has_started(attack: ServerGan, state: State) -> tf.Tensor:
    """Whether the next round is one of the attack: `Deviations.start_round`."""
    return state.round >= attack.gan.deviations.start_round


def watched(attack: ServerGan, victims: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Chooses whose representatives are found: the victim's, and some others'.

    Args:
      attack: the settings; `other_clients` others at most.
      victims: bool `[clients]`, which rows of the round are the victim's.
      seed: int32 `[2]`, of this round.

    Returns:
      Their rows, int32 `[k]`, ascending.
    """
    count = tf.shape(victims)[0]
    if attack.other_clients is None:
        return tf.range(count)
    keys = tf.random.stateless_uniform([count], derive(seed, _WATCHED))
    order = tf.argsort(tf.where(victims, -1.0, keys), stable=True)
    number = tf.reduce_sum(tf.cast(victims, tf.int32)) + attack.other_clients
    return tf.sort(order[:number])


def with_classifier(discriminator: Weights, classifier: Tensors) -> Weights:
    """Puts a classifier's weights into D, which keeps its other two heads.

    The layers before the last are shared (Eq. 3), and so is the output of categories:
    D is never trained on them (its loss is L_real + L_id), so that what it knows of
    them is what the clients have learnt.

    Args:
      discriminator: D's weights; the last two are kernel `[m, categories + 2]` and
        bias.
      classifier: trainable weights; the last two are kernel `[m, categories]` and
        bias.
    """
    kernel, bias = discriminator.trainable[-2:]
    last = [
        tf.concat([kernel[:, :1], classifier[-2], kernel[:, -1:]], axis=1),
        tf.concat([bias[:1], classifier[-1], bias[-1:]], axis=0),
    ]
    return Weights([*classifier[:-2], *last], list(discriminator.statistics))


def as_classifier(discriminator: Weights) -> Tensors:
    """Returns D without its heads of reality and identity: undoes `with_classifier`."""
    kernel, bias = discriminator.trainable[-2:]
    return [*discriminator.trainable[:-2], kernel[:, 1:-1], bias[1:-1]]


def sample(attack: ServerGan, state: State, asked: Asked, seed: tf.Tensor) -> tf.Tensor:
    """Draws pictures from the G that the attack settles on.

    Args:
      attack: the settings.
      state: the server's.
      asked: for n pictures.
      seed: int32 `[2]`.

    Returns:
      float32 `[n, H, W, C]` in [-1, 1].
    """
    trainable = _final(attack, state.generator)
    if attack.gan.deviations.choose_snapshot:
        known = state.chosen.score >= 0
        trainable = [
            tf.where(known, best, last)
            for best, last in zip(state.chosen.trainable, trainable, strict=True)
        ]
    return multitask_gan.generate(attack.gan, trainable, asked, seed)


def _attack_unless_over(
    attack: ServerGan,
    state: State,
    shared: Tensors,
    evidence: Evidence | None,
    auxiliary: Labelled,
    seed: tf.Tensor,
    explained: Explained | None,
) -> State:
    """Trains D and G, or lets them rest before the start and after the stop."""
    goes_on = has_started(attack, state)
    if attack.stop_share is not None:
        goes_on &= state.streak < attack.stop_window

    def rest():
        idle = tf.nest.map_structure(tf.zeros_like, state.note)
        # What is known about the G that rests stays known.
        return state._replace(
            note=idle._replace(
                category_share=state.note.category_share,
                identity_share=state.note.identity_share,
                score=state.note.score,
            )
        )

    def train():
        trained = _train(attack, state, evidence, auxiliary, seed, explained)
        return _judge(attack, trained, shared, evidence, auxiliary, seed)

    state = tf.cond(goes_on, train, rest)
    return state._replace(round=state.round + 1)


def _train(
    attack: ServerGan,
    state: State,
    evidence: Evidence | None,
    auxiliary: Labelled,
    seed: tf.Tensor,
    explained: Explained | None,
) -> State:
    """D and G in turns; each has its steps of the round, shared out over the turns."""
    phases = attack.gan.deviations.alternations
    of_d = attack.discriminator_steps + attack.discriminator_growth * state.round
    of_g = tf.constant(attack.generator_steps)

    def turn(phase, critics, generator, losses):
        of_phase = derive(seed, _PHASES + phase)
        critics, loss_d = multitask_gan.train_critics(
            attack.gan,
            critics,
            generator,
            auxiliary,
            evidence,
            _share(of_d, phase, phases),
            derive(of_phase, 0),
        )
        generator, loss_g = multitask_gan.train_generator(
            attack.gan,
            critics,
            generator,
            auxiliary,
            evidence,
            _share(of_g, phase, phases),
            derive(of_phase, 1),
            explained,
        )
        return phase + 1, critics, generator, (loss_d, loss_g)

    critics = multitask_gan.start_critics(
        attack.gan, state.discriminator, state.patches
    )
    none = (tf.constant(0.0), tf.constant(0.0))
    _, critics, generator, losses = tf.while_loop(
        lambda phase, *_: phase < phases,
        turn,
        (tf.constant(0), critics, state.generator, none),
    )
    note = state.note._replace(
        discriminator_loss=losses[0],
        generator_loss=losses[1],
        discriminator_steps=of_d,
        generator_steps=of_g,
    )
    return state._replace(
        discriminator=critics.weights,
        patches=critics.patches,
        generator=generator,
        note=note,
    )


def _judge(
    attack: ServerGan,
    state: State,
    shared: Tensors,
    evidence: Evidence | None,
    auxiliary: Labelled,
    seed: tf.Tensor,
) -> State:
    """Looks at what G draws: the stop rule, and which round to keep."""
    gan = attack.gan
    seed = derive(seed, _SCORE)
    trainable = _final(attack, state.generator)
    asked = multitask_gan.ask(gan, evidence, 2 * _SCORED, seed)
    drawn = multitask_gan.generate(gan, trainable, asked, seed)
    victim = tf.equal(asked.identity, VICTIM)
    as_victim = tf.boolean_mask(drawn, victim)
    judge = with_classifier(state.discriminator, shared)
    logits = heads(gan.discriminator.outputs(judge, as_victim)).category
    answers = tf.argmax(logits, axis=1, output_type=tf.int32)
    right = tf.equal(answers, tf.boolean_mask(asked.category, victim))
    category_share = tf.reduce_mean(tf.cast(right, tf.float32))
    identity_share = tf.constant(1.0)
    if evidence is not None:
        identity_share = _identity_share(gan, drawn, asked, evidence)
    variety = _spread(as_victim) / tf.maximum(0.5 * _spread(auxiliary.images), 1e-6)
    score = category_share * identity_share * tf.minimum(variety, 1.0)
    streak = state.streak
    if attack.stop_share is not None:
        streak = tf.where(category_share >= attack.stop_share, streak + 1, 0)
    return state._replace(
        streak=streak,
        chosen=_choose(state.chosen, trainable, score),
        note=state.note._replace(
            category_share=category_share,
            identity_share=identity_share,
            score=score,
        ),
    )


def _choose(chosen: Chosen, trainable: Tensors, score: tf.Tensor) -> Chosen:
    if not chosen.trainable:
        return chosen
    better = score >= chosen.score  # of equal ones the last: G has learnt more
    kept = [
        tf.where(better, new, old)
        for new, old in zip(trainable, chosen.trainable, strict=True)
    ]
    return Chosen(kept, tf.where(better, score, chosen.score))


def _identity_share(
    gan: MultitaskGan, drawn: tf.Tensor, asked: Asked, evidence: Evidence
) -> tf.Tensor:
    """See `Note.identity_share`."""
    known = (evidence.victim, evidence.other)
    means = [
        picture_likeness.unit_means(part.images, part.labels, gan.num_categories)
        for part in known
    ]
    both = tf.gather(means[0][1] & means[1][1], asked.category)
    picture = picture_likeness.unit(drawn)
    to_victim, to_other = (
        tf.reduce_sum(picture * tf.gather(mean, asked.category), axis=1)
        for mean, _ in means
    )
    as_asked = tf.equal(to_victim > to_other, tf.equal(asked.identity, VICTIM))
    counted = tf.boolean_mask(tf.cast(as_asked, tf.float32), both)
    count = tf.cast(tf.size(counted), tf.float32)
    share = tf.reduce_sum(counted) / tf.maximum(count, 1.0)
    return tf.where(count > 0, share, 1.0)


def _spread(images: tf.Tensor) -> tf.Tensor:
    """Root of the mean variance of the pixels."""
    return tf.sqrt(tf.reduce_mean(tf.math.reduce_variance(images, axis=0)))


def _final(attack: ServerGan, generator: Generator) -> Tensors:
    """The weights to draw from: the average where there is one."""
    if attack.gan.deviations.average_decay:
        return list(generator.average)
    return list(generator.weights.trainable)


def _share(steps: tf.Tensor, phase: tf.Tensor, phases: int) -> tf.Tensor:
    """Steps of one of several phases that differ by at most one and sum to `steps`."""
    return steps * (phase + 1) // phases - steps * phase // phases


def _blank(gan: MultitaskGan, count: int) -> Labelled:
    shape = [count, *gan.discriminator.input_shape]
    return Labelled(tf.zeros(shape), tf.zeros([count], tf.int32))


def _with_greys(found: Evidence, auxiliary: Labelled) -> Evidence:
    return Evidence(
        *(
            part._replace(
                images=picture_likeness.with_greys(part.images, auxiliary.images)
            )
            for part in found
        )
    )


def _learnt_from(
    attack: ServerGan,
    memory: Memory,
    found: Evidence,
    auxiliary: Labelled,
    seed: tf.Tensor,
) -> tuple[Memory, Evidence]:
    """Remembers what a round found; and what of the memory D and G learn from."""
    deviations = attack.gan.deviations
    if deviations.match_greys:
        found = _with_greys(found, auxiliary)
    memory = _remember(attack, memory, found, seed)
    evidence = _recall(attack, memory)
    if deviations.consensus:
        evidence = Evidence(*(_agreeing(attack, part) for part in evidence))
    return memory, evidence


def _remember(
    attack: ServerGan, memory: Memory, found: Evidence, seed: tf.Tensor
) -> Memory:
    """Puts a round's representatives in front; the oldest round's are forgotten."""
    count = tf.shape(found.other.labels)[0]
    order = tf.argsort(
        tf.random.stateless_uniform([count], derive(seed, _CROWD)), stable=True
    )
    # From the start again where there are fewer.
    chosen = tf.gather(order, tf.range(attack.other_representatives) % count)
    other = tf.nest.map_structure(lambda t: tf.gather(t, chosen), found.other)

    def in_front(new, old):
        kept = tf.concat([new, old], axis=0)[: old.shape[0]]
        return tf.ensure_shape(kept, old.shape)

    rounds = attack.gan.deviations.representative_rounds
    return Memory(
        tf.nest.map_structure(in_front, found.victim, memory.victim),
        tf.nest.map_structure(in_front, other, memory.other),
        tf.minimum(memory.filled + 1, rounds),
    )


def _agreeing(attack: ServerGan, part: Labelled) -> Labelled:
    """Those near to their class's mean; see `Deviations.consensus`.

    Of each class that there is at least one; of equal ones all.
    """
    gan, share = attack.gan, attack.gan.deviations.consensus
    images = picture_likeness.unit(part.images)
    means, _ = picture_likeness.unit_means(images, part.labels, gan.num_categories)
    near = tf.reduce_sum(images * tf.gather(means, part.labels), axis=1)
    alike = tf.equal(part.labels[:, tf.newaxis], part.labels[tf.newaxis, :])
    nearer = alike & (near[tf.newaxis, :] > near[:, tf.newaxis])
    rank, number = (
        tf.reduce_sum(tf.cast(m, tf.float32), axis=1) for m in (nearer, alike)
    )
    kept = (rank < share * number - 1e-4) | (rank < 1)
    return Labelled(*(tf.boolean_mask(values, kept) for values in part))


def _recall(attack: ServerGan, memory: Memory) -> Evidence:
    """What is in the memory."""

    def filled(pictures, of_round):
        return tf.nest.map_structure(lambda t: t[: memory.filled * of_round], pictures)

    return Evidence(
        filled(memory.victim, attack.representatives),
        filled(memory.other, attack.other_representatives),
    )
