import asyncio
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import tff_leak
from tff_leak import runtime
from tff_leak.errors import InputError
from tff_leak.runtime import native, runtimes
from tff_leak.runtime.in_process.context import (
    AsyncInProcessContext,
    InProcessContext,
)


@tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
def _sum(values):
    return tff.federated_sum(values)


@pytest.fixture
def no_context_left():
    yield
    tff.test.set_no_default_context()


def test_use_is_there_without_an_import_of_tensorflow():
    code = (
        "import sys, tff_leak.runtime as r; assert 'tensorflow' not in sys.modules; "
        "assert 'use' not in vars(r)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=_ENVIRONMENT)
    assert runtime.use is runtimes.use
    with pytest.raises(
        AttributeError, match="'tff_leak.runtime' has no attribute 'fly"
    ):
        runtime.fly  # noqa: B018


class TestUse:
    pytestmark = pytest.mark.usefixtures("no_context_left")

    def test_in_process_is_the_default(self):
        context = runtime.use()
        assert isinstance(context, InProcessContext)
        assert _sum([1, 2]) == 3
        assert context.runtime.traces > 0

    def test_asynchronous(self):
        context = runtime.use("in_process", asynchronous=True)
        assert isinstance(context, AsyncInProcessContext)

        async def call():
            return await _sum([1, 2])

        assert asyncio.run(call()) == 3

    def test_native(self):
        worker = runtime.use("native", threads=1)
        try:
            assert isinstance(worker, native.Worker)
            assert _sum([1, 2]) == 3
        finally:
            worker.close()

    def test_options_reach_the_context(self):
        context = runtime.use(fuse=False, concurrent_clients=2, vectorize=3)
        assert _sum([1, 2, 3]) == 6
        assert context.runtime.traces == 0  # Nothing is fused.
        with pytest.raises(InputError, match="vectorize is 0"):
            runtime.use(vectorize=0)
        with pytest.raises(InputError, match="device is 'GPU:9': expected one of"):
            runtime.use(client_devices=["GPU:9"])


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"runtime": "cloud"},
            "runtime is 'cloud': expected one of in_process, native",
        ),
        ({"precision": "half"}, "precision is 'half': expected one of float32, bfl"),
        ({"runtime": "native", "precision": "half"}, "precision is 'half'"),
        ({"runtime": "native", "client_devices": ["CPU:0"]}, "'native' was given dev"),
        ({"runtime": "native", "server_device": "CPU:0"}, "'native' was given devices"),
        ({"runtime": "native", "concurrent_clients": 2}, "expected none of them"),
        ({"runtime": "native", "vectorize": 2}, "leave them out or use in_process"),
        (
            {"runtime": "native", "precision": "bfloat16"},
            "'bfloat16' with runtime 'native'",
        ),
    ],
)
def test_bad_input(options, message, monkeypatch):
    monkeypatch.setattr(native, "install", lambda **_: pytest.fail("was started"))
    with pytest.raises(InputError, match=message):
        runtime.use(**options)


_ENVIRONMENT = dict(os.environ, PYTHONPATH=pathlib.Path(tff_leak.__file__).parents[1])
_PRECISIONS = """
import tff_leak
import numpy as np, tensorflow as tf, tensorflow_federated as tff
from tff_leak import runtime

matrix = tff.TensorType(np.float32, [64, 64])

@tff.tensorflow.computation(matrix, matrix)
def product(x, y):
    return tf.nn.relu(tf.matmul(tf.nn.relu(x @ y), y))

rng = np.random.default_rng(0)
arguments = rng.normal(size=(2, 64, 64)).astype(np.float32)
results = []
for precision in ("float32", "bfloat16"):
    runtime.use("in_process", precision=precision)
    results.append(product(*arguments))
exact = np.maximum(np.maximum(arguments[0] @ arguments[1], 0) @ arguments[1], 0)
for result in results:
    assert result.dtype == np.float32
    print(np.abs(result - exact).max() / np.abs(exact).max())
"""


def test_bfloat16_changes_results_a_little_but_does():
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    if "avx512_bf16" not in flags and "amx_bf16" not in flags:
        pytest.skip("the CPU has no bfloat16 instructions (avx512_bf16 or amx_bf16)")
    done = subprocess.run(
        [sys.executable, "-c", _PRECISIONS],
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    float32, bfloat16 = map(float, done.stdout.split())
    # 8 bits of mantissa, 2^-9 = 0.002 for each of a few roundings of large entries.
    assert float32 < 1e-5
    assert 1e-4 < bfloat16 < 0.02


class TestThreads:
    @pytest.fixture
    def settled(self, monkeypatch):
        calls = []
        monkeypatch.setattr(
            tf.config.threading, "set_intra_op_parallelism_threads", calls.append
        )
        return calls

    def test_a_number(self, settled):
        assert runtimes.use_threads(3) == 3
        assert settled == [3]

    def test_one_for_each_core_of_this_process(self, settled, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7})
        assert runtimes.use_threads(None) == 3
        assert settled == [3]


def test_what_contradicts_itself_is_refused_before_anything_is_written():
    runtimes.check("native", "float32")
    runtimes.check("in_process", "bfloat16")
    with pytest.raises(InputError, match="'bfloat16' with runtime 'native': expected"):
        runtimes.check("native", "bfloat16")
