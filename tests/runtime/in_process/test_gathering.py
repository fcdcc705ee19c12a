"""Clients' values stacked: equal in all runtimes, and by one copy in ours."""

import collections
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.errors import InputError
from tff_leak.runtime import gathering
from tff_leak.runtime.gathering import federated_gather
from tff_leak.runtime.in_process import execution
from tff_leak.runtime.in_process.context import InProcessContext

ROW = tff.types.to_type(
    collections.OrderedDict(
        z=tff.TensorType(np.float32, [2, 3]), a=np.int32, m=np.bool_, s=np.str_
    )
)
INTS = tff.FederatedType(np.int32, tff.CLIENTS)


def _row(number):
    rng = np.random.default_rng(number)
    z = rng.normal(size=(2, 3)).astype(np.float32)
    a = np.int32(number)
    return collections.OrderedDict(z=z, a=a, m=number % 3 == 0, s=b"row %d" % number)


@tff.tensorflow.computation(gathering.gathered_type(ROW))
def _by_number(rows):
    order = tf.argsort(rows["a"])
    return tf.nest.map_structure(lambda t: tf.gather(t, order), rows)


@tff.federated_computation(tff.FederatedType(ROW, tff.CLIENTS))
def gather(values):
    """In an order that does not depend on the runtime."""
    return tff.federated_map(_by_number, federated_gather(values))


@tff.tensorflow.computation(np.int32)
def double(x):
    return 2 * x


@tff.federated_computation(INTS)
def gather_ints(values):
    return federated_gather(tff.federated_map(double, values))


def _installed(context):
    return tff.framework.get_context_stack().install(context)


def test_type_signature():
    assert gather.type_signature.compact_representation() == (
        "({<z=float32[2,3],a=int32,m=bool,s=str>}@CLIENTS -> "
        "<z=float32[?,2,3],a=int32[?],m=bool[?],s=str[?]>@SERVER)"
    )


@pytest.mark.parametrize("count", [0, 1, 5, 70])
def test_rows_are_those_of_tffs_runtime_to_the_bit(beside, count):
    values = [_row(number) for number in range(count)][::-1]
    rows = beside.assert_equal(gather, values)
    assert rows["z"].shape == (count, 2, 3)
    assert list(rows["a"]) == list(range(count))
    for number in range(count):
        assert rows["s"][number] == b"row %d" % number
        np.testing.assert_array_equal(rows["z"][number], _row(number)["z"])
    with _installed(beside.vectors):
        np.testing.assert_array_equal(gather(values)["z"], rows["z"])


@pytest.mark.parametrize(
    "options",
    [{}, {"fuse": False}, {"threads": 3}, {"vectorize": 4}],
    ids=str,
)
def test_clients_stand_in_their_order(options):
    with _installed(InProcessContext(**options)):
        assert gather_ints(list(range(11))).tolist() == list(range(0, 22, 2))


def test_beside_sums_and_before_another_phase(beside):
    @tff.tensorflow.computation(np.int32, tff.TensorType(np.int32, [None]))
    def place(x, all_of_them):
        return tf.reduce_sum(tf.cast(all_of_them < x, tf.int32))

    @tff.federated_computation(INTS)
    def places(values):
        everyone = tff.federated_broadcast(federated_gather(values))
        each = tff.federated_map(place, (values, everyone))
        return federated_gather(each), tff.federated_sum(values), each

    for context in (beside.in_process, *beside.others.values(), beside.vectors):
        with _installed(context):
            rows, total, each = places([5, 3, 9, 1])
        assert each == [2, 1, 3, 0]
        assert sorted(rows) == [0, 1, 2, 3]
        assert total == 18


def test_each_tensor_is_copied_once(monkeypatch):
    joined = []
    concat = execution._concat
    monkeypatch.setattr(
        execution, "_concat", lambda rows: joined.append(len(rows)) or concat(rows)
    )
    with _installed(InProcessContext()) as context:
        gather_ints(list(range(100)))
        assert joined == [100]
        plan = context.runtime._execution(gather_ints)[0].plan
    assert [phase.aggregations for phase in plan.phases] == [(), ()]


def test_functions_of_a_marked_aggregation_are_not_run():
    """They are for other runtimes; what these add wrongly shows that."""

    @tff.tensorflow.computation(tff.TensorType(np.int32, [None]), np.int32)
    def accumulate(rows, x):
        tf.no_op(name=gathering.MARK)
        return tf.concat([rows, [-x]], 0)

    @tff.tensorflow.computation(*[tff.TensorType(np.int32, [None])] * 2)
    def merge(first, second):
        return tf.concat([first, second], 0)

    @tff.tensorflow.computation(tff.TensorType(np.int32, [None]))
    def report(rows):
        return tf.identity(rows)

    @tff.tensorflow.computation
    def zero():
        return tf.zeros([0], tf.int32)

    @tff.federated_computation(INTS)
    def marked(values):
        return tff.federated_aggregate(values, zero(), accumulate, merge, report)

    with _installed(InProcessContext()):
        assert marked([1, 2]).tolist() == [1, 2]


def test_nothing_is_traced_again_for_another_cohort():
    with _installed(InProcessContext()) as context:
        gather_ints([1, 2, 3])
        traces = context.runtime.traces
        for count in (1, 200, 0, 64):
            assert len(gather_ints([7] * count)) == count
        assert context.runtime.traces == traces


def test_merging_keeps_every_row():
    """For runtimes that aggregate in a tree; TFF's worker does not."""
    packing = gathering._Packing((tf.TensorSpec([], tf.int32), tf.TensorSpec([2])))

    def gathered(ids):
        levels = packing.no_rows()
        for i in ids:
            row = (tf.constant(i), tf.constant([i, -i], tf.float32))
            levels = packing.push(levels, packing.pack(row))
        return levels

    merged = packing.merge(gathered(range(0, 20, 2)), gathered(range(1, 20, 2)))
    merged = packing.push(merged, packing.pack((tf.constant(20), tf.zeros(2))))
    ids, rows = packing.unpack(packing.join(packing.blocks(merged)))
    assert sorted(ids.numpy().tolist()) == list(range(21))
    np.testing.assert_array_equal(rows[:20, 1], -ids[:20].numpy())


@pytest.mark.parametrize(
    "value_type, message",
    [
        (
            tff.TensorType(np.float32, [None, 2]),
            r"gather is float32\(None, 2\): expected a static shape, so that",
        ),
        (tff.TensorType(np.int32, None), "gather is int32<unknown>: expected a static"),
        (tff.types.to_type(()), "has no tensor: expected one at least; gather"),
    ],
)
def test_bad_values(value_type, message):
    with pytest.raises(InputError, match=message):

        @tff.federated_computation(tff.FederatedType(value_type, tff.CLIENTS))
        def fail(values):
            return federated_gather(values)


_ON_DEVICES = """
import tff_leak
import numpy as np, tensorflow as tf, tensorflow_federated as tff
from tff_leak.runtime import gathering, runtimes

cpu = tf.config.list_physical_devices("CPU")[0]
one = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [one] * 3)

@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def gather(values):
    return gathering.federated_gather(values)

context = runtimes.use(
    "in_process", client_devices=["CPU:0", "CPU:1"], server_device="CPU:2"
)
concat, places = tf.concat, []

def spied(rows, axis):
    joined = concat(rows, axis)
    places.append(({row.device[-5:] for row in rows}, joined.device[-5:]))
    return joined

tf.concat = spied
assert gather([float(i) for i in range(5)]).tolist() == [0, 1, 2, 3, 4]
assert places == [({"CPU:0", "CPU:1"}, "CPU:2")], places
"""


def test_rows_of_several_devices_come_together_at_the_server():
    done = subprocess.run(
        [sys.executable, "-c", _ON_DEVICES], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
