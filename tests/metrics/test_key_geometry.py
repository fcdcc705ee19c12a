"""Random keys: figure 1 by hand and by chance, figure 8 by its closed form."""

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.defences.key_protection import KeyDistribution, draw_keys
from tff_leak.metrics.key_geometry import largest_overlaps, shared_class
from tff_leak.runtime.seeding import derive

SEED = tf.constant([2, 9])


@pytest.mark.parametrize("distribution", list(KeyDistribution))
def test_largest_overlaps_are_those_of_all_pairs(distribution):
    found = largest_overlaps(16, distribution, keys=6, trials=range(3), seed=SEED)
    for trial in range(3):
        keys = draw_keys(6, 16, derive(SEED, trial), distribution).numpy()
        pairs = [keys[i] @ keys[j] for i in range(6) for j in range(i)]
        np.testing.assert_allclose(found[trial], max(pairs), atol=1e-6)


def test_keys_come_apart_with_their_length():
    means = [
        float(
            tf.reduce_mean(
                largest_overlaps(
                    d, KeyDistribution.NORMAL, keys=100, trials=range(20), seed=SEED
                )
            )
        )
        for d in (4, 64, 1024)
    ]
    assert means[0] > 0.97
    # A product of two directions is near N(0, 1/d); of 4950 pairs the largest is near
    # 3.7 deviations, and a mean of 20 of those is within a tenth of it.
    for d, mean in zip((64, 1024), means[1:], strict=True):
        assert 3.3 < mean * np.sqrt(d) < 4.2


@pytest.mark.parametrize("dimension", [8, 512])
def test_a_shared_class_settles_half_way_between_its_keys(dimension):
    found, others = shared_class(
        dimension, KeyDistribution.UNIFORM, others=50, trials=range(4), seed=SEED
    )
    for trial in range(4):
        drawn = draw_keys(
            53, dimension, derive(SEED, trial), KeyDistribution.UNIFORM
        ).numpy()
        half_way = drawn[0] + drawn[1]
        half_way /= np.linalg.norm(half_way)
        cosine = drawn[0] @ drawn[1]
        np.testing.assert_allclose(found[trial], np.sqrt((1 + cosine) / 2), atol=1e-3)
        largest = np.abs(drawn[3:] @ half_way).max()
        np.testing.assert_allclose(others[trial], largest, atol=2e-2)
