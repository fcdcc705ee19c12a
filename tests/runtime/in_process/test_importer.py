import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime.in_process import shim
from tff_leak.runtime.in_process.importer import Importer, is_stateful


@tff.tensorflow.computation(np.int32, np.int32)
def arithmetic(x, y):
    return collections.OrderedDict(sum=x + y, parts=(x - y, x))


@tff.tensorflow.computation(np.int32)
def count(steps):
    counter = tf.Variable(10)
    with tf.control_dependencies([counter.assign_add(steps)]):
        return counter.read_value()


def _run(block, *arguments, slot="slot", importer=None):
    piece = (importer or Importer()).piece(block, slot)
    return [tensor.numpy() for tensor in piece.run([tf.constant(a) for a in arguments])]


def test_results_are_in_the_order_of_the_type():
    assert _run(arithmetic.to_building_block(), 5, 3) == [8, 2, 5]


def test_a_tensor_may_be_used_twice_or_handed_on():
    @tff.tensorflow.computation(np.int32)
    def twice(x):
        y = x + 1
        return y, x, y

    assert _run(twice.to_building_block(), 1) == [2, 1, 2]


def test_a_piece_runs_eagerly_and_within_a_function():
    piece = Importer().piece(arithmetic.to_building_block(), "slot")

    @tf.function
    def within(x, y):
        return piece.run([x, y])

    arguments = [tf.constant(5), tf.constant(3)]
    assert [int(t) for t in within(*arguments)] == [8, 2, 5]
    assert [int(t) for t in piece.run(arguments)] == [8, 2, 5]


def test_slots_share_pieces_without_state_only():
    importer = Importer()
    block, counting = arithmetic.to_building_block(), count.to_building_block()
    assert not is_stateful(block)
    assert importer.piece(block, "a") is importer.piece(block, "b")
    assert is_stateful(counting)
    assert importer.piece(counting, "a") is importer.piece(counting, "a")
    assert importer.piece(counting, "a") is not importer.piece(counting, "b")


def test_variables_start_anew_with_each_run():
    importer, block = Importer(), count.to_building_block()
    for slot in ("a", "b"):
        for _ in range(2):
            assert _run(block, 5, slot=slot, importer=importer) == [15]
    assert importer.piece(block, "a").stateful


def test_runs_within_one_function_are_in_order():
    """TensorFlow may not initialise for a later run before an earlier one is done."""

    @tff.tensorflow.computation(np.int32)
    def slow_count(steps):
        counter = tf.Variable(10)

        @tf.function
        def run():
            for _ in tf.range(steps):
                counter.assign_add(1)
            return tf.split(tf.stack([counter, steps]), 2)

        return run()

    piece = Importer().piece(slow_count.to_building_block(), "slot")

    @tf.function
    def thrice(x):
        first = piece.run([x])
        second = piece.run([tf.reshape(first[0], [])])
        return first[0], second[0], piece.run([x])[0]

    for _ in range(20):
        assert [int(t) for t in thrice(tf.constant(3))] == [13, 23, 13]


def test_pieces_with_functions_of_one_name_stay_apart():
    def build(offset):
        @tf.function
        def shift(x):
            return x + offset

        @tff.tensorflow.computation(np.int32)
        def piece(x):
            return tf.while_loop(lambda y: y < 100, lambda y: (shift(y),), (x,))[0]

        return piece.to_building_block()

    importer, small, large = Importer(), build(3), build(50)
    for _ in range(2):
        assert _run(small, 0, importer=importer) == [102]
        assert _run(large, 0, importer=importer) == [100]


def test_a_piece_made_of_an_imported_piece():
    """Names grow with each import: they stay within what TensorFlow takes."""
    comp = tff.tensorflow.computation(
        tf.function(lambda x: tf.cond(x > 0, lambda: x - 1, lambda: x)), np.int32
    )

    def around(piece):
        return tff.tensorflow.computation(lambda x: piece.run([x])[0], np.int32)

    for _ in range(5):
        comp = around(Importer().piece(comp.to_building_block(), "slot"))
    assert _run(comp.to_building_block(), 4) == [3]
    assert _run(comp.to_building_block(), -4) == [-4]


def test_a_gradient_within_a_loop():
    @tff.tensorflow.computation(np.float32)
    def descend(x):
        @tf.function
        def step(y):
            with tf.GradientTape() as tape:
                tape.watch(y)
                loss = y**2
            return y - 0.25 * tape.gradient(loss, y)

        for _ in range(3):
            x = step(x)
        return x

    assert _run(descend.to_building_block(), 8.0) == [1.0]


def test_other_backends_are_refused():
    proto = shim.computation_pb2.Computation(
        type=shim.proto_of(arithmetic.to_building_block()).type,
        xla=shim.computation_pb2.Xla(),
    )
    block = tff.framework.CompiledComputation(
        proto, type_signature=arithmetic.type_signature
    )
    with pytest.raises(NotImplementedError, match="runs TensorFlow.*kind 'xla'"):
        Importer().piece(block, "slot")
