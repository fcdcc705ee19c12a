import collections
import gc
from typing import Any, NamedTuple

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime.in_process import data, values
from tff_leak.runtime.in_process.data import Ingestion


class Point(NamedTuple):
    x: Any
    y: Any


@attrs.define
class Pair:
    first: Any
    second: Any


SEQUENCE = tff.SequenceType(np.int32)


def _ingest(argument, type_spec):
    return Ingestion()(argument, tff.types.to_type(type_spec))


def _numbers(value):
    return [tensor.numpy().tolist() for tensor in values.flatten(value)]


def _elements(variant, type_spec=SEQUENCE):
    return [
        tf.nest.map_structure(lambda t: t.numpy().tolist(), element)
        for element in values.dataset(variant, tff.types.to_type(type_spec))
    ]


def test_options_of_client_datasets():
    options = data.dataset_options()
    assert options.experimental_optimization.apply_default_optimizations is False
    assert options.autotune.enabled is False


class TestTensors:
    @pytest.mark.parametrize(
        "argument, type_spec, expected",
        [
            (3, np.int32, 3),
            ([-(2**31)], tff.TensorType(np.int32, [1]), [-(2**31)]),
            (2**31 - 1, np.int32, 2**31 - 1),
            (3, np.float32, 3.0),
            (True, np.bool_, True),
            (np.float64(2.5), np.float64, 2.5),
            ("text", np.str_, b"text"),
            (np.array(["a", "b"]), tff.TensorType(np.str_, [2]), [b"a", b"b"]),
            (b"\x00\xff", np.str_, b"\x00\xff"),
            ([[1, 2]], tff.TensorType(np.int32, [None, 2]), [[1, 2]]),
            (np.zeros([0, 2], np.int32), tff.TensorType(np.int32, [None, 2]), []),
            (tf.Variable(4), np.int32, 4),
        ],
    )
    def test_of_the_type(self, argument, type_spec, expected):
        type_spec = tff.types.to_type(type_spec)
        found = _ingest(argument, type_spec)
        assert found.dtype == values.tensor_dtype(type_spec)
        assert np.asarray(found).tolist() == expected

    @pytest.mark.parametrize(
        "argument, type_spec, message",
        [
            (1.5, np.int32, "Expected a value for int32, found float"),
            ("text", np.int32, "Expected a value for int32, found str"),
            (2**40, np.int32, "Expected a value for int32, found int"),
            (2**80, np.int64, "Expected a value for int64, found int"),
            (-1, np.uint8, "Expected a value for uint8, found int"),
            ([1, 2**31], tff.TensorType(np.int32, [2]), "found list"),
            (True, np.int32, "Expected a value for int32, found bool"),
            (None, np.int32, "Expected a value for int32, found NoneType"),
            (np.int64(1), np.int32, "Expected a tensor of dtype int32, found int64"),
            (tf.constant(1.0), np.int32, "of dtype int32, found float32"),
            (np.zeros(3), tff.TensorType(np.float64, [2]), r"shape \(2,\), found"),
            ([1, 2], np.int32, r"Expected a tensor of shape \(\), found \(2,\)"),
        ],
    )
    def test_of_another_type(self, argument, type_spec, message):
        with pytest.raises(TypeError, match=message):
            _ingest(argument, type_spec)


class TestStructures:
    @pytest.mark.parametrize(
        "argument",
        [
            collections.OrderedDict(x=1, y=(2, 3)),
            collections.OrderedDict(y=(2, 3), x=1),
            {"y": [2, 3], "x": 1},
            Point(1, (2, 3)),
            Point(y=(2, 3), x=1),
            (1, (2, 3)),  # Without names, elements are taken in their order.
        ],
        ids=str,
    )
    def test_elements_are_found_by_their_names(self, argument):
        found = _ingest(argument, Point(np.int32, (np.int32, np.int32)))
        assert _numbers(found) == [1, 2, 3]

    def test_attrs_and_tffs_own(self):
        pair = Pair(np.int32, np.int32)
        assert _numbers(_ingest(Pair(1, 2), pair)) == [1, 2]
        assert _ingest((), ()) == ()

    @pytest.mark.parametrize(
        "argument",
        [
            {"x": 1},
            {"x": 1, "y": 2, "z": 3},
            {"x": 1, "z": 2},
            (1,),
            (1, 2, 3),
            (),
        ],
        ids=str,
    )
    def test_other_elements_are_refused(self, argument):
        with pytest.raises(TypeError, match="Expected a structure of type <x=int32,y="):
            _ingest(argument, Point(np.int32, np.int32))

    def test_names_where_none_are_expected(self):
        with pytest.raises(TypeError, match=r"found elements \['x', 'y'\]"):
            _ingest(Point(1, 2), (np.int32, np.int32))


class TestFederated:
    def test_lists_of_clients_and_equal_values(self):
        own = tff.FederatedType((np.int32,), tff.CLIENTS)
        found = _ingest([(1,), (2,)], own)
        assert [_numbers(value) for value in found] == [[1], [2]]
        assert _ingest([], own) == []
        equal = tff.FederatedType(np.int32, tff.CLIENTS, all_equal=True)
        assert _numbers(_ingest(3, equal)) == [3]
        assert _numbers(_ingest(4, tff.FederatedType(np.int32, tff.SERVER))) == [4]


class TestSequences:
    def test_lists(self):
        assert _elements(_ingest([1, 2, 3], SEQUENCE)) == [1, 2, 3]
        pairs = tff.SequenceType((np.int32, np.float32))
        assert _elements(_ingest([(1, 2.0)], pairs), pairs) == [(1, 2.0)]

    def test_elements_of_a_list_may_differ_in_shape(self):
        ragged = tff.SequenceType(tff.TensorType(np.int32, [None]))
        found = _ingest([[1], [], [2, 3]], ragged)
        assert _elements(found, ragged) == [[1], [], [2, 3]]

    @pytest.mark.parametrize(
        "element",
        [np.int32, np.str_, (np.int32, tff.TensorType(np.float32, [None, 3]))],
        ids=str,
    )
    def test_an_empty_list(self, element):
        type_spec = tff.SequenceType(tff.types.to_type(element))
        variant = _ingest([], type_spec)
        gc.collect()  # Nothing of what it was made of is needed any more.
        assert _elements(variant, type_spec) == []

    def test_batches_of_any_size(self):
        batches = tff.SequenceType(tff.TensorType(np.int32, [None]))
        dataset = tf.data.Dataset.range(3).map(lambda x: tf.cast(x, tf.int32)).batch(2)
        assert _elements(_ingest(dataset, batches), batches) == [[0, 1], [2]]

    def test_other_elements_are_refused(self):
        dataset = tf.data.Dataset.range(3)
        message = "elements of type int32, found int64"
        ingest = Ingestion()
        for _ in range(2):  # Also when it was seen before.
            with pytest.raises(TypeError, match=message):
                ingest(dataset, SEQUENCE)
        ingest(dataset, tff.SequenceType(np.int64))
        with pytest.raises(TypeError, match=message):
            ingest(dataset, SEQUENCE)

    def test_anything_else_is_refused(self):
        with pytest.raises(TypeError, match="Expected a tf.data.Dataset .* found int"):
            _ingest(3, SEQUENCE)

    @pytest.mark.parametrize("seed", [3, None])
    def test_shuffling_begins_anew_with_a_seed(self, seed):
        # One that another test has set would do as a seed.
        tf.random.set_seed(None)
        ingest = Ingestion()
        dataset = tf.data.Dataset.from_tensor_slices(list(range(100)))
        dataset = dataset.shuffle(100, seed=seed).map(lambda x: x + 1).prefetch(1)
        first, second = (_elements(ingest(dataset, SEQUENCE)) for _ in range(2))
        assert sorted(first) == sorted(second) == list(range(1, 101))
        assert (first == second) == (seed is not None)

    def test_a_shuffled_generator(self):
        dataset = tf.data.Dataset.from_generator(
            lambda: iter([4, 5, 6]), output_signature=tf.TensorSpec([], tf.int32)
        )
        found = _elements(_ingest(dataset.shuffle(3), SEQUENCE))
        assert sorted(found) == [4, 5, 6]

    def test_a_dataset_is_taken_in_once_and_not_kept(self):
        ingest = Ingestion()
        dataset = tf.data.Dataset.from_tensors(1)
        first = ingest(dataset, SEQUENCE)
        assert ingest(dataset, SEQUENCE) is first
        assert ingest(tf.data.Dataset.from_tensors(1), SEQUENCE) is not first
        assert len(ingest._variants) <= 2
        del dataset, first
        gc.collect()
        assert len(ingest._variants) == 0
