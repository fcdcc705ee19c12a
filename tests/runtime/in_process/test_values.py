import collections
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime.in_process import values


class Point(NamedTuple):
    x: Any
    y: Any


NESTED = tff.types.to_type(
    Point(
        np.int32,
        collections.OrderedDict(
            b=tff.TensorType(np.float32, [None, 2]),
            a=(tff.SequenceType(np.int32), ()),
        ),
    )
)


def test_specs_are_in_the_order_of_flatten():
    assert values.specs(NESTED) == [
        tf.TensorSpec([], tf.int32),
        tf.TensorSpec([None, 2], tf.float32),
        tf.TensorSpec([], tf.variant),
    ]
    assert values.specs(tff.FederatedType(NESTED, tff.CLIENTS)) == values.specs(NESTED)
    assert values.specs(tff.types.to_type(((), ((),)))) == []


def test_specs_of_other_types_are_refused():
    with pytest.raises(TypeError, match="found \\(int32 -> int32\\)"):
        values.specs(tff.FunctionType(np.int32, np.int32))


def test_pack_undoes_flatten():
    value = (1, (2, (3, ())))
    flat = values.flatten(value)
    assert flat == [1, 2, 3]
    assert values.pack(flat, NESTED) == value
    with pytest.raises(ValueError, match="1 are left"):
        values.pack([1, 2, 3, 4], NESTED)


def test_elements_of_datasets_and_back():
    element_type = tff.types.to_type(
        collections.OrderedDict(b=np.int32, a=(np.float32, Point((), np.int32)))
    )
    value = (tf.constant(1), (tf.constant(2.0), ((), tf.constant(3))))
    element = values.to_element(value, element_type)
    assert list(element) == ["b", "a"]
    assert isinstance(element["a"][1], Point)
    # A dataset keeps the containers, whatever it does inside.
    (through,) = tf.data.Dataset.from_tensors(element)
    found = values.from_element(through, element_type)
    assert [t.numpy() for t in values.flatten(found)] == [1, 2.0, 3]


def test_a_dataset_of_a_variant():
    original = tf.data.Dataset.range(3)
    variant = tf.data.experimental.to_variant(original)
    found = values.dataset(variant, tff.SequenceType(np.int64))
    assert list(found.as_numpy_iterator()) == [0, 1, 2]
    assert found.element_spec == original.element_spec


def test_results_are_in_the_containers_of_the_type():
    result_type = tff.types.to_type(
        collections.OrderedDict(
            point=Point(np.int32, [np.int32]),
            many=tff.FederatedType((np.int32,), tff.CLIENTS),
            one=tff.FederatedType({"z": np.int32}, tff.CLIENTS, all_equal=True),
            empty=(),
        )
    )
    one, two = tf.constant(1), tf.constant(2)
    convert = values.converter(result_type)
    found = convert(((one, (two,)), [(one,), (two,)], (two,), ()))
    assert found == collections.OrderedDict(
        point=Point(1, [2]), many=[(1,), (2,)], one={"z": 2}, empty=()
    )
    assert isinstance(found["point"], Point)
    assert isinstance(found["many"][0], tuple)
    assert type(found["one"]) is dict
    assert found["point"].x.dtype == np.int32


def test_results_cannot_be_written_to():
    """They are the tensor's own memory."""
    tensor = tf.zeros([3])
    found = values.converter(tff.TensorType(np.float32, [3]))(tensor)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 5.0
    np.testing.assert_array_equal(found, [0.0, 0.0, 0.0])


class TestPartial:
    def test_parts_are_put_and_found_by_their_path(self):
        partial = values.Partial()
        partial.put((1, 0), "x")
        partial.put((2,), "y")
        assert partial.part(1).part(0) == "x"
        assert partial.part(2) == "y"

    def test_complete_adds_empty_structures(self):
        type_spec = tff.types.to_type((np.int32, ((), ((), np.int32))))
        partial = values.Partial()
        partial.put((0,), 1)
        partial.put((1, 1, 1), 2)
        assert values.complete(partial, type_spec) == (1, ((), ((), 2)))
        assert values.complete((1, 2), type_spec) == (1, 2)  # Is complete already.

    def test_joined_has_the_parts_of_both(self):
        one, other = values.Partial(), values.Partial()
        one.put((0, 0), 1)
        other.put((0, 1), 2)
        other.put((1,), 3)
        type_spec = tff.types.to_type(((np.int32, np.int32), np.int32))
        assert values.complete(one.joined(other), type_spec) == ((1, 2), 3)
        assert one.part(0) == {0: 1}  # Is as it was.
