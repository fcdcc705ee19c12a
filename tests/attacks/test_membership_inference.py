"""Membership inference: curves by hand, chance, and a model that learnt by heart."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn import metrics

from tff_leak.attacks import membership_inference
from tff_leak.attacks.membership_inference import (
    bootstrap_intervals,
    example_losses,
    infer_membership,
)
from tff_leak.errors import InputError
from tff_leak.models import classifiers, layers
from tff_leak.models.batched_sgd import Batches, BatchSgd, train_on_batches
from tff_leak.models.network import Weights, sequential


def test_a_curve_by_hand():
    # Thresholds from low to high: member, member, other, member, other.
    found = infer_membership([0.1, 0.2, 0.4], [0.3, 0.5])
    assert found.advantage == pytest.approx(2 / 3)
    # Pairs in the right order: 2 + 2 + 1 of 6.
    assert found.auc == pytest.approx(5 / 6)
    assert found.true_positive_rate == pytest.approx(2 / 3)


def test_members_with_larger_losses_give_no_advantage():
    found = infer_membership([3.0, 4.0], [1.0, 2.0])
    assert (found.auc, found.advantage, found.true_positive_rate) == (0, 0, 0)
    assert found.p_value == pytest.approx(1)


def test_the_curve_is_that_of_all_thresholds():
    """Against scikit-learn's, of which privacy_tests keep the corners alone."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        # Rounded, so that there are ties.
        members, others = np.round(rng.normal([[0.0], [0.3]], 1.0, (2, 150)), 2)
        false, true, _ = metrics.roc_curve(
            np.repeat([1, 0], 150), -np.r_[members, others], drop_intermediate=False
        )
        found = infer_membership(members, others)
        assert found.advantage == pytest.approx((true - false).max())
        assert found.auc == pytest.approx(metrics.auc(false, true))
        expected = true[false <= 0.01].max()
        assert found.true_positive_rate == pytest.approx(expected)
    # Where groups are alike the curve has no corner but its ends.
    alike = infer_membership(np.arange(1000), np.arange(1000))
    assert alike.true_positive_rate == pytest.approx(0.01)


def test_equal_losses_tell_nothing():
    found = infer_membership([1.0] * 5, [1.0] * 7)
    assert found.auc == pytest.approx(0.5)
    assert found.advantage == 0


def test_chance_passes_the_test_as_often_as_it_should():
    rng = np.random.default_rng(0)
    found = [infer_membership(*rng.normal(size=(2, 200))) for _ in range(200)]
    rejected = sum(one.p_value < 0.05 for one in found)
    # Binomial(200, .05) is above 21 in less than one of a thousand sweeps.
    assert rejected <= 21
    # And yet the advantage of the best threshold is never 0.
    assert np.mean([one.advantage for one in found]) > 0.03


def test_a_model_that_learnt_random_labels_by_heart_tells_its_members():
    network = classifiers.mlp(4, (4, 4, 1), hidden=64)
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, size=(80, 4, 4, 1)).astype(np.float32)
    labels = rng.integers(0, 4, size=80).astype(np.int32)
    weights = network.initialize(tf.constant([0, 1]))

    def advantage(weights):
        losses = example_losses(network, weights, images, labels)
        return infer_membership(losses[:40], losses[40:])

    trained = train_on_batches(
        BatchSgd(learning_rate=0.5, epochs=300),
        network,
        weights,
        Batches(images[None, :40], labels[None, :40], tf.constant([40])),
    )
    untrained = advantage(weights)
    assert untrained.p_value > 0.01
    found = advantage(Weights(trained.tensors, weights.statistics))
    assert found.advantage > 0.6
    assert found.p_value < 1e-6


def test_losses_are_the_cross_entropy_in_batches():
    network = sequential("linear", (3,), [layers.dense(2)])
    weights = network.initialize(tf.constant([0, 1]))
    inputs = np.random.default_rng(0).normal(size=(1003, 3)).astype(np.float32)
    labels = (inputs[:, 0] > 0).astype(np.int32)
    logits = inputs @ weights.trainable[0].numpy() + weights.trainable[1].numpy()
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(shares[np.arange(1003), labels])
    found = example_losses(network, weights, inputs, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert example_losses(network, weights, inputs[:0], labels[:0]).shape == (0,)


def test_a_model_of_another_round_is_not_traced_anew():
    network = sequential("of_rounds", (3,), [layers.dense(2)])
    inputs, labels = np.ones((5, 3), np.float32), np.zeros(5, np.int32)
    found = []
    for round_num in range(3):
        weights = network.initialize(tf.constant([round_num, 1]))
        found.append(example_losses(network, weights, inputs, labels)[0])
    assert len(set(found)) == 3
    traced = membership_inference._build_losses(network)
    assert traced.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("members", [[], [np.nan, 1.0], [[1.0]]])
def test_losses_that_are_none_are_refused(members):
    with pytest.raises(InputError, match="losses of members .* give both groups"):
        infer_membership(members, [1.0])


class TestIntervals:
    def test_they_have_the_width_of_the_statistic(self):
        """Of losses that tell nothing AUC has variance (n + m + 1) / (12 n m)."""
        rng = np.random.default_rng(0)
        members, others = rng.normal(size=(2, 200))
        found = bootstrap_intervals(members, others, seed=1)
        low, high = found["auc"]
        assert low < infer_membership(members, others).auc < high
        expected = 2 * 1.96 * np.sqrt(401 / (12 * 200 * 200))
        assert 0.85 * expected < high - low < 1.15 * expected

    def test_their_areas_are_those_of_the_curve(self):
        """Also where losses tie; the first row is what was observed."""
        losses = np.random.default_rng(4).integers(0, 6, size=[2, 40]).astype(float)
        grid = np.unique(losses)
        rng = np.random.default_rng(0)
        shares = [
            membership_inference._draw_shares(rng, part, grid, 3) for part in losses
        ]
        [area, *_] = membership_inference._areas(*shares)
        assert area == pytest.approx(infer_membership(*losses).auc)
        np.testing.assert_allclose(np.sum(shares, axis=2), 1)

    @pytest.mark.parametrize("leak", [0.0, 0.2, 1.5])
    def test_that_of_the_advantage_covers_the_truth(self, leak):
        """Of normal losses `leak` apart the best threshold lies between the means.

        Each of 80 models may be missed with probability 1/20: 10 or more misses have
        probability .007. The percentile alone misses in 80, 34 and 25 of them.
        """
        truth = 2 * stats.norm.cdf(leak / 2) - 1
        misses = 0
        for seed in range(80):
            rng = np.random.default_rng(seed)
            members, others = rng.normal(-leak, 1, 100), rng.normal(0, 1, 300)
            found = bootstrap_intervals(members, others, seed=seed, resamples=200)
            low, high = found["advantage"]
            misses += not low <= truth <= high
        assert misses < 10

    def test_that_of_the_advantage_is_narrow_where_examples_are_many(self):
        rng = np.random.default_rng(0)
        members, others = rng.normal(-0.5, 1, 4000), rng.normal(0, 1, 4000)
        low, high = bootstrap_intervals(members, others, seed=0)["advantage"]
        assert 0.12 < low < infer_membership(members, others).advantage < high < 0.26

    def test_groups_apart_stay_apart(self):
        found = bootstrap_intervals(np.zeros(9), np.ones(9), seed=0)
        assert found == {"auc": (1.0, 1.0), "advantage": (1.0, 1.0)}

    def test_they_follow_the_seed(self):
        losses = np.random.default_rng(2).normal(size=(2, 40))
        first, again, other = (
            bootstrap_intervals(*losses, seed=seed, resamples=50) for seed in (0, 0, 1)
        )
        assert first == again != other

    def test_bad_input(self):
        with pytest.raises(InputError, match="losses of others have shape"):
            bootstrap_intervals(np.zeros(3), np.zeros(0), seed=0)
