"""Runs a plan: the server's segments, and each client's, slot by slot.

A *slot* is a thread on a device. Clients are dealt to slots by their numbers, so that
sums are made in the same order in every run; each slot has its own accumulator, and
accumulators are merged in the order of the slots.
"""

import concurrent.futures
import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime.in_process import plan as planning
from tff_leak.runtime.in_process import shim, values
from tff_leak.runtime.in_process.importer import Importer
from tff_leak.runtime.in_process.plan import PARAMETER, Phase, Plan, Symbol
from tff_leak.runtime.in_process.segments import Segments, Slot

_GROWING_CHUNK = 64


class ComputationError(RuntimeError):
    """TensorFlow failed within a computation; says in which, and at which client."""


class Stop(threading.Event):
    """Set to end an execution before its next piece."""

    def check(self) -> None:
        """Raises InterruptedError if the execution is to end."""
        if self.is_set():
            raise InterruptedError("The computation was stopped between two pieces.")


class Execution:
    """A computation made ready to run, in any number of threads.

    Attributes:
      plan: its phases.
      segments: its functions.
    """

    def __init__(
        self,
        name: str,
        plan: Plan,
        importer: Importer,
        server: Slot,
        clients: Sequence[Slot],
        *,
        fuse: bool,
        vectorize: int,
        on_trace: Callable[[], None],
    ):
        self._name = name
        self._vectorize = vectorize
        self.plan = plan
        self._server = server
        self._clients = tuple(clients)
        self.segments = Segments(plan, importer, fuse, on_trace)
        self._parameter_leaves: dict[Symbol, tff.Type] | None = None
        # Variables have names that are global: one call at a time.
        self._exclusive = threading.Lock() if plan.stateful else None

    def run(self, argument: Any, parameter_type, num_clients: int, stop: Stop) -> Any:
        """Runs the computation on an ingested argument.

        Returns:
          Values by the parts of the result, see `assemble`.
        """
        if self._exclusive is None:
            return self._run(argument, parameter_type, num_clients, stop)
        with self._exclusive:
            return self._run(argument, parameter_type, num_clients, stop)

    def _run(self, argument, parameter_type, num_clients, stop):
        # Values are held as lists of tensors; those of clients as lists of such.
        found: dict[Symbol, Any] = {}
        if parameter_type is not None:
            for symbol, type_spec in self._parameter(parameter_type).items():
                value = argument
                for index in symbol.path:
                    value = value[index]
                if planning.is_own(type_spec):
                    found[symbol] = [values.flatten(entry) for entry in value]
                else:
                    found[symbol] = values.flatten(value)
        state: list[tf.Tensor] = []
        for number, phase in enumerate(self.plan.phases):
            stop.check()
            zeros = self._run_server(number, phase, found, state)
            state = self._run_clients(number, phase, found, zeros, num_clients, stop)
        return self.segments.assemble(found)

    def _parameter(self, parameter_type) -> dict[Symbol, tff.Type]:
        if self._parameter_leaves is None:
            self._parameter_leaves = {
                Symbol(PARAMETER, path): leaf
                for path, leaf in planning.type_leaves(parameter_type)
            }
        return self._parameter_leaves

    def _run_server(self, number, phase: Phase, found, state):
        """Returns the first accumulators of this phase's aggregations, in one list."""
        segment = self.segments.server(number, self._server)
        inputs = [*state, *_chain(found[symbol] for symbol in phase.server_reads)]
        outputs = self.guard(segment, inputs, self._server, "at the server", number)
        for symbol in phase.server_writes:
            width = self.plan.widths[symbol]
            found[symbol], outputs = outputs[:width], outputs[width:]
        return outputs

    def _run_clients(self, number, phase: Phase, found, zeros, num_clients, stop):
        """Returns the filled accumulators, in one list."""
        written = (*phase.own_writes, *phase.gathered)
        for symbol in written:
            found[symbol] = [None] * num_clients
        if not (written or phase.aggregations) or not num_clients:
            self._join_rows(number, phase, found)
            return zeros
        shared = _chain(found[symbol] for symbol in phase.client_reads)
        chunks = _deal(num_clients, len(self._clients), phase)

        def work(slot_number: int):
            slot = self._clients[slot_number]
            return [
                self._run_chunk(number, phase, found, zeros, shared, slot, chunk, stop)
                for chunk in chunks[slot_number]
            ]

        parts = _chain(_in_threads(work, len(chunks), stop))
        self._join_rows(number, phase, found)
        return self._merge(number, phase, parts)

    def _run_chunk(self, number, phase, found, zeros, shared, slot, clients, stop):
        """Some clients one after another, on one accumulator."""
        if self._vectorize > 1:
            split = self.segments.split(number)
            if split is not None:
                batches = _Batches(self, number, split, found, zeros, shared, slot)
                return batches.run(clients, self._vectorize, stop)
        state, size = zeros, len(zeros)
        segment = self.segments.client(number, slot)
        for client in clients:
            stop.check()
            own = _chain(found[symbol][client] for symbol in phase.own_reads)
            inputs = [*state, *shared, *own]
            where = f"at client {client}"
            outputs = self.guard(segment, inputs, slot, where, number)
            state, outputs = outputs[:size], outputs[size:]
            for symbol in (*phase.own_writes, *phase.gathered):
                width = self.plan.widths[symbol]
                found[symbol][client], outputs = outputs[:width], outputs[width:]
        return state

    def _join_rows(self, number, phase: Phase, found) -> None:
        """Makes one tensor of the blocks of rows that clients left, in their order.

        It is the only copy of a row: none is made while clients run.
        """
        where = "where rows are gathered"
        for gather, symbol in zip(phase.gathers, phase.gathered, strict=True):
            blocks = [block for block in found.pop(symbol) if block is not None]
            columns = [list(column) for column in zip(*blocks, strict=True)]
            del blocks
            if not columns:
                columns = [[tf.zeros([0, *s.shape], s.dtype)] for s in gather.row_specs]
            joined: list[tf.Tensor] = []
            while columns:  # A column is dropped before the next one is joined.
                column = columns.pop(0)
                joined += self.guard(_concat, column, self._server, where, number)
            found[symbol] = joined

    def _merge(self, number, phase: Phase, parts):
        """Joins the accumulators of slots, and of chunks, in their order."""
        if not phase.aggregations:
            return []
        where = "where accumulators are merged"
        while len(parts) > 1:
            segment = self.segments.merge(number, self._server)
            # In pairs: a row is copied once for each doubling of the cohort.
            merged = [
                self.guard(segment, [*left, *right], self._server, where, number)
                for left, right in zip(parts[::2], parts[1::2], strict=False)
            ]
            parts = merged + parts[2 * len(merged) :]
        return parts[0]

    def guard(self, segment, inputs, slot: Slot, where: str, phase: int):
        """Calls a segment on the slot's device; says where it was if it fails."""
        try:
            with shim.without_memory_optimizer(), _on(slot.device):
                return segment(inputs)
        except tf.errors.OpError as error:
            # Before the last paragraph stand the stacks of where it was defined.
            reason = error.message.strip().rsplit("\n\n", 1)[-1]
            raise ComputationError(
                f"TensorFlow failed {where}, in phase {phase} of the computation "
                f"{self._name}: {reason}"
            ) from error


def _on(device: str | None) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if device is None else tf.device(device)


class _Batches:
    """Clients of one slot whose steps from tensors to tensors are vectorised.

    Clients are put together whose tensors have the same shapes.
    """

    def __init__(self, execution, number, split, found, zeros, shared, slot):
        self._execution = execution
        self._phase = execution.plan.phases[number]
        self._number = number
        self._split = split
        self._found = found
        self._state = zeros
        self._shared = shared
        self._slot = slot

    def run(self, clients: Sequence[int], size: int, stop: Stop) -> list[tf.Tensor]:
        """Returns the accumulators after all clients, `size` of them at a time."""
        waiting: dict[tuple, dict[int, list[tf.Tensor]]] = {}
        for client in clients:
            stop.check()
            tensors = self._read(client)
            shapes = tuple(tuple(tensor.shape) for tensor in tensors)
            batch = waiting.setdefault(shapes, {})
            batch[client] = tensors
            if len(batch) == size:
                self._compute(waiting.pop(shapes))
        for batch in waiting.values():
            stop.check()
            self._compute(batch)
        return self._state

    def _read(self, client: int) -> list[tf.Tensor]:
        found, split, execution = self._found, self._split, self._execution
        own: dict[Symbol, list[tf.Tensor]] = {}
        if split.reading:
            inputs = _chain(found[symbol][client] for symbol in self._phase.own_reads)
            outputs = execution.guard(
                execution.segments.reader(self._number),
                [*self._shared, *inputs],
                self._slot,
                f"at client {client}",
                self._number,
            )
            for symbol in split.read:
                width = execution.plan.widths[symbol]
                own[symbol], outputs = outputs[:width], outputs[width:]
        for symbol in self._phase.own_writes:
            if symbol in own:
                found[symbol][client] = own[symbol]
        return _chain(
            own[symbol] if symbol in own else found[symbol][client]
            for symbol in split.handed_on
        )

    def _compute(self, batch: dict[int, list[tf.Tensor]]) -> None:
        execution, size = self._execution, len(self._state)
        stacked = [tf.stack(tensors) for tensors in zip(*batch.values(), strict=True)]
        outputs = execution.guard(
            execution.segments.vector(self._number),
            [*self._state, *self._shared, *stacked],
            self._slot,
            f"at one of the clients {', '.join(map(str, batch))}",
            self._number,
        )
        self._state, outputs = outputs[:size], outputs[size:]
        for symbol in self._split.written:
            width = execution.plan.widths[symbol]
            columns = [tf.unstack(tensor, len(batch)) for tensor in outputs[:width]]
            for index, client in enumerate(batch):
                row = [column[index] for column in columns]
                self._found[symbol][client] = row
            outputs = outputs[width:]
        for symbol in self._phase.gathered:
            # A block of all these clients' rows, in the place of the first of them.
            width = execution.plan.widths[symbol]
            self._found[symbol][min(batch)] = outputs[:width]
            outputs = outputs[width:]


def _concat(blocks: list[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.concat(blocks, axis=0) if len(blocks) > 1 else blocks[0]]


def _deal(num_clients: int, num_slots: int, phase: Phase) -> list[list[range]]:
    """Which clients run in which slot, in which chunks."""
    dealt = [range(s, num_clients, num_slots) for s in range(num_slots)]
    chunks = []
    for clients in filter(len, dealt):
        # An accumulator that grows with every client may be copied with every client:
        # chunks keep that from growing with the square of the cohort.
        size = _GROWING_CHUNK if phase.grows else len(clients)
        chunks.append([clients[i : i + size] for i in range(0, len(clients), size)])
    return chunks


def _chain(lists: Iterable[list[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(lists))


def _in_threads(work: Callable[[int], Any], count: int, stop: Stop) -> list[Any]:
    """Calls `work` on 0 to `count` - 1 at the same time; the first error ends all."""
    if count == 1:
        return [work(0)]
    with concurrent.futures.ThreadPoolExecutor(count, "clients") as pool:
        futures = [pool.submit(work, number) for number in range(count)]
        try:
            done, _ = concurrent.futures.wait(
                futures, return_when=concurrent.futures.FIRST_EXCEPTION
            )
            failed = [future for future in done if future.exception() is not None]
            for future in failed:
                future.result()
            return [future.result() for future in futures]
        except BaseException:  # Ctrl-C among them: leaving the pool waits for the rest.
            stop.set()
            raise
