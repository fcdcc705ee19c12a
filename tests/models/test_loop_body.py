"""Loops of training and attacks: pooling's gradient is in a graph without a cycle."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.attacks import client_gan, model_inversion
from tff_leak.attacks.box_adam import minimise as adam
from tff_leak.attacks.box_lbfgs import minimise as lbfgs
from tff_leak.defences import key_protection
from tff_leak.models import batched_sgd, layers, training
from tff_leak.models.loop_body import compiled_apart
from tff_leak.models.network import sequential

SEED = np.array([1, 2], np.int32)
POOLED = sequential(
    "pooled",
    (4, 4, 1),
    [
        layers.conv2d(2, 3, padding="SAME"),
        layers.max_pool(2),
        layers.reshape(),
        layers.dense(3),
    ],
)
# No tensors: they would settle the threads of whoever imports this.
IMAGES = np.random.default_rng(0).uniform(-1, 1, (6, 4, 4, 1)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)
DATA = training.LocalData(IMAGES, LABELS)


def weights():
    return POOLED.initialize(SEED)


def three_batches():
    parts = (IMAGES.reshape(3, 2, 4, 4, 1), LABELS.reshape(3, 2), [2, 2, 2])
    return batched_sgd.Batches(*(tf.constant(part) for part in parts))


def train_with(local: training.LocalTraining, private):
    shared, constants = local.initialize(SEED)
    return local.train(shared, constants, DATA, private, tf.constant(0), SEED)


def sgd():
    settings = training.LocalSgd(batch_size=2)
    return train_with(training.sgd_training(settings, POOLED), ())


def towards_keys():
    settings = key_protection.KeyTraining(batch_size=2)
    keys = key_protection.draw_keys(3, 3, SEED)
    return train_with(key_protection.key_training(settings, POOLED), keys)


def batches():
    settings = batched_sgd.BatchSgd(0.1)
    return batched_sgd.train_on_batches(
        settings, POOLED, weights(), three_batches()
    ).tensors


def mean_gradient():
    return batched_sgd.mean_gradient(POOLED, weights(), three_batches()).tensors


def generator():
    draw = layers.normal(0.0, 0.02)
    drawing = [
        layers.reshape(1, 1, 100),
        layers.conv2d_transpose(1, 4, output_size=4, padding="VALID", initializer=draw),
    ]
    attack = client_gan.ClientGan(
        sequential("generator", (100,), drawing),
        tff.learning.optimizers.build_sgdm(0.1),
        fake_class=2,
    )
    state = client_gan.initial_state(attack, target=1, seed=SEED)
    return client_gan.train_generator(attack, POOLED, weights(), state, SEED)


def inversion():
    settings = model_inversion.ModelInversion(iterations=3)
    return model_inversion.invert(settings, POOLED, weights(), LABELS, SEED)


def objective(points):
    with tf.GradientTape() as tape:
        tape.watch(points)
        logits = POOLED.outputs(weights(), tf.reshape(points, [-1, 4, 4, 1]))
        values = tf.reduce_sum(logits**2, axis=1)
    return values, tape.gradient(values, points)


def point_by_adam():
    return adam(objective, tf.zeros([2, 16]), iterations=3, rate=0.1)


def point_by_lbfgs():
    return lbfgs(objective, tf.zeros([2, 16]), iterations=3, memory=2)


@pytest.mark.parametrize(
    "loop",
    [
        sgd,
        towards_keys,
        batches,
        mean_gradient,
        generator,
        inversion,
        point_by_adam,
        point_by_lbfgs,
    ],
    ids=lambda loop: loop.__name__,
)
def test_pooling_and_its_gradient_are_in_one_function_that_is_not_inlined(loop):
    graph = tf.function(loop, autograph=False).get_concrete_function().graph
    found = 0
    for function in graph.as_graph_def().library.function:
        operations = {node.op for node in function.node_def}
        if "MaxPoolGrad" in operations:
            found += 1
            assert function.attr["_noinline"].b, function.signature.name
            assert "MaxPool" in operations
    assert found
    assert all(op.type != "MaxPoolGrad" for op in graph.get_operations())


@pytest.mark.parametrize("batch_size", [2, 4, 10])
def test_xla_knows_the_sizes_of_minibatches(batch_size):
    # At this rate weights hardly move, so that the mean loss has no order of examples,
    # which XLA draws otherwise.
    settings = training.LocalSgd(learning_rate=1e-6, batch_size=batch_size)
    local = training.sgd_training(settings, POOLED)
    shared, _ = local.initialize(SEED)

    @tf.function(autograph=False, jit_compile=True)
    def loss():
        return local.train(shared, [], DATA, (), tf.constant(0), SEED).loss

    expected = training.cross_entropy(POOLED.outputs(weights(), IMAGES), LABELS)
    np.testing.assert_allclose(loss(), expected, atol=1e-4)


def test_computes_what_the_function_does_with_what_it_takes_from_outside():
    @tf.function(autograph=False)
    def run(start, factor):
        step = compiled_apart(lambda index, pair: [pair[1], factor * pair[0]])
        return tf.while_loop(
            lambda index, _: index < 3,
            lambda index, pair: (index + 1, step(index, pair)),
            (tf.constant(0), [start, 2.0 * start]),
        )[1]

    one, other = run(tf.constant(1.0), tf.constant(3.0))
    # (1, 2), (2, 3), (3, 6), (6, 9)
    assert (float(one), float(other)) == (6.0, 9.0)
