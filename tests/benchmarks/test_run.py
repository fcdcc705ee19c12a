"""The program that runs the benchmarks, with benchmarks that are made up."""

import subprocess
import sys
import types

import pytest

from benchmarks import pfl_environment, run
from benchmarks.figures import Figure
from tff_leak.runtime.atomic import atomic_write_json


@pytest.fixture
def programs(monkeypatch):
    """Stands in for the benchmarks' processes; their commands are kept."""
    state = types.SimpleNamespace(commands=[], returncode=0, stderr="")

    def start(command, **options):
        del options
        state.commands.append(command)
        (path,) = [a.removeprefix("--json=") for a in command if "--json=" in a]
        if not state.returncode:
            atomic_write_json(path, [Figure("x", command[2], 1.0).as_dict()])
        return types.SimpleNamespace(
            returncode=state.returncode, stderr=state.stderr, stdout=""
        )

    monkeypatch.setattr(run.subprocess, "run", start)
    return state


def test_a_benchmark_is_a_process_of_its_own(programs):
    (figure,) = run.run_benchmark("d")
    assert figure == Figure("x", "benchmarks.cohort", 1.0)
    assert programs.commands[0][:3] == [sys.executable, "-m", "benchmarks.cohort"]
    assert f"--seconds={run.BENCHMARKS['d'][1]}" in programs.commands[0]


def test_a_benchmark_that_fails_is_a_figure_that_fails(programs):
    programs.returncode, programs.stderr = 1, "Traceback\nValueError: no\n"
    (figure,) = run.run_benchmark("a")
    assert (figure.verdict, figure.note) == ("fail", "ValueError: no")


def test_every_letter_has_its_program():
    root = run.pathlib.Path(run.__file__).parent
    for name, seconds in run.BENCHMARKS.values():
        assert (root / f"{name}.py").is_file()
        assert seconds > 0
    assert sum(seconds for _, seconds in run.BENCHMARKS.values()) < 600


def test_pfl_that_cannot_be_had_is_said_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(pfl_environment, "_STAMP", tmp_path / "none")

    def start(command, **options):
        del command, options
        return types.SimpleNamespace(
            returncode=1, stderr="log\nERROR: No matching distribution\nhint\n"
        )

    monkeypatch.setattr(pfl_environment.subprocess, "run", start)
    with pytest.raises(
        pfl_environment.UnavailableError, match="-m venv.*No matching distribution$"
    ):
        pfl_environment.ensure()


def test_pfl_environment_is_made_once_for_its_pins(tmp_path, monkeypatch):
    commands = []

    def start(command, **options):
        del options
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    pins = tmp_path / "pins.txt"
    pins.write_text("pfl==0\n")
    monkeypatch.setattr(pfl_environment, "_STAMP", tmp_path / "stamp")
    monkeypatch.setattr(pfl_environment, "_REQUIREMENTS", pins)
    monkeypatch.setattr(pfl_environment.subprocess, "run", start)
    pfl_environment.ensure()
    assert len(commands) == 3
    pfl_environment.ensure()
    assert len(commands) == 3
    pins.write_text("pfl==1\n")
    pfl_environment.ensure()
    assert len(commands) == 6
