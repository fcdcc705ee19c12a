"""Processes learn in this process what they learn in TFF's own runtime.

Tolerance. Both runtimes run the same graphs with kernels of the same TensorFlow
release; with one slot they also sum in the same order. What is left is that kernels
may sum in another order inside. Weights are of order 1 and come from at most some 50
additions of float32 (3 rounds, 3 steps, sums of 7 examples), each with a relative
error of 2^-24: 50 * 6e-8 = 3e-6.
"""

import collections
import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from computations import dssgd, fed_avg
from tff_leak.attacks import client_gan, observation
from tff_leak.models import classifiers, generators, layers
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.models.network import sequential
from tff_leak.models.training import LocalSgd
from tff_leak.runtime import seeding
from tff_leak.runtime.in_process.context import InProcessContext

TOLERANCE = {"rtol": 3e-6, "atol": 3e-6}
ITERATOR = tff.learning.LoopImplementation.DATASET_ITERATOR
ELEMENT = (tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32))
SGD = tff.learning.optimizers.build_sgdm(0.1)
algorithms = tff.learning.algorithms


def _dataset(number, examples):
    rng = np.random.default_rng(number)
    inputs = rng.normal(size=(examples, 4)).astype(np.float32)
    labels = rng.integers(0, 3, examples).astype(np.int32)
    return tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(3)


# Cohorts of three rounds, of several sizes; one client has no examples.
ROUNDS = [
    [_dataset(0, 5), _dataset(1, 7), _dataset(2, 2)],
    [_dataset(3, 4), _dataset(4, 0)],
    [_dataset(5, 7)],
]


def _keras():
    model = tf.keras.Sequential(
        [
            tf.keras.layers.InputLayer((4,)),
            tf.keras.layers.Dense(5, activation="tanh", kernel_initializer="ones"),
            tf.keras.layers.Dense(3, kernel_initializer=_ramp),
        ]
    )
    return tff.learning.models.from_keras_model(
        model,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        input_spec=ELEMENT,
        metrics=[tf.keras.metrics.SparseCategoricalAccuracy()],
    )


def _ramp(shape, dtype=None):
    """Initial weights that differ."""
    return tf.reshape(tf.linspace(-1.0, 1.0, np.prod(shape)), shape)


@tf.function
def _predict(model_weights, x, training=True):
    (kernel, bias), _ = model_weights
    return x @ kernel + bias


@tf.function
def _loss(output, label, sample_weight=None):
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(label, output)
    return tf.math.divide_no_nan(
        tf.reduce_sum(losses), tf.cast(tf.shape(label)[0], tf.float32)
    )


@tf.function
def _no_examples():
    return collections.OrderedDict(examples=0.0)


@tf.function
def _count(state, labels, batch_output, sample_weight=None):
    number = tf.cast(tf.shape(labels)[0], tf.float32)
    return collections.OrderedDict(examples=state["examples"] + number)


@tf.function
def _finalize(state):
    return collections.OrderedDict(examples=state["examples"])


FUNCTIONAL = tff.learning.models.FunctionalModel(
    initial_weights=((_ramp([4, 3]).numpy(), np.zeros(3, np.float32)), ()),
    predict_on_batch_fn=_predict,
    loss_fn=_loss,
    metrics_fns=(_no_examples, _count, _finalize),
    input_spec=ELEMENT,
)


def _weighted(model=FUNCTIONAL, client_optimizer=SGD, **options):
    options.setdefault("loop_implementation", ITERATOR)
    return algorithms.build_weighted_fed_avg(model, client_optimizer, **options)


def _noiseless():
    return algorithms.build_unweighted_fed_avg(
        FUNCTIONAL,
        SGD,
        model_aggregator=tff.aggregators.DifferentiallyPrivateFactory.gaussian_fixed(
            noise_multiplier=0.0, clients_per_round=2.0, clip=0.5
        ),
        loop_implementation=ITERATOR,
    )


PROCESSES = {
    "Keras": lambda: _weighted(_keras),
    "functional": _weighted,
    "functional, dataset.reduce": lambda: _weighted(
        loop_implementation=tff.learning.LoopImplementation.DATASET_REDUCE
    ),
    "momentum": lambda: _weighted(
        client_optimizer=tff.learning.optimizers.build_sgdm(0.1, 0.9),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(0.5, 0.9),
    ),
    "Adam": lambda: _weighted(
        server_optimizer_fn=tff.learning.optimizers.build_adam(0.1)
    ),
    "unweighted": lambda: algorithms.build_unweighted_fed_avg(
        FUNCTIONAL, SGD, loop_implementation=ITERATOR
    ),
    "FedSGD": lambda: algorithms.build_fed_sgd(FUNCTIONAL, SGD),
    # Bounds that adapt are in the aggregator's state, and change every round.
    "robust": lambda: _weighted(
        model_aggregator=tff.learning.robust_aggregator(zeroing=True, clipping=True)
    ),
    "DP without noise": _noiseless,
}


@functools.cache
def _process(name):
    """Built once, so that each runtime compiles it once."""
    return PROCESSES[name]()


def _learn(process, start, rounds):
    """The state and all rounds' metrics."""
    state, metrics = start, []
    for cohort in rounds:
        output = process.next(state, cohort)
        state = output.state
        metrics.append(output.metrics)
    return state, metrics


def _installed(context):
    return tff.framework.get_context_stack().install(context)


def _beside(beside, same, process, rounds=ROUNDS):
    """Learns in both runtimes and compares states and metrics after all rounds."""
    with _installed(beside.native):
        start = process.initialize()
        expected = _learn(process, start, rounds)
    with _installed(beside.in_process):
        same(process.initialize(), start, **TOLERANCE)
        same(_learn(process, start, rounds), expected, **TOLERANCE)
    moved = [
        np.abs(after - before).max()
        for after, before in zip(_weights(expected[0]), _weights(start), strict=True)
    ]
    assert max(moved) > 0.01  # Else everything would agree.
    return start, expected


def _weights(state):
    return tf.nest.flatten(list(state.global_model_weights.trainable))


@pytest.mark.parametrize("name", list(PROCESSES))
def test_processes_of_tff(beside, same, name):
    _beside(beside, same, _process(name))


def test_slots_and_fusing_do_not_change_what_is_learnt(beside, same):
    process = _process("Keras")
    with _installed(beside.in_process):
        start = process.initialize()
        expected = _learn(process, start, ROUNDS)
    with _installed(beside.others["pieces"]):
        same(_learn(process, start, ROUNDS), expected)  # The same bits.
    with _installed(beside.others["slots"]):
        same(_learn(process, start, ROUNDS), expected, **TOLERANCE)


def test_evaluation(beside, same):
    process = algorithms.build_fed_eval(_keras)
    with _installed(beside.native):
        start = process.initialize()
        expected = process.next(start, ROUNDS[0])
    with _installed(beside.in_process):
        found = process.next(start, ROUNDS[0])
    same((found.state, found.metrics), (expected.state, expected.metrics), **TOLERANCE)


class TestDifferentialPrivacy:
    @pytest.mark.parametrize(
        "options", [{}, {"threads": 2}, {"vectorize": 4}, {"fuse": False}], ids=str
    )
    def test_variance_of_the_noise(self, options):
        """Noise is added once, whatever the options, and is new in each call."""
        size, clients = 20_000, 4
        factory = tff.aggregators.DifferentiallyPrivateFactory.gaussian_fixed(
            noise_multiplier=3.0, clients_per_round=float(clients), clip=2.0
        )
        process = factory.create(tff.TensorType(np.float32, [size]))
        with _installed(InProcessContext(**options)):
            state = process.initialize()
            zeros = [np.zeros(size, np.float32)] * clients
            draws = [process.next(state, zeros).result for _ in range(2)]
        expected = 3.0 * 2.0 / clients
        for draw in draws:
            # The relative error of a variance over n is sqrt(2 / n) = 0.01; that of
            # the mean is sigma / sqrt(n). Five of each.
            assert abs(np.var(draw) / expected**2 - 1) < 0.05
            assert abs(np.mean(draw)) < 5 * expected / np.sqrt(size)
        correlation = np.corrcoef(*draws)[0, 1]
        assert abs(correlation) < 5 / np.sqrt(size)

    def test_variance_is_that_of_tffs_runtime(self, beside):
        factory = tff.aggregators.DifferentiallyPrivateFactory.gaussian_fixed(
            noise_multiplier=1.0, clients_per_round=2.0, clip=1.0
        )
        process = factory.create(tff.TensorType(np.float32, [20_000]))
        variances = []
        for context in (beside.native, beside.in_process):
            with _installed(context):
                zeros = [np.zeros(20_000, np.float32)] * 2
                result = process.next(process.initialize(), zeros).result
            variances.append(np.var(result))
        assert abs(variances[0] / variances[1] - 1) < 5 * 0.01 * np.sqrt(2)


def test_secure_aggregation_equals_that_in_the_clear(beside, same):
    """But for quantisation, which TFF's own runtime cannot show."""
    clear = _process("robust")
    sealed = _weighted(model_aggregator=tff.learning.secure_aggregator())
    tff.test.assert_contains_secure_aggregation(sealed.next)
    with _installed(beside.in_process):
        expected, _ = _learn(clear, clear.initialize(), ROUNDS)
        found, _ = _learn(sealed, sealed.initialize(), ROUNDS)
    # 32 bits are spread over the bounds, of at most 20 times the weighted values
    # (7 examples): a step is 2 * 140 / 2^32 = 7e-8, for each of three clients and
    # rounds, beside what float32 costs.
    same(_weights(found), _weights(expected), rtol=3e-6, atol=3e-6)


class TestObservation:
    def test_rows_of_an_aggregation(self, beside, same):
        value_type = tff.types.to_type((np.float32, tff.TensorType(np.float32, [2])))
        weight_type = tff.types.to_type(observation.Identified(np.int32, np.float32))
        factory = observation.observing_factory(tff.aggregators.MeanFactory())
        process = factory.create(value_type, weight_type)
        values = [(float(i), np.float32([i, 2 * i])) for i in range(12)]
        weights = [observation.Identified(11 - i, 1.0 + i % 2) for i in range(12)]
        with _installed(beside.native):
            state = process.initialize()
            output = process.next(state, values, weights)
        for context in (beside.in_process, beside.others["slots"]):
            with _installed(context):
                same(process.next(state, values, weights), output, rtol=1e-6)
        rows = output.result.rows
        np.testing.assert_array_equal(rows.client_id, np.arange(12))
        np.testing.assert_array_equal(rows.value[0], np.arange(12)[::-1])

    def test_a_process_that_is_observed(self, beside, same):
        network = classifiers.mlp(3, (2, 2, 1), hidden=4)
        work = fed_avg.build_fed_avg_client_work(network)
        process = fed_avg.build_fed_avg(
            network,
            client_work=observation.identify_clients(work),
            model_aggregator=observation.observing_factory(
                tff.aggregators.MeanFactory()
            ),
        )
        rounds = [
            [
                observation.ClientData(_images(dataset), [number])
                for number, dataset in enumerate(cohort)
            ]
            for cohort in ROUNDS
        ]
        _beside(beside, same, process, rounds)


def _images(dataset):
    return dataset.map(lambda x, y: (tf.reshape(x, [-1, 2, 2, 1]), y))


class TestOurFedAvg:
    network = classifiers.mlp(3, (2, 2, 1), hidden=4)
    rounds = [[_images(dataset) for dataset in cohort] for cohort in ROUNDS]

    @staticmethod
    @functools.cache
    def process(build=fed_avg.build_fed_avg):
        return build(TestOurFedAvg.network)

    @pytest.mark.parametrize("build", [fed_avg.build_fed_avg, fed_avg.build_fed_sgd])
    def test_beside_tffs_runtime_and_vectorised(self, beside, same, build):
        process = self.process(build)
        start, expected = _beside(beside, same, process, self.rounds)
        with _installed(beside.vectors):
            found = _learn(process, start, self.rounds)
        same(found, expected, **TOLERANCE)

    def test_it_is_tffs_own_algorithm(self, beside, same):
        """Computed by client work without variables, vectorised."""
        network = sequential("linear", (4,), [layers.dense(3, initializer=_seeded)])
        ours = fed_avg.build_fed_avg(network, training=BatchSgd(0.1))
        with _installed(beside.vectors):
            state = ours.initialize()
            found, _ = _learn(ours, state, ROUNDS)
        theirs = _process("functional")
        with _installed(beside.native):
            start = theirs.set_model_weights(
                theirs.initialize(),
                tff.learning.models.ModelWeights(tuple(_weights(state)), ()),
            )
            expected, _ = _learn(theirs, start, ROUNDS)
        same(_weights(found), _weights(expected), **TOLERANCE)


def _seeded(shape, seed):
    return tf.random.stateless_normal(shape, seed)


class TestDssgd:
    """Clients with a state of their own, one of them an adversary."""

    network = classifiers.mlp(4, (8, 8, 1), hidden=8)
    attack = client_gan.ClientGan(
        generator=sequential(
            "g",
            (generators.LATENT_SIZE,),
            [
                layers.dense(64, initializer=layers.normal(0, 0.1)),
                layers.activation(tf.nn.tanh),
                layers.reshape(8, 8, 1),
            ],
        ),
        optimizer=tff.learning.optimizers.build_sgdm(0.1),
        fake_class=3,
        generator_steps=3,
        batch_size=8,
        fakes_per_turn=6,
    )

    @pytest.fixture(scope="class")
    def process(self):
        transform = client_gan.build_client_gan(self.attack, self.network)
        return dssgd.build_dssgd(
            self.network, transform=transform, training=LocalSgd(0.1, batch_size=4)
        )

    def _clients(self, server):
        transform = client_gan.build_client_gan(self.attack, self.network)
        private = client_gan.initial_state(
            self.attack, target=1, seed=tf.constant(seeding.root(1))
        )
        return [
            dssgd.initial_client_state(
                self.network,
                server,
                participant=number,
                seed=0,
                transform=transform,
                private=private if number == 1 else None,
            )
            for number in range(2)
        ]

    def _data(self, number, examples):
        rng = np.random.default_rng(number)
        images = rng.uniform(-1, 1, size=(examples, 8, 8, 1)).astype(np.float32)
        labels = rng.integers(0, 3, examples).astype(np.int32)
        return tf.data.Dataset.from_tensors((images, labels))

    def _turns(self, process, server, clients, turns):
        metrics = []
        for turn in turns:
            cohort = [clients[number] for number in turn]
            data = [self._data(number, 5 + number) for number in turn]
            server, cohort, measured = process.next(server, data, cohort)
            for number, client in zip(turn, cohort, strict=True):
                clients[number] = client
            metrics.append(measured)
        return server, clients, metrics

    def test_beside_tffs_runtime(self, beside, same, process):
        turns = [[0], [1], [0, 1]]
        with _installed(beside.native):
            start = process.initialize()
            expected = self._turns(process, start, self._clients(start), turns)
        # The steps of both models go through 64 inputs: ten times as many additions
        # as in the rest of this module.
        for context in (beside.in_process, beside.vectors):
            with _installed(context):
                found = self._turns(process, start, self._clients(start), turns)
            same(found, expected, rtol=3e-5, atol=3e-5)
        assert np.abs(expected[0].parameters - start.parameters).max() > 0.01
        assert expected[1][1].private.last_turn.injected.tolist() == [6]

    def test_nothing_is_traced_after_the_second_round(self, process):
        """Honest turns, malicious ones and both together, of any size."""
        context = InProcessContext()
        with _installed(context):
            server = process.initialize()
            clients = self._clients(server)
            server, clients, _ = self._turns(process, server, clients, [[0], [1]])
            before = context.runtime.traces
            assert before > 0
            self._turns(process, server, clients, [[0], [1], [0, 1], [1, 0], [1]])
            assert context.runtime.traces == before


@pytest.mark.parametrize("options", [{}, {"threads": 2}, {"vectorize": 2}], ids=str)
def test_nothing_is_traced_after_the_second_round(options):
    """Cohorts and datasets of other sizes are no reason either."""
    process, rounds = _process("functional"), ROUNDS[:2]
    if "vectorize" in options:
        process, rounds = TestOurFedAvg.process(), TestOurFedAvg.rounds[:2]
    context = InProcessContext(**options)
    with _installed(context):
        state, _ = _learn(process, process.initialize(), rounds)
        before = context.runtime.traces
        assert before >= 3  # Initialisation; server and clients of a round.
        _learn(process, state, [rounds[0], [*rounds[1], *rounds[0], *rounds[1]]])
        assert context.runtime.traces == before
        process.get_model_weights(state)
        assert context.runtime.traces > before  # It does count.
