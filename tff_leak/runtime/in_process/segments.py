"""The functions of a plan: what is done in one place between two aggregations."""

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from tff_leak.runtime.in_process import plan as planning
from tff_leak.runtime.in_process import values
from tff_leak.runtime.in_process.importer import Importer
from tff_leak.runtime.in_process.interpreter import Interpreter
from tff_leak.runtime.in_process.plan import (
    PARAMETER,
    Aggregation,
    Phase,
    Plan,
    Step,
    Symbol,
)
from tff_leak.runtime.in_process.values import Value

Segment = Callable[[list[tf.Tensor]], list[tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where pieces run, one at a time.

    Attributes:
      name: unique in the process.
      device: TensorFlow's name of it; None leaves the choice to TensorFlow.
    """

    name: str
    device: str | None


class Segments:
    """The functions of a plan, made when they are needed first."""

    def __init__(self, plan: Plan, importer: Importer, fuse: bool, on_trace):
        self._plan = plan
        self._importer = importer
        self._fuse = fuse
        self._on_trace = on_trace
        self._made: dict[Any, Segment] = {}
        self._splits: dict[int, planning.Split | None] = {}
        # One lock for all: TensorFlow's graphs under construction are global.
        self._lock = threading.RLock()

    def server(self, number: int, slot: Slot) -> Segment:
        """Accumulators and `server_reads` to `server_writes` and zeros."""
        phase = self._plan.phases[number]

        def specs():
            return _accumulator_specs(phase.finished) + self._specs(phase.server_reads)

        def body(tensors):
            interpreter = Interpreter(self._importer, slot.name)
            states, tensors = _split_states(phase.finished, tensors)
            environment = self._environment(phase.server_reads, tensors)
            for aggregation, state in zip(phase.finished, states, strict=True):
                report = interpreter.function(aggregation.report, environment)
                environment[aggregation.name] = report(state)
            _take(interpreter, phase.server, environment)
            written = [environment[symbol.name] for symbol in phase.server_writes]
            zeros = [
                interpreter.evaluate(aggregation.zero, environment)
                for aggregation in phase.aggregations
            ]
            return values.flatten((*written, *zeros))

        return self._segment(("server", number), body, specs)

    def client(self, number: int, slot: Slot) -> Segment:
        """Accumulators, `client_reads`, `own_reads` to accumulators, `own_writes` and
        gathered values, each of these a block of one row.
        """
        phase = self._plan.phases[number]
        reads = (*phase.client_reads, *phase.own_reads)

        def specs():
            return _accumulator_specs(phase.aggregations) + self._specs(reads)

        def body(tensors):
            interpreter = Interpreter(self._importer, slot.name)
            states, tensors = _split_states(phase.aggregations, tensors)
            environment = self._environment(reads, tensors)
            _take(interpreter, phase.clients, environment)
            added = []
            for aggregation, state in zip(phase.aggregations, states, strict=True):
                accumulate = interpreter.function(aggregation.accumulate, environment)
                value = interpreter.evaluate(aggregation.value, environment)
                added.append(accumulate((state, value)))
            written = [environment[symbol.name] for symbol in phase.own_writes]
            rows = values.flatten(_gathered(interpreter, phase, environment))
            blocks = [row[tf.newaxis] for row in rows]
            return [*values.flatten((*added, *written)), *blocks]

        # Pieces with variables are the slot's own, and so are functions with them.
        own = slot.name if self._plan.stateful else None
        return self._segment(("client", number, own), body, specs)

    def split(self, number: int) -> planning.Split | None:
        """How a phase's clients can be vectorised; None if they cannot.

        Not: pieces with variables, steps that are not of tensors, and operations that
        TensorFlow cannot vectorise, of which a warning tells.
        """
        with self._lock:
            if number not in self._splits:
                self._splits[number] = self._try_split(number)
            return self._splits[number]

    def _try_split(self, number: int) -> planning.Split | None:
        if self._plan.stateful or not self._fuse:
            return None
        split = planning.split_reading(self._plan.phases[number], self._plan.types)
        if split is None:
            return None
        try:
            self._made["vector", number] = self._build_vector(number, split)
        except (ValueError, TypeError, NotImplementedError) as error:
            logging.warning(
                "Clients run one by one: TensorFlow cannot vectorise them (%s)", error
            )
            return None
        return split

    def reader(self, number: int) -> Segment:
        """`client_reads`, `own_reads` to `Split.read`, for one client."""
        phase, split = self._plan.phases[number], self.split(number)
        reads = (*phase.client_reads, *phase.own_reads)

        def body(tensors):
            interpreter = Interpreter(self._importer, "vector")
            environment = self._environment(reads, tensors)
            _take(interpreter, split.reading, environment)
            return values.flatten(
                tuple(environment[symbol.name] for symbol in split.read)
            )

        return self._segment(("reader", number), body, lambda: self._specs(reads))

    def vector(self, number: int) -> Segment:
        """Accumulators, `client_reads`, stacked `Split.handed_on` of several clients
        to accumulators, stacked `Split.written` and blocks of gathered rows.
        """
        with self._lock:
            return self._made["vector", number]

    def _build_vector(self, number: int, split: planning.Split) -> Segment:
        phase = self._plan.phases[number]
        accumulators = _accumulator_specs(phase.aggregations)
        shared = self._specs(phase.client_reads)
        stacked = [
            tf.TensorSpec([None, *spec.shape], spec.dtype)
            for spec in self._specs(split.handed_on)
        ]
        width = len(accumulators)

        def body(tensors):
            interpreter = Interpreter(self._importer, "vector")
            state, tensors = tensors[:width], tensors[width:]
            common, own = tensors[: len(shared)], tensors[len(shared) :]
            common_environment = self._environment(phase.client_reads, common)

            def one_client(tensors_of_one):
                environment = common_environment | self._own_environment(
                    split.handed_on, tensors_of_one, common_environment
                )
                _take(interpreter, split.computing, environment)
                written = [environment[symbol.name] for symbol in split.written]
                rows = _gathered(interpreter, phase, environment)
                added = [
                    interpreter.evaluate(aggregation.value, environment)
                    for aggregation in phase.aggregations
                ]
                return values.flatten((*written, *rows, *added))

            results = tf.vectorized_map(one_client, own, fallback_to_while_loop=False)
            count = sum(self._plan.widths[symbol] for symbol in split.written)
            count += sum(len(gather.row_specs) for gather in phase.gathers)
            written, added = results[:count], results[count:]
            state = _accumulate_rows(
                interpreter, phase.aggregations, common_environment, state, added
            )
            return [*state, *written]

        return self._make(body, accumulators + shared + stacked)

    def _own_environment(self, symbols, tensors, common) -> dict[str, Value]:
        """As `_environment`, the parameter joined with what all clients share of it."""
        own = self._environment(symbols, tensors)
        name = self._plan.parameter_name
        if name is not None and isinstance(own[name], values.Partial):
            own[name] = common[name].joined(own[name])
        return own

    def merge(self, number: int, slot: Slot) -> Segment:
        """Two sets of accumulators to one."""
        aggregations = self._plan.phases[number].aggregations

        def specs():
            return _accumulator_specs(aggregations) * 2

        def body(tensors):
            interpreter = Interpreter(self._importer, slot.name)
            first, tensors = _split_states(aggregations, tensors)
            second, _ = _split_states(aggregations, tensors)
            return [
                tensor
                for aggregation, *pair in zip(aggregations, first, second, strict=True)
                for tensor in values.flatten(
                    interpreter.function(aggregation.merge, {})(tuple(pair))
                )
            ]

        return self._segment(("merge", number), body, specs)

    def assemble(self, found: Mapping[Symbol, Any]) -> Any:
        """Returns the result: a value, or a list of clients' values, for each part."""
        packed = {}
        for symbol in self._plan.wanted:
            flat, type_spec = found[symbol], self._plan.types[symbol]
            if planning.is_own(type_spec):
                packed[symbol] = [values.pack(own, type_spec) for own in flat]
            else:
                packed[symbol] = values.pack(flat, type_spec)
        interpreter = Interpreter(self._importer, "result")
        return interpreter.evaluate(self._plan.result, self._bind(packed))

    def _environment(self, symbols, tensors) -> dict[str, Value]:
        found = {}
        for symbol in symbols:
            width = self._plan.widths[symbol]
            type_spec = self._plan.types[symbol]
            found[symbol] = values.pack(list(tensors[:width]), type_spec)
            tensors = tensors[width:]
        return self._bind(found)

    def _bind(self, found: Mapping[Symbol, Any]) -> dict[str, Any]:
        """Names for blocks to refer to; of the parameter as much as there is."""
        environment: dict[str, Any] = {}
        parameter: Any = values.Partial()
        for symbol, value in found.items():
            if symbol.name != PARAMETER:
                environment[symbol.name] = value
            elif symbol.path:
                parameter.put(symbol.path, value)
            else:
                parameter = value
        if self._plan.parameter_name is not None:
            environment[self._plan.parameter_name] = parameter
        return environment

    def _specs(self, symbols) -> list[tf.TensorSpec]:
        return [s for symbol in symbols for s in values.specs(self._plan.types[symbol])]

    def _segment(self, key, body, specs) -> Segment:
        with self._lock:
            if key not in self._made:
                self._made[key] = self._make(body, specs())
            return self._made[key]

    def _make(self, body, specs) -> Segment:
        if not self._fuse:
            return body

        def counted(*tensors):
            self._on_trace()
            return body(list(tensors))

        function = tf.function(counted, input_signature=specs, autograph=False)
        concrete = function.get_concrete_function()
        return lambda tensors: values.call_concrete(concrete, tensors)


def _take(interpreter: Interpreter, steps: Sequence[Step], environment: dict) -> None:
    """Puts the values of steps into the environment, one after another."""
    for step in steps:
        environment[step.name] = interpreter.evaluate(step.call, environment)


def _gathered(
    interpreter: Interpreter, phase: Phase, environment: Mapping[str, Any]
) -> tuple[Value, ...]:
    """One client's values for the phase's gathers."""
    return tuple(
        interpreter.evaluate(gather.value, environment) for gather in phase.gathers
    )


def _accumulate_rows(
    interpreter: Interpreter,
    aggregations: Sequence[Aggregation],
    environment: Mapping[str, Any],
    state: list[tf.Tensor],
    rows: list[tf.Tensor],
) -> list[tf.Tensor]:
    """Adds clients' values, stacked, to the accumulators, one after another."""
    if not aggregations:
        return []
    value_types = [a.value.type_signature.member for a in aggregations]

    def add(index, *state):
        states, _ = _split_states(aggregations, list(state))
        one = [tensor[index] for tensor in rows]
        added = []
        for aggregation, value_type, accumulator in zip(
            aggregations, value_types, states, strict=True
        ):
            width = len(values.specs(value_type))
            value, one = values.pack(one[:width], value_type), one[width:]
            accumulate = interpreter.function(aggregation.accumulate, environment)
            added.append(accumulate((accumulator, value)))
        return (index + 1, *values.flatten(tuple(added)))

    count = tf.shape(rows[0])[0]
    _, *state = tf.while_loop(
        lambda index, *_: index < count,
        add,
        (tf.constant(0), *state),
        shape_invariants=(
            tf.TensorShape([]),
            *(spec.shape for spec in _accumulator_specs(aggregations)),
        ),
        parallel_iterations=1,
    )
    return list(state)


def _accumulator_specs(aggregations) -> list[tf.TensorSpec]:
    return [s for a in aggregations for s in values.specs(a.accumulator_type)]


def _split_states(aggregations, tensors) -> tuple[list[Value], list[tf.Tensor]]:
    states = []
    for aggregation in aggregations:
        width = aggregation.accumulator_width
        states.append(values.pack(tensors[:width], aggregation.accumulator_type))
        tensors = tensors[width:]
    return states, tensors
