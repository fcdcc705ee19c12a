"""Model inversion on digits: it draws the classes, controls do not, runs go on."""

# bazel: size = large

import asyncio
import csv
import functools
import html
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_federated as tff

from experiments import evaluation as evaluation_lib
from experiments import model_inversion_program as program
from experiments import model_inversion_report
from experiments.run_clock import RunClock
from tff_leak.attacks.model_inversion import ModelInversion
from tff_leak.data import partition, sources
from tff_leak.errors import InputError
from tff_leak.models.training import LocalSgd
from tff_leak.runtime import runtimes
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.reconstructions import read_reconstructions
from tff_leak.runtime.run_directory import RunDirectory

ROOT = pathlib.Path(__file__).parents[2]
STOP = 0.85
EPOCHS = 12


def _settings(**changes):
    settings = {
        "epochs": EPOCHS,
        "stop_accuracy": STOP,
        "seed": 0,
        "arms": program.ARMS,
        "network": program.NetworkKind.MLP,
        "training": LocalSgd(0.02, batch_size=32),
        "inversion": ModelInversion(iterations=200, step=4.0, start_noise=0.05),
        "targets": range(10),
        "descents": 2,
    }
    return program.Settings(**{**settings, **changes})


@functools.cache
def _data():
    source = sources.load("digits")
    pools = partition.split_pools(source, seed=0)
    return program.Data(source, pools.participants, pools.judge, pools.reference)


@functools.cache
def _experiment():
    return program.build_experiment(_settings(), _data())


@pytest.fixture(scope="module", autouse=True)
def runtime():
    """One for all tests: it keeps what it has compiled."""
    yield runtimes.use("in_process", asynchronous=True)
    tff.test.set_no_default_context()
    # What TensorFlow has compiled complains if it outlives TensorFlow.
    _experiment.cache_clear()


def _train(experiment, directory):
    progress = Progress(experiment.settings.epochs, "test", enabled=False)
    return asyncio.run(program.run(experiment, directory, progress))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's directory, from training to the report."""
    experiment = _experiment()
    path = tmp_path_factory.mktemp("finished") / "run"
    with (
        RunDirectory.open(path, {"test": True}) as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        # How good the judge is does not matter here.
        quick = functools.partial(evaluation_lib.train_judge, epochs=1)
        patch.setattr(evaluation_lib, "train_judge", quick)
        clock = RunClock(directory, time.monotonic())
        states = _train(experiment, directory)
        evaluation = program.evaluate(experiment, *states, directory, clock)
        finding = model_inversion_report.write_report(experiment, evaluation, directory)
        assert finding in html.unescape(directory.report.read_text())
    return directory


def _rows(directory):
    with open(directory.metrics_csv, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_trained_network_gives_its_classes_away_and_the_controls_do_not(finished):
    summary = json.loads(finished.summary.read_text())
    pooled = summary["pooled"]
    assert pooled["targets"] == list(range(10))
    others = (pooled["control"], pooled["extra_controls"]["untrained"])
    for other in others:
        assert other["samples"] == pooled["attack"]["samples"] == 20
        assert pooled["attack"]["ssim"] > other["ssim"] + 0.1
    # Of the network's own word nothing of this can be seen.
    assert summary["descents"]["attack"]["confidence"] > 0.9
    by_target = summary["descents"]["attack"]["targets"]
    assert [one["target"] for one in by_target] == list(range(10))
    mean = np.mean([one["steps"] for one in by_target])
    np.testing.assert_allclose(summary["descents"]["attack"]["steps"], mean)


def test_pictures_are_nearest_to_the_mean_of_their_class(finished):
    """By chance a share of .1 is: 12 of 20 or more has probability 5e-8."""
    kept = read_reconstructions(finished.reconstructions)
    assert kept.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert set(kept.clients) == {0}
    train = _data().train
    means = np.stack([train.of_class(label).images.mean(0) for label in range(10)])
    gaps = kept.images[:, np.newaxis] - means
    nearest = np.square(gaps).mean(axis=(2, 3, 4)).argmin(axis=1)
    assert (nearest == kept.labels).sum() >= 12
    # Two descents to a class start from different noise.
    assert np.abs(kept.images[::2] - kept.images[1::2]).max(axis=(1, 2, 3)).min() > 0


def test_training_stops_for_all_when_the_attacked_network_is_good_enough(finished):
    rows = _rows(finished)
    assert len(rows) == EPOCHS
    summary = json.loads(finished.summary.read_text())
    epochs = summary["epochs"]
    assert 1 < epochs < EPOCHS
    trained = [float(row["networks/trained"]) for row in rows]
    assert trained == [1.0] * epochs + [0.0] * (EPOCHS - epochs)
    accuracy = [float(row["networks/attack/task_accuracy"]) for row in rows]
    assert max(accuracy[: epochs - 1]) < STOP <= accuracy[epochs - 1]
    for name in ("attack", "control_low", "control_high"):
        column = [float(row[f"networks/{name}/task_accuracy"]) for row in rows]
        assert set(column[epochs - 1 :]) == {summary["task_accuracy"][name]}
        losses = [row[f"networks/{name}/train_loss"] for row in rows]
        assert [loss != "" for loss in losses] == [one == 1.0 for one in trained]
    assert read_reconstructions(finished.reconstructions).round == epochs


def test_pictures_are_written(finished):
    sets = ("attack", "control", "untrained")
    expected = {f"{name}_all.png" for name in sets} | {"task_accuracy.png"}
    expected |= {f"attack_{target}.png" for target in range(10)}
    assert {path.name for path in finished.figures.iterdir()} == expected


def test_a_run_that_was_interrupted_ends_with_the_same_bits(
    finished, tmp_path, monkeypatch
):
    run_round = program.TrainingArm.run_round

    async def interrupted(self, state, round_num):
        if round_num == 3:
            raise KeyboardInterrupt
        return await run_round(self, state, round_num)

    experiment = _experiment()
    with RunDirectory.open(tmp_path / "run", {"test": True}) as directory:
        with monkeypatch.context() as patch:
            patch.setattr(program.TrainingArm, "run_round", interrupted)
            with pytest.raises(KeyboardInterrupt):
                _train(experiment, directory)
        assert len(_rows(directory)) == 2
        states = _train(experiment, directory)
    last = f"round_{EPOCHS}.npz"
    for one, other in (
        (directory.metrics_csv, finished.metrics_csv),
        (directory.program_state / last, finished.program_state / last),
    ):
        assert one.read_bytes() == other.read_bytes(), one.name
    found = program.invert_all(experiment, *states)["attack"]
    images = np.concatenate([found[target].images for target in range(10)])
    kept = read_reconstructions(finished.reconstructions)
    np.testing.assert_array_equal(images, kept.images)


def test_controls_never_see_what_they_are_inverted_for():
    held = {}
    for name, arm in _experiment().arm.networks.items():
        [dataset] = arm.datasets
        labels = [batch.numpy() for _, batch in dataset]
        held[name] = set(np.concatenate(labels).tolist())
    assert held == {
        "attack": set(range(10)),
        "control_low": set(range(5, 10)),
        "control_high": set(range(5)),
    }


@pytest.mark.parametrize(
    "changes, names",
    [
        ({"arms": ["attack"]}, ["attack"]),
        ({"targets": [2, 4]}, ["attack", "control_low"]),
        ({"targets": [5]}, ["attack", "control_high"]),
    ],
)
def test_only_controls_that_are_needed_are_trained(changes, names):
    experiment = program.build_experiment(_settings(**changes), _data())
    assert list(experiment.arm.networks) == names


def test_the_shared_model_of_wang_et_al_is_for_faces():
    faces = sources.load("synthetic_faces")
    wang = {"network": program.NetworkKind.WANG, "arms": ["attack"], "targets": [3]}
    network = program._network(program.NetworkKind.WANG, faces)
    assert network.input_shape == (64, 64, 1)
    assert network.output_shape == (40,)
    # Table II: "FC 16,384" to the people.
    assert network.trainable_shapes[-2] == (16384, 40)
    with pytest.raises(InputError, match=r"--network is wang with pictures of \(32"):
        program.build_experiment(_settings(**wang), _data())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"targets": [3, 10]}, "targets is 3,10: expected classes from 0 to 9"),
        ({"targets": [3, 3]}, "targets is 3,3: expected .* each once"),
        ({"targets": []}, "targets is empty"),
        ({"arms": ["control"]}, "arms is 'control': expected attack among them"),
        (
            {"inversion": ModelInversion(), "descents": 2},
            "descents is 2 but start_noise is 0",
        ),
    ],
)
def test_settings_that_contradict_each_other(changes, message):
    with pytest.raises(InputError, match=message):
        program.build_experiment(_settings(**changes), _data())


BAD = {
    "epochs in training": (["--training=epochs=3"], "epochs=3"),
    "class that does not exist": (["--targets=12"], "12"),
}


@pytest.mark.parametrize("flags, named", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_changes_nothing(flags, named, tmp_path, forked):
    output = tmp_path / "run"
    result = forked("experiments.run_model_inversion", f"--output_dir={output}", *flags)
    assert result.returncode == 2, result.stderr
    [line] = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert named in line
    assert result.stdout == ""
    assert not output.exists()


def test_the_binary_writes_a_report(tmp_path, judges):
    output = tmp_path / "run"
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "experiments.run_model_inversion",
            "--network=cnn",
            "--per_class=5",
            "--epochs=1",
            "--inversion=iterations=3",
            "--targets=1,7",
            "--threads=2",
            judges,
            f"--output_dir={output}",
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    finding, report = result.stdout.strip().splitlines()
    assert "digits 1 and 7" in finding
    assert report == f"Report: {output / 'report.html'}"
    summary = json.loads((output / "summary.json").read_text())
    assert summary["experiment"] == "model_inversion"
    assert summary["network"] == "cnn"
    assert summary["visible_window"] == [28, 28]
    config = json.loads((output / "config.json").read_text())
    assert config["inversion"]["iterations"] == 3
    assert config["stop_accuracy"] is None
    assert config["targets"] == [1, 7]
