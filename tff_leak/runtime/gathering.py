"""Every client's value, stacked at the server: what TFF has no intrinsic for.

`federated_gather` is a `federated_aggregate` that any runtime can run: rows are added
to an accumulator one by one, in blocks that are joined now and then. A runtime that
knows it may do the same at once: the in-process one keeps the clients' values as they
come and stacks them at the end, so that a row is copied once.

How a runtime knows it: by `MARK`, the name of a node of no use in the graph of the
computation that accumulates. It is part of the serialised computation, and so outlives
TFF's transformations and is nothing to runtimes that do not look for it. It promises

- that the aggregate is the clients' values, each tensor with a new first axis, in any
  order, the same for all tensors;
- that nothing else depends on the functions of the aggregation.
"""

from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.errors import InputError

MARK = "tff_leak_gathers_rows"

# Rows are gathered in blocks: a full level of blocks moves, joined, to the next one.
# Joining one row at a time would copy all earlier rows for each new one.
_BLOCKS = 8  # blocks in a level
_LEVELS = 2  # before the last, which is one block without a limit


def federated_gather(value: Any) -> Any:
    """Stacks all clients' values; to be called in a `tff.federated_computation`.

    Type signature, for a value of the type V:

        {V}@CLIENTS -> V[?]@SERVER

    Each tensor of V gets a new first axis, along which the clients stand in an order
    that is the runtime's, and the same for all tensors. Without clients it has length
    0.

    Args:
      value: of clients, with at least one tensor, all of static shapes.

    Returns:
      A `tff.Value`.

    Raises:
      InputError: see `gathered_type`.
    """
    value_type = value.type_signature.member
    gathered_type(value_type)
    specs = tff.types.structure_from_tensor_type_tree(
        lambda t: tf.TensorSpec(t.shape, t.dtype), value_type
    )
    packing = _Packing(specs)
    levels_type = tff.types.tensorflow_to_type(packing.levels_spec())

    @tff.tensorflow.computation
    def zero():
        return packing.no_rows()

    @tf.function
    def add(levels, row):
        return packing.push(levels, packing.pack(row))

    @tff.tensorflow.computation(levels_type, value_type)
    def accumulate(levels, row):
        tf.no_op(name=MARK)
        return add(levels, row)

    @tff.tensorflow.computation(levels_type, levels_type)
    def merge(first, second):
        return packing.merge(first, second)

    @tff.tensorflow.computation(levels_type)
    @tf.function
    def report(levels):
        return packing.unpack(packing.join(packing.blocks(levels)))

    return tff.federated_aggregate(value, zero(), accumulate, merge, report)


def gathered_type(value_type: tff.Type) -> tff.Type:
    """Returns the type of what `federated_gather` makes of a client's value.

    Args:
      value_type: of one client's value.

    Raises:
      InputError: if a tensor of the value has no static shape, or there is none.
    """
    found = []

    def stacked(tensor_type):
        found.append(tensor_type)
        shape = tf.TensorShape(tensor_type.shape)
        if not shape.is_fully_defined():
            dtype = tf.dtypes.as_dtype(tensor_type.dtype)
            raise InputError(
                f"a tensor of the value to gather is {dtype.name}{shape}: expected a "
                "static shape, so that rows can be stacked; send tensors of one size"
            )
        return tff.TensorType(tensor_type.dtype, [None, *shape])

    rows = tff.types.structure_from_tensor_type_tree(stacked, value_type)
    if not found:
        raise InputError(
            "the value to gather has no tensor: expected one at least; gather "
            "something that clients have"
        )
    return tff.types.to_type(rows)


class _Packing:
    """Rows as matrices, one for each type of number, and levels of blocks of them.

    A block is a list of matrices `[r, P_t]`, r rows with all P_t entries of type t.
    A level is a list of blocks, oldest first, those not yet there with 0 rows.
    """

    def __init__(self, specs: Any):
        self._specs = specs
        self._leaves = tf.nest.flatten(specs)
        self._dtypes = list(dict.fromkeys(leaf.dtype for leaf in self._leaves))

    def pack(self, row: Any) -> list[tf.Tensor]:
        """A block of one row."""
        leaves = tf.nest.flatten(row)
        return [
            tf.concat(
                [tf.reshape(v, [1, -1]) for v in leaves if v.dtype == dtype], axis=1
            )
            for dtype in self._dtypes
        ]

    def unpack(self, block: list[tf.Tensor]) -> Any:
        """The rows of a block."""
        leaves: list[Any] = [None] * len(self._leaves)
        for dtype, matrix in zip(self._dtypes, block, strict=True):
            places = [i for i, s in enumerate(self._leaves) if s.dtype == dtype]
            sizes = [self._leaves[i].shape.num_elements() for i in places]
            for i, piece in zip(places, tf.split(matrix, sizes, axis=1), strict=True):
                count = tf.shape(matrix)[0]
                leaves[i] = tf.reshape(piece, [count, *self._leaves[i].shape])
        return tf.nest.pack_sequence_as(self._specs, leaves)

    def join(self, blocks: list[list[tf.Tensor]]) -> list[tf.Tensor]:
        """One block of all rows."""
        return [tf.concat(parts, axis=0) for parts in zip(*blocks, strict=True)]

    def blocks(self, levels: list) -> list[list[tf.Tensor]]:
        """All blocks, oldest first: the last level has the oldest."""
        return [block for level in reversed(levels) for block in level]

    def push(self, levels: list, block: list[tf.Tensor]) -> list:
        """The levels with one more block in the first of them."""
        if len(levels) == 1:
            return [[self.join([levels[0][0], block])]]
        first = [*levels[0][1:], block]

        def overflow():
            rest = self.push(levels[1:], self.join(first))
            return [self._empty_level(), *rest]

        is_full = tf.shape(first[0][0])[0] > 0
        return tf.cond(is_full, overflow, lambda: [first, *levels[1:]])

    def merge(self, first: list, second: list) -> list:
        """The levels with all rows of two; their order is lost."""
        *levels, [last] = first
        return [*levels, [self.join([last, *self.blocks(second)])]]

    def no_rows(self) -> list:
        """Levels without a row."""
        return [*[self._empty_level() for _ in range(_LEVELS)], [self._empty_block()]]

    def levels_spec(self) -> list:
        """The `tf.TensorSpec`s of levels."""
        return tf.nest.map_structure(
            lambda t: tf.TensorSpec([None, t.shape[1]], t.dtype), self.no_rows()
        )

    def _empty_level(self) -> list:
        return [self._empty_block() for _ in range(_BLOCKS)]

    def _empty_block(self) -> list[tf.Tensor]:
        widths = [
            sum(s.shape.num_elements() for s in self._leaves if s.dtype == dtype)
            for dtype in self._dtypes
        ]
        return [
            tf.zeros([0, width], dtype)
            for width, dtype in zip(widths, self._dtypes, strict=True)
        ]
