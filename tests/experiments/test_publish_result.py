"""Only runs of a preset are published under its name."""

import pytest

from experiments import publish_result
from tff_leak.errors import InputError

CONFIG = {
    "seed": 4,
    "dataset": "mnist",
    "per_class": 200,
    "targets": [1],
    "learning_rate_decay": 5e-4,
    "arms": ["attack", "control", "passive"],
    "training": {"learning_rate": 0.02, "batch_size": 32, "epochs": 1},
}


@pytest.fixture
def presets(tmp_path, monkeypatch):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "base.flags").write_text(
        "# What it is.\n--dataset=mnist\n--per_class=200\n--targets=3\n"
        "--learning_rate_decay=0.0005\n"
        "--arms=attack,control\n--training=learning_rate=0.02,batch_size=32\n"
    )
    (folder / "one.flags").write_text(
        "--flagfile=experiments/configs/base.flags\n--targets=1\n"
    )
    monkeypatch.setattr(publish_result, "_CONFIGS", folder)
    return folder


def test_a_preset_includes_another_and_overrides_it(presets):
    flags = publish_result._flags(presets / "one.flags")
    assert flags["targets"] == "1"
    assert flags["dataset"] == "mnist"


def test_a_repeated_flag_is_a_list(presets):
    (presets / "orders.flags").write_text("--order=fixed\n--order=random\n")
    flags = publish_result._flags(presets / "orders.flags")
    assert flags == {"order": "fixed,random"}


def test_a_run_of_the_preset_passes_also_with_more_controls(presets, tmp_path):
    publish_result._check_is_preset(tmp_path, CONFIG, presets / "one.flags")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"targets": [2]}, "targets=2, one.flags has 1"),
        ({"per_class": None}, "per_class=None"),
        ({"arms": ["attack"]}, "arms=attack, one.flags has attack,control"),
        ({"training": {"learning_rate": 0.1, "batch_size": 32}}, "training="),
    ],
)
def test_another_setting_is_refused(presets, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        publish_result._check_is_preset(
            tmp_path, CONFIG | change, presets / "one.flags"
        )
