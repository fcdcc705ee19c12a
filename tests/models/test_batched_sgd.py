"""SGD on batches as they arrive: by hand, against single batches, and padded."""

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.errors import InputError
from tff_leak.models import classifiers, layers
from tff_leak.models.batched_sgd import (
    Batches,
    BatchSgd,
    mean_gradient,
    read_batches,
    train_on_batches,
)
from tff_leak.models.network import Weights, sequential

LINEAR = sequential("linear", (1,), [layers.dense(2)])
ZERO = Weights([tf.zeros([1, 2]), tf.zeros([2])], [])
MLP = classifiers.mlp(3, (4,), hidden=5)


def _batches(inputs, labels, sizes):
    return Batches(
        tf.constant(inputs, tf.float32)[..., tf.newaxis],
        tf.constant(labels, tf.int32),
        tf.constant(sizes, tf.int32),
    )


def _dataset(sizes, seed=0):
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    inputs = rng.normal(size=(total, 4)).astype(np.float32)
    labels = rng.integers(0, 3, total).astype(np.int64)
    ends = np.cumsum(sizes)

    def batches():
        for end, size in zip(ends, sizes, strict=True):
            yield inputs[end - size : end], labels[end - size : end]

    return tf.data.Dataset.from_generator(
        batches,
        output_signature=(
            tf.TensorSpec([None, 4]),
            tf.TensorSpec([None], tf.int64),
        ),
    )


def _read(dataset):
    return tf.function(read_batches)(MLP, dataset)


def _train(settings, batches, network=LINEAR, weights=ZERO):
    return tf.function(train_on_batches)(settings, network, weights, batches)


def test_read_keeps_batches_and_pads_with_zeros():
    batches = _read(_dataset([2, 3, 1]))
    assert batches.inputs.shape == (3, 3, 4)
    assert batches.sizes.numpy().tolist() == [2, 3, 1]
    read = list(_dataset([2, 3, 1]))
    for i, (inputs, labels) in enumerate(read):
        n = len(labels)
        np.testing.assert_array_equal(batches.inputs[i, :n], inputs)
        np.testing.assert_array_equal(batches.labels[i, :n], labels)
        assert not np.any(batches.inputs[i, n:])


def test_read_of_no_batches():
    batches = _read(_dataset([]))
    assert batches.inputs.shape == (0, 0, 4)
    assert batches.labels.shape == (0, 0)
    assert batches.sizes.shape == (0,)


def test_two_steps_by_hand():
    # Step 1, input 2, class 0 at zero logits: gradient (-1/2, 1/2) in the logits.
    # Step 2, input 0, class 0: the weights get none; logits are +-rate/2.
    trained = _train(
        BatchSgd(learning_rate=0.1), _batches([[2.0], [0.0]], [[0], [0]], [1, 1])
    )
    p = 1 / (1 + np.exp(0.1))  # of class 1, with logits (.05, -.05)
    np.testing.assert_allclose(trained.tensors[0], [[0.1, -0.1]], rtol=1e-6)
    np.testing.assert_allclose(
        trained.tensors[1], [0.05 + 0.1 * p, -0.05 - 0.1 * p], rtol=1e-6
    )
    np.testing.assert_allclose(
        trained.loss_sum, np.log(2) + np.log1p(np.exp(-0.1)), rtol=1e-6
    )
    assert float(trained.examples) == 2


def test_momentum_by_hand():
    # Twice the same gradient g = (-1, 1) in the weights; nearly, after a tiny step.
    settings = BatchSgd(learning_rate=1e-4, momentum=0.5, epochs=2)
    trained = _train(settings, _batches([[2.0]], [[0]], [1]))
    np.testing.assert_allclose(trained.tensors[0], [[2.5e-4, -2.5e-4]], rtol=1e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equals_steps_on_unpadded_batches(momentum):
    """Against TensorFlow's own optimizer on each batch as it is."""
    weights = MLP.initialize(tf.constant([1, 2]))
    settings = BatchSgd(learning_rate=0.2, momentum=momentum, epochs=2)
    trained = _train(settings, _read(_dataset([4, 1, 3])), MLP, weights)
    variables = [tf.Variable(w) for w in weights.trainable]
    optimizer = tf.keras.optimizers.SGD(0.2, momentum)
    losses = []
    for inputs, labels in _dataset([4, 1, 3]).repeat(2):
        with tf.GradientTape() as tape:
            logits = MLP.outputs(Weights(variables, []), inputs)
            loss = tf.keras.losses.sparse_categorical_crossentropy(
                labels, logits, from_logits=True
            )
            mean = tf.reduce_mean(loss)
        optimizer.apply_gradients(
            zip(tape.gradient(mean, variables), variables, strict=True)
        )
        losses += loss.numpy().tolist()
    for ours, expected in zip(trained.tensors, variables, strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-6)
    np.testing.assert_allclose(trained.loss_sum, sum(losses), rtol=1e-5)
    assert float(trained.examples) == 16


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_more_padding_changes_nothing(momentum):
    weights = MLP.initialize(tf.constant([1, 2]))
    batches = _read(_dataset([3, 2]))
    padded = Batches(
        tf.pad(batches.inputs, [[0, 2], [0, 4], [0, 0]]),
        tf.pad(batches.labels, [[0, 2], [0, 4]]),
        tf.pad(batches.sizes, [[0, 2]]),
    )
    settings = BatchSgd(0.3, momentum, epochs=3)
    once = _train(settings, batches, MLP, weights)
    again = _train(settings, padded, MLP, weights)
    for first, second in zip(once.tensors, again.tensors, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)
    assert float(once.examples) == float(again.examples) == 15


def test_many_clients_at_once():
    """The point of tensors: clients of one shape as one computation."""
    network = sequential("softmax", (4,), [layers.dense(3)])
    weights = network.initialize(tf.constant([1, 2]))
    clients = [_read(_dataset(sizes, i)) for i, sizes in enumerate([[3, 1], [2, 3]])]
    settings = BatchSgd(0.3)
    stacked = tf.nest.map_structure(lambda *t: tf.stack(t), *clients)
    together = tf.function(
        lambda batches: tf.vectorized_map(
            lambda one: train_on_batches(settings, network, weights, one), batches
        )
    )(stacked)
    for i, client in enumerate(clients):
        alone = _train(settings, client, network, weights)
        for ours, expected in zip(together.tensors, alone.tensors, strict=True):
            np.testing.assert_allclose(ours[i], expected, atol=1e-6)
            assert np.abs(ours[i] - ours[1 - i]).max() > 1e-2


def test_mean_gradient_is_that_of_one_batch():
    weights = MLP.initialize(tf.constant([1, 2]))
    split = tf.function(mean_gradient)(MLP, weights, _read(_dataset([4, 1, 3])))
    whole = tf.function(mean_gradient)(MLP, weights, _read(_dataset([8])))
    inputs, labels = next(iter(_dataset([8])))
    with tf.GradientTape() as tape:
        tape.watch(weights.trainable)
        loss = tf.keras.losses.sparse_categorical_crossentropy(
            labels, MLP.outputs(weights, inputs), from_logits=True
        )
        loss = tf.reduce_mean(loss)
    for a, b, expected in zip(
        split.tensors,
        whole.tensors,
        tape.gradient(loss, weights.trainable),
        strict=True,
    ):
        np.testing.assert_allclose(a, expected, atol=1e-6)
        np.testing.assert_allclose(b, expected, atol=1e-6)
    np.testing.assert_allclose(split.loss_sum / split.examples, loss, rtol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0: expected a positive number"),
        ({"momentum": 1.0}, r"momentum is 1.0: expected it in \[0, 1\)"),
        ({"epochs": 0}, "epochs is 0: expected 1 or a larger whole number"),
        ({"epochs": 1.5}, "epochs is 1.5: expected 1 or a larger whole number"),
    ],
)
def test_values_out_of_range(change, message):
    with pytest.raises(InputError, match=message):
        BatchSgd(**change)
