"""Flags of runs with class keys: all of them reach settings, data and config.json."""

import importlib
import json
import sys

import pytest
from absl import flags

import experiments
from experiments.client_gan_program import GeneratorOptimizer, GeneratorSettings
from experiments.key_federation import KeySettings
from experiments.key_geometry_arm import Geometry
from experiments.key_guesses import Guess, GuessKind
from experiments.key_protected_program import Settings, Study
from tff_leak.attacks.client_gan import Replica
from tff_leak.attacks.key_search import KeySearch, SearchMethod
from tff_leak.defences.key_protection import (
    KeyDistribution,
    KeyTraining,
    Normalisation,
    Regularised,
)

# No flag, and no field of one, has its default.
GIVEN = {
    "output_dir": "runs/here",
    "data_dir": "data/here",
    "seed": "5",
    "threads": "3",
    "judges": "judges/here",
    "runtime": "native",
    "precision": "bfloat16",
    "study": "accuracy",
    "dataset": "mnist",
    "rounds": "7",
    "per_class": "8",
    "held_out_per_class": "9",
    "participants": "0-2;3-5;6",
    "adversaries": "1,2",
    "targets": "0,2",
    "dimensions": "16,32",
    "guesses": "0.5,drift:4",
    "search": "first_turn=2,turns=3,probes=4",
    "controls": "false",
    "own_controls": "true",
    "keys": "distribution=normal,fixed_from=17,hidden=18,normalisation=batch,"
    "hit_score=0.25",
    "training": "learning_rate=0.5,batch_size=6,epochs=2,regularisation=0.125,"
    "regularised=all,beta_1=0.75,beta_2=0.5,epsilon=0.25",
    "attack": "generator_steps=2,batch_size=3,fakes_per_turn=4,influence=false,"
    "stop_share=0.5,stop_window=5,replay_turns=6,replica=fetched",
    "generator": "optimizer=adam,learning_rate=0.25,momentum=0.75,base_filters=4",
    "geometry": "trials=10,keys=11,others=12",
    "snapshot_every": "4",
}

SETTINGS = Settings(
    study=Study.ACCURACY,
    rounds=7,
    seed=5,
    dimensions=[16, 32],
    keys=KeySettings(KeyDistribution.NORMAL, 17, 18, Normalisation.BATCH, 0.25),
    training=KeyTraining(0.5, 6, 2, 0.125, Regularised.ALL, 0.75, 0.5, 0.25),
    guesses=[
        Guess("0.5", GuessKind.DISTANCE, distance=0.5),
        Guess(
            "drift:4",
            GuessKind.SEARCH,
            search=KeySearch(SearchMethod.DRIFT, 4, first_turn=2, turns=3, probes=4),
        ),
    ],
    controls=False,
    attack={
        "generator_steps": 2,
        "batch_size": 3,
        "fakes_per_turn": 4,
        "influence": False,
        "stop_share": 0.5,
        "stop_window": 5,
        "replay_turns": 6,
        "replica": Replica.FETCHED,
    },
    generator=GeneratorSettings(GeneratorOptimizer.ADAM, 0.25, 0.75, 4),
    geometry=Geometry(10, 11, 12),
    snapshot_every=4,
    own_controls=True,
)

CONFIG = {
    "experiment": "key_protected",
    "data_dir": "data/here",
    "seed": 5,
    "threads": 3,
    "runtime": "native",
    "precision": "bfloat16",
    "study": "accuracy",
    "dataset": "mnist",
    "rounds": 7,
    "per_class": 8,
    "held_out_per_class": 9,
    "participants": "0-2;3-5;6",
    "adversaries": [1, 2],
    "targets": [0, 2],
    "dimensions": [16, 32],
    "guesses": ["0.5", "drift:4"],
    "search": {"first_turn": 2, "turns": 3, "probes": 4},
    "controls": False,
    "own_controls": True,
    "keys": {
        "distribution": "normal",
        "fixed_from": 17,
        "hidden": 18,
        "normalisation": "batch",
        "hit_score": 0.25,
    },
    "training": {
        "learning_rate": 0.5,
        "batch_size": 6,
        "epochs": 2,
        "regularisation": 0.125,
        "regularised": "all",
        "beta_1": 0.75,
        "beta_2": 0.5,
        "epsilon": 0.25,
    },
    "attack": {
        "generator_steps": 2,
        "batch_size": 3,
        "fakes_per_turn": 4,
        "influence": False,
        "start_accuracy": 0.0,  # without a flag
        "stop_share": 0.5,
        "stop_window": 5,
        "replay_turns": 6,
        "replica": "fetched",
    },
    "generator": {
        "optimizer": "adam",
        "learning_rate": 0.25,
        "momentum": 0.75,
        "base_filters": 4,
    },
    "geometry": {"trials": 10, "keys": 11, "others": 12},
    "snapshot_every": 4,
}

DATA = {
    "data_dir": "data/here",
    "per_class": 8,
    "participants": "0-2;3-5;6",
    "adversaries": [1, 2],
    "targets": [0, 2],
    "seed": 5,
    "held_out_per_class": 9,
    "all_may_attack": True,
}

_WITH_FLAGS = ("run_key_protected", "common_flags", "place_flags")


@pytest.fixture(scope="module")
def binary():
    """The program. Other programs have flags of such names: each time some are gone."""
    others = {name: flags.FLAGS[name] for name in GIVEN if name in flags.FLAGS}
    for name in others:
        delattr(flags.FLAGS, name)
    for name in _WITH_FLAGS:  # Imported before, they would define none.
        sys.modules.pop(f"experiments.{name}", None)
    before = set(flags.FLAGS)
    yield importlib.import_module("experiments.run_key_protected")
    flags.FLAGS.unparse_flags()
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    for name in _WITH_FLAGS:
        del sys.modules[f"experiments.{name}"]
        delattr(experiments, name)
    for name, flag in others.items():
        flags.FLAGS[name] = flag


@pytest.fixture
def give(binary):
    """Reads flags; those that are not named have their defaults."""

    def read(**given):
        flags.FLAGS.unparse_flags()
        for flag in flags.FLAGS.get_key_flags_for_module(binary):
            flag.unparse()
        flags.FLAGS(["x", *(f"--{name}={value}" for name, value in given.items())])
        return binary

    return read


def test_nothing_is_left_at_its_default(give):
    binary = give(**GIVEN)
    known = flags.FLAGS.get_key_flags_for_module(binary)
    assert {flag.name for flag in known} == set(GIVEN)
    assert [flag.name for flag in known if flag.value == flag.default] == []
    defaults = give()._settings()
    for group in ("keys", "training", "generator", "geometry"):
        ours, theirs = (vars(getattr(s, group)) for s in (SETTINGS, defaults))
        assert [name for name in ours if ours[name] == theirs[name]] == []


def test_every_flag_reaches_settings_config_or_data(give, monkeypatch):
    binary = give(**GIVEN)
    settings = binary._settings()
    assert settings == SETTINGS
    assert binary._config(settings, 3) == CONFIG
    monkeypatch.setattr(binary, "load_data", lambda *given, **more: (given, more))
    assert binary._data(5) == (("mnist",), DATA)


def test_settings_that_came_later_are_left_out_where_nobody_asks_for_them(give):
    binary = give()
    config = binary._config(binary._settings(), 1)
    assert set(CONFIG) - set(config) == {"held_out_per_class", "own_controls"}


def test_keys_alone_have_a_round_for_each_dimension(give):
    settings = give(study="orthogonality", rounds="7", dimensions="4,8,16")._settings()
    assert settings.rounds == 3


@pytest.fixture
def played(binary, monkeypatch):
    """What the program hands on, without anything computed."""
    seen = {}

    def note(name, answer):
        def noted(*given, **more):
            seen[name] = given, more
            return answer

        return noted

    async def run(experiment, directory, progress):
        text = (directory.path / "config.json").read_text()
        seen["run"] = experiment, json.loads(text)
        return "states"

    monkeypatch.setattr(binary.key_protected_program, "run", run)
    for module, function, answer in (
        (binary.common_flags, "start", 3),
        (binary.common_flags, "use_runtime", None),
        (binary, "load_data", "data"),
        (binary.key_protected_program, "build_experiment", "built"),
        (binary.key_protected_evaluation, "evaluate", "evaluation"),
        (binary.key_protected_report, "write_report", "A finding."),
    ):
        monkeypatch.setattr(module, function, note(function, answer))
    return seen


def test_the_program_hands_on_what_it_made(give, played, tmp_path, capsys):
    path = tmp_path / "run"
    binary = give(**GIVEN | {"output_dir": path})
    binary.main([])
    assert played["load_data"][1] == DATA
    assert played["build_experiment"] == ((SETTINGS, "data"), {})
    experiment, config = played["run"]
    assert experiment == "built"
    assert {name: config[name] for name in CONFIG} == CONFIG
    assert played["use_runtime"] == ((3,), {})
    (experiment, states, directory, _), _ = played["evaluate"]
    assert (experiment, states, directory.path) == ("built", "states", path)
    assert played["write_report"][0][:2] == ("built", "evaluation")
    assert capsys.readouterr().out == f"A finding.\nReport: {path / 'report.html'}\n"
    # Data may have moved when the run goes on.
    give(**GIVEN | {"output_dir": path, "data_dir": "elsewhere"}).main([])


def test_keys_alone_load_no_data(give, played, tmp_path):
    give(study="shared_classes", output_dir=tmp_path / "run").main([])
    (settings, data), _ = played["build_experiment"]
    assert settings.study is Study.SHARED_CLASSES
    assert data is None and "load_data" not in played
