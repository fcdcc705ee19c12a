"""Random small computations give the same in both runtimes."""

import collections

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from hypothesis import strategies as st

# Sums of a few of these are exact in float32, in any order.
NUMBERS = {
    np.int32: st.integers(-100, 100),
    np.int64: st.integers(-(2**40), 2**40),
    np.float32: st.integers(-64, 64).map(lambda i: i / 8),
}
STEPS = 6


@st.composite
def arguments(draw):
    """Member types and values of a computation's parameters.

    Three are the clients' own (the second non-negative, to be a weight), then a value
    at the server and one that is equal at all clients, then a plain one.
    """
    size = draw(st.integers(0, 4))
    dtypes = [draw(st.sampled_from(list(NUMBERS))) for _ in range(5)]
    dtypes.insert(1, np.float32)

    def number(dtype):
        return dtype(draw(NUMBERS[dtype]))

    own = [[number(dtype) for _ in range(size)] for dtype in dtypes[:3]]
    own[1] = [abs(weight) for weight in own[1]]
    return dtypes, [*own, *(number(dtype) for dtype in dtypes[3:])]


class Composer:
    """Builds a computation's body out of choices.

    Attributes:
      values: all federated values so far; every choice adds one.
    """

    def __init__(self, values, choose):
        self.values = list(values)
        self.weight = self.values[1]
        self._choose = choose

    def step(self):
        """Applies one operation that fits one value, both of them chosen."""
        value = self._pick(self.values)
        self.values.append(self._pick(self._operations(value))(value))

    def _pick(self, options):
        return options[self._choose(len(options))]

    def _operations(self, value):
        type_spec = value.type_signature
        operations = [self._map, self._zip]
        if isinstance(type_spec.member, tff.StructType):
            operations.append(lambda v: v[self._choose(len(v.type_signature.member))])
        if type_spec.placement is tff.SERVER:
            return [*operations, tff.federated_broadcast, tff.federated_broadcast]
        operations += [tff.federated_sum, self._count, self._constant]
        if isinstance(type_spec.member, tff.TensorType):
            operations += [tff.federated_min, tff.federated_max]
        if all(dtype == np.float32 for dtype in _dtypes(type_spec.member)):
            operations += [
                tff.federated_mean,
                lambda v: tff.federated_mean(v, self.weight),
            ]
        return operations

    def _map(self, value):
        """An affine function of every tensor, and a new structure around them."""
        factor, offset = self._choose(3) - 1, self._choose(3)

        @tff.tensorflow.computation(value.type_signature.member)
        def affine(x):
            moved = tf.nest.map_structure(
                lambda t: t * tf.cast(factor, t.dtype) + tf.cast(offset, t.dtype), x
            )
            return collections.OrderedDict(moved=moved, x=x) if offset == 2 else moved

        return tff.federated_map(affine, value)

    def _zip(self, value):
        placement = value.type_signature.placement
        partners = [
            other
            for other in self.values
            if other.type_signature.placement is placement
            and len(_dtypes(other.type_signature.member)) < 4
        ]
        return tff.federated_zip((value, self._pick(partners)))

    def _count(self, value):
        """An aggregation whose accumulator differs from its values."""
        member = value.type_signature.member

        @tff.tensorflow.computation
        def zero():
            return 0, 0.0

        state_type = zero.type_signature.result

        @tff.tensorflow.computation(state_type, member)
        def accumulate(state, x):
            leaves = tf.nest.flatten(x)
            positive = [tf.cast(leaf > 0, tf.float32) for leaf in leaves]
            return state[0] + 1, state[1] + tf.add_n(positive)

        @tff.tensorflow.computation(state_type, state_type)
        def merge(one, other):
            return tf.nest.map_structure(tf.add, one, other)

        @tff.tensorflow.computation(state_type)
        def report(state):
            return collections.OrderedDict(clients=state[0], positive=state[1])

        return tff.federated_aggregate(value, zero(), accumulate, merge, report)

    def _constant(self, value):
        """One for each client, without an argument."""
        dtype = _dtypes(value.type_signature.member)[0]
        constant = tff.tensorflow.computation(lambda: tf.constant(3, dtype))
        return tff.federated_eval(constant, tff.CLIENTS)


def _dtypes(member):
    if isinstance(member, tff.StructType):
        return [dtype for entry in member for dtype in _dtypes(entry)]
    return [member.dtype.type]


def _compose(dtypes, clients, choose):
    parameters_type = (
        *(tff.FederatedType(dtype, tff.CLIENTS) for dtype in dtypes[:3]),
        tff.FederatedType(dtypes[3], tff.SERVER),
        tff.FederatedType(dtypes[4], tff.CLIENTS, all_equal=True),
        dtypes[5],
    )

    @tff.federated_computation(tff.types.to_type(parameters_type))
    def computation(parameters):
        *federated, plain = parameters
        composer = Composer(federated, choose)
        for _ in range(STEPS):
            composer.step()
        made = composer.values[len(federated) :]
        at_clients = [v for v in made if v.type_signature.placement is tff.CLIENTS]
        return collections.OrderedDict(
            server=[v for v in made if v.type_signature.placement is tff.SERVER],
            # TFF's worker cannot return values of nobody.
            clients=at_clients if clients else (),
            plain=plain,
        )

    return computation


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@hypothesis.settings(
    max_examples=16,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)
@hypothesis.given(st.data())
def test_random_computations(beside, same, data):
    dtypes, values = data.draw(arguments())
    computation = _compose(
        dtypes, len(values[0]), lambda n: data.draw(st.integers(0, n - 1))
    )
    hypothesis.note(str(computation.to_building_block()))
    # A mean of three is not exact in float32, nor is what is computed from it.
    found = beside.assert_equal(computation, tuple(values), rtol=1e-5, atol=1e-5)
    assert found["plain"] == values[5]
