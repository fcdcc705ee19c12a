"""A server that looks: pictures and membership, defences, resuming, bad input."""

# bazel: size = large

import asyncio
import csv
import dataclasses
import functools
import html
import json
import pathlib
import time

import numpy as np
import pytest
import tensorflow_federated as tff
from dp_accounting import GaussianDpEvent

from computations.defended_fed_avg import Algorithm, Defences
from computations.watched_fed_avg import Seen
from experiments import evaluation as evaluation_lib
from experiments import update_attacks_evaluation as evaluation
from experiments import update_attacks_program as program
from experiments import update_attacks_report as report
from experiments.fed_avg_arm import FedAvgArm
from experiments.run_clock import RunClock
from experiments.update_attacks_data import build_data
from experiments.update_attacks_program import Arm, Attack, Labels, NetworkKind
from tff_leak.attacks.gradient_inversion import Distance
from tff_leak.data import sources
from tff_leak.defences.accounting import epsilon, repeated
from tff_leak.defences.local_dp import LocalDp
from tff_leak.defences.record_level_dp import RecordLevelDp
from tff_leak.defences.secure_aggregation import SecureAggregation
from tff_leak.defences.user_level_dp import Mechanism, UserLevelDp
from tff_leak.errors import InputError
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.runtime import runtimes
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.reconstructions import read_reconstructions
from tff_leak.runtime.run_directory import RunDirectory
from tff_leak.threat import Knowledge

ROOT = pathlib.Path(__file__).parents[2]
ROUNDS = 3
BY_COSINE = {"distance": Distance.COSINE, "iterations": 60}


def _settings(**changes):
    settings = {
        "attack": Attack.GRADIENT_INVERSION,
        "rounds": ROUNDS,
        "attack_round": 2,
        "pooled_rounds": 1,
        "seed": 0,
        "algorithm": Algorithm.FED_SGD,
        "training": BatchSgd(0.1),
        "batch_size": None,
        "network": NetworkKind.MLP,
        "inversion": {"iterations": 60},
        "labels": Labels.INFERRED,
        "defences": Defences(),
    }
    return program.Settings(**(settings | changes))


@functools.cache
def _data(clients=3, classes=2, per_class=1, victims=(2, 0), with_control=True):
    return build_data(
        sources.load("digits"),
        clients=clients,
        classes_per_client=classes,
        per_class=per_class,
        victims=list(victims),
        with_control=with_control,
        seed=0,
    )


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """One runtime, which keeps what it has compiled, and one judge, good or not.

    The interval's draws are tested where they are made.
    """
    runtimes.use("in_process", asynchronous=True)

    @functools.cache
    def judge_once():
        data = _data()
        network = _experiment().network
        return evaluation_lib.build_judge(network, data.source, data.judge, seed=0)

    with pytest.MonkeyPatch.context() as patch:
        judge = functools.partial(evaluation_lib.train_judge, epochs=1)
        patch.setattr(evaluation_lib, "train_judge", judge)
        patch.setattr(evaluation, "build_judge", lambda *_, seed: judge_once())
        draws = functools.partial(evaluation.bootstrap_intervals, resamples=20)
        patch.setattr(evaluation, "bootstrap_intervals", draws)
        yield
    tff.test.set_no_default_context()


def _train(experiment, directory):
    progress = Progress(experiment.settings.rounds, "test", enabled=False)
    return asyncio.run(program.run(experiment, directory, progress))


def _run(path, settings, data, experiment=None):
    """A whole run; its directory, and what it found."""
    experiment = experiment or program.build_experiment(settings, data)
    with RunDirectory.open(path, {"test": True}) as directory:
        clock = RunClock(directory, time.monotonic())
        states = _train(experiment, directory)
        found = evaluation.evaluate(experiment, states, directory, clock)
        sentence = report.write_report(experiment, found, directory)
        assert sentence in html.unescape(directory.report.read_text())
    return directory, json.loads(directory.summary.read_text())


def _rows(directory):
    with open(directory.metrics_csv, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@functools.cache
def _experiment():
    return program.build_experiment(_settings(), _data())


@pytest.fixture(scope="module")
def inverted(tmp_path_factory):
    path = tmp_path_factory.mktemp("inverted") / "run"
    return _run(path, _settings(), _data(), _experiment())


def test_gradients_give_the_victims_images_and_the_control_does_not(inverted):
    directory, summary = inverted
    pooled = summary["pooled"]
    assert pooled["recovered"] > 0.9
    # Of the same classes, and no nearer to the victims' images than others are.
    assert pooled["control"]["ssim"] < 0.8
    assert summary["identified"]["attack"] == 1.0
    assert summary["identified"]["control"] == 0.0
    assert summary["found"] == {"attack": 1.0, "control": 0.0}
    assert summary["labels_right"] == 1.0
    assert pooled["floor"]["value"] >= pooled["reference"]["ssim"]
    headline = summary["headline"]
    assert headline["measure"] == "recovered"
    assert headline["value"] == pooled["recovered"]
    assert headline["task_accuracy"] == summary["task_accuracy"]["attack"]
    assert headline["epsilon"] is None and headline["seconds"] > 0
    kept = read_reconstructions(directory.reconstructions)
    assert kept.round == 2
    assert kept.clients.tolist() == [2, 2, 0, 0]
    data = _data()
    for image, label, client in zip(
        kept.images, kept.labels, kept.clients, strict=True
    ):
        [original] = data.clients[client].of_class(int(label)).images
        assert np.abs(image - original).mean() < 0.05
    assert (directory.figures / "attack_all.png").exists()


def test_recovered_is_measured_against_the_images_themselves(inverted):
    _, summary = inverted
    for one in (*summary["targets"], summary["pooled"]):
        floor = max(
            one["reference"]["ssim"],
            *(one["floor"][name] for name in ("control", "blank", "grand_mean")),
            one["floor"]["heldout_mean"],
            *(one["floor"][f"other_class_{name}"] for name in ("means", "images")),
        )
        attack = one["attack"]["ssim"]
        np.testing.assert_allclose(one["recovered"], (attack - floor) / (1 - floor))
        # Anybody can average public images of a class, which is nearer than they are.
        assert one["floor"][one["floor"]["source"]] == one["floor"]["value"] == floor
        assert one["floor"]["heldout_mean"] > one["reference"]["ssim"]
    assert [one["victim"] for one in summary["targets"]] == [2, 2, 0, 0]


def test_a_run_that_was_interrupted_ends_with_the_same_bits(
    inverted, tmp_path, monkeypatch
):
    done, _ = inverted
    run_round = FedAvgArm.run_round

    async def interrupted(self, state, round_num):
        if round_num == 3:
            raise KeyboardInterrupt
        return await run_round(self, state, round_num)

    experiment = _experiment()
    with RunDirectory.open(tmp_path / "run", {"test": True}) as directory:
        with monkeypatch.context() as patch:
            patch.setattr(FedAvgArm, "run_round", interrupted)
            with pytest.raises(KeyboardInterrupt):
                _train(experiment, directory)
        assert len(_rows(directory)) == 2
        states = _train(experiment, directory)
        evaluation.evaluate(
            experiment, states, directory, RunClock(directory, time.monotonic())
        )
    for name in ("metrics.csv", "reconstructions.npz", "program_state/round_3.npz"):
        assert (directory.path / name).read_bytes() == (done.path / name).read_bytes()


def test_a_sum_of_few_images_gives_them_away_but_not_whose_they_are(tmp_path):
    settings = _settings(
        rounds=1,
        attack_round=1,
        defences=Defences(secure_aggregation=SecureAggregation(1.0)),
    )
    data = _data()
    experiment = program.build_experiment(settings, data)
    directory, summary = _run(tmp_path / "run", settings, data, experiment)
    assert summary["threat"]["view"] == "sum"
    # It looks for all six images, of three clients.
    kept = read_reconstructions(directory.reconstructions)
    assert len(kept.images) == 6
    assert set(kept.clients) == {-1}
    assert summary["labels_right"] is None
    assert summary["found"]["attack"] == 1.0
    assert summary["found"]["control"] == 0.0
    # With two clients' data exchanged the server gets the same sum, and finds the same.
    first, second, *others = data.clients
    exchanged = dataclasses.replace(data, clients=[second, first, *others])
    # The same process: it is built and compiled once.
    arm = dataclasses.replace(experiment.arms[Arm.ATTACK], data=exchanged.clients)
    experiment = dataclasses.replace(
        experiment, data=exchanged, arms={**experiment.arms, Arm.ATTACK: arm}
    )
    other, _ = _run(tmp_path / "exchanged", settings, exchanged, experiment)
    again = read_reconstructions(other.reconstructions)
    np.testing.assert_allclose(again.images, kept.images, atol=1e-5)


def test_local_noise_stops_what_clipping_alone_does_not(tmp_path):
    """The two runs differ in the noise alone."""
    found = {}
    for noise in (0.0, 1.0):
        local = LocalDp(0.1, noise)
        settings = _settings(defences=Defences(local_dp=local), inversion=BY_COSINE)
        directory, found[noise] = _run(tmp_path / str(noise), settings, _data())
    assert found[0.0]["pooled"]["recovered"] > 0.7
    assert found[0.0]["found"]["attack"] == 1.0
    assert found[1.0]["pooled"]["recovered"] < 0.0
    assert found[1.0]["found"]["attack"] == 0.0
    spent = [float(row["attack/epsilon_total"]) for row in _rows(directory)]
    expected = [
        epsilon(repeated(GaussianDpEvent(0.5), n), 1e-5, local.neighbours)
        for n in (1, 2, 3)
    ]
    assert spent == expected
    summary = found[1.0]
    assert summary["epsilon"] == summary["headline"]["epsilon"] == expected[-1]
    assert summary["neighbours"] == "REPLACE_ONE"


def test_no_noise_is_no_privacy(tmp_path):
    settings = _settings(
        rounds=1,
        attack_round=1,
        attack=Attack.FIRST_LAYER,
        inversion={},
        defences=Defences(local_dp=LocalDp(1.0, 0.0)),
    )
    data = _data(classes=1)
    directory, summary = _run(tmp_path / "run", settings, data)
    assert summary["epsilon"] == "infinity"
    assert summary["headline"]["epsilon"] is None
    assert _rows(directory)[0]["attack/epsilon_total"] == "inf"
    # And clipping does not hide the one example.
    assert summary["pooled"]["recovered"] > 0.99


def test_a_first_layer_gives_one_example_exactly(tmp_path):
    settings = _settings(
        attack=Attack.FIRST_LAYER,
        algorithm=Algorithm.FED_AVG,
        training=BatchSgd(0.1, epochs=3),
        inversion={},
    )
    _, summary = _run(tmp_path / "run", settings, _data(classes=1))
    assert summary["pooled"]["recovered"] > 0.99
    assert max(summary["misfit"]["attack"]) < 1e-3
    assert summary["identified"]["control"] == 0.0


def test_rounds_together_show_what_noise_hides_in_one(tmp_path):
    """The same rounds of one federation: only how many the server looks at differs."""
    settings = _settings(
        attack=Attack.FIRST_LAYER,
        attack_round=1,
        rounds=8,
        pooled_rounds=8,
        algorithm=Algorithm.FED_AVG,
        training=BatchSgd(0.1, epochs=3),
        inversion={},
        defences=Defences(local_dp=LocalDp(1.0, 0.05)),
    )
    experiment = program.build_experiment(settings, _data(classes=1))
    directory, summary = _run(tmp_path / "run", settings, _data(classes=1), experiment)
    assert summary["pooled_rounds"] == 8
    seen = program.load_seen(experiment, directory)[Arm.ATTACK]
    assert len(seen) == 8
    victims = [_data(classes=1).clients[victim].images for victim in (2, 0)]

    def error(rounds):
        claims = evaluation.attack(experiment, Arm.ATTACK, seen[:rounds])
        return np.abs(claims.images - np.stack(victims)).mean()

    assert error(8) < 0.8 * error(1)
    # A row that broke off tells nothing, and takes nothing from its other rounds.
    bias = np.copy(seen[0].updates[1])
    bias[0, 0] = np.nan
    broken = Seen(seen[0].weights, [seen[0].updates[0], bias, *seen[0].updates[2:]])
    whole = evaluation.attack(experiment, Arm.ATTACK, seen)
    again = evaluation.attack(experiment, Arm.ATTACK, [*seen, broken])
    np.testing.assert_allclose(again.images[0], whole.images[0], atol=1e-4)


def test_an_inversion_takes_rounds_for_one_at_their_mean(tmp_path):
    settings = _settings(rounds=1, attack_round=1, inversion=BY_COSINE)
    experiment = program.build_experiment(settings, _data())
    with RunDirectory.open(tmp_path / "run", {"test": True}) as directory:
        _train(experiment, directory)
        [one] = program.load_seen(experiment, directory)[Arm.ATTACK]
    around = [
        Seen(
            [tensor + sign * 0.01 for tensor in one.weights],
            [tensor - sign * 0.001 for tensor in one.updates],
        )
        for sign in (1, -1)
    ]
    alone = evaluation.attack(experiment, Arm.ATTACK, [one])
    together = evaluation.attack(experiment, Arm.ATTACK, around)
    np.testing.assert_allclose(together.images, alone.images, atol=0.05)
    apart = evaluation.attack(experiment, Arm.ATTACK, around[:1])
    assert np.abs(apart.images - alone.images).max() > 0.2


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Forty images, trained on for long: what overfitting shows."""
    settings = _settings(
        attack=Attack.MEMBERSHIP,
        attack_round=1,
        rounds=ROUNDS,
        algorithm=Algorithm.FED_AVG,
        training=BatchSgd(0.05, epochs=20),
        inversion={},
        batch_size=5,
    )
    data = _data(clients=4, classes=10, victims=(), with_control=False)
    return _run(tmp_path_factory.mktemp("members") / "run", settings, data)


def test_members_have_lower_losses_and_the_controls_have_not(members):
    directory, summary = members
    found = summary["membership"]
    # Four members of each class; of what nobody holds there are at least 60 of each.
    counts = {"members": 40, "others": 560, "held_out": 40, "members_trained_on": 40}
    assert found["counts"] == counts
    assert found["attack"]["advantage"] > 0.4
    assert found["attack"]["auc"] > 0.7
    assert found["attack"]["p_value"] < 0.01
    for name in ("initial", "held_out"):
        assert found[name]["p_value"] > 0.01
    low, high = found["attack"]["auc_interval"]
    assert low <= found["attack"]["auc"] <= high
    rows = _rows(directory)
    advantages = [float(row["attack/advantage"]) for row in rows]
    assert len(advantages) == ROUNDS
    np.testing.assert_allclose(advantages[-1], found["attack"]["advantage"])
    assert all(row["attack/control_auc"] for row in rows)
    assert summary["headline"]["measure"] == "advantage"
    assert summary["headline"]["value"] == found["attack"]["advantage"]
    assert not directory.reconstructions.exists()
    assert (directory.figures / "advantage.png").exists()


@pytest.mark.parametrize(
    "defences",
    [
        Defences(
            user_dp=UserLevelDp(0.5, 2.0, 5, Mechanism.TREE, least_clients=5),
            secure_aggregation=SecureAggregation(1.0),
        ),
        Defences(user_dp=UserLevelDp(0.5, 0.4, 5, Mechanism.ADAPTIVE, least_clients=5)),
    ],
    ids=["tree and secure", "adaptive"],
)
def test_a_budget_ends_a_run_and_a_resumed_one(defences, tmp_path):
    """The state of a mechanism at the server has names in it, which are kept too."""
    settings = _settings(
        attack=Attack.MEMBERSHIP,
        attack_round=1,
        rounds=9,
        defences=defences,
        inversion={},
    )
    data = _data(clients=5, classes=2, victims=(), with_control=False)
    free = program.build_experiment(settings, data)
    budget = free.arms[Arm.ATTACK].spending(2) * 1.001
    settings = dataclasses.replace(settings, privacy_budget=budget)
    experiment = program.build_experiment(settings, data)
    directory, summary = _run(tmp_path / "run", settings, data, experiment)
    assert (summary["rounds"], summary["rounds_planned"]) == (2, 9)
    assert 0 < summary["epsilon"] <= budget
    with RunDirectory.open(directory.path, {"test": True}) as again:
        _train(experiment, again)
    assert len(_rows(directory)) == 2


def test_the_control_has_other_images_of_the_same_classes():
    data = _data()
    for number, (held, other) in enumerate(
        zip(data.clients, data.control, strict=True)
    ):
        assert sorted(held.labels) == sorted(other.labels)
        same = np.array_equal(held.images, other.images)
        assert same == (number not in data.victims)
    pictures = [image.tobytes() for part in data.clients for image in part.images]
    spare = [image.tobytes() for v in data.victims for image in data.control[v].images]
    nobodys = [image.tobytes() for image in data.heldout.images]
    assert len(set(pictures)) == 6 and len(set(spare)) == 4
    assert not set(pictures) & set(spare)
    assert not set(pictures + spare) & set(nobodys)


def test_the_scale_of_an_inversion_is_the_clients_rate_times_steps():
    data = _data(per_class=3)
    training = BatchSgd(0.05, momentum=0.5, epochs=2)
    settings = _settings(algorithm=Algorithm.FED_AVG, training=training, batch_size=4)
    experiment = program.build_experiment(settings, data)
    # 6 images in batches of 4: 2 steps in each of 2 epochs, twice as long by momentum.
    assert experiment.inversion.scale == pytest.approx(0.05 * 2 * 4)
    assert program.build_experiment(_settings(), data).inversion.scale == 1.0


class TestVerdicts:
    @pytest.mark.parametrize(
        "recovered, share, identified, kind",
        [
            (0.8, 0.9, 1.0, "leak"),
            (0.8, 0.5, 1.0, "partial"),
            (0.3, 0.9, 0.1, "partial"),
            (0.05, 0.9, 0.1, "none"),
            (-2.0, 0.0, 0.1, "none"),
            # Unlike the images, and yet of nobody else.
            (-2.0, 0.0, 0.9, "partial"),
            (None, 0.9, 1.0, "undefined"),
        ],
    )
    def test_of_pictures(self, inverted, recovered, share, identified, kind):
        _, summary = inverted
        told = summary["identified"] | {"attack": identified}
        summary = summary | {"identified": told}
        pooled = summary["pooled"] | {"recovered": recovered}
        pooled["attack"] = pooled["attack"] | {"judge_share": share}
        text, found = report.pictures_verdict(summary | {"pooled": pooled})
        assert found == kind
        assert f"{share:.0%}" in text

    @pytest.mark.parametrize(
        "advantage, p_value, control, kind",
        [
            (0.4, 1e-6, 0.5, "leak"),
            (0.05, 1e-6, 0.5, "partial"),
            (0.4, 0.2, 0.5, "none"),
            (0.4, 1e-6, 1e-6, "undefined"),
        ],
    )
    def test_of_membership(self, members, advantage, p_value, control, kind):
        _, summary = members
        found = summary["membership"]
        attack = found["attack"] | {"advantage": advantage, "p_value": p_value}
        found = found | {
            "attack": attack,
            "held_out": found["held_out"] | {"p_value": control},
        }
        assert report.membership_verdict(summary | {"membership": found})[1] == kind


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"attack_round": 4}, "--attack_round is 4: expected a round from 1 to 3"),
        (
            {"attack": Attack.FIRST_LAYER, "inversion": {}, "pooled_rounds": 3},
            "--pooled_rounds is 3: expected 1 to 2, the rounds from --attack_round=2",
        ),
        (
            {"attack": Attack.MEMBERSHIP, "inversion": {}},
            "--attack_round is 2 with --attack=membership: expected none",
        ),
        ({"pooled_rounds": 0}, "--pooled_rounds is 0: expected 1 to 2"),
        (
            {
                "attack": Attack.MEMBERSHIP,
                "attack_round": 1,
                "inversion": {},
                "pooled_rounds": 2,
            },
            "--pooled_rounds is 2 with --attack=membership: expected 1",
        ),
        (
            {
                "attack": Attack.FIRST_LAYER,
                "network": NetworkKind.CNN,
                "inversion": {},
            },
            "--network is cnn with --attack=first_layer: expected mlp",
        ),
        ({"batch_size": 1}, "--batch_size is 1 with --algorithm=fed_sgd"),
        (
            {"attack": Attack.MEMBERSHIP, "attack_round": 1},
            "--inversion is given with --attack=membership",
        ),
        (
            {
                "attack": Attack.FIRST_LAYER,
                "inversion": {},
                "labels": Labels.KNOWN,
            },
            "--labels is known with --attack=first_layer",
        ),
        (
            {
                "defences": Defences(
                    user_dp=UserLevelDp(1.0, 0.1, 3, Mechanism.FIXED, 3)
                )
            },
            "--inversion has distance=squared beside --user_dp",
        ),
        (
            {"defences": Defences(local_dp=LocalDp(1.0, 0.0))},
            "--inversion has distance=squared beside --local_dp: expected cosine",
        ),
        (
            {"defences": Defences(record_dp=RecordLevelDp(1.0, 0.0))},
            "--inversion has distance=squared beside --record_dp: expected cosine",
        ),
        ({"privacy_budget": 1.0}, "--privacy_budget is 1.0 without differential"),
        (
            {
                "privacy_budget": 5.0,
                "inversion": BY_COSINE,
                "defences": Defences(record_dp=RecordLevelDp(1.0, 1.0)),
            },
            "expected at least .* what the rounds up to 2, the last that is attacked,",
        ),
        ({"inversion": {"iterations": 0}}, "iterations is 0: expected at least 1"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        program.build_experiment(_settings(**changes), _data())
    assert "\n" not in str(caught.value)


def test_cosine_goes_with_adaptive_clipping():
    user = UserLevelDp(1.0, 0.1, 3, Mechanism.ADAPTIVE, 3)
    settings = _settings(
        inversion={"distance": Distance.COSINE}, defences=Defences(user_dp=user)
    )
    assert program.build_experiment(settings, _data()).threat.view.value == "rows"


def test_a_background_is_knowledge_and_stands_in_the_configuration_if_there_is_one():
    settings = _settings(
        inversion={"distance": Distance.COSINE, "background": 0.5},
    )
    assert Knowledge.AUXILIARY_DATA in program._knowledge(settings)
    assert Knowledge.AUXILIARY_DATA not in program._knowledge(_settings())
    assert program.inversion_config(settings.inversion)["background"] == 0.5
    # Runs from before there was one go on.
    assert "background" not in program.inversion_config({})


@pytest.mark.parametrize("victims", [(3,), (0, 0), (-1,)])
def test_victims_that_are_not_there(victims):
    with pytest.raises(InputError, match="expected clients from 0 to 2, each once"):
        _data(victims=victims)


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            [
                *("--record_dp=clip=1,noise_multiplier=1", "--attack=first_layer"),
                *("--network=mlp", "--local_dp=clip=1,noise_multiplier=1"),
            ],
            "record_dp and local_dp are given together",
        ),
        (
            ["--attack=membership", "--victims=0,1"],
            "--victims is 0,1 with --attack=membership: expected none",
        ),
    ],
    ids=["two mechanisms", "victims of membership"],
)
def test_bad_input_is_one_line_and_changes_nothing(flags, message, tmp_path, forked):
    output = tmp_path / "run"
    result = forked("experiments.run_update_attacks", *flags, f"--output_dir={output}")
    assert result.returncode == 2
    [line] = result.stderr.strip().splitlines()
    assert line.startswith(f"error: {message}")
    assert result.stdout == ""
    assert not output.exists()
