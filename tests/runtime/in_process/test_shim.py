import types

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime.in_process import shim


def test_the_installed_versions_are_accepted():
    shim.check_versions()
    found = types.SimpleNamespace(__version__="2.14.7")
    shim.check_versions([("tensorflow", found, "2.14.")])


@pytest.mark.parametrize("version", ["2.13.1", "2.140.0", "3.2.14.0"])
def test_other_versions_are_refused_with_a_remedy(version):
    module = types.SimpleNamespace(__version__=version)
    message = (
        rf"tensorflow is {version}: the in-process runtime was made for 2\.14\.\*; "
        "install the versions of requirements.lock"
    )
    with pytest.raises(ImportError, match=message):
        shim.check_versions([("tensorflow", module, "2.14.")])


def test_a_function_is_called_with_what_it_captures():
    captured = tf.constant([1.0, 2.0])

    @tf.function(input_signature=[tf.TensorSpec([2])])
    def function(x):
        return x + captured, x * captured

    outputs = shim.call_flat(function.get_concrete_function(), [tf.constant([3.0, 4])])
    np.testing.assert_array_equal(outputs, [[4, 6], [3, 8]])


def test_a_function_without_results_has_an_empty_list_of_them():
    @tf.function(input_signature=[tf.TensorSpec([])])
    def nothing(_):
        return []

    assert shim.call_flat(nothing.get_concrete_function(), [tf.constant(1.0)]) == []


def test_the_graph_of_a_piece():
    @tff.tensorflow.computation(np.float32)
    def sine(x):
        return tf.sin(x)

    graph = shim.graph_def_of(shim.proto_of(sine.to_building_block()))
    assert "Sin" in [node.op for node in graph.node]
