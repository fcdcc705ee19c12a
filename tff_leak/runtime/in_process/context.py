"""Execution contexts of TFF that run computations in this process.

    context = InProcessContext(threads=2)
    tff.framework.set_default_context(context)

A computation is compiled when it is called first: secure intrinsics are replaced by
bodies that compute the same in the clear (there is no cryptography here), TFF brings it
to call-dominant form, and `plan` cuts it into segments.
"""

import asyncio
import collections
import concurrent.futures
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.errors import InputError
from tff_leak.runtime.in_process import interpreter, plan, shim, values
from tff_leak.runtime.in_process.data import Ingestion
from tff_leak.runtime.in_process.execution import Execution, Stop
from tff_leak.runtime.in_process.importer import (
    Importer,
    is_gathering,
    is_stateful,
)
from tff_leak.runtime.in_process.segments import Slot

# Computations are kept compiled, the least recently used ones are forgotten.
_KEPT = 128
_serial = itertools.count()


class Runtime:
    """Compiles and runs computations; what both contexts have in common.

    Attributes:
      traces: TensorFlow functions built so far. A process that has run for two rounds
        builds none any more.
    """

    def __init__(
        self,
        *,
        client_devices: Sequence[str] | None = None,
        server_device: str | None = None,
        threads: int = 1,
        fuse: bool = True,
        vectorize: int = 1,
    ):
        """Makes a runtime; nothing runs yet.

        Args:
          client_devices: names of TensorFlow's logical devices, such as "GPU:0", that
            clients are dealt to in turn; None is one place of TensorFlow's choice.
          server_device: where everything else runs; None as above.
          threads: clients at the same time on each device, at least 1. Each has its
            own accumulator, so that the last bits of a sum depend on the number.
          fuse: makes one TensorFlow function of all that is done in one place between
            two aggregations; else pieces are called one by one, which is slower and
            tells exactly which piece failed.
          vectorize: clients at the same time in one TensorFlow function, at least 1;
            worth while for small models. Only what goes from tensors to tensors
            without variables is vectorised, as `computations/fed_avg.py` is; a warning
            tells where TensorFlow cannot. Needs `fuse`.

        Raises:
          InputError: if there is no such device, or a number is out of its range.
        """
        for name, value in (("threads", threads), ("vectorize", vectorize)):
            if value < 1:
                raise InputError(f"{name} is {value}: expected at least 1; correct it")
        devices = [_device(name) for name in client_devices or [None]]
        self._number = next(_serial)
        self._server = Slot(f"r{self._number}_server", _device(server_device))
        self._clients = [
            Slot(f"r{self._number}_{device}_{thread}", device)
            for thread in range(threads)
            for device in devices
        ]
        self._fuse = fuse
        self._vectorize = vectorize
        self._ingest = Ingestion()
        self._lock = threading.RLock()
        self._compiled: collections.OrderedDict[int, tuple] = collections.OrderedDict()
        self.traces = 0

    def run(self, comp: Any, argument: Any, stop: Stop) -> Any:
        """Runs a computation, and returns its result in TFF's Python types."""
        execution, convert = self._execution(comp)
        parameter_type = comp.type_signature.parameter
        clients = 0
        if parameter_type is not None:
            cardinalities = shim.infer_cardinalities(argument, parameter_type)
            clients = cardinalities.get(tff.CLIENTS, 0)
            argument = self._ingest(argument, parameter_type)
        result = execution.run(argument, parameter_type, clients, stop)
        return convert(result)

    def _execution(self, comp: Any) -> tuple[Execution, Callable[[Any], Any]]:
        with self._lock:
            # By identity: TFF's hash of a computation serialises all of it.
            known = self._compiled.get(id(comp))
            if known is None:
                convert = values.converter(comp.type_signature.result)
                known = (comp, self._compile(comp), convert)
                self._compiled[id(comp)] = known
                if len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(id(comp))
            return known[1:]

    def _compile(self, comp: Any) -> Execution:
        block = to_local_steps(comp)
        interpreter.check_supported(block)
        signature = comp.type_signature.compact_representation()
        if len(signature) > 200:
            signature = f"{signature[:200]}..."
        return Execution(
            signature,
            plan.make_plan(block, is_stateful, is_gathering),
            Importer(),
            self._server,
            self._clients,
            fuse=self._fuse,
            vectorize=self._vectorize,
            on_trace=self._count_trace,
        )

    def _count_trace(self) -> None:
        with self._lock:
            self.traces += 1


class InProcessContext(tff.framework.SyncContext):
    """A context in which a computation returns its result."""

    def __init__(self, **options: Any):
        """Makes a context with the options of `Runtime`."""
        self.runtime = Runtime(**options)

    def invoke(self, comp: Any, arg: Any) -> Any:
        """Runs a computation in the calling thread; Ctrl-C ends it between pieces."""
        stop = Stop()
        try:
            return self.runtime.run(comp, arg, stop)
        finally:
            stop.set()  # Threads of other slots end before their next client.


class AsyncInProcessContext(tff.framework.AsyncContext):
    """A context in which a computation returns an awaitable, as `tff.program` needs.

    Each call runs in a thread of its own. A call that is cancelled ends between two
    pieces.
    """

    def __init__(self, **options: Any):
        """Makes a context with the options of `Runtime`."""
        self.runtime = Runtime(**options)

    async def invoke(self, comp: Any, arg: Any) -> Any:
        """Runs a computation in a thread."""
        if asyncio.iscoroutine(arg):
            arg = await arg
        stop = Stop()
        future: concurrent.futures.Future = concurrent.futures.Future()
        future.set_running_or_notify_cancel()

        def call() -> None:
            try:
                future.set_result(self.runtime.run(comp, arg, stop))
            except BaseException as error:
                future.set_exception(error)

        # Python waits for it at exit: TensorFlow must not be torn down under a piece.
        threading.Thread(target=call, name="tff-call").start()
        try:
            return await asyncio.wrap_future(future)
        finally:
            stop.set()


def to_local_steps(comp: Any) -> tff.framework.ComputationBuildingBlock:
    """Brings a computation to call-dominant form with the fewest intrinsics."""
    insecure = tff.backends.test.replace_secure_intrinsics_with_bodies(comp)
    block, _ = tff.tensorflow.replace_intrinsics_with_bodies(
        insecure.to_building_block()
    )
    if not isinstance(block, tff.framework.Lambda):
        # A piece of TensorFlow by itself, for example: make a call of it.
        parameter = block.type_signature.parameter
        name = None if parameter is None else "argument"
        reference = name and tff.framework.Reference(name, parameter)
        call = tff.framework.Call(block, reference)
        block = tff.framework.Lambda(name, parameter, call)
    return tff.framework.to_call_dominant(block)


def _device(name: str | None) -> str | None:
    if name is None:
        return None
    known = [device.name for device in tf.config.list_logical_devices()]
    for device in known:
        if device.endswith(name.removeprefix("/device:")):
            return device
    raise InputError(
        f"device is {name!r}: expected one of {', '.join(known)}; correct it, or make "
        "logical devices with tf.config first"
    )
