"""The AT&T builder: archive, folder, read-only data, broken pictures."""

import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import PIL.Image
import pytest
from tensorflow_datasets.core.utils import gcs_utils

from tff_leak import errors
from tff_leak.data import att_faces, sources

ROOT = pathlib.Path(__file__).parents[2]


def _grey_of(person: int, picture: int) -> int:
    return 5 * person + picture  # 6..210, all different within a person.


@pytest.fixture
def manual_dir(tmp_path, monkeypatch):
    """A writable data directory with plain pictures; returns its manual directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manual = tmp_path / "data" / "downloads" / "manual"
    for person in range(1, 41):
        folder = manual / "att_faces" / f"s{person}"
        folder.mkdir(parents=True)
        for picture in range(1, 11):
            grey = _grey_of(person, picture)
            PIL.Image.new("L", (92, 112), grey).save(folder / f"{picture}.pgm")
    (manual / "att_faces" / "README").write_text("not a picture")
    return manual


@pytest.fixture
def read_only_data_dir(tfds_data_dir, tmp_path):
    """A read-only data directory that holds the real pictures."""
    if not (tfds_data_dir / "downloads" / "manual").is_dir():
        pytest.skip(f"{tfds_data_dir} holds no AT&T faces")
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "downloads").symlink_to(tfds_data_dir / "downloads")
    directory.chmod(0o555)
    yield directory
    directory.chmod(0o755)


def _one_line_error(call, *args, **kwargs) -> str:
    with pytest.raises(errors.InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)
    return str(caught.value)


def test_folder_is_read_in_numeric_order(manual_dir):
    pictures = att_faces.read_pictures(manual_dir)
    assert list(pictures)[:11] == [(1, k) for k in range(1, 11)] + [(2, 1)]
    assert list(pictures)[-1] == (40, 10)
    for (person, picture), image in pictures.items():
        assert image.shape == (64, 64, 1) and image.dtype == np.uint8
        np.testing.assert_array_equal(image, _grey_of(person, picture))


def test_archive_is_prepared_beside_the_data_without_network(manual_dir, monkeypatch):
    def no_network(*_):
        raise AssertionError("asked TFDS's storage bucket")

    monkeypatch.setattr(gcs_utils, "gcs_path", no_network)
    folder = manual_dir / "att_faces"
    with zipfile.ZipFile(manual_dir / "att_faces.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(manual_dir))
    folder.rename(manual_dir / "elsewhere")
    data_dir = manual_dir.parents[1]

    source = sources.load("att_faces", data_dir=data_dir)

    assert source.class_names == tuple(f"s{person}" for person in range(1, 41))
    np.testing.assert_array_equal(source.train.labels, np.repeat(np.arange(40), 10))
    greys = [_grey_of(p, k) for p in range(1, 41) for k in range(1, 11)]
    expected = np.asarray(greys, np.float32) / 127.5 - 1
    np.testing.assert_allclose(source.train.images[:, 5, 7, 0], expected, atol=1e-6)
    assert sorted(os.listdir(data_dir)) == ["att_faces", "downloads"]
    assert not (data_dir.parent / "cache").exists()

    (manual_dir / "att_faces.zip").unlink()  # The prepared set needs it no more.
    assert len(sources.load("att_faces", data_dir=data_dir).train) == 400
    record = next((data_dir / "att_faces" / "1.0.0").glob("*.tfrecord*"))
    record.write_bytes(record.read_bytes()[:5000])
    message = _one_line_error(sources.load, "att_faces", data_dir=data_dir)
    assert "DataLossError" in message and "prepare it again" in message


def test_read_only_data_goes_to_the_cache_quietly_and_twice_at_once(
    read_only_data_dir, tmp_path
):
    program = (
        "from tff_leak.data import sources\n"
        f"s = sources.load('att_faces', data_dir={str(read_only_data_dir)!r})\n"
        "assert s.train.images.shape == (400, 64, 64, 1), s.train.images.shape\n"
        "assert s.num_classes == 40 and s.test is None\n"
        "assert not s.foreground and not s.synthetic\n"
        "import numpy as np\n"
        "assert (np.bincount(s.train.labels) == 10).all()\n"
        "v = s.train.images.reshape(400, -1)\n"
        "d = np.stack([np.abs(v - row).mean(1) for row in v])\n"
        "np.fill_diagonal(d, np.inf)\n"
        "assert (s.train.labels[d.argmin(1)] == s.train.labels).mean() > .95\n"
    )
    environment = dict(os.environ, XDG_CACHE_HOME=str(tmp_path / "cache"))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert outputs == ["", ""]
    assert [process.returncode for process in running] == [0, 0]
    assert os.listdir(read_only_data_dir) == ["downloads"]
    (cached,) = (tmp_path / "cache" / "tff_leak").iterdir()
    assert os.listdir(cached) == ["att_faces"]  # No scratch directory is left.


def test_nothing_there(tmp_path):
    message = _one_line_error(sources.load, "att_faces", data_dir=tmp_path / "none")
    assert str(tmp_path / "none" / "downloads" / "manual") in message
    assert "att_faces.zip" in message and att_faces.SOURCE_PAGE in message


def test_missing_picture(manual_dir):
    (manual_dir / "att_faces" / "s7" / "3.pgm").unlink()
    message = _one_line_error(att_faces.prepare, manual_dir.parents[1])
    assert "399 pictures" in message and "s7/3.pgm is missing" in message
    assert os.listdir(manual_dir.parents[1]) == ["downloads"]


def test_surplus_person(manual_dir):
    folder = manual_dir / "att_faces" / "s41"
    folder.mkdir()
    PIL.Image.new("L", (92, 112)).save(folder / "1.pgm")
    message = _one_line_error(att_faces.read_pictures, manual_dir)
    assert "s41/1.pgm is unexpected" in message


@pytest.mark.parametrize("content", [b"", b"P5\n92 112\n255\nabc", b"\x89PNG nonsense"])
def test_unreadable_picture(manual_dir, content):
    (manual_dir / "att_faces" / "s2" / "9.pgm").write_bytes(content)
    message = _one_line_error(att_faces.read_pictures, manual_dir)
    assert "cannot read s2/9.pgm" in message


def test_broken_archive(tmp_path):
    (tmp_path / "att_faces.zip").write_bytes(b"PK not a zip")
    message = _one_line_error(att_faces.read_pictures, tmp_path)
    assert "att_faces.zip" in message and "anew" in message


def test_nowhere_to_write(manual_dir, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(att_faces, "_writable", lambda directory: False)
    message = _one_line_error(att_faces.prepare, manual_dir.parents[1])
    assert "XDG_CACHE_HOME" in message
