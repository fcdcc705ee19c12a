"""FedAvg and FedSGD: by hand, against TFF's own, each slot, and an observer's view."""

import collections
import functools

import dp_accounting
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from computations.fed_avg import (
    build_fed_avg,
    build_fed_avg_client_work,
    build_fed_sgd,
    build_fed_sgd_client_work,
)
from tff_leak.attacks.observation import (
    aggregate_only,
    client_data,
    identify_clients,
    observing_factory,
)
from tff_leak.defences.accounting import epsilon
from tff_leak.defences.record_level_dp import RecordLevelDp, Sampling
from tff_leak.defences.user_level_dp import (
    Mechanism,
    UserLevelDp,
    build_user_level_factory,
)
from tff_leak.errors import InputError
from tff_leak.models import layers
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.models.keras import from_keras
from tff_leak.models.network import sequential

pytestmark = pytest.mark.usefixtures("tff_worker")

LINEAR = sequential("linear", (1,), [layers.dense(2, initializer=layers.zeros)])
SGD = tff.learning.optimizers.build_sgdm


def _dataset(inputs, labels, batch=8):
    inputs = np.array(inputs, np.float32).reshape(-1, 1)
    tensors = (inputs, np.array(labels, np.int32))
    return tf.data.Dataset.from_tensor_slices(tensors).batch(batch)


FIRST = _dataset([2.0], [0])
SECOND = _dataset([1.0, 3.0], [1, 1])
# Logits are zero: the gradient in them is (-1/2, 1/2) for class 0, its negative for 1.
# Weights are the mean inputs (2 for both) times that, biases that.
GRADIENT = np.array([-1.0, 1.0], np.float32), np.array([-0.5, 0.5], np.float32)


@functools.cache
def _plain():
    """One process for many tests: building and compiling it takes most of the time."""
    return build_fed_avg(LINEAR, training=BatchSgd(0.1))


def _trainable(process, state):
    return process.get_model_weights(state).trainable


def _equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def _weights_type():
    state = _plain().initialize.type_signature.result.member
    return state.global_model_weights.trainable


def _run(process, datasets, rounds=1):
    state = process.initialize()
    for _ in range(rounds):
        state, metrics = process.next(state, datasets)
    return _trainable(process, state), metrics


def _train_metrics(metrics):
    return metrics["client_work"]["train"]


def test_type_signature():
    process = _plain()
    weights = "<trainable=<float32[1,2],float32[2]>,non_trainable=<>>"
    state = f"<global_model_weights={weights},distributor=<>,client_work=<>,"
    state += "aggregator=<value_sum_process=<>,weight_sum_process=<>>,"
    state += "finalizer=<learning_rate=float32>>"
    metrics = "<distributor=<>,client_work=<train=<examples=int32,loss=float32,"
    metrics += "non_finite=int32>>,aggregator=<mean_value=<>,mean_weight=<>>,"
    metrics += "finalizer=<update_non_finite=int32>>"
    for built in (process, build_fed_sgd(LINEAR)):
        assert built.next.type_signature.compact_representation() == (
            f"(<state={state}@SERVER,client_data={{<float32[?,1],int32[?]>*}}@CLIENTS>"
            f" -> <state={state}@SERVER,metrics={metrics}@SERVER>)"
        )
    get, put = process.get_model_weights, process.set_model_weights
    assert get.type_signature.compact_representation() == f"({state} -> {weights})"
    assert put.type_signature.compact_representation() == (
        f"(<state={state},model_weights={weights}> -> {state})"
    )


@pytest.mark.parametrize(
    "process",
    [
        _plain,
        lambda: build_fed_sgd(LINEAR, server_learning_rate=0.1),
    ],
    ids=["fed_avg", "fed_sgd"],
)
def test_one_step_by_hand(process):
    # One batch each, so that both are one step; the second client weighs twice.
    trainable, metrics = _run(process(), [FIRST, SECOND])
    for weights, gradient in zip(trainable, GRADIENT, strict=True):
        expected = -0.1 * (1 * gradient + 2 * -gradient) / 3
        np.testing.assert_allclose(weights.reshape(-1), expected, rtol=1e-5)
    train = _train_metrics(metrics)
    assert train["examples"] == 3
    assert train["non_finite"] == 0
    np.testing.assert_allclose(train["loss"], np.log(2.0), rtol=1e-6)


class TestAgainstTff:
    """TFF's own processes on the same Keras model and the same batches."""

    rounds = 3

    def _keras(self):
        tf.keras.utils.set_random_seed(1)
        return tf.keras.Sequential(
            [
                tf.keras.layers.InputLayer((6, 6, 1)),
                tf.keras.layers.Conv2D(3, 3, activation="tanh"),
                tf.keras.layers.Flatten(),
                tf.keras.layers.Dense(4),
            ],
            name="small",
        )

    def _functional(self):
        return tff.learning.models.functional_model_from_keras(
            self._keras(),
            tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            input_spec=(
                tf.TensorSpec([None, 6, 6, 1]),
                tf.TensorSpec([None], tf.int32),
            ),
        )

    def _datasets(self, reverse=False):
        """Partial last batches, repeats across batches, one batch, no data."""
        rng = np.random.default_rng(0)
        datasets = []
        for count, batch, repeats in [(17, 5, 1), (6, 4, 3), (3, 8, 1), (0, 2, 1)]:
            inputs = rng.normal(size=(count, 6, 6, 1)).astype(np.float32)
            labels = rng.integers(0, 4, count).astype(np.int32)
            if reverse:
                inputs, labels = inputs[::-1], labels[::-1]
            dataset = tf.data.Dataset.from_tensor_slices((inputs, labels))
            datasets.append(dataset.repeat(repeats).batch(batch))
        return datasets

    def _compare(self, ours, theirs):
        network_weights, metrics = _run(ours, self._datasets(), self.rounds)
        expected, _ = _run(theirs, self._datasets(), self.rounds)
        start = _trainable(ours, ours.initialize())
        for weights, other, first in zip(network_weights, expected, start, strict=True):
            np.testing.assert_allclose(weights, other, rtol=0, atol=1e-6)
            # They have moved by much more than they may differ.
            assert np.abs(weights - first).max() > 1e-2
        assert _train_metrics(metrics)["examples"] == 17 + 18 + 3
        return network_weights

    def test_fed_avg(self):
        ours = build_fed_avg(from_keras(self._keras()), training=BatchSgd(0.1))
        theirs = tff.learning.algorithms.build_weighted_fed_avg(
            self._functional(), SGD(0.1)
        )
        weights = self._compare(ours, theirs)
        # The comparison would see another order of the examples.
        other, _ = _run(ours, self._datasets(reverse=True), self.rounds)
        assert (
            max(np.abs(a - b).max() for a, b in zip(weights, other, strict=True)) > 1e-4
        )

    def test_fed_avg_with_momentum_on_both_sides(self):
        ours = build_fed_avg(
            from_keras(self._keras()),
            training=BatchSgd(0.05, momentum=0.9),
            server_learning_rate=0.5,
            server_momentum=0.5,
        )
        theirs = tff.learning.algorithms.build_weighted_fed_avg(
            self._functional(), SGD(0.05, 0.9), SGD(0.5, 0.5)
        )
        self._compare(ours, theirs)

    def test_fed_sgd(self):
        ours = build_fed_sgd(from_keras(self._keras()), server_learning_rate=0.3)
        theirs = tff.learning.algorithms.build_fed_sgd(self._functional(), SGD(0.3))
        self._compare(ours, theirs)


def test_epochs_are_the_batches_again():
    once = _plain()
    thrice = build_fed_avg(LINEAR, training=BatchSgd(0.1, epochs=3))
    data = _dataset([1.0, -2.0, 3.0], [0, 1, 1], batch=2)
    repeated, metrics = _run(once, [data.repeat(3), FIRST.repeat(3)])
    weights, again = _run(thrice, [data, FIRST])
    for first, second in zip(repeated, weights, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-6)
    assert _train_metrics(metrics)["examples"] == 12
    assert _train_metrics(again)["examples"] == 12


def test_a_client_with_a_non_finite_update_counts_as_one_without_data():
    process = _plain()
    broken = _dataset([np.nan], [0])
    weights, metrics = _run(process, [broken, SECOND])
    expected, _ = _run(process, [SECOND])
    assert _equal(weights, expected)
    assert _train_metrics(metrics)["non_finite"] == 1
    assert _train_metrics(metrics)["examples"] == 2
    np.testing.assert_allclose(_train_metrics(metrics)["loss"], np.log(2), rtol=1e-6)


def test_model_weights_are_taken_out_and_put_in():
    process = _plain()
    state = process.initialize()
    weights = process.get_model_weights(state)
    assert isinstance(weights, tff.learning.models.ModelWeights)
    other = weights._replace(trainable=tuple(w + 1 for w in weights.trainable))
    state = process.set_model_weights(state, other)
    assert _equal(_trainable(process, state), other.trainable)
    moved, _ = process.next(state, [FIRST])
    assert not _equal(_trainable(process, moved), other.trainable)


def test_other_integer_labels_in_a_column():
    spec = (tf.TensorSpec([None, 1], tf.float64), tf.TensorSpec([None, 1], tf.int64))
    process = build_fed_avg(
        LINEAR,
        client_work=build_fed_avg_client_work(
            LINEAR, training=BatchSgd(0.1), element_spec=spec
        ),
    )
    data = SECOND.map(
        lambda x, y: (tf.cast(x, tf.float64), tf.cast(y, tf.int64)[:, tf.newaxis])
    )
    weights, _ = _run(process, [data])
    expected, _ = _run(_plain(), [SECOND])
    assert _equal(weights, expected)


def test_client_work_is_two_computations_without_variables():
    """A runtime can do the second for many clients at once only then."""
    for work in (build_fed_avg_client_work(LINEAR), build_fed_sgd_client_work(LINEAR)):
        data = work.next.type_signature.parameter[2].member
        batches = "<inputs=float32[?,?,1],labels=int32[?,?],sizes=int32[?]>"
        weights = "<trainable=<float32[1,2],float32[2]>,non_trainable=<>>"
        signatures = [
            function.type_signature.compact_representation()
            for function in _tensorflow_functions(work.next.to_building_block())
        ]
        assert f"({data.compact_representation()} -> {batches})" in signatures
        [train] = [s for s in signatures if s.startswith(f"(<weights={weights}")]
        assert train.startswith(f"(<weights={weights},batches={batches}> -> ")
        assert sum("*" in s for s in signatures) == 1
        proto = tff.framework.serialize_computation(work.next).SerializeToString()
        assert b"SparseSoftmaxCrossEntropyWithLogits" in proto
        assert b"VarHandleOp" not in proto


def _tensorflow_functions(block):
    if isinstance(block, tff.framework.CompiledComputation):
        return [block]
    return [f for child in block.children() for f in _tensorflow_functions(child)]


def test_an_aggregator_without_weights_ignores_them():
    process = build_fed_avg(
        LINEAR,
        training=BatchSgd(0.1),
        model_aggregator=tff.aggregators.UnweightedMeanFactory(),
    )
    weights, _ = _run(process, [FIRST, SECOND])
    for tensor in weights:  # the two clients' opposite steps
        np.testing.assert_allclose(tensor, 0.0, atol=1e-7)


def test_an_aggregator_that_changes_updates_on_the_clients():
    # The update's norm is 0.1 * sqrt(2 * 1 + 2 * 0.25).
    clip = tff.aggregators.clipping_factory(
        0.01 * float(np.sqrt(2.5)), tff.aggregators.MeanFactory()
    )
    process = build_fed_avg(LINEAR, training=BatchSgd(0.1), model_aggregator=clip)
    weights, metrics = _run(process, [FIRST])
    np.testing.assert_allclose(weights[1], -0.01 * GRADIENT[1], rtol=1e-5)
    assert metrics["aggregator"]["clipped_count"] == 1


def test_with_secure_aggregation_nothing_else_need_be_in_the_clear():
    counts = tff.aggregators.SecureSumFactory(1e6)
    work = build_fed_avg_client_work(LINEAR, metrics_aggregator=counts)
    mean = tff.aggregators.MeanFactory(
        tff.aggregators.SecureSumFactory(1.0), tff.aggregators.SecureSumFactory(1e3)
    )
    process = build_fed_avg(LINEAR, client_work=work, model_aggregator=mean)
    tff.test.assert_contains_secure_aggregation(process.next)
    tff.test.assert_not_contains_unsecure_aggregation(process.next)
    in_the_clear = build_fed_avg_client_work(LINEAR)
    with pytest.raises(AssertionError):
        tff.test.assert_not_contains_unsecure_aggregation(in_the_clear.next)


def test_an_own_finalizer_as_a_process_and_as_a_function():
    def build(weights_type, aggregate_type):
        assert weights_type.trainable == aggregate_type
        return tff.learning.templates.build_apply_optimizer_finalizer(
            SGD(0.25), weights_type
        )

    training = BatchSgd(0.1)
    built = build_fed_avg(LINEAR, training=training, finalizer=build)
    weights_type = built.initialize.type_signature.result.member.global_model_weights
    given = build_fed_avg(
        LINEAR, training=training, finalizer=build(weights_type, weights_type.trainable)
    )
    for process in (built, given):
        weights, _ = _run(process, [FIRST])
        np.testing.assert_allclose(weights[1], [0.0125, -0.0125], rtol=1e-6)


def _recording(weights_type, observed_type):
    """A server that is honest about the model and keeps the rows in its state."""
    honest = aggregate_only(
        tff.learning.templates.build_apply_optimizer_finalizer(SGD(1.0), weights_type),
        observed_type,
    )
    state, weights, observed = honest.next.type_signature.parameter
    rows_type = observed_type.rows
    specs = tff.types.structure_from_tensor_type_tree(
        lambda t: tf.TensorSpec(t.shape, t.dtype), rows_type
    )

    state_type = tff.types.to_type(
        collections.OrderedDict(honest=state.member, rows=rows_type)
    )

    @tff.tensorflow.computation(state.member)
    def first(inner):
        # Of no rows, but of a type that leaves their number open.
        rows = tf.nest.map_structure(
            lambda s: tf.compat.v1.placeholder_with_default(
                tf.zeros([0, *s.shape[1:]], s.dtype), s.shape
            ),
            specs,
        )
        return collections.OrderedDict(honest=inner, rows=rows)

    @tff.federated_computation
    def initialize():
        return tff.federated_map(first, honest.initialize())

    @tff.federated_computation(
        tff.FederatedType(state_type, tff.SERVER), weights, observed
    )
    def next_round(state, weights, observed):
        output = honest.next(state["honest"], weights, observed)
        kept = collections.OrderedDict(honest=output.state, rows=observed.rows)
        return tff.templates.MeasuredProcessOutput(
            tff.federated_zip(kept), output.result, output.measurements
        )

    return tff.learning.templates.FinalizerProcess(initialize, next_round)


@functools.cache
def _observing(recording=True):
    work = build_fed_avg_client_work(LINEAR, training=BatchSgd(0.1))
    return build_fed_avg(
        LINEAR,
        client_work=identify_clients(work),
        model_aggregator=observing_factory(tff.aggregators.MeanFactory()),
        finalizer=_recording if recording else None,
    )


class TestRecordLevelPrivacy:
    """DP-SGD in the place of the clients' steps, with a stream for each of them."""

    data = (client_data(FIRST, 7), client_data(SECOND, 2))

    def _process(self, noise_multiplier, clip=1e9, seed=0):
        work = build_fed_avg_client_work(
            LINEAR,
            training=BatchSgd(0.1),
            privacy=RecordLevelDp(clip, noise_multiplier),
            seed=seed,
        )
        return build_fed_avg(LINEAR, client_work=work)

    def test_without_noise_and_bound_it_is_federated_averaging(self):
        weights, metrics = _run(self._process(0.0), list(self.data), rounds=2)
        expected, plain = _run(_plain(), [FIRST, SECOND], rounds=2)
        for found, tensor in zip(weights, expected, strict=True):
            np.testing.assert_allclose(found, tensor, atol=1e-6)
        assert _train_metrics(metrics)["examples"] == 3
        np.testing.assert_allclose(
            _train_metrics(metrics)["loss"], _train_metrics(plain)["loss"], rtol=1e-5
        )

    def test_clipping_by_hand(self):
        # All gradients point along (+-input, +-1) / 2: clipped to length 0.1.
        weights, _ = _run(self._process(0.0, clip=0.1), [self.data[0]])
        norm = np.sqrt(2 * 1.0**2 + 2 * 0.5**2)
        for found, gradient in zip(weights, GRADIENT, strict=True):
            expected = -0.1 * 0.1 * gradient / norm
            np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-5)

    def test_noise_is_of_the_client_and_the_round_and_always_the_same(self):
        process = self._process(1.0, clip=1e-3)
        state = process.initialize()
        seen = []
        for data in ([self.data[0]], [self.data[0]], [self.data[1]]):
            before = np.concatenate([w.reshape(-1) for w in _trainable(process, state)])
            state, _ = process.next(state, data)
            after = np.concatenate([w.reshape(-1) for w in _trainable(process, state)])
            seen.append(after - before)
        assert all(np.abs(step).max() > 1e-5 for step in seen)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert np.abs(seen[one] - seen[other]).max() > 1e-6
        again, _ = process.next(process.initialize(), [self.data[0]])
        first = np.concatenate([w.reshape(-1) for w in _trainable(process, again)])
        np.testing.assert_array_equal(first, seen[0])
        assert state.client_work.round == 3

    def test_batches_of_a_dataset_are_no_poisson_sample(self):
        privacy = RecordLevelDp(1.0, 1.0, Sampling.POISSON)
        with pytest.raises(InputError, match="sampling is poisson for a dataset's own"):
            build_fed_avg_client_work(LINEAR, privacy=privacy)


class TestUserLevelPrivacy:
    """TFF's private mean in the place of the weighted one."""

    def _settings(self, **changes):
        settings = {"clip": 0.05, "noise_multiplier": 0.0, "clients_per_round": 2}
        return UserLevelDp(**{**settings, "least_clients": 1, **changes})

    def _process(self, settings, **options):
        aggregator = build_user_level_factory(
            settings, value_type=_weights_type(), **options
        )
        return build_fed_avg(
            LINEAR, training=BatchSgd(0.1), model_aggregator=aggregator
        )

    def test_the_clipped_mean_by_hand(self):
        weights, _ = _run(self._process(self._settings()), [FIRST, FIRST, SECOND])
        # Updates of one length, clipped to .05; two less one of them, over two.
        norm = np.sqrt(2 * 1.0**2 + 2 * 0.5**2)
        for found, gradient in zip(weights, GRADIENT, strict=True):
            expected = -0.05 * gradient / norm / 2
            np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-5)

    @pytest.mark.parametrize("mechanism", Mechanism)
    def test_noise_event_and_state(self, mechanism):
        settings = self._settings(
            noise_multiplier=1.0, clients_per_round=40, mechanism=mechanism
        )
        process = self._process(settings)
        state, _ = process.next(process.initialize(), [FIRST])
        noisy = _trainable(process, state)
        again, _ = process.next(process.initialize(), [FIRST])
        assert _equal(noisy, _trainable(process, again))
        # The noise is what is not this client's clipped update over 40.
        norm = np.sqrt(2 * 1.0**2 + 2 * 0.5**2)
        moved = np.abs(
            np.concatenate(
                [
                    found.reshape(-1) + 0.05 * gradient / norm / 40
                    for found, gradient in zip(noisy, GRADIENT, strict=True)
                ]
            )
        )
        # Four numbers of deviation .05 / 40.
        assert 1e-4 < moved.max() < 6 * 0.05 / 40
        if mechanism is not Mechanism.TREE:
            event = dp_accounting.DpEvent.from_named_tuple(state.aggregator.dp_event)
            assert epsilon(event, 1e-5) == pytest.approx(
                epsilon(dp_accounting.GaussianDpEvent(1.0), 1e-5), rel=1e-5
            )

    def test_clipped_updates_can_be_summed_securely(self):
        process = self._process(
            self._settings(), record_aggregator=tff.aggregators.SecureSumFactory(1.0)
        )
        tff.test.assert_contains_secure_aggregation(process.next)


class TestObserved:
    """A malicious server inside an otherwise honest process."""

    data = (FIRST, SECOND, _dataset([-1.0, 0.5, 2.0], [1, 0, 0], batch=2))
    ids = (12, 4, 9)

    def _identified(self):
        return [client_data(d, i) for d, i in zip(self.data, self.ids, strict=True)]

    def test_the_shared_model_is_bit_identical(self):
        expected, plain_metrics = _run(_plain(), list(self.data), rounds=3)
        weights, metrics = _run(_observing(), self._identified(), rounds=3)
        assert _equal(weights, expected)
        assert not np.array_equal(weights[0], np.zeros([1, 2]))
        assert str(metrics) == str(plain_metrics)

    def test_rows_are_the_clients_updates(self):
        process = _observing()
        state, _ = process.next(process.initialize(), self._identified())
        rows = state.finalizer["rows"]
        assert rows.client_id.tolist() == [4, 9, 12]
        assert rows.weight.tolist() == [2, 3, 1]
        alone = _plain()
        for row, client in enumerate([1, 2, 0]):
            # Alone, from zero, a client's model is minus its update.
            expected, _ = _run(alone, [self.data[client]])
            for value, weights in zip(rows.value, expected, strict=True):
                np.testing.assert_array_equal(value[row], -weights)
        np.testing.assert_allclose(rows.value[0][2], [0.1 * GRADIENT[0]], rtol=1e-6)

    def test_without_a_finalizer_of_its_own_the_server_is_honest(self):
        process = _observing(recording=False)
        weights, _ = _run(process, self._identified())
        expected, _ = _run(_plain(), list(self.data))
        assert _equal(weights, expected)
        assert "rows" not in str(process.initialize.type_signature)

    def test_noise_of_the_clients_is_in_the_rows(self):
        process = build_fed_avg(
            LINEAR,
            client_work=identify_clients(_shifted(build_fed_avg_client_work(LINEAR))),
            model_aggregator=observing_factory(tff.aggregators.MeanFactory()),
            finalizer=_recording,
        )
        state, _ = process.next(process.initialize(), [client_data(FIRST, 0)])
        expected = 0.1 * GRADIENT[1] + 5
        np.testing.assert_allclose(
            state.finalizer["rows"].value[1], [expected], rtol=1e-6
        )

    def test_tffs_own_client_work_is_observed(self):
        """Identification wraps what is not ours."""
        model = tff.learning.models.functional_model_from_keras(
            tf.keras.Sequential([tf.keras.layers.Dense(2, "tanh", input_shape=(1,))]),
            tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            input_spec=(tf.TensorSpec([None, 1]), tf.TensorSpec([None], tf.int32)),
        )
        work = tff.learning.templates.build_functional_model_delta_client_work(
            model=model,
            optimizer=SGD(0.1),
            client_weighting=tff.learning.ClientWeighting.NUM_EXAMPLES,
        )
        aggregator = observing_factory(tff.aggregators.MeanFactory())
        process = build_fed_avg(
            LINEAR,
            client_work=identify_clients(work),
            model_aggregator=aggregator,
            finalizer=_recording,
        )
        state, _ = process.next(process.initialize(), self._identified())
        rows = state.finalizer["rows"]
        assert rows.client_id.tolist() == [4, 9, 12]
        assert rows.weight.tolist() == [2, 3, 1]
        # The model is linear at zero weights, up to tanh, whose slope there is 1.
        np.testing.assert_allclose(rows.value[0][2], [0.1 * GRADIENT[0]], rtol=1e-6)

    def test_secure_aggregation_is_refused_when_the_process_is_built(self):
        with pytest.raises(InputError, match="aggregation to observe is secure"):
            build_fed_avg(
                LINEAR,
                client_work=identify_clients(build_fed_avg_client_work(LINEAR)),
                model_aggregator=observing_factory(SECURE_MEAN),
            )

    def test_clients_without_ids_are_refused(self):
        with pytest.raises(
            InputError, match="wrap the client work in identify_clients"
        ):
            build_fed_avg(
                LINEAR,
                model_aggregator=observing_factory(tff.aggregators.MeanFactory()),
            )

    def test_a_client_has_one_id(self):
        two = client_data(FIRST, 1)._replace(client_id=[1, 2])
        process = _observing()
        with pytest.raises(Exception, match="more than one element"):
            process.next(process.initialize(), [two])


def _shifted(work):
    """Client work that adds 5 to its update: a mechanism on the client, for a test."""
    parameter = work.next.type_signature.parameter
    result_type = work.next.type_signature.result.result.member

    @tff.tensorflow.computation(result_type)
    def shift(result):
        return result._replace(update=tuple(value + 5 for value in result.update))

    @tff.federated_computation(*parameter)
    def next_round(state, weights, data):
        output = work.next(state, weights, data)
        return tff.templates.MeasuredProcessOutput(
            output.state, tff.federated_map(shift, output.result), output.measurements
        )

    return tff.learning.templates.ClientWorkProcess(work.initialize, next_round)


SECURE_MEAN = tff.aggregators.MeanFactory(tff.aggregators.SecureSumFactory(1.0))
BATCH_NORM = sequential("bn", (2,), [layers.batch_norm(scale=layers.ones)])


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: build_fed_avg(BATCH_NORM), "network bn keeps running statistics"),
        (
            lambda: build_fed_sgd_client_work(BATCH_NORM),
            "network bn keeps running statistics",
        ),
        (
            lambda: build_fed_avg(LINEAR, server_learning_rate=0.0),
            "server_learning_rate is 0.0: expected a positive number",
        ),
        (
            lambda: build_fed_sgd(LINEAR, server_momentum=1.0),
            r"server_momentum is 1.0: expected it in \[0, 1\)",
        ),
        (
            lambda: build_fed_avg(
                LINEAR, element_spec=(tf.TensorSpec([None, 3]), tf.TensorSpec([None]))
            ),
            "expected batches of pairs like",
        ),
        (
            lambda: build_fed_avg(LINEAR, element_spec=tf.TensorSpec([None, 1])),
            "expected batches of pairs like",
        ),
        (
            lambda: build_fed_avg(
                LINEAR,
                training=BatchSgd(),
                client_work=build_fed_avg_client_work(LINEAR),
            ),
            "training or element_spec is given beside client_work",
        ),
        (
            lambda: build_fed_avg(
                LINEAR, server_momentum=0.5, finalizer=lambda *types: None
            ),
            "server_learning_rate or server_momentum is given beside finalizer",
        ),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(InputError, match=message):
        build()
