"""Participants' keys, the model of a run and its measurement, by hand."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf

from computations import dssgd
from experiments import key_federation
from experiments.federation import Federation
from experiments.key_federation import (
    FAKES_ROW,
    KeySettings,
    KeyTable,
    OfflineEvaluator,
    build_embedding,
    draw_tables,
)
from experiments.networks import papers_classifier
from tff_leak.data.sources import Examples
from tff_leak.defences.key_protection import (
    KeyDistribution,
    Normalisation,
    draw_keys,
    key_embedding,
)
from tff_leak.models import layers
from tff_leak.models.network import flatten, sequential
from tff_leak.runtime.seeding import Role, derive, root

SEED = tf.constant([1, 2])
SHAPE = (32, 32, 1)


def _holding(*labels):
    images = np.zeros((len(labels), 1, 1, 1), np.float32)
    return Examples(images, np.array(labels, np.int32))


class TestTables:
    # Unordered and more than once: what counts is which classes there are.
    federation = Federation(
        [_holding(2, 0, 2), _holding(1), _holding(0, 3)], adversaries=[1], targets=[0]
    )

    @pytest.mark.parametrize("distribution", list(KeyDistribution))
    def test_each_participant_draws_from_a_stream_of_its_own(self, distribution):
        tables = draw_tables(self.federation, 32, distribution, 5)
        assert [table.classes for table in tables] == [(0, 2), (1,), (0, 3)]
        assert [len(table.fakes) for table in tables] == [0, 1, 0]
        for number, table in enumerate(tables):
            stream = derive(root(5), Role.PARTICIPANT, number)
            expected = draw_keys(2, 32, stream, distribution)
            np.testing.assert_array_equal(table.rows, expected)

    def test_no_two_keys_are_alike_nor_those_of_a_class_that_two_hold(self):
        tables = draw_tables(self.federation, 32, KeyDistribution.UNIFORM, 0)
        rows = np.concatenate([table.rows for table in tables])
        products = rows @ rows.T - np.eye(6)
        # Of 15 products with a deviation of 1 / sqrt(32) = .18 none is above 4 of
        # them, but with a probability of 1e-3.
        assert np.abs(products).max() < 0.71

    def test_fakes_have_the_first_row(self):
        table = draw_tables(self.federation, 32, KeyDistribution.UNIFORM, 0)[1]
        np.testing.assert_array_equal(table.rows[FAKES_ROW], table.fakes[0])
        assert table.with_rows_as_labels(_holding(1)).labels.tolist() == [1]


class TestEmbedding:
    source = types.SimpleNamespace(image_shape=SHAPE)

    @pytest.mark.parametrize("normalisation", list(Normalisation))
    def test_long_keys_come_from_the_fixed_layer_of_the_settings(self, normalisation):
        settings = KeySettings(fixed_from=16, hidden=7, normalisation=normalisation)
        network = build_embedding(self.source, 16, settings, 5)
        body = papers_classifier(SHAPE, 7)
        # Scale and offset behind the fixed layer, which is none of the parameters.
        assert network.num_parameters == body.num_parameters + 2 * 16
        direct = key_embedding(
            "direct",
            lambda outputs: papers_classifier(SHAPE, outputs),
            16,
            hidden=7,
            normalisation=normalisation,
            seed=5,
        )
        weights = network.initialize(SEED)
        images = tf.random.stateless_uniform([3, *SHAPE], SEED, -1.0, 1.0)
        np.testing.assert_array_equal(
            network.outputs(weights, images),
            direct.outputs(direct.initialize(SEED), images),
        )

    def test_short_keys_do_not(self):
        settings = KeySettings(fixed_from=16, hidden=7)
        network = build_embedding(self.source, 15, settings, 5)
        assert network.output_shape == (15,)
        assert network.num_parameters == papers_classifier(SHAPE, 15).num_parameters
        assert network.initialize(SEED).statistics == []


class TestEvaluator:
    """A network whose outputs are its inputs: embeddings, so, are chosen by hand."""

    network = sequential("same", (1, 1, 2), [layers.reshape(), layers.dense(2)])
    server = dssgd.ServerState(
        flatten([tf.eye(2), tf.zeros([2])]).numpy(), [], None, None, None, None
    )
    tables = [
        KeyTable((label,), np.eye(2, dtype="f4")[[label]], np.zeros((0, 2), "f4"))
        for label in (0, 1)
    ]

    def _evaluator(self, embeddings, labels):
        images = np.array(embeddings, np.float32).reshape([-1, 1, 1, 2])
        test = Examples(images, np.array(labels, np.int32))
        return OfflineEvaluator(self.network, self.tables, test)

    def test_far_below_0_is_as_near_to_another_key_as_far_above(self):
        evaluator = self._evaluator([[0.8, -0.6], [-0.1, 0.9]], [0, 1])
        rows = evaluator.class_scores(self.server)
        np.testing.assert_allclose([row["others"] for row in rows], [0.6, 0.1])

    def test_what_is_nearest_to_a_key_for_fakes_is_called_a_fake(self):
        fakes = np.array([[0.8, 0.6]], np.float32)
        evaluator = self._evaluator([[1, 0], [0.8, 0.5], [0, 1], [1, 0.1]], 4 * [0])
        assert evaluator.accuracy_with_fakes(self.server) == 0.75  # There are none.
        tables = [self.tables[0], dataclasses.replace(self.tables[1], fakes=fakes)]
        evaluator = dataclasses.replace(evaluator, tables=tables)
        assert evaluator.accuracy(self.server) == 0.75
        # The second one is nearest to it, by .94 against .8; the last, by .86, not.
        assert evaluator.accuracy_with_fakes(self.server) == 0.5

    def test_pictures_beyond_the_first_batch_count(self, monkeypatch):
        monkeypatch.setattr(key_federation, "_BATCH", 2)
        right, wrong = [0.9, 0.1], [0.1, 0.9]
        evaluator = self._evaluator([right, wrong, right, right, right], 5 * [0])
        assert evaluator.accuracy(self.server) == 0.8
