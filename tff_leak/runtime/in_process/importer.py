"""Makes a callable of each piece of TensorFlow in a computation.

A piece is a serialised graph with named inputs and outputs. It is imported once per
slot that needs one of its own: a piece with variables keeps them under global names, so
that two threads cannot share it; a piece without them needs one import for all.
"""

import dataclasses
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime import gathering
from tff_leak.runtime.in_process import shim, values
from tff_leak.runtime.in_process.loops import with_loops

_serial = itertools.count()


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """An imported piece of TensorFlow.

    Attributes:
      run: tensors of the argument to tensors of the result.
      stateful: whether it has variables or tables: it is then for one thread only.
    """

    run: Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]
    stateful: bool


class Importer:
    """Imports pieces and keeps them; safe to use from several threads."""

    def __init__(self):
        self._lock = threading.RLock()
        # The block is kept beside the piece, so that its id stays its own.
        self._pieces: dict[tuple[int, Any], tuple[Any, Piece]] = {}

    def piece(self, block: tff.framework.CompiledComputation, slot: Any) -> Piece:
        """Returns a piece for a slot.

        Args:
          block: of a computation that is kept as long as this importer.
          slot: a name for the thread that runs it; slots share pieces without state.
        """
        with self._lock:
            shared = self._pieces.get((id(block), None))
            if shared is not None and not shared[1].stateful:
                return shared[1]
            known = self._pieces.get((id(block), slot))
            if known is None:
                known = (block, _import(block))
                self._pieces[id(block), slot] = known
                if not known[1].stateful:
                    self._pieces[id(block), None] = known
            return known[1]


def is_stateful(block: tff.framework.CompiledComputation) -> bool:
    """Whether a piece has variables or tables that must be initialised."""
    return bool(shim.proto_of(block).tensorflow.initialize_op)


def is_gathering(block: tff.framework.CompiledComputation) -> bool:
    """Whether a piece has the mark of `runtime.gathering`."""
    proto = shim.proto_of(block)
    if proto.WhichOneof("computation") != "tensorflow":
        return False
    return any(node.name == gathering.MARK for node in shim.graph_def_of(proto).node)


def _import(block: tff.framework.CompiledComputation) -> Piece:
    proto = shim.proto_of(block)
    kind = proto.WhichOneof("computation")
    if kind != "tensorflow":
        raise NotImplementedError(
            f"The in-process runtime runs TensorFlow, found a piece of kind {kind!r}; "
            "use the native runtime for it."
        )
    graph_def = with_loops(shim.graph_def_of(proto))
    tensorflow = proto.tensorflow
    feeds = _names(tensorflow.parameter)
    fetches = _names(tensorflow.result)
    # One output each: a result may use a tensor twice, a function's outputs may not.
    unique = list(dict.fromkeys(fetches))
    token = tensorflow.session_token_tensor_name
    if token and not _consumed(graph_def, token):
        token = ""
    wrapped = shim.import_graph(graph_def, f"_piece{next(_serial)}")
    tokens = [token] if token else []
    inputs, outputs = _tensors(wrapped, feeds + tokens), _tensors(wrapped, unique)
    initialise = None
    if tensorflow.initialize_op:
        # As control outputs, or TensorFlow, which inlines functions, would let the
        # next run's initialisation overtake this run.
        outputs += dict.fromkeys(t.op for t in outputs if t.op.type != "Placeholder")
        operation = wrapped.graph.get_operation_by_name(tensorflow.initialize_op)
        initialise = wrapped.prune(_tensors(wrapped, tokens), operation)
    main = wrapped.prune(inputs, outputs)
    return _as_piece(main, initialise, [unique.index(f) for f in fetches], bool(token))


def _as_piece(main, initialise, order: list[int], token: bool) -> Piece:
    def run(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        # All calls of one run share a token. In a traced function it is a constant.
        tokens = [tf.constant(f"run{next(_serial)}")] if token else []
        if initialise is not None:
            # A call of its own: within one function nothing would order the two.
            values.call_concrete(initialise, tokens)
        outputs = values.call_concrete(main, [*tensors, *tokens])
        return [outputs[index] for index in order]

    return Piece(run, initialise is not None)


def _tensors(wrapped: Any, names: Sequence[str]) -> list[tf.Tensor]:
    return [wrapped.graph.get_tensor_by_name(name) for name in names]


def _names(binding: shim.Binding) -> list[str]:
    """The names of a binding's tensors, in the order of the type's."""
    kind = binding.WhichOneof("binding")
    if kind is None:
        return []
    if kind == "tensor":
        return [binding.tensor.tensor_name]
    if kind == "sequence":
        return [binding.sequence.variant_tensor_name]
    return [name for element in binding.struct.element for name in _names(element)]


def _consumed(graph_def: tf.compat.v1.GraphDef, tensor_name: str) -> bool:
    node = tensor_name.split(":")[0]
    return any(
        source.lstrip("^").split(":")[0] == node
        for entry in graph_def.node
        for source in entry.input
    )
