"""Runs many commands, some at a time, and does not run again what is done.

A job is a Python command that goes on where it was when it is repeated, as the
experiments' binaries do. So a job whose process is lost (killed, for want of memory or
with its machine) is started anew, and one that ended well leaves a record by which a
later call passes it over; one that fails is left at that, and stops no other.

What starts a job is an argument: `LocalProcess` here, a Ray cluster in `ray_jobs`.
TensorFlow is not imported here: workers of a cluster start commands, and nothing else.
"""

import collections
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from tff_leak.runtime import parent_death
from tff_leak.runtime.atomic import atomic_write_json

_POLL_S = 0.05
_PAUSE_S = 5.0
"""After a process could not be started: a full disk or table of processes stays so
longer than tries last that follow one another at once."""
_GRACE_S = 10.0
"""How long a process that was asked to end has for its cleaning up."""
_TAIL_BYTES = 4096
_ASKED_TO_END = {128 + signal.SIGINT, 128 + signal.SIGTERM}
"""Exit codes of a command that cleaned up when a signal asked it to end."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One command, `python *arguments *places`.

    Attributes:
      name: of this job alone.
      arguments: all that decides what is computed.
      places: further arguments, which say where files lie: they may change between
        two calls without making it another job.
      directory: the command's working directory.
      settings: what else decides it, such as what a file that an argument names says.
      result: the file that the command leaves when it has ended well.
      record: made when it has: the proof, with arguments and settings. Beside it,
        `<record>.stderr` gets what the command says there; stdout is dropped.
    """

    name: str
    arguments: tuple[str, ...]
    directory: pathlib.Path
    result: pathlib.Path
    record: pathlib.Path
    places: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    @property
    def stderr(self) -> pathlib.Path:
        """What the last try of the command wrote there."""
        return self.record.with_name(f"{self.record.name}.stderr")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
      ok: its command ended with 0 and left its result.
      reason: of a failure in one line; empty if there is none.
      lost: the process could not be started, was killed by a signal, or its machine
        went: worth a new try.
      seconds: of the last try; None for a job that was done before.
    """

    ok: bool
    reason: str = ""
    lost: bool = False
    seconds: float | None = None


class Running(Protocol):
    """A job that was started."""

    def poll(self) -> Outcome | None:
        """Returns how it ended; None while it has not."""

    def terminate(self) -> None:
        """Asks it to end, and returns at once."""

    def wait(self, patience_s: float) -> None:
        """Returns when it has ended; what has not in time is killed first."""


Start = Callable[[Job], Running]


def run(
    jobs: Iterable[Job],
    start: Start,
    *,
    at_once: int,
    tries: int = 3,
    on_outcome: Callable[[Job, Outcome], None] = lambda job, outcome: None,
) -> dict[str, Outcome]:
    """Runs jobs in their order, so many at a time, to the end of the last one.

    Whatever ends this call, an exception or a signal that raises one, ends what is
    running first. (What raises nothing, SIGKILL, ends a `LocalProcess` too.)

    Args:
      jobs: to be run, unless their record says that they were.
      start: starts one.
      at_once: how many run at a time, at least 1.
      tries: how often a job is started that is lost each time.
      on_outcome: called at a job's end; for one done before, at the beginning.

    Returns:
      Outcomes by the jobs' names.
    """
    outcomes: dict[str, Outcome] = {}
    waiting: collections.deque[Job] = collections.deque()
    for job in jobs:
        if is_done(job):
            outcomes[job.name] = Outcome(ok=True)
            on_outcome(job, outcomes[job.name])
        else:
            waiting.append(job)
    started: collections.Counter[str] = collections.Counter()
    running: dict[Job, Running] = {}
    may_start_at = time.monotonic()
    try:
        # No event loop: a signal must be able to raise here, between two looks.
        while waiting or running:
            ended: dict[Job, Outcome] = {}
            while (
                waiting and len(running) < at_once and time.monotonic() >= may_start_at
            ):
                job = waiting.popleft()
                started[job.name] += 1
                try:
                    running[job] = start(job)
                except OSError as error:  # No room, no process: later there may be.
                    reason = f"not started: {error}"
                    ended[job] = Outcome(False, reason, lost=True, seconds=0.0)
                    may_start_at = time.monotonic() + _PAUSE_S
            time.sleep(_POLL_S)
            ended |= _ended(running)
            for job, outcome in ended.items():
                running.pop(job, None)
                if outcome.lost and started[job.name] < tries:
                    waiting.append(job)
                    continue
                if outcome.ok:
                    _write_record(job)
                outcomes[job.name] = outcome
                on_outcome(job, outcome)
    finally:
        _end(running.values())
    return outcomes


def is_done(job: Job) -> bool:
    """Whether the same command has ended well before, and its result is still there."""
    try:
        record = json.loads(job.record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return record == _proof(job) and job.result.is_file()


class LocalProcess:
    """A job as a process of this machine that does not outlive this one.

    The kernel ends it when the thread that made it does: make it in the main thread.
    """

    def __init__(self, job: Job):
        """Starts the command."""
        self._job = job
        self._started = time.monotonic()
        job.record.parent.mkdir(parents=True, exist_ok=True)
        with open(job.stderr, "wb") as stderr:
            self._process = subprocess.Popen(
                _command(job),
                cwd=job.directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                # Ctrl-C in a terminal goes to the scheduler alone, which ends this.
                start_new_session=True,
            )

    def poll(self) -> Outcome | None:
        """As `Running` says."""
        status = self._process.poll()
        return None if status is None else self._outcome(status)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self._process.terminate()

    def wait(self, patience_s: float) -> None:
        """As `Running` says."""
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def run(self) -> Outcome:
        """Waits for its end."""
        try:
            return self._outcome(self._process.wait())
        finally:
            self._process.kill()

    def _outcome(self, status: int) -> Outcome:
        seconds = round(time.monotonic() - self._started, 1)
        if status < 0:
            name = signal.Signals(-status).name
            hint = " (often because memory ran out)" if name == "SIGKILL" else ""
            return Outcome(False, f"killed by {name}{hint}", True, seconds)
        if status in _ASKED_TO_END:
            name = signal.Signals(status - 128).name
            return Outcome(False, f"asked to end by {name}", True, seconds)
        if status:
            said = _last_line(self._job.stderr) or "nothing on stderr"
            reason = said.removeprefix("error: ")
            return Outcome(False, f"{reason} (exit code {status})", False, seconds)
        if not self._job.result.is_file():
            reason = f"ended well without leaving {self._job.result.name}"
            return Outcome(False, reason, False, seconds)
        return Outcome(True, seconds=seconds)


def _command(job: Job) -> list[str]:
    return [
        *(sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid())),
        *(sys.executable, *job.arguments, *job.places),
    ]


def _ended(running: Mapping[Job, Running]) -> dict[Job, Outcome]:
    found = {job: process.poll() for job, process in running.items()}
    return {job: outcome for job, outcome in found.items() if outcome is not None}


def _write_record(job: Job) -> None:
    atomic_write_json(job.record, _proof(job))


def _proof(job: Job) -> dict[str, list[str]]:
    return {"arguments": list(job.arguments), "settings": list(job.settings)}


def _end(running: Iterable[Running]) -> None:
    """Ends all; all have the same time for it."""
    left = list(running)
    for process in left:
        process.terminate()
    deadline = time.monotonic() + _GRACE_S
    for process in left:
        process.wait(max(deadline - time.monotonic(), 0.0))


def _last_line(path: pathlib.Path) -> str:
    """The last line with anything in it."""
    with open(path, "rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
