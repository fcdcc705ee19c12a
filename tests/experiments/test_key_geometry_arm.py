"""Random keys alone: portions of trials, and what ends them."""

import asyncio
import dataclasses

import pytest
import tensorflow as tf

from experiments import key_geometry_arm
from experiments.key_geometry_arm import Geometry, GeometryArm
from tff_leak.defences.key_protection import KeyDistribution

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
