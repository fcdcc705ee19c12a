"""Splits a computation into what the server does and what each client does.

A computation in call-dominant form is cut at its aggregations. Phase k is

    server steps -> client steps, once for each client -> aggregation

and the next phase begins with what was aggregated. All that is done in one place in one
phase is a *segment*: with `fuse`, one TensorFlow function.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime.in_process import interpreter, shim, values

_blocks = tff.framework
PARAMETER = "parameter"


@dataclasses.dataclass(frozen=True)
class Symbol:
    """A value that goes from one segment to another.

    Attributes:
      name: of the local, or `PARAMETER`.
      path: for the parameter, the way to the part meant, which is no structure; else
        empty.
    """

    name: str
    path: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One call of a computation.

    Attributes:
      name: of its result.
      call: the building block.
      reads: the values that it needs.
    """

    name: str
    call: Any
    reads: frozenset[Symbol]


@dataclasses.dataclass(frozen=True, eq=False)
class Gather:
    """An aggregation that stacks clients' values, see `runtime.gathering`.

    Attributes:
      name: of its result.
      value: block of a client's value.
    """

    name: str
    value: Any

    @functools.cached_property
    def row_specs(self) -> list[tf.TensorSpec]:
        """The specs of a client's tensors."""
        return values.specs(self.value.type_signature)


@dataclasses.dataclass(frozen=True, eq=False)
class Aggregation:
    """A `federated_aggregate`, in its parts.

    Attributes:
      name: of its result.
      value: block of a client's value.
      zero: block of the first accumulator.
      accumulate: functional block.
      merge: functional block.
      report: functional block.
    """

    name: str
    value: Any
    zero: Any
    accumulate: Any
    merge: Any
    report: Any

    @functools.cached_property
    def accumulator_type(self) -> tff.Type:
        """The type that every accumulator fits in."""
        return self.accumulate.type_signature.parameter[0]

    @functools.cached_property
    def accumulator_width(self) -> int:
        """How many tensors an accumulator has."""
        return len(values.specs(self.accumulator_type))


@dataclasses.dataclass(frozen=True, eq=False)
class Phase:
    """What is done between two aggregations.

    Attributes:
      finished: aggregations of the phase before, reported by this one's server.
      server: steps at the server, and of values equal at all clients.
      clients: steps at each client.
      aggregations: begun by this phase's server, filled by its clients.
      gathers: of this phase's clients; the next one's server reads them.
      server_reads: what the server segment needs from outside.
      server_writes: what others need from it.
      client_reads: what the client segment needs that is the same for all clients.
      own_reads: what it needs of a client's own.
      own_writes: a client's values that others need from it.
      aggregated: what aggregations and gathers read at a client.
    """

    finished: tuple[Aggregation, ...]
    server: tuple[Step, ...]
    clients: tuple[Step, ...]
    aggregations: tuple[Aggregation, ...]
    gathers: tuple[Gather, ...]
    server_reads: tuple[Symbol, ...]
    server_writes: tuple[Symbol, ...]
    client_reads: tuple[Symbol, ...]
    own_reads: tuple[Symbol, ...]
    own_writes: tuple[Symbol, ...]
    aggregated: tuple[Symbol, ...]

    @functools.cached_property
    def gathered(self) -> tuple[Symbol, ...]:
        """What the gathers give."""
        return tuple(Symbol(gather.name) for gather in self.gathers)

    @functools.cached_property
    def grows(self) -> bool:
        """Whether an accumulator grows with every client, as one of rows does."""
        return any(
            spec.shape.rank is None or None in spec.shape.as_list()
            for aggregation in self.aggregations
            for spec in values.specs(aggregation.accumulator_type)
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A computation made ready.

    Attributes:
      parameter_name: as blocks refer to the parameter; None without.
      phases: at least one.
      result: block of the result; its calls are steps of the phases.
      wanted: what the result reads.
      types: of every symbol.
      widths: how many tensors each symbol's value has.
      stateful: whether a piece has variables.
    """

    parameter_name: str | None
    phases: tuple[Phase, ...]
    result: Any
    wanted: tuple[Symbol, ...]
    types: dict[Symbol, tff.Type]
    widths: dict[Symbol, int]
    stateful: bool


@dataclasses.dataclass(frozen=True)
class Split:
    """A phase's client steps in two parts, of which the second can be vectorised.

    Attributes:
      reading: steps that touch datasets, and those before them.
      computing: steps from tensors to tensors.
      handed_on: a client's own values that `computing` and the aggregations need.
      read: those of them, and of the phase's `own_writes`, that `reading` makes.
      written: of the phase's `own_writes` those that `computing` makes.
    """

    reading: tuple[Step, ...]
    computing: tuple[Step, ...]
    handed_on: tuple[Symbol, ...]
    read: tuple[Symbol, ...]
    written: tuple[Symbol, ...]


def split_reading(phase: Phase, types: Mapping[Symbol, tff.Type]) -> Split | None:
    """Splits a phase's client steps; None if nothing is left to vectorise."""
    reading = {
        step.name
        for step in phase.clients
        if any(
            _has_sequence(types[symbol]) for symbol in (*step.reads, Symbol(step.name))
        )
    }
    for step in reversed(phase.clients):
        if step.name in reading:
            reading |= {symbol.name for symbol in step.reads}
    first = tuple(step for step in phase.clients if step.name in reading)
    second = tuple(step for step in phase.clients if step.name not in reading)
    made = {Symbol(step.name) for step in second}
    own = {symbol for step in second for symbol in step.reads}
    own |= set(phase.aggregated)
    own = {symbol for symbol in own if is_own(types[symbol])}
    handed_on = own - made
    if not second or not handed_on or any(_has_sequence(types[s]) for s in handed_on):
        return None
    by_reading = {Symbol(step.name) for step in first}
    return Split(
        reading=first,
        computing=second,
        handed_on=_ordered(handed_on),
        read=_ordered((handed_on | set(phase.own_writes)) & by_reading),
        written=_ordered(set(phase.own_writes) & made),
    )


def _has_sequence(type_spec: tff.Type) -> bool:
    if isinstance(type_spec, tff.FederatedType):
        return _has_sequence(type_spec.member)
    return any(isinstance(leaf, tff.SequenceType) for _, leaf in type_leaves(type_spec))


def is_own(type_spec: tff.Type) -> bool:
    """Whether each client has a value of its own of this type."""
    return (
        isinstance(type_spec, tff.FederatedType)
        and type_spec.placement is tff.CLIENTS
        and not type_spec.all_equal
    )


def symbols_of(block: Any, parameter_name: str | None) -> dict[Symbol, tff.Type]:
    """The symbols, with types, that a reference or a selection from one stands for."""
    path: list[int] = []
    whole = block
    while isinstance(block, _blocks.Selection):
        path.insert(0, block.as_index())
        block = block.source
    if not isinstance(block, _blocks.Reference):
        return {}
    if block.name != parameter_name:
        return {Symbol(block.name): block.type_signature}
    return {
        Symbol(PARAMETER, (*path, *rest)): leaf
        for rest, leaf in type_leaves(whole.type_signature)
    }


def type_leaves(type_spec: tff.Type) -> Iterator[tuple[tuple[int, ...], tff.Type]]:
    """The parts of a type that are no structures, with the way to them."""
    if isinstance(type_spec, tff.StructType):
        for index, (_, entry) in enumerate(shim.elements(type_spec)):
            for path, leaf in type_leaves(entry):
                yield (index, *path), leaf
    else:
        yield (), type_spec


def make_plan(
    block: Any,
    is_stateful: Callable[[Any], bool],
    is_gathering: Callable[[Any], bool],
) -> Plan:
    """Cuts a computation in call-dominant form into phases.

    Args:
      block: a lambda with a parameter, or without one any other block.
      is_stateful: says of a piece whether it has variables.
      is_gathering: says of a piece whether it has the mark of `runtime.gathering`.
    """
    parameter_name = None
    if isinstance(block, _blocks.Lambda):
        parameter_name, block = block.parameter_name, block.result
    calls, result = [], block
    if isinstance(block, _blocks.Block):
        calls, result = list(block.locals), block.result
    return _Planner(parameter_name, calls, result, is_stateful, is_gathering).plan()


class _Planner:
    def __init__(self, parameter_name, calls, result, is_stateful, is_gathering):
        self._parameter = parameter_name
        self._is_stateful = is_stateful
        self._is_gathering = is_gathering
        self._stateful = False
        self._types: dict[Symbol, tff.Type] = {}
        self._calls = calls
        self._result = result
        self._reads: dict[str, frozenset[Symbol]] = {}

    def plan(self) -> Plan:
        phase_of: dict[str, int] = {PARAMETER: 0}
        servers: dict[int, list[Step]] = {}
        clients: dict[int, list[Step]] = {}
        aggregations: dict[int, list[Aggregation | Gather]] = {}
        for name, call in self._calls:
            reads = self._symbols(call)
            self._types[Symbol(name)] = call.type_signature
            phase = max((phase_of[symbol.name] for symbol in reads), default=0)
            self._reads[name] = reads
            if _uri(call) == interpreter.AGGREGATE:
                aggregations.setdefault(phase, []).append(self._aggregation(name, call))
                phase += 1
            elif is_own(call.type_signature):
                clients.setdefault(phase, []).append(Step(name, call, reads))
            else:
                servers.setdefault(phase, []).append(Step(name, call, reads))
            phase_of[name] = phase
        wanted = self._symbols(self._result)
        count = max(phase_of.values()) + 1
        phases = [
            self._phase(
                tuple(aggregations.get(index - 1, ())),
                tuple(servers.get(index, ())),
                tuple(clients.get(index, ())),
                tuple(aggregations.get(index, ())),
            )
            for index in range(count)
        ]
        return Plan(
            self._parameter,
            tuple(self._with_writes(phases, wanted)),
            self._result,
            _ordered(wanted),
            self._types,
            {symbol: len(values.specs(t)) for symbol, t in self._types.items()},
            self._stateful,
        )

    def _aggregation(self, name: str, call: Any) -> Aggregation | Gather:
        aggregation = Aggregation(
            name, *(entry for _, entry in shim.elements(call.argument))
        )
        pieces = list(_pieces(aggregation.accumulate))
        if pieces and all(map(self._is_gathering, pieces)):
            return Gather(name, aggregation.value)
        if self._symbols(aggregation.merge):
            raise NotImplementedError(
                "Expected a merge function of an aggregation that depends on "
                f"its arguments only, found {aggregation.merge}."
            )
        return aggregation

    def _phase(self, finished, server, clients, ended) -> Phase:
        finished = tuple(a for a in finished if isinstance(a, Aggregation))
        aggregations = tuple(a for a in ended if isinstance(a, Aggregation))
        gathers = tuple(a for a in ended if isinstance(a, Gather))
        made_here = {Symbol(step.name) for step in server}
        made_here |= {Symbol(a.name) for a in finished}
        made_by_client = {Symbol(step.name) for step in clients}
        server_reads = set().union(*(step.reads for step in server))
        client_reads = set().union(*(step.reads for step in clients))
        aggregated: set[Symbol] = set()
        for aggregation in aggregations:
            server_reads |= self._symbols(aggregation.zero)
            aggregated |= self._symbols(aggregation.value)
            aggregated |= self._symbols(aggregation.accumulate)
        for gather in gathers:
            aggregated |= self._symbols(gather.value)
        client_reads |= aggregated
        for aggregation in finished:
            server_reads |= self._symbols(aggregation.report)
        own = {s for s in client_reads if is_own(self._types[s])}
        return Phase(
            finished=finished,
            server=server,
            clients=clients,
            aggregations=aggregations,
            gathers=gathers,
            server_reads=_ordered(server_reads - made_here),
            server_writes=(),
            client_reads=_ordered(client_reads - own),
            own_reads=_ordered(own - made_by_client),
            own_writes=(),
            aggregated=_ordered(aggregated),
        )

    def _with_writes(self, phases: Sequence[Phase], wanted) -> list[Phase]:
        """Adds what each segment has to hand on, from the last to the first."""
        done = []
        needed = set(wanted)
        for phase in reversed(phases):
            by_client = {Symbol(step.name) for step in phase.clients}
            own_writes = needed & by_client
            needed |= set(phase.client_reads) | set(phase.own_reads)
            by_server = {Symbol(step.name) for step in phase.server}
            by_server |= {Symbol(a.name) for a in phase.finished}
            server_writes = needed & by_server
            needed |= set(phase.server_reads)
            done.append(
                dataclasses.replace(
                    phase,
                    server_writes=_ordered(server_writes),
                    own_writes=_ordered(own_writes),
                )
            )
        return done[::-1]

    def _symbols(self, block: Any) -> frozenset[Symbol]:
        """The symbols that a block reads, without those that it binds itself."""
        found: set[Symbol] = set()
        self._collect(block, frozenset(), found)
        return frozenset(found)

    def _collect(self, block: Any, bound: frozenset[str], found: set[Symbol]) -> None:
        if isinstance(block, _blocks.Selection | _blocks.Reference):
            symbols = symbols_of(block, self._parameter)
            for symbol, type_spec in symbols.items():
                if symbol.name not in bound:
                    self._types.setdefault(symbol, type_spec)
                    found.add(symbol)
            if symbols:
                return
        if isinstance(block, _blocks.CompiledComputation):
            self._stateful |= self._is_stateful(block)
        for inner, names in _inner_blocks(block):
            self._collect(inner, bound | names, found)


def _inner_blocks(block: Any) -> Iterator[tuple[Any, frozenset[str]]]:
    """The blocks in a block, each with the names that are bound where it stands."""
    nothing: frozenset[str] = frozenset()
    if isinstance(block, _blocks.Selection):
        yield block.source, nothing
    elif isinstance(block, _blocks.Struct):
        for _, entry in shim.elements(block):
            yield entry, nothing
    elif isinstance(block, _blocks.Call):
        yield block.function, nothing
        if block.argument is not None:
            yield block.argument, nothing
    elif isinstance(block, _blocks.Lambda):
        yield block.result, frozenset({block.parameter_name})
    elif isinstance(block, _blocks.Block):
        names = nothing
        for name, local in block.locals:
            yield local, names
            names |= {name}
        yield block.result, names


def _pieces(block: Any) -> Iterator[Any]:
    """The pieces of TensorFlow in a block."""
    if isinstance(block, _blocks.CompiledComputation):
        yield block
    for inner, _ in _inner_blocks(block):
        yield from _pieces(inner)


def _ordered(symbols) -> tuple[Symbol, ...]:
    return tuple(sorted(symbols, key=lambda symbol: (symbol.name, symbol.path)))


def _uri(call: Any) -> str | None:
    function = getattr(call, "function", None)
    return function.uri if isinstance(function, _blocks.Intrinsic) else None
