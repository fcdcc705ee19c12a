"""How values of TFF types are held while a computation runs.

A tensor is a `tf.Tensor`; a sequence is the variant tensor of its dataset; a structure
is a tuple of its elements' values, names left to the type. A value of any of these
types is thus a list of tensors in a fixed order, and can be passed to a function.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime.in_process import arrays, shim

Value = Any  # tf.Tensor or a tuple of values


def specs(type_spec: tff.Type) -> list[tf.TensorSpec]:
    """Returns the specs of a value's tensors, in the order of `flatten`."""
    if isinstance(type_spec, tff.TensorType):
        return [tf.TensorSpec(type_spec.shape, tensor_dtype(type_spec))]
    if isinstance(type_spec, tff.SequenceType):
        return [tf.TensorSpec([], tf.variant)]
    if isinstance(type_spec, tff.FederatedType):
        return specs(type_spec.member)
    if isinstance(type_spec, tff.StructType):
        return [s for _, entry in shim.elements(type_spec) for s in specs(entry)]
    raise TypeError(
        f"Expected a type of tensors, sequences and structures, found {type_spec}."
    )


def tensor_dtype(type_spec: tff.TensorType) -> tf.DType:
    """Returns TensorFlow's dtype of a tensor type."""
    return tf.dtypes.as_dtype(type_spec.dtype)


def flatten(value: Value) -> list[tf.Tensor]:
    """Returns a value's tensors, from the first to the last."""
    if isinstance(value, tuple):
        return [tensor for entry in value for tensor in flatten(entry)]
    return [value]


def pack(tensors: list[tf.Tensor], type_spec: tff.Type) -> Value:
    """Undoes `flatten`."""
    value, rest = _take(tensors, type_spec)
    if rest:
        raise ValueError(f"Expected the tensors of {type_spec}, {len(rest)} are left.")
    return value


def _take(tensors, type_spec):
    if isinstance(type_spec, tff.FederatedType):
        return _take(tensors, type_spec.member)
    if not isinstance(type_spec, tff.StructType):
        return tensors[0], tensors[1:]
    entries = []
    for _, entry_type in shim.elements(type_spec):
        entry, tensors = _take(tensors, entry_type)
        entries.append(entry)
    return tuple(entries), tensors


class Partial(dict):
    """A structure of which only some parts are there, by their index."""

    def put(self, path: Sequence[int], value: Value) -> None:
        """Sets the part at the end of a path of at least one step."""
        *before, last = path
        inner = self
        for step in before:
            inner = inner.setdefault(step, Partial())
        inner[last] = value

    def part(self, index: int) -> Any:
        """Returns a part; an empty structure has none and is there nevertheless."""
        return self.get(index, Partial())

    def joined(self, other: "Partial") -> "Partial":
        """Returns the parts of both."""
        result = Partial(self)
        for index, part in other.items():
            mine = self.get(index)
            both = isinstance(mine, Partial) and isinstance(part, Partial)
            result[index] = mine.joined(part) if both else part
        return result


def complete(value: Any, type_spec: tff.Type) -> Value:
    """Returns a `Partial` that has all parts of its type as a value."""
    if not isinstance(value, Partial):
        return value
    return tuple(
        complete(value.part(index), entry)
        for index, (_, entry) in enumerate(shim.elements(type_spec))
    )


def dataset(variant: tf.Tensor, type_spec: tff.SequenceType) -> tf.data.Dataset:
    """Returns a sequence's value as a dataset."""
    return tf.data.experimental.from_variant(
        variant, shim.to_tf_structure(type_spec.element)
    )


def from_element(element: Any, type_spec: tff.Type) -> Value:
    """Returns a dataset's element as a value."""
    if not isinstance(type_spec, tff.StructType):
        return element
    entries = shim.elements(shim.from_container(element))
    return tuple(
        from_element(entry, entry_type)
        for (_, entry), (_, entry_type) in zip(
            entries, shim.elements(type_spec), strict=True
        )
    )


def to_element(value: Value, type_spec: tff.Type) -> Any:
    """Returns a value as a dataset's element, in the containers of its type."""
    return shim.to_python(_struct(value, type_spec), type_spec)


def converter(type_spec: tff.Type) -> Callable[[Any], Any]:
    """Returns a function that makes a result of a value, as TFF hands it to callers.

    Tensors become NumPy arrays (see `arrays.array_of`), sequences datasets, and
    structures the containers that the type was annotated with. Worked out once for a
    type, as TFF's own conversion takes longer than some rounds do.
    """
    if isinstance(type_spec, tff.FederatedType):
        member = converter(type_spec.member)
        if type_spec.all_equal:
            return member
        return lambda entries: [member(entry) for entry in entries]
    if isinstance(type_spec, tff.SequenceType):
        return lambda variant: dataset(variant, type_spec)
    if not isinstance(type_spec, tff.StructType):
        return arrays.array_of
    entries = shim.elements(type_spec)
    converters = [converter(entry) for _, entry in entries]
    names = [name for name, _ in entries]
    build = _builder(type_spec, names)
    return lambda value: build(
        [convert(entry) for convert, entry in zip(converters, value, strict=True)]
    )


def _builder(type_spec: tff.StructType, names: Sequence[str | None]) -> Callable:
    """Makes the container of a structure from a list of its elements."""
    container = type_spec.python_container
    named = all(name is not None for name in names)
    if container in (tuple, list) and not any(names):
        return container
    if container is None and names and not any(names):
        return tuple
    if named and names and container in (None, dict, collections.OrderedDict):
        make = container or collections.OrderedDict
        return lambda entries: make(zip(names, entries, strict=True))
    shallow = _shallow(type_spec, names)
    # NamedTuples, attrs classes and the like: TFF knows how.
    return lambda entries: shim.to_python(
        shim.Struct(zip(names, entries, strict=True)), shallow
    )


def _shallow(type_spec: tff.StructType, names: Sequence[str | None]) -> tff.Type:
    """The type with its elements' own structure hidden: they are converted already."""
    leaf = tff.TensorType(np.float32)
    entries = [leaf if name is None else (name, leaf) for name in names]
    if type_spec.python_container is None:
        return tff.StructType(entries)
    return tff.StructWithPythonType(entries, type_spec.python_container)


def _struct(value: Value, type_spec: tff.Type) -> Any:
    if not isinstance(type_spec, tff.StructType):
        return value
    return shim.Struct(
        (name, _struct(entry, entry_type))
        for (name, entry_type), entry in zip(
            shim.elements(type_spec), value, strict=True
        )
    )


def call_concrete(function: Any, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Calls a `ConcreteFunction` on the tensors of its arguments."""
    if tf.executing_eagerly():
        return shim.call_flat(function, tensors)
    outputs = function(*tensors)
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]
