"""Local SGD against a step worked out by hand and against TensorFlow's own SGD."""

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.errors import InputError
from tff_leak.models import classifiers, layers
from tff_leak.models.network import Weights, flatten, sequential, unflatten
from tff_leak.models.training import LocalData, LocalSgd, cross_entropy, local_sgd

SEED = tf.constant([5, 6])
LINEAR = sequential("linear", (1,), [layers.dense(2)])


def _data(inputs, labels):
    return LocalData(tf.constant(inputs, tf.float32), tf.constant(labels, tf.int32))


def _train(settings, data, parameters=None, network=LINEAR, steps=0):
    if parameters is None:
        parameters = tf.zeros([network.num_parameters])
    run = tf.function(local_sgd)
    return run(settings, network, parameters, [], data, tf.constant(steps), SEED)


def test_one_step_by_hand():
    # Logits 0 give probabilities (1/2, 1/2): the gradient of the loss in the logits
    # of an example of class 0 is (-1/2, 1/2), in the weights that times the input 2.
    trained = _train(LocalSgd(learning_rate=0.1), _data([[2.0]], [0]))
    np.testing.assert_allclose(trained.parameters, [0.1, -0.1, 0.05, -0.05], rtol=1e-6)
    np.testing.assert_allclose(trained.loss, np.log(2.0), rtol=1e-6)
    assert int(trained.steps) == 1


def test_learning_rate_decays_with_the_steps_made_before():
    settings = LocalSgd(learning_rate=0.1, learning_rate_decay=0.5)
    trained = _train(settings, _data([[2.0]], [0]), steps=2)
    # 0.1 / (1 + 2 * 0.5) = 0.05.
    np.testing.assert_allclose(trained.parameters[0], 0.05, rtol=1e-6)


def test_every_example_is_used_once_an_epoch_and_the_last_batch_may_be_small():
    # With learning rate so small that weights do not move, the mean loss is that of
    # the whole set, whatever the batches.
    data = _data([[1.0], [2.0], [3.0], [4.0], [5.0]], [0, 1, 0, 1, 0])
    parameters = tf.constant([0.3, -0.2, 0.1, 0.0])
    trained = _train(
        LocalSgd(learning_rate=1e-12, batch_size=2, epochs=3), data, parameters
    )
    weights = Weights(unflatten(parameters, LINEAR.trainable_shapes), [])
    expected = cross_entropy(LINEAR.outputs(weights, data.inputs), data.labels)
    np.testing.assert_allclose(trained.loss, expected, rtol=1e-5)
    assert int(trained.steps) == 9


def test_a_turn_of_some_steps_is_the_beginning_of_an_epoch():
    data = _data([[1.0], [2.0], [3.0], [4.0], [5.0]], [0, 1, 0, 1, 0])
    parameters = tf.constant([0.3, -0.2, 0.1, 0.0])
    weights = Weights(unflatten(parameters, LINEAR.trainable_shapes), [])
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        data.labels, LINEAR.outputs(weights, data.inputs)
    ).numpy()
    rest = LocalSgd(learning_rate=1e-12, batch_size=2, steps=2)
    trained = _train(rest, data, parameters)
    assert int(trained.steps) == 2
    # The mean over four examples, each seen once: the sum lacks one of the five.
    lacking = losses.sum() - 4 * float(trained.loss)
    assert np.isclose(losses, lacking, atol=1e-4).sum() == 1
    # More steps than an epoch has make no more.
    more = LocalSgd(learning_rate=0.1, batch_size=2, steps=9)
    whole = LocalSgd(learning_rate=0.1, batch_size=2)
    np.testing.assert_array_equal(
        _train(more, data, parameters).parameters,
        _train(whole, data, parameters).parameters,
    )


def test_numbers_as_large_as_they_can_be_do_not_wrap():
    data = _data([[1.0], [2.0], [3.0]], [0, 1, 0])
    trained = _train(LocalSgd(learning_rate=0.1, batch_size=2**31 - 1), data)
    assert int(trained.steps) == 1
    # As many epochs as that are never made; that any is shows that they did not wrap.
    most = LocalSgd(learning_rate=0.1, batch_size=1, epochs=2**31 - 1, steps=2)
    assert int(_train(most, data).steps) == 2


def test_no_data_no_change():
    parameters = tf.constant([0.3, -0.2, 0.1, 0.0])
    data = LocalData(tf.zeros([0, 1]), tf.zeros([0], tf.int32))
    trained = _train(LocalSgd(), data, parameters)
    np.testing.assert_array_equal(trained.parameters, parameters)
    assert int(trained.steps) == 0
    assert float(trained.loss) == 0.0


def test_full_batches_equal_tensorflows_sgd():
    network = classifiers.mlp(3, (4, 4, 1), hidden=8)
    weights = network.initialize(SEED)
    inputs = tf.random.stateless_normal([16, 4, 4, 1], SEED)
    labels = tf.random.stateless_uniform([16], SEED, 0, 3, tf.int32)
    settings = LocalSgd(0.2, learning_rate_decay=0.0, batch_size=16, epochs=4)
    data = LocalData(inputs, labels)
    trained = _train(settings, data, flatten(weights.trainable), network)

    variables = [tf.Variable(w) for w in weights.trainable]
    optimizer = tf.keras.optimizers.SGD(0.2)
    for _ in range(4):
        with tf.GradientTape() as tape:
            loss = cross_entropy(
                network.outputs(Weights(variables, []), inputs), labels
            )
        optimizer.apply_gradients(
            zip(tape.gradient(loss, variables), variables, strict=True)
        )
    np.testing.assert_allclose(trained.parameters, flatten(variables), atol=1e-5)


@pytest.mark.parametrize("name", ["learning_rate", "batch_size", "epochs", "steps"])
def test_settings_out_of_range(name):
    with pytest.raises(InputError, match=f"{name} is 0: expected a positive number"):
        LocalSgd(**{name: 0})
