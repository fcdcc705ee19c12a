"""Figures before the last round: pooled over targets."""

import pytest

from experiments import key_snapshots

FIGURES = {"floor": {"value": 0.2}, "reference": {"ssim": 0.7}, "recovered": 0.0}


def _target(late, stop, share):
    return {
        "late_ssim": {"attack": late, "control": 0.2},
        "stop_ssim": {"attack": stop, "control": 0.2},
        "stop_judge_share": {"attack": share, "control": 0.0},
    }


def test_pooled_figures_are_means_over_targets():
    found = key_snapshots.pooled(
        FIGURES, [_target(0.4, 0.6, 1.0), _target(0.5, 0.4, 0)]
    )
    assert found == {
        "late_ssim": {"attack": pytest.approx(0.45), "control": pytest.approx(0.2)},
        # (.45 - .2) / (.7 - .2)
        "late_recovered": {"attack": pytest.approx(0.5), "control": pytest.approx(0)},
        "stop_ssim": {"attack": pytest.approx(0.5), "control": pytest.approx(0.2)},
        "stop_recovered": {"attack": pytest.approx(0.6), "control": pytest.approx(0)},
        "stop_judge_share": {"attack": 0.5, "control": 0.0},
    }
