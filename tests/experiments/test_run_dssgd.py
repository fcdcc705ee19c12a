"""Honest collaborative learning: each order is measured on its own, turn by turn."""

import csv
import json
import pathlib
import subprocess
import sys

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
    assert not any("attack" in key for key in rows[0])


def test_staleness_has_to_be_positive(tmp_path):
    result = _run(f"--output_dir={tmp_path / 'run'}", "--max_staleness=0")
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
