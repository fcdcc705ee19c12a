"""Figures of finished runs with class keys, on files and pictures made by hand."""

import types

import numpy as np
import pytest

from experiments import key_protected_evaluation as evaluation
from experiments.federation import Federation
from experiments.key_federation import KeySettings
from experiments.key_guesses import SearchTurns, parse_guesses
from experiments.key_protected_program import KeyArm
from experiments.key_snapshots import Snapshots
from tff_leak.data.sources import Examples


def _directory(path, **columns):
    """A run directory with a metric's values over the rounds by name."""
    names = [name.replace("__", "/") for name in columns]
    lines = [",".join(["round", *names])]
    for number, row in enumerate(zip(*columns.values(), strict=True), start=1):
        lines.append(",".join(map(str, [number, *row])))
    (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    return types.SimpleNamespace(metrics_csv=path / "metrics.csv")


def _holding(*labels):
    shades = np.array(labels, np.float32).reshape([-1, 1, 1, 1]) / 10
    images = np.broadcast_to(shades, [len(labels), 4, 4, 1])
    return Examples(images.copy(), np.array(labels, np.int32))


class _Evaluator:
    tables = [types.SimpleNamespace(classes=(0, 1))]
    network = None

    def accuracy(self, server):
        return 0.25

    def accuracy_with_fakes(self, server):
        return 0.125

    def measure(self, state):
        return {"own_accuracy": 0.75, "own_accuracy_least": 0.5}

    def participants_accuracy(self, state, tests):
        return len(tests) / 100

    def class_scores(self, server):
        return ["scores"]


def _arm(name, guess, controls, **more):
    return KeyArm(name, 8, None, _Evaluator(), guess, None, controls, **more)


STATE = types.SimpleNamespace(server=None, clients=[])


def test_accuracy_is_of_the_last_round_and_the_best_one_is_told(tmp_path):
    directory = _directory(
        tmp_path,
        d8__task_accuracy_turn_1=[0.1, 0.5, 0.4],
        d8__task_accuracy_turn_2=[0.3, 0.7, 0.5],
    )
    arm = KeyArm("d8", 8, None, _Evaluator())
    experiment = types.SimpleNamespace(
        data=types.SimpleNamespace(reference=_holding(0, 1, 1, 2)),
        settings=types.SimpleNamespace(keys=KeySettings()),
    )
    found = evaluation._accuracy(arm, STATE, experiment, directory)
    # Nothing by own moments: normalisation is over each picture by itself.
    assert found == {
        "dimension": 8,
        "participant_accuracy": pytest.approx(0.45),
        "best_participant_accuracy": pytest.approx(0.6),
        "best_round": 2,
        "all_tests": 3,  # nobody has a key for 2
        "participant_accuracy_all_tests": 0.03,
        "task_accuracy": 0.25,
        "own_accuracy": 0.75,
        "own_accuracy_least": 0.5,
        "class_scores": ["scores"],
    }


def test_a_search_takes_its_effort_in_each_of_its_turns():
    federation = types.SimpleNamespace(adversaries=(), victims=())
    (guess,) = parse_guesses(["drift:5"], SearchTurns(first_turn=3, turns=4))

    def effort(rounds):
        experiment = types.SimpleNamespace(
            settings=types.SimpleNamespace(rounds=rounds),
            data=types.SimpleNamespace(federation=federation),
        )
        arm = _arm("drift_5_d8", guess, {})
        return evaluation._description(arm, STATE, experiment)["effort"]

    # Four turns with a search, unless the run ends before; of five one is.
    assert [effort(rounds) for rounds in (100, 7, 5, 4)] == [20, 20, 10, 5]


def test_steps_are_the_mean_over_different_controls():
    steps = {"attack": 100.0, "one": 1.0, "other": 4.0}
    arm = _arm("attack", None, {0: "one", 1: "other", 2: "other"})
    assert evaluation._mean_steps(arm, steps) == 2.5
    assert evaluation._mean_steps(_arm("attack", None, {}), steps) is None


def test_trained_is_who_has_the_least_on_its_own_classes(tmp_path, monkeypatch):
    guesses = parse_guesses(["known", "random"])
    arms = {
        "control": _arm("control", guesses[0], {}, is_control=True),
        "known": _arm("known", guesses[0], {1: "control"}),
        "random": _arm("random", guesses[1], {}),
    }
    high, low = 4 * [0.99], 4 * [0.1]
    directory = _directory(
        tmp_path,
        control__own_accuracy=high,
        control__own_accuracy_least=low,
        control__generator_steps=[1, 3, 1, 3],
        known__own_accuracy=high,
        known__own_accuracy_least=[0.5, 0.96, 0.97, 0.5],
        known__local_accuracy_least=[0.9, 0.98, 0.9, 0.9],
        known__generator_steps=[5, 5, 5, 7],
        random__own_accuracy=high,
        random__own_accuracy_least=low,
        # Of a run that was begun before it was measured.
        random__local_accuracy_least=["", "", 0.99, 0.99],
        random__generator_steps=[8, 8, 8, 8],
    )
    kept = Snapshots(dict.fromkeys([2, 4], {}), 4, True, None)
    judge = types.SimpleNamespace(accuracy=lambda reference: 0.875)
    for module, name, answer in (
        (evaluation, "build_judge", (judge, (4, 4))),
        (evaluation, "draw", {}),
        (evaluation.key_snapshots, "load", kept),
        (evaluation, "_score", {}),
        (evaluation, "_description", {}),
        (evaluation, "_write_reconstructions", None),
    ):
        monkeypatch.setattr(module, name, lambda *_, answer=answer, **__: answer)
    experiment = types.SimpleNamespace(
        settings=types.SimpleNamespace(seed=0, rounds=4),
        federations=arms,
        data=types.SimpleNamespace(
            source=types.SimpleNamespace(foreground=True), judge=None, reference=None
        ),
    )
    states = dict.fromkeys(arms, STATE)
    found = evaluation._evaluate_attacks(experiment, states, directory, {}).summary
    assert found["judge_accuracy"] == 0.875
    known, random = found["attacks"]
    assert (known["trained_round"], known["stop_round"]) == (3, 4)
    assert known["locally_trained_round"] == 2
    assert "locally_trained_round" not in random
    assert (random["trained_round"], random["stop_round"]) == (None, None)
    steps = (known["generator_steps"], known["control_generator_steps"])
    assert steps == (5.5, 2.0)
    assert random["control_generator_steps"] is None
    measured = known["task_accuracy"], known["own_accuracy"]
    assert measured == (0.25, 0.75)
    assert known["task_accuracy_with_fakes"] == 0.125


class _ByShade:
    """Takes a picture for the class of its shade in tenths; the last answer is none."""

    def features(self, images):
        return np.rint(10 * images[:, 0, 0, 0]).astype(int)

    def all_probabilities(self, features):
        return np.eye(5)[features]


class _Instruments:
    """Scores a picture by its shade, and keeps what it was given."""

    def __init__(self):
        self.judge, self.seen = _ByShade(), []
        self.kept = Snapshots({}, 1, True, (4, 4))

    def evaluate(self, inputs):
        self.seen += inputs
        targets = [self._figures(one) for one in inputs]
        return {"targets": targets, "pooled": targets[0]}

    def _figures(self, one):
        def shown(images):
            share = float(np.mean(self.judge.features(images) == one.target))
            return {"ssim": share, "judge_share": share}

        names = ("blank", "other_class_means", "other_class_images", "grand_mean")
        floor = dict.fromkeys(names, 0.0)
        return {
            "target": one.target,
            "attack": shown(one.attack),
            "control": shown(one.control),
            "floor": floor | {"value": 0.0},
            "reference": {"ssim": 1.0},
            "recovered": 0.0,
            "reached": {"value": False},
            **{f"{time}_ssim": {} for time in ("late", "stop")},
            "stop_judge_share": {},
        }


class TestScore:
    # Participant 1 attacks; in its control it shows 0s where the attack shows 1s.
    federation = Federation(
        [_holding(0, 1, 1), _holding(2, 3)], adversaries=(1,), targets=(0,)
    )
    data = types.SimpleNamespace(federation=federation, reference=_holding(0, 1, 2, 3))
    drawn = {
        "attack": {1: _holding(1, 1, 1, 0).images},
        "control": {1: _holding(0, 0, 0, 0, 1).images},
    }

    @pytest.fixture
    def asked(self, monkeypatch):
        """Of whose inputs it is asked whom they show."""
        found = []

        def identity(data, inputs, window):
            found.append([one.target for one in inputs])
            name = f"asked {len(found)}"
            return {"pooled": {"attack": name, "control": name}}

        monkeypatch.setattr(evaluation, "identity_of", identity)
        monkeypatch.setattr(
            evaluation,
            "_with_snapshots",
            lambda figures, arm, entry, *_: figures | {"adversary": entry.adversary},
        )
        return found

    def _score(self, guess):
        instruments = _Instruments()
        arm = _arm("attack", parse_guesses([guess])[0], {1: "control"})
        found = evaluation._score(self.data, arm, self.drawn, instruments, None)
        return found, instruments.seen

    def test_a_target_is_compared_with_its_control(self, asked, monkeypatch):
        monkeypatch.setattr(evaluation.key_snapshots, "pooled", lambda *_: {})
        found, [seen] = self._score("known")
        assert seen.target == 0
        assert seen.attack is self.drawn["attack"][1]
        assert seen.control is self.drawn["control"][1]
        assert len(seen.private) == 1
        [one] = found["targets"]
        assert (one["attack"]["ssim"], one["control"]["ssim"]) == (0.25, 0.8)
        assert asked == [[0]]

    def test_without_a_target_the_control_shows_something_else_best(self, asked):
        found, seen = self._score("random")
        assert [one.target for one in seen] == [0, 1]
        assert all(one.control is self.drawn["control"][1] for one in seen)
        largest = found["largest"]
        best = largest["attack"]["class"], largest["control"]["class"]
        assert best == (1, 0)
        assert largest["control"]["judge_share"] == 0.8
        told = found["elsewhere"]
        assert told["attack"] == {"adversary": 1, "class": 1, "judge_share": 0.75}
        assert told["control"] == {"adversary": 1, "class": 0, "judge_share": 0.8}
        assert told["unscored"] is None
        # Whom the control shows is asked of its own best class.
        assert asked == [[1], [0]]
        pooled = found["identity"]["pooled"]
        assert pooled == {"attack": "asked 1", "control": "asked 2"}
