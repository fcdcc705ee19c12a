"""Replaces `ReduceDataset` operations by loops over an iterator.

TFF's client work reduces a dataset. TensorFlow's operation for it instantiates the
reducing function in each of its runs, that is for each client, and in eager mode has
Grappler optimise it each time: four fifths of the time of a short client. A loop that
is part of the graph around it is optimised once, when the graph is.
"""

import itertools
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

_OPERATION = "ReduceDataset"


def with_loops(graph_def: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """Returns the graph with loops in place of `ReduceDataset`, here and in functions.

    Args:
      graph_def: is not changed; without such an operation, it is the result.
    """
    owners = [graph_def.node, *(f.node_def for f in graph_def.library.function)]
    if not any(node.op == _OPERATION for nodes in owners for node in nodes):
        return graph_def
    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph_def)
    added: dict[str, Any] = {}
    for node in result.node:
        if node.op == _OPERATION:
            _replace(node, result.library, added)
    for function in result.library.function:
        names = set()
        for node in function.node_def:
            if node.op == _OPERATION:
                _replace(node, result.library, added)
                names.add(node.name)
        _rename_outputs(function, names)
    result.library.function.extend(added.values())
    return result


def _replace(node: Any, library: Any, added: dict[str, Any]) -> None:
    """Makes a node a call of a loop, whose functions it adds."""
    (reducer,) = [
        f for f in library.function if f.signature.name == node.attr["f"].func.name
    ]
    taken = {f.signature.name for f in library.function} | set(added)
    while True:
        loop = _build_loop(node, reducer)
        made = {f.signature.name: f for f in _function_defs(loop)}
        if not taken & set(made):  # Names have numbers, of this process or another.
            break
    added.update(made)
    arguments = loop.function_def.signature.input_arg
    outputs = loop.function_def.signature.output_arg
    call = tf.compat.v1.NodeDef(
        name=node.name,
        op="StatefulPartitionedCall",
        input=node.input,
        device=node.device,
    )
    call.attr["f"].func.name = loop.function_def.signature.name
    call.attr["Tin"].list.type.extend(argument.type for argument in arguments)
    call.attr["Tout"].list.type.extend(output.type for output in outputs)
    for name in ("config", "config_proto", "executor_type"):
        call.attr[name].s = b""
    node.CopyFrom(call)


def _build_loop(node: Any, reducer: Any) -> Any:
    """Returns the function (dataset, *state, *others) to the last state."""
    types = [tf.dtypes.as_dtype(a.type) for a in reducer.signature.input_arg]
    shapes = [tf.TensorShape(shape) for shape in node.attr["output_shapes"].list.shape]
    width, others = len(shapes), len(node.attr["Targuments"].list.type)
    states = [tf.TensorSpec(s, t) for s, t in zip(shapes, types, strict=False)]
    elements = tuple(
        tf.TensorSpec(None, dtype) for dtype in types[width : len(types) - others]
    )
    captured = [tf.TensorSpec(None, dtype) for dtype in types[len(types) - others :]]

    def loop(dataset, *arguments):
        iterator = iter(tf.data.experimental.from_variant(dataset, elements))
        constant = arguments[width:]

        def step(optional, *state):
            new = tf.raw_ops.StatefulPartitionedCall(
                args=[*state, *optional.get_value(), *constant],
                Tout=types[:width],
                f=reducer.signature.name,
            )
            for tensor, shape in zip(new, shapes, strict=True):
                tensor.set_shape(shape)
            return (iterator.get_next_as_optional(), *new)

        _, *state = tf.while_loop(
            lambda optional, *_: optional.has_value(),
            step,
            (iterator.get_next_as_optional(), *arguments[:width]),
            shape_invariants=(None, *shapes),
            parallel_iterations=1,
        )
        return state

    function = tf.function(
        loop,
        input_signature=[tf.TensorSpec([], tf.variant), *states, *captured],
        autograph=False,
    )
    with tf.Graph().as_default():
        return function.get_concrete_function()


def _function_defs(concrete: Any) -> Iterable[Any]:
    return itertools.chain(
        [concrete.function_def], concrete.graph.as_graph_def().library.function
    )


def _rename_outputs(function: Any, names: set[str]) -> None:
    """In a function, outputs go by their names; those of a call are `output`."""

    def renamed(source: str) -> str:
        name, _, rest = source.partition(":")
        return source.replace(":components", ":output", 1) if name in names else source

    for node in function.node_def:
        node.input[:] = [renamed(source) for source in node.input]
    for key, source in function.ret.items():
        function.ret[key] = renamed(source)
