import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime.in_process import interpreter
from tff_leak.runtime.in_process.importer import Importer
from tff_leak.runtime.in_process.interpreter import Interpreter
from tff_leak.runtime.in_process.values import Partial

blocks = tff.framework
PAIR = tff.types.to_type((np.int32, (np.int32, np.int32)))


@tff.tensorflow.computation(np.int32, np.int32)
def subtract(x, y):
    return x - y


def _evaluate(block, **environment):
    return Interpreter(Importer(), "slot").evaluate(block, environment)


def _unknown():
    number = tff.types.to_type(np.int32)
    intrinsic = blocks.Intrinsic("sort_of_sum", tff.FunctionType(number, number))
    return blocks.Call(intrinsic, blocks.Reference("x", number))


def test_references_selections_and_structures():
    reference = blocks.Reference("pair", PAIR)
    inner = blocks.Selection(reference, index=1)
    swapped = blocks.Struct([blocks.Selection(inner, index=1), reference])
    assert _evaluate(swapped, pair=(1, (2, 3))) == (3, (1, (2, 3)))


def test_of_a_part_of_a_structure():
    """The parts that are not read need not be there."""
    reference = blocks.Reference("pair", PAIR)
    inner = blocks.Selection(reference, index=1)
    part = Partial({1: Partial({0: 7})})
    assert _evaluate(blocks.Selection(inner, index=0), pair=part) == 7


def test_a_call_of_a_piece_and_of_a_lambda():
    piece = subtract.to_building_block()
    parameter = blocks.Reference("p", piece.type_signature.parameter)
    reverse = blocks.Lambda(
        "p",
        parameter.type_signature,
        blocks.Call(
            piece,
            blocks.Struct(
                [
                    blocks.Selection(parameter, index=1),
                    blocks.Selection(parameter, index=0),
                ]
            ),
        ),
    )
    argument = blocks.Reference("argument", parameter.type_signature)
    found = _evaluate(
        blocks.Call(reverse, argument), argument=(tf.constant(1), tf.constant(10))
    )
    assert found.numpy() == 9


def test_a_blocks_locals_hide_those_around_it():
    number = tff.types.to_type(np.int32)
    x = blocks.Reference("x", number)
    block = blocks.Block([("x", blocks.Reference("y", number))], blocks.Struct([x, x]))
    assert _evaluate(blocks.Struct([block, x]), x=1, y=2) == ((2, 2), 1)


def test_literals():
    found = _evaluate(blocks.Literal(3, tff.TensorType(np.int64)))
    assert (found.dtype, found.numpy()) == (tf.int64, 3)


def test_an_unknown_intrinsic_is_named_with_the_remedy():
    message = (
        "no intrinsic 'sort_of_sum': expected one of federated_aggregate, .*"
        "use the native runtime"
    )
    with pytest.raises(NotImplementedError, match=message):
        interpreter.check_supported(_unknown())
    with pytest.raises(NotImplementedError, match=message):
        _evaluate(_unknown(), x=tf.constant(1))


def test_a_computation_with_an_unknown_intrinsic_does_not_start(
    in_process, monkeypatch
):
    without = interpreter.SUPPORTED - {"federated_broadcast"}
    monkeypatch.setattr(interpreter, "SUPPORTED", without)

    @tff.federated_computation(tff.FederatedType(np.int32, tff.SERVER))
    def broadcast(value):
        return tff.federated_broadcast(value)

    with pytest.raises(NotImplementedError, match="intrinsic 'federated_broadcast'"):
        broadcast(1)
    assert in_process.runtime.traces == 0


def test_other_blocks_are_refused():
    placement = blocks.Placement(tff.CLIENTS)
    with pytest.raises(NotImplementedError, match="cannot evaluate a Placement"):
        _evaluate(placement)
    with pytest.raises(NotImplementedError, match="cannot call a Placement"):
        Interpreter(Importer(), "slot").function(placement, {})
