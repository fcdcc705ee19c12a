"""What the building blocks of TFF mean, on values of one placement.

After TFF's own transformations a computation is in call-dominant form: a block of calls
to pieces of TensorFlow and to a few intrinsics, and a result that selects from them.
Seen from one client, or from the server, most intrinsics do nothing: a broadcast value
is the value, a zipped structure is the structure, and a map is a call. `plan` takes
care of the one that is not local: aggregation.
"""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime.in_process import shim, values
from tff_leak.runtime.in_process.importer import Importer
from tff_leak.runtime.in_process.values import Value

_blocks = tff.framework

# Intrinsics that hand their argument on.
_IDENTITIES = frozenset(
    {
        "federated_broadcast",
        "federated_value_at_clients",
        "federated_value_at_server",
        "federated_zip_at_clients",
        "federated_zip_at_server",
    }
)
_MAPS = frozenset({"federated_apply", "federated_map", "federated_map_all_equal"})
_EVALUATIONS = frozenset({"federated_eval_at_clients", "federated_eval_at_server"})
AGGREGATE = "federated_aggregate"
SELECT = "federated_select"
SEQUENCES = frozenset({"sequence_map", "sequence_reduce"})
_SEQUENCE_SUM = "sequence_sum"
SUPPORTED = (
    _IDENTITIES | _MAPS | _EVALUATIONS | SEQUENCES | {AGGREGATE, SELECT, _SEQUENCE_SUM}
)

Environment = Mapping[str, Any]  # names to values and functions


class Interpreter:
    """Evaluates building blocks; pieces are imported for one slot.

    It works on eager tensors and, in a function that is being traced, on symbolic
    ones alike.
    """

    def __init__(self, importer: Importer, slot: Any):
        self._importer = importer
        self._slot = slot

    def evaluate(self, block: Any, environment: Environment) -> Value:
        """Returns a block's value; of a federated one, that of its member."""
        if isinstance(block, _blocks.Reference | _blocks.Selection):
            part = self._source(block, environment)
            return values.complete(part, block.type_signature)
        if isinstance(block, _blocks.Struct):
            entries = shim.elements(block)
            return tuple(self.evaluate(entry, environment) for _, entry in entries)
        if isinstance(block, _blocks.Call):
            return self._call(block, environment)
        if isinstance(block, _blocks.Block):
            inner = dict(environment)
            for name, local in block.locals:
                inner[name] = self.evaluate(local, inner)
            return self.evaluate(block.result, inner)
        if isinstance(block, _blocks.Literal):
            dtype = values.tensor_dtype(block.type_signature)
            return tf.constant(block.value, dtype)
        raise NotImplementedError(
            f"The in-process runtime cannot evaluate a {type(block).__name__}: {block}"
        )

    def _source(self, block: Any, environment: Environment) -> Any:
        """A value of which not all parts need to be there."""
        if isinstance(block, _blocks.Reference):
            return environment[block.name]
        if not isinstance(block, _blocks.Selection):
            return self.evaluate(block, environment)
        source = self._source(block.source, environment)
        if isinstance(source, values.Partial):
            return source.part(block.as_index())
        return source[block.as_index()]

    def function(self, block: Any, environment: Environment) -> Callable[..., Value]:
        """Returns a functional block as a Python function of values."""
        if isinstance(block, _blocks.CompiledComputation):
            return lambda *argument: self._run_piece(block, *argument)
        if isinstance(block, _blocks.Intrinsic) and block.uri == _SEQUENCE_SUM:
            return lambda sequence: _sum(sequence, block.type_signature.parameter)
        if isinstance(block, _blocks.Lambda):
            name = block.parameter_name

            def apply(*argument):
                inner = dict(environment)
                if name is not None:
                    (inner[name],) = argument
                return self.evaluate(block.result, inner)

            return apply
        raise NotImplementedError(
            f"The in-process runtime cannot call a {type(block).__name__}: {block}"
        )

    def _run_piece(self, block: Any, *argument: Value) -> Value:
        tensors = [tensor for value in argument for tensor in values.flatten(value)]
        results = self._importer.piece(block, self._slot).run(tensors)
        return values.pack(results, block.type_signature.result)

    def _call(self, call: Any, environment: Environment) -> Value:
        if not isinstance(call.function, _blocks.Intrinsic):
            function = self.function(call.function, environment)
            if call.argument is None:
                return function()
            return function(self.evaluate(call.argument, environment))
        uri = call.function.uri
        if uri in _IDENTITIES:
            return self.evaluate(call.argument, environment)
        if uri in _MAPS:
            function, argument = _arguments(call)
            apply = self.function(function, environment)
            return apply(self.evaluate(argument, environment))
        if uri in _EVALUATIONS:
            return self.function(call.argument, environment)()
        if uri == SELECT:
            return self._select(call, environment)
        if uri in SEQUENCES:
            return self._sequence(call, environment)
        if uri == _SEQUENCE_SUM:
            apply = self.function(call.function, environment)
            return apply(self.evaluate(call.argument, environment))
        return _fail(call.function)

    def _select(self, call: Any, environment: Environment) -> Value:
        """One client's slices: `function(server's value, key)` for each of its keys."""
        keys, _, server, function = _arguments(call)
        apply = self.function(function, environment)
        whole = self.evaluate(server, environment)
        element_type = function.type_signature.result

        def slice_of(key):
            return values.to_element(apply((whole, key)), element_type)

        wanted = self.evaluate(keys, environment)
        slices = tf.data.Dataset.from_tensor_slices(wanted).map(slice_of)
        return tf.data.experimental.to_variant(slices)

    def _sequence(self, call: Any, environment: Environment) -> Value:
        arguments = _arguments(call)
        if call.function.uri == "sequence_map":
            function, sequence = arguments
            apply = self.function(function, environment)
            result_type = function.type_signature.result
            mapped = self._dataset(sequence, environment).map(
                lambda *element: values.to_element(
                    apply(_unstarred(element, sequence.type_signature)), result_type
                )
            )
            return tf.data.experimental.to_variant(mapped)
        sequence, zero, function = arguments
        apply = self.function(function, environment)
        zero_type = function.type_signature.result
        start = values.flatten(self.evaluate(zero, environment))

        def step(state, element):
            value = values.pack(list(state), zero_type)
            element = values.from_element(element, sequence.type_signature.element)
            return tuple(values.flatten(apply((value, element))))

        reduced = self._dataset(sequence, environment).reduce(tuple(start), step)
        return values.pack(list(reduced), zero_type)

    def _dataset(self, sequence: Any, environment: Environment) -> tf.data.Dataset:
        variant = self.evaluate(sequence, environment)
        return values.dataset(variant, sequence.type_signature)


def check_supported(block: tff.framework.ComputationBuildingBlock) -> None:
    """Raises NotImplementedError if the computation has an intrinsic not known here."""

    def look(inner):
        if isinstance(inner, _blocks.Intrinsic) and inner.uri not in SUPPORTED:
            _fail(inner)
        return inner, False

    tff.framework.transform_postorder(block, look)


def _sum(sequence: tf.Tensor, sequence_type: tff.SequenceType) -> Value:
    """The sum of a sequence's elements, tensor by tensor."""
    element_type = sequence_type.element
    zeros = [tf.zeros(spec.shape, spec.dtype) for spec in values.specs(element_type)]

    def add(total, element):
        tensors = values.flatten(values.from_element(element, element_type))
        return tuple(map(tf.add, total, tensors))

    total = values.dataset(sequence, sequence_type).reduce(tuple(zeros), add)
    return values.pack(list(total), element_type)


def _unstarred(element: tuple, sequence_type: tff.SequenceType) -> Value:
    """A dataset maps tuples as several arguments, anything else as one."""
    structure = element[0] if len(element) == 1 else element
    if isinstance(sequence_type.element, tff.StructType):
        spec = shim.to_tf_structure(sequence_type.element)
        structure = element if type(spec) is tuple else element[0]
    return values.from_element(structure, sequence_type.element)


def _arguments(call: Any) -> list[Any]:
    """The blocks of an intrinsic's argument, which TFF always makes a structure."""
    argument = call.argument
    if not isinstance(argument, _blocks.Struct):
        raise NotImplementedError(
            f"Expected the arguments of {call.function.uri} in a structure, found "
            f"{argument}."
        )
    return [entry for _, entry in shim.elements(argument)]


def _fail(intrinsic: Any) -> Value:
    raise NotImplementedError(
        f"The in-process runtime has no intrinsic {intrinsic.uri!r}: expected one of "
        f"{', '.join(sorted(SUPPORTED))}; use the native runtime for this computation."
    )
