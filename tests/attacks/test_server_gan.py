"""The malicious server's rounds: what D starts from, memory, schedule, stop, choice."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.attacks import multitask_gan, server_gan
from tff_leak.attacks.deviations import STRENGTHENED, Deviations
from tff_leak.attacks.multitask_gan import (
    OTHER,
    VICTIM,
    Asked,
    Evidence,
    Labelled,
    MultitaskGan,
)
from tff_leak.attacks.server_gan import ServerGan, Sight, initial_state
from tff_leak.errors import InputError
from tff_leak.models import classifiers, discriminators, generators, layers
from tff_leak.models.network import Weights, sequential

SEED = tf.constant([5, 6])
SHAPE = (4, 4, 1)
CLASSIFIER = classifiers.mlp(3, SHAPE, hidden=8)
D = classifiers.mlp(5, SHAPE, hidden=8)
G = sequential(
    "small_generator",
    (generators.LATENT_SIZE + 2,),
    [
        layers.conditional_embedding(3, generators.LATENT_SIZE),
        layers.dense(16, initializer=layers.normal(0, 0.1)),
        layers.batch_norm(scale=layers.ones),
        layers.activation(tf.nn.tanh),
        layers.reshape(*SHAPE),
    ],
)
ADAM = tff.learning.optimizers.build_adam(1e-2, beta_1=0.5)
AUXILIARY = Labelled(
    tf.random.stateless_uniform([12, *SHAPE], [1, 1], -1, 1), tf.range(12) % 3
)
SHARED = CLASSIFIER.initialize(tf.constant([7, 7])).trainable
UPDATED = [w + 0.1 for w in SHARED]


def _attack(*, of_d=2, growth=1, of_g=2, deviations=None, **changes) -> ServerGan:
    gan = MultitaskGan(G, D, ADAM, ADAM, 4, deviations or Deviations())
    settings = {"representatives": 2, "other_representatives": 3, **changes}
    return ServerGan(gan, of_d, growth, of_g, **settings)


def _found(level, others=3):
    """Representatives of a round: recognisable by their level."""
    return Evidence(
        Labelled(tf.fill([2, *SHAPE], level), tf.constant([0, 1])),
        Labelled(
            tf.fill([others, *SHAPE], -level)
            + tf.reshape(tf.range(float(others)), [-1, 1, 1, 1]),
            tf.range(others) % 3,
        ),
    )


def _sight(level=0.1, **kwargs):
    return Sight(list(SHARED), UPDATED, _found(level, **kwargs))


def _passive(attack, state, sight=None, number=0):
    # Eagerly: a few steps take less time than tracing them.
    return server_gan.passive_round(
        attack, state, sight or _sight(), AUXILIARY, tf.constant([number, 2])
    )


def _same(first, second):
    pairs = zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


class TestSharedLayers:
    def test_d_takes_the_classifier_and_keeps_two_heads(self):
        heads = D.initialize(SEED)
        joined = server_gan.with_classifier(heads, UPDATED)
        images = AUXILIARY.images
        logits = D.outputs(joined, images).numpy()
        expected = CLASSIFIER.outputs(Weights(UPDATED, []), images)
        np.testing.assert_allclose(logits[:, 1:4], expected, rtol=1e-5, atol=1e-6)
        for shape, old, new in zip(
            D.trainable_shapes[-2:],
            heads.trainable[-2:],
            joined.trainable[-2:],
            strict=True,
        ):
            assert new.shape == shape
            np.testing.assert_array_equal(new[..., 0], old[..., 0])
            np.testing.assert_array_equal(new[..., -1], old[..., -1])
        assert _same(server_gan.as_classifier(joined), UPDATED)

    def test_a_passive_round_starts_d_from_the_victims_model(self):
        attack = _attack(of_d=0, growth=0)
        state = initial_state(attack, SEED)
        after = _passive(attack, state)
        expected = server_gan.with_classifier(state.discriminator, UPDATED)
        assert _same(after.discriminator, expected)
        assert not _same(after.discriminator, state.discriminator)

    def test_trained_shared_layers_do_not_outlive_a_round_but_heads_do(self):
        attack = _attack(of_d=4, growth=0)
        first = _passive(attack, initial_state(attack, SEED))
        assert not _same(first.discriminator.trainable[0], UPDATED[0])
        resting = _attack(of_d=0, growth=0)
        second = _passive(resting, first, number=1)
        assert _same(second.discriminator.trainable[0], UPDATED[0])
        kernel, trained = (s.discriminator.trainable[-2] for s in (second, first))
        np.testing.assert_array_equal(kernel[:, 0], trained[:, 0])
        np.testing.assert_array_equal(kernel[:, -1], trained[:, -1])

    def test_an_active_server_starts_as_the_model_and_goes_on_from_the_victims(self):
        attack = _attack(of_d=0, growth=0)
        state = initial_state(attack, SEED, isolated=list(SHARED))
        assert _same(server_gan.as_classifier(state.discriminator), list(SHARED))
        assert state.memory.victim.labels.shape == [0]
        after = server_gan.active_round(
            attack, state, list(SHARED), UPDATED, AUXILIARY, SEED
        )
        assert _same(server_gan.as_classifier(after.discriminator), UPDATED)


def test_the_active_attack_neither_learns_nor_asks_identities():
    attack = _attack(of_d=5)
    state = initial_state(attack, SEED, isolated=list(SHARED))
    after = server_gan.active_round(
        attack, state, list(SHARED), UPDATED, AUXILIARY, SEED
    )
    before, trained = (s.discriminator.trainable[-2] for s in (state, after))
    np.testing.assert_array_equal(trained[:, -1], before[:, -1])
    assert np.any(trained[:, 0] != before[:, 0])
    # G's embeddings: only that of the victim has moved.
    tables = [s.generator.weights.trainable[1] for s in (state, after)]
    np.testing.assert_array_equal(tables[1][OTHER], tables[0][OTHER])
    assert np.any(tables[1][VICTIM] != tables[0][VICTIM])
    assert after.note.identity_share == 1


def test_an_active_attack_with_representatives_learns_identities():
    attack = _attack(of_d=5)
    state = initial_state(
        attack, SEED, isolated=list(SHARED), with_representatives=True
    )
    args = (attack, state, list(SHARED), UPDATED, AUXILIARY, SEED)
    after = server_gan.active_round(*args, _found(0.4))
    assert int(after.memory.filled) == 1
    # D's head of identities, and G's embeddings of both, have moved.
    kernels = [s.discriminator.trainable[-2] for s in (state, after)]
    assert np.any(kernels[0][:, -1] != kernels[1][:, -1])
    tables = [s.generator.weights.trainable[1] for s in (state, after)]
    assert np.all(np.any(tables[0] != tables[1], axis=1))


def test_a_round_of_all_that_strengthens_it():
    """On digits' size, for the patches; each part of G and of the patches learns."""
    shape = (28, 28, 1)
    discriminator = classifiers.mlp(5, shape, hidden=4)
    generator = generators.wang_mnist(3, 4)

    def after(**changes):
        deviations = dataclasses.replace(
            STRENGTHENED, start_round=0, alternations=2, **changes
        )
        patches = discriminators.patches(shape, 4) if deviations.local_reality else None
        gan = MultitaskGan(generator, discriminator, ADAM, ADAM, 4, deviations, patches)
        attack = ServerGan(gan, 2, 0, 2, representatives=2, other_representatives=2)
        state = initial_state(attack, SEED)
        rng = np.random.default_rng(0)

        def pictures(count):
            images = rng.uniform(-1, 1, (count, *shape)).astype(np.float32)
            return Labelled(tf.constant(images), tf.range(count) % 3)

        shared = classifiers.mlp(3, shape, hidden=4).initialize(SEED).trainable
        sight = Sight(list(shared), list(shared), Evidence(pictures(2), pictures(2)))
        # Eagerly, as `_passive`.
        args = (attack, state, sight, pictures(6), SEED)
        return state, server_gan.passive_round(*args)

    options = {
        "coverage": 1.0,
        "consensus": 1.0,
        "gradient_penalty": 1.0,
        "feature_matching": 1.0,
    }
    state, whole = after(**options)
    for before, now in (
        (state.generator.weights.trainable, whole.generator.weights.trainable),
        (state.patches.trainable, whole.patches.trainable),
    ):
        assert all(np.any(a != b) for a, b in zip(before, now, strict=True))
        assert all(np.all(np.isfinite(part)) for part in now)
    assert whole.chosen.score >= 0
    newest = {"gradient_penalty": 0.0, "feature_matching": 0.0}
    for left_out in ({"local_reality": 0.0}, {"coverage": 0.0}, newest):
        _, without = after(**options | left_out)
        assert any(
            np.any(np.abs(a - b) > 1e-7)
            for a, b in zip(
                whole.generator.weights.trainable,
                without.generator.weights.trainable,
                strict=True,
            )
        )


class TestMemory:
    def test_newest_first_and_of_so_many_rounds(self):
        attack = _attack(deviations=Deviations(representative_rounds=2))
        state = initial_state(attack, SEED)
        for number, level in enumerate([0.1, 0.2, 0.3], start=1):
            state = _passive(attack, state, _sight(level), number)
            assert int(state.memory.filled) == min(number, 2)
        levels = state.memory.victim.images[:, 0, 0, 0].numpy()
        np.testing.assert_allclose(levels, [0.3, 0.3, 0.2, 0.2], rtol=1e-6)
        np.testing.assert_array_equal(state.memory.victim.labels, [0, 1, 0, 1])
        found = np.sort(state.memory.other.images[:3, 0, 0, 0])
        np.testing.assert_allclose(found, [-0.3, 0.7, 1.7], rtol=1e-5)

    def test_what_is_not_there_yet_is_not_learnt_from(self):
        attack = _attack(deviations=Deviations(representative_rounds=3))
        state = _passive(attack, initial_state(attack, SEED))
        known = server_gan._recall(attack, state.memory)
        assert known.victim.images.shape[0] == 2
        assert known.other.images.shape[0] == 3

    @pytest.mark.parametrize("matched", [False, True])
    def test_greys_are_those_of_auxiliary_pictures_if_wanted(self, matched):
        attack = _attack(deviations=Deviations(match_greys=matched))
        memory = _passive(attack, initial_state(attack, SEED)).memory
        greys = np.sort(AUXILIARY.images.numpy().reshape(12, 16), axis=1).mean(axis=0)
        for part in (memory.victim, memory.other):
            for image in part.images.numpy():
                found = np.sort(image.ravel())
                assert np.allclose(found, greys, atol=1e-6) == matched

    @pytest.mark.parametrize("share, kept", [(0.75, [0, 1, 2]), (1.0, [0, 1, 2, 3])])
    def test_those_that_agree_with_their_class_are_learnt_from(self, share, kept):
        attack = _attack(deviations=Deviations(consensus=share))
        stripes = np.repeat([1.0, -1.0], 8).astype(np.float32).reshape(SHAPE)
        noise = 0.1 * np.random.default_rng(0).normal(size=[3, *SHAPE])
        # Three alike, one across; and of another class the only one, which stays.
        images = [*(stripes + noise), stripes.transpose(1, 0, 2), -stripes]
        part = Labelled(
            tf.constant(np.stack(images), tf.float32), tf.constant([0, 0, 0, 0, 2])
        )
        found = server_gan._agreeing(attack, part)
        np.testing.assert_array_equal(found.labels, [*[0] * len(kept), 2])
        expected = np.stack([*(images[k] for k in kept), images[4]])
        np.testing.assert_allclose(found.images, expected, atol=1e-6)

    def test_a_round_learns_from_those_that_agree_and_remembers_all(self):
        stripes = tf.reshape(tf.repeat([1.0, -1.0], 8), SHAPE)
        across = tf.transpose(stripes, [1, 0, 2])
        images = tf.stack([stripes, 0.9 * stripes, across])
        part = Labelled(images, tf.zeros([3], tf.int32))
        kept = Labelled(images[:2], part.labels[:2])
        heads = []
        for share, found in ((0.6, part), (0.0, part), (0.0, kept)):
            attack = _attack(
                of_d=3,
                deviations=Deviations(consensus=share),
                representatives=len(found.labels),
                other_representatives=len(found.labels),
            )
            sight = _sight()._replace(representatives=Evidence(found, found))
            after = _passive(attack, initial_state(attack, SEED), sight)
            assert after.memory.victim.labels.shape == found.labels.shape
            heads.append(after.discriminator.trainable[-2])
        some, whole, as_if = heads
        np.testing.assert_allclose(some, as_if, atol=1e-6)
        assert np.abs(some - whole).max() > 1e-4

    @pytest.mark.parametrize("others", [2, 3, 7])
    def test_of_any_number_of_others_so_many_are_kept(self, others):
        attack = _attack()
        state = _passive(attack, initial_state(attack, SEED), _sight(others=others))
        kept = state.memory.other.images[:, 0, 0, 0].numpy() + 0.1
        assert len(set(np.round(kept))) == min(others, 3)
        labels = np.round(kept).astype(int) % 3
        np.testing.assert_array_equal(state.memory.other.labels, labels)


class TestSchedule:
    def test_d_trains_more_every_round(self):
        attack = _attack(of_d=3, growth=2)
        state = initial_state(attack, SEED)
        steps = []
        for number in range(3):
            state = _passive(attack, state, number=number)
            steps.append(int(state.note.discriminator_steps))
        assert steps == [3, 5, 7]
        assert int(state.round) == 3

    def test_alternations_share_the_steps_out(self):
        shares = [
            server_gan._share(tf.constant(8), tf.constant(p), 3) for p in range(3)
        ]
        assert sum(map(int, shares)) == 8
        assert max(map(int, shares)) - min(map(int, shares)) == 1
        once = _attack(of_d=4, of_g=4)
        twice = _attack(of_d=4, of_g=4, deviations=Deviations(alternations=2))
        states = [_passive(a, initial_state(a, SEED)) for a in (once, twice)]
        assert [int(s.note.generator_steps) for s in states] == [4, 4]
        assert not _same(states[0].generator.weights, states[1].generator.weights)

    def test_nothing_is_trained_before_the_start(self):
        attack = _attack(deviations=Deviations(start_round=1))
        state = initial_state(attack, SEED)
        first = _passive(attack, state)
        assert _same(first.generator, state.generator)
        assert int(first.note.discriminator_steps) == 0
        # What was seen meanwhile is remembered.
        assert int(first.memory.filled) == 1
        second = _passive(attack, first)
        assert not _same(second.generator.weights, first.generator.weights)

    def test_the_attack_ends_after_rounds_that_convince_the_shared_model(self):
        # A model that takes everything for class 1, and G asked for class 1 only.
        sure = [tf.zeros_like(w) for w in SHARED]
        sure[-1] = tf.constant([0.0, 9.0, 0.0])
        found = _found(0.1)
        victim = found.victim._replace(labels=tf.constant([1, 1]))
        sight = Sight(sure, UPDATED, found._replace(victim=victim))
        held = Deviations(held_categories=True)
        attack = _attack(stop_share=0.9, stop_window=2, deviations=held)
        state, trained = initial_state(attack, SEED), []
        for number in range(4):
            before = state
            state = _passive(attack, state, sight, number)
            trained.append(not _same(state.generator, before.generator))
            assert float(state.note.category_share) == 1.0
        assert trained == [True, True, False, False]
        never = _attack(stop_share=0.9, stop_window=2)  # all classes: a third is right
        state = initial_state(never, SEED)
        for number in range(4):
            state = _passive(never, state, sight, number)
        assert int(state.note.generator_steps) == 2


def test_g_is_told_of_the_victims_row_from_where_the_round_began():
    told = []

    def spy(explained, images):
        told.append(explained)
        assert images.shape[1:] == SHAPE
        return tf.reduce_mean(images**2)

    attack = _attack(of_d=0, of_g=1, growth=0)
    gan = dataclasses.replace(
        attack.gan, deviations=Deviations(explained=1.0), unexplained=spy
    )
    attack = dataclasses.replace(attack, gan=gan)
    row = [3.0 * (i + 1) * tf.ones_like(w) for i, w in enumerate(SHARED)]
    state = initial_state(attack, SEED)
    _passive(attack, state, _sight()._replace(update=row))
    [explained] = told
    np.testing.assert_array_equal(explained.labels, [0, 1])
    assert _same(explained.shared, list(SHARED))
    # As it was sent, and not what became of it.
    assert _same(explained.update, row)


@pytest.mark.parametrize("wanted, number", [(None, 5), (1, 2), (2, 3), (9, 5)])
def test_of_so_many_others_representatives_are_found(wanted, number):
    victims = tf.constant([False, False, True, False, False])
    attack = _attack(other_clients=wanted)
    draws = [
        server_gan.watched(attack, victims, tf.constant([seed, 3])).numpy()
        for seed in range(30)
    ]
    for rows in draws:
        assert len(rows) == number
        assert np.all(np.diff(rows) > 0)
        assert 2 in rows
    # Each other's turn comes: it is not seen 30 times with a chance of .75 ** 30.
    assert set(np.concatenate(draws)) == set(range(5))
    if number == 2:
        assert len({tuple(rows) for rows in draws}) > 2


def test_identity_share_by_hand():
    gan = _attack().gan
    images = np.zeros([4, 16], np.float32)
    images[0, :8], images[1, 8:], images[2, 0], images[3, 15] = 1, 1, 1, 1
    pictures = tf.constant(images.reshape(4, *SHAPE))
    # Class 0: the victim's are bright above, others' below. Class 1: victim only.
    evidence = Evidence(
        Labelled(tf.stack([pictures[0], pictures[1]]), tf.constant([0, 1])),
        Labelled(pictures[1:2], tf.constant([0])),
    )

    def share(category, identity):
        asked = Asked(tf.constant(category), tf.constant(identity))
        drawn = pictures[2:] * 0.4 + 0.1
        return float(server_gan._identity_share(gan, drawn, asked, evidence))

    assert share([0, 0], [VICTIM, OTHER]) == 1.0
    assert share([0, 0], [OTHER, VICTIM]) == 0.0
    assert share([0, 0], [VICTIM, VICTIM]) == 0.5
    assert share([0, 1], [OTHER, VICTIM]) == 0.0  # class 1 does not count
    assert share([1, 2], [VICTIM, OTHER]) == 1.0  # nothing does


class TestSnapshot:
    def test_the_best_round_is_drawn_from(self):
        attack = _attack(deviations=Deviations(choose_snapshot=True))
        state, seen = initial_state(attack, SEED), []
        for number in range(5):
            state = _passive(attack, state, number=number)
            seen.append((float(state.note.score), state.generator.weights.trainable))
        scores = [score for score, _ in seen]
        assert len(set(scores)) > 1
        best = max(range(5), key=lambda number: (scores[number], number))
        assert best < 4  # or this test would not tell it from the last
        assert _same(state.chosen.trainable, seen[best][1])
        asked = Asked(tf.constant([0, 1]), tf.constant([1, 0]))
        drawn = server_gan.sample(attack, state, asked, SEED)
        of_best = multitask_gan.generate(attack.gan, seen[best][1], asked, SEED)
        np.testing.assert_array_equal(drawn, of_best)

    def test_in_the_paper_the_last(self):
        attack = _attack()
        state = _passive(attack, initial_state(attack, SEED))
        asked = Asked(tf.constant([0, 1]), tf.constant([1, 0]))
        drawn = server_gan.sample(attack, state, asked, SEED)
        last = state.generator.weights.trainable
        expected = multitask_gan.generate(attack.gan, last, asked, SEED)
        np.testing.assert_array_equal(drawn, expected)
        assert state.chosen.trainable == []

    def test_of_an_average(self):
        attack = _attack(deviations=Deviations(average_decay=0.9))
        state = _passive(attack, initial_state(attack, SEED))
        asked = Asked(tf.constant([0, 1]), tf.constant([1, 0]))
        drawn = server_gan.sample(attack, state, asked, SEED)
        average = state.generator.average
        expected = multitask_gan.generate(attack.gan, average, asked, SEED)
        np.testing.assert_array_equal(drawn, expected)
        assert not _same(average, state.generator.weights.trainable)


def test_a_round_depends_on_its_seed_alone_and_is_the_same_in_a_graph():
    attack = _attack()
    state = initial_state(attack, SEED)
    again = [_passive(attack, state, number=n) for n in (4, 4, 5)]
    assert _same(again[0], again[1])
    assert not _same(again[0].generator, again[2].generator)
    in_graph = tf.function(_passive, autograph=False)(attack, state, number=4)
    assert int(in_graph.round) == 1
    # By what they draw: a bias before batch normalisation has no gradient but rounding,
    # which Adam makes steps of.
    asked = Asked(tf.constant([0, 1]), tf.constant([1, 0]))
    one, other = (
        server_gan.sample(attack, s, asked, SEED) for s in (in_graph, again[0])
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"of_g": 0}, "generator_steps is 0: expected at least 1"),
        ({"growth": -1}, "discriminator_growth is -1: expected at least 0"),
        ({"stop_share": 0.0}, r"stop_share is 0.0: expected a share in \(0, 1\]"),
        ({"representatives": 0}, "representatives is 0: expected at least 1"),
        ({"other_clients": 0}, "other_clients is 0: expected at least 1"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(InputError, match=message):
        _attack(**change)
