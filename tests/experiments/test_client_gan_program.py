"""The experiment on digits: the attack runs and succeeds, the control does not."""

# bazel: size = large

import asyncio
import csv
import dataclasses
import functools
import html
import json
import time
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from computations.cohort_uploads import CohortUploads, Joining
from computations.dssgd import TurnOrder
from experiments import client_gan_program as program
from experiments import client_gan_report
from experiments import evaluation as evaluation_lib
from experiments.federation import build_federation
from experiments.run_clock import RunClock
from tff_leak.attacks import client_gan
from tff_leak.data import partition, sources
from tff_leak.defences.accounting import epsilon, repeated
from tff_leak.defences.local_dp import LocalDp, upload_event
from tff_leak.defences.record_level_dp import RecordLevelDp, Sampling
from tff_leak.defences.secure_aggregation import SecureAggregation, check_secure
from tff_leak.defences.selective_sharing import SelectiveSharing
from tff_leak.defences.sparse_vector import SparseVector, total_epsilon
from tff_leak.defences.user_level_dp import Mechanism, UserLevelDp
from tff_leak.defences.user_level_dp import event as user_event
from tff_leak.errors import InputError
from tff_leak.models.training import LocalSgd, LocalTraining
from tff_leak.runtime import runtimes
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.reconstructions import read_reconstructions
from tff_leak.runtime.run_directory import RunDirectory


def _data(per_class=None, targets=(3,), participants="0-4;5-9", adversaries=(1,)):
    source = sources.load("digits")
    pools = partition.split_pools(source, per_class=per_class, seed=0)
    return program.Data(
        source=source,
        federation=build_federation(
            source,
            pools.participants,
            participants=participants,
            adversaries=adversaries,
            targets=targets,
            seed=0,
        ),
        judge=pools.judge,
        reference=pools.reference,
        test=pools.reference,
    )


def _settings(**changes):
    settings = {
        "rounds": 2,
        "seed": 0,
        "arms": [program.Arm.ATTACK],
        "sharing": SelectiveSharing(),
        "training": LocalSgd(0.02),
        "order": TurnOrder.FIXED,
        "max_staleness": 0,
        "attack": {"generator_steps": 3, "fakes_per_turn": 10},
        "generator": program.GeneratorSettings(base_filters=4),
        "snapshot_every": 1,
    }
    return program.Settings(**{**settings, **changes})


@pytest.fixture(scope="module", autouse=True)
def runtime():
    """One for all tests: it keeps what it has compiled, and starts no worker."""
    yield runtimes.use("in_process", asynchronous=True)
    tff.test.set_no_default_context()


def _run(experiment, path):
    """Runs to the last round; returns the open directory and the final states."""
    directory = RunDirectory.open(path, {"test": str(path)})
    progress = Progress(experiment.settings.rounds, "test", enabled=False)
    states = asyncio.run(program.run(experiment, directory, progress))
    return directory, states


def _metrics(directory):
    with open(directory.metrics_csv, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _attack_ran(rows, experiment, states):
    """Whether generators were trained and fakes injected in every round."""
    attack = experiment.attacks[program.Arm.ATTACK]
    [number] = experiment.data.federation.adversaries
    private = states[program.Arm.ATTACK].clients[number].private
    untrained = client_gan.initial_state(attack, target=0, seed=np.zeros(2, np.int32))
    steps = [float(row["attack/generator_steps"]) for row in rows]
    injected = [float(row["attack/injected"]) for row in rows]
    start = experiment.arms[program.Arm.ATTACK].private[number].generator.trainable
    moved = [
        np.abs(after[0] - np.asarray(before)).max() > 0
        for after, before in zip(private.generator.trainable, start, strict=True)
    ]
    assert len(moved) == len(untrained.generator.trainable)
    return min(steps) > 0 and min(injected) >= attack.fakes_per_turn and any(moved)


def _after_its_turn_the_adversary_hides_what_the_model_knows(summary):
    """Real 3s are called fakes then, and are not after the victim's turn."""
    by_turn = summary["task_accuracy_by_turn"]
    assert list(by_turn) == ["attack", "control"]
    for arm, (after_victim, after_adversary) in by_turn.items():
        assert len(after_victim) == len(after_adversary) == summary["rounds"]
        assert after_adversary[-1] == pytest.approx(summary["task_accuracy"][arm])
    assert by_turn["attack"][0][-1] > summary["task_accuracy"]["attack"] + 0.05


def test_attack_succeeds_and_the_control_does_not(tmp_path):
    settings = _settings(
        rounds=50,
        arms=[program.Arm.ATTACK, program.Arm.CONTROL],
        training=LocalSgd(0.02, batch_size=32),
        attack={"generator_steps": 15, "fakes_per_turn": 120, "stop_share": 0.75},
        generator=program.GeneratorSettings(base_filters=16),
        snapshot_every=25,
    )
    experiment = program.build_experiment(settings, _data())
    directory, states = _run(experiment, tmp_path / "run")
    assert _attack_ran(_metrics(directory), experiment, states)
    clock = RunClock(directory, time.monotonic())
    evaluation = program.evaluate(experiment, states, directory, clock)
    summary = json.loads(directory.summary.read_text())
    assert summary["epsilon"] is None
    pooled = summary["pooled"]
    # The judge is right on .98 of real digits; chance is .1.
    assert summary["judge_accuracy"] > 0.95
    assert pooled["attack"]["judge_share"] >= 0.8
    assert pooled["control"]["judge_share"] <= 0.1
    assert pooled["attack"]["ssim"] > pooled["control"]["ssim"] + 0.1
    # After less than half of the demo's rounds: beyond the floor, not collapsed.
    assert pooled["recovered"] > 0.2
    assert summary["targets"][0]["reached"]["value"]
    assert summary["task_accuracy"]["attack"] > 0.6
    _after_its_turn_the_adversary_hides_what_the_model_knows(summary)
    assert list(evaluation.curves) == [program.Arm.ATTACK, program.Arm.CONTROL]
    # Of two snapshots the later one is in the last half.
    assert summary["late_rounds"] == [50]
    for arm, curve in evaluation.curves.items():
        assert curve["round"] == [25, 50]
        assert pooled["late_ssim"][arm.value] == curve["ssim"][1]
    floor, reference = pooled["floor"]["value"], pooled["reference"]["ssim"]
    late = pooled["late_recovered"]
    expected = (pooled["late_ssim"]["attack"] - floor) / (reference - floor)
    assert late["attack"] == pytest.approx(expected)
    assert late["control"] < 0.1 < late["attack"]
    assert summary["targets"][0]["late_recovered"] == late
    kept = read_reconstructions(directory.reconstructions)
    assert kept.images.shape == (program.FINAL_SAMPLES, 32, 32, 1)
    assert set(kept.labels) == {3}
    assert set(kept.clients) == {0}
    finding = client_gan_report.write_report(experiment, evaluation, directory)
    assert "digit 3" in finding
    page = html.unescape(directory.report.read_text())
    assert finding in page
    assert "recovered, mean of the last half of the rounds, control" in page
    assert (directory.figures / "attack_3.png").exists()
    assert (directory.figures / "control_3.png").exists()
    directory.close()


def test_epsilon_of_a_private_run_is_in_metrics_and_summary(tmp_path, monkeypatch):
    # How good the judge is does not matter here.
    quick = functools.partial(evaluation_lib.train_judge, epochs=1)
    monkeypatch.setattr(evaluation_lib, "train_judge", quick)
    privacy = SparseVector(10.0, upload_fraction=0.1)
    settings = _settings(rounds=2, privacy=privacy)
    experiment = program.build_experiment(settings, _data(per_class=5))
    directory, states = _run(experiment, tmp_path / "run")
    spent = total_epsilon(privacy, experiment.network.num_parameters, turns=2)
    rows = _metrics(directory)
    totals = [float(row["attack/epsilon_total"]) for row in rows]
    assert totals == [spent / 2, spent]
    # A tenth at most, rounded up.
    assert all(0 < float(row["attack/uploaded"]) <= 0.1001 for row in rows)
    assert _attack_ran(rows, experiment, states)
    clock = RunClock(directory, time.monotonic())
    evaluation = program.evaluate(experiment, states, directory, clock)
    summary = json.loads(directory.summary.read_text())
    assert (summary["epsilon_turn"], summary["epsilon"]) == (spent / 2, spent)
    client_gan_report.write_report(experiment, evaluation, directory)
    assert "epsilon, most exposed participant" in directory.report.read_text()
    directory.close()


def test_a_budget_ends_a_private_run_with_a_last_look_and_a_report(
    tmp_path, monkeypatch
):
    quick = functools.partial(evaluation_lib.train_judge, epochs=1)
    monkeypatch.setattr(evaluation_lib, "train_judge", quick)
    # A batch of 12 is a larger share of the control's records, which lack the target.
    settings = _settings(
        rounds=4,
        arms=[program.Arm.ATTACK, program.Arm.CONTROL],
        record_dp=RecordLevelDp(1.0, 2.0, Sampling.POISSON),
        training=LocalSgd(0.02, batch_size=12),
        privacy_budget=1e3,
        snapshot_every=10,
    )
    experiment = program.build_experiment(settings, _data(per_class=5))
    spending = experiment.arms[program.Arm.ATTACK].spending
    settings = dataclasses.replace(settings, privacy_budget=spending([2, 2]))
    experiment = program.build_experiment(settings, _data(per_class=5))
    directory, states = _run(experiment, tmp_path / "run")
    rows = _metrics(directory)
    totals = [float(row["attack/epsilon_total"]) for row in rows]
    np.testing.assert_allclose(totals, [spending([1, 1]), spending([2, 2])])
    assert abs(float(rows[-1]["control/epsilon_total"]) / totals[-1] - 1) > 0.01
    assert _attack_ran(rows, experiment, states)
    clock = RunClock(directory, time.monotonic())
    evaluation = program.evaluate(experiment, states, directory, clock)
    assert evaluation.curves[program.Arm.ATTACK]["round"] == [2]
    summary = json.loads(directory.summary.read_text())
    assert (summary["rounds"], summary["rounds_planned"]) == (2, 4)
    assert summary["epsilon"] == totals[-1]
    assert read_reconstructions(directory.reconstructions).round == 2
    client_gan_report.write_report(experiment, evaluation, directory)
    report = directory.report.read_text()
    assert "rounds without the privacy budget" in report
    assert "1e-05" in report
    directory.close()


def test_local_privacy_is_of_the_honest_alone(monkeypatch):
    # What it does to uploads is tested where it is built.
    build = mock.create_autospec(program.dssgd.build_dssgd)
    monkeypatch.setattr(program.dssgd, "build_dssgd", build)
    # What is not built cannot be checked.
    monkeypatch.setattr(program, "check_process", lambda *_: None)
    local = LocalDp(0.5, 4.0)
    experiment = program.build_experiment(_settings(local_dp=local), _data(per_class=5))
    given = build.call_args.kwargs
    assert given["privacy"] is local and given["adversaries_exempt"]
    # Participant 1 is the adversary: its turns cost nobody anything.
    spent = epsilon(repeated(upload_event(local), 2), 1e-5, local.neighbours)
    assert experiment.arms[program.Arm.ATTACK].spending([2, 5]) == spent
    program.build_experiment(_settings(), _data(per_class=5))
    given = build.call_args.kwargs
    assert given["privacy"] is None and not given["adversaries_exempt"]
    with pytest.raises(InputError, match="--sparse_vector is given beside --local_dp"):
        both = _settings(local_dp=local, privacy=SparseVector(1.0))
        program.build_experiment(both, _data(per_class=5))


def test_a_budget_is_of_those_who_are_attacked(monkeypatch):
    monkeypatch.setattr(program.dssgd, "build_dssgd", mock.MagicMock())
    monkeypatch.setattr(program, "check_process", lambda *_: None)
    record_dp = RecordLevelDp(1.0, 2.0, Sampling.POISSON)
    arms = [program.Arm.ATTACK, program.Arm.CONTROL]
    settings = _settings(record_dp=record_dp, arms=arms)
    built = program.build_experiment(settings, _data(per_class=40)).arms
    # Without the target there are fewer records, each in a batch more often.
    attack, control = (built[arm].spending([1, 1]) for arm in arms)
    assert control > 1.05 * attack
    between = dataclasses.replace(settings, privacy_budget=(attack + control) / 2)
    experiment = program.build_experiment(between, _data(per_class=40))
    untouched = mock.Mock(clients=[mock.Mock(turn=0), mock.Mock(turn=0)])
    assert experiment.goes_on(1, {arm.value: untouched for arm in arms})
    with pytest.raises(InputError, match="what one round of attack costs"):
        less = dataclasses.replace(settings, privacy_budget=0.9 * attack)
        program.build_experiment(less, _data(per_class=40))


@pytest.mark.parametrize("mutation", ["no generator step", "no injection"])
def test_an_attack_that_does_not_run_is_noticed(mutation, tmp_path, monkeypatch):
    if mutation == "no generator step":
        monkeypatch.setattr(
            client_gan, "train_generator", lambda _a, _d, _w, state, _s: state
        )
    if mutation == "no injection":
        monkeypatch.setattr(
            client_gan, "_inject", lambda _attack, state, data, _seed: (state, data)
        )
    experiment = program.build_experiment(_settings(), _data(per_class=5))
    directory, states = _run(experiment, tmp_path / "run")
    assert not _attack_ran(_metrics(directory), experiment, states)
    directory.close()


def test_passive_arm_injects_nothing(tmp_path):
    arms = [program.Arm.ATTACK, program.Arm.PASSIVE]
    experiment = program.build_experiment(_settings(arms=arms), _data(per_class=5))
    directory, states = _run(experiment, tmp_path / "run")
    rows = _metrics(directory)
    # By the same measure that notices one that does not run.
    assert _attack_ran(rows, experiment, states)
    assert {row["passive/injected"] for row in rows} == {"0.0"}
    assert {row["attack/injected"] for row in rows} == {"10.0"}
    directory.close()


def test_several_adversaries_have_targets_and_generators_of_their_own(tmp_path):
    data = _data(5, targets=(0, 3), participants="0-4;5-7;8-9", adversaries=(1, 2))
    experiment = program.build_experiment(_settings(rounds=1), data)
    directory, states = _run(experiment, tmp_path / "run")
    drawn = program.draw(
        experiment, program.Arm.ATTACK, states[program.Arm.ATTACK], 6, 1
    )
    assert list(drawn) == [0, 3]
    assert drawn[0].shape == (6, 32, 32, 1)
    assert (drawn[0] != drawn[3]).any()
    directory.close()


def test_start_accuracy_needs_data():
    data = _data(5, participants="0-4;none")
    settings = _settings(attack={"start_accuracy": 0.5})
    with pytest.raises(InputError, match="adversary 1 has no data to measure it on"):
        program.build_experiment(settings, data)


def test_the_attack_arm_is_required():
    settings = _settings(arms=[program.Arm.CONTROL])
    with pytest.raises(InputError, match="--arms is 'control': expected attack among"):
        program.build_experiment(settings, _data(5))


def _cohort(**uploads):
    """Forty participants and an adversary without data, all at once."""
    data = _data(participants="40x0-9;none", adversaries=(40,))
    settings = _settings(
        order=TurnOrder.ALL_AT_ONCE, uploads=CohortUploads(Joining.MEAN, **uploads)
    )
    return program.build_experiment(settings, data)


def test_a_cohort_under_secure_sums_is_checked():
    secure = SecureAggregation(bound=1)
    process = _cohort(secure_aggregation=secure).arms[program.Arm.ATTACK]
    check_secure(process.process.next)
    with mock.patch.object(program, "secure_counts_factory", lambda greatest: None):
        with pytest.raises(InputError, match="does not aggregate securely"):
            _cohort(secure_aggregation=secure)


def test_participants_in_turns_have_no_cohort():
    settings = _settings(uploads=CohortUploads(Joining.MEAN))
    with pytest.raises(InputError, match="--order is fixed .* expected all_at_once"):
        program.build_experiment(settings, _data())


def test_an_adversarys_own_training_goes_before_leaving_out_privacy(monkeypatch):
    own = LocalSgd(0.5)
    privacy = RecordLevelDp(1.0, noise_multiplier=1.0)
    given = []
    monkeypatch.setattr(
        program.dssgd,
        "build_dssgd",
        lambda *_, **settings: given.append(settings) or mock.DEFAULT,
    )
    monkeypatch.setattr(program, "check_process", lambda *_: None)
    for training in (own, None):
        settings = _settings(record_dp=privacy, adversary_training=training)
        program.build_experiment(settings, _data())
        # Without one of its own it trains as agreed, but for the noise.
        assert given[-1]["adversary_training"] == (training or settings.training)
        assert isinstance(given[-1]["training"], LocalTraining)


@pytest.mark.parametrize("mechanism", list(Mechanism))
def test_a_cohort_under_user_level_privacy_goes_on_with_the_same_bits(
    mechanism, tmp_path
):
    """Also the state of the server's noise and of its clipping is kept."""
    user = UserLevelDp(0.5, 1.0, clients_per_round=41, mechanism=mechanism)
    whole = _cohort(user_dp=user)
    half = dataclasses.replace(
        whole, settings=dataclasses.replace(whole.settings, rounds=1)
    )
    found = {}
    for name, parts in (("at once", [whole]), ("in two", [half, whole])):
        for part in parts:
            directory, states = _run(part, tmp_path / name)
            directory.close()
        found[name] = states[program.Arm.ATTACK].server
        rows = _metrics(directory)
        assert _attack_ran(rows, whole, states)
        # And its price is told, round by round.
        wanted = [
            epsilon(user_event(user, n), user.delta, user.neighbours) for n in (1, 2)
        ]
        totals = [float(row["attack/epsilon_total"]) for row in rows]
        assert totals == pytest.approx(wanted, rel=1e-6)
    assert int(found["in two"].turn) == 2
    leaves = (tf.nest.flatten(found[name].aggregator) for name in found)
    for one, other in zip(*leaves, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(
        found["at once"].parameters, found["in two"].parameters
    )
