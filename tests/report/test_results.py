"""docs/results.md is made of summaries alone."""

import json

import pytest

from tff_leak.errors import InputError
from tff_leak.report import results


def _summary(seed, recovered):
    figures = {"judge_share": 1.0, "ssim": 0.6}
    passive = {"judge_share": 0.05, "ssim": 0.2, "recovered": -0.7}
    target = {
        "target": 3,
        "recovered": recovered,
        "recovered_closest": 0.3,
        "reached": {"value": True, "diversity_ratio": 0.8},
        "attack": figures,
        "control": {"judge_share": 0.0, "ssim": 0.1},
        "extra_controls": {"passive": passive} if seed else {},
        "reference": {"judge_share": 1.0, "ssim": 0.7},
        "floor": {"value": 0.5},
        "class_mean_similarity": 0.65,
    }
    return {
        "experiment": "client_gan",
        "seed": seed,
        "rounds": 10,
        "seconds": 12.5,
        "task_accuracy": {"attack": 0.9},
        "targets": [target],
        "pooled": {"recovered": recovered},
    }


def _write(root, preset, summary):
    folder = root / preset / str(summary["seed"])
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_rows_intervals_and_pictures(tmp_path):
    for seed, recovered in ((0, 0.4), (1, 0.5), (2, 0.6)):
        folder = _write(tmp_path, "digits", _summary(seed, recovered))
    (folder / "picture.png").write_bytes(b"png")
    page = results.render(tmp_path, {"digits": "What it is."})
    assert "## digits\n\nWhat it is." in page
    figures = "1.000 | 0.000 | 0.600 | 0.700 | 0.500 | 0.100 | -0.700 | 0.050 | 0.200 |"
    assert f"| 1 | 3 | 0.500 | 0.300 | yes | {figures}" in page
    assert "| 0.500 | 0.100 | not run | not run | not run |" in page  # seed 0
    # Mean 0.5, deviation 0.1, t(2, .975) = 4.303: half-width .2484.
    assert "mean of 3 seeds: 0.50, 95% interval 0.25 to 0.75." in page
    assert "![digits, seed 2](results/digits/2/picture.png)" in page
    assert "seed 0](" not in page


def test_one_seed_and_undefined_values(tmp_path):
    _write(tmp_path, "one", _summary(0, 0.4))
    assert "no interval from one seed" in results.render(tmp_path, {})
    _write(tmp_path, "undefined", _summary(0, None))
    page = results.render(tmp_path, {})
    assert "| 0 | 3 | not defined | 0.300 | yes |" in page
    assert "not defined for every seed" in page


def test_summaries_older_than_a_figure_say_so(tmp_path):
    summary = _summary(1, 0.4)
    del summary["targets"][0]["recovered_closest"]
    del summary["targets"][0]["extra_controls"]["passive"]["recovered"]
    _write(tmp_path, "old", summary)
    page = results.render(tmp_path, {})
    assert "| 0.400 | not measured | yes |" in page
    assert "| not measured | 0.050 | 0.200 |" in page


def test_the_time_of_a_run_that_was_killed_and_gone_on_with_is_unknown(tmp_path):
    _write(tmp_path, "killed", _summary(0, 0.4) | {"seconds": None})
    assert "| 0.900 | 10 | unknown |" in results.render(tmp_path, {})


def test_orders_of_honest_training(tmp_path):
    orders = {"fixed": {"best_accuracy": 0.97, "best_round": 3, "last_accuracy": 0.96}}
    summary = {"experiment": "dssgd", "seed": 0, "rounds": 5, "orders": orders}
    _write(tmp_path, "dssgd_mnist", summary)
    page = results.render(tmp_path, {})
    assert "| 0 | fixed | 0.9700 | 3 | 0.9600 | 5 |" in page


def test_a_broken_summary_is_named(tmp_path):
    folder = _write(tmp_path, "digits", _summary(0, 0.4))
    (folder / "summary.json").write_text("{")
    with pytest.raises(InputError, match="expected a run's summary.json"):
        results.render(tmp_path, {})
