"""Joined uploads: sums and means by hand, their noise, and what a server is shown."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from scipy import stats

from computations.cohort_uploads import (
    CohortUploads,
    Joining,
    build_upload_aggregator,
)
from computations.dssgd import build_dssgd, initial_client_state
from computations.fed_avg import build_fed_avg
from tff_leak.defences.secure_aggregation import (
    SecureAggregation,
    check_secure,
    secure_counts_factory,
)
from tff_leak.defences.user_level_dp import Mechanism, UserLevelDp
from tff_leak.errors import InputError
from tff_leak.models import layers
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.models.network import sequential
from tff_leak.models.training import LocalSgd
from tff_leak.runtime import runtimes

LINEAR = sequential("linear", (1,), [layers.dense(2, initializer=layers.zeros)])
UPLOADS = [np.float32([3, 4]), np.float32([0, -1]), np.float32([0.25, 0])]
# The first is cut to a norm of 1.
CLIPPED_SUM = np.float32([0.6 + 0.25, 0.8 - 1])


@pytest.fixture(scope="module", autouse=True)
def _in_process():
    runtimes.use("in_process")
    yield
    tff.test.set_no_default_context()


def _private(noise=0.0, clients=3, **changes):
    return UserLevelDp(
        clip=1.0,
        noise_multiplier=noise,
        clients_per_round=clients,
        least_clients=1,
        **changes,
    )


def _joined(uploads, values, seed=0):
    process = build_upload_aggregator(
        uploads, participants=len(values), num_shared=len(values[0]), seed=seed
    ).create(tff.types.tensorflow_to_type(tf.TensorSpec([len(values[0])])))
    return process.next(process.initialize(), values).result


@pytest.mark.parametrize("secure", [None, SecureAggregation(bound=8)])
def test_sum_and_mean_by_hand(secure):
    total = _joined(CohortUploads(Joining.SUM, None, secure), UPLOADS)
    np.testing.assert_allclose(total, [3.25, 3.0], atol=1e-5)
    mean = _joined(CohortUploads(Joining.MEAN, None, secure), UPLOADS)
    np.testing.assert_allclose(mean, [3.25 / 3, 1.0], atol=1e-5)


@pytest.mark.parametrize("secure", [None, SecureAggregation(bound=1)])
def test_user_level_privacy_clips_each_upload(secure):
    total = _joined(CohortUploads(Joining.SUM, _private(), secure), UPLOADS)
    np.testing.assert_allclose(total, CLIPPED_SUM, atol=1e-5)
    mean = _joined(CohortUploads(Joining.MEAN, _private(), secure), UPLOADS)
    np.testing.assert_allclose(mean, CLIPPED_SUM / 3, atol=1e-5)


@pytest.mark.parametrize(
    "joining, deviation", [(Joining.SUM, 2.0), (Joining.MEAN, 0.5)]
)
@pytest.mark.parametrize("mechanism", [Mechanism.FIXED, Mechanism.TREE])
def test_noise_of_the_sum_is_the_multiplier_times_the_clip(
    joining, deviation, mechanism
):
    size = 4000
    uploads = CohortUploads(joining, _private(2.0, clients=4, mechanism=mechanism))
    noise = _joined(uploads, [np.zeros(size, np.float32)] * 4)
    squares = np.sum((noise.astype(np.float64) / deviation) ** 2)
    low, high = stats.chi2.interval(1 - 1e-5, size)
    assert low < squares < high
    assert not low < 0.8**2 * squares < high


def _dataset(inputs, labels):
    tensors = (np.float32(inputs).reshape(-1, 1), np.int32(labels))
    return tf.data.Dataset.from_tensor_slices(tensors).batch(len(labels))


def test_a_mean_of_uploads_is_federated_averaging():
    """Equal numbers of examples, so that weights by examples are equal weights."""
    datasets = [_dataset([2.0, 1.0], [0, 1]), _dataset([1.0, 3.0], [1, 1])]
    dssgd = build_dssgd(
        LINEAR,
        training=LocalSgd(learning_rate=0.1, learning_rate_decay=0.0, batch_size=8),
        upload_aggregator=build_upload_aggregator(
            CohortUploads(Joining.MEAN), participants=2, num_shared=4
        ),
    )
    server = dssgd.initialize()
    clients = [
        initial_client_state(LINEAR, server, participant=number, seed=0)
        for number in range(2)
    ]
    fed_avg = build_fed_avg(LINEAR, training=BatchSgd(learning_rate=0.1))
    state = fed_avg.initialize()
    for _ in range(3):
        server, clients, _ = dssgd.next(server, datasets, clients)
        state = fed_avg.next(state, datasets).state
    averaged = state.global_model_weights.trainable
    expected = np.concatenate([np.ravel(tensor) for tensor in averaged])
    np.testing.assert_allclose(server.parameters, expected, atol=1e-6)
    assert np.abs(expected).max() > 0.05


def test_secure_uploads_pass_the_check_and_open_ones_do_not():
    def build(uploads, counts):
        return build_dssgd(
            LINEAR,
            upload_aggregator=build_upload_aggregator(
                uploads, participants=2, num_shared=4
            ),
            metrics_aggregator=counts,
        )

    secure = CohortUploads(Joining.MEAN, None, SecureAggregation(bound=1))
    counts = secure_counts_factory(1000.0)
    check_secure(build(secure, counts).next)
    for process in (build(secure, None), build(CohortUploads(Joining.MEAN), counts)):
        with pytest.raises(InputError, match="does not aggregate securely"):
            check_secure(process.next)


def test_what_is_refused():
    secure = SecureAggregation(bound=0.5)
    with pytest.raises(InputError, match="bound is 0.5 .* clip 1.0 in user_dp"):
        CohortUploads(Joining.SUM, _private(), secure)
    with pytest.raises(InputError, match="user_dp is adaptive beside"):
        CohortUploads(Joining.SUM, _private(mechanism=Mechanism.ADAPTIVE), secure)


def test_secure_uploads_change_neither_the_model_nor_the_metrics():
    """But for the quantisation."""
    datasets = [_dataset([2.0, 1.0], [0, 1]), _dataset([1.0], [1])]
    found = []
    for secure in (None, SecureAggregation(bound=1)):
        process = build_dssgd(
            LINEAR,
            upload_aggregator=build_upload_aggregator(
                CohortUploads(Joining.MEAN, None, secure), participants=2, num_shared=4
            ),
            metrics_aggregator=secure and secure_counts_factory(1000.0),
        )
        server = process.initialize()
        clients = [
            initial_client_state(LINEAR, server, participant=number, seed=0)
            for number in range(2)
        ]
        server, _, metrics = process.next(server, datasets, clients)
        found.append((server.parameters, metrics))
    (parameters, metrics), (secured, counted) = found
    np.testing.assert_allclose(secured, parameters, atol=1e-6)
    assert np.abs(parameters).max() > 1e-4
    assert counted["examples"] == metrics["examples"] == 3
    assert counted["loss"] == pytest.approx(float(metrics["loss"]), rel=1e-4)
    assert counted["uploaded"] == pytest.approx(float(metrics["uploaded"]), rel=1e-4)
