"""The multi-task GAN: Eq. 4 by hand, where gradients flow, and each deviation."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.attacks import multitask_gan, picture_likeness
from tff_leak.attacks.deviations import Deviations, Mode
from tff_leak.attacks.multitask_gan import (
    OTHER,
    VICTIM,
    Asked,
    Evidence,
    Explained,
    Labelled,
    MultitaskGan,
)
from tff_leak.errors import InputError
from tff_leak.models import classifiers, generators, layers
from tff_leak.models.network import Weights, sequential

SEED = tf.constant([3, 4])
SHAPE = (4, 4, 1)
CATEGORIES = 3
LN2 = np.log(2.0)
D = classifiers.mlp(CATEGORIES + 2, SHAPE, hidden=12)
G = sequential(
    "small_generator",
    (generators.LATENT_SIZE + 2,),
    [
        layers.conditional_embedding(CATEGORIES, generators.LATENT_SIZE),
        layers.dense(16, initializer=layers.normal(0, 0.1)),
        layers.batch_norm(scale=layers.ones),
        layers.activation(tf.nn.tanh),
        layers.reshape(*SHAPE),
    ],
)
SGD = tff.learning.optimizers.build_sgdm(0.05)


def _gan(batch_size=8, rate=None, **deviations) -> MultitaskGan:
    optimizer = tff.learning.optimizers.build_sgdm(rate) if rate else SGD
    return MultitaskGan(
        G, D, optimizer, optimizer, batch_size, Deviations(**deviations)
    )


def _pictures(count, seed, label=None, level=0.0):
    images = tf.random.stateless_uniform([count, *SHAPE], [seed, 1], -0.5, 0.5) + level
    labels = tf.range(count) % CATEGORIES if label is None else tf.fill([count], label)
    return Labelled(images, labels)


EVIDENCE = Evidence(_pictures(6, 1, level=0.4), _pictures(9, 2, level=-0.4))
REAL = _pictures(8, 3)
ASKED = Asked(tf.constant([0, 1, 2, 0]), tf.constant([VICTIM, OTHER, VICTIM, OTHER]))


def _echo(weights, inputs, training):
    """A discriminator whose logits are the first pixels of its input."""
    del weights, training
    return tf.reshape(inputs, [-1, 16])[:, : CATEGORIES + 2], []


def _saying(reality, identity, category=(0.0, 0.0, 0.0), count=1):
    """Pictures to which `_echo` gives these logits."""
    pixels = np.zeros([count, 16], np.float32)
    pixels[:, 0], pixels[:, 1:4], pixels[:, 4] = reality, category, identity
    return tf.constant(pixels.reshape(count, *SHAPE))


def _echo_gan(**deviations):
    return dataclasses.replace(
        _gan(**deviations), discriminator=dataclasses.replace(D, apply=_echo)
    )


WEIGHTS = D.initialize(SEED)


def _critics(gan, weights=WEIGHTS):
    patches = multitask_gan.initial_patch_discriminator(gan, SEED)
    return multitask_gan.start_critics(gan, weights, patches)


class TestLossesByHand:
    """Logit 0 costs ln 2; logit ln 3 is probability 3/4."""

    evidence = Evidence(
        Labelled(_saying(0.0, np.log(3)), tf.constant([0])),
        Labelled(_saying(0.0, 0.0), tf.constant([0])),
    )
    real = Labelled(_saying(np.log(3), np.log(3), (LN2, 0, 0)), tf.constant([0]))
    fake = _saying(0.0, [np.log(3), 0.0], count=2)
    asked = Asked(tf.constant([0, 1]), tf.constant([VICTIM, OTHER]))

    def _of_d(self, evidence, **deviations):
        return multitask_gan.discriminator_loss(
            _echo_gan(**deviations),
            WEIGHTS,
            self.real,
            self.fake,
            self.asked,
            evidence,
            SEED,
        )

    def _of_g(self, evidence, **deviations):
        return multitask_gan.generator_loss(
            _echo_gan(**deviations), WEIGHTS, self.fake, self.asked, evidence, SEED
        )

    def test_of_d(self):
        reality = np.log(4 / 3) + LN2  # real judged 3/4 real, fakes 1/2
        identity = np.log(4 / 3) + LN2  # victim judged 3/4 the victim's, others 1/2
        np.testing.assert_allclose(self._of_d(self.evidence), reality + identity, 1e-5)
        np.testing.assert_allclose(self._of_d(None), reality, 1e-5)

    def test_of_g(self):
        category = np.log(3.0)  # of three equal logits
        reality = LN2
        # Asked for as the victim's: 3/4; as another's: 1/2.
        identity = (np.log(4 / 3) + LN2) / 2
        expected = category + reality + identity
        np.testing.assert_allclose(self._of_g(self.evidence), expected, 1e-5)
        np.testing.assert_allclose(self._of_g(None), category + reality, 1e-5)

    @pytest.mark.parametrize(
        "deviation, added",
        [
            ("auxiliary_as_other", np.log(4)),  # judged 3/4 the victim's
            ("generated_as_other", np.log(4)),  # only the one asked for as the victim's
            ("victim_as_real", LN2),  # judged 1/2 real
            ("auxiliary_category", np.log(2)),  # softmax of (ln 2, 0, 0) is 1/2, ...
            ("representative_category", 2 * np.log(3)),  # of three equal logits, twice
        ],
    )
    def test_a_deviation_adds_its_weight_times_a_term(self, deviation, added):
        plain = self._of_d(self.evidence)
        with_it = self._of_d(self.evidence, **{deviation: 0.5})
        np.testing.assert_allclose(with_it - plain, 0.5 * added, rtol=1e-4)
        np.testing.assert_array_equal(
            self._of_g(self.evidence), self._of_g(self.evidence, **{deviation: 0.5})
        )

    def test_only_the_others_pictures_are_judged_real_or_fake(self):
        # The victim's is taken for real, which costs D ln 4 and G ln 4/3; the other's,
        # with logit 0, costs both ln 2.
        fake = _saying([np.log(3), 0.0], 0.0, count=2)

        def losses(**deviations):
            gan = _echo_gan(**deviations)
            args = (WEIGHTS, self.real, fake, self.asked, evidence, SEED)
            of_d = multitask_gan.discriminator_loss(gan, *args)
            args = (WEIGHTS, fake, self.asked, evidence, SEED)
            return float(of_d), float(multitask_gan.generator_loss(gan, *args))

        evidence = self.evidence
        of_d, of_g = losses()
        of_d_spared, of_g_spared = losses(others_reality=True)
        np.testing.assert_allclose(of_d - of_d_spared, (np.log(4) - LN2) / 2, 1e-4)
        np.testing.assert_allclose(of_g - of_g_spared, (np.log(4 / 3) - LN2) / 2, 1e-4)
        # Without evidence all are asked for as the victim's: then all are judged.
        evidence = None
        assert losses() == losses(others_reality=True)

    def test_class_means_compare_by_correlation(self):
        images = np.zeros([3, 16], np.float32)
        images[0, :8], images[1, 8:], images[2, ::2] = 1.0, 1.0, 1.0
        images = tf.constant(images.reshape(3, *SHAPE))
        evidence = Evidence(
            Labelled(images[:1], tf.constant([0])),
            Labelled(images[1:2], tf.constant([1])),
        )

        def loss(fakes, *asked):
            category, identity = zip(*asked, strict=True)
            return multitask_gan._class_means_loss(
                3, fakes, Asked(tf.constant(category), tf.constant(identity)), evidence
            )

        # The same, whatever its contrast; the opposite; half of the pixels in common.
        bright = 0.3 * images[:1] - 0.2
        assert abs(loss(bright, (0, VICTIM))) < 1e-5
        np.testing.assert_allclose(loss(images[1:2], (0, VICTIM)), 2.0, 1e-5)
        np.testing.assert_allclose(loss(images[2:], (0, VICTIM)), 1.0, 1e-5)
        # The mean over what both have: the first is the opposite, the second right.
        pair = tf.concat([images[1:2], images[1:2]], axis=0)
        np.testing.assert_allclose(loss(pair, (0, VICTIM), (1, OTHER)), 1.0, 1e-5)
        # Nobody's representatives are of (2, victim) or (0, other).
        assert loss(images[1:2], (2, VICTIM)) == 0
        assert loss(images[1:2], (0, OTHER)) == 0

    def test_variety_by_hand(self):
        # Two pairs: one the same but for its shades, one uncorrelated.
        halves = np.full([3, 16], -1.0, np.float32)
        halves[0, :8], halves[1, 8:], halves[2, ::2] = 1.0, 1.0, 1.0
        above, below, stripes = tf.constant(halves.reshape(3, 1, *SHAPE))
        fakes = tf.concat([above, below, 0.2 * above - 0.3, stripes], axis=0)
        asked = Asked(tf.constant([0, 1, 0, 1]), tf.fill([4], VICTIM))

        def added(spread):
            args = (WEIGHTS, fakes, asked, None, SEED, spread)
            return multitask_gan.generator_loss(
                _echo_gan(variety=2.0), *args
            ) - multitask_gan.generator_loss(_echo_gan(), *args)

        np.testing.assert_allclose(added(1.0), 2 * (1 - 0.5), rtol=1e-5)
        np.testing.assert_allclose(added(0.4), 0.0, atol=1e-6)
        # Another's picture that varies does not stand for the victim's that does not.
        asked = Asked(asked.category, tf.constant([VICTIM, OTHER, VICTIM, OTHER]))
        np.testing.assert_allclose(added(1.0), 2 * (1 + 0) / 2, rtol=1e-5)
        np.testing.assert_allclose(added(0.4), 2 * (1 + 0) / 2, rtol=1e-5)


class TestGradients:
    """What learns from what."""

    def _gradient_of_d(self, **deviations):
        weights = [tf.Variable(w) for w in WEIGHTS.trainable]
        fake = _pictures(4, 5).images
        with tf.GradientTape() as tape:
            loss = multitask_gan.discriminator_loss(
                _gan(**deviations),
                Weights(weights, []),
                REAL,
                fake,
                ASKED,
                EVIDENCE,
                SEED,
            )
        return [g.numpy() for g in tape.gradient(loss, weights)]

    def test_d_learns_reality_and_identity_and_no_category(self):
        kernel, bias = self._gradient_of_d()[-2:]
        for head, learns in ((0, True), (1, False), (2, False), (3, False), (4, True)):
            assert np.any(kernel[:, head]) == learns
            assert np.any(bias[head]) == learns

    def test_with_auxiliary_categories_it_learns_them_too(self):
        kernel = self._gradient_of_d(auxiliary_category=1.0)[-2]
        assert np.any(kernel[:, 1:4], axis=0).all()

    def test_shared_layers_learn(self):
        assert all(np.any(g) for g in self._gradient_of_d())

    def test_all_of_g_learns_from_each_task(self):
        """Each task alone, by a D whose other heads are blind."""
        generator = multitask_gan.initial_generator(_gan(), SEED)
        for head in ([0], [1, 2, 3], [4]):
            kept = np.zeros(5, np.float32)
            kept[head] = 1
            seeing = [*WEIGHTS.trainable[:-2], WEIGHTS.trainable[-2] * kept]
            weights = Weights([*seeing, tf.zeros(5)], [])
            variables = [tf.Variable(w) for w in generator.weights.trainable]
            with tf.GradientTape() as tape:
                fake = multitask_gan.generate(_gan(), variables, ASKED, SEED)
                loss = multitask_gan.generator_loss(
                    _gan(), weights, fake, ASKED, EVIDENCE, SEED
                )
            gradients = tape.gradient(loss, variables)
            # Not the dense layer's bias: batch normalisation takes it out again.
            for index in (0, 1, 2, 4, 5):
                assert np.any(tf.convert_to_tensor(gradients[index])), (head, index)


def test_d_learns_to_tell_victim_from_other_and_real_from_fake():
    gan = _gan(rate=0.3)
    generator = multitask_gan.initial_generator(gan, SEED)
    auxiliary = Labelled(REAL.images * 0.05 + 0.9, REAL.labels)

    def train(steps):
        return multitask_gan.train_critics(
            gan,
            _critics(gan),
            generator,
            auxiliary,
            EVIDENCE,
            tf.constant(steps),
            SEED,
        )

    critics, loss = tf.function(train)(150)
    weights = critics.weights

    def share(images, head):
        return float(tf.reduce_mean(tf.sigmoid(D.outputs(weights, images)[:, head])))

    fakes = multitask_gan.generate(gan, generator.weights.trainable, ASKED, SEED)
    assert (
        share(EVIDENCE.victim.images, 4) > 0.8 > 0.2 > share(EVIDENCE.other.images, 4)
    )
    assert share(auxiliary.images, 0) > 0.8 > 0.2 > share(fakes, 0)
    untouched, nothing = train(0)
    assert nothing == 0 < loss
    for before, after in zip(
        WEIGHTS.trainable, untouched.weights.trainable, strict=True
    ):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("evidence", [EVIDENCE, None], ids=["passive", "active"])
def test_one_step_of_g_is_sgd_on_its_loss(evidence):
    gan = _gan(average_decay=0.75)
    start = multitask_gan.initial_generator(gan, SEED)
    after, loss = multitask_gan.train_generator(
        gan, _critics(gan), start, REAL, evidence, tf.constant(1), SEED
    )
    of_step = tf.random.fold_in(SEED, 0)
    asked = multitask_gan.ask(gan, evidence, 8, of_step)
    variables = [tf.Variable(w) for w in start.weights.trainable]
    with tf.GradientTape() as tape:
        fake = multitask_gan.generate(gan, variables, asked, of_step)
        expected = multitask_gan.generator_loss(
            gan, WEIGHTS, fake, asked, evidence, of_step
        )
    gradients = tape.gradient(expected, variables)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    moved = 0.0
    for index, variable in enumerate(variables):
        stepped = variable - 0.05 * tf.convert_to_tensor(gradients[index])
        np.testing.assert_allclose(after.weights.trainable[index], stepped, atol=1e-6)
        average = 0.75 * variable + 0.25 * stepped
        np.testing.assert_allclose(after.average[index], average, atol=1e-6)
        moved = max(moved, float(tf.reduce_max(tf.abs(stepped - variable))))
    assert moved > 1e-4


def test_g_learns_what_it_is_asked_for():
    gan = _gan(batch_size=32, rate=0.2)
    # D by hand: the victim's pictures are bright above, real ones dark below.
    heads = np.zeros([16, 5], np.float32)
    heads[:8, 4], heads[8:, 0] = 1.0, -1.0
    weights = Weights(
        [tf.eye(16, 12), tf.zeros(12), tf.constant(heads[:12]), tf.zeros(5)], []
    )
    generator, _ = tf.function(multitask_gan.train_generator, jit_compile=False)(
        gan,
        _critics(gan, weights),
        multitask_gan.initial_generator(gan, SEED),
        REAL,
        EVIDENCE,
        tf.constant(200),
        SEED,
    )
    asked = Asked(tf.tile([0, 1], [40]), tf.repeat([VICTIM, OTHER], 40))
    drawn = multitask_gan.generate(gan, generator.weights.trainable, asked, SEED)
    pixels = tf.reshape(drawn, [2, 40, 16]).numpy()
    assert pixels[0, :, :8].mean() > 0.5 > -0.5 > pixels[1, :, :8].mean()
    assert pixels[:, :, 8:12].mean() < -0.5


STRIPES = tf.reshape(tf.repeat([1.0, -1.0], 8), SHAPE)


def _by_the_first_noise(weights, inputs, training):
    """A generator: stripes or, where the first of the noise is below 0, their negative.

    Of a picture that is asked for as an other's the sides are exchanged.
    """
    del weights, training
    sign = tf.sign(inputs[:, 0]) * (2.0 * inputs[:, -1] - 1.0)
    return tf.reshape(sign, [-1, 1, 1, 1]) * STRIPES, []


class TestCoverage:
    def _uncovered(self, images, batch_size=256):
        gan = _gan(batch_size=batch_size, coverage=1.0)
        drawer = dataclasses.replace(G, apply=_by_the_first_noise)
        part = Labelled(tf.stack(images), tf.zeros([len(images)], tf.int32))
        return float(
            multitask_gan._uncovered(
                dataclasses.replace(gan, generator=drawer),
                [],
                Evidence(part, part),
                SEED,
            )
        )

    def test_the_nearest_counts(self):
        """Of four only the odd sixteenth has no picture of a sign: 2 in 1/16 of all."""
        found = self._uncovered([STRIPES, -STRIPES])
        assert abs(found - 2 / 16) < 0.1  # 128 of them: deviation .043

    def test_what_is_never_drawn_is_as_far_as_it_is(self):
        across = tf.transpose(STRIPES, [1, 0, 2])
        np.testing.assert_allclose(self._uncovered([across]), 1.0, atol=1e-6)

    def test_each_is_compared_with_what_is_drawn_for_its_class_and_identity(self):
        gan = _gan(batch_size=16, coverage=1.0)

        drawer = dataclasses.replace(G, apply=_by_what_was_asked)
        across = tf.transpose(STRIPES, [1, 0, 2])
        labels = tf.constant([0, 1])
        victims = Labelled(tf.stack([STRIPES, across]), labels)
        others = Labelled(-victims.images, labels)
        swapped = Labelled(victims.images, labels[::-1])
        for victim, other, expected in (
            (victims, others, 0.0),
            (others, victims, 2.0),  # identities exchanged
            (swapped, swapped, 1.0),  # classes exchanged: at right angles
        ):
            found = multitask_gan._uncovered(
                dataclasses.replace(gan, generator=drawer),
                [],
                Evidence(victim, other),
                SEED,
            )
            np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_g_draws_every_one_and_not_their_mean(self):
        """Their mean has half of each; to be near to both G has to draw both."""
        across = tf.transpose(STRIPES, [1, 0, 2])
        part = Labelled(tf.stack([STRIPES, across]), tf.zeros([2], tf.int32))

        def drawn(**deviations):
            gan = _gan(batch_size=32, rate=0.1, **deviations)
            generator, _ = tf.function(multitask_gan.train_generator)(
                gan,
                _critics(gan),
                multitask_gan.initial_generator(gan, SEED),
                REAL,
                Evidence(part, part),
                tf.constant(300),
                SEED,
            )
            asked = Asked(tf.zeros([200], tf.int32), tf.tile([VICTIM, OTHER], [100]))
            images = multitask_gan.generate(
                gan, generator.weights.trainable, asked, SEED
            )
            vectors = picture_likeness.unit(images)[::2]
            return [
                np.sum(vectors * picture_likeness.unit(one[tf.newaxis]), axis=1)
                for one in (STRIPES, across)
            ]

        # At 45 degrees between the two both are .71.
        covered = drawn(coverage=10.0)
        assert all((of_one > 0.85).mean() > 0.2 for of_one in covered)
        mean = drawn(class_means=10.0)
        assert all((of_one > 0.85).mean() < 0.1 for of_one in mean)

    def test_it_is_for_a_server_that_has_representatives(self):
        gan, plain = _gan(coverage=1.0), _gan()
        start = multitask_gan.initial_generator(gan, SEED)
        for evidence, same in ((None, True), (EVIDENCE, False)):
            losses = [
                multitask_gan.train_generator(
                    one, _critics(one), start, REAL, evidence, tf.constant(1), SEED
                )[1]
                for one in (gan, plain)
            ]
            assert (losses[0] == losses[1]) == same


def _squares(weights, inputs, training):
    """A discriminator of reality 2 p², slope 4 p, and identity 3 q², slope 6 q."""
    said, _ = _echo(weights, inputs, training)
    reality, identity = 2.0 * said[:, :1] ** 2, 3.0 * said[:, -1:] ** 2
    return tf.concat([reality, said[:, 1:-1], identity], axis=1), []


def test_the_slopes_that_cost_are_reality_on_real_and_identity_on_representatives():
    real = Labelled(_saying([0.25, 0.75], 0.8, count=2), tf.constant([0, 0]))
    evidence = Evidence(
        Labelled(_saying(0.7, 1.0), tf.constant([0])),
        Labelled(_saying(0.9, 0.5), tf.constant([0])),
    )
    asked = Asked(tf.constant([0]), tf.constant([VICTIM]))

    def added(fake, evidence):
        plain, penalised = (
            float(
                multitask_gan.discriminator_loss(
                    dataclasses.replace(
                        _gan(**deviations),
                        discriminator=dataclasses.replace(D, apply=_squares),
                    ),
                    WEIGHTS,
                    real,
                    fake,
                    asked,
                    evidence,
                    SEED,
                )
            )
            for deviations in ({}, {"gradient_penalty": 0.5})
        )
        return penalised - plain

    of_real = (1.0**2 + 3.0**2) / 2
    for fake in (_saying(0.6, 0.3), _saying(-1.2, 2.0)):  # fakes are no data
        np.testing.assert_allclose(
            added(fake, evidence), 0.25 * (of_real + 6.0**2 + 3.0**2), rtol=1e-4
        )
    np.testing.assert_allclose(added(fake, None), 0.25 * of_real, rtol=1e-4)


def test_a_penalised_discriminator_is_less_steep():
    def slope(**deviations):
        gan = _gan(rate=0.1, **deviations)
        critics, _ = tf.function(multitask_gan.train_critics)(
            gan,
            _critics(gan),
            multitask_gan.initial_generator(gan, SEED),
            REAL,
            EVIDENCE,
            tf.constant(100),
            SEED,
        )
        parts = [REAL.images, REAL.images, *(part.images for part in EVIDENCE)]
        return float(multitask_gan._steepness(gan, critics.weights, parts))

    assert slope(gradient_penalty=1.0) < 0.5 * slope()


def _by_what_was_asked(weights, inputs, training):
    """A generator: stripes for class 0, across for 1; of an other's the negative."""
    del weights, training
    across = tf.transpose(STRIPES, [1, 0, 2])
    label = tf.reshape(inputs[:, -2], [-1, 1, 1, 1])
    sign = tf.reshape(2.0 * inputs[:, -1] - 1.0, [-1, 1, 1, 1])
    return sign * tf.where(label == 0.0, STRIPES, across), []


class TestFeatureMatching:
    ACROSS = tf.transpose(STRIPES, [1, 0, 2])

    def test_each_is_compared_with_what_is_drawn_for_its_class_and_identity(self):
        drawer = dataclasses.replace(G, apply=_by_what_was_asked)
        gan = dataclasses.replace(_gan(batch_size=16), generator=drawer)

        def apart(victim, other, label):
            labels = tf.constant([label])
            evidence = Evidence(
                Labelled(victim[tf.newaxis], labels),
                Labelled(other[tf.newaxis], labels),
            )
            return float(
                multitask_gan._features_apart(gan, WEIGHTS, [], evidence, SEED)
            )

        assert apart(STRIPES, -STRIPES, 0) == 0.0
        assert apart(self.ACROSS, -self.ACROSS, 1) == 0.0
        assert apart(-STRIPES, STRIPES, 0) > 1.0  # identities exchanged
        assert apart(STRIPES, -STRIPES, 1) > 1.0  # of the other class
        # One identity right, the other not: half.
        half = apart(STRIPES, STRIPES, 0)
        np.testing.assert_allclose(
            half + apart(-STRIPES, -STRIPES, 0), apart(-STRIPES, STRIPES, 0), rtol=1e-5
        )

    def test_g_learns_it_and_only_of_representatives(self):
        def trained(evidence, **deviations):
            gan = _gan(batch_size=16, rate=0.1, **deviations)
            generator, loss = tf.function(multitask_gan.train_generator)(
                gan,
                _critics(gan),
                multitask_gan.initial_generator(gan, SEED),
                REAL,
                evidence,
                tf.constant(200),
                SEED,
            )
            apart = multitask_gan._features_apart(
                gan, WEIGHTS, generator.weights.trainable, EVIDENCE, SEED
            )
            return float(apart), float(loss)

        assert trained(EVIDENCE, feature_matching=10.0)[0] < 0.5 * trained(EVIDENCE)[0]
        assert trained(None, feature_matching=10.0) == trained(None)


def _white_0_black_1(explained, images):
    """A stand-in: pictures leave over by how much they miss what an update is of."""
    assert images.shape[0] == explained.labels.shape[0]
    wanted = 1.0 - 2.0 * tf.cast(explained.labels, tf.float32)
    gap = tf.reduce_mean((tf.reshape(wanted, [-1, 1, 1, 1]) - images) ** 2)
    return gap * explained.shared[0]


EXPLAINED = Explained([tf.constant(1.0)], [], tf.constant([0, 0, 1, 1]))


def _trained_to_explain(steps, weight, unexplained=_white_0_black_1):
    gan = dataclasses.replace(
        _gan(rate=0.01),
        deviations=Deviations(explained=weight),
        unexplained=unexplained,
    )
    critics = multitask_gan.start_critics(gan, D.initialize(SEED), [])
    generator = multitask_gan.initial_generator(gan, SEED)
    for number in range(0, steps, 2):
        generator, _ = multitask_gan.train_generator(
            gan,
            critics,
            generator,
            REAL,
            EVIDENCE,
            tf.constant(2),
            SEED + number,
            EXPLAINED,
        )
    return gan, generator


def _level(gan, generator, category, identity):
    """Of pictures that are asked for among others, as in training."""
    asked = Asked(
        tf.constant([category] * 8 + [0, 1, 2] * 4),
        tf.constant([identity] * 8 + [VICTIM, OTHER] * 6),
    )
    images = multitask_gan.generate(gan, generator.weights.trainable, asked, SEED)
    return float(tf.reduce_mean(images[:8]))


def test_g_draws_what_explains_the_update_as_the_victims_of_its_classes():
    gan, taught = _trained_to_explain(80, 100.0)
    _, untaught = _trained_to_explain(80, 0.001)
    levels, before = (
        [_level(gan, g, category, VICTIM) for category in (0, 1)]
        for g in (taught, untaught)
    )
    assert levels[0] > before[0] + 0.3
    assert levels[1] < before[1] - 0.3


def test_a_turn_is_told_once_and_for_all_its_steps():
    """By hand: 2 w for the first of two steps of SGD, whatever else there is."""
    shares = []
    for weight in (0.5, 1.0, 2.0):
        _, generator = _trained_to_explain(2, weight)
        shares.append(tf.concat([tf.reshape(w, [-1]) for w in generator[0][0]], 0))
    # The second step's gradient is elsewhere, so that it is linear but nearly.
    first, second = shares[1] - shares[0], shares[2] - shares[1]
    assert float(tf.norm(first)) > 1e-3
    cosine = tf.reduce_sum(first * second) / (tf.norm(first) * tf.norm(second))
    assert float(cosine) > 0.95
    np.testing.assert_allclose(tf.norm(second) / tf.norm(first), 2.0, rtol=0.1)


def test_what_overflows_teaches_nothing():
    def overflowing(explained, images):
        return _white_0_black_1(explained, images) * np.inf

    gan, generator = _trained_to_explain(2, 1.0, overflowing)
    for part in generator.weights.trainable:
        assert np.isfinite(part).all()
    # Its second step is one without it.
    start = multitask_gan.initial_generator(gan, SEED).weights.trainable
    assert any(
        np.abs(a - b).max() > 1e-6
        for a, b in zip(start, generator.weights.trainable, strict=True)
    )


class TestAsked:
    def test_half_are_the_victims_and_all_categories_occur(self):
        asked = multitask_gan.ask(_gan(), EVIDENCE, 300, SEED)
        assert asked.identity.numpy().mean() == 0.5
        for identity in (VICTIM, OTHER):
            counts = np.bincount(
                asked.category[asked.identity == identity], minlength=3
            )
            # 150 draws: 50 expected, deviation 5.8.
            assert counts.min() > 20

    def test_without_evidence_there_is_only_the_victim(self):
        asked = multitask_gan.ask(_gan(), None, 10, SEED)
        assert set(asked.identity.numpy()) == {VICTIM}

    def test_held_categories(self):
        evidence = EVIDENCE._replace(victim=_pictures(6, 1, label=2))
        asked = multitask_gan.ask(_gan(held_categories=True), evidence, 60, SEED)
        assert set(asked.category[asked.identity == VICTIM].numpy()) == {2}
        assert set(asked.category[asked.identity == OTHER].numpy()) == {0, 1, 2}

    def test_with_variety_everything_is_asked_for_twice(self):
        asked = multitask_gan.ask(_gan(variety=1.0), EVIDENCE, 60, SEED)
        for values in asked:
            np.testing.assert_array_equal(values[:30], values[30:])
        assert len(set(asked.category.numpy())) == 3


def test_all_tasks_see_disguises():
    plain, disguised = (
        multitask_gan._answers(
            gan, WEIGHTS, [REAL.images, EVIDENCE.victim.images], SEED
        )
        for gan in (_gan(), _gan(recolour=0.5, noise=0.1))
    )
    for one, other in zip(plain, disguised, strict=True):
        for before, after in zip(one, other, strict=True):
            assert np.abs(before - after).max() > 1e-3
    assert [len(one.identity) for one in plain] == [8, 6]


def test_modes():
    assert Deviations().mode is Mode.PAPER
    for field in dataclasses.fields(Deviations):
        changed = {field.name: type(field.default)(0.5) or 2}
        assert Deviations(**changed).mode is Mode.STRENGTHENED


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Deviations(noise=-1.0), "noise is -1.0: expected a finite number"),
        (lambda: Deviations(average_decay=1.0), "average_decay is 1.0: expected it in"),
        (lambda: Deviations(recolour=1.0), "recolour is 1.0: expected it in"),
        (lambda: Deviations(consensus=1.1), "consensus is 1.1: expected a share"),
        (lambda: Deviations(alternations=0), "alternations is 0: expected at least 1"),
        (
            lambda: _gan(local_reality=1.0),
            "local_reality is 1.0 without a patch discriminator: expected both",
        ),
        (
            lambda: _gan(explained=1.0),
            "explained is 1.0 without a measure of what is unexplained: expected both",
        ),
        (lambda: _gan(batch_size=7), "batch_size is 7: expected an even number"),
        (
            lambda: MultitaskGan(generators.wang_mnist(), D, SGD, SGD),
            r"draws \(28, 28, 1\): expected the input of mlp, \(4, 4, 1\)",
        ),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(InputError, match=message):
        build()
