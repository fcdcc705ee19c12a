"""Jobs: order, failure, loss, resuming, interruption; the commands are fakes."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import tff_leak
from tff_leak.runtime import jobs
from tff_leak.runtime.jobs import Job, LocalProcess, Outcome

_ROOT = pathlib.Path(tff_leak.__file__).parents[1]
# Each call of a job appends a line to its `calls`.
_PREFIX = """
import os, pathlib, signal, sys, time
calls = pathlib.Path(sys.argv[1] + ".calls")
with open(calls, "a") as file:
    file.write("call\\n")
count = len(calls.read_text().splitlines())
"""
_DONE = 'pathlib.Path(sys.argv[1]).write_text("done")\n'


def _job(folder, name, code=_DONE):
    result = folder / name
    return Job(
        name=name,
        arguments=("-c", _PREFIX + code),
        directory=folder,
        result=result,
        record=folder / f"{name}.json",
        places=(str(result),),
    )


def _calls(job):
    path = pathlib.Path(f"{job.result}.calls")
    return len(path.read_text().splitlines()) if path.exists() else 0


class _Scripted:
    """Starts nothing: each job ends as it is told, when it is told."""

    def __init__(self, outcomes):
        self.outcomes = outcomes
        self.log, self.now, self.most = [], set(), 0

    def __call__(self, job):
        self.log.append(job.name)
        self.now.add(job.name)
        self.most = max(self.most, len(self.now))
        polls = iter([None, self.outcomes[job.name].pop(0)])
        return _Process(lambda: self._poll(job, polls))

    def _poll(self, job, polls):
        outcome = next(polls)
        if outcome is not None:
            self.now.discard(job.name)
        return outcome


class _Process:
    def __init__(self, poll):
        self.poll = poll


def test_jobs_start_in_order_and_no_more_at_once_than_asked(tmp_path):
    fake = _Scripted({name: [Outcome(True)] for name in "abcde"})
    found = jobs.run([_job(tmp_path, name) for name in "abcde"], fake, at_once=2)
    assert fake.log == list("abcde")
    assert fake.most == 2
    assert list(found) and all(outcome.ok for outcome in found.values())


def test_a_lost_job_is_started_again_and_a_failed_one_is_not(tmp_path):
    lost, failed = Outcome(False, "gone", lost=True), Outcome(False, "bad")
    fake = _Scripted(
        {"a": [lost, Outcome(True)], "b": [failed], "c": [lost, lost, lost]}
    )
    found = jobs.run([_job(tmp_path, name) for name in "abc"], fake, at_once=3, tries=3)
    assert sorted(fake.log) == ["a", "a", "b", "c", "c", "c"]
    assert found == {"a": Outcome(True), "b": failed, "c": lost}
    # What did not end well is not done.
    assert jobs.is_done(_job(tmp_path, "b")) is False


def test_a_failure_has_its_reason_and_stops_no_other(tmp_path):
    said = r"noise\nerror: rounds is 0; expected 1\n\n"
    bad = f'sys.stderr.write("{said}"); sys.exit(2)'
    some = [
        _job(tmp_path, "bad", bad),
        _job(tmp_path, "bug", "raise RuntimeError('a bug')"),
        _job(tmp_path, "silent", "sys.exit(3)"),
        _job(tmp_path, "empty", "pass"),
        _job(tmp_path, "good"),
    ]
    found = jobs.run(some, LocalProcess, at_once=2)
    reasons = {name: outcome.reason for name, outcome in found.items()}
    assert reasons == {
        "bad": "rounds is 0; expected 1 (exit code 2)",
        "bug": "RuntimeError: a bug (exit code 1)",
        "silent": "nothing on stderr (exit code 3)",
        "empty": "ended well without leaving empty",
        "good": "",
    }
    assert [name for name, outcome in found.items() if outcome.ok] == ["good"]
    assert all(_calls(job) == 1 for job in some)


def test_a_job_that_cannot_be_started_is_tried_again_and_stops_no_other(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(jobs, "_PAUSE_S", 0.2)
    times = []
    fake = _Scripted({name: [Outcome(True)] for name in "acd"})
    tried = []

    def start(job):
        tried.append(job.name)
        times.append(time.monotonic())
        # There is never room for b, and for d the second time.
        if job.name == "b" or tried.count("d") == 1:
            raise OSError("no space left on device")
        return fake(job)

    heard = []
    found = jobs.run(
        [_job(tmp_path, name) for name in "abcd"],
        start,
        at_once=1,
        on_outcome=lambda job, outcome: heard.append((job.name, outcome.ok)),
    )
    refused = Outcome(False, "not started: no space left on device", True, 0.0)
    assert found["b"] == refused
    assert all(found[name].ok for name in "acd")
    assert sorted(heard) == [("a", True), ("b", False), ("c", True), ("d", True)]
    assert (tried.count("b"), tried.count("c"), tried.count("d")) == (3, 1, 2)
    assert not jobs.is_done(_job(tmp_path, "b"))
    # b was refused three times and d once; the last refusal of all has no start behind.
    pauses = [later - at for at, later in zip(times, times[1:], strict=False)]
    assert sum(pause >= 0.2 for pause in pauses) >= 3


def test_a_killed_process_is_started_again(tmp_path):
    code = "if count == 1: os.kill(os.getpid(), signal.SIGKILL)\n" + _DONE
    always = "os.kill(os.getpid(), signal.SIGSEGV)"
    asked = "sys.exit(143)"  # As a binary does that SIGTERM let clean up.
    some = [
        _job(tmp_path, "once", code),
        _job(tmp_path, "always", always),
        _job(tmp_path, "asked", asked),
    ]
    found = jobs.run(some, LocalProcess, at_once=1, tries=2)
    assert found["once"].ok
    assert found["always"].reason == "killed by SIGSEGV"
    assert found["asked"].reason == "asked to end by SIGTERM"
    assert [_calls(job) for job in some] == [2, 2, 2]


def test_what_is_done_is_not_run_again_unless_it_is_another_job(tmp_path):
    job = _job(tmp_path, "one")
    seen = []

    def again(job):
        return jobs.run(
            [job],
            LocalProcess,
            at_once=1,
            on_outcome=lambda job, outcome: seen.append(outcome.seconds),
        )

    again(job)
    again(job)
    assert _calls(job) == 1
    assert seen[0] > 0 and seen[1] is None
    again(_job(tmp_path, "one", _DONE + "# Other arguments."))
    assert _calls(job) == 2
    job.result.unlink()  # The proof without the result is none.
    again(_job(tmp_path, "one", _DONE + "# Other arguments."))
    assert _calls(job) == 3


_SCHEDULER = """
import pathlib, sys
from tff_leak.runtime import jobs, signals
folder = pathlib.Path(sys.argv[1])
code = "import os, pathlib, signal, sys, time\\n"
code += "place = pathlib.Path(sys.argv[1])\\n"
code += "def leave(*_): place.with_suffix('.left').touch(); sys.exit(143)\\n"
code += "signal.signal(signal.SIGTERM, leave)\\n"
code += "place.with_suffix('.pid').write_text(str(os.getpid()))\\n"
code += "for _ in range(2000): time.sleep(0.05)\\n"
some = [
    jobs.Job(name, ("-c", code), folder, folder / name, folder / f"{name}.json",
             (str(folder / name),))
    for name in "abc"
]
with signals.ends_cleanly():
    jobs.run(some, jobs.LocalProcess, at_once=2)
"""


def _is_gone(pid, patience_s=5.0):
    """Whether the process ends in time; one that is only not reaped has ended."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        if stat.rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name
)
def test_no_process_outlives_an_interrupted_scheduler(tmp_path, signum):
    scheduler = subprocess.Popen(
        [sys.executable, "-c", _SCHEDULER, str(tmp_path)],
        env=dict(os.environ, PYTHONPATH=str(_ROOT)),
        stderr=subprocess.DEVNULL,
    )
    files = [tmp_path / "a.pid", tmp_path / "b.pid"]
    deadline = time.monotonic() + 30
    while not all(path.exists() and path.read_text() for path in files):
        assert time.monotonic() < deadline and scheduler.poll() is None
        time.sleep(0.02)
    pids = [int(path.read_text()) for path in files]
    assert not any(_is_gone(pid, 0.1) for pid in pids)
    scheduler.send_signal(signum)
    assert scheduler.wait(timeout=30) != 0
    assert all(_is_gone(pid) for pid in pids)
    assert not (tmp_path / "c.pid").exists()
    # They were asked to end, where there was somebody left to ask.
    left = [path.with_suffix(".left").exists() for path in files]
    assert left == [signum != signal.SIGKILL] * 2


def test_the_scheduler_needs_no_tensorflow():
    code = "import sys, tff_leak.runtime.jobs; sys.exit('tensorflow' in sys.modules)"
    environment = dict(os.environ, PYTHONPATH=str(_ROOT))
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
