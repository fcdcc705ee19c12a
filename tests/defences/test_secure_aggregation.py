"""Secure sums: what they show by type, and what they come to."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from computations.dssgd import build_dssgd, initial_client_state
from computations.fed_avg import build_fed_avg, build_fed_avg_client_work
from tff_leak.defences.secure_aggregation import (
    check_secure,
    secure_counts_factory,
    secure_mean_factory,
    secure_sum_factory,
)
from tff_leak.defences.sparse_vector import SparseVector
from tff_leak.errors import InputError
from tff_leak.models import layers
from tff_leak.models.network import sequential
from tff_leak.models.training import LocalSgd
from tff_leak.runtime import runtimes

VALUE = tff.types.to_type(tff.TensorType(np.float32, [3]))
WEIGHT = tff.TensorType(np.float32)
LINEAR = sequential("linear", (1,), [layers.dense(2, initializer=layers.zeros)])


@pytest.fixture(scope="module", autouse=True)
def _in_process():
    runtimes.use("in_process")
    yield
    tff.test.set_no_default_context()


def test_type_signature_of_the_mean_has_a_sum_and_no_rows():
    process = secure_mean_factory(1.0, greatest_weight=10.0).create(VALUE, WEIGHT)
    result = process.next.type_signature.result.result
    assert result == tff.FederatedType(VALUE, tff.SERVER)
    assert "?" not in process.next.type_signature.result.compact_representation()
    check_secure(process.next)


def test_mean_by_hand():
    process = secure_mean_factory(1.0, greatest_weight=10.0).create(VALUE, WEIGHT)
    values = [np.float32([0.5, -0.25, 3.0]), np.float32([-0.5, 0.75, -1.0])]
    output = process.next(process.initialize(), values, [np.float32(1), np.float32(12)])
    # 3 is clipped to 1 and the weight 12 to 10.
    expected = (values[0].clip(-1, 1) * 1 + values[1] * 10) / 11
    np.testing.assert_allclose(output.result, expected, atol=1e-5)
    nobody = process.next(process.initialize(), values, [np.float32(0)] * 2)
    np.testing.assert_array_equal(nobody.result, [0, 0, 0])


@pytest.mark.parametrize("bound", [1.0, 100.0])
def test_sum_is_the_plain_sum_within_the_quantisation(bound):
    secure = secure_sum_factory(bound).create(VALUE)
    plain = tff.aggregators.SumFactory().create(VALUE)
    rng = np.random.default_rng(0)
    values = list(rng.uniform(-1, 1, (30, 3)).astype(np.float32))
    found = secure.next(secure.initialize(), values).result
    expected = plain.next(plain.initialize(), values).result
    # A half step and one rounding of 24 bits for each of the 30.
    tolerance = 30 * bound * (2.0**-32 + 2.0**-24)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    assert np.abs(expected).max() > 100 * tolerance or bound > 1
    counts = secure.next(secure.initialize(), values).measurements
    assert counts["secure_upper_clipped_count"] == 0


@functools.cache
def _fed_avg():
    work = build_fed_avg_client_work(
        LINEAR, metrics_aggregator=secure_counts_factory(100.0)
    )
    mean = secure_mean_factory(1.0, greatest_weight=100.0)
    return build_fed_avg(LINEAR, client_work=work, model_aggregator=mean)


# Logits are zero: the gradient in them is (1/2, -1/2) for class 1, in the weights that
# times the mean input, 2. A step at rate .1:
UPDATE = np.array([-0.1, 0.1, -0.05, 0.05], np.float32)


def _datasets():
    return [
        tf.data.Dataset.from_tensors((np.float32([[1.0], [3.0]]), np.int32([1, 1]))),
        tf.data.Dataset.from_tensors((np.float32([[2.0]]), np.int32([1]))),
    ]


def test_federated_averaging_over_secure_sums():
    process = _fed_avg()
    check_secure(process.next)
    state, metrics = process.next(process.initialize(), _datasets())
    trainable = state.global_model_weights.trainable
    found = np.concatenate([tensor.reshape(-1) for tensor in trainable])
    # Ranges are 100 wide, of which 32-bit floating point rounds to 6e-6.
    np.testing.assert_allclose(found, UPDATE, atol=2e-5)
    train = metrics["client_work"]["train"]
    assert train["examples"] == 3
    np.testing.assert_allclose(train["loss"], np.log(2), rtol=1e-4)


def test_counts_or_weights_in_the_clear_are_refused():
    mean = secure_mean_factory(1.0, greatest_weight=100.0)
    weights = tff.aggregators.MeanFactory(secure_sum_factory(1.0))
    work = build_fed_avg_client_work(
        LINEAR, metrics_aggregator=secure_counts_factory(100.0)
    )
    for process in (
        build_fed_avg(LINEAR),
        build_fed_avg(LINEAR, model_aggregator=mean),
        build_fed_avg(LINEAR, client_work=work, model_aggregator=weights),
    ):
        with pytest.raises(InputError, match="does not aggregate securely") as caught:
            check_secure(process.next)
        assert "\n" not in str(caught.value)


class TestDssgd:
    """Participants all at once, whose uploads and counts are summed securely."""

    training = LocalSgd(learning_rate=0.1, learning_rate_decay=0.0)

    def _run(self, **options):
        process = build_dssgd(LINEAR, training=self.training, **options)
        server = process.initialize()
        clients = [
            initial_client_state(LINEAR, server, participant=i, seed=0) for i in (0, 1)
        ]
        server, _, metrics = process.next(server, _datasets(), clients)
        return process, server, metrics

    def test_uploads_and_counts(self):
        process, server, metrics = self._run(
            upload_aggregator=secure_sum_factory(1.0),
            metrics_aggregator=secure_counts_factory(100.0),
        )
        check_secure(process.next)
        np.testing.assert_allclose(server.parameters, 2 * UPDATE, atol=1e-6)
        assert metrics["examples"] == 3
        np.testing.assert_allclose(metrics["loss"], np.log(2), rtol=1e-4)

    def test_counts_in_the_clear_are_refused(self):
        process = build_dssgd(LINEAR, upload_aggregator=secure_sum_factory(1.0))
        with pytest.raises(InputError, match="does not aggregate securely"):
            check_secure(process.next)

    def test_counts_that_cannot_be_summed_so(self):
        with pytest.raises(InputError, match="given beside the sparse vector"):
            build_dssgd(
                LINEAR,
                privacy=SparseVector(1.0),
                metrics_aggregator=secure_counts_factory(100.0),
            )
        estimated = tff.aggregators.DifferentiallyPrivateFactory.gaussian_fixed(
            1.0, 2, 1.0
        )
        with pytest.raises(InputError, match="metrics_aggregator keeps a state"):
            build_dssgd(LINEAR, metrics_aggregator=estimated)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: secure_sum_factory(0.0), "bound is 0.0: expected a number above 0"),
        (
            lambda: secure_mean_factory(1.0, greatest_weight=float("inf")),
            "greatest_weight is inf: expected a number above 0",
        ),
        (
            lambda: secure_sum_factory(1e39),
            r"bound is 1e\+39: expected a number above 0",
        ),
        (lambda: secure_counts_factory(-1.0), "greatest is -1.0: expected"),
    ],
)
def test_values_out_of_range(build, message):
    with pytest.raises(InputError, match=message):
        build()
