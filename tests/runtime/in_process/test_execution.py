"""Errors, stopping, and what is done where."""

import threading

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime.in_process import execution
from tff_leak.runtime.in_process.context import InProcessContext
from tff_leak.runtime.in_process.execution import ComputationError, Stop

INTS = tff.FederatedType(np.int32, tff.CLIENTS)


@tff.tensorflow.computation(np.int32)
def positive(x):
    """Fails for what is not."""
    with tf.control_dependencies([tf.debugging.assert_positive(x, "not positive")]):
        return tf.identity(x)


def _installed(context):
    return tff.framework.get_context_stack().install(context)


class TestErrors:
    @pytest.fixture(scope="class")
    def sum_of_positive(self):
        @tff.federated_computation(INTS)
        def sum_of_positive(values):
            return tff.federated_sum(tff.federated_map(positive, values))

        return sum_of_positive

    @pytest.mark.parametrize(
        "options",
        [{}, {"fuse": False}, {"threads": 2}, {"threads": 3, "fuse": False}],
        ids=str,
    )
    def test_the_computation_and_the_client_are_named(self, sum_of_positive, options):
        with _installed(InProcessContext(**options)):
            for values in ([1, 2, -3], [0, 1, 2], [5, -5, 5]):
                (client,) = [i for i, value in enumerate(values) if value <= 0]
                message = (
                    rf"(?s)TensorFlow failed at client {client}, in phase 0 of the "
                    r"computation \({int32}@CLIENTS -> int32@SERVER\): .*not positive"
                )
                with pytest.raises(ComputationError, match=message) as caught:
                    sum_of_positive(values)
                assert isinstance(caught.value.__cause__, tf.errors.OpError)
            assert sum_of_positive([1, 2, 3]) == 6  # The runtime goes on.

    def test_of_clients_at_the_same_time_all_are_named(self, sum_of_positive):
        with _installed(InProcessContext(vectorize=2)):
            with pytest.raises(ComputationError, match="one of the clients 2, 3,"):
                sum_of_positive([1, 2, -3, 4, 5])
            assert sum_of_positive([1, 2, 3, 4, 5]) == 15

    def test_the_phase_is_named(self):
        @tff.federated_computation(INTS)
        def later(values):
            total = tff.federated_broadcast(tff.federated_sum(values))
            return tff.federated_map(positive, total), values

        @tff.federated_computation(tff.FederatedType(np.int32, tff.SERVER))
        def at_server(value):
            return tff.federated_map(positive, value)

        with _installed(InProcessContext()):
            with pytest.raises(ComputationError, match="in phase 1 of"):
                later([1, -5])
            with pytest.raises(ComputationError, match="failed at the server, in"):
                at_server(-1)

    def test_names_of_long_computations_are_short(self):
        member = tff.types.to_type([np.int32] * 100)

        @tff.tensorflow.computation(member)
        def fail(x):
            with tf.control_dependencies([tf.debugging.assert_positive(x[0])]):
                return tf.identity(x[0])

        with _installed(InProcessContext()):
            with pytest.raises(ComputationError, match="computation .{200}[.]{3}: "):
                fail([0] * 100)


class TestStop:
    def _run(self, comp, stop, **options):
        return InProcessContext(**options).runtime.run(comp, [1] * 8, stop)

    @pytest.mark.parametrize("options", [{}, {"threads": 2}, {"vectorize": 2}], ids=str)
    def test_after_some_clients(self, options):
        """As many pieces run as had begun when it was set."""

        class AfterFive(Stop):
            checks = 0

            def check(self):
                self.checks += 1
                if self.checks == 5:
                    self.set()
                super().check()

        @tff.federated_computation(INTS)
        def double_sum(values):
            return tff.federated_sum(tff.federated_map(positive, values))

        stop = AfterFive()
        with pytest.raises(InterruptedError, match="stopped between two pieces"):
            self._run(double_sum, stop, **options)
        assert stop.checks <= 6  # Each of two slots looks once more.
        assert self._run(double_sum, Stop(), **options) == 8

    def test_an_error_in_one_slot_ends_the_others(self):
        """The other slot has 4000 clients, which would take seconds."""

        @tff.tensorflow.computation(np.int32)
        def work(x):
            with tf.control_dependencies([tf.debugging.assert_positive(x)]):
                product = tf.linalg.matmul(tf.eye(100), tf.eye(100))
                return tf.cast(product[0, 0], tf.int32)

        @tff.federated_computation(INTS)
        def works(values):
            return tff.federated_map(work, values)

        class Counting(Stop):
            checks = 0

            def check(self):
                Counting.checks += 1
                super().check()

        runtime = InProcessContext(threads=2).runtime
        runtime.run(works, [1, 1], Stop())  # Built.
        with pytest.raises(ComputationError, match="at client 1,"):
            runtime.run(works, [1, 0] + [1] * 8000, Counting())
        assert Counting.checks < 2000
        names = [thread.name for thread in threading.enumerate()]
        assert not [name for name in names if name.startswith("clients")]


class TestDeal:
    class Fixed:
        grows = False

    class Growing:
        grows = True

    def test_clients_are_dealt_in_turn(self):
        chunks = execution._deal(5, 2, self.Fixed)
        assert [[list(c) for c in slot] for slot in chunks] == [[[0, 2, 4]], [[1, 3]]]

    def test_slots_without_clients_are_left_out(self):
        assert execution._deal(1, 4, self.Fixed) == [[range(0, 1, 4)]]

    def test_growing_accumulators_are_begun_anew(self):
        (chunks,) = execution._deal(1000, 1, self.Growing)
        assert max(len(chunk) for chunk in chunks) == 64
        assert len(chunks) == 16
        assert [client for chunk in chunks for client in chunk] == list(range(1000))
