"""The observing aggregation: its rows against hand and NumPy, and when it refuses."""

import collections
import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.attacks.observation import (
    Identified,
    Observed,
    Rows,
    aggregate_only,
    is_observed,
    observing_factory,
)
from tff_leak.errors import InputError

pytestmark = pytest.mark.usefixtures("tff_worker")

MEAN = tff.aggregators.MeanFactory()
VECTOR = tff.types.tensorflow_to_type(tf.TensorSpec([2]))
WEIGHT = tff.TensorType(np.float32)
WITH_ID = tff.types.to_type(Identified(np.int32, WEIGHT))


@functools.cache
def _observing_mean():
    return observing_factory(MEAN).create(VECTOR, WITH_ID)


def _weights(ids, weights):
    pairs = zip(ids, weights, strict=True)
    return [Identified(np.int32(i), np.float32(w)) for i, w in pairs]


def test_type_signature_with_weights():
    process = _observing_mean()
    state = "<value_sum_process=<>,weight_sum_process=<>>"
    assert process.next.type_signature.compact_representation() == (
        f"(<state={state}@SERVER,value={{float32[2]}}@CLIENTS,"
        "weight={<client_id=int32,content=float32>}@CLIENTS> -> "
        f"<state={state}@SERVER,result=<aggregate=float32[2],"
        "rows=<client_id=int32[?],value=float32[?,2],weight=float32[?]>>@SERVER,"
        "measurements=<mean_value=<>,mean_weight=<>>@SERVER>)"
    )
    assert is_observed(process.next.type_signature.result.result.member)
    assert not is_observed(VECTOR)


def test_type_signature_without_weights():
    value_type = tff.types.to_type(Identified(np.int32, VECTOR))
    process = observing_factory(tff.aggregators.SumFactory()).create(value_type)
    assert not process.is_weighted
    assert process.next.type_signature.compact_representation() == (
        "(<state=<>@SERVER,value={<client_id=int32,content=float32[2]>}@CLIENTS> -> "
        "<state=<>@SERVER,result=<aggregate=float32[2],"
        "rows=<client_id=int32[?],value=float32[?,2],weight=<>>>@SERVER,"
        "measurements=<>@SERVER>)"
    )


def test_rows_and_mean_by_hand():
    process = _observing_mean()
    values = [np.float32([1, 2]), np.float32([3, 4]), np.float32([5, 6])]
    output = process.next(
        process.initialize(), values, _weights([7, 3, 5], [1.0, 2.0, 1.0])
    )
    result = output.result
    assert isinstance(result, Observed)
    assert isinstance(result.rows, Rows)
    np.testing.assert_allclose(result.aggregate, [3, 4], rtol=1e-6)
    assert result.rows.client_id.tolist() == [3, 5, 7]
    np.testing.assert_array_equal(result.rows.value, [[3, 4], [5, 6], [1, 2]])
    np.testing.assert_array_equal(result.rows.weight, [2, 1, 1])


def test_rows_without_weights_by_hand():
    value_type = tff.types.to_type(Identified(np.int32, VECTOR))
    process = observing_factory(tff.aggregators.SumFactory()).create(value_type)
    values = [
        Identified(np.int32(1), np.float32([1, 2])),
        Identified(np.int32(0), np.float32([3, 5])),
    ]
    result = process.next(process.initialize(), values).result
    np.testing.assert_array_equal(result.aggregate, [4, 7])
    assert result.rows.client_id.tolist() == [0, 1]
    np.testing.assert_array_equal(result.rows.value, [[3, 5], [1, 2]])


@functools.cache
def _observing_several():
    """A sum of values of several types and shapes."""
    value_type = tff.types.to_type(
        collections.OrderedDict(
            z=tff.TensorType(np.float32, [2, 3]),
            a=tff.TensorType(np.int32),
            m=tff.TensorType(np.float32, [1]),
        )
    )
    inner = tff.aggregators.as_weighted_aggregator(tff.aggregators.SumFactory())
    return observing_factory(inner).create(value_type, WITH_ID)


@pytest.mark.parametrize("count", [1, 8, 9, 140])
def test_rows_of_any_number_of_clients(count):
    """Across the bounds of blocks and levels, with several types and shapes."""
    process = _observing_several()
    rng = np.random.default_rng(count)
    z = rng.normal(size=(count, 2, 3)).astype(np.float32)
    a = rng.integers(-9, 9, count).astype(np.int32)
    m = rng.normal(size=(count, 1)).astype(np.float32)
    weight = rng.random(count).astype(np.float32)
    ids = rng.permutation(count)
    values = [collections.OrderedDict(z=z[i], a=a[i], m=m[i]) for i in range(count)]
    rows = process.next(process.initialize(), values, _weights(ids, weight)).result.rows
    order = np.argsort(ids)
    assert rows.client_id.tolist() == list(range(count))
    np.testing.assert_array_equal(rows.value["z"], z[order])
    np.testing.assert_array_equal(rows.value["a"], a[order])
    np.testing.assert_array_equal(rows.value["m"], m[order])
    np.testing.assert_array_equal(rows.weight, weight[order])


def test_clients_with_one_id_keep_their_rows():
    process = _observing_mean()
    values = [np.float32([i, 0]) for i in range(3)]
    result = process.next(process.initialize(), values, _weights([4, 4, 1], [1] * 3))
    assert result.result.rows.client_id.tolist() == [1, 4, 4]
    assert sorted(result.result.rows.value[:, 0]) == [0, 1, 2]


def test_inside_clipping_the_rows_are_clipped():
    """What clients do to their updates comes first, if the observer is inside."""
    values = [np.float32([3, 4]), np.float32([0.3, 0.4])]
    weights = _weights([0, 1], [1.0, 1.0])
    clipped = tff.aggregators.clipping_factory(1.0, observing_factory(MEAN))
    process = clipped.create(VECTOR, WITH_ID)
    inside = process.next(process.initialize(), values, weights).result
    np.testing.assert_allclose(inside.rows.value, [[0.6, 0.8], [0.3, 0.4]], rtol=1e-6)
    process = observing_factory(tff.aggregators.clipping_factory(1.0, MEAN)).create(
        VECTOR, WITH_ID
    )
    around = process.next(process.initialize(), values, weights).result
    np.testing.assert_array_equal(around.rows.value, values)
    np.testing.assert_array_equal(inside.aggregate, around.aggregate)


@pytest.mark.parametrize(
    "inner",
    [
        tff.aggregators.SecureSumFactory(1.0),
        tff.aggregators.SecureModularSumFactory(8),
    ],
)
def test_secure_factories_are_refused_at_once(inner):
    with pytest.raises(InputError, match="aggregation to observe is secure"):
        observing_factory(inner)


@pytest.mark.parametrize(
    "inner",
    [
        tff.learning.secure_aggregator(),
        tff.aggregators.MeanFactory(tff.aggregators.SecureSumFactory(1.0)),
        tff.aggregators.MeanFactory(
            weight_sum_factory=tff.aggregators.SecureSumFactory(1.0)
        ),
        tff.aggregators.clipping_factory(
            1.0,
            tff.aggregators.as_weighted_aggregator(
                tff.aggregators.SecureSumFactory(1.0)
            ),
        ),
    ],
    ids=["tff.learning", "values", "weights", "wrapped"],
)
def test_anything_secure_inside_is_refused(inner):
    message = "is secure .what .* creates.: expected one in the clear, since"
    with pytest.raises(InputError, match=message):
        observing_factory(inner).create(VECTOR, WITH_ID)


@pytest.mark.parametrize(
    "inner",
    [
        tff.learning.robust_aggregator(),
        tff.aggregators.as_weighted_aggregator(
            tff.aggregators.DifferentiallyPrivateFactory.gaussian_fixed(1.0, 2, 1.0)
        ),
    ],
    ids=["robust", "noise of the server"],
)
def test_aggregations_in_the_clear_are_observed(inner):
    """With state and metrics as they were: no row gets into a metrics file."""
    process = observing_factory(inner).create(VECTOR, WITH_ID)
    assert is_observed(process.next.type_signature.result.result.member)
    inside = inner.create(VECTOR, WEIGHT).next.type_signature.result
    observed = process.next.type_signature.result
    for part in ("state", "measurements"):
        expected = getattr(inside, part).compact_representation()
        assert getattr(observed, part).compact_representation() == expected


@pytest.mark.parametrize(
    "create, message",
    [
        (lambda: observing_factory(None), "inner is None: expected an aggregation"),
        (
            lambda: observing_factory(MEAN).create(VECTOR, WEIGHT),
            "the weight to observe is float32: expected <client_id=int32",
        ),
        (
            lambda: observing_factory(tff.aggregators.SumFactory()).create(VECTOR),
            r"the value to observe is float32\[2\]: expected <client_id=int32",
        ),
        (
            lambda: observing_factory(MEAN).create(
                tff.types.tensorflow_to_type(tf.TensorSpec([None])), WITH_ID
            ),
            r"gather is float32\(None,\): expected a static shape",
        ),
    ],
)
def test_bad_input(create, message):
    with pytest.raises(InputError, match=message):
        create()


def test_aggregate_only_wants_an_observed_of_the_right_type():
    weights_type = tff.types.to_type(tff.learning.models.ModelWeights((VECTOR,), ()))
    finalizer = tff.learning.templates.build_apply_optimizer_finalizer(
        tff.learning.optimizers.build_sgdm(1.0), weights_type
    )
    with pytest.raises(InputError, match=r"observed_type is float32\[2\]: expected an"):
        aggregate_only(finalizer, VECTOR)
    observed = tff.types.to_type(Observed(VECTOR, VECTOR))
    with pytest.raises(InputError, match=r"aggregate is float32\[2\]: expected <float"):
        aggregate_only(finalizer, observed)
