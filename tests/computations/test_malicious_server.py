"""mGAN-AI in federated averaging: what clients can notice, and what the server sees."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from computations.defended_fed_avg import Defences, build_defended_client_work
from computations.fed_avg import build_fed_avg, build_fed_avg_client_work
from computations.malicious_server import (
    build_active_mgan,
    build_passive_finalizer,
    build_passive_mgan,
    carrying_isolated,
    without_victim_factory,
)
from tff_leak.attacks import server_gan
from tff_leak.attacks.deviations import Deviations
from tff_leak.attacks.multitask_gan import Labelled, MultitaskGan
from tff_leak.attacks.observation import (
    client_data,
    identify_clients,
    observing_factory,
)
from tff_leak.attacks.server_gan import ServerGan
from tff_leak.defences.local_dp import LocalDp
from tff_leak.defences.record_level_dp import RecordLevelDp
from tff_leak.errors import InputError
from tff_leak.models import classifiers, generators, layers
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.models.network import Weights, sequential
from tff_leak.runtime.in_process.context import InProcessContext

SHAPE = (3, 3, 1)
VICTIM = 7
IDS = (4, VICTIM, 9)
CLASSIFIER = classifiers.mlp(3, SHAPE, hidden=5)
D = classifiers.mlp(5, SHAPE, hidden=5)
G = sequential(
    "small_generator",
    (generators.LATENT_SIZE + 2,),
    [
        layers.conditional_embedding(3, generators.LATENT_SIZE),
        layers.dense(9, initializer=layers.normal(0, 0.1)),
        layers.activation(tf.nn.tanh),
        layers.reshape(*SHAPE),
    ],
)
SGD = tff.learning.optimizers.build_sgdm(0.05)
TRAINING = BatchSgd(0.1)
RNG = np.random.default_rng(0)
AUXILIARY = Labelled(
    RNG.uniform(-1, 1, (6, *SHAPE)).astype(np.float32), np.arange(6, dtype=np.int32) % 3
)


def _attack(of_d=1, growth=0) -> ServerGan:
    gan = MultitaskGan(G, D, SGD, SGD, 4, Deviations())
    return ServerGan(gan, of_d, growth, 1, representatives=2, other_representatives=3)


def _datasets(count=3):
    rng = np.random.default_rng(1)
    return [
        tf.data.Dataset.from_tensor_slices(
            (
                rng.uniform(-1, 1, (5, *SHAPE)).astype(np.float32),
                rng.integers(0, 3, 5).astype(np.int32),
            )
        ).batch(3)
        for _ in range(count)
    ]


def _first_entries(weights, updates, seed):
    """Stands in for section V-E: shows which rows and weights it was given."""
    del seed
    count = tf.shape(updates[-1])[0]
    shown = tf.reshape(updates[1][:, :1] * 10.0, [count, 1, 1, 1, 1])
    images = tf.broadcast_to(tf.clip_by_value(shown, -1, 1), [count, 2, *SHAPE])
    images += 0.0 * weights.trainable[0][0, 0]
    labels = tf.tile([[0, 2]], [count, 1])
    return tf.ensure_shape(images, [None, 2, *SHAPE]), labels


def _half(weights_type, aggregate_type):
    """An honest step that is half as long."""
    assert weights_type.trainable == aggregate_type
    return tff.learning.templates.build_apply_optimizer_finalizer(
        tff.learning.optimizers.build_sgdm(0.5), weights_type
    )


def _build_passive(attack=None, **changes):
    settings = {
        "victim": VICTIM,
        "find_representatives": _first_entries,
        "auxiliary": AUXILIARY,
        "training": TRAINING,
        "seed": 3,
        **changes,
    }
    return build_passive_mgan(CLASSIFIER, attack or _attack(), **settings)


@functools.cache
def _passive():
    """D rests in the first round and trains from the second on."""
    return _build_passive(_attack(of_d=0, growth=1), finalizer=_half)


CLIP = 0.02


@functools.cache
def _protected():
    """Clients clip what they send, and of the others one is looked at."""
    noiseless = Defences(local_dp=LocalDp(clip=CLIP, noise_multiplier=0.0))
    return _build_passive(
        dataclasses.replace(_attack(), other_clients=1),
        training=None,
        client_work=build_defended_client_work(
            CLASSIFIER, training=TRAINING, defences=noiseless
        ),
    )


@functools.cache
def _honest():
    return build_fed_avg(CLASSIFIER, training=TRAINING, finalizer=_half, seed=3)


@functools.cache
def _active(victim_in_average):
    """Of the two kinds, the one without the victim has a D that does not train."""
    return build_active_mgan(
        CLASSIFIER,
        _attack(of_d=int(victim_in_average)),
        victim=VICTIM,
        auxiliary=AUXILIARY,
        victim_in_average=victim_in_average,
        training=TRAINING,
        seed=3,
    )


def _clients(ids=IDS):
    data = dict(zip(IDS, _datasets(), strict=True))
    return [client_data(data[i], i) for i in ids]


def _run(process, clients, rounds=1):
    state, metrics = process.initialize(), None
    for _ in range(rounds):
        state, metrics = process.next(state, clients)
    return state, metrics


def _same(first, second):
    pairs = zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@functools.cache
def _context():
    """One for all tests: it keeps what it has compiled."""
    return InProcessContext()


@pytest.fixture
def in_process():
    tff.framework.set_default_context(_context())
    yield
    tff.test.set_no_default_context()


@pytest.fixture(params=["in_process", "tff_worker"])
def runtime(request):
    return request.getfixturevalue(request.param)


@pytest.mark.usefixtures("in_process")
def test_type_signature():
    process = _passive()
    state = process.next.type_signature.result.state.member
    honest = _honest().next.type_signature
    observed = process.next.type_signature
    assert observed.result.metrics == honest.result.metrics
    assert state.finalizer.python_container.__name__ == "MaliciousState"
    assert state.global_model_weights == honest.result.state.member.global_model_weights
    client = observed.parameter.client_data.member.compact_representation()
    assert client == "<examples=<float32[?,3,3,1],int32[?]>*,client_id=int32*>"


def test_the_shared_model_is_bit_identical_to_the_honest_run(runtime):
    del runtime
    state, metrics = _run(_passive(), _clients(), rounds=2)
    honest, honest_metrics = _run(_honest(), _datasets(), rounds=2)
    assert _same(state.global_model_weights, honest.global_model_weights)
    assert str(metrics) == str(honest_metrics)
    attack = state.finalizer.attack
    assert int(attack.round) == 2
    # It is an attack: G and D have moved, D in the heads that no client gives it.
    first = _passive().initialize().finalizer.attack
    assert not _same(attack.generator.weights, first.generator.weights)
    for head in (0, -1):
        biases = [s.discriminator.trainable[-1][head] for s in (attack, first)]
        assert biases[0] != biases[1]


@pytest.mark.usefixtures("in_process")
class TestPassive:
    def _updates(self):
        """Each client's update, by running it alone."""
        start = _honest().initialize().global_model_weights.trainable
        updates = {}
        for number, dataset in zip(IDS, _datasets(), strict=True):
            after, _ = _run(_honest(), [dataset])
            trained = after.global_model_weights.trainable
            # The honest step is half of what the client sent.
            updates[number] = [2 * (a - b) for a, b in zip(start, trained, strict=True)]
        return start, updates

    def test_d_starts_from_the_victims_model(self):
        state, _ = _run(_passive(), _clients())
        start, updates = self._updates()
        known = server_gan.as_classifier(state.finalizer.attack.discriminator)
        for client, expected in ((VICTIM, True), (IDS[0], False)):
            model = [w - u for w, u in zip(start, updates[client], strict=True)]
            close = [
                np.allclose(a, b, atol=1e-6) for a, b in zip(known, model, strict=True)
            ]
            assert all(close) == expected

    def test_representatives_are_found_in_the_rows_and_labelled_with_the_victim(self):
        state, _ = _run(_passive(), _clients())
        _, updates = self._updates()
        shown = {i: np.clip(10.0 * u[1][0], -1, 1) for i, u in updates.items()}
        memory = state.finalizer.attack.memory
        np.testing.assert_allclose(
            memory.victim.images[:, 0, 0, 0], [shown[VICTIM]] * 2, atol=1e-5
        )
        np.testing.assert_array_equal(memory.victim.labels, [0, 2])
        others = {round(float(shown[i]), 4) for i in IDS if i != VICTIM}
        found = {round(float(x), 4) for x in memory.other.images[:, 0, 0, 0]}
        assert found == others

    def _clipped(self):
        """What each client's row shows when it is as long as its privacy lets it be."""
        shown = {}
        for client, update in self._updates()[1].items():
            length = np.sqrt(sum(np.sum(np.square(u)) for u in update))
            assert length > 2 * CLIP
            shown[client] = 10.0 * update[1][0] * CLIP / length
        return shown

    def test_representatives_of_some_others_only(self):
        memory = _run(_protected(), _clients())[0].finalizer.attack.memory
        shown = self._clipped()
        others = [shown[i] for i in IDS if i != VICTIM]
        assert len(others) == 2
        assert not np.isclose(*others, rtol=1e-2)
        [found] = set(memory.other.images[:, 0, 0, 0].ravel().tolist())
        assert np.isclose(found, others, rtol=1e-4).sum() == 1

    def test_a_round_without_the_victim_or_without_others_teaches_nothing(self):
        start = _passive().initialize()
        for ids in ((4, 9), (VICTIM,)):
            state, _ = _passive().next(start, _clients(ids))
            assert _same(state.finalizer.attack, start.finalizer.attack)
            assert not _same(state.global_model_weights, start.global_model_weights)

    def test_a_state_that_was_taken_out_and_put_back_goes_on_alike(self):
        """What resuming a run does: leaves of NumPy in, the same bits out."""
        state, _ = _run(_passive(), _clients(), rounds=1)
        copied = tf.nest.map_structure(lambda leaf: np.array(leaf), state)
        one, _ = _passive().next(state, _clients())
        other, _ = _passive().next(copied, _clients())
        assert _same(one, other)

    def test_clients_defences_stand_before_the_server(self):
        """It sees rows as they are sent: clipped by the clients' own privacy."""
        memory = _run(_protected(), _clients())[0].finalizer.attack.memory
        np.testing.assert_allclose(
            memory.victim.images[:, 0, 0, 0], [self._clipped()[VICTIM]] * 2, rtol=1e-4
        )

    def test_training_beside_an_own_client_work_is_refused(self):
        work = build_fed_avg_client_work(CLASSIFIER)
        with pytest.raises(InputError, match="training is given with client_work"):
            _build_passive(client_work=work)

    def test_an_own_honest_finalizer(self):
        state, _ = _run(_passive(), _clients())
        start, updates = self._updates()
        for tensor, before, *moves in zip(
            state.global_model_weights.trainable, start, *updates.values(), strict=True
        ):
            expected = before - 0.5 * np.mean(moves, axis=0)
            np.testing.assert_allclose(tensor, expected, atol=1e-6)


def _by_hand(weights, dataset, rate=0.1):
    """One epoch of SGD from given weights: what a client sends back."""
    weights = [tf.constant(w) for w in weights]
    start = list(weights)
    for images, labels in dataset:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits = CLASSIFIER.outputs(Weights(weights, []), images)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            )
        gradients = tape.gradient(loss, weights)
        weights = [w - rate * g for w, g in zip(weights, gradients, strict=True)]
    return [(a - b).numpy() for a, b in zip(start, weights, strict=True)]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("victim_in_average", [True, False])
class TestActive:
    def test_the_victim_trains_the_isolated_model_and_others_the_shared(
        self, victim_in_average
    ):
        process = _active(victim_in_average)
        state = process.initialize()
        first = state.global_model_weights
        assert _same(first.trainable, first.non_trainable)  # M_0^iso = M_0
        discriminator = state.finalizer.attack.discriminator
        assert _same(server_gan.as_classifier(discriminator), list(first.trainable))
        state, _ = process.next(state, _clients())
        before = state.global_model_weights
        assert not _same(before.trainable, before.non_trainable)
        after, _ = process.next(state, _clients())
        updates = []
        for number, dataset in zip(IDS, _datasets(), strict=True):
            if number == VICTIM:
                isolated = _by_hand(before.non_trainable, dataset)
                if victim_in_average:
                    updates.append(isolated)
            else:
                updates.append(_by_hand(before.trainable, dataset))
        for tensor, start, *moves in zip(
            after.global_model_weights.trainable,
            before.trainable,
            *updates,
            strict=True,
        ):
            np.testing.assert_allclose(
                tensor, start - np.mean(moves, axis=0), atol=2e-6
            )

    def test_the_isolated_model_is_d(self, victim_in_average):
        state, _ = _run(_active(victim_in_average), _clients(), rounds=2)
        discriminator = state.finalizer.attack.discriminator
        isolated = state.global_model_weights.non_trainable
        assert _same(server_gan.as_classifier(discriminator), list(isolated))

    def test_without_the_victim_nothing_is_learnt(self, victim_in_average):
        process = _active(victim_in_average)
        start = process.initialize()
        state, _ = process.next(start, _clients((4, 9)))
        assert _same(state.finalizer.attack, start.finalizer.attack)
        isolated = [s.global_model_weights.non_trainable for s in (state, start)]
        assert _same(*isolated)


@pytest.mark.usefixtures("in_process")
def test_an_active_server_before_clients_that_protect_themselves():
    """The victim's noised and clipped row is what D becomes before it trains."""
    clip = 1e-3
    carrying = carrying_isolated(CLASSIFIER)
    process = build_active_mgan(
        CLASSIFIER,
        _attack(of_d=0),
        victim=VICTIM,
        auxiliary=AUXILIARY,
        client_work=build_defended_client_work(
            carrying,
            training=TRAINING,
            defences=Defences(record_dp=RecordLevelDp(clip, 0.0)),
        ),
        seed=3,
    )
    start = process.initialize()
    state, _ = _run(process, _clients())
    gaps = [
        after - before
        for after, before in zip(
            state.global_model_weights.non_trainable,
            start.global_model_weights.non_trainable,
            strict=True,
        )
    ]
    # Five examples in batches of three are two steps, none longer than rate * clip.
    length = np.sqrt(sum(np.sum(np.square(gap)) for gap in gaps))
    assert 0 < length <= 2 * 0.1 * clip * 1.001


def _first_weight(weights, updates, seed):
    """Stands in for section V-E: shows the first weight of the model it was given."""
    images, labels = _first_entries(weights, updates, seed)
    return 0.0 * images + weights.trainable[0][0, 0], labels


@pytest.mark.usefixtures("in_process")
def test_an_active_server_finds_representatives_where_each_client_trained():
    """The victim's from M_iso, the others' from M; from the attack's start on."""
    attack = _attack()
    deviations = Deviations(start_round=1, representative_rounds=2)
    gan = dataclasses.replace(attack.gan, deviations=deviations)
    process = build_active_mgan(
        CLASSIFIER,
        dataclasses.replace(attack, gan=gan),
        victim=VICTIM,
        auxiliary=AUXILIARY,
        find_representatives=_first_weight,
        training=TRAINING,
        seed=3,
    )
    state, _ = _run(process, _clients())
    assert state.finalizer.attack.memory.filled == 0
    # Before the attack's start M_iso is what the victim made of it all the same.
    first = process.initialize().global_model_weights.trainable
    update = _by_hand(first, _datasets()[1])
    isolated = state.global_model_weights.non_trainable
    for before, move, found in zip(first, update, isolated, strict=True):
        np.testing.assert_allclose(found, before - move, atol=2e-6)
    weights = state.global_model_weights
    state, _ = process.next(state, _clients())
    memory = state.finalizer.attack.memory
    assert memory.filled == 1
    shown = [float(w[0][0, 0]) for w in (weights.non_trainable, weights.trainable)]
    assert abs(shown[0] - shown[1]) > 1e-4
    np.testing.assert_allclose(memory.victim.images[:2, 0, 0, 0], shown[0], atol=1e-6)
    np.testing.assert_allclose(memory.other.images[:3, 0, 0, 0], shown[1], atol=1e-6)
    # Without others there is nothing to tell the victim from.
    alone, _ = process.next(state, _clients((VICTIM,)))
    for part in ("memory", "generator", "round"):
        one, other = (getattr(s.finalizer.attack, part) for s in (alone, state))
        assert _same(one, other)
    # But M_iso is what the victim made of it.
    before = state.global_model_weights.non_trainable
    update = _by_hand(before, _datasets()[1])
    for start, move, found in zip(
        before, update, alone.global_model_weights.non_trainable, strict=True
    ):
        np.testing.assert_allclose(found, start - move, atol=2e-6)


@pytest.mark.usefixtures("in_process")
def test_d_goes_on_from_what_the_victim_made_of_it():
    """Without steps of D, M_iso is the victim's own local model, round after round."""
    state, _ = _run(_active(False), _clients(), rounds=2)
    weights = _honest().initialize().global_model_weights.trainable
    for _ in range(2):
        update = _by_hand(weights, _datasets()[1])
        weights = [w - u for w, u in zip(weights, update, strict=True)]
    isolated = state.global_model_weights.non_trainable
    for expected, found in zip(weights, isolated, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)


class TestRefused:
    def test_over_secure_aggregation(self):
        secure = tff.aggregators.MeanFactory(tff.aggregators.SecureSumFactory(1.0))
        with pytest.raises(InputError, match="aggregation to observe is secure"):
            _build_passive(model_aggregator=secure)
        with pytest.raises(InputError, match="aggregation to observe is secure"):
            build_active_mgan(
                CLASSIFIER,
                _attack(),
                victim=VICTIM,
                auxiliary=AUXILIARY,
                model_aggregator=secure,
            )
        with pytest.raises(InputError, match="aggregation to observe is secure"):
            without_victim_factory(observing_factory(secure), VICTIM).create(
                *_sent_types()
            )

    def test_over_an_aggregation_that_shows_nothing(self):
        with pytest.raises(InputError, match="shows the server no rows: expected an"):
            build_fed_avg(
                CLASSIFIER,
                finalizer=build_passive_finalizer(
                    CLASSIFIER,
                    _attack(),
                    victim=VICTIM,
                    find_representatives=_first_entries,
                    auxiliary=AUXILIARY,
                ),
            )

    @pytest.mark.parametrize(
        "changes, message",
        [
            (
                {"auxiliary": Labelled(np.zeros([2, 4, 4, 1]), np.zeros(2))},
                r"auxiliary pictures have shape \(2, 4, 4, 1\): expected at least one",
            ),
            (
                {"auxiliary": Labelled(np.zeros([2, *SHAPE]), np.zeros(3))},
                r"auxiliary labels have shape \(3,\): expected \(2,\)",
            ),
            (
                {"find_representatives": lambda *_: _wrong_number()},
                r"find_representatives gives images \(3, 1, 3, 3, 1\)",
            ),
        ],
    )
    def test_what_does_not_fit(self, changes, message):
        with pytest.raises(InputError, match=message):
            _build_passive(**changes)

    def test_another_discriminator(self):
        other = classifiers.mlp(5, SHAPE, hidden=6)
        gan = MultitaskGan(G, other, SGD, SGD)
        with pytest.raises(InputError, match="does not have the layers of mlp"):
            _build_passive(ServerGan(gan))

    def test_a_victim_without_weight_where_weights_are_ignored(self):
        with pytest.raises(InputError, match="expected an aggregation with weights"):
            build_active_mgan(
                CLASSIFIER,
                _attack(),
                victim=VICTIM,
                auxiliary=AUXILIARY,
                victim_in_average=False,
                model_aggregator=tff.aggregators.UnweightedMeanFactory(),
            )

    def test_a_network_with_statistics(self):
        batch_norm = sequential("bn", (2,), [layers.batch_norm(scale=layers.ones)])
        with pytest.raises(InputError, match="network bn has statistics: expected one"):
            carrying_isolated(batch_norm)


def _wrong_number():
    return tf.zeros([3, 1, *SHAPE]), tf.zeros([3, 1], tf.int32)


def _sent_types():
    work = identify_clients(build_fed_avg_client_work(CLASSIFIER))
    sent = work.next.type_signature.result.result.member
    return sent.update, sent.update_weight
