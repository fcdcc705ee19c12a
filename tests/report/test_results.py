"""docs/results.md is made of summaries alone."""

import json

import pytest

from tff_leak.errors import InputError
from tff_leak.report import results

OVERVIEW = "The malicious client's GAN, and model inversion"


def _summary(seed, recovered, number=3):
    figures = {"judge_share": 1.0, "ssim": 0.6}
    passive = {"judge_share": 0.05, "ssim": 0.2, "recovered": -0.7}
    target = {
        "target": 3,
        "recovered": recovered,
        "recovered_closest": 0.3,
        "reached": {"value": True, "diversity_ratio": 0.8},
        "attack": figures,
        "control": {"judge_share": 0.0, "ssim": 0.1},
        "extra_controls": {"passive": passive} if seed else {},
        "reference": {"judge_share": 1.0, "ssim": 0.7, "samples": 98},
        "floor": {"value": 0.5},
        "class_mean_similarity": 0.65,
    }
    return {
        "experiment": "client_gan",
        "seed": seed,
        "rounds": 10,
        "seconds": 12.5,
        "task_accuracy": {"attack": 0.9},
        "targets": [target | {"target": number}],
        "pooled": {
            "recovered": recovered,
            "targets": [number],
            "attack": figures,
            "control": target["control"],
        },
    }


def _write(root, preset, summary):
    folder = root / preset / str(summary["seed"])
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def _rows(page, heading):
    """The first table after a heading: dictionaries of its cells by column."""
    section = page.split(f"## {heading}\n")[1].split("## ")[0]
    lines = section.splitlines()
    table = [line[2:-2].split(" | ") for line in lines if line[:1] == "|"]
    return [dict(zip(table[0], row, strict=True)) for row in table[2:]]


def test_rows_intervals_and_pictures(tmp_path):
    for seed, recovered in ((0, 0.4), (1, 0.5), (2, 0.6)):
        folder = _write(tmp_path, "digits", _summary(seed, recovered))
    (folder / "picture.png").write_bytes(b"png")
    (folder / "picture_no_influence.png").write_bytes(b"png")
    page = results.render(tmp_path, {"digits": "What it is."})
    assert "## digits\n\nWhat it is." in page
    rows = _rows(page, "digits")
    assert [row["recovered"] for row in rows] == ["0.400", "0.500", "0.600"]
    assert [row["passive recovered"] for row in rows] == ["not run", "-0.700", "-0.700"]
    expected = {"target": "3", "recovered, closest class": "0.300", "reached": "yes"}
    expected |= {"judge share": "1.000", "control's": "0.000", "SSIM": "0.600"}
    expected |= {"reference": "0.700", "floor": "0.500", "control's SSIM": "0.100"}
    assert rows[1].items() >= expected.items()
    # Columns that apply to no run are left out.
    assert not {"epsilon, total", "right person nearest"} & set(rows[0])
    # Mean 0.5, deviation 0.1, t(2, .975) = 4.303: half-width .2484.
    assert "recovered: 0.50 [0.25, 0.75] (3 seeds).\n" in page
    assert "![digits, seed 2](results/digits/2/picture.png)" in page
    assert "![digits, seed 2, no influence](results/digits/2/picture_no_" in page
    assert "seed 0](" not in page


def test_targets_of_a_preset_that_leaves_them_open_stand_together(tmp_path):
    for target, seed, recovered in (
        (0, 0, 0.2),
        (0, 1, 0.4),
        (10, 0, 0.6),
        (10, 1, 1.0),
        (2, 0, -5.0),  # its second seed is not there yet
    ):
        _write(tmp_path, f"fig6_target{target}", _summary(seed, recovered, target))
    _write(tmp_path, "other_target1", _summary(0, 0.9))
    page = results.render(tmp_path, {"fig6": "All targets.", "other_target1": "Own."})
    rows = _rows(page, "fig6")
    assert [row["target"] for row in rows] == ["0", "0", "2", "10", "10"]
    # Seeds: (.2 + .6) / 2 = .4 and (.4 + 1) / 2 = .7; mean .55, deviation .2121,
    # t(1, .975) = 12.706: half-width 1.906. Target 2 has one seed and does not count.
    assert "all seeds have: 0.55 [-1.36, 2.46] (2 seeds)." in page
    assert "recovered, target 2: -5.00 (one seed)." in page
    assert "recovered, target 0: 0.30 [" in page
    overview = {row["attack, by preset"]: row for row in _rows(page, OVERVIEW)}
    assert overview["[fig6](#fig6)"]["runs"] == "5"
    assert overview["[fig6](#fig6)"]["targets reached"] == "5 of 5"
    assert overview["[fig6](#fig6)"]["of targets"] == "0, 10"
    assert overview["[fig6](#fig6)"]["recovered, mean over seeds"].startswith("0.55 [")
    assert "[other_target1](#other_target1)" in overview


def test_tables_of_a_description_keep_their_columns(tmp_path):
    _write(tmp_path, "one", _summary(0, 0.4))
    description = (
        "What it is, on two\nlines.\n\n"
        "Measured:\n  seed   0    1\n  share .1 .2\n\n"
        "none       .81\nnoise, .1 1.1\n           .2\n\n"
        "So it is."
    )
    page = results.render(tmp_path, {"one": description})
    assert (
        "What it is, on two\nlines.\n\n"
        "```text\nMeasured:\n  seed   0    1\n  share .1 .2\n```\n\n"
        "```text\nnone       .81\nnoise, .1 1.1\n           .2\n```\n\n"
        "So it is.\n"
    ) in page
    prose = "One line,\ntwo lines,\n  a  table\nthree."
    page = results.render(tmp_path, {"one": prose})
    assert "One line,\ntwo lines,\n\n```text\n  a  table\n```\n\nthree.\n" in page


def test_people_and_epsilon_have_columns_where_there_are_some(tmp_path):
    person = {"target": 3, "attack": 0.9, "closest_other": 0.05, "reference": 1.0}
    identity = {"targets": [person | {"control": None}], "pooled": {"attack": 0.9}}
    summary = _summary(0, 0.4) | {"identity": identity, "epsilon": 1234567.0}
    summary["epsilon_turn"] = 12345.67
    _write(tmp_path, "faces", summary)
    _write(tmp_path, "faces", _summary(1, 0.4) | {"identity": None, "epsilon": None})
    page = results.render(tmp_path, {})
    rows = _rows(page, "faces")
    assert rows[0]["right person nearest"] == "0.900"
    assert rows[0]["closest other person"] == "0.050"
    assert rows[0]["control's person"] == "not defined"
    assert rows[0]["epsilon, a turn"] == "1.23e+04"
    assert rows[0]["epsilon, total"] == "1.23e+06"
    assert rows[1]["epsilon, total"] == "not run"
    assert _rows(page, OVERVIEW)[0]["right person nearest"] == "0.900"


def test_one_seed_and_undefined_values(tmp_path):
    _write(tmp_path, "one", _summary(0, 0.4))
    assert "recovered: 0.40 (one seed)." in results.render(tmp_path, {})
    _write(tmp_path, "undefined", _summary(0, None))
    page = results.render(tmp_path, {})
    assert _rows(page, "undefined")[0]["recovered"] == "not defined"
    assert "recovered: not defined.\n" in page
    _write(tmp_path, "undefined", _summary(1, 0.4))
    assert "recovered: not defined for every seed.\n" in results.render(tmp_path, {})


def test_summaries_older_than_a_figure_say_so(tmp_path):
    summary = _summary(1, 0.4)
    del summary["targets"][0]["recovered_closest"]
    del summary["targets"][0]["extra_controls"]["passive"]["recovered"]
    _write(tmp_path, "old", summary)
    [row] = _rows(results.render(tmp_path, {}), "old")
    assert row["recovered, closest class"] == "not measured"
    assert row["passive recovered"] == "not measured"
    assert row["passive judge share"] == "0.050"


def test_the_last_half_of_the_rounds_has_a_column_where_it_was_measured(tmp_path):
    late = {"attack": 0.25, "control": -0.5}
    new, old = _summary(0, 0.4), _summary(1, 0.4)
    new["targets"][0] |= {"late_recovered": late}
    _write(tmp_path, "both", new)
    _write(tmp_path, "both", old)
    _write(tmp_path, "old", old)
    page = results.render(tmp_path, {})
    found = [row["recovered, last half of rounds"] for row in _rows(page, "both")]
    assert found == ["0.250", "not measured"]
    assert "recovered, last half of rounds" not in _rows(page, "old")[0]


def _key_attack(guess, largest=None, **more):
    """One attack of `run_key_protected`, with the figures of its one target."""
    one = _summary(0, 0.4)["targets"][0] | {"adversary": 1}
    one |= {name: {} for name in ("late_recovered", "stop_recovered")}
    one |= {"late_recovered": {"attack": 0.1}, "stop_judge_share": {}}
    near = {"adversary": 1, "product": 0.2, "class": 3, "rival": 0.1, "fellow": None}
    attack = {"guess": guess, "dimension": 64, "overlap": [near], "largest": largest}
    attack |= {"targets": [one | more], "pooled": {"recovered": 0.4, "targets": [3]}}
    return attack | {"task_accuracy": 0.9, "own_accuracy": 1.0, "distance": None}


def test_what_keys_gave_when_all_were_just_trained(tmp_path):
    stop = {"stop_recovered": {"attack": 0.25}, "stop_judge_share": {"attack": 0.5}}
    known = _key_attack("known", **stop) | {"stop_round": 20}
    shown = {"recovered": -0.2, "judge_share_largest": 0.0, "late_recovered": -0.1}
    shown |= {"stop_recovered": -0.3, "stop_judge_share": 0.05}
    control = {"recovered": -0.4, "judge_share_largest": 0.01, "late_recovered": -0.5}
    control |= {"stop_recovered": -0.6, "stop_judge_share": 0.02}
    largest = {"attack": shown | {"reached_pairs": 0, "pairs": 8}, "control": control}
    # Its rows are the largest of all classes, whatever the class shown has.
    random = _key_attack("random", largest, **stop) | {"stop_round": 30}
    never = _key_attack("random") | {"stop_round": None}
    summary = {"experiment": "key_protected", "study": "attack", "seed": 0}
    summary |= {"rounds": 50, "seconds": 1.0, "attacks": [known, random, never]}
    _write(tmp_path, "keys_fig6", summary)
    rows = _rows(results.render(tmp_path, {}), "keys_fig6")
    for name, found in (
        ("pictures of round, all just trained", ["20", "30", "not yet"]),
        ("recovered, all just trained", ["0.250", "-0.300", "not yet"]),
        ("control's recovered, all just trained", ["not run", "-0.600", "not run"]),
        ("judge share, all just trained", ["0.500", "0.050", "not yet"]),
        ("control's judge share, all just trained", ["not run", "0.020", "not run"]),
    ):
        assert [row[name] for row in rows] == found


def test_key_runs_of_before_that_was_measured(tmp_path):
    stop = {"stop_recovered": {"attack": 0.25}, "stop_judge_share": {"attack": 0.5}}
    new = _key_attack("known", **stop) | {"stop_round": 20}
    old = _key_attack("known")
    for figure in stop:
        del old["targets"][0][figure]
    summary = {"experiment": "key_protected", "study": "attack", "seed": 0}
    summary |= {"rounds": 50, "seconds": 1.0, "attacks": [old]}
    _write(tmp_path, "older", summary)
    _write(tmp_path, "both", summary)
    _write(tmp_path, "both", summary | {"seed": 1, "attacks": [new]})
    page = results.render(tmp_path, {})
    [row] = _rows(page, "older")
    assert not [name for name in row if name.endswith("just trained")]
    for name, found in (
        ("pictures of round, all just trained", "20"),
        ("recovered, all just trained", "0.250"),
        ("judge share, all just trained", "0.500"),
    ):
        assert [row[name] for row in _rows(page, "both")] == ["not measured", found]


def test_the_time_of_a_run_that_was_killed_and_gone_on_with_is_unknown(tmp_path):
    _write(tmp_path, "killed", _summary(0, 0.4) | {"seconds": None})
    assert "| 0.900 | 10 | unknown |" in results.render(tmp_path, {})


def test_orders_of_honest_training(tmp_path):
    orders = {"fixed": {"best_accuracy": 0.97, "best_round": 3, "last_accuracy": 0.96}}
    summary = {"experiment": "dssgd", "seed": 0, "rounds": 5, "orders": orders}
    _write(tmp_path, "dssgd_mnist", summary)
    page = results.render(tmp_path, {})
    assert "| 0 | fixed | 0.9700 | 3 | 0.9600 | 5 |" in page


def test_a_broken_summary_is_named(tmp_path):
    folder = _write(tmp_path, "digits", _summary(0, 0.4))
    (folder / "summary.json").write_text("{")
    with pytest.raises(InputError, match="expected a run's summary.json"):
        results.render(tmp_path, {})


def test_a_server_gan_has_a_row_for_each_class(tmp_path):
    scored = {"template_with": 0.61, "template_without": 0.42, "margin": 0.07}
    scored |= {"judge_share": 0.85, "diversity_ratio": 0.55}
    other = scored | {"template_with": 0.33, "template_without": 0.78}
    sets = {"victim": scored, "other": other, "reference": scored | {"margin": 0.27}}
    summary = {
        "experiment": "server_gan",
        "seed": 3,
        "server": "passive",
        "mode": "paper",
        "victim": 2,
        "angle": -35.0,
        "task_accuracy": {"attack": 0.58},
        "targets": [
            {"target": 4, "succeeded": True, "sets": sets},
            {"target": 9, "succeeded": False, "sets": sets | {"control": other}},
        ],
    }
    path = tmp_path / "mgan_fig4_passive" / "3" / "summary.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(summary))
    page = results.render(tmp_path, {"mgan_fig4_passive": "What it is."})
    assert OVERVIEW not in page
    _, _, first, second = [line for line in page.splitlines() if line[:1] == "|"]
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells[:7] == ["3", "passive", "paper", "2", "turned by -35", "4", "yes"]
    assert [float(cell) for cell in cells[7:12]] == [0.61, 0.42, 0.33, 0.78, 0.07]
    assert cells[12] == "not run"
    assert [float(cell) for cell in cells[13:]] == [0.27, 0.85, 0.55, 0.58]
    assert "| no |" in second
    assert "not run" not in second


def test_a_server_gan_on_faces_has_more_tables(tmp_path):
    scored = {"template_with": 0.6, "template_without": 0.5, "margin": 0.1}
    scored |= {"judge_share": 0.9, "diversity_ratio": 0.4, "nearer_share": 0.75}
    sets = {"victim": scored, "reference": scored, "control": scored}
    people = {"victim": 0.8, "reference": 1.0, "control": 0.7}
    quality = {"samples": 400, "real_samples": 400, "inception_score": 1.5}
    quality |= {"real_inception_score": 20.5, "fid": 7.25, "kid": 0.5}
    summary = {
        "experiment": "server_gan",
        "seed": 0,
        "server": "active",
        "mode": "paper",
        "victim": 0,
        "angle": None,
        "words": ["with glasses", "without glasses"],
        "task_accuracy": {"attack": 0.5, "honest": 0.6},
        "task_accuracy_by_round": {
            "attack": [0.1, 0.2, 0.3, 0.35, 0.5],
            "honest": [0.1, 0.2, 0.3, 0.4, 0.6],
        },
        "targets": [{"target": 18, "succeeded": True, "sets": sets}],
        "identity": {"targets": [{"target": 18, "sets": people}]},
        "template_check": [{"target": 18, "with": 1.0, "without": 0.25}],
        "quality": {"attack": quality},
    }
    _write(tmp_path, "mgan_fig5_active", summary)
    page = results.render(tmp_path, {"mgan_fig5_active": "What it is."})
    lines = [line for line in page.splitlines() if line[:1] == "|"]
    tables = [lines[start : start + 3] for start in (0, 3)] + [lines[6:]]
    found = []
    for header, _, *rows in tables:
        names = [cell.strip() for cell in header.strip("|").split("|")]
        found += [
            dict(
                zip(names, (c.strip() for c in row.strip("|").split("|")), strict=True)
            )
            for row in rows
        ]
    faces, scores, attack, honest = found
    assert faces["property"] == "with glasses"
    assert faces["as other: with"] == ""
    assert faces["victim: nearer to with"] == "0.750"
    assert faces["control: right person nearest"] == "0.700"
    assert faces["real control's: nearer to with"] == "0.250"
    assert scores["arm"] == "attack"
    assert scores["Inception Score (judge)"] == "1.500"
    assert (scores["of real pictures"], scores["KID"]) == ("20.500", "0.500")
    assert attack["accuracy, round 4"] == "0.350"
    assert attack["largest lag behind honest"] == "0.100"
    assert honest["accuracy, round 5"] == "0.600"
    assert honest["largest lag behind honest"] == "0.000"


def test_model_inversion_has_the_scores_of_all_targets_together(tmp_path):
    scores = {"inception_score": 1.25, "fid": 12.5, "kid": 0.75}
    real = {"inception_score": 30.5, "fid": 3.5, "kid": 0.125}
    summary = _summary(0, 0.4) | {"experiment": "model_inversion", "network": "wang"}
    summary["epochs"] = 7
    pooled = summary["pooled"]
    pooled["attack"] = pooled["attack"] | scores | {"samples": 400}
    pooled["reference"] = real
    _write(tmp_path, "mgan_fig6_inversion", summary)
    page = results.render(tmp_path, {})
    table = page.split("\n\n| seed | samples")[1].splitlines()
    cells = [cell.strip() for cell in table[2].strip("|").split("|")]
    expected = ["0", "400", "1.250", "30.500", "12.500", "3.500", "0.750", "0.125"]
    assert cells == expected


def _over_seeds(mean, interval=None, seeds=2):
    return {"mean": mean, "interval": interval, "seeds": seeds}


def test_a_leak_matrix_has_a_row_for_each_cell(tmp_path):
    measured = {
        "attack": "client_gan",
        "defence": "noise",
        "defence_title": "Noise",
        "measure": "recovered",
        "status": "measured",
        "reason": "",
        "runs": [{"seed": 0, "error": ""}, {"seed": 1, "error": ""}],
        "leakage": _over_seeds(0.3, [0.1, 0.5]),
        "control": _over_seeds(None),
        "judge_share": _over_seeds(0.7),
        "reached": 1,
        "task_accuracy": _over_seeds(0.85),
        "epsilon": 12.345,
        "seconds": _over_seeds(61.6),
    }
    broken = [{"seed": 0, "error": "it broke"}]
    failed = measured | {"status": "failed", "reason": "it broke", "runs": broken}
    measured["late_leakage"] = _over_seeds(0.4, [0.3, 0.5])
    unfit = {"status": "not_applicable", "reason": "no cohort", "runs": []}
    summary = {"experiment": "leak_matrix", "seed": "all_seeds"}
    cells = [measured, failed, measured | unfit]
    _write(tmp_path, "leak_matrix_digits", summary | {"cells": cells})
    page = results.render(tmp_path, {})
    assert OVERVIEW not in page
    rows = _rows(page, "leak_matrix_digits")
    assert rows[0]["leaks"] == "recovered 0.30 [0.10, 0.50] (2 seeds)"
    late = [row["last half of rounds"] for row in rows]
    assert late == ["0.40 [0.30, 0.50] (2 seeds)", "", ""]
    expected = {"reached": "1 of 2", "task accuracy": "0.850", "epsilon": "12.3"}
    expected |= {"judge share": "0.700", "seconds": "62", "control's": ""}
    assert rows[0].items() >= expected.items()
    assert [row["note"] for row in rows] == [
        *("", "failed: it broke", "not applicable: no cohort"),
    ]
    assert rows[1]["leaks"] == rows[2]["leaks"] == ""
    assert "Runs by version" not in page
    code = {"0123456789abcdef": 4, "fedcba9876543210-dirty": 1}
    _write(tmp_path, "leak_matrix_mnist", summary | {"cells": cells, "code": code})
    page = results.render(tmp_path, {})
    known = "Runs by version of the code: 0123456789 (4), fedcba9876-dirty (1)."
    assert known in page


def _update_summary(seed, **changes):
    scored = {"ssim": 0.9, "judge_share": 1.0}
    summary = {
        "experiment": "update_attacks",
        "seed": seed,
        "clients": 10,
        "examples": 4,
        "algorithm": "fed_sgd",
        "threat": {"view": "noised_rows"},
        "defences": ["local_dp"],
        "epsilon": 12.345,
        "epsilon_round": 2.5,
        "task_accuracy": {"attack": 0.7},
        "rounds": 30,
        "seconds": 21.4,
        "identified": {"attack": 0.95, "control": 0.05, "chance": 0.03},
        "found": {"attack": 0.9, "control": 0.0},
        "pooled": {
            "recovered": 0.8,
            "attack": scored,
            "control": {"ssim": 0.45},
            "reference": {"ssim": 0.5},
            "floor": {"value": 0.55},
        },
        "headline": {"measure": "recovered", "value": 0.8},
    }
    return summary | changes


def test_pictures_out_of_updates_have_a_row_a_run(tmp_path):
    _write(tmp_path, "inversion_digits", _update_summary(0))
    other = _update_summary(1, headline={"measure": "recovered", "value": 0.6})
    _write(tmp_path, "inversion_digits", other | {"epsilon": None, "defences": []})
    page = results.render(tmp_path, {})
    first, second = _rows(page, "inversion_digits")
    expected = {"recovered": "0.800", "floor": "0.550", "control's SSIM": "0.450"}
    expected |= {"nearest to the victim's own": "0.950", "epsilon, total": "12.3"}
    assert first.items() >= expected.items()
    assert (second["epsilon, total"], second["defences"]) == ("not run", "none")
    # Mean .7, deviation .1414, t(1, .975) = 12.706: half-width 1.27.
    assert "recovered: 0.70 [-0.57, 1.97] (2 seeds)." in page


def test_membership_has_its_advantage_instead(tmp_path):
    figures = {"advantage": 0.2, "auc": 0.62, "p_value": 1.234e-6}
    figures["auc_interval"] = [0.58, 0.66]
    control = figures | {"advantage": 0.03}
    found = {"attack": figures, "held_out": control, "initial": control}
    headline = {"measure": "advantage", "value": 0.2}
    _write(
        tmp_path,
        "membership_mnist",
        _update_summary(0, membership=found, headline=headline, epsilon=None),
    )
    page = results.render(tmp_path, {})
    [row] = _rows(page, "membership_mnist")
    assert (row["advantage"], row["nobody's examples"]) == ("0.200", "0.030")
    assert (row["p"], row["95% over examples"]) == ("1.2e-06", "0.580 to 0.660")
    assert "recovered" not in row and "epsilon, total" not in row
    assert "advantage: 0.20 (one seed)." in page
