import json
import os
import pathlib
import platform
import subprocess
import sys

import numpy as np
import pytest

import tff_leak
from tff_leak.errors import InputError
from tff_leak.runtime.run_directory import RunDirectory

_ENVIRONMENT = dict(os.environ, PYTHONPATH=pathlib.Path(tff_leak.__file__).parents[1])
CONFIG = {"rounds": 5, "rate": 0.1, "data": "mnist", "targets": (1, 2)}


def _files(path: pathlib.Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def _assert_one_line(caught):
    assert "\n" not in str(caught.value)
    assert "--output_dir" in str(caught.value)


def test_makes_the_directory_and_records_what_ran(tmp_path):
    path = tmp_path / "deep" / "run"
    with RunDirectory.open(path, CONFIG) as directory:
        config = json.loads((path / "config.json").read_text())
    assert {k: config[k] for k in CONFIG} == CONFIG | {"targets": [1, 2]}
    assert config["versions"]["python"] == platform.python_version()
    assert config["versions"]["numpy"] == np.__version__
    assert set(config["versions"]) >= {"tff_leak", "tensorflow", "tensorflow-federated"}
    assert "git_commit" in config and "created" in config
    assert directory.path == path
    assert directory.metrics_csv == path / "metrics.csv"
    assert directory.config["targets"] == [1, 2]


def test_the_same_configuration_may_come_back(tmp_path):
    config = CONFIG | {"path": pathlib.Path("x"), "eps": np.float32(0.5)}
    RunDirectory.open(tmp_path / "run", config).close()
    before = _files(tmp_path)
    RunDirectory.open(tmp_path / "run", config | {"path": "x", "eps": 0.5}).close()
    assert _files(tmp_path) == before


def test_recorded_keys_are_not_compared(tmp_path):
    RunDirectory.open(tmp_path, CONFIG).close()
    config_json = tmp_path / "config.json"
    config = json.loads(config_json.read_text())
    config |= {"git_commit": "another", "created": "then"}
    config_json.write_text(json.dumps(config))
    RunDirectory.open(tmp_path, CONFIG).close()
    with pytest.raises(ValueError, match="versions"):
        RunDirectory.open(tmp_path, CONFIG | {"versions": {}})


def test_other_versions_of_the_libraries_are_refused(tmp_path):
    with RunDirectory.open(tmp_path, CONFIG) as directory:
        config = json.loads((directory.path / "config.json").read_text())
    config["versions"]["tensorflow"] = "2.13.0"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match='versions.tensorflow="2.13.0"'):
        RunDirectory.open(tmp_path, CONFIG)


def test_volatile_keys_may_differ(tmp_path):
    RunDirectory.open(tmp_path, CONFIG | {"threads": 1}, volatile=["threads"]).close()
    RunDirectory.open(tmp_path, CONFIG | {"threads": 2}, volatile=["threads"]).close()
    with pytest.raises(InputError, match="threads=1, this run has threads=2"):
        RunDirectory.open(tmp_path, CONFIG | {"threads": 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 6, "zeta": 1}, "rounds=5, this run has rounds=6"),
        ({"rounds": 5.0}, "rounds=5, this run has rounds=5.0"),
        ({"targets": (1,)}, r"targets=\[1, 2\], this run has targets=\[1\]"),
        ({"more": 1}, r"more=\(absent\), this run has more=1"),
        ({"dp": {"eps": 1.0}}, r"dp\.eps=\(absent\), this run has dp\.eps=1\.0"),
    ],
)
def test_another_configuration_is_refused(tmp_path, change, message):
    RunDirectory.open(tmp_path / "run", CONFIG).close()
    before = _files(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        RunDirectory.open(tmp_path / "run", CONFIG | change)
    _assert_one_line(caught)
    assert _files(tmp_path) == before
    RunDirectory.open(tmp_path / "run", CONFIG).close()  # Not left locked.


def test_foreign_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="'thesis.tex' but no config.json") as caught:
        RunDirectory.open(tmp_path, CONFIG)
    _assert_one_line(caught)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_start_that_was_killed_is_no_foreign_file(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.99.tmp").write_text('{"rou')
    RunDirectory.open(tmp_path, CONFIG).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "config.json"]


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_config_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match="config.json: cannot be read") as caught:
        RunDirectory.open(tmp_path, CONFIG)
    _assert_one_line(caught)
    assert (tmp_path / "config.json").read_text() == content


def test_a_file_or_nothing_in_place_of_a_directory(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path, message in (
        (file, "is a file"),
        (file / "below", "Not a directory"),
        ("", "is empty"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            RunDirectory.open(path, CONFIG)
        _assert_one_line(caught)


def test_one_process_at_a_time(tmp_path):
    code = (
        "import sys\n"
        "from tff_leak.runtime.run_directory import RunDirectory\n"
        "directory = RunDirectory.open(sys.argv[1], {'rounds': 1})\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        env=_ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(InputError, match="in use by another process") as caught:
            RunDirectory.open(tmp_path, {"rounds": 1})
        _assert_one_line(caught)
    finally:
        other.kill()
        other.communicate()
    RunDirectory.open(tmp_path, {"rounds": 1}).close()  # Released by its death.


def test_tensorflow_is_not_needed():
    code = (
        "import sys, tff_leak.runtime.run_directory, tff_leak.runtime.cli\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=_ENVIRONMENT, check=False)
    assert done.returncode == 0


def test_a_number_that_is_not_finite_is_refused(tmp_path):
    with pytest.raises(InputError, match="rate is nan; expected finite"):
        RunDirectory.open(tmp_path / "run", CONFIG | {"rate": float("nan")})
    assert list(tmp_path.iterdir()) == []
