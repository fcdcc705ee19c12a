"""Computations give in this process what they give in TFF's own runtime."""

import collections
from typing import Any, NamedTuple

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime.in_process.context import InProcessContext

INTS = tff.FederatedType(np.int32, tff.CLIENTS)
FLOATS = tff.FederatedType(np.float32, tff.CLIENTS)
SEQUENCE = tff.SequenceType(np.int32)


class Point(NamedTuple):
    x: Any
    y: Any


@attrs.define
class Pair:
    first: Any
    second: Any


@tff.tensorflow.computation(np.int32)
def double(x):
    return 2 * x


@tff.tensorflow.computation(np.int32, np.int32)
def add(x, y):
    return x + y


def _datasets(*contents):
    return [tf.data.Dataset.from_tensor_slices(np.array(c, np.int32)) for c in contents]


class TestAggregations:
    def test_all_of_them_at_once(self, beside):
        @tff.federated_computation(INTS, FLOATS, FLOATS)
        def everything(ints, floats, weights):
            return collections.OrderedDict(
                sum=tff.federated_sum(ints),
                min=tff.federated_min(floats),
                max=tff.federated_max(ints),
                mean=tff.federated_mean(floats),
                weighted=tff.federated_mean(floats, weights),
            )

        found = beside.assert_equal(
            everything, [1, 2, 6], [0.5, -1.0, 2.0], [1.0, 1.0, 2.0]
        )
        assert found == {
            "sum": 9,
            "min": -1.0,
            "max": 6,
            "mean": 0.5,
            "weighted": 0.875,
        }

    def test_empty_cohorts(self, beside):
        @tff.federated_computation(INTS, FLOATS)
        def everything(ints, floats):
            return (
                tff.federated_sum(tff.federated_map(double, ints)),
                tff.federated_min(ints),
                tff.federated_max(floats),
                tff.federated_mean(floats),
            )

        found = beside.assert_equal(everything, [], [])
        assert found[0] == 0
        assert found[1] == np.iinfo(np.int32).max
        assert np.isnan(found[3])

    @pytest.mark.parametrize("options", [{}, {"fuse": False}], ids=str)
    def test_nobodys_values(self, options):
        """TFF's worker cannot return values of an empty cohort."""

        @tff.federated_computation(INTS)
        def doubled(values):
            each = tff.federated_map(double, values)
            return each, tff.federated_sum(each), values

        with tff.framework.get_context_stack().install(InProcessContext(**options)):
            assert doubled([]) == ([], 0, [])
            assert doubled([4]) == ([8], 8, [4])

    def test_of_structures_and_tensors(self, beside):
        member = tff.types.to_type(
            Point(
                tff.TensorType(np.float32, [2]),
                collections.OrderedDict(a=np.int64, b=((), np.float64)),
            )
        )

        @tff.federated_computation(tff.FederatedType(member, tff.CLIENTS))
        def both(values):
            return tff.federated_sum(values), tff.federated_max(values)

        clients = [
            Point(
                np.float32([i, -i]),
                collections.OrderedDict(a=2**40 + i, b=((), i / 4)),
            )
            for i in range(3)
        ]
        total, largest = beside.assert_equal(both, clients)
        assert isinstance(total, Point)
        assert total.y["a"] == 3 * 2**40 + 3
        assert total.y["b"] == ((), 0.75)
        np.testing.assert_array_equal(largest.x, [2, 0])

    def test_own_accumulator_of_another_type(self, beside):
        """Counts and sums; the report divides."""
        accumulator = collections.OrderedDict(n=np.int32, total=np.float32)

        @tff.tensorflow.computation
        def zero():
            return collections.OrderedDict(n=0, total=0.0)

        @tff.tensorflow.computation(accumulator, np.float32)
        def accumulate(state, value):
            n, total = state["n"] + 1, state["total"] + value
            return collections.OrderedDict(n=n, total=total)

        @tff.tensorflow.computation(accumulator, accumulator)
        def merge(one, other):
            return tf.nest.map_structure(tf.add, one, other)

        @tff.tensorflow.computation(accumulator)
        def report(state):
            return state["total"] / tf.cast(state["n"], tf.float32), state["n"]

        @tff.federated_computation(FLOATS)
        def mean_and_count(values):
            return tff.federated_aggregate(values, zero(), accumulate, merge, report)

        assert beside.assert_equal(mean_and_count, [1.0, 2.0, 6.0]) == (3.0, 3)

    def test_rows_of_all_clients(self, beside):
        rows_type = tff.TensorType(np.int32, [None])

        @tff.tensorflow.computation
        def none():
            return tf.zeros([0], tf.int32)

        @tff.tensorflow.computation(rows_type, np.int32)
        def append(rows, row):
            return tf.concat([rows, [row]], 0)

        @tff.tensorflow.computation(rows_type, rows_type)
        def concatenate(one, other):
            return tf.concat([one, other], 0)

        @tff.tensorflow.computation(rows_type)
        def sort(rows):
            return tf.sort(rows)

        @tff.federated_computation(INTS)
        def collect(values):
            return tff.federated_aggregate(values, none(), append, concatenate, sort)

        clients = [(37 * i) % 101 for i in range(70)]  # More than one accumulator's.
        np.testing.assert_array_equal(
            beside.assert_equal(collect, clients), sorted(clients)
        )
        assert beside.assert_equal(collect, []).shape == (0,)

    def test_one_after_another_in_phases(self, beside):
        """An aggregate is broadcast, used by the clients and aggregated, twice."""

        @tff.tensorflow.computation(np.float32, np.float32)
        def subtract(x, y):
            return x - y

        @tff.tensorflow.computation(np.float32, np.float32)
        def divide(x, y):
            return x / y

        @tff.tensorflow.computation(np.float32)
        def square(x):
            return x * x

        @tff.federated_computation(FLOATS)
        def standardise(values):
            mean = tff.federated_mean(values)
            apart = tff.federated_map(subtract, (values, tff.federated_broadcast(mean)))
            variance = tff.federated_mean(tff.federated_map(square, apart))
            scaled = tff.federated_map(
                divide, (apart, tff.federated_broadcast(variance))
            )
            return mean, variance, scaled, tff.federated_sum(scaled)

        found = beside.assert_equal(standardise, [0.0, 2.0, 4.0, 6.0])
        assert found[:2] == (3.0, 5.0)
        np.testing.assert_allclose(found[2], [-0.6, -0.2, 0.2, 0.6], rtol=1e-6)

    def test_of_what_was_computed_before_the_last_aggregation(self, beside):
        """A client's value of the first phase is needed in the second, and after it."""

        @tff.federated_computation(INTS)
        def keep(values):
            doubled = tff.federated_map(double, values)
            total = tff.federated_broadcast(tff.federated_sum(values))
            both = tff.federated_map(add, (doubled, total))
            return tff.federated_max(both), doubled, total

        found = beside.assert_equal(keep, [1, 2, 3])
        assert found == (12, [2, 4, 6], 6)


class TestSecureSums:
    """TFF's worker cannot run them: they are compared with sums in the clear."""

    @pytest.mark.parametrize(
        "secure",
        [
            lambda value: tff.federated_secure_sum(value, 100),
            lambda value: tff.federated_secure_sum_bitwidth(value, 8),
        ],
        ids=["max", "bitwidth"],
    )
    def test_equals_the_sum_in_the_clear(self, beside, in_process, secure):
        member = tff.types.to_type((np.int32, tff.TensorType(np.int64, [2])))

        @tff.federated_computation(tff.FederatedType(member, tff.CLIENTS))
        def clear(values):
            return tff.federated_sum(values)

        @tff.federated_computation(tff.FederatedType(member, tff.CLIENTS))
        def sealed(values):
            return secure(values)

        clients = [(1, [2, 3]), (50, [0, 100]), (7, [7, 7])]
        expected = beside.assert_equal(clear, clients)
        found = sealed(clients)
        assert found[0] == expected[0] == 58
        np.testing.assert_array_equal(found[1], expected[1])

    def test_modular(self, in_process):
        @tff.federated_computation(INTS)
        def modular(values):
            return tff.backends.mapreduce.federated_secure_modular_sum(values, 16)

        assert modular([15, 15, 3]) == 33 % 16

    def test_a_value_above_the_maximum_is_an_error_at_its_client(self, in_process):
        @tff.federated_computation(INTS)
        def sealed(values):
            return tff.federated_secure_sum(values, 10)

        assert sealed([1, 10]) == 11
        with pytest.raises(RuntimeError, match="(?s)at client 1.*larger than maximum"):
            sealed([1, 11])


class TestPlacements:
    def test_broadcast_and_all_equal_in_and_out(self, beside):
        @tff.federated_computation(
            tff.FederatedType(np.int32, tff.SERVER),
            tff.FederatedType(np.int32, tff.CLIENTS, all_equal=True),
            INTS,
        )
        def mixed(server, shared, own):
            received = tff.federated_broadcast(server)
            summed = tff.federated_map(add, (received, own))
            return received, shared, tff.federated_map(add, (summed, shared)), server

        found = beside.assert_equal(mixed, 1, 10, [100, 200])
        assert found == (1, 10, [111, 211], 1)

    def test_an_all_equal_value_is_summed_once_for_each_client(self, beside):
        @tff.federated_computation(
            INTS, tff.FederatedType(np.int32, tff.CLIENTS, all_equal=True)
        )
        def total(own, shared):
            return tff.federated_sum(own), tff.federated_sum(shared)

        assert beside.assert_equal(total, [1, 2, 3], 5) == (6, 15)

    def test_values_and_evaluation_without_arguments(self, beside):
        @tff.tensorflow.computation
        def seven():
            return 7

        @tff.federated_computation
        def at_the_server():
            return (
                tff.federated_value((1, "text"), tff.SERVER),
                tff.federated_eval(seven, tff.SERVER),
            )

        @tff.federated_computation
        def at_the_clients():
            sevens = tff.federated_eval(seven, tff.CLIENTS)
            return tff.federated_value(2.5, tff.CLIENTS), sevens

        assert beside.assert_equal(at_the_server) == ((1, b"text"), 7)
        # TFF's worker cannot return values of an empty cohort.
        assert beside.ours(at_the_clients) == (2.5, [])

    def test_evaluation_at_each_client(self, beside):
        @tff.tensorflow.computation
        def seven():
            return 7

        @tff.federated_computation(INTS)
        def sevens(values):
            ours = tff.federated_eval(seven, tff.CLIENTS)
            return ours, tff.federated_sum(ours), tff.federated_zip((ours, values))

        found = beside.assert_equal(sevens, [1, 2])
        assert found == ([7, 7], 14, [(7, 1), (7, 2)])

    def test_map_at_the_server_and_zip(self, beside):
        at_server = tff.FederatedType(np.int32, tff.SERVER)

        @tff.federated_computation(at_server, at_server)
        def arithmetic(one, other):
            both = tff.federated_zip(collections.OrderedDict(one=one, other=other))
            return tff.federated_map(add, (one, other)), both, both.other

        found = beside.assert_equal(arithmetic, 3, 4)
        assert found == (7, {"one": 3, "other": 4}, 4)


class TestSelect:
    def test_each_client_gets_the_slices_of_its_keys(self, beside):
        table = tff.TensorType(np.float32, [4, 2])

        @tff.tensorflow.computation(table, np.int32)
        def row(values, key):
            return collections.OrderedDict(key=key, row=tf.gather(values, key))

        @tff.federated_computation(
            tff.FederatedType(tff.TensorType(np.int32, [2]), tff.CLIENTS),
            tff.FederatedType(table, tff.SERVER),
        )
        def select(keys, values):
            return tff.federated_select(
                keys, tff.federated_value(4, tff.SERVER), values, row
            )

        values = np.arange(8, dtype=np.float32).reshape(4, 2)
        found = beside.assert_equal(select, [[0, 3], [1, 1]], values)
        rows = [[list(e["row"]) for e in client] for client in found]
        assert rows == [[[0, 1], [6, 7]], [[2, 3], [2, 3]]]

    def test_slices_are_used_on_the_clients(self, beside):
        @tff.tensorflow.computation(tff.TensorType(np.int32, [3]), np.int32)
        def entry(values, key):
            return values[key]

        @tff.tensorflow.computation(SEQUENCE)
        def total(slices):
            return slices.reduce(0, lambda a, b: a + b)

        @tff.federated_computation(
            tff.FederatedType(tff.TensorType(np.int32, [2]), tff.CLIENTS),
            tff.FederatedType(tff.TensorType(np.int32, [3]), tff.SERVER),
        )
        def select(keys, values):
            slices = tff.federated_select(
                keys, tff.federated_value(3, tff.SERVER), values, entry
            )
            return tff.federated_sum(tff.federated_map(total, slices))

        assert beside.assert_equal(select, [[0, 2], [2, 2]], [1, 10, 100]) == 301

    def test_secure_select(self, in_process):
        @tff.tensorflow.computation(tff.TensorType(np.int32, [3]), np.int32)
        def entry(values, key):
            return values[key]

        @tff.federated_computation(
            tff.FederatedType(tff.TensorType(np.int32, [2]), tff.CLIENTS),
            tff.FederatedType(tff.TensorType(np.int32, [3]), tff.SERVER),
        )
        def select(keys, values):
            return tff.federated_secure_select(
                keys, tff.federated_value(3, tff.SERVER), values, entry
            )

        (slices,) = select([[2, 0]], [1, 10, 100])
        assert list(slices.as_numpy_iterator()) == [100, 1]


class TestSequences:
    """TFF's worker reduces arguments; it neither maps sequences nor sums them."""

    def test_reduce(self, beside):
        @tff.federated_computation(SEQUENCE)
        def reduce(values):
            return tff.sequence_reduce(values, 100, add)

        @tff.federated_computation(tff.FederatedType(SEQUENCE, tff.CLIENTS))
        def reduce_each(values):
            each = tff.federated_map(reduce, values)
            return each, tff.federated_sum(each)

        assert beside.assert_equal(reduce, [1, 2, 3]) == 106
        found = beside.assert_equal(reduce_each, _datasets([1, 2], [], [3]))
        assert found == ([103, 100, 103], 306)

    def test_map_and_sum(self, beside):
        @tff.federated_computation(SEQUENCE)
        def both(values):
            return tff.sequence_map(double, values), tff.sequence_sum(values)

        doubled, total = beside.ours(both, [1, 2, 3])
        assert list(doubled.as_numpy_iterator()) == [2, 4, 6]
        assert total == 6

    def test_map_and_sum_at_the_clients(self, beside):
        @tff.federated_computation(SEQUENCE)
        def sum_of_doubles(values):
            return tff.sequence_sum(tff.sequence_map(double, values))

        @tff.federated_computation(tff.FederatedType(SEQUENCE, tff.CLIENTS))
        def sums(values):
            each = tff.federated_map(sum_of_doubles, values)
            return each, tff.federated_sum(each)

        found = beside.ours(sums, _datasets([1, 2], [], [3]))
        assert found == ([6, 0, 6], 12)

    def test_of_federated_sequences_directly(self, beside):
        sequences = tff.FederatedType(SEQUENCE, tff.CLIENTS)

        @tff.federated_computation(sequences)
        def directly(values):
            zeros = tff.federated_value(5, tff.CLIENTS)
            mapped = tff.sequence_map(double, values)
            return tff.sequence_sum(mapped), tff.sequence_reduce(values, zeros, add)

        assert beside.ours(directly, _datasets([1, 2], [])) == ([6, 0], [8, 5])

    def test_sum_of_structures(self, beside):
        element = tff.types.to_type((np.int32, tff.TensorType(np.float32, [2])))

        @tff.federated_computation(tff.SequenceType(element))
        def total(values):
            return tff.sequence_sum(values)

        first, second = beside.ours(total, [(1, [1.0, 2.0]), (2, [0.5, 0.5])])
        assert first == 3
        np.testing.assert_array_equal(second, [1.5, 2.5])

    def test_reduce_with_a_state_of_another_type(self, beside):
        state = (np.int32, tff.TensorType(np.float32, [2]))

        @tff.tensorflow.computation(state, np.int32)
        def step(accumulated, value):
            count, total = accumulated
            return count + 1, total + [1.0, 2.0] * tf.cast(value, tf.float32)

        @tff.tensorflow.computation
        def zero():
            return 0, tf.zeros([2])

        @tff.federated_computation(SEQUENCE)
        def reduce(values):
            return tff.sequence_reduce(values, zero(), step)

        count, total = beside.assert_equal(reduce, [1, 2, 3])
        assert count == 3
        np.testing.assert_array_equal(total, [6.0, 12.0])

    @pytest.mark.parametrize(
        "element, values",
        [
            ((np.int32, np.float32), [(1, 2.0), (3, 4.0)]),
            ((np.int32,), [(1,), (3,)]),
            (
                collections.OrderedDict(b=np.int32, a=(np.float32, np.int32)),
                [
                    collections.OrderedDict(b=1, a=(2.0, 3)),
                    collections.OrderedDict(b=4, a=(5.0, 6)),
                ],
            ),
            (Point(np.int32, np.float32), [Point(1, 2.0), Point(3, 4.0)]),
            (Point((np.int32,), np.float32), [Point((1,), 2.0), Point((3,), 4.0)]),
        ],
        ids=["tuple", "one", "dictionary", "named", "nested"],
    )
    def test_of_structures(self, beside, element, values):
        element = tff.types.to_type(element)

        @tff.tensorflow.computation(element)
        def identity(x):
            return x

        @tff.tensorflow.computation(np.float64, element)
        def add_all(total, x):
            return total + tf.add_n(
                [tf.cast(leaf, tf.float64) for leaf in tf.nest.flatten(x)]
            )

        @tff.federated_computation(tff.SequenceType(element))
        def through(sequence):
            mapped = tff.sequence_map(identity, sequence)
            zero = tff.tensorflow.computation(lambda: tf.zeros([], tf.float64))()
            return mapped, tff.sequence_reduce(mapped, zero, add_all)

        mapped, total = beside.ours(through, values)
        assert [tf.nest.map_structure(int, e) for e in mapped] == values
        assert total == sum(np.sum(leaf) for leaf in tf.nest.flatten(values))

    def test_an_empty_list(self, beside):
        @tff.federated_computation(SEQUENCE)
        def through(values):
            return tff.sequence_sum(values)

        assert beside.ours(through, []) == 0

    def test_results_of_the_clients(self, beside):
        @tff.tensorflow.computation(SEQUENCE)
        def batches(dataset):
            return dataset.batch(2)

        @tff.federated_computation(tff.FederatedType(SEQUENCE, tff.CLIENTS))
        def of_clients(datasets):
            return tff.federated_map(batches, datasets)

        found = beside.assert_equal(of_clients, _datasets([1, 2, 3], [4]))
        shapes = [[b.shape for b in dataset] for dataset in found]
        assert shapes == [[(2,), (1,)], [(1,)]]

    def test_results_last_longer_than_what_they_were_made_of(self, in_process):
        @tff.tensorflow.computation(SEQUENCE)
        def doubled(dataset):
            return dataset.map(lambda x: 2 * x)

        def result():
            return doubled(_datasets([1, 2, 3])[0].map(lambda x: x + 1))

        assert list(result().as_numpy_iterator()) == [4, 6, 8]

    def test_a_shuffled_dataset_is_in_the_same_order_in_each_call(self, beside):
        """Within a call, it is in another one in each epoch."""

        @tff.tensorflow.computation(SEQUENCE)
        def two_epochs(dataset):
            return (
                dataset.repeat(2)
                .batch(64)
                .reduce(
                    tf.zeros([0, 32], tf.int32),
                    lambda rows, row: tf.concat([rows, tf.reshape(row, [-1, 32])], 0),
                )
            )

        (numbers,) = _datasets(range(32))
        shuffled = numbers.shuffle(32, seed=3).prefetch(1)
        for _ in range(2):
            first, second = beside.assert_equal(two_epochs, shuffled)
            assert sorted(first) == sorted(second) == list(range(32))
            assert list(first) != list(second)

    def test_a_dataset_that_is_read_twice(self, beside):
        @tff.tensorflow.computation(SEQUENCE)
        def total(dataset):
            return dataset.reduce(0, lambda a, b: a + b)

        @tff.tensorflow.computation(SEQUENCE)
        def count(dataset):
            return dataset.reduce(0, lambda a, _: a + 1)

        @tff.federated_computation(tff.FederatedType(SEQUENCE, tff.CLIENTS))
        def both(datasets):
            return tff.federated_map(total, datasets), tff.federated_map(
                count, datasets
            )

        datasets = _datasets([1, 2], [3])
        assert beside.assert_equal(both, datasets) == ([3, 3], [2, 1])


class TestValues:
    @pytest.mark.parametrize(
        "type_spec, value",
        [
            (np.bool_, True),
            (np.str_, "text"),
            (tff.TensorType(np.str_, [2]), ["a", "longer"]),
            (np.int64, -(2**40)),
            (np.uint8, 255),
            (np.float64, 1e300),
            (np.complex64, 1 + 2j),
            (tff.TensorType(np.float32, [None, 2]), [[1.0, 2.0], [3.0, 4.0]]),
            (tff.TensorType(np.int32, [0]), []),
        ],
        ids=str,
    )
    def test_dtypes(self, beside, type_spec, value):
        member = tff.types.to_type(type_spec)

        @tff.tensorflow.computation(member)
        def identity(x):
            return tf.identity(x)

        @tff.federated_computation(tff.FederatedType(member, tff.CLIENTS))
        def mapped(values):
            return tff.federated_map(identity, values)

        value = np.array(value, member.dtype) if member.dtype != np.str_ else value
        beside.assert_equal(identity, value)
        first, second = beside.assert_equal(mapped, [value, value])
        np.testing.assert_array_equal(first, second)

    @pytest.mark.parametrize(
        "container",
        [
            lambda a, b: collections.OrderedDict(z=a, a=b),
            lambda a, b: {"a": a, "b": b},
            lambda a, b: (a, b),
            lambda a, b: [a, b],
            lambda a, b: Point(a, b),
            lambda a, b: Pair(a, b),
            lambda a, b: Point(collections.OrderedDict(p=a), ((b,), [Pair(a, ())])),
        ],
        ids=["ordered", "dict", "tuple", "list", "named", "attrs", "nested"],
    )
    def test_containers_come_back_as_they_went_in(self, beside, container):
        member = tff.types.to_type(container(np.int32, np.float32))
        value = container(1, 2.0)

        @tff.federated_computation(member, tff.FederatedType(member, tff.CLIENTS))
        def through(plain, federated):
            return plain, federated

        plain, federated = beside.assert_equal(through, value, [value, value])
        assert plain == value
        assert federated == [value, value]

    def test_names_without_a_container(self, beside):
        """A type with names only gives ordered dictionaries."""
        member = tff.StructType([("b", np.int32), ("a", np.int32)])

        @tff.federated_computation(member)
        def through(value):
            return value, value.a

        value = collections.OrderedDict(b=1, a=2)
        found, second = beside.assert_equal(through, value)
        assert list(found.items()) == [("b", 1), ("a", 2)]
        assert second == 2

    def test_empty_structures(self, beside):
        @tff.federated_computation(
            tff.FederatedType(np.int32, tff.SERVER),
            tff.FederatedType((), tff.CLIENTS),
        )
        def through(value, nothing):
            return (
                tff.federated_zip((value, tff.federated_value((), tff.SERVER))),
                tff.federated_sum(nothing),
                nothing,
                (),
            )

        found = beside.assert_equal(through, 1, [(), ()])
        assert found == ((1, ()), (), [(), ()], ())

    def test_the_same_tensor_twice_in_a_result(self, beside):
        @tff.tensorflow.computation(np.int32)
        def twice(x):
            return x, x, x + 1

        assert beside.assert_equal(twice, 3) == (3, 3, 4)

    def test_an_argument_that_is_not_used(self, beside):
        @tff.federated_computation(INTS, tff.FederatedType(SEQUENCE, tff.CLIENTS))
        def first(values, _):
            return tff.federated_sum(values)

        assert beside.assert_equal(first, [1, 2], _datasets([1], [2])) == 3

    def test_selections_deep_in_an_argument(self, beside):
        member = tff.types.to_type(Point((np.int32, np.int32), np.int32))

        @tff.federated_computation(
            (tff.FederatedType(member, tff.SERVER), (INTS, INTS)), member
        )
        def pick(federated, plain):
            server, (_, second) = federated
            return server.x[1], plain.x[0], tff.federated_sum(second)

        value = Point((1, 2), 3)
        assert beside.assert_equal(pick, (value, ([4], [5])), value) == (2, 1, 5)


class TestComputations:
    def test_without_anything_federated(self, beside):
        @tff.federated_computation(np.int32, np.int32)
        def both(x, y):
            return add(double(x), y), double(double(y))

        assert beside.assert_equal(both, 1, 5) == (7, 20)

    def test_that_return_their_argument(self, beside):
        @tff.federated_computation(INTS)
        def own(values):
            return values

        @tff.federated_computation(np.int32)
        def plain(value):
            return value

        assert beside.assert_equal(own, [3, 1]) == [3, 1]
        assert beside.assert_equal(plain, 4) == 4

    def test_constants_and_literals(self, beside):
        offset = np.arange(3, dtype=np.int32)

        @tff.tensorflow.computation(np.int32)
        def shifted(x):
            return x + offset

        @tff.federated_computation(INTS)
        def use(values):
            return tff.federated_map(shifted, values), 10, double(21)

        mapped, ten, answer = beside.assert_equal(use, [10, 20])
        np.testing.assert_array_equal(mapped, [[10, 11, 12], [20, 21, 22]])
        assert (ten, answer) == (10, 42)

    def test_nested_calls(self, beside):
        @tff.federated_computation(INTS)
        def inner(values):
            return tff.federated_broadcast(tff.federated_sum(values))

        @tff.federated_computation(INTS)
        def outer(values):
            total = inner(values)
            again = inner(tff.federated_map(add, (values, total)))
            return again, inner(inner(values))

        assert beside.assert_equal(outer, [1, 2]) == (9, 6)

    def test_names_of_arguments_mean_nothing(self, beside):
        """They end up beside the names that the runtime itself uses."""

        @tff.federated_computation(np.int32)
        def inner(parameter):
            return add(parameter, parameter)

        @tff.federated_computation(tff.FederatedType(SEQUENCE, tff.CLIENTS), np.int32)
        def outer(argument, parameter):
            each = tff.federated_map(
                tff.federated_computation(
                    lambda parameter: tff.sequence_sum(
                        tff.sequence_map(inner, parameter)
                    ),
                    SEQUENCE,
                ),
                argument,
            )
            return each, parameter

        assert beside.ours(outer, _datasets([1, 2], [3]), 8) == ([6, 6], 8)

    def test_control_flow_and_functions_of_one_name(self, beside):
        def build(step):
            @tf.function
            def body(x):
                total = x
                for _ in tf.range(3):
                    total = step(total)
                return total

            return tff.tensorflow.computation(body, np.int32)

        increase, shrink = build(lambda x: x + 5), build(lambda x: x - 1)

        @tff.federated_computation(INTS)
        def both(values):
            return tff.federated_map(increase, values), tff.federated_map(
                shrink, values
            )

        assert beside.assert_equal(both, [0, 10]) == ([15, 25], [-3, 7])

    def test_pieces_with_variables_start_anew(self, beside):
        @tff.tensorflow.computation(np.int32)
        def count(steps):
            counter = tf.Variable(10, dtype=tf.int32)

            @tf.function
            def run():
                for _ in tf.range(steps):
                    counter.assign_add(1)
                return counter.read_value()

            return run()

        @tff.federated_computation(INTS)
        def counts(values):
            each = tff.federated_map(count, values)
            return each, tff.federated_map(count, each)

        for _ in range(2):
            assert beside.assert_equal(counts, [1, 2, 3]) == (
                [11, 12, 13],
                [21, 22, 23],
            )

    def test_pieces_with_tables(self, beside):
        @tff.tensorflow.computation(np.str_)
        def lookup(word):
            table = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2]), -1
            )
            return table.lookup(word)

        @tff.federated_computation(tff.FederatedType(np.str_, tff.CLIENTS))
        def lookups(words):
            return tff.federated_map(lookup, words)

        assert beside.assert_equal(lookups, ["b", "c", "a"]) == [2, -1, 1]

    def test_gradients(self, beside):
        @tff.tensorflow.computation(np.float32)
        def derivative(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.sin(x) * x
            return tape.gradient(y, x)

        found = beside.assert_equal(derivative, 0.5, rtol=1e-6)
        np.testing.assert_allclose(found, 0.5 * np.cos(0.5) + np.sin(0.5), rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"fuse": False}, {"vectorize": 4}], ids=str)
def test_each_client_has_random_numbers_of_its_own(options):
    """Also where one function computes several clients."""

    @tff.tensorflow.computation(np.float32)
    def noisy(x):
        return x + tf.random.normal([8])

    @tff.tensorflow.computation
    def noise():
        return tf.random.uniform([8])

    @tff.federated_computation(FLOATS)
    def draw(values):
        return tff.federated_map(noisy, values), tff.federated_eval(noise, tff.CLIENTS)

    with tff.framework.get_context_stack().install(InProcessContext(**options)):
        draws = [draw([0.0] * 4) for _ in range(2)]
    for part in (0, 1):
        rows = np.concatenate([each[part] for each in draws])
        assert rows.shape == (8, 8)
        # Two of 64 floats are equal with probability 64^2 / 2 / 2^23, about 2e-4.
        assert len(np.unique(rows)) >= 62
