"""A binary that is forked ends as one that is started by itself."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
_BINARY = """
import os, sys
from absl import flags
import shared
from tff_leak.errors import InputError
from tff_leak.runtime import cli
_ENDS = flags.DEFINE_string("ends", "", "How.")

def main(argv):
    print(argv[1:], len(sys.stdin.read()), _ENDS.value)
    if _ENDS.value == "input":
        raise InputError("it is bad: expected good; mend it")
    if _ENDS.value == "bug":
        raise KeyError("lost")
    if _ENDS.value == "killed":
        os.kill(os.getpid(), 9)
    return {"code": 3, "words": "sorry"}.get(_ENDS.value)

if __name__ == "__main__":
    cli.run_main(main)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The exit code and what is written of each way to end, one server for all."""
    folder = tmp_path_factory.mktemp("forking")
    (folder / "shared.py").write_text("import sys; print('imported', file=sys.stderr)")
    # Two binaries of one flag, which one process could not both define.
    for name in ("ends", "ends_too"):
        (folder / f"{name}.py").write_text(_BINARY)
    ways = ["", "input", "bug", "killed", "code", "words", "again"]
    commands = [
        {
            "module": "ends_too" if way == "again" else "ends",
            "flags": [f"--ends={way}"],
            "stdout": str(folder / f"{way}.out"),
            "stderr": str(folder / f"{way}.err"),
        }
        for way in ways
    ]
    path = [str(ROOT), str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/forking.py"), "shared"],
        input="".join(json.dumps(command) + "\n" for command in commands),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == "imported\n"  # Once.
    return {
        way: (int(code), (folder / f"{way}.out").read_text(), (folder / f"{way}.err"))
        for way, code in zip(ways, done.stdout.split(), strict=True)
    }


@pytest.mark.parametrize(
    "way, code, last",
    [
        ("", 0, None),
        ("input", 2, "error: it is bad: expected good; mend it"),
        ("bug", 1, "KeyError: 'lost'"),
        ("killed", -9, None),
        ("code", 3, None),
        ("words", 1, "sorry"),
        ("again", 0, None),
    ],
)
def test_exit_codes_and_what_is_written(answers, way, code, last):
    found, out, errors = answers[way]
    assert found == code
    lines = errors.read_text().splitlines()
    assert (lines[-1] if lines else None) == last
    # No other command's flags, and nothing on stdin; a killed one may not flush.
    assert out in (f"[] 0 {way}\n", *([""] if way == "killed" else []))
