"""Jobs on a real Ray cluster of this machine; skipped where Ray is not installed."""

import importlib.util
import os
import pathlib
import signal
import sys
import threading
import time
import types

import pytest

from tff_leak.errors import InputError
from tff_leak.runtime import jobs, ray_jobs
from tff_leak.runtime.jobs import Job

_HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not _HAS_RAY, reason="ray is not installed")

# Says who it is and whose child, then waits for a file before it ends.
_WAITS = """
import os, pathlib, sys, time
place = pathlib.Path(sys.argv[1])
with open(place.with_suffix(".pids"), "a") as file:
    file.write(f"{os.getpid()} {os.getppid()}\\n")
while not place.with_name("go").exists():
    time.sleep(0.05)
place.write_text("done")
"""


def _job(folder, name, code):
    result = folder / name
    places = (str(result),)
    return Job(
        name, ("-c", code), folder, result, folder / f"{name}.json", places=places
    )


def test_without_ray_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # An import of it fails.
    with pytest.raises(InputError, match="`make ray` installs it"):
        with ray_jobs.cluster("auto", cpus=1):
            pass


class _FakeRay:
    """A cluster whose workers are lost; Ray's own retries are as it documents them."""

    RayError = type("RayError", (Exception,), {})

    def __init__(self, *nodes):
        self.exceptions, self._nodes, self.started, self.open = self, nodes, 0, False

    def init(self, **settings):
        self.open = True

    def shutdown(self):
        self.open = False

    def nodes(self):
        return [
            {"Alive": alive, "Resources": {"CPU": float(cpus)} if cpus else {}}
            for cpus, alive in self._nodes
        ]

    def remote(self, *, num_cpus, max_retries=3):
        def start(job):
            self.started += 1 + max_retries

        handle = types.SimpleNamespace(remote=start)
        return lambda run: types.SimpleNamespace(options=lambda name: handle)

    def wait(self, refs, timeout):
        return refs, []

    def get(self, ref):
        raise self.RayError("the worker died\nand more")


@pytest.fixture
def fake_ray(monkeypatch):
    def install(*nodes):
        fake = _FakeRay(*nodes)
        monkeypatch.setitem(sys.modules, "ray", fake)
        return fake

    return install


def test_a_job_is_started_as_often_as_the_scheduler_says_and_not_by_ray(
    tmp_path, fake_ray
):
    ray = fake_ray((4, True))
    with ray_jobs.cluster("auto", cpus=4) as start:
        found = jobs.run([_job(tmp_path, "a", "")], start, at_once=1, tries=3)
    assert ray.started == 3 and not ray.open
    assert found["a"].reason == "lost by the cluster: the worker died"


def test_jobs_that_no_machine_has_place_for_are_refused(fake_ray):
    ray = fake_ray((4, True), (2, True), (0, True), (64, False))
    message = "--threads_per_job is 5: expected at most 4, the CPUs of the cluster's"
    with pytest.raises(InputError, match=message):
        with ray_jobs.cluster("auto", cpus=5):
            pass
    assert not ray.open
    # What has no CPU yet may start machines that do.
    fake_ray((0, True))
    with ray_jobs.cluster("auto", cpus=5):
        pass


@needs_ray
def test_an_address_without_a_cluster_is_bad_input():
    with pytest.raises(InputError, match="--ray_address is '127.0.0.1:1'"):
        with ray_jobs.cluster("127.0.0.1:1", cpus=1):
            pass


def _pids(folder, name, count):
    """The commands' and their workers' ids, once there are so many."""
    path = folder / f"{name}.pids"
    deadline = time.monotonic() + 60
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= count:
            return [tuple(map(int, line.split())) for line in lines]
        assert time.monotonic() < deadline, lines
        time.sleep(0.05)


def test_a_worker_without_the_working_directory_says_so(tmp_path):
    job = _job(tmp_path / "elsewhere", "a", "")
    found = ray_jobs._run(job)
    assert found.lost and not found.ok
    assert "elsewhere is not there on" in found.reason
    assert "a file system that all machines of the cluster share" in found.reason


def test_a_worker_that_cannot_start_a_command_says_why(tmp_path):
    (tmp_path / "a.json.stderr").mkdir()  # Where the command's words should go.
    found = ray_jobs._run(_job(tmp_path, "a", ""))
    assert found.lost and "not started on" in found.reason
    assert "Is a directory" in found.reason


def test_a_result_that_only_its_machine_sees_is_a_failure(
    tmp_path, fake_ray, monkeypatch
):
    fake_ray((4, True))
    monkeypatch.setattr(_FakeRay, "get", lambda self, ref: jobs.Outcome(True))
    monkeypatch.setattr(ray_jobs, "_SEEN_S", 0.3)
    job, late = _job(tmp_path, "a", ""), _job(tmp_path, "late", "")
    threading.Timer(0.1, late.result.touch).start()
    with ray_jobs.cluster("auto", cpus=1) as start:
        outcomes = jobs.run([job, late], start, at_once=2)
    found = outcomes["a"]
    assert not found.ok and "is not here" in found.reason and not jobs.is_done(job)
    # What a file system shows a little later counts.
    assert outcomes["late"].ok and jobs.is_done(late)


@pytest.mark.parametrize(
    "said, reason",
    [
        ("The worker died.\nand more", "The worker died."),
        ("ray::a (pid=1)\n  File x\nValueError: why", "ValueError: why"),
        # As Ray writes it.
        ("\x1b[36mray::a()\x1b[39m (pid=1)\n  x\nOSError: why", "OSError: why"),
        ("", "RuntimeError"),
    ],
)
def test_the_reason_of_a_loss_is_the_line_that_says_it(said, reason):
    assert ray_jobs._reason(RuntimeError(said)) == reason


def _has_ended(pid):
    """Whether a process is gone, or waits for nothing but that its parent asks."""
    deadline = time.monotonic() + 10
    while True:
        try:
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return True
        if stat.rpartition(")")[2].split()[0] == "Z":
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


@needs_ray
def test_a_lost_worker_is_rescheduled_and_a_failure_stays_one(tmp_path):
    some = [
        _job(tmp_path, "waits", _WAITS),
        _job(tmp_path, "bad", "import sys; sys.exit('error: no; expected yes')"),
    ]

    def kill_the_worker_once():
        [(_, worker)] = _pids(tmp_path, "waits", 1)
        os.kill(worker, signal.SIGKILL)
        _pids(tmp_path, "waits", 2)
        (tmp_path / "go").touch()

    killer = threading.Thread(target=kill_the_worker_once)
    killer.start()
    with ray_jobs.cluster("local", cpus=1) as start:
        found = jobs.run(some, start, at_once=2)
    killer.join()
    assert found["waits"].ok and jobs.is_done(some[0])
    assert found["bad"].reason == "no; expected yes (exit code 1)"
    first, second = _pids(tmp_path, "waits", 2)
    assert first[1] != second[1]
    # The kernel ended the command with its worker.
    assert _has_ended(first[0])


@needs_ray
def test_an_interruption_ends_commands_in_the_cluster(tmp_path):
    def interrupt():
        _pids(tmp_path, "waits", 1)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        with ray_jobs.cluster("local", cpus=1) as start:
            jobs.run([_job(tmp_path, "waits", _WAITS)], start, at_once=1)
    [(command, _)] = _pids(tmp_path, "waits", 1)
    assert _has_ended(command)
