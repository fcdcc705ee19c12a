"""Every preset can be read by its binary, and says what it is."""

import pathlib
import re

import pytest

from experiments import preset_files, presets
from experiments.key_guesses import parse_guesses
from experiments.settings import build_optional, parse, plain
from tff_leak.attacks.deviations import STRENGTHENED, Deviations
from tff_leak.defences.sparse_vector import SparseVector
from tff_leak.defences.user_level_dp import UserLevelDp
from tff_leak.errors import InputError
from tff_leak.models.batched_sgd import BatchSgd

CONFIGS = sorted(preset_files.CONFIGS.glob("*.flags"))
BINARIES = preset_files.CONFIGS.parent


def _binary(preset: pathlib.Path) -> str:
    if preset.stem.startswith("dssgd"):
        return "run_dssgd"
    if preset.stem.startswith("keys_"):
        return "run_key_protected"
    if preset.stem.startswith("mgan_fig6_hitaj"):
        return "run_client_gan"
    if preset.stem.startswith("mgan"):
        inverted = "inversion" in preset.stem
        return "run_model_inversion" if inverted else "run_server_gan"
    if preset.stem.startswith("leak_matrix"):
        return "run_leak_matrix"
    if preset.stem.startswith(("inversion_", "first_layer_", "membership_")):
        return "run_update_attacks"
    return "run_model_inversion" if "_mi_" in preset.stem else "run_client_gan"


@pytest.mark.parametrize("preset", CONFIGS, ids=lambda path: path.stem)
def test_its_flags_and_settings_exist(preset):
    source = presets.flag_sources(_binary(preset))
    defined = set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", source))
    flags = preset_files.read(preset)
    assert set(flags) <= defined
    experiment = _binary(preset).removeprefix("run_")
    for name, text in flags.items():
        cls = presets.settings_of(experiment, name)
        if cls is None or name == "sparse_vector":
            continue
        given = presets.fixed_fields(experiment, name)
        found = parse(cls, text, flag=name, given=given)
        if name != "attack":
            # Out-of-range values are refused here as well.
            participants = flags.get("participants", "")
            # Forty participants are written 40x0-4; the program counts them.
            several = sum(int(n) for n in re.findall(r"(\d+)x", participants))
            clients = int(flags.get("clients", several or 10))
            cls(**found, **dict.fromkeys(given, clients))
    parse_guesses(flags.get("guesses", "known").split(","))
    private = flags.get("sparse_vector", "")
    assert bool(build_optional(SparseVector, private, flag="sparse_vector")) == bool(
        private
    )


@pytest.mark.parametrize("preset", CONFIGS, ids=lambda path: path.stem)
def test_it_begins_with_what_it_is(preset):
    assert preset.read_text().startswith("# ")


@pytest.mark.parametrize(
    "preset",
    [path for path in CONFIGS if path.stem.endswith("_quick")],
    ids=lambda path: path.stem,
)
def test_a_quick_one_is_another_preset_made_shorter(preset):
    [name] = re.findall(
        r"--flagfile=experiments/configs/(\w+)\.flags", preset.read_text()
    )
    assert preset.stem.startswith(name.removesuffix("_small"))
    quick, whole = preset_files.read(preset), preset_files.read(preset.with_stem(name))
    for key in ("dataset", "participants", "targets", "sharing", "sparse_vector"):
        assert quick.get(key) == whole.get(key)
    for key in ("study", "adversaries", "keys", "angle", "mode", "server", "clients"):
        assert quick.get(key) == whole.get(key)
    for key in ("property", "classes_per_client", "per_class", "auxiliary", "network"):
        assert quick.get(key) == whole.get(key) or quick.get("dataset") == "mnist"
    if "matrix" in whole:  # Its runs are shorter; test_leak_matrix_cells has them.
        assert quick["matrix"] == whole["matrix"]
        assert (quick.get("quick"), whole.get("quick")) == ("true", None)
        return
    if "geometry" in whole:  # Keys alone have no rounds.
        trials = [presets.Geometry(**_geometry(one)).trials for one in (quick, whole)]
        assert trials[0] < trials[1]
        return
    length = "epochs" if "epochs" in whole else "rounds"
    assert int(quick[length]) < int(whole[length])


def _geometry(flags):
    return parse(presets.Geometry, flags["geometry"], flag="geometry")


def test_a_flag_without_its_value_is_refused(tmp_path):
    preset = tmp_path / "short.flags"
    preset.write_text("# What it is.\n\n--rounds=2\n--own_controls\n")
    with pytest.raises(InputError, match="short.flags has the line '--own_controls'"):
        preset_files.read(preset)


def test_presets_that_the_readme_names_are_there():
    readme = (BINARIES.parent / "README.md").read_text()
    named = set(re.findall(r"`(hitaj_\w+)`", readme))
    assert len(named) > 10
    keys = set(re.findall(r"`(keys_\w+)`", readme))
    assert len(keys) > 8
    servers = set(re.findall(r"`(mgan_\w+)`", readme))
    assert len(servers) > 2
    matrices = set(re.findall(r"`(leak_matrix_\w+)`", readme))
    assert len(matrices) > 2
    small = set(re.findall(r"`((?:inversion|first_layer|membership)_\w+)`", readme))
    assert len(small) > 6
    named |= keys | servers | matrices | small
    assert named <= {path.stem for path in CONFIGS}


def _config(**changes):
    """A run of `hitaj_fig6b_small` as its `config.json` has it."""
    config = {
        "experiment": "client_gan",
        "dataset": "mnist",
        "seed": 5,
        "threads": 1,
        "rounds": 150,
        "per_class": 200,
        "participants": "0-4;5-9",
        "adversaries": [1],
        "targets": [2],
        "arms": ["attack", "control", "passive"],
        "order": "fixed",
        "max_staleness": 0,
        "precision": "float32",
        "sharing": {"upload_fraction": 0.1, "download_fraction": 1.0, "bound": None},
        "training": {"learning_rate": 0.02, "batch_size": 32, "epochs": 1},
        "attack": {
            "generator_steps": 10,
            "fakes_per_turn": 400,
            "stop_window": 1,
            "stop_share": 0.5,
        },
        "generator": {"optimizer": "sgd", "learning_rate": 0.02, "base_filters": 16},
    }
    return _changed(config, changes)


def _changed(config, changes):
    """Settings of a part are changed one by one."""
    both = {
        name: config[name] | value
        for name, value in changes.items()
        if isinstance(value, dict) and isinstance(config.get(name), dict)
    }
    return config | changes | both


def test_a_run_of_a_preset_has_no_differences():
    preset = preset_files.CONFIGS / "hitaj_fig6b_small.flags"
    assert presets.differences(preset, _config()) == []


@pytest.mark.parametrize(
    "changes, named",
    [
        # What the preset does not name has the binary's default.
        ({"sparse_vector": {"epsilon_per_parameter": 10.0}}, "sparse_vector"),
        ({"order": "random"}, "order=random, expected fixed"),
        ({"precision": "bfloat16"}, "precision"),
        (
            {"training": {"learning_rate": 0.02, "batch_size": 32, "epochs": 3}},
            "epochs",
        ),
        ({"attack": {"replay_turns": 5}}, "attack replay_turns=5, expected 0"),
        # And what it names its own.
        ({"per_class": None}, "per_class=None, expected 200"),
        ({"sharing": {"upload_fraction": 1.0}}, "upload_fraction=1.0, expected 0.1"),
        ({"arms": ["attack"]}, "arms=attack, expected attack,control"),
        ({"generator": None}, "no generator, expected optimizer"),
    ],
)
def test_a_run_with_another_setting_differs(changes, named):
    preset = preset_files.CONFIGS / "hitaj_fig6b_small.flags"
    [difference] = presets.differences(preset, _config(**changes))
    assert named in difference


def test_a_binary_without_targets_is_compared_as_well():
    config = {"experiment": "dssgd", "dataset": "mnist", "rounds": 20}
    config |= {"participants": "0-4;5-9", "sharing": {}}
    config["training"] = {"learning_rate": 0.02, "batch_size": 64}
    preset = preset_files.CONFIGS / "dssgd_mnist.flags"
    assert presets.differences(preset, config) == []
    [difference] = presets.differences(preset, config | {"rounds": 3})
    assert difference == "rounds=3, expected 20"


def _keys_config(**changes):
    """A run of `keys_fig3_quick` as its `config.json` has it."""
    config = {
        "experiment": "key_protected",
        "study": "attack",
        "dataset": "mnist",
        "rounds": 40,
        "per_class": 200,
        "participants": "0-4;5-9",
        "adversaries": [1],
        "targets": [2],
        "dimensions": [256],
        "guesses": ["known"],
        "controls": False,
        "training": {
            "learning_rate": 0.001,
            "batch_size": 32,
            "epochs": 1,
            "regularised": "weights",
        },
        "keys": {"hidden": 128, "normalisation": "instance", "hit_score": 0.8},
    }
    return _changed(config, changes)


def test_a_run_with_keys_is_compared_by_its_own_training():
    preset = preset_files.CONFIGS / "keys_fig3_quick.flags"
    found = presets.differences(preset, _keys_config())
    assert [
        text for text in found if "attack" not in text and "gener" not in text
    ] == []


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"controls": True}, "controls=True, expected false"),
        ({"guesses": ["random"]}, "guesses=random, expected known"),
        ({"dimensions": [64]}, "dimensions=64, expected 256"),
        ({"keys": {"hidden": 64}}, "keys hidden=64, expected 128"),
        ({"training": {"regularisation": 1.0}}, "regularisation=1.0"),
    ],
)
def test_a_run_with_keys_and_another_setting_differs(changes, named):
    preset = preset_files.CONFIGS / "keys_fig3_quick.flags"
    found = presets.differences(preset, _keys_config(**changes))
    assert any(named in text for text in found)


def test_a_run_of_before_lambda_had_a_choice_had_it_on_all_parameters():
    config = _keys_config()
    del config["training"]["regularised"]
    preset = preset_files.CONFIGS / "keys_fig3_quick.flags"
    found = presets.differences(preset, config)
    assert "training regularised=all, expected weights" in found


def test_an_inversion_without_its_controls_is_no_run_of_the_preset():
    preset = preset_files.CONFIGS / "hitaj_fig5_mi_mlp.flags"
    config = {"experiment": "model_inversion", "arms": ["attack"]}
    assert any("arms=attack" in text for text in presets.differences(preset, config))


def test_what_a_run_does_not_know_is_its_default():
    """And so no run of a preset that wants something else."""
    preset = preset_files.CONFIGS / "hitaj_fig6b_small.flags"
    config = _config()
    del config["attack"]["fakes_per_turn"], config["per_class"]
    found = presets.differences(preset, config)
    assert len(found) == 2
    assert "no per_class, expected 200" in found
    config = _config()
    # Younger than the run, and at its default in the preset.
    del config["max_staleness"], config["training"]["epochs"]
    assert presets.differences(preset, config) == []


def test_targets_that_a_preset_names_are_the_runs():
    preset = preset_files.CONFIGS / "hitaj_fig10_small.flags"
    config = _config(sharing={}, attack={"generator_steps": 20})
    assert any("targets=2" in text for text in presets.differences(preset, config))


def test_a_leak_matrix_may_run_anywhere_but_not_with_other_seeds():
    preset = preset_files.CONFIGS / "leak_matrix_digits_quick.flags"
    config = {"experiment": "leak_matrix", "matrix": "digits", "quick": True}
    config |= {"seeds": [0, 1], "attacks": [], "defences": []}
    config |= {"workers": 7, "threads_per_job": 2, "ray_address": "auto"}
    assert presets.differences(preset, config) == []
    for changes, named in (
        ({"seeds": [0]}, "seeds=0, expected 0,1"),
        ({"defences": ["none"]}, "defences=none, expected none,selective_sharing,"),
    ):
        [found] = presets.differences(preset, config | changes)
        assert found.startswith(named)
    # One that is not quick has more cells as well.
    found = presets.differences(preset, config | {"quick": False})
    assert len(found) == 3 and "quick=False, expected true" in found


def test_a_server_gan_is_compared_with_the_settings_of_its_mode():
    preset = preset_files.CONFIGS / "mgan_fig4_strengthened.flags"
    config = {
        "experiment": "server_gan",
        "mode": "strengthened",
        "rounds": 30,
        "angle": -55.0,
        "arms": ["attack", "control", "honest"],
        "training": plain(BatchSgd(0.002)),
        "attack": {
            "generator_steps": 200,
            "discriminator_steps": 200,
            "discriminator_growth": 0,
            "stop_share": None,
        },
        "deviations": plain(STRENGTHENED),
        "gan": {"learning_rate": 0.001, "batch_size": 32, "planes": 32},
        "matching": {
            "images": 9,
            "iterations": 60,
            "gamma": 0.025,
            "tv_weight": 0.001,
            "start_noise": 0.5,
        },
    }
    assert presets.differences(preset, config) == []
    for changes, named in (
        ({"deviations": plain(Deviations())}, "deviations noise=0.0, expected 0.1"),
        ({"attack": {"stop_share": 0.5}}, "attack stop_share=0.5, expected None"),
        ({"gan": {"planes": 16}}, "gan planes=16, expected 32"),
        ({"matching": {"images": 3}}, "matching images=3, expected 9"),
        ({"angle": 40.0}, "angle=40.0, expected -55"),
        ({"training": plain(BatchSgd(0.1))}, "training learning_rate=0.1"),
    ):
        found = presets.differences(preset, _changed(config, changes))
        assert any(text.startswith(named) for text in found), (named, found)


def _update_config(**changes):
    """A run of `membership_digits_user_dp` as its `config.json` has it."""
    preset = preset_files.read(preset_files.CONFIGS / "membership_digits_user_dp.flags")
    config = {
        "experiment": "update_attacks",
        **presets.defaults("run_update_attacks"),
        **{name: text for name, text in preset.items() if name != "training"},
        "clients": int(preset["clients"]),
        "training": plain(
            BatchSgd(**parse(BatchSgd, preset["training"], flag="training"))
        ),
        "inversion": None,
    }
    private = parse(UserLevelDp, preset["user_dp"], flag="user_dp")
    config["user_dp"] = plain(UserLevelDp(**private, clients_per_round=40))
    for name in ("record_dp", "local_dp", "secure_aggregation"):
        del config[name]
    return _changed(config, changes)


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"attack": "first_layer"}, "attack=first_layer, expected membership"),
        ({"user_dp": {"mechanism": "tree"}}, "user_dp mechanism=tree, expected fixed"),
        ({"user_dp": {"clients_per_round": 50}}, "user_dp clients_per_round=50"),
        ({"local_dp": {"clip": 1.0}}, "local_dp={'clip': 1.0}, expected none"),
        ({"secure_aggregation": {"bound": 1.0}}, "secure_aggregation="),
        ({"training": {"momentum": 0.5}}, "training momentum=0.5, expected 0.0"),
    ],
)
def test_a_run_under_another_defence_differs(changes, named):
    preset = preset_files.CONFIGS / "membership_digits_user_dp.flags"
    assert presets.differences(preset, _update_config()) == []
    [difference] = presets.differences(preset, _update_config(**changes))
    assert difference.startswith(named)
