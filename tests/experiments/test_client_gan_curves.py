"""Figures of snapshots over the rounds, by hand."""

import numpy as np
import pytest

from experiments import client_gan_curves
from tff_leak.runtime import snapshots
from tff_leak.runtime.run_directory import RunDirectory


def _figures(attack, control, passive=None, floor=0.5, reference=0.9):
    """Of one target or all pooled; numbers are similarities."""

    def of(ssim):
        return {"ssim": ssim, "judge_share": 2 * ssim}

    extra = {} if passive is None else {"passive": of(passive) | {"recovered": 0.125}}
    return {
        "attack": of(attack),
        "control": None if control is None else of(control),
        "extra_controls": extra,
        "floor": {"value": floor},
        "reference": {"ssim": reference},
        "recovered": (attack - floor) / (reference - floor),
    }


def _scores(*args, **kwargs):
    """The same with target 3 as with all, and target 0 a tenth less alike."""
    pooled = _figures(*args, **kwargs)
    other = _figures(args[0] - 0.1, *args[1:], **kwargs)
    return {
        "targets": [{"target": 0} | other, {"target": 3} | pooled],
        "pooled": pooled,
    }


def test_the_last_half_is_measured_by_the_final_floor():
    final = _scores(0.6, 0.4, 0.3)
    # Snapshots have floors of their own, which do not count here.
    scored = {
        10: _scores(0.0, 0.0, 0.0),
        20: _scores(0.1, 0.1, 0.1, floor=0.0),
        30: _scores(0.7, 0.2, 0.5, floor=0.6),
        40: _scores(0.5, 0.6, 0.3, floor=0.1),
    }
    found = client_gan_curves.with_late(final, scored, 40)
    assert found["late_rounds"] == [30, 40]
    pooled = found["pooled"]
    expected = {"attack": 0.6, "control": 0.4, "passive": 0.4}
    assert pooled["late_ssim"] == pytest.approx(expected)
    # Between .5 and .9.
    expected = {"attack": 0.25, "control": -0.25, "passive": -0.25}
    assert pooled["late_recovered"] == pytest.approx(expected)
    zero, three = found["targets"]
    assert three["late_recovered"] == pytest.approx(expected)
    assert zero["late_recovered"]["attack"] == pytest.approx(0.0)
    # What was there still is, and nothing was put into what was given.
    assert pooled["recovered"] == final["pooled"]["recovered"]
    assert "late_ssim" not in final["pooled"] | final["targets"][0]


@pytest.mark.parametrize(
    "rounds, late", [(19, [10, 19]), (20, [19]), (38, []), (37, [19])]
)
def test_which_rounds_are_the_last_half(rounds, late):
    scored = {number: _scores(0.6, None) for number in (9, 10, 19)}
    scored[rounds] = _scores(0.6, None)
    found = client_gan_curves.with_late(_scores(0.6, None), scored, rounds)
    assert found["late_rounds"] == sorted({*late, rounds})
    assert set(found["pooled"]["late_recovered"]) == {"attack"}


def test_where_floor_and_reference_are_close_nothing_is_defined():
    scores = _scores(0.6, None, reference=0.54)
    found = client_gan_curves.with_late(scores, {2: _scores(0.7, None)}, 2)
    assert found["pooled"]["late_recovered"] == {"attack": None}
    assert found["pooled"]["late_ssim"] == pytest.approx({"attack": 0.7})


def test_curves_are_against_each_rounds_floor():
    curves = client_gan_curves.curves_of(
        {5: _scores(0.6, 0.25, 0.3), 10: _scores(0.8, None, 0.5, floor=0.7)}
    )
    assert curves["attack"]["round"] == [5, 10]
    assert curves["attack"]["ssim"] == [0.6, 0.8]
    assert curves["attack"]["recovered"] == pytest.approx([0.25, 0.5])
    assert curves["attack"]["judge_share"] == [1.2, 1.6]
    assert curves["control"] == {
        "round": [5], "ssim": [0.25], "recovered": [None], "judge_share": [0.5]
    }  # fmt: skip
    assert curves["passive"]["recovered"] == [0.125, 0.125]


def test_every_snapshot_is_scored_by_arm_and_target(tmp_path):
    pictures = np.zeros((1, 2, 2, 1), np.float32)
    with RunDirectory.open(tmp_path / "run", {"test": True}) as directory:
        for number in (20, 9):
            arrays = {"attack_3": pictures + number, "control_3": pictures}
            snapshots.save_snapshot(directory, number, arrays)
        scored = client_gan_curves.score_snapshots(
            directory, lambda drawn: {a: float(d[3].max()) for a, d in drawn.items()}
        )
    assert list(scored.items()) == [
        (9, {"attack": 9.0, "control": 0.0}),
        (20, {"attack": 20.0, "control": 0.0}),
    ]
