"""Accuracy by the moments of a participant's own pictures."""

from collections import namedtuple

import numpy as np
import pytest

from computations import dssgd
from experiments import key_own_moments
from experiments.dssgd_arm import ArmState
from experiments.key_federation import KeySettings, KeyTable, OfflineEvaluator
from tff_leak.data.sources import Examples
from tff_leak.defences.key_protection import Normalisation, key_embedding
from tff_leak.models import layers
from tff_leak.models.network import flatten, sequential
from tff_leak.runtime import seeding

_Client = namedtuple("_Client", ["parameters"])
_Source = namedtuple("_Source", ["image_shape"])
SETTINGS = KeySettings(fixed_from=6, hidden=4, normalisation=Normalisation.BATCH)
NONE = np.zeros((0, 6), "f4")


def _body(_, units):
    return sequential("body", (2, 2, 1), [layers.reshape(), layers.dense(units)])


def _pictures(count, seed, shift=0.0):
    drawn = np.random.default_rng(seed).normal(shift, 1.0, [count, 2, 2, 1])
    return drawn.astype(np.float32)


class TestOwnMoments:
    network = key_embedding(
        "keys",
        lambda units: _body(None, units),
        6,
        hidden=4,
        normalisation=Normalisation.BATCH,
        seed=7,
    )
    # Who holds which pictures lies apart: the moments of one say little of all.
    data = (
        Examples(_pictures(40, 1, -1.0), np.tile(np.int32([0, 2]), 20)),
        Examples(_pictures(30, 2, 1.0), np.ones(30, np.int32)),
        Examples(_pictures(0, 3), np.zeros(0, np.int32)),
    )
    tests = Examples(
        np.concatenate([_pictures(12, 4, -1.0), _pictures(9, 5, 1.0)]),
        np.int32([0, 2] * 6 + [1] * 9),
    )

    def _models(self):
        weights = [self.network.initialize(seeding.root(s)) for s in range(3)]
        return [
            dssgd.ServerState(
                flatten(one.trainable).numpy(), one.statistics, *[None] * 4
            )
            for one in weights
        ]

    def _measure(self, monkeypatch, **changed):
        monkeypatch.setattr(key_own_moments, "papers_classifier", _body)
        monkeypatch.setattr("experiments.key_federation.papers_classifier", _body)
        models = self._models()
        keys = np.random.default_rng(0).normal(size=[3, 6]).astype("f4")
        keys /= np.linalg.norm(keys, axis=1, keepdims=True)
        tables = [
            KeyTable((0, 2), keys[[0, 2]], NONE),
            KeyTable((1,), keys[1:2], NONE),
            KeyTable((), NONE, NONE),
        ]
        evaluator = OfflineEvaluator(
            self.network, tables, self.tests.take([]), **changed
        )
        clients = [_Client(model.parameters) for model in models]
        found = key_own_moments.accuracy_by_own_moments(
            evaluator,
            ArmState(models[0], clients),
            self.data,
            self.tests,
            source=_Source((2, 2, 1)),
            settings=SETTINGS,
            seed=7,
        )
        return found, models, keys

    def test_each_model_has_the_moments_of_its_owners_pictures(self, monkeypatch):
        """Against NumPy, from the parameters; the third participant has no pictures."""
        found, models, keys = self._measure(monkeypatch)

        def embed(model, own):
            matrix, bias = model.parameters[:16].reshape(4, 4), model.parameters[16:20]
            scale, offset = np.split(model.parameters[20:], 2)
            fixed = model.statistics[0].numpy()

            def features(images):
                return np.tanh(images.reshape(-1, 4) @ matrix + bias) @ fixed

            inner = features(own)
            centred = features(self.tests.images) - inner.mean(axis=0)
            outputs = centred / np.sqrt(inner.var(axis=0) + 1e-5) * scale + offset
            return np.tanh(outputs)

        right = [
            np.argmax(embed(model, part.images) @ keys.T, axis=1) == self.tests.labels
            for model, part in zip(models[:2], self.data[:2], strict=True)
        ]
        every = np.mean([one.mean() for one in right])
        assert found["participant_accuracy_own_moments"] == pytest.approx(every)
        # Of its own keys the first one has two; with one the second is always right.
        own = embed(models[0], self.data[0].images)[:12] @ keys[[0, 2]].T
        expected = np.mean(own.argmax(axis=1) == [0, 1] * 6)
        assert 0 < expected < 1
        assert found["own_accuracy_own_moments"] == pytest.approx((expected + 1) / 2)
        pooled = [
            np.argmax(embed(model, self.tests.images) @ keys.T, axis=1)
            == self.tests.labels
            for model in models[:2]
        ]
        assert every != np.mean([one.mean() for one in pooled])

    def test_where_pictures_do_not_count_for_one_another_nothing_is_replaced(
        self, monkeypatch
    ):
        def unwanted(*args, **kwargs):
            raise AssertionError("no moments are needed")

        monkeypatch.setattr(key_own_moments, "feature_moments", unwanted)
        found, models, keys = self._measure(monkeypatch, each_by_itself=True)
        right = []
        for model in models[:2]:
            weights = dssgd.model_weights(self.network, model)
            outputs = self.network.outputs(weights, self.tests.images).numpy()
            answers = np.argmax(outputs @ keys.T, axis=1)
            right.append(np.mean(answers == self.tests.labels))
        every = found["participant_accuracy_own_moments"]
        assert every == pytest.approx(np.mean(right))
