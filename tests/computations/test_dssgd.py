"""DSSGD: type signature, hand-computed turns, orders, and whose state is where."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from computations.dssgd import (
    TurnOrder,
    build_dssgd,
    initial_client_state,
    model_weights,
    turn_order,
)
from tff_leak.attacks import client_gan
from tff_leak.attacks.client_transform import ClientTransform
from tff_leak.defences.local_dp import LocalDp
from tff_leak.defences.record_level_dp import RecordLevelDp, record_private_training
from tff_leak.defences.selective_sharing import Criterion, SelectiveSharing
from tff_leak.defences.sparse_vector import SparseVector
from tff_leak.errors import InputError
from tff_leak.models import classifiers, generators, layers
from tff_leak.models.network import flatten, sequential
from tff_leak.models.training import LocalSgd, LocalTraining, Trained, sgd_training
from tff_leak.runtime import seeding

pytestmark = pytest.mark.usefixtures("tff_worker")

LINEAR = sequential("linear", (1,), [layers.dense(2, initializer=layers.zeros)])
# One full batch, so that a turn is one step that a hand can compute.
STEP = LocalSgd(learning_rate=0.1, learning_rate_decay=0.0, batch_size=8)


def _dataset(inputs, labels):
    inputs = np.array(inputs, np.float32).reshape(-1, 1)
    tensors = (inputs, np.array(labels, np.int32))
    return tf.data.Dataset.from_tensor_slices(tensors).batch(max(len(labels), 1))


@functools.cache
def _summing():
    """Of which all is shared as it is; to build a process takes a second or more."""
    return build_dssgd(LINEAR, training=STEP)


def _clients(server, count, network=LINEAR, **kwargs):
    return [
        initial_client_state(network, server, participant=number, seed=0, **kwargs)
        for number in range(count)
    ]


FIRST = _dataset([2.0], [0])
SECOND = _dataset([1.0, 3.0], [1, 1])
# Logits are zero: the gradient in them is (-1/2, 1/2) for class 0, its negative for 1.
# Weights [1, 2] and bias [2] of the first participant, then of the second with the
# means of its inputs (2) and of ones (1).
FIRST_UPDATE = np.array([0.1, -0.1, 0.05, -0.05], np.float32)
SECOND_UPDATE = np.array([-0.1, 0.1, -0.05, 0.05], np.float32)


def test_type_signature():
    process = build_dssgd(LINEAR)
    server = "<parameters=float32[4],statistics=<>,recency=float32[4],"
    server += "history=float32[0,4],turn=int32,aggregator=<>>"
    client = "<participant=int32,seed=int32[2],parameters=float32[4],turn=int32,"
    client += "steps=int32,private=<>,training=<>>"
    metrics = "<examples=int32,loss=float32,uploaded=float32>"
    assert process.initialize.type_signature.compact_representation() == (
        f"( -> {server}@SERVER)"
    )
    assert process.next.type_signature.compact_representation() == (
        f"(<server={server}@SERVER,data={{<float32[?,1],int32[?]>*}}@CLIENTS,"
        f"clients={{{client}}}@CLIENTS> -> <{server}@SERVER,{{{client}}}@CLIENTS,"
        f"{metrics}@SERVER>)"
    )


def test_all_at_once_sums_the_uploads():
    process = _summing()
    server = process.initialize()
    server, clients, metrics = process.next(
        server, [FIRST, SECOND], _clients(server, 2)
    )
    np.testing.assert_allclose(server.parameters, np.zeros(4), atol=1e-7)
    np.testing.assert_allclose(clients[0].parameters, FIRST_UPDATE, rtol=1e-6)
    np.testing.assert_allclose(clients[1].parameters, SECOND_UPDATE, rtol=1e-6)
    assert metrics["examples"] == 3
    np.testing.assert_allclose(metrics["loss"], np.log(2.0), rtol=1e-6)
    assert metrics["uploaded"] == 1.0


def test_in_turns_the_second_starts_where_the_first_ended():
    process = _summing()
    server = process.initialize()
    one, two = _clients(server, 2)
    server, [one], _ = process.next(server, [FIRST], [one])
    np.testing.assert_allclose(server.parameters, FIRST_UPDATE, rtol=1e-6)
    server, [two], metrics = process.next(server, [FIRST], [two])
    # Logits of the input 2 are now (0.25, -0.25): the loss is log(1 + e^-0.5).
    np.testing.assert_allclose(metrics["loss"], np.log1p(np.exp(-0.5)), rtol=1e-5)
    assert (int(one.turn), int(two.turn), int(server.turn)) == (1, 1, 2)


def test_upload_fraction_shares_only_the_largest_changes():
    sharing = SelectiveSharing(upload_fraction=0.5)
    process = build_dssgd(LINEAR, training=STEP, sharing=sharing)
    server = process.initialize()
    server, [client], metrics = process.next(server, [FIRST], _clients(server, 1))
    np.testing.assert_allclose(server.parameters, [0.1, -0.1, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(server.recency, [1, 1, 0, 0])
    # What is not shared stays with the participant.
    np.testing.assert_allclose(client.parameters, FIRST_UPDATE, rtol=1e-6)
    assert metrics["uploaded"] == 0.5


def test_download_fraction_takes_what_was_uploaded_last():
    sharing = SelectiveSharing(upload_fraction=0.5, download_fraction=0.5)
    process = build_dssgd(LINEAR, training=STEP, sharing=sharing, recency_decay=0.5)
    server = process.initialize()
    one, two = _clients(server, 2)
    server, [one], _ = process.next(server, [FIRST], [one])
    empty = _dataset([], [])
    server, [two], metrics = process.next(server, [empty], [two])
    np.testing.assert_allclose(two.parameters, [0.1, -0.1, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(server.recency, [0.5, 0.5, 0, 0])
    assert metrics["examples"] == 0
    assert metrics["loss"] == 0


def test_bound_limits_what_one_turn_can_change():
    process = build_dssgd(LINEAR, training=STEP, sharing=SelectiveSharing(bound=0.07))
    server = process.initialize()
    server, _, _ = process.next(server, [FIRST], _clients(server, 1))
    np.testing.assert_allclose(server.parameters, [0.07, -0.07, 0.05, -0.05], rtol=1e-6)


def test_staleness_hands_out_older_models_seeded_and_bounded():
    process = build_dssgd(LINEAR, training=STEP, max_staleness=2, seed=3)

    def starts(turns=8):
        """For each turn, the version that the participant started from."""
        server = process.initialize()
        versions, used = [], []
        for _ in range(turns):
            versions.insert(0, np.array(server.parameters))
            [client] = _clients(server, 1)
            server, [client], _ = process.next(server, [_dataset([], [])], [client])
            ages = [np.array_equal(client.parameters, v) for v in versions]
            used.append(ages.index(True))
            # Something to tell versions apart: an honest turn of somebody else.
            moved = server.parameters + np.float32(1)
            server = server._replace(parameters=moved)
        return used

    first = starts()
    assert first == starts()
    assert max(first) <= 2
    assert len(set(first)) > 1


@functools.cache
def _in_batches():
    network = classifiers.mlp(3, (4, 4, 1), hidden=4)
    return network, build_dssgd(network, training=LocalSgd(0.1, batch_size=3))


@pytest.mark.parametrize("batch", [1, 2, 512])
def test_how_a_dataset_is_batched_does_not_matter(batch):
    network, process = _in_batches()
    rng = np.random.default_rng(0)
    tensors = (
        rng.normal(size=(7, 4, 4, 1)).astype(np.float32),
        rng.integers(0, 3, 7).astype(np.int32),
    )
    server = process.initialize()
    dataset = tf.data.Dataset.from_tensor_slices(tensors)
    results = [
        process.next(server, [dataset.batch(size)], _clients(server, 1, network))
        for size in (batch, 7)
    ]
    np.testing.assert_array_equal(results[0][0].parameters, results[1][0].parameters)


def test_turn_orders():
    fixed = turn_order(TurnOrder.FIXED, participants=3, round_num=1, seed=0)
    assert fixed == [[0], [1], [2]]
    together = turn_order(TurnOrder.ALL_AT_ONCE, participants=3, round_num=1, seed=0)
    assert together == [[0, 1, 2]]
    orders = [
        turn_order(TurnOrder.RANDOM, participants=3, round_num=r, seed=0)
        for r in range(60)
    ]
    assert all(sorted(sum(order, [])) == [0, 1, 2] for order in orders)
    assert len({str(order) for order in orders}) == 6  # 6 * (5/6)^60 = 1e-4 to miss one
    again = turn_order(TurnOrder.RANDOM, participants=3, round_num=5, seed=0)
    assert again == orders[5]


def _keeping():
    """An adversary that changes nothing."""
    return ClientTransform(
        tf.TensorSpec([]), lambda state, download, data, seed: (state, data)
    )


def _honest_and_malicious(server, transform):
    return (
        initial_client_state(
            LINEAR,
            server,
            participant=number,
            seed=0,
            transform=transform,
            private=private,
        )
        for number, private in ((0, None), (1, tf.constant(0.0)))
    )


@pytest.mark.parametrize("exempt", [True, False])
def test_adversaries_need_not_noise_what_they_upload(exempt):
    process = build_dssgd(
        LINEAR,
        training=STEP,
        transform=_keeping(),
        privacy=LocalDp(0.05, 1.0),
        adversaries_exempt=exempt,
    )
    server = process.initialize()
    honest, malicious = _honest_and_malicious(server, _keeping())
    sent, _, _ = process.next(server, [SECOND], [malicious])
    exact = np.allclose(sent.parameters, SECOND_UPDATE, atol=1e-6)
    assert exact == exempt
    sent, _, _ = process.next(server, [SECOND], [honest])
    clipped = SECOND_UPDATE * 0.05 / np.linalg.norm(SECOND_UPDATE)
    # Four numbers with noise of .05: a norm of .01 or .25 has probability 1e-4.
    assert 0.01 < np.linalg.norm(sent.parameters - clipped) < 0.25


def test_adversaries_may_train_in_a_way_of_their_own():
    transform = _keeping()
    twice = dataclasses.replace(STEP, learning_rate=0.2)
    noisy = record_private_training(RecordLevelDp(1.0, 5.0), STEP, LINEAR)
    for training in (STEP, noisy):
        process = build_dssgd(
            LINEAR, training=training, transform=transform, adversary_training=twice
        )
        server = process.initialize()
        honest, malicious = _honest_and_malicious(server, transform)
        sent, _, _ = process.next(server, [SECOND], [malicious])
        np.testing.assert_allclose(sent.parameters, 2 * SECOND_UPDATE, atol=1e-6)
        sent, _, _ = process.next(server, [SECOND], [honest])
        exact = np.allclose(sent.parameters, SECOND_UPDATE, atol=1e-6)
        assert exact == (training is STEP)


def test_an_own_aggregator_takes_the_place_of_the_sum():
    halving = tff.aggregators.UnweightedMeanFactory()
    process = build_dssgd(LINEAR, training=STEP, upload_aggregator=halving)
    server = process.initialize()
    server, _, _ = process.next(server, [FIRST, FIRST], _clients(server, 2))
    np.testing.assert_allclose(server.parameters, FIRST_UPDATE, rtol=1e-6)


class TestOtherTraining:
    """Local training that shares more than the model and keeps a private value."""

    @staticmethod
    def _build():
        def initialize(seed):
            weights = LINEAR.initialize(seed)
            return tf.concat([flatten(weights.trainable), [0.0]], axis=0), []

        def train(shared, constants, data, private, steps, seed):
            del constants, seed
            # The model moves by the private sum, the fifth number counts the turns.
            move = tf.concat([tf.fill([4], tf.reduce_sum(private)), [1.0]], axis=0)
            loss = tf.cast(tf.size(data.labels), tf.float32)
            return Trained(shared + move, steps + 3, loss)

        return LocalTraining(5, initialize, tf.TensorSpec([None]), train)

    def test_type_signature(self):
        signature = build_dssgd(LINEAR, training=self._build()).next.type_signature
        server, clients = signature.result[0], signature.result[1]
        assert server.compact_representation() == (
            "<parameters=float32[5],statistics=<>,recency=float32[5],"
            "history=float32[0,5],turn=int32,aggregator=<>>@SERVER"
        )
        assert clients.compact_representation() == (
            "{<participant=int32,seed=int32[2],parameters=float32[5],turn=int32,"
            "steps=int32,private=<>,training=float32[?]>}@CLIENTS"
        )

    def test_all_of_it_is_shared_and_the_private_value_stays(self):
        process = build_dssgd(LINEAR, training=self._build(), max_staleness=1)
        server = process.initialize()
        own = [np.array(v, np.float32) for v in ([], [1.0], [2.0, 3.0])]
        clients = [
            initial_client_state(
                LINEAR, server, participant=number, seed=0, training_private=value
            )
            for number, value in enumerate(own)
        ]
        server, clients, metrics = process.next(server, [FIRST, FIRST, SECOND], clients)
        np.testing.assert_array_equal(server.parameters, [6, 6, 6, 6, 3])
        assert server.history.shape == (1, 5)
        for client in clients:
            value = own[int(client.participant)]
            np.testing.assert_array_equal(client.training, value)
            np.testing.assert_array_equal(client.parameters, [value.sum()] * 4 + [1])
            assert int(client.steps) == 3
        assert metrics["loss"] == (1 * 1 + 1 * 1 + 2 * 2) / 4
        np.testing.assert_allclose(metrics["uploaded"], (0.2 + 1 + 1) / 3, rtol=1e-6)
        # The model is the first four numbers.
        weight, bias = model_weights(LINEAR, server).trainable
        assert weight.numpy().tolist() == [[6, 6]]
        assert bias.numpy().tolist() == [6, 6]

    def test_sgd_in_the_slot_is_sgd(self):
        servers = []
        in_the_slot = build_dssgd(LINEAR, training=sgd_training(STEP, LINEAR))
        for process in (_summing(), in_the_slot):
            server = process.initialize()
            server, _, _ = process.next(server, [SECOND], _clients(server, 1))
            servers.append(server)
        np.testing.assert_array_equal(servers[0].parameters, servers[1].parameters)


class TestWithAnAdversary:
    """The transform within the process, with honest and malicious clients mixed."""

    network = classifiers.mlp(4, (8, 8, 1), hidden=8)
    attack = client_gan.ClientGan(
        generator=sequential(
            "g",
            (generators.LATENT_SIZE,),
            [
                layers.dense(64, initializer=layers.normal(0, 0.1)),
                layers.batch_norm(scale=layers.ones),
                layers.activation(tf.nn.tanh),
                layers.reshape(8, 8, 1),
            ],
        ),
        optimizer=tff.learning.optimizers.build_sgdm(0.1),
        fake_class=3,
        generator_steps=5,
        batch_size=8,
        fakes_per_turn=6,
    )

    @classmethod
    @functools.cache
    def _run(cls, attack):
        transform = client_gan.build_client_gan(attack, cls.network)
        process = build_dssgd(cls.network, transform=transform)
        server = process.initialize()
        private = client_gan.initial_state(
            attack, target=1, seed=tf.constant(seeding.root(1))
        )
        honest = initial_client_state(
            cls.network, server, participant=0, seed=0, transform=transform
        )
        malicious = initial_client_state(
            cls.network,
            server,
            participant=1,
            seed=0,
            transform=transform,
            private=private,
        )
        images = np.zeros((4, 8, 8, 1), np.float32)
        data = tf.data.Dataset.from_tensors((images, np.zeros(4, np.int32)))
        server, clients, metrics = process.next(
            server, [data, data], [honest, malicious]
        )
        return process, private, server, clients, metrics

    def test_the_adversary_injects_and_the_honest_participant_does_not(self):
        _, private, _, (honest, malicious), metrics = self._run(self.attack)
        assert metrics["examples"] == 4 + 4 + 6
        assert malicious.private.last_turn.injected.tolist() == [6]
        assert malicious.private.last_turn.generator_steps.tolist() == [5]
        moved = [
            np.abs(after[0] - before).max()
            for after, before in zip(
                malicious.private.generator.trainable,
                private.generator.trainable,
                strict=True,
            )
        ]
        assert max(moved) > 0
        assert all(len(leaf) == 0 for leaf in tf.nest.flatten(honest.private))

    def test_without_influence_the_server_sees_an_honest_participant(self):
        passive = dataclasses.replace(self.attack, influence=False)
        _, _, server, _, metrics = self._run(passive)
        process = build_dssgd(self.network)
        start = process.initialize()
        images = np.zeros((4, 8, 8, 1), np.float32)
        data = tf.data.Dataset.from_tensors((images, np.zeros(4, np.int32)))
        expected, _, _ = process.next(
            start, [data, data], _clients(start, 2, self.network)
        )
        assert metrics["examples"] == 8
        np.testing.assert_array_equal(server.parameters, expected.parameters)

    def test_nothing_of_the_attack_is_placed_at_the_server(self):
        process, *_ = self._run(self.attack)
        result = process.next.type_signature.result
        assert "generator" not in str(result[0])
        assert "generator" in str(result[1])
        assert result[1].placement is tff.CLIENTS
        assert "generator" not in str(result[2])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"max_staleness": -1}, "max_staleness is -1: expected 0"),
        ({"recency_decay": 0.0}, r"recency_decay is 0.0: expected it in \(0, 1\]"),
        ({"adversaries_exempt": True}, "privacy None: expected a LocalDp to be exempt"),
    ],
)
def test_values_out_of_range(change, message):
    with pytest.raises(InputError, match=message):
        build_dssgd(LINEAR, **change)


def test_running_statistics_are_refused():
    network = sequential("bn", (2,), [layers.batch_norm(scale=layers.ones)])
    with pytest.raises(InputError, match="network bn keeps running statistics"):
        build_dssgd(network)


class TestGaussianPrivacy:
    """Noise in the training or on the update, of each participant and turn."""

    network = classifiers.mlp(2, (4, 4, 1), hidden=8)
    data = tf.data.Dataset.from_tensors(
        (np.ones((6, 4, 4, 1), np.float32), np.int32([0, 1, 0, 1, 0, 1]))
    )
    sgd = LocalSgd(learning_rate=0.1, learning_rate_decay=0.0, batch_size=3)

    def _uploads(self, process):
        server = start = process.initialize()
        clients = _clients(server, 2, self.network)
        seen = []
        for number in (0, 0, 1):
            server, [clients[number]], _ = process.next(
                start, [self.data], [clients[number]]
            )
            seen.append(np.array(server.parameters - start.parameters))
        return seen

    @pytest.mark.parametrize(
        "options",
        [
            {"privacy": LocalDp(0.01, 1.0), "training": sgd},
            {
                "training": record_private_training(
                    RecordLevelDp(0.1, 1.0), sgd, network
                )
            },
        ],
        ids=["update", "records"],
    )
    def test_every_participant_and_turn_has_its_own_noise(self, options):
        process = build_dssgd(self.network, **options)
        first, again = self._uploads(process), self._uploads(process)
        np.testing.assert_array_equal(first, again)
        # Of the update .01; of the training twice .1 .1 / 3: .0047.
        for upload in first:
            assert 0.003 < upload.std() < 0.015
        correlations = np.corrcoef(first)[np.triu_indices(3, k=1)]
        assert np.abs(correlations).max() < 0.6

    def test_what_is_chosen_of_a_noised_update_is_noised(self):
        sharing = SelectiveSharing(upload_fraction=0.1)
        process = build_dssgd(
            self.network,
            sharing=sharing,
            privacy=LocalDp(0.01, 1.0),
            training=self.sgd,
        )
        whole = build_dssgd(self.network, privacy=LocalDp(0.01, 1.0), training=self.sgd)
        part, all_of_it = (self._uploads(p)[0] for p in (process, whole))
        chosen = part != 0
        assert chosen.sum() == np.ceil(0.1 * len(part))
        np.testing.assert_array_equal(part[chosen], all_of_it[chosen])
        assert np.abs(part[chosen]).min() >= np.abs(all_of_it[~chosen]).max()

    def test_local_noise_states_no_epsilon_of_a_turn(self):
        """It does not add up as the sparse vector technique's does."""
        process = build_dssgd(self.network, privacy=LocalDp(0.01, 1.0))
        assert "epsilon" not in str(process.next.type_signature.result[2])


class TestPrivacy:
    """The sparse vector technique in the place of selective sharing."""

    # Next to no noise, so that a hand can compute what is uploaded.
    faint = SparseVector(1e7, upload_fraction=0.75, threshold=0.06, bound=0.07)

    def test_it_chooses_the_upload_and_states_its_price(self):
        process = build_dssgd(LINEAR, training=STEP, privacy=self.faint)
        metrics_type = process.next.type_signature.result[2]
        assert metrics_type.compact_representation() == (
            "<examples=int32,loss=float32,uploaded=float32,epsilon=float64>@SERVER"
        )
        server = process.initialize()
        server, clients, metrics = process.next(
            server, [FIRST, FIRST], _clients(server, 2)
        )
        # Changes are +-0.1 and +-0.05: two are above tau, and are bounded to 0.07.
        np.testing.assert_allclose(server.parameters, [0.14, -0.14, 0, 0], atol=1e-6)
        np.testing.assert_allclose(clients[0].parameters, FIRST_UPDATE, rtol=1e-6)
        assert metrics["uploaded"] == 0.5
        assert metrics["epsilon"] == 3e7  # c = 3 of 4, for each of the two

    def test_every_participant_and_turn_has_its_own_noise(self):
        loud = SparseVector(1.0, threshold=0.0, bound=0.07)
        network = classifiers.mlp(2, (4, 4, 1), hidden=8)
        process = build_dssgd(network, privacy=loud)
        empty = tf.data.Dataset.from_tensors(
            (np.zeros((0, 4, 4, 1), np.float32), np.zeros(0, np.int32))
        )

        def uploads():
            server = start = process.initialize()
            seen = []
            clients = _clients(server, 2, network)
            for number in (0, 0, 1):
                server, [clients[number]], _ = process.next(
                    start, [empty], [clients[number]]
                )
                seen.append(np.array(server.parameters - start.parameters))
            return seen

        first, again = uploads(), uploads()
        np.testing.assert_array_equal(first, again)
        assert all(np.count_nonzero(upload) > 20 for upload in first)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert np.any(first[one] != first[other])

    @pytest.mark.parametrize(
        "sharing, message",
        [
            ({"upload_fraction": 0.1}, "upload_fraction is 0.1 in sharing and 0.75 in"),
            ({"bound": 0.1}, "bound is 0.1 in sharing, beside the sparse vector"),
            (
                {"criterion": Criterion.RANDOM, "threshold": 0.1},
                "criterion is random in sharing, beside the sparse vector",
            ),
        ],
    )
    def test_contradictions_are_refused(self, sharing, message):
        with pytest.raises(InputError, match=message):
            build_dssgd(LINEAR, sharing=SelectiveSharing(**sharing), privacy=self.faint)

    def test_a_download_fraction_and_the_same_upload_fraction_are_not(self):
        sharing = SelectiveSharing(upload_fraction=0.75, download_fraction=0.5)
        process = build_dssgd(LINEAR, sharing=sharing, privacy=self.faint)
        assert "epsilon" in str(process.next.type_signature.result[2])
