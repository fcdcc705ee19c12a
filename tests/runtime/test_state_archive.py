import collections
import dataclasses
from typing import Any, NamedTuple

import attrs
import numpy as np
import pytest
import tensorflow as tf

from tff_leak.runtime import atomic, state_archive


class Weights(NamedTuple):
    kernel: Any
    bias: Any


@attrs.define
class Server:
    weights: Weights
    round_num: int
    _hidden: Any = None


@dataclasses.dataclass
class Pool:
    fakes: list


def _assert_same(found, expected):
    """The same types, keys and bits, all the way down."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            _assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            _assert_same(a, b)
    elif isinstance(expected, np.ndarray | np.generic):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        assert found.tobytes() == expected.tobytes()
    elif dataclasses.is_dataclass(expected) or attrs.has(type(expected)):
        for name in getattr(expected, "__dict__", None) or expected.__slots__:
            if not name.startswith("__"):
                _assert_same(getattr(found, name), getattr(expected, name))
    else:
        assert found == expected


def _plain_state():
    return {
        "b": collections.OrderedDict(z=np.float32(0.1), a=np.zeros((0, 3), np.int32)),
        "a": [],
        "clients": {7: np.array([True, False]), 3: (np.array(2**62), (), {})},
        "numbers": [2**70, 0.1, True, None, "text", b"\xff\0", float("inf")],
        "images": [np.arange(6, dtype=np.uint8).reshape(1, 2, 3)],
        "nan": np.array([np.nan, -0.0, np.inf], np.float32),
        "half": np.float16(1.5),
    }


def test_plain_containers_come_back_without_a_template():
    state = _plain_state()
    _assert_same(state_archive.unpack(state_archive.pack(state)), state)


def test_objects_come_back_with_a_template_of_other_values():
    def state(seed, length):
        rng = np.random.default_rng(seed)
        weights = Weights([rng.random(3)], rng.random(2))
        pool = Pool([rng.random(2) for _ in range(length)])
        return {"server": Server(weights, seed, (seed,)), "pool": pool}

    packed = state_archive.pack(state(1, length=4))
    _assert_same(state_archive.unpack(packed, state(2, length=0)), state(1, length=4))
    with pytest.raises(state_archive.NeedsTemplateError, match="Server"):
        state_archive.unpack(packed)
    with pytest.raises(state_archive.NeedsTemplateError, match="Pool"):
        state_archive.unpack(packed, state(2, 0) | {"pool": Weights(1, 2)})


def test_equal_states_give_equal_bytes_and_copies():
    state = _plain_state()
    packed = state_archive.pack(state)
    assert state_archive.pack(_plain_state()) == packed
    state["images"][0][:] = 0
    found = state_archive.unpack(packed)["images"][0]
    np.testing.assert_array_equal(found, np.arange(6).reshape(1, 2, 3))


def test_to_numpy_gives_what_a_resumed_run_would_see():
    state = {
        "tensor": tf.constant([1, 2], tf.int64),
        "scalar": tf.constant(1.5),
        "variable": tf.Variable([True]),
        "fortran": np.asfortranarray(np.ones((2, 3))),
        "weights": Weights(tf.zeros([2]), 1),
    }
    found = state_archive.to_numpy(state)
    _assert_same(
        found,
        {
            "tensor": np.array([1, 2], np.int64),
            "scalar": np.float32(1.5),
            "variable": np.array([True]),
            "fortran": np.ones((2, 3)),
            "weights": Weights(np.zeros(2, np.float32), 1),
        },
    )
    assert found["fortran"].flags.c_contiguous
    _assert_same(state_archive.unpack(state_archive.pack(state), state), found)


@pytest.mark.parametrize(
    "bad",
    [
        object(),
        np.array([None]),
        {(1, 2): 0},
        {1: 0, "1": 0},
        {1.5},
        tf.constant("text"),
    ],
)
def test_refuses_what_it_could_not_give_back(bad):
    with pytest.raises(TypeError):
        state_archive.pack({"state": [bad]})


def test_damage_is_noticed():
    packed = state_archive.pack({"x": np.arange(1000)})
    middle = len(packed) // 2
    flipped = packed[:middle] + bytes([packed[middle] ^ 1]) + packed[middle + 1 :]
    cases = [packed[:middle], packed[middle:], b"", b"text", flipped]
    cases.append(atomic.npz_bytes({"x": np.arange(3)}))
    for damaged in cases:
        with pytest.raises(state_archive.DamagedError, match="Expected a packed"):
            state_archive.unpack(damaged)


def test_whatever_byte_is_changed_is_damage_and_nothing_else():
    packed = state_archive.pack({"a": np.arange(3.0), "b": [1, "x"]})
    damaged = 0
    for place in range(len(packed)):
        changed = bytearray(packed)
        changed[place] ^= 0xFF
        try:
            state_archive.unpack(bytes(changed))
        except state_archive.DamagedError:
            damaged += 1
    assert damaged > len(packed) / 2


def test_what_says_nothing_of_the_bytes_is_no_damage(monkeypatch):
    """Damaged states are removed: none may be for want of memory, or a new field."""
    packed = state_archive.pack({"a": np.arange(3.0)})

    def starved(*args, **kwargs):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "load", starved)
        with pytest.raises(MemoryError):
            state_archive.unpack(packed)

    class Newer(NamedTuple):
        kernel: Any
        bias: Any
        scale: Any

    Newer.__qualname__ = Weights.__qualname__
    packed = state_archive.pack(Weights(np.ones(2), np.ones(1)))
    with pytest.raises(TypeError, match="scale"):
        state_archive.unpack(packed, Newer(1, 2, 3))
