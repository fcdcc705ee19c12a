"""Honest collaborative learning: each order is measured on its own, turn by turn."""

import csv
import json
import pathlib
import subprocess
import sys

import numpy as np
from dp_accounting import GaussianDpEvent

from tff_leak.defences.accounting import epsilon, repeated

ROOT = pathlib.Path(__file__).parents[2]


def _run(*flags):
    return subprocess.run(
        [sys.executable, "-m", "experiments.run_dssgd", *flags],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_orders_are_measured_after_every_turn(tmp_path):
    output = tmp_path / "run"
    result = _run(
        "--dataset=digits",
        "--rounds=8",
        "--training=learning_rate=0.05",
        f"--output_dir={output}",
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    rows = list(csv.DictReader((output / "metrics.csv").open(newline="")))
    assert [row["round"] for row in rows] == [str(number) for number in range(1, 9)]
    summary = json.loads((output / "summary.json").read_text())
    names = ["fixed", "random", "all_at_once", "asynchronous"]
    assert sorted(summary["orders"]) == sorted(names)
    for name in names:
        turns = [key for key in rows[0] if key.startswith(f"{name}/task_accuracy_turn")]
        assert len(turns) == (0 if name == "all_at_once" else 2)
        best = max(
            float(row[key]) for row in rows for key in (*turns, f"{name}/task_accuracy")
        )
        assert summary["orders"][name]["best_accuracy"] == best
        assert f"{name}: best accuracy {best:.4f}" in result.stdout
    # Chance is .1; a model that has forgotten the other half is right on half at most.
    assert summary["orders"]["all_at_once"]["best_accuracy"] > 0.6
    assert not any("attack" in key or "epsilon" in key for key in rows[0])
    assert summary["epsilon"] is None
    assert "sparse_vector" not in json.loads((output / "config.json").read_text())


def test_differential_privacy_is_one_flag(tmp_path):
    output = tmp_path / "run"
    result = _run(
        "--dataset=digits",
        "--rounds=2",
        "--order=all_at_once",
        "--sharing=download_fraction=0.9",
        "--sparse_vector=epsilon_per_parameter=10,upload_fraction=0.1",
        f"--output_dir={output}",
    )
    assert result.returncode == 0, result.stderr
    config = json.loads((output / "config.json").read_text())
    assert config["sparse_vector"] == {
        "epsilon_per_parameter": 10.0,
        "upload_fraction": 0.1,
        "threshold": 1e-4,
        "bound": 1e-3,
        "selection_share": 8 / 9,
    }
    rows = list(csv.DictReader((output / "metrics.csv").open(newline="")))
    # The CNN of section 8.3 with its 11 outputs has 105,707 parameters; a tenth, up.
    spent = [float(row["all_at_once/epsilon_total"]) for row in rows]
    assert spent == [105_710.0, 211_420.0]
    summary = json.loads((output / "summary.json").read_text())
    assert summary["epsilon"] == 211_420.0


def test_record_level_privacy_ends_before_the_budget_is_passed(tmp_path):
    output = tmp_path / "run"
    result = _run(
        "--dataset=digits",
        "--rounds=5",
        "--order=all_at_once",
        "--training=learning_rate=0.05,steps=2",
        "--record_dp=clip=1,noise_multiplier=10",
        "--privacy_budget=0.7",
        f"--output_dir={output}",
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    rows = list(csv.DictReader((output / "metrics.csv").open(newline="")))
    spent = [float(row["all_at_once/epsilon_total"]) for row in rows]
    # Rounds are Gaussian mechanisms: three cost .68, four would cost .79.
    expected = [epsilon(repeated(GaussianDpEvent(10.0), n), 1e-5) for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(spent, expected[:3], rtol=1e-12)
    assert expected[2] <= 0.7 < expected[3]
    summary = json.loads((output / "summary.json").read_text())
    assert summary["rounds"] == 3
    assert summary["epsilon"] == spent[-1]
    assert summary["delta"] == 1e-5
    config = json.loads((output / "config.json").read_text())
    assert config["privacy_budget"] == 0.7
    assert config["record_dp"]["sampling"] == "epochs"


def test_staleness_has_to_be_positive(tmp_path, forked):
    result = forked(
        "experiments.run_dssgd", f"--output_dir={tmp_path / 'run'}", "--max_staleness=0"
    )
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
