import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime import gathering
from tff_leak.runtime.in_process import plan as planning
from tff_leak.runtime.in_process import shim
from tff_leak.runtime.in_process.context import to_local_steps
from tff_leak.runtime.in_process.importer import is_gathering, is_stateful
from tff_leak.runtime.in_process.plan import PARAMETER, Symbol

INTS = tff.FederatedType(np.int32, tff.CLIENTS)
DATASETS = tff.FederatedType(tff.SequenceType(np.int32), tff.CLIENTS)


@tff.tensorflow.computation(np.int32)
def double(x):
    return 2 * x


@tff.tensorflow.computation(np.int32, np.int32)
def add(x, y):
    return x + y


@tff.tensorflow.computation(tff.SequenceType(np.int32))
def total(dataset):
    return dataset.reduce(0, lambda a, b: a + b)


def _plan(comp):
    return planning.make_plan(to_local_steps(comp), is_stateful, is_gathering)


def _counts(plan):
    """Server steps, client steps and aggregations of each phase."""
    return [(len(p.server), len(p.clients), len(p.aggregations)) for p in plan.phases]


def test_what_is_not_federated_is_the_servers():
    @tff.federated_computation(np.int32)
    def twice(x):
        return double(double(x))

    plan = _plan(twice)
    assert _counts(plan) == [(2, 0, 0)]
    assert plan.phases[0].server_reads == (Symbol(PARAMETER),)
    assert not plan.stateful


def test_phases_end_at_aggregations():
    @tff.federated_computation(INTS)
    def chain(values):
        first = tff.federated_sum(values)
        shared = tff.federated_broadcast(tff.federated_map(double, first))
        each = tff.federated_map(add, (values, shared))
        return tff.federated_max(each), first

    plan = _plan(chain)
    assert [len(p.aggregations) for p in plan.phases] == [1, 1, 0]
    assert [len(p.finished) for p in plan.phases] == [0, 1, 1]
    # The clients' values are read anew in the second phase.
    assert [p.own_reads for p in plan.phases[:2]] == [(Symbol(PARAMETER),)] * 2
    assert plan.phases[2].clients == ()


def test_independent_aggregations_are_of_one_phase():
    @tff.federated_computation(INTS, tff.FederatedType(np.float32, tff.CLIENTS))
    def both(ints, floats):
        return tff.federated_sum(ints), tff.federated_mean(floats)

    phases = _plan(both).phases
    assert len(phases) == 2
    assert phases[0].own_reads == (Symbol(PARAMETER, (0,)), Symbol(PARAMETER, (1,)))


def test_clients_hand_on_what_is_needed_later_only():
    @tff.federated_computation(INTS)
    def keep(values):
        doubled = tff.federated_map(double, values)
        unused = tff.federated_map(double, doubled)
        shared = tff.federated_broadcast(tff.federated_sum(unused))
        return tff.federated_map(add, (doubled, shared))

    first, second = _plan(keep).phases
    assert len(first.clients) == 2
    (written,) = first.own_writes
    assert written in second.own_reads
    assert len(second.own_writes) == 1


def test_only_parts_of_the_parameter_are_read():
    member = collections.OrderedDict(a=np.int32, b=(np.int32, np.float32))

    @tff.federated_computation(
        collections.OrderedDict(
            plain=member, server=tff.FederatedType(member, tff.SERVER), own=INTS
        )
    )
    def pick(argument):
        return double(argument.plain.b[0]), argument.server, argument.own

    plan = _plan(pick)
    assert plan.phases[0].server_reads == (Symbol(PARAMETER, (0, 1, 0)),)
    assert Symbol(PARAMETER, (1,)) in plan.types  # A federated value is one part.
    assert planning.is_own(plan.types[Symbol(PARAMETER, (2,))])
    assert Symbol(PARAMETER, (0, 0)) not in plan.types


def test_what_is_whose_own():
    assert planning.is_own(INTS)
    assert not planning.is_own(tff.FederatedType(np.int32, tff.CLIENTS, all_equal=True))
    assert not planning.is_own(tff.FederatedType(np.int32, tff.SERVER))
    assert not planning.is_own(tff.TensorType(np.int32))


def test_state_is_noticed_in_pieces_of_aggregations_too():
    @tff.tensorflow.computation(np.int32, np.int32)
    def add_with_variable(x, y):
        variable = tf.Variable(0)
        with tf.control_dependencies([variable.assign(x)]):
            return variable.read_value() + y

    @tff.federated_computation(INTS)
    def aggregate(values):
        return tff.federated_aggregate(values, 0, add_with_variable, add, double)

    assert _plan(aggregate).stateful


def test_accumulators_that_grow():
    rows = tff.TensorType(np.int32, [None])

    @tff.tensorflow.computation(rows, np.int32)
    def append(x, y):
        return tf.concat([x, [y]], 0)

    @tff.tensorflow.computation(rows, rows)
    def join(x, y):
        return tf.concat([x, y], 0)

    @tff.tensorflow.computation(rows)
    def identity(x):
        return x

    @tff.tensorflow.computation
    def nothing():
        return tf.zeros([0], tf.int32)

    @tff.federated_computation(INTS)
    def collect(values):
        return tff.federated_aggregate(values, nothing(), append, join, identity)

    @tff.federated_computation(INTS)
    def add_up(values):
        return tff.federated_sum(values)

    assert _plan(collect).phases[0].grows
    assert not _plan(add_up).phases[0].grows


class TestSplit:
    """Reading of datasets apart from what can be vectorised."""

    def _split(self, comp):
        plan = _plan(comp)
        return planning.split_reading(plan.phases[0], plan.types)

    def test_reading_and_computing(self):
        @tff.federated_computation(DATASETS, INTS)
        def work(datasets, offsets):
            read = tff.federated_map(total, datasets)
            moved = tff.federated_map(add, (read, offsets))
            return read, moved, tff.federated_sum(tff.federated_map(double, moved))

        split = self._split(work)
        assert len(split.reading) == 1
        assert len(split.computing) >= 2
        (read,) = split.read
        assert split.handed_on == tuple(
            sorted([Symbol(PARAMETER, (1,)), read], key=lambda symbol: symbol.name)
        )
        assert len(split.written) == 1

    def test_what_comes_before_a_dataset_is_read_first(self):
        @tff.tensorflow.computation(np.int32)
        def make_dataset(size):
            return tf.data.Dataset.range(tf.cast(size, tf.int64)).map(
                lambda x: tf.cast(x, tf.int32)
            )

        @tff.federated_computation(INTS)
        def work(values):
            made = tff.federated_map(make_dataset, tff.federated_map(double, values))
            return tff.federated_map(double, tff.federated_map(total, made))

        split = self._split(work)
        assert len(split.reading) == 3
        assert len(split.computing) == 1

    def test_nothing_to_vectorise(self):
        @tff.federated_computation(DATASETS)
        def read_only(datasets):
            return tff.federated_map(total, datasets)

        @tff.federated_computation(INTS)
        def nothing(values):
            return values

        assert self._split(read_only) is None
        assert self._split(nothing) is None


def test_what_is_gathered_has_no_accumulator():
    @tff.federated_computation(INTS)
    def gather_and_add(values):
        return gathering.federated_gather(values), tff.federated_sum(values)

    first, second = _plan(gather_and_add).phases
    (gather,) = first.gathers
    assert [spec.shape for spec in gather.row_specs] == [[]]
    assert len(first.aggregations) == len(second.finished) == 1
    assert not first.grows
    assert first.gathered == (Symbol(gather.name),)


def test_a_merge_of_what_is_computed_elsewhere_is_refused():
    """TFF does not build one; a transformation of somebody's might."""

    @tff.federated_computation(INTS)
    def add_up(values):
        return tff.federated_sum(values)

    block = to_local_steps(add_up)
    *before, (name, call) = block.result.locals
    assert call.function.uri == "federated_aggregate"
    *parts, merge, report = [part for _, part in shim.elements(call.argument)]
    elsewhere = tff.framework.Lambda(
        "pair",
        merge.type_signature.parameter,
        tff.framework.Reference(before[0][0], merge.type_signature.result),
    )
    argument = tff.framework.Struct([*parts, elsewhere, report])
    changed = tff.framework.Block(
        [*before, (name, tff.framework.Call(call.function, argument))],
        block.result.result,
    )
    with pytest.raises(NotImplementedError, match="Expected a merge function"):
        planning.make_plan(
            tff.framework.Lambda(block.parameter_name, block.parameter_type, changed),
            is_stateful,
            is_gathering,
        )
