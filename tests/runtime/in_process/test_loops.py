"""Reductions of datasets as loops: equal to TFF's runtime, and really loops."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime.in_process import loops, shim
from tff_leak.runtime.in_process.importer import Importer
from tff_leak.runtime.in_process.loops import with_loops

INTS = tff.SequenceType(np.int32)
BATCHES = tff.types.to_type(
    tff.SequenceType(
        collections.OrderedDict(
            x=tff.TensorType(np.float32, [None, 2]), y=tff.TensorType(np.int64, [None])
        )
    )
)


@tff.tensorflow.computation(INTS)
def in_the_graph(dataset):
    return dataset.reduce(np.int32(7), lambda total, x: 2 * total + x)


@tff.tensorflow.computation(INTS, np.int32)
@tf.function
def in_a_function(dataset, factor):
    """With two states, of which one grows, and a tensor from outside the reduction."""

    def step(state, x):
        total, seen = state
        return total + factor * x, tf.concat([seen, [x]], 0)

    seen = tf.zeros([tf.minimum(factor, 0)], tf.int32)  # of unknown length
    return dataset.reduce((np.int32(0), seen), step)


@tff.tensorflow.computation(BATCHES)
@tf.function
def of_structures(dataset):
    def step(state, batch):
        within = tf.data.Dataset.from_tensor_slices(batch["y"])
        labels = within.reduce(np.int64(0), lambda total, y: total + y)  # a loop in it
        return state[0] + tf.reduce_sum(batch["x"]), state[1] + labels

    return dataset.reduce((np.float32(0), np.int64(0)), step)


@tff.tensorflow.computation(INTS)
@tf.function
def of_datasets(dataset):
    def step(total, window):
        return total * 3 + window.reduce(np.int32(0), lambda a, b: a + b)

    return dataset.window(2).reduce(np.int32(0), step)


def _integers(count):
    return tf.data.Dataset.range(count).map(lambda x: tf.cast(x, tf.int32) + 1)


def _batches(count):
    x = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    examples = collections.OrderedDict(x=x, y=np.arange(count, dtype=np.int64))
    return tf.data.Dataset.from_tensor_slices(examples).batch(3)


@pytest.mark.parametrize("count", [0, 1, 8])
@pytest.mark.parametrize(
    "comp, arguments",
    [
        (in_the_graph, lambda count: [_integers(count)]),
        (in_a_function, lambda count: [_integers(count), 3]),
        (of_structures, lambda count: [_batches(count)]),
        (of_datasets, lambda count: [_integers(count)]),
    ],
    ids=["graph", "function", "structures", "datasets"],
)
def test_a_loop_computes_the_same(beside, comp, arguments, count):
    beside.assert_equal(comp, *arguments(count))


def _graph(comp):
    return shim.graph_def_of(shim.proto_of(comp.to_building_block()))


def _operations(graph_def):
    nodes = list(graph_def.node)
    for function in graph_def.library.function:
        nodes += function.node_def
    return collections.Counter(node.op for node in nodes)


@pytest.mark.parametrize(
    "comp, count",
    [(in_the_graph, 1), (in_a_function, 1), (of_structures, 2), (of_datasets, 2)],
    ids=["graph", "function", "structures", "datasets"],
)
def test_no_reduction_is_left(comp, count):
    graph_def = _graph(comp)
    before = graph_def.SerializeToString(deterministic=True)
    assert _operations(graph_def)["ReduceDataset"] == count
    assert _operations(with_loops(graph_def))["ReduceDataset"] == 0
    assert graph_def.SerializeToString(deterministic=True) == before


def test_a_graph_without_reductions_is_left_alone():
    @tff.tensorflow.computation(np.int32)
    def double(x):
        return 2 * x

    graph_def = _graph(double)
    assert with_loops(graph_def) is graph_def


def test_functions_with_names_that_are_taken_are_built_again(monkeypatch):
    """A computation that was serialised in another process may have any names."""
    build, built = loops._build_loop, []

    def build_again(node, reducer):
        if len(built) == 1:
            built.append(built[0])
        else:
            built.append(build(node, reducer))
        return built[-1]

    monkeypatch.setattr(loops, "_build_loop", build_again)
    graph_def = with_loops(_graph(of_structures))
    names = [function.signature.name for function in graph_def.library.function]
    assert len(set(names)) == len(names)
    assert len(built) == 3


def test_pieces_have_loops():
    block = in_the_graph.to_building_block()
    piece = Importer().piece(block, "slot")
    variant = tf.data.experimental.to_variant(_integers(2))
    traced = tf.function(lambda x: piece.run([x])).get_concrete_function(variant)
    assert traced(variant)[0].numpy() == 2 * (2 * 7 + 1) + 2
    assert _operations(traced.graph.as_graph_def())["ReduceDataset"] == 0
