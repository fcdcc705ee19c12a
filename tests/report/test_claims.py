"""Claims of papers beside figures that were measured."""

import json
import pathlib
import re

import pytest

from experiments import preset_files
from tff_leak.errors import InputError
from tff_leak.report import results
from tff_leak.report.claims import (
    Claim,
    Verdict,
    claims_tables,
    in_brief,
    read_claims,
)

ROOT = pathlib.Path(__file__).parents[2]
# bazel: data = docs/claims.toml
CLAIMS = ROOT / "docs" / "claims.toml"


def _drawn(seed, target, recovered, **more):
    reached = {"value": (recovered or 0) > 0.5, "diversity_ratio": 0.8}
    one = {"target": target, "reached": reached}
    one["extra_controls"] = {}
    pooled = {"targets": [target], "recovered": recovered}
    pooled |= {"attack": {"judge_share": 0.9}, "control": {"judge_share": 0.1}}
    return {
        "experiment": "client_gan",
        "seed": seed,
        "targets": [one],
        "pooled": pooled,
        "task_accuracy": {"attack": 0.8 + seed / 10},
    } | more


def _claim(**changed):
    fixed = {"figure": "6", "paper_says": "works", "presets": ("fig6",)}
    return Claim(**fixed | changed)


def _cells(text, row):
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line[:1] == "|"]
    return dict(zip(lines[0], lines[2 + row], strict=True))


def test_figures_stand_beside_the_claim():
    # Seed 1 lacks target 4, which so counts in neither mean: .4 and .8.
    runs = [_drawn(0, 3, 0.4), _drawn(0, 4, -9.0), _drawn(1, 3, 0.8)]
    claim = _claim(presets=("fig6", "fig6_long"), verdict=Verdict.IN_PART, remark="so")
    text = claims_tables({"A paper": [claim]}, {"fig6": runs, "other": []})
    assert text.startswith("### A paper\n")
    cells = _cells(text, 0)
    assert cells["in the paper"] == "works"
    assert cells["here"] == "in part"
    assert cells["remark"] == "so"
    # t(1, .975) = 12.706, deviation .2828: half-width 2.54. Accuracies .8, .8, .9.
    assert cells["measured"] == (
        "[fig6](results/fig6/README.md): recovered 0.60 [-1.94, 3.14] (2 seeds) of "
        "targets 3, and -2.60 in the mean of all 3 runs, reached 1 of 3, "
        "judge's share 0.90 (control 0.10), task accuracy 0.83"
    )


def test_without_a_run_it_says_so_and_without_a_verdict_too():
    text = claims_tables({"P": [_claim(), _claim()]}, {})
    assert _cells(text, 0)["here"] == "not run"
    text = claims_tables({"P": [_claim()]}, {"fig6": [_drawn(0, 3, 0.4)]})
    assert _cells(text, 0)["here"] == "not judged"
    assert "recovered 0.40 (one seed)" in _cells(text, 0)["measured"]


def test_presets_that_a_remark_names_are_linked():
    claim = _claim(verdict=Verdict.YES, remark="as fig_9 and `base` have it")
    runs = {"fig6": [_drawn(0, 3, 0.4)], "fig_9": []}
    found = _cells(claims_tables({"P": [claim]}, runs, ("base",)), 0)["remark"]
    assert found == (
        "as [fig_9](results/fig_9/README.md) and "
        "[`base`](../experiments/configs/base.flags) have it"
    )


def test_a_verdict_needs_a_run():
    with pytest.raises(InputError, match="'as there' and none of fig6 is published"):
        claims_tables({"P": [_claim(verdict=Verdict.YES)]}, {"fig7": []})


def test_epsilons_are_a_range():
    assert "epsilon" not in in_brief([_drawn(0, 3, 0.4, epsilon=None)])
    one = _drawn(0, 3, 0.4, epsilon=24.7)
    assert "epsilon, total, 24.7, " in in_brief([one])
    # JSON has no infinity: it is a word there.
    text = in_brief([one, _drawn(1, 3, 0.4, epsilon="infinity")])
    assert "epsilon, total, 24.7 to inf, " in text


def test_verdicts_that_are_not_defined_do_not_count():
    run = _drawn(0, 3, 0.9)
    undefined = {"value": None, "diversity_ratio": None}
    run["targets"].append({"reached": undefined, "extra_controls": {}})
    assert "reached 1 of 1" in in_brief([run])
    run["targets"][0]["reached"] = undefined
    assert "reached" not in in_brief([run])
    # One picture that the judge does not recognise is not one that could be reached.
    run["targets"][1]["reached"] = {"value": False, "diversity_ratio": None}
    assert "reached" not in in_brief([run])


def test_recovered_is_of_all_runs_where_all_seeds_have_the_targets():
    assert " of targets " not in in_brief([_drawn(s, 3, 0.4) for s in (0, 1)])
    undefined = [_drawn(0, 3, 0.4), _drawn(0, 4, None), _drawn(1, 3, 0.4)]
    assert "0.40 in the mean of the 2 runs of 3 that define it" in in_brief(undefined)


def test_the_last_half_of_the_rounds_where_all_have_it():
    runs = [_drawn(seed, 3, 0.9) for seed in (0, 1)]
    runs[0]["pooled"]["late_recovered"] = {"attack": 0.25, "control": -1.0}
    assert "in the last half of the rounds 0.25 (one seed)" in in_brief(runs[:1])
    assert "last half" not in in_brief(runs)


def test_people_and_no_influence():
    def run(target, shown):
        found = _drawn(0, target, 1.25, identity={"pooled": {"attack": shown}})
        found["identity"]["pooled"]["control"] = 0.25
        found["targets"][0]["extra_controls"]["passive"] = {"recovered": shown - 1}
        found["task_accuracy"]["passive"] = 0.95
        return found

    # Two targets of one seed are no two seeds.
    text = in_brief([run(3, 0.9), run(4, 0.5)])
    assert "right person nearest 0.70 (one seed) (control 0.25)" in text
    assert "without influence -0.30 (one seed)" in text
    assert text.endswith("task accuracy 0.80 (without influence 0.95)")
    # Of runs some of which lack them, means would be of others.
    text = in_brief([run(3, 0.9), _drawn(1, 3, 1.0)])
    assert "without influence" not in text and "person" not in text


def test_a_malicious_server_and_an_inversion_have_table_threes_score():
    one = {"target": 3, "succeeded": True}
    run = {"experiment": "server_gan", "seed": 0, "targets": [one, one]}
    run["targets"][1] = one | {"succeeded": False}
    run["pooled"] = {"recovered": 0.5}
    told = "recovered 0.50 (one seed), leans as it should in 1 of 2"
    assert in_brief([run]) == told
    scores = {"inception_score": 2.0, "real_inception_score": 29.0}
    run["quality"] = {"attack": scores, "control": {}}
    told += ", Inception Score 2.00 (one seed) (real 29.00)"
    assert in_brief([run]) == told
    run["task_accuracy_by_round"] = {"attack": [0.1, 0.5], "control": [0.1, 0.2]}
    assert in_brief([run]) == told
    run["task_accuracy_by_round"]["honest"] = [0.1, 0.75]
    told += ", task accuracy 0.50 (without an attack 0.75)"
    assert in_brief([run]) == told

    run = _drawn(0, 3, 0.4) | {"experiment": "model_inversion"}
    run["pooled"] |= {
        "attack": {"inception_score": 1.5, "judge_share": 0.5},
        "control": None,
        "reference": {"inception_score": 9.0},
    }
    assert "judge's share 0.50 (control not run)" in in_brief([run])
    assert in_brief([run]).endswith("Inception Score 1.50 (one seed) (real 9.00)")
    run["pooled"]["attack"]["inception_score"] = None
    assert "Inception" not in in_brief([run])


def test_a_malicious_server_over_seeds():
    def run(seed, recovered):
        one = {"target": 3, "succeeded": recovered > 0.3}
        found = {"experiment": "server_gan", "seed": seed, "targets": [one]}
        return found | {"pooled": {"recovered": recovered}}

    text = in_brief([run(0, 0.2), run(1, 0.4)])
    assert text == (
        "recovered 0.30 [-0.97, 1.57] (2 seeds), leans as it should in 1 of 2"
    )


def test_a_leak_matrix_has_a_line_for_each_cell_that_was_measured():
    def mean(value, seeds=1):
        return {"mean": value, "interval": None, "seeds": seeds}

    bare = {
        "attack": "gan",
        "defence_title": "no defence",
        "status": "measured",
        "measure": "recovered",
        "leakage": mean(0.9),
        "late_leakage": mean(0.8),
        "control": mean(None),
        "epsilon": None,
        "task_accuracy": mean(0.95),
    }
    noise = {"defence_title": "noise", "late_leakage": mean(None), "epsilon": "123.4"}
    cells = [bare, bare | noise, bare | {"status": "refused"}]
    text = in_brief([{"experiment": "leak_matrix", "cells": cells}])
    assert text.split("<br>") == [
        "no defence: recovered 0.90 (one seed), in the last half of the rounds 0.80 "
        "(one seed), task accuracy 0.95",
        "noise: recovered 0.90 (one seed), epsilon 123, task accuracy 0.95",
    ]
    other = bare | {"attack": "loss", "measure": "advantage", "control": mean(0.1)}
    text = in_brief([{"experiment": "leak_matrix", "cells": [*cells, other]}])
    assert text.startswith("gan, no defence: recovered 0.90")
    assert "loss, no defence: advantage 0.90 (one seed), in the" in text
    assert "(one seed), control 0.10, task accuracy 0.95" in text
    # A claim may name the attacks that speak of it.
    runs = {"fig6": [{"experiment": "leak_matrix", "cells": [*cells, other]}]}
    row = _cells(claims_tables({"P": [_claim(attacks=("loss",))]}, runs), 0)
    assert "advantage" in row["measured"] and "recovered" not in row["measured"]
    with pytest.raises(InputError, match="of the attacks lsos: expected some of"):
        claims_tables({"P": [_claim(attacks=("lsos",))]}, runs)


def test_an_experiment_that_speaks_of_no_claim_is_refused():
    with pytest.raises(InputError, match="'dssgd': expected one of client_gan"):
        in_brief([{"experiment": "dssgd"}])


def test_keys_by_their_size():
    def accuracy(seed, value):
        rows = [{"dimension": 10, "participant_accuracy": value}]
        rows.append({"dimension": 1024, "participant_accuracy": 1.0})
        run = {"experiment": "key_protected", "study": "accuracy", "seed": seed}
        return run | {"accuracy": rows}

    runs = [accuracy(0, 0.8), accuracy(1, 0.9)]
    assert in_brief(runs) == (
        "accuracy d = 10: 0.850 [0.215, 1.485] (2 seeds); "
        "d = 1024: 1.000 [1.000, 1.000] (2 seeds)"
    )
    # One of the seeds was measured before own moments were; short keys have none.
    short, long = runs[1]["accuracy"]
    for row, own in ((short, 0.75), (long, 0.7)):
        row["participant_accuracy_all_tests"] = 0.75
        row["participant_accuracy_own_moments"] = own
    assert in_brief(runs).endswith(
        "<br>of all tests d = 1024: 0.750 (one seed)"
        "<br>of all tests, by own moments d = 1024: 0.700 (one seed)"
    )
    many = [
        {"dimension": d, "distribution": "normal", "largest": 1 / d}
        for d in (1, 2, 4, 8, 16, 32, 64)
    ]
    run = {"experiment": "key_protected", "study": "orthogonality", "seed": 0}
    text = in_brief([run | {"keys": many}])
    assert "normal, d = 1: 1.000 (one seed); normal, d = 2: 0.500" in text
    assert "d = 32" in text and "d = 8" not in text


def test_classes_that_are_shared():
    def row(own, others=0.1):
        return {"own": own, "others": others}

    one = {"dimension": 10, "participant_accuracy": 0.9}
    one["class_scores"] = [row([0.9]), row([0.6, 0.8]), row([0.7, 0.7])]
    run = {"experiment": "key_protected", "study": "accuracy", "seed": 0}
    assert in_brief([run | {"accuracy": [one]}]) == (
        "accuracy d = 10: 0.900 (one seed)<br>"
        "mean score of shared classes d = 10: 0.700 (one seed)"
    )
    keys = [{"dimension": 64, "score_largest": 0.75, "other_largest": 0.4}]
    run |= {"study": "shared_classes", "keys": keys}
    assert in_brief([run]) == (
        "largest score d = 64: 0.750 (one seed)<br>"
        "largest product with another d = 64: 0.400 (one seed)"
    )


def test_keys_attacks_have_the_class_they_show_best_where_there_is_no_target():
    def run(seed, target, near, best):
        one = {"guess": "0.5", "distance": 0.5, "dimension": 64, "largest": None}
        one["pooled"] = {"targets": [target], "recovered": near, "reached_count": 1}
        floor = {"blank": 0.0, "other_class_means": 0.5, "other_class_images": 0.4}
        one["pooled"] |= {"attack": {"ssim": 0.8}, "reference": {"ssim": 0.9}}
        one["pooled"]["floor"] = floor | {"control": 0.8, "grand_mean": 0.7}
        random = one | {"guess": "random", "distance": None}
        figures = {kind: {"recovered": value} for kind, value in best.items()}
        random["largest"] = {"control": None} | figures
        found = {"experiment": "key_protected", "study": "attack", "seed": seed}
        return found | {"attacks": [one, random]}

    alone = run(0, 3, 0.2, {"attack": -0.5})
    alone["attacks"] = alone["attacks"][:1]
    assert in_brief([alone]).endswith("0.20 (one seed), reached 1 of 1")
    # Two targets of one seed are no two seeds.
    best = {"attack": -0.5, "control": 0.1}
    text = in_brief([run(0, 3, 0.2, best), run(0, 4, 0.6, best | {"attack": -0.1})])
    assert text == (
        "recovered<br>distance 0.5, d = 64: 0.40 (one seed), reached 2 of 2, "
        "common scale 0.75 (one seed)<br>"
        "random, d = 64, class shown best: -0.30 (one seed), control 0.10 (one seed)"
    )
    # Seeds of one target say nothing of the other.
    text = in_brief([run(0, 3, 0.2, best), run(0, 4, 0.6, best), run(1, 3, 0.3, best)])
    assert "0.25 [-0.39, 0.89] (2 seeds) of targets 3, and 0.37 in the mean of" in text
    text = in_brief([run(0, 3, 0.2, {"attack": -0.5})])
    assert text.endswith("class shown best: -0.50 (one seed)")
    # Intervals that overlap, of differences that are all alike: .2 +- .03 or so.
    seeds = [
        run(seed, 3, 0.2, {"attack": level + above, "control": level})
        for seed, level, above in ((0, -0.5, 0.19), (1, 0.1, 0.2), (2, 0.4, 0.21))
    ]
    text = in_brief(seeds)
    # t with two degrees of freedom: 4.303 * .01 / sqrt(3) = .025.
    assert text.endswith(", attack less control 0.20 [0.18, 0.22] (3 seeds)")
    assert "control 0.00 [-1.14, 1.14] (3 seeds)" in text


@pytest.mark.parametrize(
    "text, message",
    [
        ("[[paper]]\ntitle = 'P'\n", "claim"),
        ("[[paper]]\n[[paper.claim]]\n", "title"),
        ("[[paper]", "TOMLDecodeError"),
        (
            "[[paper]]\ntitle = 'P'\n[[paper.claim]]\nfigure = '1'\n"
            "paper_says = 'x'\npresets = []\nverdict = 'splendid'\n",
            "splendid",
        ),
        (
            "[[paper]]\ntitle = 'P'\n[[paper.claim]]\nfigure = '1'\n"
            "paper_says = 'x'\npresets = 'fig6'\n",
            "not a list",
        ),
        ("[[paper]]\ntitle = 'P'\nclaim = []\n" * 2, "two papers have one title"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, message):
    path = tmp_path / "claims.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"claims.toml.*{message}.*correct it"):
        read_claims(path)


def test_the_page_has_them_first(tmp_path):
    folder = tmp_path / "fig6" / "0"
    folder.mkdir(parents=True)
    summary = {"experiment": "key_protected", "study": "orthogonality", "seed": 0}
    summary["keys"] = [{"dimension": 4, "largest": 0.9}]
    (folder / "summary.json").write_text(json.dumps(summary))
    claims = {"A paper": [_claim(verdict=Verdict.NO)]}
    page = results.render(tmp_path, {}, claims)["results.md"]
    assert page.index("### A paper") < page.index("\n## Presets with finished runs\n")
    without = results.render(tmp_path, {})["results.md"]
    assert "## What the papers say" not in without


def test_our_claims_name_presets_that_exist():
    presets = [
        preset
        for of_paper in read_claims(CLAIMS).values()
        for claim in of_paper
        for preset in claim.presets
    ]
    known = {path.stem for path in preset_files.CONFIGS.glob("*.flags")}
    assert set(presets) <= known
    # Every figure that has a preset has a claim.
    assert _figures(known) <= _figures(presets)


def _figures(names):
    found = (re.match(r"[a-z]+_fig\d+[a-d]?(?=_|$)", name) for name in names)
    return {figure[0] for figure in found if figure}
