"""The matrix of fake attacks: plan, failures, resuming, the report and bad input."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import pytest

from experiments import leak_matrix_program as program
from experiments import leak_matrix_report
from experiments.leak_matrix_cells import Attack, Defence, Matrix, Program
from experiments.leak_matrix_program import Status
from tff_leak.errors import InputError
from tff_leak.runtime.jobs import Outcome
from tff_leak.threat import Adversary, Behaviour, Threat, View

ROOT = pathlib.Path(__file__).parents[2]
FAKE = "fake_attack"
ROWS = Threat(Adversary.SERVER, Behaviour.PASSIVE, View.ROWS)
MATRIX = Matrix(
    "digits",
    {
        "one": Attack(
            "one",
            "Attack one",
            Program(FAKE, flags=("--x=1",), quick=("--x=0",)),
            ROWS,
            controlled=("--arms=both",),
            defended=("--arms=attack",),
        )
    },
    {
        "none": Defence("none", "no defence", {FAKE: ()}),
        "noise": Defence("noise", "Noise", {FAKE: ("--noise=1",)}),
        "keys": Defence("keys", "Keys", {FAKE: Program("other", "digits")}),
        "crash": Defence("crash", "Crash", {FAKE: ("--crash",)}),
        "secure": Defence("secure", "Secure", {FAKE: ()}, View.SUM),
        "later": Defence("later", "Later", {FAKE: "there is no cohort"}),
    },
    (("one",), ("none", "noise")),
)


def _plan(matrix=MATRIX, **changes):
    wanted = {"attacks": [], "defences": [], "seeds": [0], "threads": 1, "quick": False}
    return program.build_plan(matrix, **wanted | changes)


def test_commands_of_a_plan():
    cells = _plan().cells
    assert cells["one", "none"].arguments == ("-m", FAKE, "--x=1", "--arms=both")
    noise = ("-m", FAKE, "--x=1", "--arms=attack", "--noise=1")
    assert cells["one", "noise"].arguments == noise
    preset = "--flagfile=experiments/configs/digits.flags"
    assert cells["one", "keys"].arguments == ("-m", "other", preset)
    assert cells["one", "secure"].status is Status.REFUSED
    assert "view is sum" in cells["one", "secure"].reason
    assert cells["one", "later"].status is Status.NOT_APPLICABLE
    assert cells["one", "later"].reason == "there is no cohort"
    quick = _plan(quick=True).cells
    assert list(quick) == [("one", "none"), ("one", "noise")]
    assert quick["one", "none"].arguments == (
        *("-m", FAKE, "--x=1", "--x=0", "--arms=both"),
    )


def test_jobs_are_those_that_can_run_seed_by_seed(tmp_path):
    plan = _plan(defences=["later", "none", "noise", "secure"], seeds=[3, 1])
    some = program.jobs_of(plan, tmp_path, None)
    assert [job.name for job in some] == [
        *("one/none/3", "one/noise/3", "one/none/1", "one/noise/1"),
    ]
    assert some[0].arguments[-2:] == ("--seed=3", "--threads=1")
    assert some[0].places == (
        f"--output_dir={tmp_path}/cells/one/none/3",
        f"--judges={tmp_path}/judges",
    )
    assert some[0].result == tmp_path / "cells/one/none/3/summary.json"


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"attacks": ["two"]}, "--attacks has 'two'"),
        ({"defences": ["none", "none"]}, "--defences has 'none'"),
        ({"defences": ["noise"]}, "expected none among them"),
        ({"seeds": []}, "--seeds is ''"),
        ({"seeds": [1, 1]}, "--seeds is '1,1'"),
        ({"seeds": [0, -1]}, "--seeds is '0,-1'"),
    ],
)
def test_bad_choices(changes, named):
    with pytest.raises(InputError, match=re.escape(named)):
        _plan(**changes)


def _summary(ssim, accuracy, floor=0.5, epsilon=None, late=None, judge=0.25):
    """A run's; on the scale of the undefended one 0 is .5 and 1 is .9."""
    over_rounds = {} if late is None else {"late_ssim": {"attack": late}}
    return {
        "experiment": "client_gan",
        "task_accuracy": {"attack": accuracy},
        "epsilon": epsilon,
        "seconds": 10.0,
        "visible_window": [28, 28],
        "pooled": {
            "reached_all": ssim == 0.6,
            "recovered": 0.99,
            "attack": {"ssim": ssim, "judge_share": judge},
            "floor": {"value": floor},
            "reference": {"ssim": 0.9},
            **over_rounds,
        },
    }


def _collected(folder, summaries, failures=(), **changes):
    """`summary.json` of a matrix whose runs left these summaries."""
    plan = _plan(**changes)
    outcomes = {name: Outcome(False, "it broke") for name in failures}
    for name, summary in summaries.items():
        outcomes[name] = Outcome(True, seconds=1.0)
        path = folder / "cells" / name / "summary.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(summary))
    found = program.collect(plan, outcomes, folder)
    return found | {"matrix": "digits", "quick": False}


def test_what_is_collected(tmp_path):
    found = _collected(
        tmp_path,
        {
            "one/none/0": _summary(0.8, 0.9),
            "one/none/1": _summary(0.7, 0.9),
            "one/noise/0": _summary(0.6, 0.8, floor=0.1, epsilon=2.0, late=0.7),
            "one/noise/1": _summary(0.5, 0.6, floor=0.1, epsilon=3.0, late=0.8),
            "one/keys/1": _summary(0.7, 0.8),
        },
        failures=["one/keys/0"],
        defences=["none", "noise", "keys", "secure"],
        seeds=[0, 1],
    )
    none, noise, keys, secure = found["cells"]
    assert none["leakage"]["mean"] == pytest.approx((0.75 + 0.5) / 2)
    assert noise["leakage"]["mean"] == pytest.approx((0.25 + 0.0) / 2)
    assert noise["late_leakage"]["mean"] == pytest.approx((0.5 + 0.75) / 2)
    assert none["late_leakage"]["mean"] is None
    assert noise["task_accuracy"]["mean"] == pytest.approx(0.7)
    assert noise["epsilon"] == 3.0 and none["epsilon"] is None
    assert noise["runs"][0]["own_leakage"] == 0.99
    assert noise["reached"] == 1
    assert program._count([None, None]) is None
    assert (keys["status"], keys["reason"]) == ("failed", "seed 0: it broke")
    assert keys["leakage"] == {
        "mean": pytest.approx(0.5), "interval": None, "seeds": 1
    }  # fmt: skip
    assert secure["status"] == "refused" and secure["runs"] == []
    counts = {"measured": 2, "failed": 1, "refused": 1, "not_applicable": 0}
    assert found["counts"] == counts


def test_versions_of_the_code_are_counted(tmp_path):
    for name, commit in (("none/0", "abc"), ("none/1", "abc"), ("noise/0", "def")):
        run = tmp_path / "cells" / "one" / name
        run.mkdir(parents=True)
        (run / "config.json").write_text(json.dumps({"git_commit": commit}))
    runs = ("one/none/0", "one/none/1", "one/noise/0", "one/noise/1")
    summaries = dict.fromkeys(runs, _summary(0.8, 0.9))
    chosen = {"defences": ["none", "noise"], "seeds": [0, 1]}
    found = _collected(tmp_path, summaries, **chosen)
    assert found["code"] == {"abc": 2, "def": 1, "unknown": 1}


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"experiment": "client_gan"}'),
        '{"experiment": "client_gan", "task_accuracy": {"attack": 1}, "epsilon": 1, '
        '"seconds": 1, "pooled": []}',
    ],
)
def test_a_summary_that_cannot_be_read_is_a_failure_of_its_cell(tmp_path, text):
    plan = _plan(defences=["none", "noise"])
    outcomes = {"one/none/0": Outcome(True), "one/noise/0": Outcome(True)}
    for name, content in (("none", json.dumps(_summary(0.8, 0.9))), ("noise", text)):
        path = tmp_path / "cells" / "one" / name / "0" / "summary.json"
        path.parent.mkdir(parents=True)
        path.write_text(content)
    found = program.collect(plan, outcomes, tmp_path)
    none, noise = found["cells"]
    assert (none["status"], noise["status"]) == ("measured", "failed")
    assert "cells/one/noise/0/summary.json cannot be read" in noise["reason"]
    assert "remove it" in noise["reason"]


def test_without_the_undefended_run_of_a_seed_nothing_is_defined(tmp_path):
    found = _collected(
        tmp_path,
        {"one/noise/0": _summary(0.6, 0.8)},
        failures=["one/none/0"],
        defences=["none", "noise"],
    )
    assert found["cells"][1]["leakage"]["mean"] is None
    assert leak_matrix_report.verdict(found)[1] == "undefined"


def test_a_failed_undefended_run_takes_its_own_seed_only(tmp_path):
    found = _collected(
        tmp_path,
        {
            "one/none/0": _summary(0.8, 0.9),
            "one/noise/0": _summary(0.6, 0.8, late=0.7),
            "one/noise/1": _summary(0.9, 0.6, late=0.9),
        },
        failures=["one/none/1"],
        defences=["none", "noise"],
        seeds=[0, 1],
    )
    noise = found["cells"][1]
    assert noise["status"] == "measured"
    assert noise["leakage"] == {
        "mean": pytest.approx(0.25), "interval": None, "seeds": 1
    }  # fmt: skip
    assert noise["late_leakage"]["mean"] == pytest.approx(0.5)
    assert noise["task_accuracy"]["mean"] == pytest.approx(0.7)
    assert noise["reason"].startswith("without seed 1: the run without a defence")


def test_a_defence_of_which_a_seed_failed_stops_nothing(tmp_path):
    found = _collected(
        tmp_path,
        {
            "one/none/0": _summary(0.8, 0.9),
            "one/none/1": _summary(0.8, 0.9),
            "one/noise/0": _summary(0.5, 0.9),
        },
        failures=["one/noise/1"],
        defences=["none", "noise"],
        seeds=[0, 1],
    )
    assert found["cells"][1]["leakage"]["mean"] == 0
    text, _ = leak_matrix_report.verdict(found)
    assert "No defence was measured." in text


def test_an_advantage_counts_above_its_control():
    def cell(leaked, control, measure="advantage"):
        return {
            "measure": measure,
            "leakage": {"mean": leaked},
            "control": {"mean": control},
            "late_leakage": {"mean": None},
            "judge_share": {"mean": None},
            **{name: {"mean": None} for name in ("identified", "identified_control")},
        }

    assert leak_matrix_report._stops(cell(0.15, 0.06))
    assert not leak_matrix_report._stops(cell(0.15, 0.04))
    # Of reconstructions the control is in the figure already.
    assert not leak_matrix_report._stops(cell(0.15, 0.06, "recovered"))


@pytest.mark.parametrize(
    "identified, control, stops",
    [(0.25, 0.0, True), (0.5, 0.25, False), (0.5, 0.5, True), (None, None, True)],
)
def test_grainy_pictures_that_are_nearest_to_the_victims_own_are_no_stop(
    identified, control, stops
):
    cell = {
        "measure": "recovered",
        "leakage": {"mean": -1.0},
        "late_leakage": {"mean": None},
        "judge_share": {"mean": 0.0},
        "identified": {"mean": identified},
        "identified_control": {"mean": control},
    }
    assert leak_matrix_report._stops(cell) == stops


@pytest.mark.parametrize(
    "bare, defended, accuracy, kind",
    [
        (0.8, 0.7, 0.9, "leak"),
        (0.8, 0.53, 0.86, "none"),
        (0.8, 0.53, 0.84, "partial"),
        (0.8, 0.55, 0.9, "leak"),  # .125 of what there is.
        (0.53, 0.5, 0.9, "undefined"),
    ],
)
def test_verdict(tmp_path, bare, defended, accuracy, kind):
    found = _collected(
        tmp_path,
        {
            "one/none/0": _summary(bare, 0.9),
            "one/noise/0": _summary(defended, accuracy),
        },
        defences=["none", "noise"],
    )
    text, found_kind = leak_matrix_report.verdict(found)
    assert found_kind == kind
    assert text.startswith("Attack one: recovered ")


@pytest.mark.parametrize("late, kind", [(0.53, "none"), (0.55, "leak")])
def test_a_last_round_that_shows_nothing_is_no_stop_if_earlier_ones_did(
    tmp_path, late, kind
):
    """.03 of .4 leaks at the end; .05 of .4 in the last half is .125."""
    found = _collected(
        tmp_path,
        {
            "one/none/0": _summary(0.8, 0.9, late=0.8),
            "one/noise/0": _summary(0.53, 0.9, late=late),
        },
        defences=["none", "noise"],
    )
    assert leak_matrix_report.verdict(found)[1] == kind
    shown = leak_matrix_report._overview_cell(found["cells"][1]).text
    assert shown == f"0.08 (one seed), last half {(late - 0.5) / 0.4:.2f}"
    row = leak_matrix_report._row(found["cells"][1])
    header = ["defence", "recovered", *leak_matrix_report._COLUMNS]
    of_row = dict(zip(header, row, strict=True))
    expected = f"{(late - 0.5) / 0.4:.2f} (one seed)"
    assert of_row["last half of the rounds"] == expected


@pytest.mark.parametrize("judge, kind", [(0.49, "none"), (0.5, "leak")])
def test_pictures_that_the_judge_names_are_not_stopped(tmp_path, judge, kind):
    """One shape of a class may be far from the victim's images, and shows the class."""
    found = _collected(
        tmp_path,
        {
            "one/none/0": _summary(0.8, 0.9),
            "one/noise/0": _summary(0.5, 0.9, judge=judge),
        },
        defences=["none", "noise"],
    )
    assert leak_matrix_report.verdict(found)[1] == kind


def test_a_defence_stops_what_no_adversary_of_its_family_gets_through(tmp_path):
    def adversary(name):
        return dataclasses.replace(MATRIX.defences["noise"], name=name, family="keys")

    def found(leak, folder):
        summaries = {
            "one/none/0": _summary(0.8, 0.9),
            "one/random/0": _summary(0.5, 0.9),
        }
        failures = ["one/searched/0"]
        if leak is not None:
            summaries["one/searched/0"] = _summary(leak, 0.9)
            failures = []
        rows = [MATRIX.defences["none"], *map(adversary, ("random", "searched"))]
        matrix = dataclasses.replace(MATRIX, defences={row.name: row for row in rows})
        return leak_matrix_report.verdict(
            _collected(folder, summaries, failures, matrix=matrix)
        )

    assert found(0.5, tmp_path / "0")[1] == "none"
    assert found(0.7, tmp_path / "1")[1] == "leak"
    # The one that failed may be the one that gets through.
    text, kind = found(None, tmp_path / "2")
    assert kind == "leak"
    assert "Not known, as a run failed: Noise." in text


_BINARY = """
import json, pathlib, sys
flags = dict(part[2:].partition("=")[::2] for part in sys.argv[1:])
output = pathlib.Path(flags["output_dir"])
output.mkdir(parents=True, exist_ok=True)
with open(output / "calls", "a") as file:
    file.write("call ")
if "crash" in flags and not (output.parents[3] / "mended").exists():
    sys.exit("error: crash is set; expected it not to be; leave it out")
summary = json.loads(SUMMARY)
summary["pooled"]["attack"]["ssim"] = 0.6 if "noise" in flags else 0.8
(output / "summary.json").write_text(json.dumps(summary))
(output / "report.html").write_text("a run")
"""
_MAIN = """
import json, sys
import test_run_leak_matrix as fakes
from absl import flags
from experiments import leak_matrix_cells
leak_matrix_cells.MATRICES["digits"] = fakes.MATRIX
from experiments import run_leak_matrix
folder = fakes.pathlib.Path(sys.argv[1])
for seeds in ("0", "0,1"):
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["x", f"--output_dir={folder}", f"--seeds={seeds}", "--workers=2",
                 "--defences=none,noise,crash,secure,later"])
    print("code", run_leak_matrix.main([]))
    (folder / "mended").touch()
"""


def test_a_failed_cell_fails_the_command_and_the_next_one_adds_what_is_missing(
    tmp_path,
):
    binary = _BINARY.replace("SUMMARY", repr(json.dumps(_summary(0.8, 0.9))))
    (tmp_path / f"{FAKE}.py").write_text(binary)
    run = tmp_path / "run"
    here = pathlib.Path(__file__).parent
    path = os.pathsep.join(map(str, (ROOT, tmp_path, here)))
    done = subprocess.run(
        [sys.executable, "-c", _MAIN, str(run)],
        env=dict(os.environ, PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"code (\d)", done.stdout) == ["1", "0"]
    assert "An attack that no defence stops: Attack one: recovered 0.75" in done.stdout
    calls = {
        f"{path.parent.parent.name}/{path.parent.name}": len(path.read_text().split())
        for path in run.glob("cells/one/*/*/calls")
    }
    # Only the one that failed was run again for the old seed.
    assert calls == {
        **{"none/0": 1, "noise/0": 1, "crash/0": 2},
        **{"none/1": 1, "noise/1": 1, "crash/1": 1},
    }
    page = (run / "report.html").read_text()
    links = set(re.findall(r'href="([^"]+)"', page))
    assert len(links) == 6
    assert all((run / link).read_text() == "a run" for link in links)
    assert "there is no cohort" in page and "0.25 [0.25, 0.25] (2 seeds)" in page
    assert (run / "figures" / "frontier_one.png").exists()
    assert json.loads((run / "summary.json").read_text())["counts"]["failed"] == 0


def test_the_report_names_the_reason_of_a_failure(tmp_path):
    found = _collected(
        tmp_path,
        {"one/none/0": _summary(0.8, 0.9)},
        failures=["one/noise/0"],
        defences=["none", "noise"],
    )
    section = leak_matrix_report._without_figures(found["cells"])
    [(_, _, rows)] = section.tables
    assert rows == [["Attack one", "Noise", "failed", "seed 0: it broke"]]


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--attacks=gan", "--attacks has 'gan': expected some of client_gan"),
        (
            "--threads_per_job=100000",
            "--threads_per_job is 100000: expected at most "
            f"{len(os.sched_getaffinity(0))}, the cores",
        ),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(tmp_path, flag, message, forked):
    output = tmp_path / "run"
    result = forked("experiments.run_leak_matrix", f"--output_dir={output}", flag)
    assert result.returncode == 2
    [line] = result.stderr.strip().splitlines()
    assert line.startswith(f"error: {message}")
    assert not output.exists()


@pytest.mark.parametrize("late", [None, 0.7])
def test_a_column_that_says_nothing_of_an_attack_is_left_out(tmp_path, late):
    summaries = {
        "one/none/0": _summary(0.8, 0.9),
        "one/noise/0": _summary(0.6, 0.9, late=late),
    }
    found = _collected(tmp_path, summaries, defences=["none", "noise"])
    directory = types.SimpleNamespace(figures=tmp_path)
    section = leak_matrix_report._of_attack(found["cells"], directory)
    [(_, header, rows)] = section.tables
    assert ("last half of the rounds" in header) == (late is not None)
    assert "control's" not in header and "control's" not in section.text
    assert {len(row) for row in rows} == {len(header)}
    assert dict(zip(header, rows[1], strict=True))["task accuracy"] == "0.900"
