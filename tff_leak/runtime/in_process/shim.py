"""The insides of TensorFlow and TFF that this package stands on, in one place.

Everything else in the package uses public names only. The insides change from release
to release, so the versions are checked when this module is imported.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow.core.protobuf import (
    config_pb2,
    rewriter_config_pb2,
    saved_object_graph_pb2,
)
from tensorflow.python.eager import context as eager_context
from tensorflow.python.saved_model import (
    function_deserialization,
    nested_structure_coder,
)
from tensorflow_federated.proto.v0 import computation_pb2
from tensorflow_federated.python.common_libs import structure
from tensorflow_federated.python.core.impl.executors import cardinalities_utils
from tensorflow_federated.python.core.impl.types import type_conversions

_VERSIONS = (("tensorflow", tf, "2.14."), ("tensorflow-federated", tff, "0.87."))


def check_versions(modules: Sequence[tuple[str, Any, str]] = _VERSIONS) -> None:
    """Raises ImportError unless each module has a version that was tried."""
    for name, module, expected in modules:
        found = str(module.__version__)
        if not found.startswith(expected):
            raise ImportError(
                f"{name} is {found}: the in-process runtime was made for {expected}*; "
                "install the versions of requirements.lock"
            )


check_versions()

Struct = structure.Struct
elements = structure.to_elements
from_container = structure.from_container
Binding = computation_pb2.TensorFlow.Binding

# Raises if the lists of client values in an argument differ in length.
infer_cardinalities = cardinalities_utils.infer_cardinalities
# `Struct`s to the Python containers that a type was annotated with.
to_python = type_conversions.type_to_py_container
# The element structure of a dataset of this type.
to_tf_structure = type_conversions.type_to_tf_structure


@contextlib.contextmanager
def without_memory_optimizer() -> Iterator[None]:
    """Keeps Grappler's memory optimizer from functions that this thread calls.

    In a graph of more than 205 MB it adds tensors up in a temporary variable whose name
    all calls of the function share: two threads in it at once, such as two arms of a
    run, end in `AlreadyExistsError` (https://github.com/tensorflow/tensorflow/issues/
    23780). What else that optimizer does (swapping on a GPU) goes with it.
    """
    active = eager_context.context()
    before = active.function_call_options
    # New each time: TensorFlow may change the options that are in force.
    active.function_call_options = eager_context.FunctionCallOptions(
        before.executor_type, _unoptimised(before.config_proto_serialized)
    )
    try:
        yield
    finally:
        active.function_call_options = before


@functools.cache
def _unoptimised(config: bytes) -> config_pb2.ConfigProto:
    proto = config_pb2.ConfigProto.FromString(config)
    rewriting = proto.graph_options.rewrite_options
    rewriting.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    return proto


def proto_of(block: Any) -> computation_pb2.Computation:
    """Returns a building block's serialised form."""
    return block.proto


def graph_def_of(proto: computation_pb2.Computation) -> tf.compat.v1.GraphDef:
    """Returns the graph in a serialised TensorFlow computation."""
    graph_def = tf.compat.v1.GraphDef()
    if not proto.tensorflow.graph_def.Unpack(graph_def):
        raise ValueError("Expected a packed GraphDef in a TensorFlow computation.")
    return graph_def


def import_graph(graph_def: tf.compat.v1.GraphDef, suffix: str) -> Any:
    """Imports a graph whose functions and resources share no name with another's.

    Functions are global in eager mode, and resources by their names. The loader of
    saved models knows how to rename both, and makes functions of the kind that
    `tf.vectorized_map` can look into.

    Args:
      graph_def: is changed.
      suffix: for the names of resources.

    Returns:
      The graph as a `WrappedFunction`, to be pruned.
    """
    functions = function_deserialization.load_function_def_library(
        graph_def.library, _signatures(graph_def.library), suffix
    )
    for node in graph_def.node:
        function_deserialization.fix_node_def(node, functions, suffix)
    graph_def.library.Clear()

    def build():
        graph = tf.compat.v1.get_default_graph()
        for function in functions.values():
            function.add_to_graph(graph)
        tf.graph_util.import_graph_def(graph_def, name="")

    return tf.compat.v1.wrap_function(build, [])


def _signatures(library: Any) -> saved_object_graph_pb2.SavedObjectGraph:
    """Says what functions take and return, as a saved model would.

    Without it the loader takes them for functions without inputs and outputs.
    """

    def specs(arguments):
        return tuple(
            tf.TensorSpec(None, tf.dtypes.as_dtype(argument.type))
            for argument in arguments
        )

    encode = nested_structure_coder.encode_structure
    signatures = saved_object_graph_pb2.SavedObjectGraph()
    for function in library.function:
        signature = function.signature
        entry = signatures.concrete_functions[signature.name]
        inputs = encode((specs(signature.input_arg), {}))
        entry.canonicalized_input_signature.CopyFrom(inputs)
        entry.output_signature.CopyFrom(encode(specs(signature.output_arg)))
    return signatures


def is_reshuffled(dataset: tf.data.Dataset) -> bool:
    """Whether a dataset has another order each time that it is read."""
    if getattr(dataset, "_reshuffle_each_iteration", False):
        return True
    return any(is_reshuffled(source) for source in dataset._inputs())


def call_flat(function: Any, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Calls a `ConcreteFunction` on tensors; for eager use only.

    The public call binds arguments to a signature and looks for tapes, which takes
    longer than a small piece itself.
    """
    inner = function._inference_function
    outputs = inner(*tensors, *function.captured_inputs)
    return [] if outputs is None else outputs  # None of a function without any.


def array_of(tensor: tf.Tensor) -> Any:
    """Returns an eager tensor's content as NumPy, without a copy where possible."""
    return tensor._numpy()
