"""The server's attack on digits: arms, figures, resuming, bad input, the binary."""

# bazel: size = large

import asyncio
import csv
import dataclasses
import functools
import html
import json
import pathlib
import time
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from dp_accounting import GaussianDpEvent

from computations.defended_fed_avg import Defences
from experiments import evaluation as evaluation_lib
from experiments import server_gan_program as program
from experiments import server_gan_report
from experiments.fed_avg_arm import FedAvgArm, shared_weights
from experiments.glasses_data import build_glasses_data
from experiments.run_clock import RunClock
from experiments.server_gan_data import build_data
from experiments.server_gan_state import attack_state
from tff_leak.attacks.deviations import Deviations
from tff_leak.data import sources
from tff_leak.defences.accounting import epsilon, repeated
from tff_leak.defences.record_level_dp import RecordLevelDp
from tff_leak.defences.secure_aggregation import SecureAggregation
from tff_leak.defences.user_level_dp import UserLevelDp
from tff_leak.errors import InputError
from tff_leak.metrics import properties
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.runtime import runtimes
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.reconstructions import read_reconstructions
from tff_leak.runtime.run_directory import RunDirectory
from tff_leak.threat import Behaviour, View

ROOT = pathlib.Path(__file__).parents[2]
ROUNDS = 3


def _settings(**changes):
    settings = {
        "rounds": ROUNDS,
        "seed": 0,
        "arms": list(program.Arm),
        "server": program.Server.PASSIVE,
        "training": BatchSgd(0.05),
        "batch_size": 15,
        "gan": program.GanSettings(0.001, batch_size=4, planes=2, base_filters=4),
        "deviations": Deviations(start_round=1, choose_snapshot=True),
        "attack": {"discriminator_steps": 1, "generator_steps": 2},
        "matching": {"images": 3, "iterations": 2},
        "snapshot_every": 2,
    }
    return program.Settings(**{**settings, **changes})


@functools.cache
def _data():
    return build_data(
        sources.load("digits"),
        clients=3,
        classes_per_client=3,
        per_class=10,
        victim=1,
        angle=40.0,
        auxiliary=100,
        seed=0,
    )


@functools.cache
def _faces():
    return build_glasses_data(
        sources.load("synthetic_faces"),
        clients=4,
        people=2,
        per_person=2,
        victim=1,
        auxiliary=1,
        seed=0,
    )


@functools.cache
def _experiment():
    return program.build_experiment(_settings(), _data())


@pytest.fixture(scope="module", autouse=True)
def runtime():
    """One for all tests: it keeps what it has compiled.

    Graphs are run as they are traced. They are large and run a few times on tiny
    pictures, so that a third of the time would go to making them faster.
    """
    optimizer = tf.config.optimizer
    optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield runtimes.use("in_process", asynchronous=True)
    tff.test.set_no_default_context()
    optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture
def unbuilt(monkeypatch):
    """For what is settled before a process is built: tracing takes seconds."""
    for name in ("build_passive_mgan", "build_active_mgan", "check_process"):
        built = mock.create_autospec(getattr(program, name))
        monkeypatch.setattr(program, name, built)


def _train(experiment, directory):
    progress = Progress(experiment.settings.rounds, "test", enabled=False)
    return asyncio.run(program.run(experiment, directory, progress))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's directory, from training to the report."""
    return _finish(tmp_path_factory.mktemp("finished") / "run", _experiment())


def _finish(path, experiment):
    with (
        RunDirectory.open(path, {"test": True}) as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        # How good the judge is does not matter here.
        quick = functools.partial(evaluation_lib.train_judge, epochs=1)
        patch.setattr(evaluation_lib, "train_judge", quick)
        clock = RunClock(directory, time.monotonic())
        states = _train(experiment, directory)
        evaluation = program.evaluate(experiment, states, directory, clock)
        finding = server_gan_report.write_report(experiment, evaluation, directory)
        assert finding in html.unescape(directory.report.read_text())
    return directory, states


def _rows(directory):
    with open(directory.metrics_csv, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_passive_attack_changes_nothing_that_clients_see(finished):
    directory, states = finished
    attack, honest = (
        states[arm].global_model_weights.trainable
        for arm in (program.Arm.ATTACK, program.Arm.HONEST)
    )
    for one, other in zip(attack, honest, strict=True):
        np.testing.assert_array_equal(one, other)
    for row in _rows(directory):
        assert row["attack/task_accuracy"] == row["honest/task_accuracy"]
        assert row["attack/train_loss"] == row["honest/train_loss"]
    # The control has other data, and so another model.
    control = states[program.Arm.CONTROL].global_model_weights.trainable
    assert not np.array_equal(control[0], attack[0])


def test_the_attack_runs_from_its_start_on(finished):
    directory, states = finished
    for arm in ("attack", "control"):
        noted = [row[f"{arm}/generator_loss"] != "" for row in _rows(directory)]
        assert noted == [False, True, True]
    assert "honest/generator_loss" not in _rows(directory)[0]
    assert int(attack_state(states[program.Arm.ATTACK]).memory.filled) == 1


def test_figures_of_a_run(finished):
    directory, _ = finished
    summary = json.loads(directory.summary.read_text())
    held = _data().held
    assert summary["mode"] == "strengthened"
    assert summary["pooled"]["targets"] == held
    sets = summary["pooled"]["sets"]
    for name in (properties.VICTIM, properties.OTHER, properties.CONTROL):
        assert sets[name]["samples"] == 300
    reference = sets[properties.REFERENCE]
    # Real turned pictures: any figure that says otherwise is wrong.
    assert reference["nearer_share"] > 0.9
    assert reference["margin"] > 0.1
    # Fig. 7: every arm's curve, whose last value is the model's that was scored.
    curves = summary["task_accuracy_by_round"]
    assert list(curves) == ["attack", "control", "honest"]
    for arm, curve in curves.items():
        assert len(curve) == ROUNDS
        assert curve[-1] == pytest.approx(summary["task_accuracy"][arm])
    assert (summary["angle"], summary["words"]) == (40.0, ["turned", "upright"])
    # Templates are right about real pictures that they are not made of.
    for one, label in zip(summary["template_check"], held, strict=True):
        assert one["target"] == label
        assert one["with"] >= 0.8 and one["without"] <= 0.2
    # Digits are no people.
    assert "identity" not in summary and "quality" not in summary
    kept = read_reconstructions(directory.reconstructions)
    assert kept.labels.tolist() == np.repeat(held, 100).tolist()
    assert set(kept.clients) == {1}
    looks = program.load_looks(directory)
    assert list(looks) == [2, 3]
    asked = {(arm, c, i) for arm in ("attack", "control") for c in held for i in (0, 1)}
    assert set(looks[3]) == asked
    names = {path.name for path in directory.figures.iterdir()}
    assert {f"attack_{label}.png" for label in held} | {"attack_all.png"} <= names
    assert {"task_accuracy.png", "leaning.png", "score.png"} <= names


def test_a_run_that_was_interrupted_ends_with_the_same_bits(
    finished, tmp_path, monkeypatch
):
    done, _ = finished
    run_round = FedAvgArm.run_round

    async def interrupted(self, state, round_num):
        if round_num == 3:
            raise KeyboardInterrupt
        return await run_round(self, state, round_num)

    with RunDirectory.open(tmp_path / "run", {"test": True}) as directory:
        with monkeypatch.context() as patch:
            patch.setattr(FedAvgArm, "run_round", interrupted)
            with pytest.raises(KeyboardInterrupt):
                _train(_experiment(), directory)
        assert len(_rows(directory)) == 2
        _train(_experiment(), directory)
    last = f"round_{ROUNDS}.npz"
    for one, other in (
        (directory.metrics_csv, done.metrics_csv),
        (directory.program_state / last, done.program_state / last),
    ):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_clients_that_protect_themselves(tmp_path):
    """By record: the server is as invisible, sees noise, and the price is told."""
    private = RecordLevelDp(clip=1.0, noise_multiplier=1.0)
    settings = _settings(
        arms=[program.Arm.ATTACK, program.Arm.HONEST],
        defences=Defences(record_dp=private),
        # Two rounds of three.
        privacy_budget=1.01 * _epsilon(private, 2),
        deviations=Deviations(),
    )
    experiment = program.build_experiment(settings, _data())
    directory, states = _finish(tmp_path / "run", experiment)
    attack, honest = (
        states[arm].global_model_weights.trainable
        for arm in (program.Arm.ATTACK, program.Arm.HONEST)
    )
    for one, other in zip(attack, honest, strict=True):
        np.testing.assert_array_equal(one, other)
    rows = _rows(directory)
    assert [float(row["attack/epsilon_total"]) for row in rows] == pytest.approx(
        [_epsilon(private, 1), _epsilon(private, 2)]
    )
    summary = json.loads(directory.summary.read_text())
    assert (summary["rounds"], summary["rounds_planned"]) == (2, ROUNDS)
    assert (summary["defences"], summary["view"]) == (["record_dp"], "noised_rows")
    assert summary["epsilon"] == pytest.approx(_epsilon(private, 2))
    assert read_reconstructions(directory.reconstructions).round == 2
    assert "rounds without the privacy budget" in directory.report.read_text()


def _epsilon(private, rounds):
    """Of 30 pictures in 2 batches a round: 2 releases, one of which has a record."""
    event = GaussianDpEvent(private.noise_multiplier)
    return epsilon(repeated(event, rounds), private.delta, private.neighbours)


@pytest.mark.parametrize(
    "given",
    [
        Defences(user_dp=UserLevelDp(1.0, 1.0, clients_per_round=40)),
        Defences(secure_aggregation=SecureAggregation(1.0)),
    ],
)
def test_what_a_server_does_to_a_sum_is_no_defence(given):
    with pytest.raises(InputError, match="is given with a server's GAN"):
        program.build_experiment(_settings(defences=given), _data())


def test_faces_with_glasses(tmp_path):
    """Active, as that is soonest built; the other figures are the same code's."""
    settings = _settings(
        rounds=2,
        arms=[program.Arm.ATTACK, program.Arm.CONTROL],
        server=program.Server.ACTIVE,
        deviations=Deviations(),
    )
    experiment = program.build_experiment(settings, _faces())
    directory, states = _finish(tmp_path / "run", experiment)
    summary = json.loads(directory.summary.read_text())
    # The paper's active server finds no representatives, and nobody else's pictures.
    assert int(attack_state(states[program.Arm.ATTACK]).memory.filled) == 0
    assert properties.VICTIM in summary["pooled"]["sets"]
    assert properties.OTHER not in summary["pooled"]["sets"]
    assert summary["angle"] is None
    assert summary["words"] == ["with glasses", "without glasses"]
    assert summary["synthetic"] is True
    people = summary["identity"]
    assert people["people"] == 40
    assert [one["target"] for one in people["targets"]] == _faces().held
    # Of real pictures a person is nearly always the nearest.
    assert people["pooled"]["sets"][properties.REFERENCE] >= 0.75
    for one in people["targets"]:
        assert set(one["sets"]) == set(summary["pooled"]["sets"])
    assert set(summary["quality"]) == {"attack", "control"}
    for scored in summary["quality"].values():
        assert (scored["samples"], scored["real_samples"]) == (400, 400)
        assert 1 <= scored["inception_score"] <= 41
        assert scored["fid"] > 0
    text = html.unescape(directory.report.read_text())
    assert "correlation, with glasses" in text
    assert "turned" not in text.split("Configuration")[0]
    assert np.isfinite(read_reconstructions(directory.reconstructions).images).all()


@pytest.mark.parametrize(
    "server, in_average",
    [(program.Server.ACTIVE, True), (program.Server.ACTIVE_APART, False)],
)
@pytest.mark.usefixtures("unbuilt")
def test_an_active_server_aims_at_the_victim(server, in_average):
    build, check = program.build_active_mgan, program.check_process
    settings = _settings(
        server=server, arms=[program.Arm.ATTACK], deviations=Deviations()
    )
    experiment = program.build_experiment(settings, _data())
    assert experiment.arms[program.Arm.ATTACK].process is build.return_value
    assert experiment.attack.gan.deviations.mode.value == "paper"
    given = build.call_args.kwargs
    assert given["victim_in_average"] == in_average
    assert given["victim"] == 1
    assert given["auxiliary"].images is _data().auxiliary.images
    assert given["find_representatives"] is None
    (threat, checked), _ = check.call_args
    assert checked is build.return_value
    assert (threat.behaviour, threat.view) == (Behaviour.ACTIVE, View.ROWS)
    # Whether any are found does not depend on who is in the average.
    strengthened = dataclasses.replace(settings, deviations=Deviations(class_means=1.0))
    program.build_experiment(strengthened, _data())
    assert callable(build.call_args.kwargs["find_representatives"])


@pytest.mark.usefixtures("unbuilt")
def test_representatives_follow_the_clients_training():
    training = BatchSgd(0.05, momentum=0.5, epochs=3)
    settings = _settings(training=training, batch_size=4, arms=[program.Arm.ATTACK])
    experiment = program.build_experiment(settings, _data())
    # 30 pictures in batches of 4 are 8 steps; v is 2 gradients at a momentum of .5.
    assert experiment.matching.local_steps == 24
    assert experiment.matching.scale == pytest.approx(0.05 * 2 * 24 / 4)
    assert experiment.attack.representatives == 3
    assert experiment.attack.other_representatives == 6
    # What follows the training is not written down a second time.
    written = program.matching_config(settings.matching)
    assert written["images"] == 3
    assert not set(written) & set(program.FIXED_MATCHING_FIELDS)


@pytest.mark.parametrize(
    "wanted, kept, built",
    [(None, 6, False), (1, 3, True), (2, 6, False), (7, 6, False)],
)
def test_as_many_representatives_are_kept_as_a_round_finds(
    wanted, kept, built, request
):
    if not built:
        request.getfixturevalue("unbuilt")
    settings = _settings(
        arms=[program.Arm.ATTACK],
        attack={**_settings().attack, "other_clients": wanted},
    )
    experiment = program.build_experiment(settings, _data())
    assert experiment.attack.other_representatives == kept


def test_g_may_be_told_what_its_pictures_teach(tmp_path, monkeypatch):
    """`explained` reaches G, and nothing that clients see."""
    measure = mock.Mock(wraps=program.representatives.unexplained)
    monkeypatch.setattr(program.representatives, "unexplained", measure)
    settings = _settings(
        rounds=1,
        arms=[program.Arm.ATTACK, program.Arm.HONEST],
        deviations=Deviations(explained=5.0),
        matching={"images": 3, "iterations": 1, "unrolled_steps": 2},
    )
    experiment = program.build_experiment(settings, _data())
    # In what trains G, as its building traces it.
    measure.assert_called()
    with RunDirectory.open(tmp_path / "run", {"test": True}) as directory:
        states = _train(experiment, directory)
    pairs = zip(*(shared_weights(s).trainable for s in states.values()), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_an_active_server_finds_representatives_if_strengthened(tmp_path):
    settings = _settings(
        rounds=1,
        arms=[program.Arm.ATTACK],
        server=program.Server.ACTIVE,
        deviations=Deviations(class_means=1.0),
        matching={"images": 3, "iterations": 1},
    )
    data = _data()
    experiment = program.build_experiment(settings, data)
    with RunDirectory.open(tmp_path / "run", {"test": True}) as directory:
        state = attack_state(_train(experiment, directory)[program.Arm.ATTACK])
    assert int(state.memory.filled) == 1
    drawn = {
        program.Arm.ATTACK: {
            (label, identity): np.zeros([2, *data.source.image_shape], np.float32)
            for label in data.held
            for identity in (0, 1)
        }
    }
    sets = program._inputs(settings, data, data.held[0], drawn, state).sets
    assert properties.OTHER in sets


def test_settings_that_came_later_are_written_down_if_given():
    """A run from before there were these goes on with a configuration without them."""
    given = {"unrolled_steps": 20, "unrolled_batches": 2, "background": 0.1}
    assert not set(given) & set(program.matching_config({}))
    assert given.items() <= program.matching_config(given).items()
    assert "other_clients" not in program.attack_config({})
    assert "other_clients" not in program.attack_config({"other_clients": None})
    assert program.attack_config({"other_clients": 2})["other_clients"] == 2


class TestVerdict:
    def _summary(
        self,
        succeeded=1.0,
        control=0.0,
        judge=1.0,
        ratio=0.6,
        recovered=0.5,
        other=0.1,
        attacked=3,
    ):
        victim = {"nearer_share": 0.9, "judge_share": judge, "diversity_ratio": ratio}
        sets = {
            properties.VICTIM: victim,
            properties.CONTROL: {"nearer_share": control},
        }
        if other is not None:
            sets[properties.OTHER] = {"nearer_share": other}
        pooled = {"targets": [1, 4], "succeeded": succeeded, "sets": sets}
        pooled["recovered"] = recovered
        words = ["with glasses", "without glasses"]
        return {"pooled": pooled, "words": words, "rounds_attacked": attacked}

    @pytest.mark.parametrize(
        "changes, kind",
        [
            ({}, "leak"),
            ({"judge": 0.7}, "partial"),
            ({"ratio": 0.3}, "partial"),
            ({"ratio": None}, "partial"),
            ({"succeeded": 0.5}, "partial"),
            ({"succeeded": 0.0}, "none"),
            ({"recovered": None}, "leak"),
            ({"recovered": -0.1}, "none"),
            ({"other": None}, "leak"),
            ({"control": 0.7}, "undefined"),
            ({"attacked": 0}, "undefined"),
        ],
    )
    def test_kinds(self, changes, kind):
        text, found = server_gan_report.verdict(self._summary(**changes))
        assert found == kind
        assert "1, 4" in text
        assert "nearer to real pictures with glasses" in text
        assert "the victim's pictures are without glasses" in text


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"arms": [program.Arm.CONTROL]}, "--arms is 'control': expected attack"),
        ({"attack": {"generator_steps": 0}}, "generator_steps is 0: expected at least"),
        ({"deviations": Deviations(max_shift=28)}, "max_shift is 28: expected fewer"),
        (
            {"deviations": Deviations(explained=1.0)},
            "explained is 1.0 without unrolled_steps: expected the victim's training",
        ),
        (
            {
                "deviations": Deviations(explained=1.0),
                "server": program.Server.ACTIVE,
                "matching": {"images": 3, "unrolled_steps": 2},
            },
            "explained is 1.0 with --server=active: expected a passive server",
        ),
        (
            {
                "deviations": Deviations(),
                "matching": {"images": 3, "unrolled_steps": 2},
            },
            "unrolled_steps is 2 with --mode=paper: expected it with --mode=strength",
        ),
        (
            {"deviations": Deviations(), "attack": {"other_clients": 1}},
            "other_clients is 1 with --mode=paper: expected it with --mode=strength",
        ),
        (
            {
                "deviations": Deviations(explained=1.0),
                "server": program.Server.ACTIVE_APART,
                "matching": {"images": 3, "unrolled_steps": 2},
            },
            "explained is 1.0 with --server=active_apart: expected a passive server",
        ),
        ({"attack": {"other_clients": -1}}, "other_clients is -1: expected at least 1"),
        ({"matching": {"images": 0}}, "images is 0: expected at least 1"),
        (
            {"deviations": Deviations(start_round=ROUNDS)},
            "the attack starts after 3 rounds .* expected fewer than --rounds=3",
        ),
        (
            {"privacy_budget": 1.0},
            "is 1.0 without differential privacy: expected --record_dp or --local_dp b",
        ),
    ],
)
@pytest.mark.usefixtures("unbuilt")
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        program.build_experiment(_settings(**changes), _data())


def test_pictures_of_another_size_are_refused():
    data = dataclasses.replace(_data(), source=sources.load("digits"))
    with pytest.raises(InputError, match=r"pictures are \(32, 32, 1\): expected grey"):
        program.build_experiment(_settings(), data)


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--deviations=noise=0.1", "--deviations is 'noise=0.1' with --mode=paper"),
        ("--property=glasses", "--property is glasses with --dataset=digits"),
        ("--property=glasses --angle=30", "--angle is 30 beside --property=glasses"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(tmp_path, flag, message, forked):
    output = tmp_path / "run"
    result = forked(
        "experiments.run_server_gan",
        "--dataset=digits",
        *flag.split(),
        f"--output_dir={output}",
    )
    assert result.returncode == 2
    [line] = result.stderr.strip().splitlines()
    assert line.startswith(f"error: {message}")
    assert result.stdout == ""
    assert not output.exists()
