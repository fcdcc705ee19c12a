"""What the benchmarks compute, on sizes that take no time."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import gemm_share, pfl_cohort, workloads
from benchmarks.hand_written_fed_avg import build_round
from benchmarks.hand_written_turns import Settings, classify, generate
from tff_leak.models import classifiers, generators

_SEED = tf.constant([0, 1])


def test_operations_of_a_turn_pair():
    # Multiplications of one example, layer by layer.
    classifier = 627_200 + 1_280_000 + 51_200 + 2_200
    layers = [204_800, 2_097_152, 2_097_152, 131_072]
    descent = 3 * classifier - 627_200
    step = 3 * sum(layers) - 204_800 + 2 * classifier
    expected = 2 * (5500 * descent + 2560 * step + 500 * sum(layers))
    assert gemm_share.turn_pair_flops(Settings(), 2500) == expected
    assert expected == pytest.approx(151e9, rel=0.01)


def test_hand_written_networks_are_the_papers():
    weights = classifiers.hitaj_mnist(11).initialize(_SEED)
    images = tf.random.stateless_uniform([3, 32, 32, 1], _SEED)
    np.testing.assert_allclose(
        classify(list(weights.trainable), images),
        classifiers.hitaj_mnist(11).outputs(weights, images),
        atol=1e-5,
    )
    network = generators.hitaj_mnist(4)
    weights = network.initialize(_SEED)
    latents = tf.random.stateless_uniform([3, 100], _SEED)
    np.testing.assert_allclose(
        generate(list(weights.trainable), latents, 4),
        network.apply(weights, latents, True)[0],
        atol=1e-5,
    )


def test_sizes_are_those_of_the_design():
    parameters = [
        build().network.num_parameters
        for build in (workloads.logistic_regression, workloads.large_mlp)
    ]
    assert parameters == [7850, 987_210]
    work = workloads.small_mlp(7)
    assert (work.network.num_parameters, work.clients) == (101_770, 7)
    # conv 3x3x3x32, conv 3x3x32x64, 12544 to 128, 128 to 10, biases
    expected = 864 + 32 + 18_432 + 64 + 12_544 * 128 + 128 + 1280 + 10
    assert workloads.pfl_cnn().network.num_parameters == expected


def test_hand_written_round_is_the_weighted_mean():
    work = workloads.logistic_regression()._replace(batch_size=2)
    images, labels = workloads.random_examples((28, 28, 1), 3)
    datasets = [
        tf.data.Dataset.from_tensor_slices((images[a:b], labels[a:b])).batch(2)
        for a, b in ((0, 1), (1, 3))
    ]
    start = list(work.network.initialize(_SEED).trainable)
    alone = [build_round(work)(start, [dataset]) for dataset in datasets]
    together = build_round(work)(start, datasets)
    for one, two, mean in zip(*alone, together, strict=True):
        np.testing.assert_allclose(mean, (one + 2 * two) / 3, atol=1e-6)


def test_pytorch_layout():
    start = workloads.pfl_cnn().network.initialize(_SEED).trainable
    weights = [w.numpy() for w in start]
    turned = pfl_cohort.to_pytorch(weights)
    assert [w.shape for w in turned if w.ndim > 1] == [
        (32, 3, 3, 3),
        (64, 32, 3, 3),
        (128, 12_544),
        (10, 128),
    ]
    # The input of map 5, row 2, column 3 of the first dense layer.
    row = (2 * 14 + 3) * 64 + 5
    np.testing.assert_array_equal(turned[4][:, 5 * 196 + 2 * 14 + 3], weights[4][row])
    for back, weight in zip(pfl_cohort.from_pytorch(turned), weights, strict=True):
        np.testing.assert_array_equal(back, weight)


def test_random_examples_are_of_8_bits():
    images, labels = workloads.random_examples((4, 4, 1), 5, seed=3)
    assert images.shape == (5, 4, 4, 1)
    assert images.dtype == np.float32
    assert labels.dtype == np.int32
    levels = (images + 1.0) * 127.5
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    other, _ = workloads.random_examples((4, 4, 1), 5, seed=4)
    assert (images != other).any()
