"""Starts jobs on a Ray cluster, one remote task a job.

Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications" (OSDI 2018).
Ray is an optional dependency (the extra `ray` of this project) and is imported only
when a cluster is asked for.

Every machine of the cluster must see the working directories of jobs and the files
that they name under the same paths, on a shared file system, and run workers in an
environment that can run the commands. A task waits for its command and computes nothing
itself. When its worker or machine is lost, `jobs.run` starts the job anew, and the
command goes on with what it finds in its run directory; Ray itself tries nothing again,
so that a job is not started more often than `jobs.run` was told. When the connection to
the cluster ends, Ray ends the workers, and the kernel their commands.
"""

import contextlib
import os
import pathlib
import re
import signal
import socket
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import tff_leak
from tff_leak.errors import InputError
from tff_leak.runtime.jobs import Job, LocalProcess, Outcome, Start

_NO_RETRIES = 0
"""Of Ray's own: they would multiply with those of `jobs.run`."""
_ANSWER_S = 5.0
_SEEN_S = 60.0
"""So long a network file system may hide what another machine has written."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ROOT = pathlib.Path(tff_leak.__file__).parents[1]


@contextlib.contextmanager
def cluster(address: str, *, cpus: int) -> Iterator[Start]:
    """Connects to a cluster for the duration of a `with` block.

    Args:
      address: of a running cluster: HOST:PORT, or "auto" for the one that this machine
        is part of; "local" starts one on this machine.
      cpus: logical ones of the cluster that a job takes.

    Yields:
      What `jobs.run` starts jobs with. Ray queues what it has no place for.

    Raises:
      InputError: if Ray is not installed, there is no cluster, or none of its machines
        has so many CPUs.
    """
    ray = _import_ray(address)
    try:
        _check_answers(address)
        _connect(ray, address)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--ray_address is {address!r} ({str(error).splitlines()[0]}): expected a "
            "running Ray cluster; start one with `ray start --head`, or correct it"
        ) from None
    try:
        _check_room(ray, cpus)
        remote = ray.remote(num_cpus=cpus, max_retries=_NO_RETRIES)(_run)
        yield lambda job: _Task(ray, remote, job)
    finally:
        ray.shutdown()


def _import_ray(address: str) -> ModuleType:
    try:
        import ray
    except ImportError:
        raise InputError(
            f"--ray_address is {address!r}, and the package ray is not installed: "
            "expected it, as an optional dependency; `make ray` installs it, or leave "
            "the address out"
        ) from None
    return ray


def _check_answers(address: str) -> None:
    """Raises OSError if nobody listens at HOST:PORT, for which Ray waits minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()


def _connect(ray: ModuleType, address: str) -> None:
    ends_cleanly = signal.getsignal(signal.SIGTERM)
    # Workers import this project from where it is here.
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    ray.init(
        address=address,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
        log_to_driver=False,
        logging_level="ERROR",
    )
    # Ray puts a handler of its own in its place.
    signal.signal(signal.SIGTERM, ends_cleanly)


def _check_room(ray: ModuleType, cpus: int) -> None:
    """Raises InputError if no machine can take a job, which would wait for ever."""
    sizes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    largest = int(max(sizes, default=0))
    # A cluster without any CPU is one that starts machines when they are asked for.
    if 0 < largest < cpus:
        raise InputError(
            f"--threads_per_job is {cpus}: expected at most {largest}, the CPUs of the "
            "cluster's largest machine; lower it, or add a larger machine"
        )


def _run(job: Job) -> Outcome:
    """Runs in a worker of the cluster, in its main thread, as `LocalProcess` wants."""
    host = socket.gethostname()
    if not job.directory.is_dir():
        reason = (
            f"{job.directory} is not there on {host}: expected a file system that all "
            "machines of the cluster share; put code and --output_dir on one"
        )
        return Outcome(False, reason, lost=True)
    try:
        return LocalProcess(job).run()
    except OSError as error:  # Another machine may have room.
        return Outcome(False, f"not started on {host}: {error}", lost=True)


class _Task:
    """A job in the cluster; a `jobs.Running`."""

    def __init__(self, ray: ModuleType, remote: Any, job: Job):
        self._ray = ray
        self._job = job
        self._missed_at: float | None = None
        self._ref = remote.options(name=job.name).remote(job)

    def poll(self) -> Outcome | None:
        try:
            if not self._ended(0):
                return None
            outcome = self._ray.get(self._ref)
        except self._ray.exceptions.RayError as error:
            # The worker or its machine; `jobs.run` tries again.
            reason = f"lost by the cluster: {_reason(error)}"
            return Outcome(False, reason, lost=True)
        if outcome.ok and not self._job.result.is_file():
            self._missed_at = self._missed_at or time.monotonic()
            if time.monotonic() < self._missed_at + _SEEN_S:
                return None
            reason = (
                f"{self._job.result} was written on another machine and is not here: "
                "expected a file system that all machines share; put --output_dir on "
                "one"
            )
            return Outcome(False, reason, seconds=outcome.seconds)
        return outcome

    def terminate(self) -> None:
        # With its worker goes the command. Ray leaves no other way from outside.
        self._ray.cancel(self._ref, force=True)

    def wait(self, patience_s: float) -> None:
        self._ended(patience_s)

    def _ended(self, patience_s: float) -> bool:
        return bool(self._ray.wait([self._ref], timeout=patience_s)[0])


def _reason(error: Exception) -> str:
    """One line: an error within a task ends with it, others begin with it."""
    text = _COLOUR.sub("", str(error)).strip()
    lines = text.splitlines() or [type(error).__name__]
    return lines[-1 if lines[0].startswith("ray::") else 0].strip()
