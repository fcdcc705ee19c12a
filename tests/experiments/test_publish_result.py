"""Only runs of a preset are published under its name, on pages made anew."""

import json
import types

import pytest

from experiments import leak_matrix_program, preset_files, publish_result
from experiments import presets as presets_lib
from experiments.leak_matrix_cells import MATRICES
from tff_leak.errors import InputError
from tff_leak.runtime import jobs

CONFIG = {
    "experiment": "client_gan",
    "seed": 4,
    "dataset": "mnist",
    "per_class": 200,
    "targets": [1],
    "arms": ["attack", "control", "passive"],
    "training": {"learning_rate": 0.02, "batch_size": 32, "epochs": 1},
}


TRAINING = "--training=learning_rate=0.02,batch_size=32\n"


@pytest.fixture
def presets(tmp_path, monkeypatch):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "base.flags").write_text(
        "# What it is.\n--dataset=mnist\n--per_class=200\n--targets=3\n"
        "--arms=attack,control\n--training=learning_rate=0.02,batch_size=32\n"
    )
    (folder / "one.flags").write_text(
        "--flagfile=experiments/configs/base.flags\n--targets=1\n"
    )
    monkeypatch.setattr(publish_result.preset_files, "CONFIGS", folder)
    return folder


def test_a_preset_includes_another_and_overrides_it(presets):
    flags = publish_result.preset_files.read(presets / "one.flags")
    assert flags["targets"] == "1"
    assert flags["dataset"] == "mnist"


def test_a_repeated_flag_is_a_list(presets):
    (presets / "orders.flags").write_text("--order=fixed\n--order=random\n")
    flags = publish_result.preset_files.read(presets / "orders.flags")
    assert flags == {"order": "fixed,random"}


def test_a_run_of_the_preset_passes_also_with_more_controls(presets, tmp_path):
    publish_result._check_is_preset(tmp_path, CONFIG, presets / "one.flags")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"targets": [2]}, "targets=2, expected 1 in one.flags"),
        ({"per_class": None}, "per_class=None"),
        ({"arms": ["attack"]}, "arms=attack, expected attack,control"),
        (
            {"training": {"learning_rate": 0.1, "batch_size": 32}},
            "training learning_rate=0.1, expected 0.02",
        ),
    ],
)
def test_another_setting_is_refused(presets, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        publish_result._check_is_preset(
            tmp_path, CONFIG | change, presets / "one.flags"
        )


def _finished(folder, **config):
    """A run's directory with what publishing reads."""
    (folder / "figures").mkdir(parents=True)
    summary = {"dataset": config.get("dataset", CONFIG["dataset"])}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "figures" / "attack_1.png").write_bytes(b"samples")
    return folder


def _published(presets, root, run, preset, monkeypatch):
    class Flag:
        value = preset

    monkeypatch.setattr(publish_result, "_PRESET", Flag)
    publish_result._copy(run, root)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))


def test_a_target_that_the_preset_leaves_open_is_in_the_name(
    presets, tmp_path, monkeypatch
):
    (presets / "open.flags").write_text(
        "# All.\n--dataset=mnist\n--per_class=200\n" + TRAINING
    )
    run = _finished(tmp_path / "run", targets=[1])
    root = tmp_path / "results"
    files = _published(presets, root, run, "open", monkeypatch)
    assert files == ["open_target1/4/picture.png"]
    assert _published(presets, root, run, "one", monkeypatch) == [
        "one/4/picture.png",
        *files,
    ]


@pytest.mark.parametrize(
    "preset, named", [("on", "such as one;"), ("xyz", "such as digits;")]
)
def test_a_preset_that_is_not_there_is_answered_with_its_neighbours(
    presets, tmp_path, monkeypatch, preset, named
):
    run = _finished(tmp_path / "run")
    root = tmp_path / "results"
    with pytest.raises(InputError, match=named):
        _published(presets, root, run, preset, monkeypatch)
    assert not root.exists()


def test_with_a_passive_arm_the_pictures_over_the_rounds_are_kept(
    presets, tmp_path, monkeypatch
):
    run = _finished(tmp_path / "run")
    names = ("progress_1", "progress_passive_1", "recovered", "task_accuracy")
    for name in names:
        (run / "figures" / f"{name}.png").write_bytes(name.encode())
    root = tmp_path / "results"
    files = _published(presets, root, run, "one", monkeypatch)
    assert len(files) == 5
    folder = root / "one/4"
    assert (folder / "picture_influence.png").read_text() == "progress_1"
    assert (folder / "picture_no_influence.png").read_text() == "progress_passive_1"
    assert (folder / "picture.png").read_text() == "samples"
    # A later run without that arm leaves none of them behind.
    again = _finished(tmp_path / "again")
    assert _published(presets, root, again, "one", monkeypatch) == ["one/4/picture.png"]
    # And one that cannot be read leaves what is there.
    (again / "summary.json").write_text("{")
    with pytest.raises(InputError, match=r"summary.json cannot be read: expected what"):
        publish_result._copy(again, root)
    assert (folder / "picture.png").exists()
    assert json.loads((folder / "summary.json").read_text())["dataset"] == "mnist"


def test_a_run_without_its_pictures_changes_nothing(presets, tmp_path, monkeypatch):
    root = tmp_path / "results"
    _published(presets, root, _finished(tmp_path / "run"), "one", monkeypatch)
    before = (root / "one/4/summary.json").read_bytes()
    again = _finished(tmp_path / "again")
    for name in ("progress_1", "progress_passive_1", "task_accuracy"):
        (again / "figures" / f"{name}.png").touch()
    with pytest.raises(InputError, match="lacks recovered.png: expected the pictures"):
        publish_result._copy(again, root)
    assert (root / "one/4/summary.json").read_bytes() == before


@pytest.mark.parametrize("text", ["{", "[]", "{}", "\x00"])
def test_a_configuration_that_is_none_is_named(presets, tmp_path, monkeypatch, text):
    run = _finished(tmp_path / "run")
    (run / "config.json").write_text(text)
    with pytest.raises(InputError, match="config.json cannot be read: expected what a"):
        _published(presets, tmp_path / "results", run, "one", monkeypatch)


@pytest.mark.parametrize("preset", ["../configs/one", "", "one.flags"])
def test_a_preset_is_a_name(presets, tmp_path, monkeypatch, preset):
    run = _finished(tmp_path / "run")
    with pytest.raises(InputError, match="expected the name of a file in experiments/"):
        _published(presets, tmp_path / "results", run, preset, monkeypatch)


def test_where_an_image_folder_lies_is_not_published(presets, tmp_path, monkeypatch):
    (presets / "folder.flags").write_text(
        "# Own pictures.\n--targets=1\n--per_class=200\n" + TRAINING
    )
    run = _finished(tmp_path / "run", dataset="image_folder:/home/me/secret/horses")
    root = tmp_path / "results"
    _published(presets, root, run, "folder", monkeypatch)
    for name in ("summary.json", "config.json"):
        kept = json.loads((root / "folder/4" / name).read_text())
        assert kept["dataset"] == "image_folder:horses"


_ATTACKS, _DEFENCES = ["gradient_inversion"], ["none", "user_dp_1"]


@pytest.fixture
def matrix_run(presets, tmp_path):
    """A run of a preset `matrix` that was begun with less; its summary, to be changed.

    Its two defences are run for two seeds each; one of the four failed.
    """
    (presets / "inversion_digits.flags").write_text("--rounds=9\n")
    (presets / "matrix.flags").write_text(
        "# Some.\n--matrix=digits\n--seeds=0,1\n--attacks=gradient_inversion\n"
        "--defences=user_dp_1,none\n"
    )
    run = tmp_path / "run"
    (run / "figures").mkdir(parents=True)
    # There is no `seed`.
    config = {"experiment": "leak_matrix", "dataset": "digits", "matrix": "digits"}
    config |= {"seeds": [0], "quick": False, "attacks": _ATTACKS, "defences": ["none"]}
    config |= {"threads_per_job": 2, "ray_address": "host:1"}
    (run / "config.json").write_text(json.dumps(config))
    (run / "figures" / "frontier_client_gan.png").write_bytes(b"plot")
    plan = leak_matrix_program.build_plan(
        MATRICES["digits"],
        attacks=_ATTACKS,
        defences=_DEFENCES,
        seeds=[0, 1],
        threads=2,
        quick=False,
    )
    done = leak_matrix_program.jobs_of(plan, run, None)[:3]
    jobs.run(done, _Ended, at_once=3)
    runs = [{"seed": 0, "error": ""}, {"seed": 1, "error": "it broke"}]
    cell = {"attack": "gradient_inversion", "defence": "user_dp_1", "runs": runs}
    summary = {"dataset": "digits", "seeds": [0, 1], "cells": [cell]}
    return run, summary | {"attacks": _ATTACKS, "defences": _DEFENCES}


class _Ended:
    """A job that has left its result."""

    def __init__(self, job):
        for path in (job.result, job.record):
            path.parent.mkdir(parents=True, exist_ok=True)
        job.result.write_text("{}")

    def poll(self):
        return jobs.Outcome(True, seconds=1.0)


def test_a_leak_matrix_is_published_as_what_it_has_become(
    matrix_run, presets, tmp_path, monkeypatch
):
    run, summary = matrix_run
    (run / "summary.json").write_text(json.dumps(summary))
    root = tmp_path / "results"
    files = _published(presets, root, run, "matrix", monkeypatch)
    assert files == ["matrix/all_seeds/picture_frontier_client_gan.png"]
    kept = json.loads((root / "matrix/all_seeds/config.json").read_text())
    assert kept["seeds"] == [0, 1] and "ray_address" not in kept
    assert (kept["attacks"], kept["defences"]) == (_ATTACKS, _DEFENCES)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seeds": [0]}, "seeds=0, expected 0,1"),
        (
            {"attacks": ["gradient_inversion", "membership"]},
            "attacks=gradient_inversion,membership, expected gradient_inversion in",
        ),
        ({"defences": ["none"]}, "defences=none, expected none,user_dp_1 in"),
        # Without the failure a run that is not there is missing.
        ({"cells": []}, "has cells gradient_inversion/user_dp_1/1 that were not run"),
    ],
    ids=["seeds", "attacks", "defences", "a run that is missing"],
)
def test_a_leak_matrix_of_other_cells_is_refused(
    matrix_run, presets, tmp_path, monkeypatch, change, message
):
    run, summary = matrix_run
    (run / "summary.json").write_text(json.dumps(summary | change))
    with pytest.raises(InputError, match=message):
        _published(presets, tmp_path / "results", run, "matrix", monkeypatch)


def test_a_leak_matrix_whose_attacks_have_changed_since_is_refused(
    matrix_run, presets, tmp_path, monkeypatch
):
    run, summary = matrix_run
    (run / "summary.json").write_text(json.dumps(summary))
    (presets / "inversion_digits.flags").write_text("--rounds=8\n")
    message = "has cells gradient_inversion/none/0, .* not run by the commands"
    with pytest.raises(InputError, match=message):
        _published(presets, tmp_path / "results", run, "matrix", monkeypatch)


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Makes the pages of two presets' results; returns all Markdown files there."""
    orders = {"fixed": dict.fromkeys(("best_accuracy", "last_accuracy"), 0.5)}
    orders["fixed"]["best_round"] = 1
    summary = {"experiment": "dssgd", "seed": 0, "rounds": 1, "orders": orders}
    for preset in ("dssgd_mnist", "gone"):
        run = tmp_path / "docs" / "results" / preset / "0"
        run.mkdir(parents=True)
        (run / "summary.json").write_text(json.dumps(summary))
        (run / "config.json").write_text(json.dumps({"experiment": "dssgd"}))

    def call(preset=None, runs=()):
        flag = types.SimpleNamespace
        monkeypatch.setattr(publish_result, "_PRESET", flag(value=preset))
        monkeypatch.setattr(publish_result, "_RUN", flag(value=runs))
        monkeypatch.setattr(publish_result, "_DOCS", flag(value=tmp_path / "docs"))
        publish_result.main([])
        return {
            path.relative_to(tmp_path / "docs").as_posix(): path.read_bytes()
            for path in (tmp_path / "docs").rglob("*.md")
        }

    return call


def test_pages_without_runs_are_removed(publish, tmp_path):
    folder = tmp_path / "docs" / "results"
    kept = {"results.md", "results/dssgd_mnist/README.md"}
    assert set(publish()) == kept | {"results/gone/README.md"}
    (folder / "gone" / "0" / "summary.json").unlink()
    notes = (
        "# Notes\n\nOthers: Generated by `python -m experiments.publish_result`, \xe9\n"
    )
    (folder / "notes").mkdir()
    # Its name is in two parts as it is not the repository's, which a test may read.
    folder.joinpath("notes", "README" + ".md").write_text(notes, encoding="latin-1")
    found = publish()
    assert set(found) == kept | {"results/notes/README.md"}
    assert found["results/notes/README.md"] == notes.encode("latin-1")


@pytest.mark.parametrize("name", ["results.md", "results/one/README.md"])
def test_a_file_that_somebody_wrote_is_not_overwritten(
    publish, presets, tmp_path, name
):
    run = _finished(tmp_path / "run")
    own = tmp_path / "docs" / name
    own.parent.mkdir(exist_ok=True)
    own.write_text("# Mine\n\nBy hand.\n")
    before = {path for path in (tmp_path / "docs").rglob("*")}
    with pytest.raises(InputError, match=f"{name} was not made by this command"):
        publish("one", [str(run)])
    assert own.read_text() == "# Mine\n\nBy hand.\n"
    assert {path for path in (tmp_path / "docs").rglob("*")} == before


def test_the_command_has_what_a_preset_leaves_open(presets, tmp_path):
    (presets / "open.flags").write_text("# All.\n--per_class=200\n" + TRAINING)
    run = tmp_path / "open_target1_2" / "4"
    run.mkdir(parents=True)
    config = CONFIG | {"dataset": "image_folder:horses", "targets": [1, 2]}
    (run / "config.json").write_text(json.dumps(config))
    start = f".venv/bin/python -m experiments.run_{config['experiment']}"
    assert publish_result._command("open", run) == (
        f"{start} --flagfile=experiments/configs/open.flags --targets=1,2 "
        "--dataset=image_folder:PATH --output_dir=runs/open_target1_2"
    )
    assert publish_result._command("one", run) == (
        f"{start} --flagfile=experiments/configs/one.flags "
        "--output_dir=runs/open_target1_2"
    )


@pytest.mark.parametrize("names", [["client_gan"], ["membership", "client_gan"]])
def test_some_attacks_are_not_all_of_them(names):
    """The preset names none, which stands for all."""
    preset = preset_files.CONFIGS / "leak_matrix_digits.flags"
    matrix = MATRICES["digits"]
    config = {"experiment": "leak_matrix", "matrix": "digits", "quick": False}
    config |= {"seeds": [0, 1, 2], "defences": list(matrix.defences)}
    whole = config | {"attacks": list(matrix.attacks)}
    assert presets_lib.differences(preset, whole) == []
    assert presets_lib.differences(preset, config | {"attacks": []}) == []
    [found] = presets_lib.differences(preset, config | {"attacks": names})
    assert found.startswith("attacks=client_gan")
    # A quick matrix has fewer by itself.
    quick = preset.with_stem("leak_matrix_digits_quick")
    of_quick = config | {"quick": True, "seeds": [0, 1], "attacks": names}
    assert len(presets_lib.differences(quick, of_quick)) == 2
    usual = map(list, matrix.quick)
    of_quick |= dict(zip(("attacks", "defences"), usual, strict=True))
    assert presets_lib.differences(quick, of_quick) == []


@pytest.mark.parametrize(
    "arms, kept", [(["attack", "honest"], True), (["attack"], False)]
)
def test_a_servers_attack_beside_an_honest_arm_shows_its_accuracy(tmp_path, arms, kept):
    for name in ("attack_all", "attack_3", "task_accuracy"):
        (tmp_path / f"{name}.png").write_bytes(b"figure")
    config = {"experiment": "server_gan", "arms": arms}
    found = publish_result._pictures(tmp_path, config)
    assert found["picture.png"] == tmp_path / "attack_all.png"
    curve = tmp_path / "task_accuracy.png" if kept else None
    assert found.get("picture_task_accuracy.png") == curve
