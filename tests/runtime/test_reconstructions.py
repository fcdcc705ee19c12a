import numpy as np
import pytest

from tff_leak.errors import InputError
from tff_leak.runtime.reconstructions import (
    read_reconstructions,
    write_reconstructions,
)


def _arrays():
    rng = np.random.default_rng(5)
    return {
        "images": rng.uniform(-1, 1, (3, 4, 5, 1)).astype(np.float32),
        "labels": np.array([3, 3, 8], np.int32),
        "clients": np.array([0, -1, 2], np.int32),
    }


def test_reads_back_what_was_written(tmp_path):
    path = tmp_path / "reconstructions.npz"
    arrays = _arrays()
    write_reconstructions(path, **arrays, round=7)
    found = read_reconstructions(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(getattr(found, name), array, strict=True)
    assert found.round == 7
    with np.load(path) as file:
        assert file["round"].dtype == np.int32 and file["round"].shape == ()


def test_the_file_depends_on_the_values_only(tmp_path):
    arrays = _arrays()
    write_reconstructions(tmp_path / "a.npz", **arrays, round=7)
    arrays["images"] = np.asfortranarray(arrays["images"])
    write_reconstructions(tmp_path / "b.npz", **arrays, round=np.int64(7))
    first, second = (tmp_path / name for name in ("a.npz", "b.npz"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("images", np.zeros((3, 4, 5, 1)), "images are float64.*float32"),
        ("images", np.zeros((3, 4, 5), np.float32), r"shape \(3, 4, 5\)"),
        ("images", np.zeros((0, 4, 5, 1), np.float32), "at least one image"),
        ("images", np.full((3, 4, 5, 1), np.nan, np.float32), "60 pixels are not"),
        ("images", np.full((3, 4, 5, 1), 255, np.float32), "from 255 to 255"),
        ("labels", np.array([3, 3, 8]), "labels are int64; expected .* int32"),
        ("labels", np.array([3, 8], np.int32), r"labels of shape \(2,\)"),
        ("labels", np.array([3, -1, 8], np.int32), "labels down to -1"),
        ("clients", np.array([0, -2, 8], np.int32), "clients down to -2"),
        ("clients", [0, 1, 2], "clients are list"),
        ("round", -1, "round -1"),
    ],
)
def test_refuses_what_the_contract_excludes(tmp_path, name, value, message):
    path = tmp_path / "reconstructions.npz"
    with pytest.raises(InputError, match=message) as caught:
        write_reconstructions(path, **{**_arrays(), "round": 1, name: value})
    assert "\n" not in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize("content", [None, b"", b"not an archive", b"PK\x03\x04torn"])
def test_refuses_files_of_another_kind(tmp_path, content):
    path = tmp_path / "reconstructions.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path}: (no such file|cannot be read)"):
        read_reconstructions(path)


def test_refuses_an_archive_without_the_arrays(tmp_path):
    path = tmp_path / "reconstructions.npz"
    np.savez(path, images=_arrays()["images"])
    with pytest.raises(InputError, match="labels"):
        read_reconstructions(path)


def test_refuses_a_single_array(tmp_path):
    path = tmp_path / "reconstructions.npz"
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match="cannot be read"):
        read_reconstructions(path)
