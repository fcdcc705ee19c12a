"""The contexts: options, concurrency, interruption, devices."""

import asyncio
import concurrent.futures
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import tff_leak
from tff_leak.errors import InputError
from tff_leak.runtime.in_process import context as context_module
from tff_leak.runtime.in_process.context import (
    AsyncInProcessContext,
    InProcessContext,
)

INTS = tff.FederatedType(np.int32, tff.CLIENTS)
_ENVIRONMENT = dict(os.environ, PYTHONPATH=pathlib.Path(tff_leak.__file__).parents[1])
_ENVIRONMENT.pop("TF_CPP_MIN_LOG_LEVEL", None)


def _installed(context):
    return tff.framework.get_context_stack().install(context)


@tff.tensorflow.computation(np.int32)
def double(x):
    return 2 * x


@tff.federated_computation(INTS)
def double_and_sum(values):
    each = tff.federated_map(double, values)
    return each, tff.federated_sum(each)


@tff.tensorflow.computation(np.int32)
def count(steps):
    """10 + steps, one by one, in a variable."""
    counter = tf.Variable(10)

    @tf.function
    def run():
        for _ in tf.range(steps):
            counter.assign_add(1)
        return counter.read_value()

    return run()


@tff.federated_computation(INTS)
def counts(values):
    return tff.federated_map(count, values)


@tff.tensorflow.computation(np.int32)
def work(steps):
    """Multiplies 100 x 100 matrices."""
    _, x = tf.while_loop(
        lambda i, x: i < steps,
        lambda i, x: (i + 1, tf.matmul(x, x) / 100.0),
        (tf.constant(0), tf.eye(100)),
    )
    return tf.reduce_sum(x)


@tff.federated_computation(INTS)
def works(values):
    return tff.federated_map(work, values)


class TestOptions:
    @pytest.mark.parametrize("name", ["threads", "vectorize"])
    def test_out_of_range(self, name):
        message = f"{name} is 0: expected at least 1"
        with pytest.raises(InputError, match=message):
            InProcessContext(**{name: 0})

    @pytest.mark.parametrize("name", ["client_devices", "server_device"])
    def test_a_device_that_is_not_there(self, name):
        value = ["TPU:7"] if name == "client_devices" else "TPU:7"
        message = "device is 'TPU:7': expected one of .*CPU:0.*; correct it, or make"
        with pytest.raises(InputError, match=message):
            AsyncInProcessContext(**{name: value})

    @pytest.mark.parametrize("device", ["CPU:0", "/device:CPU:0"])
    def test_a_device_by_its_names(self, device):
        context = InProcessContext(client_devices=[device], server_device=device)
        with _installed(context):
            assert double_and_sum([1, 2]) == ([2, 4], 6)


class TestArguments:
    def test_lists_of_different_lengths(self, in_process):
        @tff.federated_computation(INTS, INTS)
        def both(one, other):
            return tff.federated_sum(one), tff.federated_sum(other)

        with pytest.raises(ValueError, match="[Cc]onflicting cardinalities"):
            both([1, 2], [1, 2, 3])
        assert both([1, 2], [3, 4]) == (3, 7)

    @pytest.mark.parametrize(
        "argument", [[1.5], 3, ["a"], [None], [[1]], {"a": 1}], ids=str
    )
    def test_of_another_type(self, in_process, argument):
        with pytest.raises(TypeError):
            double_and_sum(argument)
        assert double_and_sum([1]) == ([2], 2)

    def test_too_many_or_too_few(self, in_process):
        with pytest.raises(TypeError):
            double_and_sum()
        with pytest.raises(TypeError):
            double_and_sum([1], [2])


class TestReuse:
    def test_a_computation_is_compiled_once(self, in_process):
        for values in ([1], [1, 2, 3], [], [4]):
            double_and_sum(values)
        runtime = in_process.runtime
        before = runtime.traces
        assert before == 3  # Server, clients, server: one slot has nothing to merge.
        double_and_sum([5, 6])
        assert runtime.traces == before
        counts([1])
        assert runtime.traces > before

    def test_pieces_one_by_one_are_not_traced(self):
        context = InProcessContext(fuse=False)
        with _installed(context):
            assert double_and_sum([1, 2]) == ([2, 4], 6)
        assert context.runtime.traces == 0

    def test_the_least_recently_used_are_forgotten(self, monkeypatch):
        monkeypatch.setattr(context_module, "_KEPT", 2)
        context = InProcessContext()

        def adds(offset):
            return tff.tensorflow.computation(lambda x: x + offset, np.int32)

        one, two, three = map(adds, (1, 2, 3))

        def traced(comp, expected):
            before = context.runtime.traces
            assert comp(10) == expected
            return context.runtime.traces > before

        with _installed(context):
            assert traced(one, 11)
            assert traced(two, 12)
            assert not traced(one, 11)
            assert traced(three, 13)  # Takes the place of the second.
            assert not traced(one, 11)
            assert traced(two, 12)

    def test_one_computation_in_two_contexts(self):
        for context in (InProcessContext(), InProcessContext(threads=2)):
            with _installed(context):
                assert counts([1, 2, 3]) == [11, 12, 13]


class TestConcurrency:
    def test_calls_from_several_threads(self):
        context = InProcessContext(threads=2)

        def call(number):
            with _installed(context):  # The stack of contexts is the thread's own.
                return double_and_sum([number] * 3), counts([number, 2 * number])

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            found = list(pool.map(call, range(24)))
        assert found == [
            (([2 * i] * 3, 6 * i), [10 + i, 10 + 2 * i]) for i in range(24)
        ]

    def test_calls_at_once(self):
        async def all_calls():
            return await asyncio.gather(*(double_and_sum([i, 1]) for i in range(20)))

        with _installed(AsyncInProcessContext()):
            found = asyncio.run(all_calls())
        assert found == [([2 * i, 2], 2 * i + 2) for i in range(20)]

    def test_large_sums_at_once(self):
        """Over 205 MB Grappler adds tensors up in a place that calls share."""
        size, terms = 9_000_000, 8

        @tff.tensorflow.computation(np.float32)
        def large_sum(x):
            ones = x * tf.ones([size])
            return tf.reduce_max(tf.add_n([ones * float(k) for k in range(terms)]))

        async def at_once():
            calls = [large_sum(1.0) for _ in range(4)]
            return await asyncio.gather(*calls)

        with _installed(AsyncInProcessContext()):
            assert asyncio.run(at_once()) == [28.0] * 4

    def test_short_calls_overtake_a_long_one(self):
        """One of them is of a computation that has to be compiled first."""

        async def overlapping():
            await asyncio.gather(work(0), double(0))  # Compiles both.
            long = asyncio.create_task(work(40_000))
            await asyncio.sleep(0.05)
            fresh = tff.tensorflow.computation(lambda x: x - 1, np.int32)
            assert await asyncio.gather(double(21), fresh(5)) == [42, 4]
            overtaken = not long.done()
            await long
            return overtaken

        with _installed(AsyncInProcessContext()):
            assert asyncio.run(overlapping())

    @pytest.mark.parametrize("options", [{}, {"threads": 2}, {"fuse": False}], ids=str)
    def test_pieces_with_variables(self, options):
        """At once as one after another; a piece of two computations, too."""

        @tff.federated_computation(INTS)
        def again(values):
            return tff.federated_map(count, tff.federated_map(count, values))

        async def at_once():
            return await asyncio.gather(
                counts([100, 200, 300]), counts([1, 2]), again([50, 150]), again([7])
            )

        with _installed(AsyncInProcessContext(**options)):
            for _ in range(5):
                assert asyncio.run(at_once()) == [
                    [110, 210, 310],
                    [11, 12],
                    [70, 170],
                    [27],
                ]

    def test_a_process_whose_pieces_have_variables(self, same):
        """Two learners at once learn what they learn one after another."""

        def model():
            layers = [tf.keras.layers.InputLayer((2,)), tf.keras.layers.Dense(1)]
            return tff.learning.models.from_keras_model(
                tf.keras.Sequential(layers),
                loss=tf.keras.losses.MeanSquaredError(),
                input_spec=(tf.TensorSpec([None, 2]), tf.TensorSpec([None, 1])),
            )

        process = tff.learning.algorithms.build_weighted_fed_avg(
            model, tff.learning.optimizers.build_sgdm(0.1)
        )
        rng = np.random.default_rng(0)

        def cohort():
            tensors = rng.normal(size=(6, 2)), rng.normal(size=(6, 1))
            tensors = tuple(tensor.astype(np.float32) for tensor in tensors)
            return tf.data.Dataset.from_tensor_slices(tensors).batch(2)

        cohorts = [[cohort(), cohort()], [cohort()]]

        async def learn(start, datasets):
            state = start
            for _ in range(2):
                state = (await process.next(state, datasets)).state
            return state.global_model_weights

        async def one_after_another(start):
            return [await learn(start, datasets) for datasets in cohorts]

        async def at_once(start):
            return await asyncio.gather(*(learn(start, c) for c in cohorts))

        async def everything():
            start = await process.initialize()
            expected = await one_after_another(start)
            for _ in range(3):
                same(await at_once(start), expected)
            return expected

        with _installed(AsyncInProcessContext()):
            first, second = asyncio.run(everything())
        assert np.abs(first.trainable[0] - second.trainable[0]).max() > 1e-3


class TestAsync:
    def test_a_coroutine_as_the_argument(self):
        async def nested():
            return await double(double(4))

        with _installed(AsyncInProcessContext()):
            assert asyncio.run(nested()) == 16

    def test_an_error_reaches_the_caller(self):
        async def wrong():
            await double_and_sum([1.5])

        with _installed(AsyncInProcessContext()), pytest.raises(TypeError):
            asyncio.run(wrong())

    def test_a_cancelled_call_stops_between_pieces(self):
        """The whole cohort would take half a minute."""

        async def cancel():
            await works([1])  # Built.
            call = asyncio.create_task(works([2000] * 1000))
            await asyncio.sleep(0.3)
            assert not call.done()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

        with _installed(AsyncInProcessContext()):
            asyncio.run(cancel())
        deadline = time.monotonic() + 5
        while _calls() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not _calls()


def _calls():
    return [t for t in threading.enumerate() if t.name.startswith(("tff-call", "cli"))]


# Prints a line for each client; Ctrl-C ends each of two cohorts, then the program
# ends by itself.
_INTERRUPTED = """
import sys, threading
import tff_leak
import numpy as np, tensorflow as tf, tensorflow_federated as tff
from tff_leak.runtime import runtimes

@tff.tensorflow.computation(np.int32)
def work(x):
    with tf.control_dependencies([tf.print("client", output_stream=sys.stdout)]):
        _, y = tf.while_loop(
            lambda i, y: i < 1000,
            lambda i, y: (i + 1, tf.matmul(y, y) / 100.0),
            (tf.constant(0), tf.eye(100)),
        )
    return x + tf.cast(y[0, 0], tf.int32)

@tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
def works(values):
    return tff.federated_sum(tff.federated_map(work, values))

for slots in (1, 2):
    runtimes.use("in_process", concurrent_clients=slots)
    works([1])
    before = threading.enumerate()
    print("start", flush=True)
    try:
        works([1] * 1000)
    except KeyboardInterrupt:
        left = [t.name for t in threading.enumerate() if t not in before]
        print("interrupted", left, flush=True)
"""


def test_ctrl_c_stops_between_pieces():
    """Within a few clients of 1000, with one slot and with two."""
    process = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED],
        env=_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(2):
            lines = iter(process.stdout.readline, "start\n")
            assert all(line == "client\n" for line in lines)
            for _ in range(3):
                assert process.stdout.readline() == "client\n"
            process.send_signal(signal.SIGINT)
            more = 0
            while (line := process.stdout.readline()) == "client\n":
                more += 1
            assert line == "interrupted []\n"  # No thread is left.
            assert more < 200
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, output, errors) == (0, "", "")


_ON_DEVICES = """
import tff_leak
import numpy as np, tensorflow as tf, tensorflow_federated as tff
from tff_leak.runtime import runtimes

cpu = tf.config.list_physical_devices("CPU")[0]
one = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [one] * 3)
tf.debugging.set_log_device_placement(True)

@tff.tensorflow.computation(np.float32, np.float32)
def at_client(x, y):
    variable = tf.Variable(1.0)
    with tf.control_dependencies([variable.assign(tf.sin(x, name="CLIENT"))]):
        return variable.read_value() + y

@tff.tensorflow.computation(np.float32)
def at_server(x):
    return tf.cos(x, name="SERVER")

@tff.federated_computation(
    tff.FederatedType(np.float32, tff.CLIENTS),
    tff.FederatedType(np.float32, tff.SERVER),
)
def both(values, server):
    shared = tff.federated_broadcast(tff.federated_map(at_server, server))
    each = tff.federated_map(at_client, (values, shared))
    return each, tff.federated_sum(each)

runtimes.use(
    "in_process",
    client_devices=["CPU:0", "CPU:1"],
    server_device="CPU:2",
    concurrent_clients=2,
)
values = [float(i) for i in range(7)]
each, total = both(values, 0.5)
expected = np.sin(np.float32(values)) + np.cos(np.float32(0.5))
np.testing.assert_allclose(each, expected, rtol=1e-6)
np.testing.assert_allclose(total, expected.sum(), rtol=1e-6)
"""


def test_pieces_run_on_the_devices_they_are_given():
    done = subprocess.run(
        [sys.executable, "-c", _ON_DEVICES],
        env=dict(_ENVIRONMENT, TF_CPP_MIN_LOG_LEVEL="0"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    placed = re.findall(r"(CLIENT|SERVER)\S*: \(\w+\): \S*device:(CPU:\d)", done.stderr)
    assert set(placed) == {
        ("CLIENT", "CPU:0"),
        ("CLIENT", "CPU:1"),
        ("SERVER", "CPU:2"),
    }
