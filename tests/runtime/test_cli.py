import os
import pathlib
import signal
import subprocess
import sys

import pytest

import tff_leak

_ENVIRONMENT = dict(os.environ, PYTHONPATH=pathlib.Path(tff_leak.__file__).parents[1])
_BINARY = '''
"""A binary for tests."""
import os, signal, sys, time
from absl import flags
from tff_leak.errors import InputError
from tff_leak.runtime import cli

flags.DEFINE_enum("kind", "none", ["none", "input", "bug", "wait", "code"], "")
flags.DEFINE_integer("rounds", 1, "How many.", lower_bound=1)

def main(argv):
    kind = flags.FLAGS.kind
    try:
        if kind == "input":
            raise InputError("rounds is 0;\\n  expected 1")
        if kind == "bug":
            raise RuntimeError("a bug")
        if kind == "code":
            return 5
        if kind == "wait":
            print("waiting", flush=True)
            for _ in range(1200):
                # Python looks for signals between calls: one that comes just before a
                # sleep is seen at its end.
                time.sleep(0.05)
        print("tensorflow" in sys.modules, argv[1:])
    finally:
        print("cleaned", flush=True)

if __name__ == "__main__":
    cli.run_main(main)
'''


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "binary.py"
    path.write_text(_BINARY)
    return [sys.executable, path]


def _run(binary, *arguments):
    done = subprocess.run(
        [*binary, *arguments],
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_normal_end(binary):
    assert _run(binary) == (0, "False []\ncleaned\n", "")
    assert _run(binary, "--kind=code")[0] == 5


def test_input_error_is_one_line(binary):
    code, _, stderr = _run(binary, "--kind=input")
    assert (code, stderr) == (2, "error: rounds is 0; expected 1\n")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--kindd=none", ["kindd", "Did you mean: kind"]),
        ("--kind=bad", ["--kind=bad", "none|input|bug"]),
        ("--rounds=0", ["rounds=0", "positive integer"]),
        ("--rounds=x", ["rounds", "x"]),
        ("--flagfile=/nowhere/x.flags", ["/nowhere/x.flags"]),
        ("rounds=3", ["rounds=3", "--name=value"]),
    ],
)
def test_wrong_flags_are_one_line(binary, argument, words):
    code, stdout, stderr = _run(binary, argument)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ") and stderr.count("\n") == 1
    for word in [*words, "--help"]:
        assert word in stderr


def test_help_is_no_failure(binary):
    code, stdout, stderr = _run(binary, "--help")
    assert (code, stderr) == (0, "")
    assert "--kind" in stdout


def test_a_bug_keeps_its_traceback(binary):
    code, stdout, stderr = _run(binary, "--kind=bug")
    assert code == 1
    assert stdout == "cleaned\n"
    assert "Traceback" in stderr and stderr.endswith("RuntimeError: a bug\n")


@pytest.mark.parametrize(
    ("signum", "code", "stderr"),
    [(signal.SIGTERM, 143, ""), (signal.SIGINT, 130, "interrupted\n")],
)
def test_signals_clean_up(binary, signum, code, stderr):
    process = subprocess.Popen(
        [*binary, "--kind=wait"],
        env=_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signum)
    assert process.communicate(timeout=30) == ("cleaned\n", stderr)
    assert process.returncode == code
