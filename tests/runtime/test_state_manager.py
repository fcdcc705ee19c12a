import asyncio
import collections

import numpy as np
import pytest
import tensorflow_federated as tff

from tff_leak.runtime.state_archive import DamagedError, NeedsTemplateError
from tff_leak.runtime.state_manager import ArchiveStateManager

Pair = collections.namedtuple("Pair", ["a", "b"])


def _state(value):
    return {"z": [np.full(3, value, np.float32)], "a": Pair(np.int64(value), ())}


def _saved(root, versions, **options):
    manager = ArchiveStateManager(root, **options)
    for version in versions:
        asyncio.run(manager.save(_state(version), version))
    return manager


def test_keeps_the_newest_in_order_of_number(tmp_path):
    manager = _saved(tmp_path, [1, 2, 9, 10, 11], keep_total=3)
    assert asyncio.run(manager.get_versions()) == [9, 10, 11]
    state, version = asyncio.run(manager.load_latest(_state(0)))
    assert version == 11
    assert state["a"] == Pair(11, ()) and list(state) == ["z", "a"]
    np.testing.assert_array_equal(state["z"][0], np.float32([11, 11, 11]), strict=True)


def test_nothing_saved(tmp_path):
    manager = ArchiveStateManager(tmp_path / "deep" / "state")
    assert asyncio.run(manager.get_versions()) is None
    assert asyncio.run(manager.load_latest(_state(0))) == (None, 0)
    with pytest.raises(tff.program.ProgramStateNotFoundError):
        asyncio.run(manager.load(1, _state(0)))


def test_errors_of_the_interface_and_of_the_files(tmp_path):
    manager = _saved(tmp_path, [1])
    with pytest.raises(tff.program.ProgramStateExistsError):
        asyncio.run(manager.save(_state(2), 1))
    assert asyncio.run(manager.load(1, _state(0)))["a"] == Pair(1, ())
    with pytest.raises(NeedsTemplateError):
        asyncio.run(manager.load(1))
    (tmp_path / "round_1.npz").write_bytes(b"")
    with pytest.raises(DamagedError):
        asyncio.run(manager.load(1, _state(0)))


def test_foreign_and_half_written_files_are_no_versions(tmp_path):
    for name in ("round_.npz", "round_3.npz.bak", "xround_3.npz", ".round_3.npz.1.tmp"):
        (tmp_path / name).touch()
    manager = _saved(tmp_path, [1, 2])
    assert asyncio.run(manager.get_versions()) == [1, 2]
    assert not (tmp_path / ".round_3.npz.1.tmp").exists()
    asyncio.run(manager.remove_all())
    assert asyncio.run(manager.get_versions()) is None
    assert (tmp_path / "round_3.npz.bak").exists()


def test_value_references_are_materialized(tmp_path):
    class Reference(tff.program.MaterializableValueReference):
        type_signature = tff.TensorType(np.int32)

        async def get_value(self):
            return np.int32(5)

    manager = ArchiveStateManager(tmp_path)
    asyncio.run(manager.save({"x": [Reference()]}, 1))
    assert asyncio.run(manager.load(1)) == {"x": [5]}
