"""Representatives: Eq. 8 by hand, against SciPy, and of clients of a real round."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
import tensorflow_federated as tff

from computations.fed_avg import build_fed_avg_client_work
from tff_leak.attacks.label_inference import class_shares, held_classes, infer_labels
from tff_leak.attacks.representatives import (
    Reconstruction,
    Representatives,
    initial_images,
    objective,
    reconstruct,
    total_variation,
    unexplained,
)
from tff_leak.attacks.update_matching import OPTIMIZERS, mean_gradient_of_training
from tff_leak.data import partition, sources, transforms
from tff_leak.errors import InputError
from tff_leak.models import classifiers, layers
from tff_leak.models.batched_sgd import Batches, BatchSgd, train_on_batches
from tff_leak.models.network import Weights, sequential
from tff_leak.runtime import runtimes

SEED = tf.constant([3, 4])
TINY = sequential(
    "tiny", (1, 2, 1), [layers.reshape(), layers.dense(2, initializer=layers.zeros)]
)
SMOOTH = sequential(
    "smooth",
    (6, 6, 1),
    [
        layers.conv2d(4, 3),
        layers.activation(tf.nn.tanh),
        layers.reshape(),
        layers.dense(3),
    ],
)
# The shape of Wang et al.'s networks, at a size for tests.
SMALL = sequential(
    "small",
    (16, 16, 1),
    [
        layers.conv2d(8, 3, stride=2, padding="SAME"),
        layers.activation(classifiers.leaky_relu),
        layers.conv2d(16, 3, padding="SAME"),
        layers.activation(classifiers.leaky_relu),
        layers.reshape(),
        layers.dense(10),
    ],
)
RATE, BATCH, PER_CLASS, CLASSES, DEGREES = 0.02, 10, 30, 3, 40.0
STEPS = CLASSES * PER_CLASS // BATCH
SETTINGS = Representatives(local_rate=RATE, local_steps=STEPS, images=CLASSES)


def _reconstruct(settings, network, *args) -> Reconstruction:
    """In a graph, as it is meant to be called; NumPy arrays."""
    graph = tf.function(
        lambda *args: reconstruct(settings, network, *args)
    ).get_concrete_function(*args)
    assert not graph.variables
    return Reconstruction(*(part.numpy() for part in graph(*args)))


def test_eq_8_by_hand():
    """Logits are 0, so that p - y is (-1/2, 1/2) for an example of class 0."""
    images = tf.constant([0.6, -0.2, 0.1, 0.5], shape=[2, 1, 2, 1])
    labels = tf.constant([0, 1])
    # Means over the two: columns (x_0 (-1/2, 1/2) + x_1 (1/2, -1/2)) / 2, biases 0.
    columns = np.array([[-0.125, 0.125], [0.175, -0.175]])
    sent = [np.array([[1.0, 0.0], [0.0, -1.0]]), np.array([0.5, 0.0])]
    gamma, tv_weight = 0.5, 0.1
    gap = np.sqrt(((sent[0] / gamma - columns) ** 2).sum() + 1.0)
    variation = (0.8**2) ** 1.25 + (0.4**2) ** 1.25
    settings = Representatives(gamma=gamma, tv_weight=tv_weight)
    update = [tf.constant(part, tf.float32) for part in sent]
    found = objective(settings, TINY, TINY.initialize(SEED), update, images, labels)
    np.testing.assert_allclose(found, gap + tv_weight * variation, rtol=1e-6)


def test_total_variation_by_hand():
    picture = np.array([[0.0, 0.3], [0.4, 0.0]], np.float32)
    images = np.stack([picture, 2 * picture])[..., np.newaxis]
    # Differences (right, down) of the four pixels; at the border there is none.
    squares = np.array([0.3**2 + 0.4**2, 0.3**2, 0.4**2, 0.0])
    for beta in (1.0, 1.25):
        expected = (squares**beta).sum() * (1 + 4**beta)
        np.testing.assert_allclose(total_variation(images, beta), expected, rtol=1e-6)


def test_gamma_is_a_quarter_of_the_steps_unless_given():
    assert Representatives(local_rate=0.1, local_steps=20).scale == pytest.approx(0.5)
    assert Representatives(local_rate=0.1, local_steps=20, gamma=2.0).scale == 2.0
    unrolled = Representatives(local_rate=0.1, local_steps=20, unrolled_steps=5)
    assert unrolled.scale == pytest.approx(2.0)


@pytest.mark.parametrize(
    "settings",
    [
        Representatives(gamma=0.05, tv_weight=0.02),
        Representatives(
            local_rate=0.1,
            local_steps=10,
            unrolled_steps=4,
            unrolled_batches=2,
            background=0.1,
            tv_weight=0.02,
        ),
    ],
)
def test_gradient_against_finite_differences(settings):
    weights = SMOOTH.initialize(SEED)
    update = [
        0.01 * tf.random.stateless_normal(s, SEED) for s in SMOOTH.trainable_shapes
    ]
    images = tf.random.stateless_uniform([2, 6, 6, 1], SEED, -0.9, 0.9)
    labels = tf.constant([2, 0])

    def value(x):
        return objective(settings, SMOOTH, weights, update, x, labels)

    with tf.GradientTape() as tape:
        tape.watch(images)
        at = value(images)
    gradient = tape.gradient(at, images)
    # Along its own direction and random ones: central differences of step h are off
    # by O(h^2), and by 1e-7 / h for float32.
    directions = [
        gradient,
        *(tf.random.stateless_normal(images.shape, [n, 5]) for n in range(4)),
    ]
    for direction in directions:
        direction /= tf.norm(direction)
        step = 0.02
        slope = (
            value(images + step * direction) - value(images - step * direction)
        ) / (2 * step)
        expected = tf.reduce_sum(gradient * direction)
        np.testing.assert_allclose(slope, expected, atol=0.01 * tf.norm(gradient))


class Round(NamedTuple):
    """What a server sees of a round, and what it does not."""

    weights: Weights
    updates: list[tf.Tensor]
    data: list[sources.Examples]
    templates: np.ndarray


@pytest.fixture(scope="module")
def one_round():
    """Ten clients with three digits each; the first turned, the eleventh it upright."""
    digits = sources.load("digits").train
    small = sources.Examples(transforms.resize_to(digits.images, 16), digits.labels)
    clients = partition.random_classes(
        small, clients=10, classes_per_client=CLASSES, per_class=PER_CLASS, seed=1
    )
    upright = clients[0]
    turned = sources.Examples(
        transforms.rotate(upright.images, DEGREES), upright.labels
    )
    clients = [turned, *clients[1:], upright]
    weights = SMALL.initialize(SEED)
    updates = _updates(SMALL, weights, clients)
    templates = np.stack([small.of_class(k).images.mean(axis=0) for k in range(10)])
    return Round(weights, updates, clients, templates)


def _updates(network: Any, weights: Weights, clients) -> list[tf.Tensor]:
    """What the project's federated averaging sends: each `[clients, ...]`."""
    work = build_fed_avg_client_work(network, training=BatchSgd(RATE))
    state, weights_type, data_type = work.next.type_signature.parameter

    @tff.federated_computation(weights_type, data_type)
    def sent(weights, data):
        return work.next(work.initialize(), weights, data).result.update

    datasets = [
        tf.data.Dataset.from_tensor_slices((c.images, c.labels)).batch(BATCH)
        for c in clients
    ]
    model = tff.learning.models.ModelWeights(tuple(weights.trainable), ())
    runtimes.use("in_process")
    try:
        rows = sent([model] * len(clients), datasets)
    finally:
        tff.test.set_no_default_context()
    return [tf.stack(part) for part in zip(*rows, strict=True)]


def test_labels_of_all_clients_are_found(one_round):
    held = [np.unique(client.labels).tolist() for client in one_round.data]
    assert len({tuple(classes) for classes in held}) > 5
    found = infer_labels(one_round.updates, CLASSES).numpy().tolist()
    assert found == held
    flags = held_classes(one_round.updates).numpy()
    assert [np.flatnonzero(row).tolist() for row in flags] == held
    # Each class is a third of its client's data.
    shares = class_shares(one_round.updates).numpy()
    np.testing.assert_allclose(shares[flags], 1 / 3, atol=0.05)


def _correlations(images, labels, templates):
    """Mean correlation of pictures with their classes' upright and turned means."""
    turned = transforms.rotate(templates, DEGREES)
    return [
        np.mean(
            [
                np.corrcoef(image.ravel(), means[label].ravel())[0, 1]
                for image, label in zip(images, labels, strict=True)
            ]
        )
        for means in (templates, turned)
    ]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_representatives_are_turned_as_their_clients_digits(one_round, optimizer):
    """Two clients with the same digits, one's turned: only updates differ."""
    turned, upright = 0, len(one_round.data) - 1
    settings = dataclasses.replace(SETTINGS, optimizer=optimizer)
    labels = infer_labels(one_round.updates, CLASSES)
    # Each with its own update, and then with the other's.
    rows = [
        tf.gather(update, [turned, upright, upright, turned])
        for update in one_round.updates
    ]
    of = tf.gather(labels, [turned, upright, turned, upright])
    result = _reconstruct(settings, SMALL, one_round.weights, rows, of, SEED)
    found = [
        _correlations(images, classes, one_round.templates)
        for images, classes in zip(result.images, result.labels, strict=True)
    ]
    for to_upright, to_turned in (found[0], found[3]):
        assert to_turned > to_upright + 0.1
    # Exchanged updates exchange what is seen.
    for to_upright, to_turned in (found[1], found[2]):
        assert to_upright > to_turned + 0.1


def _whole_batch_updates(steps, rate, examples, weights):
    """What a client sends that makes `steps` steps on all of its examples at once."""
    batches = Batches(
        tf.constant(examples.images[np.newaxis]),
        tf.constant(examples.labels[np.newaxis], tf.int32),
        tf.constant([len(examples)]),
    )
    settings = BatchSgd(rate, epochs=steps)
    after = train_on_batches(settings, SMALL, weights, batches).tensors
    return [old - new for old, new in zip(weights.trainable, after, strict=True)]


@pytest.mark.parametrize("steps", [1, 7])
def test_unrolled_training_is_the_clients(one_round, steps):
    client, rate = one_round.data[3], 0.2
    sent = _whole_batch_updates(steps, rate, client, one_round.weights)
    found = mean_gradient_of_training(
        SMALL,
        one_round.weights,
        tf.constant(client.images),
        tf.constant(client.labels, tf.int32),
        length=steps * rate,
        steps=steps,
    )
    for one, other in zip(sent, found, strict=True):
        np.testing.assert_allclose(one / (steps * rate), other, rtol=1e-3, atol=2e-5)


def test_unrolled_batches_are_as_said(one_round):
    """Two epochs of three batches, against the project's own SGD."""
    client, rate = one_round.data[3].take(range(9)), 0.1
    order = [0, 3, 6, 1, 4, 7, 2, 5, 8]
    batches = Batches(
        tf.constant(client.images[order].reshape(3, 3, *SMALL.input_shape)),
        tf.constant(client.labels[order].reshape(3, 3), tf.int32),
        tf.constant([3, 3, 3]),
    )
    after = train_on_batches(
        BatchSgd(rate, epochs=2), SMALL, one_round.weights, batches
    )
    found = mean_gradient_of_training(
        SMALL,
        one_round.weights,
        tf.constant(client.images),
        tf.constant(client.labels, tf.int32),
        length=6 * rate,
        steps=6,
        batches=3,
    )
    for before, new, mean in zip(
        one_round.weights.trainable, after.tensors, found, strict=True
    ):
        np.testing.assert_allclose((before - new) / (6 * rate), mean, atol=2e-5)


def test_a_client_that_trains_long_is_matched_by_unrolled_steps_alone(one_round):
    """Its own pictures explain its update to the last bit; one gradient does not."""
    client, rate, steps = one_round.data[0], 0.02, 40
    sent = _whole_batch_updates(steps, rate, client, one_round.weights)
    images = tf.constant(client.images)
    labels = tf.constant(client.labels, tf.int32)
    upright = tf.constant(one_round.data[-1].images)

    def value(unrolled_steps, pictures):
        settings = Representatives(
            local_rate=rate,
            local_steps=steps,
            unrolled_steps=unrolled_steps,
            gamma=None if unrolled_steps else rate * steps,
            tv_weight=0.0,
        )
        return float(
            objective(settings, SMALL, one_round.weights, sent, pictures, labels)
        )

    length = float(tf.linalg.global_norm(sent)) / (rate * steps)
    # Of the update's length: what its own and the upright pictures leave unexplained.
    assert value(steps, images) < 0.01 * length
    assert value(steps // 2, images) < 0.2 * length
    assert value(steps // 2, upright) > 2.0 * value(steps // 2, images)
    assert value(None, images) > length
    assert value(None, upright) < 1.1 * value(None, images)


def test_unrolled_training_finds_more_of_a_client_that_trains_long(one_round):
    client, rate, steps = one_round.data[0], 0.02, 40
    sent = _whole_batch_updates(steps, rate, client, one_round.weights)
    updates = [part[tf.newaxis] for part in sent]
    labels = tf.constant([np.unique(client.labels)], tf.int32)
    similar = {}
    for unrolled_steps in (None, 20):
        settings = Representatives(
            local_rate=rate,
            local_steps=steps,
            unrolled_steps=unrolled_steps,
            iterations=40,
        )
        found = _reconstruct(settings, SMALL, one_round.weights, updates, labels, SEED)
        similar[unrolled_steps] = _correlations(
            found.images[0], found.labels[0], one_round.templates
        )
    (_, before), (upright, turned) = similar.values()
    assert turned > before + 0.1
    assert turned > upright + 0.1


def test_what_is_unexplained_by_hand():
    """As the gap of Eq. 8, without its other terms and against the update's length."""
    images = tf.constant([0.6, -0.2, 0.1, 0.5], shape=[2, 1, 2, 1])
    weights, labels = TINY.initialize(SEED), tf.constant([0, 1])
    settings = Representatives(gamma=0.5, tv_weight=0.1, background=0.3)

    def share(*update):
        parts = [tf.constant(part, tf.float32) for part in update]
        return float(unexplained(settings, TINY, weights, parts, images, labels))

    # The pictures' own gradient (see `test_eq_8_by_hand`), times gamma.
    own = np.array([[-0.125, 0.125], [0.175, -0.175]]) * 0.5
    assert share(own, np.zeros(2)) == pytest.approx(0.0, abs=1e-6)
    assert share(-own, np.zeros(2)) == pytest.approx(2.0)
    assert share(1e6 * own, np.zeros(2)) == pytest.approx(1.0, abs=1e-5)
    biases = np.array([0.3, -0.3])
    length = np.sqrt((own**2).sum() + (biases**2).sum())
    assert share(own, biases) == pytest.approx(np.sqrt((biases**2).sum()) / length)
    assert share(0.0 * own, np.zeros(2)) == 0.0


def test_background_by_hand():
    images = tf.constant([1.0, -1.0, 0.0, -0.5], shape=[2, 1, 2, 1])
    weights, labels = TINY.initialize(SEED), tf.constant([0, 1])
    update = [tf.zeros(shape) for shape in TINY.trainable_shapes]
    with_it, without = (
        objective(
            Representatives(background=weight), TINY, weights, update, images, labels
        )
        for weight in (0.2, 0.0)
    )
    np.testing.assert_allclose(
        with_it - without, 0.2 * (4 + 0 + 1 + 0.25) / 4, rtol=1e-5
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_clients_are_independent(one_round, optimizer):
    some = [0, 3, 5]
    labels = tf.gather(infer_labels(one_round.updates, CLASSES), some)
    updates = [tf.gather(update, some) for update in one_round.updates]
    settings = dataclasses.replace(SETTINGS, optimizer=optimizer, iterations=8)
    graph = tf.function(
        lambda updates, labels: reconstruct(
            settings, SMALL, one_round.weights, updates, labels, SEED
        ),
        # Of an unknown number, as rows that a server observes are.
        input_signature=[
            [tf.TensorSpec([None, *s]) for s in SMALL.trainable_shapes],
            tf.TensorSpec([None, CLASSES], tf.int32),
        ],
    )
    together = graph(updates, labels)
    assert together.images.shape == (3, CLASSES, *SMALL.input_shape)
    for order in ([2, 0, 1], [1]):
        permuted = graph(
            [tf.gather(update, order) for update in updates], tf.gather(labels, order)
        )
        for one, other in zip(together, permuted, strict=True):
            np.testing.assert_allclose(tf.gather(one, order), other, atol=1e-3)
    # They do not agree because nothing happens.
    assert np.abs(together.images[0] - together.images[1]).max() > 0.5


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_objective_is_that_of_scipys_lbfgsb(one_round, optimizer):
    """The same problem from the same start: objectives within 5%."""
    some = [0, 1, 2]
    labels = tf.gather(infer_labels(one_round.updates, CLASSES), some)
    updates = [tf.gather(update, some) for update in one_round.updates]
    settings = dataclasses.replace(SETTINGS, optimizer=optimizer, iterations=60)
    start = initial_images(settings, SMALL, CLASSES, SEED)
    ours = _reconstruct(settings, SMALL, one_round.weights, updates, labels, SEED)

    @tf.function
    def value_and_gradient(images, update, classes):
        with tf.GradientTape() as tape:
            tape.watch(images)
            value = objective(
                settings, SMALL, one_round.weights, update, images, classes
            )
        return value, tape.gradient(value, images)

    for place in range(len(some)):
        update = [rows[place] for rows in updates]

        def function(x, update=update, place=place):
            images = tf.constant(x.reshape(start.shape), tf.float32)
            value, gradient = value_and_gradient(images, update, labels[place])
            return float(value), gradient.numpy().ravel().astype(float)

        first = start.numpy().ravel().astype(float)
        theirs = scipy.optimize.minimize(
            function, first, jac=True, method="L-BFGS-B", bounds=[(-1, 1)] * first.size
        )
        assert function(first)[0] > 1.2 * theirs.fun  # there was a way to go
        assert ours.objective[place] < 1.05 * theirs.fun
        again = function(ours.images[place].ravel().astype(float))[0]
        np.testing.assert_allclose(ours.objective[place], again, rtol=1e-4)
    assert np.abs(ours.images).max() <= 1


def test_runs_in_a_tff_computation_and_leaves_broken_updates_alone():
    weights = SMOOTH.initialize(SEED)
    good = [0.1 * tf.random.stateless_normal(s, SEED) for s in SMOOTH.trainable_shapes]
    updates = tuple(tf.stack([part, part * np.nan]) for part in good)
    settings = Representatives(iterations=20, gamma=1.0)

    @tff.tensorflow.computation(
        tuple(tff.TensorType(np.float32, [None, *s]) for s in SMOOTH.trainable_shapes)
    )
    def attack(updates):
        # As a computation has it: no tensor comes from outside.
        model = SMOOTH.initialize(tf.constant([3, 4]))
        labels = tf.constant([[0, 1], [0, 1]])
        seed = tf.constant([3, 4])
        found = reconstruct(settings, SMOOTH, model, list(updates), labels, seed)
        return found._asdict()

    runtimes.use("in_process")
    try:
        found = attack(updates)
    finally:
        tff.test.set_no_default_context()
    images = initial_images(settings, SMOOTH, 2, SEED)
    before = objective(settings, SMOOTH, weights, good, images, tf.constant([0, 1]))
    assert found["objective"][0] < before
    assert not np.isfinite(found["objective"][1])
    np.testing.assert_array_equal(found["images"][1], images)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"optimizer": "sgd"}, "optimizer is 'sgd': expected one of adam, lbfgs"),
        ({"iterations": 0}, "iterations is 0: expected at least 1; the default is 32"),
        ({"images": 0}, "images is 0: expected at least 1"),
        ({"gamma": 0.0}, "gamma is 0.0: expected a finite number > 0"),
        (
            {"gamma": 0.1, "unrolled_steps": 5},
            "gamma is 0.1 with unrolled_steps: expected it with the paper's",
        ),
        ({"unrolled_steps": 0}, "unrolled_steps is 0: expected a multiple of"),
        (
            {"unrolled_steps": 7, "unrolled_batches": 2},
            "unrolled_steps is 7: expected a multiple of unrolled_batches, 2",
        ),
        (
            {"unrolled_batches": 4, "unrolled_steps": 5},
            "unrolled_batches is 4: expected 1 to the number of images, 3",
        ),
        ({"unrolled_batches": 2}, "unrolled_batches is 2 without unrolled_steps"),
        ({"background": -1.0}, "background is -1.0: expected at least 0"),
        ({"local_rate": float("inf")}, "local_rate is inf: expected a finite number"),
        ({"tv_weight": -0.1}, "tv_weight is -0.1: expected at least 0"),
        ({"tv_power": 0.5}, "tv_power is 0.5: expected at least 1"),
        ({"start_noise": 1.5}, r"start_noise is 1.5: expected it in \(0, 1\]"),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        Representatives(**settings)


def test_bad_arguments():
    weights = SMOOTH.initialize(SEED)
    updates = [w[tf.newaxis] for w in weights.trainable]
    settings = Representatives()

    def call(network=SMOOTH, updates=updates, labels=((0, 1),)):
        reconstruct(settings, network, weights, updates, tf.constant(labels), SEED)

    unrolled = Representatives(unrolled_steps=3, unrolled_batches=3)
    pictures = tf.zeros([2, *SMOOTH.input_shape])
    with pytest.raises(InputError, match="3 steps on 3 batches of 2 pictures"):
        objective(
            unrolled, SMOOTH, weights, weights.trainable, pictures, tf.constant([0, 1])
        )
    with pytest.raises(InputError, match="label is 3: expected one of the 3 outputs"):
        call(labels=[[0, 3]])
    with pytest.raises(InputError, match=r"labels have the shape \(2,\): expected"):
        call(labels=[0, 1])
    with pytest.raises(InputError, match="a client's updates have the shapes"):
        call(updates=list(weights.trainable))
    flat = sequential("flat", (4,), [layers.dense(3)])
    with pytest.raises(InputError, match=r"network flat maps \(4,\) to \(3,\): expec"):
        call(network=flat)
