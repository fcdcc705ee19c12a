"""The execution contexts that are compared, for calls that take turns."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow_federated as tff

from tff_leak.runtime import native, runtimes

Call = Callable[..., Any]


def in_process(threads: int | None, **options: Any) -> Any:
    """Returns the in-process context; all options are `tff_leak.runtime.use`'s."""
    return runtimes.use("in_process", threads=threads, asynchronous=False, **options)


@contextlib.contextmanager
def tff_own(threads: int) -> Iterator[Any]:
    """TFF's own context: its worker, started by the project so that it also ends.

    The binary, the compiler and the settings are those of
    `tff.backends.native.set_sync_local_cpp_execution_context()`, but for the threads.
    """
    with native.worker(threads=threads) as worker:
        yield worker.sync_context()


def calling(context: Any, computation: Call) -> Call:
    """Returns a function that calls the computation in this context."""

    def call(*arguments: Any) -> Any:
        with tff.framework.get_context_stack().install(context):
            return computation(*arguments)

    return call
