"""States as bytes, exactly: containers, types and all bits of the numbers.

The format is an .npz archive of the arrays in a state, with a description of its
structure in JSON beside them. Nothing in it is code, as a pickle would be: a run
directory from somebody else can be opened safely.
"""

import collections
import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from tff_leak.runtime.atomic import npz_bytes

_STRUCTURE = "structure"


def to_numpy(state: Any) -> Any:
    """The state with tensors and variables as numpy, arrays in C order.

    A state passes through here after every round, so that an arm meets the same
    types and memory layout whether or not the run was resumed.
    """
    leaves: list[np.ndarray] = []
    return _build(_describe(state, leaves), leaves, state)


def pack(state: Any) -> bytes:
    """The state as bytes; equal states give equal bytes.

    Args:
      state: nested dict (keys all str or all int), OrderedDict, list, tuple, and
        objects of named tuple, attrs or dataclass type; leaves are numpy arrays and
        scalars, eager tensors and variables, bool, int, float, str, bytes and None.

    Raises:
      TypeError: if something else is in it.
    """
    leaves: list[np.ndarray] = []
    structure = json.dumps(_describe(state, leaves)).encode()
    arrays = {str(i): leaf for i, leaf in enumerate(leaves)}
    arrays[_STRUCTURE] = np.frombuffer(structure, np.uint8)
    return npz_bytes(arrays)


def unpack(packed: bytes, template: Any = None) -> Any:
    """The state that was packed.

    Args:
      packed: what `pack` returned.
      template: needed only for objects, whose types it gives: a state with objects
        of the same types in the same places. Lists in it may be shorter, unless
        objects are in them.

    Raises:
      NeedsTemplateError: if an object has no counterpart in `template`.
      DamagedError: if the bytes are not a packed state.
    """
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as file:
            structure = json.loads(file[_STRUCTURE].tobytes())
            leaves = [file[str(i)] for i in range(len(file.files) - 1)]
    except MemoryError:
        raise  # Says nothing of the bytes.
    except Exception as error:
        # A changed byte may surface in zip, JSON, NumPy or below, as anything.
        raise DamagedError(f"Expected a packed state: {error}") from error
    try:
        return _build(structure, leaves, template)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, NeedsTemplateError) or template is not None:
            raise  # With a template it may be the program that has changed.
        raise DamagedError(f"Expected a packed state: {error}") from error


class DamagedError(ValueError):
    """Bytes that are not a packed state, or not all of one."""


class NeedsTemplateError(TypeError):
    """A packed object's type must be taken from a template, which lacks it."""


def _fields(node: Any) -> dict[str, Any] | None:
    """Constructor arguments of a named tuple, attrs or dataclass object, or None."""
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return node._asdict()
    if attrs.has(type(node)):
        return {
            field.alias: getattr(node, field.name)
            for field in attrs.fields(type(node))
            if field.init
        }
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {
            field.name: getattr(node, field.name)
            for field in dataclasses.fields(node)
            if field.init
        }
    return None


def _describe(node: Any, leaves: list[np.ndarray]) -> list[Any]:
    """`[kind, content]` in JSON's types; arrays are appended to `leaves`."""
    fields = _fields(node)
    if fields is not None:
        items = [[k, _describe(v, leaves)] for k, v in fields.items()]
        return ["object", [type(node).__qualname__, items]]
    if type(node) in (dict, collections.OrderedDict):
        if {type(key) for key in node} not in ({str}, {int}, set()):
            raise TypeError(
                f"Expected keys all of type str or all int, found {list(node)}."
            )
        items = [[k, _describe(v, leaves)] for k, v in node.items()]
        return ["dict" if type(node) is dict else "ordered_dict", items]
    if type(node) in (list, tuple):
        kind = "list" if type(node) is list else "tuple"
        return [kind, [_describe(value, leaves) for value in node]]
    if node is None or type(node) in (bool, int, float, str):
        return ["value", node]
    if type(node) is bytes:  # TensorFlow's strings, such as names of DP events.
        return ["bytes", node.hex()]
    if hasattr(node, "numpy"):  # An eager tensor or a variable.
        node = node.numpy()
    if isinstance(node, np.ndarray | np.generic) and not node.dtype.hasobject:
        leaves.append(np.asarray(node, order="C"))
        kind = "scalar" if isinstance(node, np.generic) else "array"
        return [kind, len(leaves) - 1]
    raise TypeError(f"A state cannot hold a value of type {type(node).__name__}.")


def _build(structure: list[Any], leaves: list[np.ndarray], template: Any) -> Any:
    kind, content = structure
    if kind == "object":
        name, items = content
        fields = _fields(template)
        if fields is None or type(template).__qualname__ != name:
            raise NeedsTemplateError(f"Expected a template for an object of {name}.")
        return type(template)(**{k: _build(v, leaves, fields.get(k)) for k, v in items})
    if kind in ("dict", "ordered_dict"):
        parts = template if isinstance(template, Mapping) else {}
        items = ((k, _build(v, leaves, parts.get(k))) for k, v in content)
        return dict(items) if kind == "dict" else collections.OrderedDict(items)
    if kind in ("list", "tuple"):
        parts = list(template) if isinstance(template, list | tuple) else []
        parts += [None] * (len(content) - len(parts))
        values = [
            _build(v, leaves, part) for v, part in zip(content, parts, strict=False)
        ]
        return values if kind == "list" else tuple(values)
    if kind == "value":
        return content
    if kind == "bytes":
        return bytes.fromhex(content)
    leaf = leaves[content]
    return leaf[()] if kind == "scalar" else leaf
