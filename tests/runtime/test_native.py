import asyncio
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import tff_leak
from tff_leak.runtime import native

_ENVIRONMENT = dict(os.environ, PYTHONPATH=pathlib.Path(tff_leak.__file__).parents[1])
# JAX sets it where TensorFlow is imported before tff_leak, as in these tests.
_ENVIRONMENT.pop("TF_CPP_MIN_LOG_LEVEL", None)


@tff.tensorflow.computation(np.int32)
def _add_one(x):
    return x + 1


@tff.tensorflow.computation(np.int32)
def _work(steps):
    """Multiplies 200 x 200 matrices, some 0.1 ms each."""
    _, x = tf.while_loop(
        lambda i, x: i < steps,
        lambda i, x: (i + 1, tf.matmul(x, x) / 200.0),
        (tf.constant(0), tf.eye(200)),
    )
    return tf.reduce_sum(x)


@tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
def _sum(values):
    return tff.federated_sum(tff.federated_map(_add_one, values))


@pytest.fixture(scope="module")
def worker():
    with native.worker(threads=2) as started:
        yield started


def _installed(context):
    return tff.framework.get_context_stack().install(context)


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


def test_sync_context(worker):
    with _installed(worker.sync_context()):
        assert _add_one(1) == 2
        assert _sum([1, 2, 3]) == 9
        assert _sum([5]) == 6


def test_async_contexts_calls_overlap(worker):
    """A short call, made while a long one is running, ends before it."""

    async def timed(comp, arg):
        start = time.monotonic()
        result = await comp(arg)
        return result, start, time.monotonic()

    async def both():
        await asyncio.gather(_add_one(0), _work(0))  # Compiles both.
        long = asyncio.create_task(timed(_work, 8000))
        await asyncio.sleep(0.2)
        short = asyncio.create_task(timed(_add_one, 41))
        return await asyncio.gather(long, short)

    with _installed(worker.async_context()):
        (_, long_start, long_end), (result, start, end) = asyncio.run(both())
    assert result == 42
    assert long_start < start < end < long_end


def test_many_calls_at_once_do_not_mix_their_results(worker):
    async def all_calls():
        sums = [_sum([i] * (1 + i % 3)) for i in range(30)]
        return await asyncio.gather(*sums)

    with _installed(worker.async_context()):
        found = asyncio.run(all_calls())
    assert found == [(i + 1) * (1 + i % 3) for i in range(30)]


def test_a_failing_computation_fails_once_and_the_worker_goes_on(worker):
    @tff.tensorflow.computation(np.int32)
    def fail(x):
        with tf.control_dependencies([tf.debugging.Assert(x > 0, ["not positive"])]):
            return tf.identity(x)

    with _installed(worker.sync_context()):
        with pytest.raises(Exception, match="not positive"):
            fail(-1)
        assert fail(1) == 1


def test_the_worker_holds_none_of_our_streams(worker):
    descriptors = pathlib.Path(f"/proc/{worker.pid}/fd")
    assert os.readlink(descriptors / "0") == "/dev/null"
    assert os.readlink(descriptors / "1") == "/dev/null"
    assert os.readlink(descriptors / "2").endswith("(deleted)")
    assert os.getsid(worker.pid) == worker.pid  # Out of reach of Ctrl-C.


def test_environment_of_the_worker():
    with native.worker(threads=3, deterministic=True) as started:
        content = pathlib.Path(f"/proc/{started.pid}/environ").read_bytes()
        with _installed(started.sync_context()):
            assert _sum([1, 2]) == 5
    variables = content.split(b"\0")
    for expected in (
        b"TF_NUM_INTRAOP_THREADS=3",
        b"TF_NUM_INTEROP_THREADS=3",
        b"TF_DETERMINISTIC_OPS=1",
        b"TF_CPP_MIN_LOG_LEVEL=3",
    ):
        assert expected in variables
    assert _is_gone(started.pid, patience_s=0.1)
    with pytest.raises(ValueError, match="at least one thread, found 0"):
        native.Worker(threads=0)


def test_a_worker_that_dies_is_named():
    async def kill_during_call(pid):
        call = asyncio.create_task(_work(1_000_000))
        await asyncio.sleep(0.3)
        assert not call.done()
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(call, timeout=5)

    with native.worker() as started, _installed(started.async_context()):
        with pytest.raises(native.WorkerDiedError, match="killed by SIGKILL.*memory"):
            asyncio.run(kill_during_call(started.pid))
        with pytest.raises(native.WorkerDiedError, match=f"pid {started.pid}"):
            asyncio.run(_add_one(1))


def test_a_worker_that_does_not_start_shows_its_log(tmp_path, monkeypatch):
    binary = tmp_path / "worker_binary"
    binary.write_text("#!/bin/sh\necho one >&2\necho no such library >&2\nexit 7\n")
    binary.chmod(0o755)
    monkeypatch.setattr(native, "_binary", lambda: binary)
    message = r"ended with exit status 7.*one \| no such library"
    with pytest.raises(native.WorkerDiedError, match=message):
        native.Worker()


def test_calls_after_the_end_say_so():
    with native.worker() as started:
        context = started.sync_context()
    started.close()  # A second time.
    with _installed(context), pytest.raises(RuntimeError, match="has been closed"):
        _add_one(1)


# Imports TensorFlow once, then forks a child for each way out. Each child uses a
# worker, reports it and leaves. The parent sends the signals, does the same itself,
# and ends normally.
_WAYS_OUT = """
import contextlib, json, os, pathlib, signal, sys, time
import tff_leak  # Before TensorFlow, so that its start-up is quiet.
import numpy as np
import tensorflow_federated as tff
from tff_leak.runtime import native, signals

def leave(way):
    if way.startswith("installed"):
        worker = native.install(asynchronous=False)
    else:
        worker = stack.enter_context(native.worker())
        tff.framework.set_default_context(worker.sync_context())
    add_one = tff.tensorflow.computation(lambda x: x + 1, np.int32)
    assert add_one(1) == 2
    pathlib.Path(f"{way}.tmp").write_text(str(worker.pid))
    os.rename(f"{way}.tmp", f"{way}.pid")
    how = way.split()[-1]
    if how == "exception":
        raise RuntimeError("on purpose")
    if how == "exit":
        sys.exit(3)
    if how.startswith("SIG"):
        for _ in range(1200):
            # One that comes just before a sleep is seen at its end.
            time.sleep(0.05)

children = {}
for way in sys.argv[1:]:
    children[way] = os.fork()
    if children[way] == 0:
        os.dup2(os.open(f"{way}.stderr", os.O_WRONLY | os.O_CREAT), 2)
        with contextlib.ExitStack() as stack:
            if "default" not in way:
                stack.enter_context(signals.ends_cleanly())
            leave(way)
        sys.exit()

report = {}
for way, child in children.items():
    deadline = time.monotonic() + 60
    while not os.path.exists(f"{way}.pid") and time.monotonic() < deadline:
        time.sleep(0.02)
    if "SIG" in way:
        os.kill(child, getattr(signal, way.split()[-1]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    stderr = pathlib.Path(f"{way}.stderr").read_text()
    worker = int(pathlib.Path(f"{way}.pid").read_text())
    report[way] = dict(status=status, stderr=stderr, worker=worker)
leave("installed normal")
worker = int(pathlib.Path("installed normal.pid").read_text())
report["installed normal"] = dict(status=0, stderr="", worker=worker)
print(json.dumps(report))
"""
# The exit status and the last line of stderr that each way should have.
_EXPECTED = {
    "block exception": (1, "RuntimeError: on purpose"),
    "block SIGINT": (-signal.SIGINT, "KeyboardInterrupt"),
    "block SIGTERM": (143, ""),
    "block SIGKILL": (-signal.SIGKILL, ""),
    "installed normal": (0, ""),
    "installed exit": (3, ""),
    "installed default SIGTERM": (-signal.SIGTERM, ""),
    "installed SIGKILL": (-signal.SIGKILL, ""),
}


@pytest.fixture(scope="module")
def ways_out(tmp_path_factory):
    ways = [way for way in _EXPECTED if way != "installed normal"]
    done = subprocess.run(
        [sys.executable, "-c", _WAYS_OUT, *ways],
        cwd=tmp_path_factory.mktemp("ways_out"),
        env=_ENVIRONMENT,
        capture_output=True,  # Returns when the last holder of the pipes has ended.
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize("way", list(_EXPECTED))
def test_the_worker_ends_with_its_program(ways_out, way):
    status, last_line = _EXPECTED[way]
    assert ways_out[way]["status"] == status
    assert _is_gone(ways_out[way]["worker"])
    lines = ways_out[way]["stderr"].splitlines()
    assert (lines or [""])[-1] == last_line
    assert len(lines) == 0 if not last_line else lines[0].startswith("Traceback")
