"""Tables of attacks on class keys, side by side, from figures made by hand."""

import pytest

from experiments import key_comparison
from tff_leak.runtime.run_directory import RunDirectory


def _attack(guess="known", dimension=64, **changed):
    """An attack on one class by adversary 1, aimed, with a control."""
    figures = {"judge_share": 0.9, "ssim": 0.68}
    # The common floor is .2, and a scale of .8 above it.
    floor = {"blank": 0.0, "other_class_means": 0.2, "other_class_images": 0.1}
    floor |= {"control": 0.3, "grand_mean": 0.36, "value": 0.36}
    late = {"attack": 0.3, "control": -0.2}
    near = {"adversary": 1, "product": 1.0, "rival": 0.2, "fellow": None}
    attack = {
        "guess": guess,
        "dimension": dimension,
        "distance": None,
        "effort": None,
        "targets": [{"target": 3, "adversary": 1, "late_ssim": late}],
        "pooled": {
            "recovered": 0.5,
            "reached_count": 1,
            "targets": [3],
            "attack": figures,
            "control": {"judge_share": 0.125, "ssim": 0.04},
            "floor": floor,
            "reference": {"ssim": 1.0},
            "late_ssim": {"attack": 0.52, "control": 0.12},
            "stop_ssim": {"attack": 0.36, "control": 0.2},
            "late_recovered": late,
            "stop_recovered": {"attack": 0.25, "control": 0.0},
            "stop_judge_share": {"attack": 0.75, "control": 0.05},
        },
        "largest": None,
        "identity": None,
        "trained_round": 7,
        "locally_trained_round": 4,
        "stop_round": 10,
        "overlap": [near | {"adversary": 0, "product": 0.0}, near],
        "task_accuracy": 0.8,
        "task_accuracy_with_fakes": 0.7,
        "own_accuracy": 0.95,
        "generator_steps": 2.5,
        "control_generator_steps": 20.0,
    }
    return attack | changed


def _without_target(**changed):
    best = {"recovered": -0.1, "late_recovered": -0.2, "stop_recovered": -0.3}
    best |= {"stop_judge_share": 0.025, "reached_pairs": 2, "pairs": 8}
    control = {"recovered": -0.4, "late_recovered": -0.5, "stop_recovered": -0.6}
    control |= {"stop_judge_share": 0.0}
    named = {"class": 5, "judge_share": 0.5}
    return _attack(
        "random",
        largest={"attack": best, "control": control},
        elsewhere={"attack": named, "control": {"class": 4, "judge_share": 0.25}},
        **changed,
    )


def _rows(section):
    [(_, columns, rows)] = section.tables
    return [dict(zip(columns, row, strict=True)) for row in rows]


@pytest.fixture
def directory(tmp_path):
    with RunDirectory.open(tmp_path / "run", {}) as found:
        yield found


def test_what_pictures_show(directory):
    attacks = [_attack(), _without_target()]
    known, random = _rows(key_comparison.pictures_compared(attacks, directory))
    assert known == {
        "attack": "known, d = 64",
        "class": "3",
        "recovered": 0.5,
        "reached": "1 of 1",
        "judge share": 0.9,
        "control's judge share": 0.125,
        "recovered, common scale": pytest.approx(0.6),
        "control's, common scale": pytest.approx(-0.2),
        # What only an attack without a target has.
        "judge share, any class": "",
    }
    assert random["reached"] == "2 of 8"
    assert random["recovered, common scale"] == -0.1
    assert random["control's, common scale"] == -0.4
    assert random["judge share, any class"] == "0.50 (5); in the control 0.25 (4)"


def test_whom_faces_show(directory):
    identity = {"pooled": {"attack": 0.5, "control": None}}
    attacks = [_attack(identity=identity)]
    [row] = _rows(key_comparison.pictures_compared(attacks, directory))
    assert row["right person nearest"] == 0.5
    assert row["control's right person"] == "not run"


def test_what_pictures_showed_before():
    known, random = _rows(
        key_comparison.rounds_compared([_attack(), _without_target(stop_round=20)])
    )
    assert known == {
        "attack": "known, d = 64",
        "recovered, last half": 0.3,
        "control's recovered, last half": -0.2,
        "recovered, last half, common scale": pytest.approx(0.4),
        "control's recovered, last half, common scale": pytest.approx(-0.1),
        "first round with all trained": 7,
        "first round with all at 97% on local data": 4,
        "all just trained: pictures of round": 10,
        "recovered, all just trained": 0.25,
        "control's recovered, all just trained": 0.0,
        "recovered, all just trained, common scale": pytest.approx(0.2),
        "control's recovered, all just trained, common scale": pytest.approx(0.0),
        "judge share, all just trained": 0.75,
        "control's judge share, all just trained": 0.05,
    }
    assert random["recovered, last half"] == ""  # Without a target: that scale alone.
    assert random["recovered, last half, common scale"] == -0.2
    assert random["recovered, all just trained, common scale"] == -0.3
    assert random["judge share, all just trained"] == 0.025
    assert random["control's recovered, last half, common scale"] == -0.5
    assert random["control's recovered, all just trained, common scale"] == -0.6
    assert random["control's judge share, all just trained"] == 0.0
    assert random["all just trained: pictures of round"] == 20
    # By itself an attack with a target is by its own floor.
    [alone] = _rows(key_comparison.rounds_compared([_attack()]))
    assert alone["recovered, last half"] == 0.3
    assert alone["control's recovered, all just trained"] == 0.0


@pytest.mark.parametrize("build", [_attack, _without_target])
def test_nobody_was_trained(build):
    attack = build(trained_round=None, stop_round=None)
    [row] = _rows(key_comparison.rounds_compared([attack]))
    stopped = [value for name, value in row.items() if "trained" in name]
    assert stopped == ["not yet"] * 6
    # A control that was not run is not one that was not trained.
    [one] = attack["targets"]
    alone = attack | {"targets": [one | {"late_ssim": {"attack": 0.3}}]}
    if attack["largest"]:
        alone["largest"] = attack["largest"] | {"control": None}
    else:
        late = {"late_recovered": {"attack": 0.3}}
        alone["pooled"] = attack["pooled"] | late
    [row] = _rows(key_comparison.rounds_compared([alone]))
    scale = ", common scale" if attack["largest"] else ""
    assert row[f"recovered, all just trained{scale}"] == "not yet"
    for name, value in row.items():
        assert (value == "not run") == name.startswith("control's")


def test_keys_and_effort():
    fellow = {"product": 0.271, "class": 3}
    near = {"adversary": 1, "product": 0.1, "rival": 0.2, "fellow": fellow}
    attacks = [_attack(), _attack(overlap=[near], control_generator_steps=None)]
    known, other = _rows(key_comparison.keys_compared(attacks))
    # Of the adversary that is shown, who is not the first.
    assert known["product with nearest key"] == 1.0
    assert known["another attacker's"] == ""
    assert known["control's steps"] == 20.0
    assert other["another attacker's"] == "0.27 (3)"
    assert other["control's steps"] == "not run"
    assert (other["accuracy, all class keys"], other["fakes' as well"]) == (0.8, 0.7)
    assert other["accuracy, own keys"] == 0.95


def test_curves_over_distance_and_effort(directory):
    attacks = [
        _attack("0.5", distance=0.5),
        _attack("0.1", distance=0.1),
        _without_target(effort=100) | {"guess": "best:10"},
    ]
    series = key_comparison._recovered_over(attacks, "distance")
    assert series == {"d = 64": ([0.1, 0.5], [0.5, 0.5])}
    series = key_comparison._recovered_over(attacks, "effort")
    assert series == {
        "best, d = 64": ([100], [-0.1]),
        "best, d = 64, control": ([100], [-0.4]),
    }
    section = key_comparison.pictures_compared(attacks, directory)
    assert len(section.figures) == 2
    assert (directory.figures / "recovered_distance.png").stat().st_size > 0
    assert key_comparison.title(attacks[0]) == "distance 0.5, d = 64"
