import gc

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime.in_process import arrays


def test_an_array_is_the_tensors_memory_and_leads_back_to_it():
    tensor = tf.range(5)
    array = arrays.array_of(tensor)
    np.testing.assert_array_equal(array, [0, 1, 2, 3, 4])
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    assert arrays.tensor_of(array) is tensor


def test_scalars_and_text_are_copies():
    assert arrays.array_of(tf.constant(3)) == 3
    assert arrays.array_of(tf.constant(["a", "bc"])).tolist() == [b"a", b"bc"]


def test_other_arrays_lead_nowhere():
    tensor = tf.range(5)
    array = arrays.array_of(tensor)
    for other in (array.copy(), array[:], array.reshape(5, 1), np.arange(5)):
        assert arrays.tensor_of(other) is None
    assert arrays.tensor_of(3) is None


def test_nothing_is_kept():
    array = arrays.array_of(tf.range(5))
    key = id(array)
    assert key in arrays._tensors
    del array
    gc.collect()
    assert key not in arrays._tensors


def test_an_array_outlives_its_tensor():
    array = arrays.array_of(tf.range(100_000))
    gc.collect()
    others = [tf.zeros([100_000], tf.int32) for _ in range(10)]
    np.testing.assert_array_equal(array, np.arange(100_000))
    assert len(others) == 10


def test_what_a_computation_does_to_its_argument_is_not_seen(in_process):
    """A result handed back as an argument stays what it was."""

    @tff.tensorflow.computation(tff.TensorType(np.float32, [4]))
    def increase(x):
        return x + 1.0

    first = increase(np.zeros(4, np.float32))
    second = increase(first)
    third = increase(first)
    np.testing.assert_array_equal(first, np.ones(4))
    np.testing.assert_array_equal(second, 2 * np.ones(4))
    np.testing.assert_array_equal(third, 2 * np.ones(4))
