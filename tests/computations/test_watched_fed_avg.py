"""What a watching server sees under each defence, and that it changes nothing."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from computations.defended_fed_avg import Algorithm, Defences
from computations.watched_fed_avg import build_watched, identified, threat_of
from tff_leak.attacks.observation import client_data
from tff_leak.attacks.update_matching import mean_gradient
from tff_leak.defences.local_dp import LocalDp
from tff_leak.defences.record_level_dp import RecordLevelDp
from tff_leak.defences.secure_aggregation import SecureAggregation
from tff_leak.defences.user_level_dp import Mechanism, UserLevelDp
from tff_leak.errors import InputError
from tff_leak.models import classifiers
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.models.network import Weights
from tff_leak.runtime import runtimes
from tff_leak.threat import View, check_process

NETWORK = classifiers.mlp(3, (4, 4, 1), hidden=5)
SIZES = (2, 4, 6)
WATCHED = (2, 0)
RATE = 0.1


@pytest.fixture(scope="module", autouse=True)
def _in_process():
    runtimes.use("in_process")
    yield
    tff.test.set_no_default_context()


def _user(mechanism=Mechanism.FIXED, clip=0.1, noise=0.2):
    return UserLevelDp(clip, noise, 3, mechanism, least_clients=1)


@functools.cache
def _examples():
    rng = np.random.default_rng(0)
    return [
        (
            rng.uniform(-1, 1, (n, 4, 4, 1)).astype(np.float32),
            rng.integers(3, size=n).astype(np.int32),
        )
        for n in SIZES
    ]


def _build(defences, algorithm=Algorithm.FED_SGD, watched=WATCHED, **options):
    given = {"threat": threat_of(defences), "training": BatchSgd(RATE)}
    return build_watched(
        NETWORK,
        algorithm=algorithm,
        defences=defences,
        watched=watched,
        greatest_examples=max(SIZES),
        **(given | options),
    )


@functools.cache
def _built(defences):
    """By FedSGD and watched, as most tests have it; to build one takes seconds."""
    return _build(defences)


def _round(process, defences, watched=WATCHED, rounds=1):
    """The states before and after the last of some rounds."""
    data = [tf.data.Dataset.from_tensors(part) for part in _examples()]
    if identified(defences, watched):
        data = [client_data(part, number) for number, part in enumerate(data)]
    after = process.initialize()
    for _ in range(rounds):
        before, after = after, process.next(after, data).state
    return before, after


def _flat(tensors):
    """`[k, ...]` each, as rows `[k, P]`."""
    return np.concatenate([np.reshape(t, [len(t), -1]) for t in tensors], axis=1)


@functools.cache
def _gradients():
    """Of each client at the initial weights, computed apart."""
    weights = _built(Defences()).initialize().global_model_weights.trainable
    weights = Weights([tf.constant(t) for t in weights], [])
    rows = [mean_gradient(NETWORK, weights, *part) for part in _examples()]
    return np.stack([np.concatenate([np.ravel(t) for t in row]) for row in rows])


def _moved(before, after):
    pairs = zip(
        before.global_model_weights.trainable,
        after.global_model_weights.trainable,
        strict=True,
    )
    return np.concatenate([np.ravel(old - new) for old, new in pairs])


def test_the_rows_that_are_kept_are_those_of_the_watched_in_their_order():
    process = _built(Defences())
    before, after = _round(process, Defences())
    seen = after.finalizer.seen
    np.testing.assert_allclose(
        _flat(seen.updates), _gradients()[list(WATCHED)], atol=1e-6
    )
    for kept, weights in zip(
        seen.weights, before.global_model_weights.trainable, strict=True
    ):
        np.testing.assert_array_equal(kept, weights)
    mean = np.average(_gradients(), axis=0, weights=SIZES)
    np.testing.assert_allclose(_moved(before, after), RATE * mean, atol=1e-6)
    # And of the next round its own, at the model of then.
    second, third = _round(process, Defences(), rounds=2)
    np.testing.assert_array_equal(
        third.finalizer.seen.weights[0], second.global_model_weights.trainable[0]
    )


def test_of_a_secure_sum_the_mean_is_kept_and_nothing_else():
    defences = Defences(secure_aggregation=SecureAggregation(1.0))
    _, after = _round(_built(defences), defences)
    [kept] = _flat(after.finalizer.seen.updates)
    mean = np.average(_gradients(), axis=0, weights=SIZES)
    np.testing.assert_allclose(kept, mean, atol=1e-5)


def test_a_server_that_adds_noise_has_the_clipped_rows_before_it():
    defences = Defences(user_dp=_user())
    before, after = _round(_built(defences), defences)
    kept = _flat(after.finalizer.seen.updates)
    norms = np.linalg.norm(_gradients(), axis=1)
    assert norms.min() > 0.1
    clipped = _gradients() * (0.1 / norms)[:, np.newaxis]
    np.testing.assert_allclose(kept, clipped[list(WATCHED)], atol=1e-6)
    # What it publishes has noise of .2 .1 / 3 in each number, and no weights.
    noise = _moved(before, after) / RATE - clipped.mean(axis=0)
    deviation = 0.02 / 3
    assert 0.75 * deviation < noise.std() < 1.25 * deviation


def test_records_are_clipped_and_noised_in_fed_sgd_too():
    """One step of rate 1 on everything: the mean of clipped gradients, with noise."""
    clipped = Defences(record_dp=RecordLevelDp(0.01, 0.0))
    _, after = _round(_build(clipped), clipped)
    kept = _flat(after.finalizer.seen.updates)
    assert 0 < np.linalg.norm(kept, axis=1).max() <= 0.01001
    noisy = Defences(record_dp=RecordLevelDp(0.01, 100.0))
    _, after = _round(_build(noisy), noisy)
    # Noise of 100 .01 on the sums of 6 and 2 gradients.
    for row, size in zip(_flat(after.finalizer.seen.updates), (6, 2), strict=True):
        assert 0.75 / size < row.std() < 1.25 / size


@pytest.mark.parametrize(
    "defences",
    [
        Defences(user_dp=_user(Mechanism.TREE)),
        Defences(user_dp=_user(), secure_aggregation=SecureAggregation(1.0)),
    ],
    ids=["tree", "user and secure"],
)
def test_looking_changes_nothing(defences):
    models = []
    for watched in (WATCHED, None):
        process = _build(defences, Algorithm.FED_AVG, watched)
        _, after = _round(process, defences, watched, rounds=2)
        models.append(after.global_model_weights.trainable)
    for one, other in zip(*models, strict=True):
        # Rows that are watched are clipped twice: once for the eye.
        np.testing.assert_allclose(one, other, atol=1e-7)


VIEWS = {
    "nothing": (Defences(), View.ROWS),
    "user": (Defences(user_dp=_user()), View.ROWS),
    "local": (Defences(local_dp=LocalDp(1.0, 1.0)), View.NOISED_ROWS),
    "records": (Defences(record_dp=RecordLevelDp(1.0, 1.0)), View.NOISED_ROWS),
    "sum": (Defences(secure_aggregation=SecureAggregation(1.0)), View.SUM),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_process_that_contradicts_its_threat_is_refused(name):
    defences, view = VIEWS[name]
    assert threat_of(defences).view is view
    for other, _ in VIEWS.values():
        if threat_of(other) != threat_of(defences):
            with pytest.raises(InputError, match="expected"):
                check_process(threat_of(other), _built(defences))


def test_what_is_built_is_held_against_its_threat():
    with pytest.raises(InputError, match="view is sum: expected an aggregate alone"):
        _build(Defences(), threat=threat_of(VIEWS["sum"][0]))


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda: Defences(
                record_dp=RecordLevelDp(1.0, 1.0), local_dp=LocalDp(1.0, 1.0)
            ),
            "record_dp and local_dp are given together: expected one",
        ),
        (
            lambda: Defences(
                user_dp=_user(Mechanism.ADAPTIVE),
                secure_aggregation=SecureAggregation(1.0),
            ),
            "user_dp is adaptive beside secure_aggregation: expected fixed or tree",
        ),
        (
            lambda: Defences(
                user_dp=_user(clip=2.0), secure_aggregation=SecureAggregation(1.0)
            ),
            "bound is 1.0 in secure_aggregation and clip 2.0 in user_dp",
        ),
        (lambda: SecureAggregation(0.0), "bound is 0.0: expected a number above 0"),
        (
            lambda: _build(Defences(), training=BatchSgd(RATE, epochs=2)),
            "epochs is 2 with fed_sgd: expected 1",
        ),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(InputError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
