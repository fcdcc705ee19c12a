"""Class keys on digits: arms, accuracy by Eq. 4, summaries, going on, bad input."""

# bazel: size = large

import asyncio
import csv
import dataclasses
import functools
import itertools
import json
import pathlib
import shutil
import time
import types

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from computations import dssgd
from experiments import evaluation as evaluation_lib
from experiments import key_federation, key_protected_report, key_snapshots
from experiments import key_protected_evaluation as evaluation
from experiments import key_protected_program as program
from experiments.client_gan_program import GeneratorSettings
from experiments.dssgd_arm import ArmState
from experiments.federation import build_federation
from experiments.key_federation import (
    KeySettings,
    KeyTable,
    OfflineEvaluator,
    overlap,
)
from experiments.key_geometry_arm import Geometry
from experiments.key_guesses import GuessKind, SearchTurns, first_key, parse_guesses
from experiments.run_clock import RunClock
from tff_leak.attacks.client_transform import only_row
from tff_leak.attacks.key_search import SearchMethod
from tff_leak.data import partition, sources
from tff_leak.data.sources import Examples
from tff_leak.defences.key_protection import (
    KeyDistribution,
    KeyTraining,
    Normalisation,
    scores,
)
from tff_leak.errors import InputError
from tff_leak.metrics.reconstruction import TargetInputs
from tff_leak.metrics.similarity import similarity
from tff_leak.models import layers
from tff_leak.models.network import flatten, sequential
from tff_leak.report import results
from tff_leak.runtime import runtimes
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.reconstructions import read_reconstructions
from tff_leak.runtime.run_directory import RunDirectory

ROOT = pathlib.Path(__file__).parents[2]


def _settings(**changes):
    settings = {
        "study": program.Study.ATTACK,
        "rounds": 2,
        "seed": 0,
        "dimensions": [8],
        "keys": KeySettings(fixed_from=16, hidden=8),
        "training": KeyTraining(),
        "guesses": parse_guesses(
            ["known", "1.0", "drift:2"], SearchTurns(first_turn=1)
        ),
        "controls": True,
        "attack": {"generator_steps": 1, "fakes_per_turn": 8, "batch_size": 8},
        "generator": GeneratorSettings(base_filters=2),
        "geometry": Geometry(trials=3, keys=4, others=5),
        "snapshot_every": 1,
    }
    return program.Settings(**{**settings, **changes})


@functools.cache
def _data(
    participants="0-1;2-3", adversaries=(1,), targets=(1,), classes=4, **settings
):
    source = sources.load("digits")
    pools = partition.split_pools(source, per_class=8, seed=0)
    few = [pools.reference.of_class(label).take(range(6)) for label in range(classes)]
    reference = Examples.concatenate(few)
    return program.Data(
        source=source,
        federation=build_federation(
            source,
            pools.participants,
            participants=participants,
            adversaries=adversaries,
            targets=targets,
            seed=0,
            **settings,
        ),
        judge=pools.judge,
        reference=reference,
        # Fewer, as with much data: of six of a class two or four are tested on, so
        # that an answer that is always the same has not a third right in both.
        test=reference.take(
            [i for i in range(len(reference)) if i % 6 < (2 if i < 6 else 4)]
        ),
    )


def _run(experiment, directory):
    runtimes.use("in_process", asynchronous=True)
    progress = Progress(experiment.settings.rounds, "test", enabled=False)
    try:
        return asyncio.run(program.run(experiment, directory, progress))
    finally:
        tff.test.set_no_default_context()


def _finish(experiment, path):
    with (
        RunDirectory.open(path, {"test": True}) as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        quick = functools.partial(evaluation_lib.train_judge, epochs=1)
        patch.setattr(evaluation_lib, "train_judge", quick)
        patch.setattr(evaluation, "FINAL_SAMPLES", 12)
        clock = RunClock(directory, time.monotonic())
        states = _run(experiment, directory)
        found = evaluation.evaluate(experiment, states, directory, clock)
        key_protected_report.write_report(experiment, found, directory)
    return states, found


KEY = np.eye(8, dtype=np.float32)[0]


class TestGuesses:
    KEY = np.array([0.6, 0.8, 0.0, 0.0], np.float32)

    def _first(self, text, adversary=1):
        (guess,) = parse_guesses([text])
        return first_key(
            guess, self.KEY, KeyDistribution.UNIFORM, seed=0, adversary=adversary
        )

    def test_each_kind_gives_the_key_that_it_says(self):
        np.testing.assert_array_equal(self._first("known"), self.KEY)
        distance = np.linalg.norm(self._first("0.5") - self.KEY)
        np.testing.assert_allclose(distance, 0.5, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(self._first("random")), 1, atol=1e-6)
        # A search starts where a random guess does; each adversary at its own.
        np.testing.assert_array_equal(self._first("drift:3"), self._first("random"))
        assert np.any(self._first("random") != self._first("random", adversary=2))

    def test_a_search_has_its_effort(self):
        (guess,) = parse_guesses(["best:40"], SearchTurns(first_turn=9))
        assert guess.search.first_turn == 9
        assert guess.kind is GuessKind.SEARCH and not guess.aimed
        assert guess.search.method is SearchMethod.RANDOM
        assert guess.search.effort == 40

    @pytest.mark.parametrize("text", ["2.1", "-1", "nan", "best", "best:x", "oracle:3"])
    def test_others_are_refused(self, text):
        with pytest.raises(InputError, match="expected known, random, a distance"):
            parse_guesses([text])

    def test_twice_is_refused(self):
        with pytest.raises(InputError, match="'known' twice"):
            parse_guesses(["known", "known"])


class TestEvaluator:
    """A network whose outputs are its inputs: embeddings, so, are chosen by hand."""

    network = sequential("same", (1, 1, 3), [layers.reshape(), layers.dense(3)])
    table = [
        KeyTable((0, 2), np.eye(3, dtype="f4")[[0, 1]], np.zeros((0, 3), "f4")),
        KeyTable((1, 2), np.eye(3, dtype="f4")[[2, 0]], np.eye(3, dtype="f4")[[1]]),
    ]

    def _examples(self, embeddings, labels):
        images = np.array(embeddings, np.float32).reshape([-1, 1, 1, 3])
        return Examples(images, np.array(labels, np.int32))

    def _evaluator(self, embeddings, labels, **settings):
        test = self._examples(embeddings, labels)
        return OfflineEvaluator(self.network, self.table, test, **settings)

    def _server(self, scale=1.0):
        parameters = flatten([tf.eye(3) * scale, tf.zeros([3])]).numpy()
        return dssgd.ServerState(parameters, [], None, None, None, None)

    # Keys: 0 and 2 (participant 1) at e1, 2 (participant 0) at e2, 1 at e3.
    EXAMPLES = ([0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.1, 0.2, 0.9], [0.1, 0.9, 0.2])

    @pytest.mark.parametrize("each_by_itself", [False, True])
    def test_eq_4_over_all_keys_and_over_own_ones(self, each_by_itself):
        evaluator = self._evaluator(
            self.EXAMPLES, [0, 2, 1, 1], each_by_itself=each_by_itself
        )
        # Right: the first, of equal scores the first key's, 2 by its first key, and 1;
        # the last is taken for 2.
        assert evaluator.accuracy(self._server()) == 0.75
        clients = [_Client(self._server().parameters), _Client(None)]
        clients[1] = _Client(self._server(-1.0).parameters)
        state = ArmState(self._server(), clients)
        # Participant 0 has (0, 2) right. Of participant 1's three, by the opposite
        # model: 2 at (0, -.9, -.1) has -.0 with its own key of 2 and -.1 with 1;
        # 1 at (-.1, -.2, -.9) is taken for 2, and so is the last one.
        found = evaluator.measure(state)
        assert found["own_accuracy"] == pytest.approx((1.0 + 1 / 3) / 2)
        assert found["own_accuracy_least"] == pytest.approx(1 / 3)
        assert "local_accuracy_least" not in found
        # Local data: participant 0's e1 is a 0 and e2 a 2 as they should be; of
        # participant 1's, by the opposite model, (-.9, -.1, 0) is the 1 that it is and
        # (0, -.9, -.1) with its own keys not the 1 but the 2.
        local = (
            self._examples([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1]], [0, 2]),
            self._examples([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1]], [1, 1]),
        )
        known = dataclasses.replace(evaluator, local=local).measure(state)
        assert known == {**found, "local_accuracy_least": 0.5}
        # Over all keys the opposite model has none of the four right.
        every = evaluator.participants_accuracy(state, evaluator.test)
        assert every == pytest.approx((0.75 + 0.0) / 2)

    def test_pictures_are_shown_apart_where_their_neighbours_do_not_count(
        self, monkeypatch
    ):
        shown = []

        def noted(embeddings, keys):
            shown.append(len(embeddings))
            return scores(embeddings, keys)

        monkeypatch.setattr(key_federation, "scores", noted)
        state = ArmState(self._server(), 2 * [_Client(self._server().parameters)])
        for apart, counts in ((True, [2, 3]), (False, [4, 4])):
            evaluator = self._evaluator(
                self.EXAMPLES, [0, 2, 1, 1], each_by_itself=apart
            )
            evaluator.measure(state)
            assert shown == counts
            shown.clear()

    @pytest.mark.parametrize(
        "dimension,normalisation,apart",
        [(8, "batch", True), (16, "instance", True), (16, "batch", False)],
    )
    def test_over_the_batch_neighbours_count(self, dimension, normalisation, apart):
        keys = KeySettings(
            fixed_from=16, hidden=8, normalisation=Normalisation(normalisation)
        )
        experiment = program.build_experiment(
            _settings(
                study=program.Study.ACCURACY,
                guesses=[],
                keys=keys,
                dimensions=[dimension],
            ),
            _data(adversaries=(), targets=()),
        )
        [arm] = experiment.federations.values()
        assert arm.evaluator.each_by_itself is apart
        assert arm.arm.every_turn

    def test_scores_of_shared_classes(self):
        rows = self._evaluator(self.EXAMPLES, [0, 2, 1, 1]).class_scores(self._server())
        assert [row["class"] for row in rows] == [0, 1, 2]
        np.testing.assert_allclose(rows[0]["own"], [0.9])
        np.testing.assert_allclose(rows[2]["own"], [0.9, 0.0], atol=1e-7)
        np.testing.assert_allclose(rows[2]["others"], 0.1, atol=1e-6)
        np.testing.assert_allclose(rows[1]["own"], [0.55], atol=1e-6)
        np.testing.assert_allclose(rows[1]["others"], 0.55, atol=1e-6)

    def test_the_nearest_key_of_the_others(self):
        spy = KeyTable((0,), np.array([[0, 0, 1]], "f4"), np.array([[0, 1, 0]], "f4"))
        key = np.array([0.0, 0.8, 0.6], np.float32)
        assert overlap(key, [*self.table, spy], (0, 1), 2) == {
            "product": pytest.approx(0.8),
            "class": 2,
            "rival": pytest.approx(0.8),  # Participant 1's key of its fakes.
            "fellow": None,
        }
        # Adversaries' keys are no victims', but rivals all the same.
        found = overlap(key, [*self.table, spy], (1,), 2)
        assert (found["class"], found["product"]) == (1, pytest.approx(0.6))
        assert found["rival"] == pytest.approx(0.8)
        # Another adversary's class key is told; not its own, nor one of fakes.
        assert found["fellow"] == {"product": pytest.approx(0.8), "class": 2}
        fellow = overlap(key, [*self.table, spy], (1,), 0)["fellow"]
        assert fellow == {"product": pytest.approx(0.6), "class": 0}
        # Where everybody attacks, all others are victims, and nobody is a fellow.
        found = overlap(key, [*self.table, spy], (0, 1, 2), 2)
        assert (found["class"], found["product"]) == (2, pytest.approx(0.8))
        assert found["fellow"] is None
        none = np.zeros((0, 3), "f4")
        tables = [dataclasses.replace(one, fakes=none) for one in (*self.table, spy)]
        found = overlap(key, tables, (0, 1, 2), 0)
        assert (found["class"], found["product"]) == (1, pytest.approx(0.6))
        assert found["rival"] == pytest.approx(0.8)  # Its own key of 2.
        key = np.array([0.6, 0.0, 0.8], np.float32)
        alone = KeyTable((0,), -np.eye(3, dtype="f4")[:1], np.zeros((0, 3), "f4"))
        assert overlap(key, [*self.table, alone], (0, 1), 2)["rival"] == (
            pytest.approx(0.6)
        )

    def test_labels_become_rows_behind_the_fakes(self):
        data = Examples(np.zeros((3, 1, 1, 3), "f4"), np.array([2, 1, 2], "i4"))
        rows = self.table[1].with_rows_as_labels(data).labels
        assert rows.tolist() == [2, 1, 2]
        np.testing.assert_array_equal(self.table[1].rows[rows[0]], np.eye(3)[0])
        data = Examples(data.images, np.array([2, 0, 2], "i4"))
        assert self.table[0].with_rows_as_labels(data).labels.tolist() == [1, 0, 1]


@dataclasses.dataclass
class _Client:
    parameters: np.ndarray


class TestArms:
    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"dimensions": []}, "--dimensions is empty"),
            ({"dimensions": [8, 8]}, "each once"),
            ({"dimensions": [1]}, "--dimensions has 1: expected 2 to 1048576"),
            ({"dimensions": [10**9]}, "--dimensions has 1000000000: expected 2 to"),
            ({"controls": False, "own_controls": True}, "expected controls, as each"),
            ({"guesses": []}, "--guesses is empty"),
            ({"study": program.Study.ACCURACY}, "expected honest participants"),
            ({"attack": {"generator_steps": 0}}, "generator_steps is 0"),
            (
                {"guesses": parse_guesses(["drift:2"])},
                "first_turn is 20 with --rounds=2",
            ),
        ],
    )
    def test_contradictions_are_refused(self, changes, message):
        with pytest.raises(InputError, match=message):
            program.build_experiment(_settings(**changes), _data())

    def test_a_search_needs_pictures(self):
        data = _data(participants="0-1;none")
        with pytest.raises(InputError, match="adversary 1 has no data"):
            guesses = parse_guesses(["drift:2"], SearchTurns(first_turn=1))
            program.build_experiment(_settings(guesses=guesses), data)


def test_the_verdict_is_of_the_strongest_attack_without_the_key():
    def attack(guess, reached, share, distance=None):
        pooled = {"reached_count": reached, "attack": {"judge_share": share}}
        found = {"pooled": pooled | {"targets": [0]}, "largest": None}
        if guess not in ("known", "0.1", "0.5"):
            best = {"reached_pairs": reached, "pairs": 5}
            # The class with the largest `recovered` was not reached.
            pooled["reached_count"] = 0
            found["largest"] = {"attack": best}
        return {"guess": guess, "distance": distance, **found}

    random, known = attack("random", 0, 0.9), attack("known", 1, 1.0)
    near, found = attack("0.1", 1, 1.0, distance=0.1), attack("drift:2", 1, 0.8)
    assert key_protected_report._strongest([random, known, near, found]) is found
    assert key_protected_report._strongest([random, known, near]) is random
    assert key_protected_report._strongest([attack("0.5", 0, 1.0, 0.5), known]) is known


def test_the_verdict_tells_of_what_other_adversaries_hold():
    def attack(label, share, guess="random"):
        found = {"adversary": 1, "class": label, "judge_share": share}
        attack = {"guess": guess, "distance": None, "dimension": 64}
        return attack | {"elsewhere": {"unscored": found}}

    def said(*attacks):
        return key_protected_report._of_other_adversaries(attacks, "digit")

    text = said(attack(3, 0.76), attack(3, 0.6, "drift:2"))
    assert "takes 76% of the pictures of adversary 1 for the digit 3" in text
    assert text.endswith("(random, d = 64).")
    # Too few; who has the key; nobody holds such a class.
    assert said(attack(3, 0.4)) == said(attack(3, 0.9, "known")) == said() == ""
    assert said(attack(3, 0.4) | {"elsewhere": {"unscored": None}}) == ""


def test_what_the_judge_names_of_others_with_and_without_what_is_scored():
    # Participant 0 is honest; 1 and 2 attack.
    federation = _data("0-1;1-2;2-3", (1, 2), (0, 0)).federation
    images = np.zeros([10, 16, 16, 1], np.float32)

    class Sure:
        """Six pictures are 0s, four are 3s."""

        def features(self, images):
            return images

        def all_probabilities(self, features):
            return np.eye(5)[6 * [0] + 4 * [3]]

    scored = program.unknown_classes(federation)
    found = evaluation._elsewhere(federation, {1: images}, judge=Sure())
    assert found == {"adversary": 1, "class": 0, "judge_share": 0.6}
    found = evaluation._elsewhere(federation, {1: images}, judge=Sure(), scored=scored)
    assert found == {"adversary": 1, "class": 3, "judge_share": 0.4}
    # All that the second attacker lacks is held by somebody honest.
    found = evaluation._elsewhere(federation, {2: images}, judge=Sure(), scored=scored)
    assert found is None


def test_the_verdict_says_whose_it_is():
    def attack(guess, distance=None):
        largest = {"attack": {"reached_pairs": 1, "pairs": 5}}
        found = {"guess": guess, "distance": distance, "dimension": 64}
        return found | {"largest": largest}

    known, near = attack("known"), attack("0.1", 0.1)
    which = key_protected_report._which
    text = which([known, attack("random")], attack("random"))
    assert "that were not told of the key: random, d = 64." in text
    # The class that is shown best need not be one that was reached.
    assert text.endswith("It reached 1 of 5 pairs of an adversary and a class.")
    assert which([known], known).startswith("It was told of the key")
    text = which([known, near], near)
    assert text.startswith("This is the strongest of 2, all told of the key")
    assert text.endswith("distance 0.1, d = 64.")


def test_in_a_control_without_a_target_the_adversary_keeps_shared_classes():
    guesses = parse_guesses(["random"])
    data = _data(participants="0-1;0,2")
    settings = _settings(guesses=guesses)
    arms = program.build_experiment(settings, data).federations
    sizes = [
        [sum(len(labels) for _, labels in dataset) for dataset in arm.arm.datasets]
        for arm in (arms["random_d8"], arms["control_random_d8"])
    ]
    assert sizes[1] == [0, sizes[0][1]]
    assert sizes[0][0] > 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "run"
    experiment = program.build_experiment(_settings(), _data())
    states, found = _finish(experiment, path)
    return path, experiment, states, found.summary


def _one(target, adversary, attack, control, floor, reference=1.0, late=0.0, stop=0.0):
    floors = {
        "blank": 0.0,
        "other_class_means": floor,
        "other_class_images": 0.1,
    }
    return {
        "target": target,
        "adversary": adversary,
        "attack": {"ssim": attack, "judge_share": 0.1 * target},
        "control": {"ssim": control, "judge_share": 0.0},
        "floor": floors | {"control": 9.0, "grand_mean": 9.0},
        "reference": {"ssim": reference},
        "late_ssim": {"attack": late, "control": control},
        "stop_ssim": {"attack": stop, "control": control},
        "stop_judge_share": {"attack": 0.2 * target, "control": 0.1},
    }


def test_the_class_that_is_shown_best_by_hand():
    targets = [
        _one(1, 4, attack=0.6, control=0.2, floor=0.2),  # (.6 - .2) / .8
        _one(2, 4, attack=0.7, control=0.65, floor=0.5, late=0.8),  # (.7 - .5) / .5
        # .3 / .8, and where everybody was just trained .7 / .8
        _one(3, 5, attack=0.4, control=0.4, floor=0.0, reference=0.9, stop=0.8),
    ]
    found = evaluation._largest(targets, "attack")
    assert (found["class"], found["adversary"], found["entry"]) == (1, 4, 0)
    assert found["recovered"] == pytest.approx(0.5)
    assert found["judge_share_largest"] == pytest.approx(0.3)
    # In the last half of the rounds another class was shown best: (.8 - .5) / .5.
    assert found["late_recovered"] == pytest.approx(0.6)
    assert found["stop_recovered"] == pytest.approx(0.875)
    assert found["stop_judge_share"] == pytest.approx(0.6)
    # The control's best is another class, and its own is no part of a floor.
    control = evaluation._largest(targets, "control")
    assert control["late_recovered"] == pytest.approx(0.375)
    assert control["stop_recovered"] == pytest.approx(0.375)
    assert control["stop_judge_share"] == 0.1
    assert (control["class"], control["recovered"]) == (3, pytest.approx(0.375))
    assert evaluation._largest([targets[0] | {"control": None}], "control") is None
    # Never trained: there is no such picture.
    never = [one | {"stop_ssim": {}, "stop_judge_share": {}} for one in targets]
    found = evaluation._largest(never, "attack")
    assert (found["stop_recovered"], found["stop_judge_share"]) == (None, None)
    assert found["late_recovered"] == pytest.approx(0.6)


def test_what_an_adversary_holds_itself_is_no_find():
    data = _data("0-1;1-2;1,3", (1, 2), (0, 0)).federation
    assert program.unknown_classes(data) == [(1, 0), (2, 0)]
    data = _data("0-1;2-3;2,0", (1, 2), (0, 1)).federation
    assert program.unknown_classes(data) == [(1, 0), (1, 1), (2, 1)]


def test_pictures_of_another_adversarys_classes_are_told():
    class ByShade:
        """Takes a picture for the class of its shade, by a little; rejects shade 9."""

        def features(self, images):
            return images

        def all_probabilities(self, features):
            certain = np.eye(10)[features[:, 0].astype(int)]
            # No probability is 0, that of a rejection neither.
            return 0.9 * certain + 0.01

    def holds(*labels):
        return types.SimpleNamespace(labels=np.array(labels))

    federation = types.SimpleNamespace(data=[holds(0, 1), holds(2, 2), holds(3)])
    samples = {
        1: np.array([[2.0], [2], [3], [3], [0]]),  # its own do not count
        2: np.array([[1.0], [9], [9], [9], [9]]),  # those of shade 9 would be of 0
    }
    found = evaluation._elsewhere(federation, samples, judge=ByShade())
    assert found == {"adversary": 1, "class": 3, "judge_share": 0.4}
    assert evaluation._elsewhere(federation, {}, judge=ByShade()) is None


def test_faces_are_asked_whom_they_show():
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (6, 16, 16, 1)).astype(np.float32)
    labels = np.array([0, 0, 1, 1, 2, 2], np.int32)
    people = Examples(images, labels)
    one = TargetInputs(
        target=1,
        attack=images[[2, 3, 4]],
        control=images[[0, 5]],
        private=images[2:4],
        others=images[:2],
        heldout=Examples(0.9 * images + 0.05, labels),
    )

    def found(shows_people):
        data = types.SimpleNamespace(
            source=types.SimpleNamespace(shows_people=shows_people),
            federation=types.SimpleNamespace(data=[people.take(range(4))]),
            judge=people.take(range(4, 6)),
        )
        return evaluation.identity_of(data, [one], (16, 16))

    pooled = found(True)["pooled"]
    assert pooled["attack"] == pytest.approx(2 / 3)
    assert pooled["control"] == 0.0
    assert found(False) is None


class TestAttack:
    def test_controls_lack_what_is_aimed_at(self, finished):
        federations = finished[1].federations
        assert {name: kept.controls for name, kept in federations.items()} == {
            "control_known_d8": {},
            "known_d8": {1: "control_known_d8"},
            "1.0_d8": {1: "control_known_d8"},
            "control_drift_2_d8": {},
            "drift_2_d8": {1: "control_drift_2_d8"},
        }
        assert [name for name, kept in federations.items() if kept.is_control] == [
            "control_known_d8",
            "control_drift_2_d8",
        ]
        sizes = {
            name: [len(next(iter(dataset))[1]) for dataset in kept.arm.datasets[-1:]]
            for name, kept in federations.items()
        }
        assert set(map(tuple, sizes.values())) == {(16,)}
        for name, honest in (
            ("known_d8", [0, 1]),
            ("control_known_d8", [0]),
            ("control_drift_2_d8", []),
        ):
            [rows] = [
                {int(label) for _, labels in dataset for label in labels}
                for dataset in federations[name].arm.datasets[:1]
            ]
            assert rows == set(honest)
        # Guesses without a search are one process with different states.
        arms = {name: kept.arm for name, kept in federations.items()}
        assert arms["known_d8"].process is arms["1.0_d8"].process
        assert arms["known_d8"].process is not arms["drift_2_d8"].process

    def test_guesses_aimed_at_a_key_may_have_controls_of_their_own(self):
        planned = program._plan(_settings(own_controls=True), _data().federation, 8)
        found = {one.name: one.controls for one in planned if not one.is_control}
        assert found == {
            "known_d8": {1: "control_known_d8"},
            "1.0_d8": {1: "control_1.0_d8"},
            "drift_2_d8": {1: "control_drift_2_d8"},
        }
        # A control aims at what its attack aims at, where nobody holds the class.
        guesses = {one.name: one.guess.name for one in planned if one.is_control}
        assert guesses == {
            "control_known_d8": "known",
            "control_1.0_d8": "1.0",
            "control_drift_2_d8": "drift:2",
        }

    def test_every_attack_ran_towards_its_own_key(self, finished):
        _, _, states, summary = finished
        guesses = [attack["guess"] for attack in summary["attacks"]]
        assert guesses == ["known", "1.0", "drift:2"]
        products = [attack["overlap"][0]["product"] for attack in summary["attacks"]]
        assert products[0] == pytest.approx(1.0, abs=1e-5)
        # At distance 1 the product is .5 with the key aimed at, and no less with the
        # nearest of all.
        assert 0.5 - 1e-5 <= products[1] < 0.99
        efforts = [attack["effort"] for attack in summary["attacks"]]
        assert efforts == [None, None, 2]
        begin = _settings().guesses[2]
        begin = first_key(begin, KEY, KeyDistribution.UNIFORM, seed=0, adversary=1)
        [found] = states["drift_2_d8"].clients[1].private.attack.target
        assert np.any(found != begin)
        for attack in summary["attacks"]:
            [note] = states[attack["arm"]].clients[1].private.last_turn.injected
            assert note == 8
            assert attack["generator_steps"] == 1.0
        # Nobody but the adversary carries an attack.
        honest = states["known_d8"].clients[0]
        assert all(len(leaf) == 0 for leaf in tf.nest.flatten(honest.private))

    def test_keys_stay_with_their_owners(self, finished):
        _, experiment, states, _ = finished
        for name, state in states.items():
            tables = experiment.federations[name].evaluator.tables
            for client, table in zip(state.clients, tables, strict=True):
                np.testing.assert_array_equal(client.training, table.rows)

    def test_without_a_target_the_largest_counts_for_the_control_too(self, finished):
        known, _, searched = finished[3]["attacks"]
        assert known["largest"] is None
        assert [one["target"] for one in known["targets"]] == [1]
        largest = searched["largest"]
        assert searched["targets"][0]["target"] == largest["attack"]["class"]
        # What is pooled is the class shown best, of the same draws.
        [one] = searched["targets"]
        for name in ("ssim", "judge_share"):
            assert one["attack"][name] == searched["pooled"]["attack"][name]
        assert one["attack"]["ssim"] == largest["attack"]["ssim"]
        assert searched["elsewhere"]["attack"]["class"] in (0, 1)
        assert largest["attack"]["pairs"] == 2
        assert known["identity"] is None and searched["identity"] is None

    def test_every_pair_that_is_reached_counts(self, finished, monkeypatch):
        _, experiment, states, _ = finished
        arm = experiment.federations["drift_2_d8"]
        drawn = {
            name: program.draw(experiment, experiment.federations[name], state, 4, 3)
            for name, state in states.items()
        }
        score = evaluation.evaluate_targets

        def reached(inputs, *others, **settings):
            found = score(inputs, *others, **settings)
            for one in found["targets"]:
                # One of the two, and one for which it is not defined.
                one["reached"]["value"] = True if one["target"] == 0 else None
            return found

        monkeypatch.setattr(evaluation, "evaluate_targets", reached)
        quick = functools.partial(evaluation_lib.train_judge, epochs=1)
        monkeypatch.setattr(evaluation_lib, "train_judge", quick)
        data = experiment.data
        judge, window = evaluation_lib.build_judge(
            arm.evaluator.network, data.source, data.judge, seed=0
        )
        shown = {f"{name}/1": images[1] for name, images in drawn.items()}
        # What the victim holds of one class, in the control of the other.
        victim = data.federation.data[data.federation.victim(1)]
        stop = {name: victim.of_class(0).images[:4] for name in shown}
        stop[f"{arm.name}/1"] = victim.of_class(1).images[:4]
        kept = key_snapshots.Snapshots(
            {1: shown, 2: stop, 3: shown, 4: shown}, 4, data.source.foreground, window
        )
        instruments = evaluation._Instruments(judge, 0, kept)
        found = evaluation._score(data, arm, drawn, instruments, 2)
        best = found["largest"]["attack"]
        assert (best["reached_pairs"], best["pairs"]) == (1, 2)
        # Late snapshots of the very same pictures show what the pictures do.
        for name in ("attack", "control"):
            of = found["largest"][name]
            assert of["late_recovered"] == pytest.approx(of["recovered"], abs=1e-6)
            assert of["stop_recovered"] > 1.0

    def test_the_last_half_is_measured_on_its_snapshots(self, finished):
        path, experiment, _, summary = finished
        taken = np.load(path / "program_state" / "snapshots" / "round_2.npz")
        known = summary["attacks"][0]
        [one] = known["targets"]
        private = experiment.data.federation.data[0].of_class(1).images
        shown = similarity(
            taken["known_d8/1"],
            private,
            foreground=experiment.data.source.foreground,
            window=tuple(summary["visible_window"]),
        )
        # Of two rounds the last half is the second.
        ssim = float(shown.ssim.mean())
        assert one["late_ssim"]["attack"] == pytest.approx(ssim)
        floor, reference = one["floor"]["value"], one["reference"]["ssim"]
        late = (ssim - floor) / (reference - floor)
        assert one["late_recovered"]["attack"] == pytest.approx(late)
        assert known["pooled"]["late_recovered"] == one["late_recovered"]
        assert one["late_ssim"]["control"] != one["late_ssim"]["attack"]
        with (
            RunDirectory.open(path, {"test": True}) as directory,
            pytest.raises(InputError, match="no snapshot of round 4"),
        ):
            key_snapshots.load(directory, 4, foreground=True, window=None)

    def test_what_was_shown_when_everybody_was_trained(self, finished):
        path, experiment, _, summary = finished
        with RunDirectory.open(path, {"test": True}) as directory:
            kept = key_snapshots.load(
                directory,
                2,
                foreground=experiment.data.source.foreground,
                window=tuple(summary["visible_window"]),
            )
        figures = summary["attacks"][0]["targets"][0]
        private = experiment.data.federation.data[0].of_class(1).images
        control = experiment.federations["known_d8"].controls[1]
        arms = {"attack": "known_d8", "control": control}

        class ThreeOfFour:
            """Takes three of four pictures of the attack for its target."""

            def features(self, images):
                return np.all(images == kept.taken[2]["known_d8/1"])

            def all_probabilities(self, features):
                answers = np.arange(4 * 10) % 4 > 0 if features else np.zeros(40, bool)
                return np.eye(3)[answers.astype(int)]

        seen = (figures, private, arms, 1, kept)
        found = key_snapshots.stop_of_target(*seen, judge=ThreeOfFour(), round_num=2)
        assert figures["target"] == 1
        assert found["stop_judge_share"] == {"attack": 0.75, "control": 0.0}
        # Of these two rounds the last half is this very snapshot.
        late = key_snapshots.late_of_target(*seen)
        assert found["stop_ssim"] == late["late_ssim"]
        assert found["stop_recovered"] == late["late_recovered"]
        never = key_snapshots.stop_of_target(*seen, judge=None, round_num=None)
        assert never == dict.fromkeys(found, {})

    def test_the_first_snapshot_from_a_round_on(self):
        kept = key_snapshots.Snapshots(dict.fromkeys([10, 20, 25], {}), 25, True, None)
        found = [kept.first_from(round_num) for round_num in (1, 10, 11, 20, 25)]
        assert found == [10, 10, 20, 20, 25]
        assert kept.late() == [20, 25]

    def test_attacks_of_one_key_size_are_looked_at_in_one_round(self):
        arms = {
            name: types.SimpleNamespace(name=name, dimension=d, is_control=control)
            for name, d, control in (
                ("known_64", 64, False),
                ("random_64", 64, False),
                ("control_64", 64, True),
                ("never_64", 64, False),
                ("known_128", 128, False),
            )
        }
        experiment = types.SimpleNamespace(federations=arms)
        trained = dict(zip(arms, [3, 12, 21, None, 4], strict=True))
        kept = key_snapshots.Snapshots(dict.fromkeys([10, 20, 25], {}), 25, True, None)
        found = evaluation._stop_rounds(experiment, trained, kept)
        # A control that is trained later does not count, nor one that never is.
        assert found == {
            "known_64": 20,
            "random_64": 20,
            "never_64": None,
            "known_128": 10,
        }

    def test_a_run_that_is_trained_at_once_is_looked_at_there(
        self, finished, tmp_path, monkeypatch
    ):
        path, experiment, states, _ = finished
        copy = tmp_path / "copy"
        shutil.copytree(path, copy)
        monkeypatch.setattr(evaluation, "TRAINED", 0.0)
        monkeypatch.setattr(evaluation, "FINAL_SAMPLES", 4)
        quick = functools.partial(evaluation_lib.train_judge, epochs=1)
        monkeypatch.setattr(evaluation_lib, "train_judge", quick)
        with RunDirectory.open(copy, {"test": True}) as directory:
            clock = RunClock(directory, time.monotonic())
            found = evaluation.evaluate(experiment, states, directory, clock).summary
        assert [attack["stop_round"] for attack in found["attacks"]] == [1, 1, 1]
        known = found["attacks"][0]
        [one] = known["targets"]
        taken = np.load(copy / "program_state" / "snapshots" / "round_1.npz")
        shown = similarity(
            taken["known_d8/1"],
            experiment.data.federation.data[0].of_class(1).images,
            foreground=experiment.data.source.foreground,
            window=tuple(found["visible_window"]),
        )
        assert one["stop_ssim"]["attack"] == pytest.approx(float(shown.ssim.mean()))
        assert one["stop_ssim"] != one["late_ssim"]
        for figure in ("stop_ssim", "stop_recovered", "stop_judge_share"):
            assert set(one[figure]) == {"attack", "control"}
            assert known["pooled"][figure] == one[figure]

    def test_when_everybody_was_trained(self, finished, monkeypatch):
        assert evaluation._first_round([1, 2, 3], [0.9, 0.97, 0.5]) == 2
        assert evaluation._first_round([1], [0.9]) is None
        path, experiment, states, _ = finished
        with open(path / "metrics.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert "known_d8/task_accuracy" in rows[0]
        assert not any("task_accuracy_turn" in name for name in rows[0])
        least = {
            name: [float(row[f"{name}/own_accuracy_least"]) for row in rows]
            for name in ("known_d8", "1.0_d8", "drift_2_d8")
        }
        # Two rounds train nobody to .97: the most that there was has to do.
        enough = max(itertools.chain(*least.values()))
        monkeypatch.setattr(evaluation, "TRAINED", enough)
        # Pictures have nothing to do with it.
        judge = types.SimpleNamespace(accuracy=lambda reference: 0.0)
        for name, answer in (
            ("build_judge", (judge, (32, 32))),
            ("draw", {}),
            ("_score", {}),
            ("_write_reconstructions", None),
        ):
            monkeypatch.setattr(evaluation, name, lambda *_, a=answer, **__: a)
        with RunDirectory.open(path, {"test": True}) as directory:
            found = evaluation._evaluate_attacks(experiment, states, directory, {})
        trained = {
            name: 1 + values.index(enough) if enough in values else None
            for name, values in least.items()
        }
        # All are looked at where the last of those that are trained at all is.
        last = max(filter(None, trained.values()))
        assert [
            (attack["trained_round"], attack["stop_round"])
            for attack in found.summary["attacks"]
        ] == [(number, number and last) for number in trained.values()]
        for attack in found.summary["attacks"]:
            metric = f"{attack['arm']}/local_accuracy_least"
            local = [i for i, row in enumerate(rows, 1) if float(row[metric]) >= enough]
            assert attack["locally_trained_round"] == (local[0] if local else None)

    def test_reconstructions_claim_and_report(self, finished):
        path, _, _, summary = finished
        kept = read_reconstructions(path / "reconstructions.npz")
        assert kept.images.shape == (36, 32, 32, 1)
        claimed = [attack["targets"][0]["target"] for attack in summary["attacks"]]
        assert kept.labels.tolist() == list(np.repeat(claimed, 12))
        assert set(kept.clients) == {0}
        text = (path / "report.html").read_text()
        sections = (
            "Guesses compared",
            "drift:2, d = 8",
            "Before the last round",
            "Keys, accuracy and effort",
            "Every reconstruction",
        )
        places = [text.index(f"<h2>{words}") for words in sections]
        assert places == sorted(places)
        assert "not yet" in text
        assert (path / "figures" / "attack_all.png").stat().st_size > 0

    def test_results_have_a_row_for_each_attack(self, finished, tmp_path):
        for seed in (0, 1):
            folder = tmp_path / "keys_digits" / str(seed)
            folder.mkdir(parents=True)
            text = json.dumps(finished[3] | {"seed": seed})
            (folder / "summary.json").write_text(text)
        path = "results/keys_digits/README.md"
        page = results.render(tmp_path, {})[path]
        rows = [line for line in page.splitlines() if line.startswith("| ")]
        assert sum("drift:2" in row for row in rows) == 2
        # Columns that no attack fills are left out: nobody asks whom digits show.
        begin = "| seed | column of the picture | guess |"
        [header] = [row for row in rows if row.startswith(begin)]
        assert "| 0 | 3 | drift:2 |" in page
        assert "first round with all trained" in header and "reached, pairs" in header
        assert "right person" not in header
        for seed in (0, 1):
            text = json.dumps(_only(finished[3], "known") | {"seed": seed})
            (tmp_path / "keys_digits" / str(seed) / "summary.json").write_text(text)
        alone = results.render(tmp_path, {})[path]
        assert "largest of classes" not in alone and "column of" not in alone
        assert "recovered, known, d = 8, target 1:" in page
        assert (
            "recovered, common scale, drift:2, d = 8, control, largest of classes:"
            in page
        )
        best = finished[3]["attacks"][2]["largest"]
        above = best["attack"]["recovered"] - best["control"]["recovered"]
        # Twice the same run: no deviation.
        assert (
            "recovered, common scale, drift:2, d = 8, attack less control of the same "
            f"seed: {above:.2f} [{above:.2f}, {above:.2f}] (2 seeds)" in page
        )
        assert "| control's recovered, last half of rounds, common scale |" in header
        assert "another attacker's" not in header  # There is one.

    def test_a_run_goes_on_with_the_same_bits(self, finished, tmp_path):
        states = finished[2]
        guesses = parse_guesses(["drift:2"], SearchTurns(first_turn=1))
        settings = _settings(guesses=guesses, controls=False)
        experiment = program.build_experiment(settings, _data())
        for rounds in (1, 2):
            experiment = dataclasses.replace(
                experiment, settings=dataclasses.replace(settings, rounds=rounds)
            )
            with RunDirectory.open(tmp_path / "run", {"test": True}) as directory:
                resumed = _run(experiment, directory)
        [(name, state)] = resumed.items()
        for a, b in zip(
            tf.nest.flatten(state), tf.nest.flatten(states[name]), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def _only(summary, guess):
    """A summary with one of its attacks."""
    chosen = [attack for attack in summary["attacks"] if attack["guess"] == guess]
    return summary | {"attacks": chosen}


def test_two_adversaries_each_with_a_key_and_pictures_of_its_own(tmp_path):
    """As in figure 6: whichever shows a class of an honest participant best counts."""
    data = _data("0-1;2-3;4-5", (1, 2), (0, 1), classes=6)
    settings = _settings(rounds=1, guesses=parse_guesses(["random"], SearchTurns()))
    experiment = program.build_experiment(settings, data)
    states, found = _finish(experiment, tmp_path / "run")
    [attack] = found.summary["attacks"]
    assert [one["adversary"] for one in attack["overlap"]] == [1, 2]
    private = {number: states["random_d8"].clients[number].private for number in (1, 2)}
    assert np.any(private[1].target != private[2].target)
    drawn = found.drawn["random_d8"]
    assert sorted(drawn) == [1, 2]
    assert np.any(drawn[1] != drawn[2])
    # Each adversary with each class of the honest one; the best is that of one pair.
    largest = attack["largest"]["attack"]
    pairs = [(1, 0), (1, 1), (2, 0), (2, 1)]
    [best] = attack["targets"]
    assert (best["adversary"], best["target"]) == pairs[largest["entry"]]
    assert (largest["class"], largest["ssim"]) == (
        best["target"],
        best["attack"]["ssim"],
    )
    # Each adversary's pictures stand for the class that they show best themselves.
    mine = {one["adversary"]: one for one in attack["by_adversary"]}
    assert list(mine) == [1, 2]
    assert mine[best["adversary"]]["recovered"] == largest["recovered"]
    assert max(one["recovered"] for one in mine.values()) == largest["recovered"]
    kept = read_reconstructions(tmp_path / "run" / "reconstructions.npz")
    assert kept.labels.tolist() == [mine[1]["class"]] * 12 + [mine[2]["class"]] * 12
    np.testing.assert_array_equal(kept.images, np.concatenate([drawn[1], drawn[2]]))
    # In the control nobody holds what either could have found.
    arm = experiment.federations["control_random_d8"].arm
    held = [{int(y) for _, ys in part for y in ys} for part in arm.datasets]
    assert held[0] == set()


def _check_that_others_are_told(experiment, found, path):
    """A leak that no score counts is one, in what is printed and in the report."""
    told = "But it draws others."
    with (
        pytest.MonkeyPatch.context() as patch,
        RunDirectory.open(path, {"test": True}) as directory,
    ):
        report = functools.partial(
            key_protected_report._attack_report, experiment, found, directory
        )
        verdict = ("text of the figures", "none")
        patch.setattr(key_protected_report.html, "verdict", lambda *a, **k: verdict)
        assert report().verdict_good == "none"
        patch.setattr(
            key_protected_report, "_of_other_adversaries", lambda *others: told
        )
        assert report().verdict.split("\n\n")[0].endswith(told)
        assert report().verdict_good == "partial"


def test_where_everybody_attacks_each_is_a_victim_with_a_control_of_its_own(tmp_path):
    """As in figure 6 of the paper, where nobody is honest."""
    data = _data("0-1;2-3;4,0", (0, 1, 2), (2, 4, 3), classes=5, all_may_attack=True)
    guesses = parse_guesses(["known", "random"], SearchTurns())
    # In the second round all have seen what others did, as their pictures show.
    experiment = program.build_experiment(_settings(rounds=2, guesses=guesses), data)
    states, found = _finish(experiment, tmp_path / "run")
    arms = experiment.federations
    for name in ("random_d8", "known_d8"):
        assert arms[name].controls == {n: f"control_{name}_{n}" for n in range(3)}
    tables = arms["known_d8"].evaluator.tables
    held = {
        # An adversary's labels are rows of its keys, of which the first is the fakes'.
        name: [
            {table.classes[int(y) - 1] for _, ys in part for y in ys}
            for table, part in zip(tables, kept.arm.datasets, strict=True)
        ]
        for name, kept in arms.items()
    }
    assert held["random_d8"] == held["known_d8"] == [{0, 1}, {2, 3}, {4, 0}]
    assert held["control_random_d8_1"] == [set(), {2, 3}, set()]
    assert held["control_known_d8_1"] == [{0, 1}, {2, 3}, {0}]  # It wants a 4.
    assert list(found.drawn["control_known_d8_1"]) == [1]
    assert sorted(found.drawn["known_d8"]) == [0, 1, 2]
    # An adversary's guess of the target's key is its victim's key.
    private = states["known_d8"].clients[1].private
    np.testing.assert_allclose(only_row(private).target, tables[2].key_of(4))

    known, attack = found.summary["attacks"]
    assert [(one["adversary"], one["target"]) for one in known["targets"]] == [
        *((0, 2), (1, 4), (2, 3))
    ]
    # The others' classes but what an adversary holds itself, as 2 holds a 0.
    pairs = [(0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (1, 4), (2, 1), (2, 2), (2, 3)]
    assert program.unknown_classes(data.federation) == pairs
    largest = attack["largest"]
    assert largest["attack"]["pairs"] == 9
    best = pairs[largest["control"]["entry"]]
    assert (largest["control"]["adversary"], largest["control"]["class"]) == best
    assert all(one["fellow"] is None for one in attack["overlap"])
    kept = read_reconstructions(tmp_path / "run" / "reconstructions.npz")
    assert len(kept.labels) == 6 * 12  # Known, then random, three adversaries each.
    claimed = kept.labels[36::12].tolist(), kept.clients[36::12].tolist()
    for number, (label, owner) in enumerate(zip(*claimed, strict=True)):
        assert (number, label) in pairs and owner == data.federation.victim(label)
    _check_that_others_are_told(experiment, found, tmp_path / "run")
    # The report hides nobody's pictures.
    names = {path.stem for path in (tmp_path / "run" / "figures").glob("*.png")}
    for number, label in enumerate(claimed[0]):
        assert f"random_d8_{number}_{label}" in names
        assert f"control_random_d8_{number}_{number}_{label}" in names

    # Each is compared with its own control.
    shades = [
        np.ones([4, 16, 16, 1]),
        -np.ones([4, 16, 16, 1]),
        np.zeros([4, 16, 16, 1]),
    ]
    controls = {f"control_random_d8_{n}": {n: shades[n]} for n in range(3)}
    compared = evaluation._control_pictures(arms["random_d8"], controls)
    assert [compared[number] is shades[number] for number in range(3)] == 3 * [True]
    similar = similarity(
        found.drawn["control_known_d8_2"][2],
        data.federation.data[1].of_class(3).images,
        foreground=data.source.foreground,
        window=found.window,
    )
    ssim = known["targets"][2]["control"]["ssim"]
    assert ssim == pytest.approx(float(similar.ssim.mean()))


def test_the_binary_lets_everybody_attack(forked, tmp_path):
    """What is refused is something else, which is looked at later."""
    everybody = ["--adversaries=0,1", "--targets=5,0", "--dimensions=1"]
    path = f"--output_dir={tmp_path / 'run'}"
    done = forked("experiments.run_key_protected", *everybody, path)
    assert done.returncode == 2
    assert "--dimensions has 1: expected 2 to" in done.stderr


@pytest.mark.parametrize("distribution", list(KeyDistribution))
def test_a_search_draws_keys_as_everybody_does(monkeypatch, distribution):
    searches = []
    build = program.build_key_search

    def noted(search, *others):
        searches.append(search)
        return build(search, *others)

    monkeypatch.setattr(program, "build_key_search", noted)
    settings = _settings(
        guesses=parse_guesses(["best:2"], SearchTurns(first_turn=1)),
        keys=KeySettings(fixed_from=16, hidden=8, distribution=distribution),
    )
    program.build_experiment(settings, _data())
    assert [search.distribution for search in searches] == [distribution]


def test_accuracy_of_shared_classes(tmp_path):
    settings = _settings(
        study=program.Study.ACCURACY,
        dimensions=[8, 16],
        guesses=[],
        keys=KeySettings(fixed_from=16, hidden=8, normalisation=Normalisation.BATCH),
        training=KeyTraining(batch_size=8, learning_rate=0.01),
    )
    data = _data("0-1;1-2", (), ())
    experiment = program.build_experiment(settings, data)
    states, found = _finish(experiment, tmp_path / "run")
    short, long = found.summary["accuracy"]
    assert (short["dimension"], long["dimension"]) == (8, 16)
    # Tested on the three classes that have a key; the shared one has two.
    assert [len(row["own"]) for row in short["class_scores"]] == [1, 2, 1]
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    turns = [float(last[f"d8/task_accuracy_turn_{turn}"]) for turn in (1, 2)]
    assert short["participant_accuracy"] == pytest.approx(np.mean(turns))
    assert short["own_accuracy"] == pytest.approx(float(last["d8/own_accuracy"]))
    # A participant's own model right after its turn is the server's.
    evaluator = experiment.federations["d8"].evaluator
    assert len(evaluator.test) == 10 and short["all_tests"] == 18
    measure = functools.partial(evaluator.participants_accuracy, states["d8"])
    assert measure(evaluator.test) == pytest.approx(short["participant_accuracy"])
    every = measure(data.reference.of_classes([0, 1, 2]))
    assert short["participant_accuracy_all_tests"] == every
    assert every != short["participant_accuracy"]
    # Without a fixed layer there are no moments; behind one owners' differ from all's.
    assert short["participant_accuracy_own_moments"] == every
    every = long["participant_accuracy_all_tests"]
    assert long["participant_accuracy_own_moments"] != every
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Mean participant accuracy" in page
    assert "of all tests, by own moments" in page


@pytest.mark.parametrize("study", ["orthogonality", "shared_classes"])
def test_keys_alone(tmp_path, study):
    settings = _settings(study=program.Study(study), dimensions=[4, 64])
    experiment = program.build_experiment(settings, None)
    _, found = _finish(experiment, tmp_path / "run")
    rows = found.summary["keys"]
    assert [(row["dimension"], row["distribution"]) for row in rows] == [
        (d, name) for d in (4, 64) for name in ("normal", "uniform")
    ]
    name = "largest" if study == "orthogonality" else "score_mean"
    for row in rows:
        arm = experiment.geometry[row["distribution"]]
        number = settings.dimensions.index(row["dimension"]) + 1
        _, metrics = asyncio.run(arm.run_round(arm.initialize(), number))
        assert {key: row[key] for key in metrics} == pytest.approx(metrics)
    if study == "shared_classes":
        assert rows[2]["score_least"] > 0.5
    (tmp_path / "docs" / "keys_fig" / "0").mkdir(parents=True)
    text = json.dumps(found.summary)
    (tmp_path / "docs" / "keys_fig" / "0" / "summary.json").write_text(text)
    path = "results/keys_fig/README.md"
    assert f"{rows[0][name]:.4f}" in results.render(tmp_path / "docs", {})[path]
    # Three seeds, by hand: .1, .2 and .3 have a deviation of .1, and t is 4.303.
    for seed, value in enumerate((0.1, 0.2, 0.3)):
        folder = tmp_path / "docs" / "keys_fig" / str(seed)
        folder.mkdir(exist_ok=True)
        kept = {"distribution": "normal", "dimension": 4, name: value}
        text = json.dumps(found.summary | {"seed": seed, "keys": [kept]})
        (folder / "summary.json").write_text(text)
    page = results.render(tmp_path / "docs", {})[path]
    assert "| normal | 4 | 0.2000 [-0.0484, 0.4484] (3 seeds) |" in page


@pytest.mark.parametrize(
    "flags,message",
    [
        ("--guesses=oracle", "--guesses has 'oracle'"),
        ("--held_out_per_class=3", "is 3 with --study=attack: expected --study="),
        (
            "--held_out_per_class=3 --study=shared_classes",
            "is 3 with --study=shared_classes: expected --study=",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, flags, message, forked):
    done = forked(
        "experiments.run_key_protected",
        *flags.split(),
        f"--output_dir={tmp_path / 'run'}",
    )
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()
