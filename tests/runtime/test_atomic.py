import json
import pathlib
import zipfile

import numpy as np
import pytest

from tff_leak.runtime import atomic


def test_replaces_the_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    atomic.atomic_write_text(path, "old")
    atomic.atomic_write_text(path, "né")
    assert path.read_bytes() == b"n\xc3\xa9"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_while_writing_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    atomic.atomic_write_bytes(path, b"old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        atomic.atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_json_refuses_what_other_readers_cannot_parse(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match="JSON"):
        atomic.atomic_write_json(path, {"x": float("nan")})
    assert not path.exists()
    atomic.atomic_write_json(path, {"b": 1, "a": [0.1]})
    assert json.loads(path.read_text()) == {"a": [0.1], "b": 1}


def test_equal_arrays_give_equal_bytes_whatever_their_memory_order():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    first = atomic.npz_bytes({"x": array})
    assert atomic.npz_bytes({"x": np.asfortranarray(array)}) == first
    assert atomic.npz_bytes({"x": np.repeat(array, 2, axis=0)[::2]}) == first
    assert atomic.npz_bytes({"x": array + 1}) != first


def test_npz_holds_no_time_stamp(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(atomic.npz_bytes({"x": np.zeros(1)}))
    with zipfile.ZipFile(path) as file:
        assert file.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)


def test_npz_refuses_objects():
    with pytest.raises(TypeError, match="'x' holds Python objects"):
        atomic.npz_bytes({"x": np.array([None])})


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    for name in (".a.npz.123.tmp", ".hidden", "a.tmp"):
        pathlib.Path(tmp_path, name).touch()
    atomic.remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "a.tmp"]
