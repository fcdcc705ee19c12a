"""TFF's native execution, with a worker that ends when it should.

TFF runs computations in a C++ process, `worker_binary`, over gRPC. The one that
`tff.backends.native` starts outlives an exception or a kill of its parent, keeps
the parent's stdout open, and is started again for ever if it dies. This module
starts the same binary and speaks to it through the same public classes, but:

- the worker ends with its `with` block, at exit after `install`, and by the kernel
  if this process dies in any way;
- it holds none of our standard streams; the end of its log is part of the error;
- if it dies, the calls in progress and all later ones raise `WorkerDiedError`;
- calls made at the same time run at the same time. TFF's executor blocks the event
  loop while it waits, so that two awaited computations would follow one another;
  here each call waits in a thread.
"""

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

import grpc
import portpicker
import tensorflow_federated as tff

from tff_leak.runtime import parent_death

_MAX_MESSAGE_BYTES = 2 * 1000 * 1000 * 1000
_CHANNEL_OPTIONS = (
    ("grpc.max_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # The worker is on this machine, whatever http_proxy says.
    ("grpc.enable_http_proxy", 0),
)
_READY_POLL_S = 0.02
_START_TIMEOUT_S = 60.0
# How long after a broken connection the process is given to be seen as dead.
_DEATH_NOTICE_S = 0.5
_LOG_LINES = 5


class WorkerDiedError(RuntimeError):
    """The worker process has ended, or cannot be reached, while it was needed."""


class Worker:
    """A running worker process. Make it with `worker` or `install`.

    Attributes:
      pid: the process id of the worker.
    """

    def __init__(
        self,
        threads: int | None = None,
        max_concurrent_calls: int = -1,
        deterministic: bool = False,
    ):
        """Starts the worker and returns when it answers; see `worker`."""
        self._owner = os.getpid()
        self._closed = False
        environment = _environment(threads, deterministic)
        self._process = _start(max_concurrent_calls, environment)
        self.pid = self._process.pid
        self._lock = threading.Lock()
        self._idle: list[_Caller] = []
        self._callers: list[_Caller] = []
        self._compile = _shared_compiler()

    def async_context(self) -> tff.framework.AsyncContext:
        """A context in which a computation returns an awaitable."""
        return _AsyncContext(self)

    def sync_context(self) -> tff.framework.SyncContext:
        """A context in which a computation returns its result."""
        return _SyncContext(self)

    def close(self) -> None:
        """Ends the worker. Calls in progress fail. A second call does nothing."""
        if self._closed or os.getpid() != self._owner:
            return  # A forked child must not end its parent's worker.
        self._closed = True
        self._process.kill()
        with self._lock:
            callers = list(self._callers)
        for caller in callers:
            caller.close()
        self._process.channel.close()

    def submit(self, comp: Any, arg: Any) -> concurrent.futures.Future:
        """Starts a computation in a thread; raises nothing, the future may."""
        future: concurrent.futures.Future = concurrent.futures.Future()

        def call() -> None:
            try:
                future.set_result(self._call(comp, arg))
            except BaseException as error:
                future.set_exception(error)

        future.set_running_or_notify_cancel()  # From here on it cannot be cancelled.
        # Not an executor's thread: Python would wait for those at exit, before it
        # runs the handler that ends the worker they are waiting for.
        threading.Thread(target=call, name="tff-call", daemon=True).start()
        return future

    def _call(self, comp: Any, arg: Any) -> Any:
        if self._closed:
            raise RuntimeError("The TFF worker of this context has been closed.")
        with self._lock:
            if self._idle:
                caller = self._idle.pop()
            else:
                caller = _Caller(self._process, self._compile)
                self._callers.append(caller)
        try:
            return caller.call(comp, arg)
        finally:
            with self._lock:
                self._idle.append(caller)


@contextlib.contextmanager
def worker(
    threads: int | None = None,
    max_concurrent_calls: int = -1,
    deterministic: bool = False,
) -> Iterator[Worker]:
    """A worker for the duration of a `with` block.

    Args:
      threads: threads that TensorFlow may use in the worker, within an op and
        between ops; None for one per core. Sums are split among them, so that the
        last bits of a result depend on their number.
      max_concurrent_calls: how many computations the worker runs at a time within
        one call (clients in parallel); without limit if not positive.
      deterministic: asks TensorFlow for deterministic ops. A random op without a
        seed is then an error; shuffling without one is not, and stays random.

    Raises:
      WorkerDiedError: if the worker does not start.
    """
    started = Worker(threads, max_concurrent_calls, deterministic)
    try:
        yield started
    finally:
        started.close()


def install(
    threads: int | None = None,
    max_concurrent_calls: int = -1,
    deterministic: bool = False,
    *,
    asynchronous: bool = True,
) -> Worker:
    """Starts a worker as TFF's default context; it ends at exit.

    TFF keeps default contexts by thread: computations must be called in the thread
    that called this function.

    Args:
      threads: see `worker`.
      max_concurrent_calls: see `worker`.
      deterministic: see `worker`.
      asynchronous: whether a computation returns an awaitable, as the program loop
        needs it, or its result.

    Raises:
      WorkerDiedError: if the worker does not start.
    """
    started = Worker(threads, max_concurrent_calls, deterministic)
    atexit.register(started.close)
    context = started.async_context() if asynchronous else started.sync_context()
    tff.framework.set_default_context(context)
    return started


def _shared_compiler() -> Any:
    """The native compiler, which does each computation once for all callers."""
    cached = functools.lru_cache(maxsize=128)(
        tff.backends.native.desugar_and_transform_to_native
    )
    lock = threading.Lock()

    def compile_once(comp):
        with lock:
            return cached(comp)

    return compile_once


class _AsyncContext(tff.framework.AsyncContext):
    """Runs each call in a thread and awaits it."""

    def __init__(self, owner: Worker):
        self._worker = owner

    async def invoke(self, comp, arg):
        if asyncio.iscoroutine(arg):
            arg = await arg
        return await asyncio.wrap_future(self._worker.submit(comp, arg))


class _SyncContext(tff.framework.SyncContext):
    """Runs each call in a thread, since the caller's may have an event loop."""

    def __init__(self, owner: Worker):
        self._worker = owner

    def invoke(self, comp, arg):
        return self._worker.submit(comp, arg).result()


class _Caller:
    """One TFF execution context, used by one call at a time.

    TFF's remote executor is not made for calls from several threads.
    """

    def __init__(self, process: "_Process", compiler_fn: Any):
        self._process = process
        self._factory = _OneTryFactory(process)
        self._context = tff.framework.AsyncExecutionContext(
            executor_fn=self._factory,
            compiler_fn=compiler_fn,
            transform_args=tff.tensorflow.transform_args,
            transform_result=tff.tensorflow.transform_result,
        )

    def call(self, comp: Any, arg: Any) -> Any:
        self._factory.begin()
        try:
            return asyncio.run(self._context.invoke(comp, arg))
        except grpc.RpcError:
            self._process.check(patience_s=_DEATH_NOTICE_S)
            raise

    def close(self) -> None:
        self._factory.close()


class _OneTryFactory(tff.framework.ResourceManagingExecutorFactory):
    """Executors on the worker; refuses to make a second one after a failure.

    TFF's contexts repeat a call for ever if the connection breaks, in the hope that
    somebody starts the worker again. Here nobody does.
    """

    def __init__(self, process: "_Process"):
        super().__init__(self._connect)
        self._process = process
        self._failure: BaseException | None = None
        self._open: list[tff.framework.RemoteExecutor] = []

    def begin(self) -> None:
        """To be called before each call of a computation."""
        self._failure = None
        self._process.check()

    def create_executor(self, cardinalities):
        """Makes or finds an executor, unless this call has failed before."""
        if self._failure is not None:
            self._process.check(patience_s=_DEATH_NOTICE_S)
            raise RuntimeError(
                f"A call to the TFF worker failed: {_reason(self._failure)}"
            ) from self._failure
        return super().create_executor(cardinalities)

    def clean_up_executor(self, cardinalities):
        """Called by the context while it handles the failure of a call."""
        self._failure = sys.exc_info()[1]
        super().clean_up_executor(cardinalities)

    def close(self) -> None:
        """Forgets the values on the worker, which nobody needs to dispose of now."""
        for executor in self._open:
            executor.close()

    def _connect(self, cardinalities):
        self._process.check()
        cardinalities.setdefault(tff.CLIENTS, 0)
        executor = tff.framework.RemoteExecutor(self._process.stub)
        executor.set_cardinalities(cardinalities)
        self._open.append(executor)
        return executor


def _reason(error: BaseException) -> str:
    """What gRPC says about a failed call, without its debugging text."""
    if isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"


class _Process:
    """The worker process and the channel to it."""

    def __init__(self, max_concurrent_calls: int, environment: dict[str, str]):
        self._port = portpicker.pick_unused_port()
        self._log = tempfile.TemporaryFile()
        command = [
            sys.executable,
            "-I",
            "-S",
            parent_death.__file__,
            str(os.getpid()),
            str(_binary()),
            f"--port={self._port}",
            f"--max_concurrent_computation_calls={max_concurrent_calls}",
        ]
        started: concurrent.futures.Future[subprocess.Popen] = (
            concurrent.futures.Future()
        )
        self._ended = threading.Event()
        self._killed = False

        def own() -> None:
            # The kernel kills the worker when the thread that started it ends, not
            # the process. This thread does nothing else and lasts as long.
            try:
                process = _spawn(command, environment, self._log)
            except BaseException as error:
                started.set_exception(error)
                return
            started.set_result(process)
            process.wait()
            self._ended.set()

        threading.Thread(target=own, name="tff-worker", daemon=True).start()
        self._popen = started.result()
        self.pid = self._popen.pid

    def connect(self) -> bool:
        """Waits for the worker; False if it ended first.

        Raises:
          WorkerDiedError: if it does not answer in time.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not _listens(self._port):
            if self._ended.wait(_READY_POLL_S):
                return False
            if time.monotonic() > deadline:
                self.kill()
                raise WorkerDiedError(
                    f"The TFF worker (pid {self.pid}) did not answer within "
                    f"{_START_TIMEOUT_S:.0f} s. Its log ends with: {self._tail()}"
                )
        # Only now: a first attempt in vain would make gRPC wait for a second.
        self.channel = grpc.insecure_channel(
            f"localhost:{self._port}", _CHANNEL_OPTIONS
        )
        self.stub = tff.framework.RemoteExecutorGrpcStub(_Unwatched(self.channel))
        return not self._ended.is_set()  # It may be another's port that listens.

    def check(self, patience_s: float = 0.0) -> None:
        """Raises `WorkerDiedError` if the worker has ended or does so in a moment."""
        if self._ended.wait(patience_s):
            raise self.death()

    def death(self) -> WorkerDiedError:
        """The error that says how the worker ended."""
        status = self._popen.returncode
        if self._killed:
            how = "was ended by this program"
        elif status < 0:
            name = signal.Signals(-status).name
            how = f"was killed by {name}"
            if name == "SIGKILL":
                how += " (often because memory ran out)"
        else:
            how = f"ended with exit status {status}"
        return WorkerDiedError(
            f"The TFF worker (pid {self.pid}) {how}. Its log ends with: {self._tail()}"
        )

    def kill(self) -> None:
        """Kills the worker, which has nothing to save, and waits for its end."""
        if not self._ended.is_set():
            self._killed = True
            self._popen.kill()
            self._ended.wait()

    def _tail(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        start = max(0, size - 4096)
        text = os.pread(self._log.fileno(), size - start, start)
        lines = text.decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-_LOG_LINES:]) or "(nothing)"


class _Unwatched:
    """What TFF's stub needs of a channel, without a watch on its state.

    gRPC watches the state in a thread, which prints a traceback if the channel is
    closed at the wrong moment. Whether the worker lives is known from its process.
    """

    def __init__(self, channel: grpc.Channel):
        self.unary_unary = channel.unary_unary

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None:
        """Reports nothing."""


def _start(max_concurrent_calls: int, environment: dict[str, str]) -> _Process:
    """A connected worker process."""
    for _ in range(3):  # Another process may have taken the port in between.
        process = _Process(max_concurrent_calls, environment)
        try:
            if process.connect():
                return process
        except BaseException:
            process.kill()
            raise
    raise process.death()


def _spawn(
    command: list[str], environment: dict[str, str], log: IO[bytes]
) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
        # Ctrl-C in a terminal goes to this process alone, which ends the worker.
        start_new_session=True,
    )


def _environment(threads: int | None, deterministic: bool) -> dict[str, str]:
    environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
    if threads is not None:
        if threads < 1:
            raise ValueError(f"Expected at least one thread, found {threads}.")
        environment["TF_NUM_INTRAOP_THREADS"] = str(threads)
        environment["TF_NUM_INTEROP_THREADS"] = str(threads)
    if deterministic:
        environment["TF_DETERMINISTIC_OPS"] = "1"
    return environment


def _binary() -> pathlib.Path:
    path = pathlib.Path(tff.__file__).parent / "data" / "worker_binary"
    if not path.is_file():
        raise WorkerDiedError(
            f"{path}: no such file; expected the worker binary of "
            "tensorflow-federated for Linux; install the project's locked requirements"
        )
    return path


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("localhost", port), timeout=1):
            return True
    except OSError:
        return False
