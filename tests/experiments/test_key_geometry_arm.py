"""Random keys alone: portions of trials, and what ends them."""

import asyncio
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from experiments import key_geometry_arm
from experiments.key_geometry_arm import Geometry, GeometryArm
from tff_leak.defences.key_protection import KeyDistribution, draw_keys
from tff_leak.runtime.seeding import Role, derive, root

SIZES = Geometry(trials=5, keys=4, others=6)


def _arm(shared, **sizes):
    return GeometryArm(
        shared=shared,
        dimensions=(8,),
        distribution=KeyDistribution.NORMAL,
        sizes=dataclasses.replace(SIZES, **sizes),
        seed=3,
    )


def _metrics(arm):
    return asyncio.run(arm.run_round(arm.initialize(), 1))[1]


@pytest.mark.parametrize("shared", [False, True])
def test_portions_change_no_figure(shared, monkeypatch):
    whole = _metrics(_arm(shared))
    assert whole["dimension"] == 8
    monkeypatch.setattr(key_geometry_arm, "_PORTION", 2)
    assert _metrics(_arm(shared)) == whole
    # All trials count: each is another draw.
    assert _metrics(_arm(shared, trials=4)) != whole


def test_figures_of_all_trials_by_hand(monkeypatch):
    monkeypatch.setattr(key_geometry_arm, "_PORTION", 2)
    products = np.array([0.25, 0.75, 0.5])

    def overlaps(dimension, distribution, *, keys, trials, seed):
        assert (dimension, distribution, keys) == (8, KeyDistribution.NORMAL, 4)
        return products[list(trials)]

    def shared(dimension, distribution, *, others, trials, seed):
        assert (dimension, distribution, others) == (8, KeyDistribution.NORMAL, 6)
        found = products[list(trials)]
        return np.stack([found, found - 0.125], axis=1), found / 2

    monkeypatch.setattr(key_geometry_arm, "largest_overlaps", overlaps)
    monkeypatch.setattr(key_geometry_arm, "shared_class", shared)
    assert _metrics(_arm(False, trials=3)) == {
        "dimension": 8,
        "largest": 0.75,
        "mean": 0.5,
    }
    assert _metrics(_arm(True, trials=3)) == {
        "dimension": 8,
        "score_largest": 0.75,
        "score_mean": 0.4375,
        "score_least": 0.125,
        "other_largest": 0.375,
        "other_mean": 0.25,
    }


def test_figures_are_of_keys_drawn_from_the_runs_seed():
    # Seed 3, and a stream for each dimension and trial; see `_arm`.
    stream = derive(root(3), Role.KEYS, 8)
    found = []
    for trial in range(5):
        keys = draw_keys(4, 8, derive(stream, trial), KeyDistribution.NORMAL).numpy()
        found.append(max(keys[i] @ keys[j] for i in range(4) for j in range(i)))
    metrics = _metrics(_arm(False))
    assert metrics["largest"] == pytest.approx(max(found), abs=1e-6)
    assert metrics["mean"] == pytest.approx(np.mean(found), abs=1e-6)


def test_a_run_that_is_told_to_end_waits_for_one_portion(monkeypatch):
    monkeypatch.setattr(key_geometry_arm, "_PORTION", 2)
    measured = []

    async def run():
        def measure(*_, trials, **__):
            measured.extend(trials)
            loop.call_soon_threadsafe(task.cancel)
            return tf.zeros(len(trials))

        monkeypatch.setattr(key_geometry_arm, "largest_overlaps", measure)
        loop = asyncio.get_running_loop()
        arm = _arm(False, trials=50)
        task = asyncio.ensure_future(arm.run_round(arm.initialize(), 1))
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    # One more portion may have begun before the loop came to cancel.
    assert measured in ([0, 1], [0, 1, 2, 3])
