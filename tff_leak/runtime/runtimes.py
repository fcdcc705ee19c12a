"""Chooses what runs TFF's computations; `tff_leak.runtime.use` is this module's."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.errors import InputError
from tff_leak.runtime import native
from tff_leak.runtime.in_process.context import (
    AsyncInProcessContext,
    InProcessContext,
)

RUNTIMES = ("in_process", "native")
PRECISIONS = ("float32", "bfloat16")


def check(runtime: str, precision: str) -> None:
    """Checks what can be told before anything is written.

    Raises:
      InputError: if the native runtime is asked for another precision than its own.
    """
    if runtime == "native" and precision != "float32":
        raise InputError(
            f"precision is {precision!r} with runtime 'native': expected float32, as "
            "TFF's worker has no such choice; leave it out or use in_process"
        )


def use(
    runtime: str = "in_process",
    *,
    threads: int | None = None,
    asynchronous: bool = False,
    client_devices: Sequence[str] | None = None,
    server_device: str | None = None,
    concurrent_clients: int = 1,
    fuse: bool = True,
    vectorize: int = 1,
    precision: str = "float32",
) -> Any:
    """Makes a runtime TFF's default execution context in this thread.

    Args:
      runtime: "in_process" runs computations in this process, on any device; "native"
        in TFF's own C++ worker, on the CPU, and is the reference.
      threads: of TensorFlow, in this process too; None leaves them as they are (see
        `use_threads`), and gives a worker one for each core.
      asynchronous: whether a computation returns an awaitable, as `tff.program` needs
        it, or its result.
      client_devices: names of logical devices, such as "GPU:0", that clients are dealt
        to; None is TensorFlow's choice. In process only, as all that follow.
      server_device: where everything else runs.
      concurrent_clients: at the same time on each device.
      fuse: one TensorFlow function of all that is done in one place.
      vectorize: small clients at the same time in one function; see
        `in_process.context.Runtime`.
      precision: "bfloat16" lets TensorFlow compute convolutions and products of
        matrices in bfloat16 where it takes that to be safe, for the whole process;
        values between pieces stay float32.

    Returns:
      The context; `runtime.traces` of one in process counts functions built.

    Raises:
      InputError: for an unknown name, or an option that the native runtime has not.
    """
    if runtime not in RUNTIMES:
        raise InputError(
            f"runtime is {runtime!r}: expected one of {', '.join(RUNTIMES)}; correct it"
        )
    if precision not in PRECISIONS:
        raise InputError(
            f"precision is {precision!r}: expected one of {', '.join(PRECISIONS)}; "
            "correct it"
        )
    check(runtime, precision)
    if runtime == "native":
        plain = not (client_devices or server_device)
        plain = plain and concurrent_clients == vectorize == 1
        if not plain:
            raise InputError(
                "runtime 'native' was given devices or concurrent clients: expected "
                "none of them, as TFF's worker has no such choice; leave them out or "
                "use in_process"
            )
        return native.install(threads=threads, asynchronous=asynchronous)
    if threads is not None:
        use_threads(threads)
    for device in tf.config.list_physical_devices("GPU"):
        # A GPU's memory is otherwise taken whole. Once it is in use, it is too late.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(device, True)
    if precision == "bfloat16":
        tf.config.optimizer.set_experimental_options(
            {"auto_mixed_precision_onednn_bfloat16": True}
        )
    make = AsyncInProcessContext if asynchronous else InProcessContext
    context = make(
        client_devices=client_devices,
        server_device=server_device,
        threads=concurrent_clients,
        fuse=fuse,
        vectorize=vectorize,
    )
    tff.framework.set_default_context(context)
    return context


def use_threads(threads: int | None) -> int:
    """Settles how many threads TensorFlow uses in this process and its workers.

    To be called before TensorFlow computes anything. The number belongs to a run's
    identity: the last bits of a sum depend on it.

    Args:
      threads: at least 1; None for one per core that this process may use.

    Returns:
      The number, for `use` and for the run's configuration.

    Raises:
      InputError: if it is too late.
    """
    number = threads or len(os.sched_getaffinity(0))
    try:
        tf.config.threading.set_intra_op_parallelism_threads(number)
    except RuntimeError:
        raise InputError(
            f"threads is {number}: expected it before TensorFlow has computed "
            "anything; choose the runtime first"
        ) from None
    return number
