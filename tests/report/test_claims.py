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
    one = {"target": target, "reached": {"value": recovered > 0.5}}
    one["extra_controls"] = {}
    pooled = {"targets": [target], "recovered": recovered}
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
        "[fig6](#fig6): recovered 0.60 [-1.94, 3.14] (2 seeds), reached 1 of 3, "
        "task accuracy 0.83"
    )


def test_without_a_run_it_says_so_and_without_a_verdict_too():
    text = claims_tables({"P": [_claim(), _claim()]}, {})
    assert _cells(text, 0)["here"] == "not run"
    text = claims_tables({"P": [_claim()]}, {"fig6": [_drawn(0, 3, 0.4)]})
    assert _cells(text, 0)["here"] == "not judged"
    assert "recovered 0.40 (one seed)" in _cells(text, 0)["measured"]


def test_a_verdict_needs_a_run():
    with pytest.raises(InputError, match="'as there' and none of fig6 is published"):
        claims_tables({"P": [_claim(verdict=Verdict.YES)]}, {"fig7": []})


def test_epsilons_are_a_range():
    assert "epsilon" not in in_brief([_drawn(0, 3, 0.4, epsilon=None)])
    one = _drawn(0, 3, 0.4, epsilon=24.7)
    assert "epsilon 24.7 in all" in in_brief([one])
    # JSON has no infinity: it is a word there.
    text = in_brief([one, _drawn(1, 3, 0.4, epsilon="inf")])
    assert "epsilon 24.7 to inf in all" in text


def test_people_and_no_influence():
    run = _drawn(0, 3, 1.25, identity={"pooled": {"attack": 0.9}})
    assert "right person nearest 0.90 (one seed)" in in_brief([run])
    assert "without influence" not in in_brief([run])
    run["targets"][0]["extra_controls"]["passive"] = {"recovered": -0.5}
    assert "without influence -0.50 (one seed)" in in_brief([run])
    # Of runs some of which lack it, the mean would be of others.
    assert "without influence" not in in_brief([run, _drawn(1, 3, 1.0)])


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
        "attack": {"inception_score": 1.5},
        "reference": {"inception_score": 9.0},
    }
    assert in_brief([run]).endswith("Inception Score 1.50 (one seed) (real 9.00)")
    run["pooled"]["reference"] = {"inception_score": None}
    assert "Inception" not in in_brief([run])


def test_keys_by_their_size():
    def accuracy(seed, value):
        rows = [{"dimension": 10, "participant_accuracy": value}]
        rows.append({"dimension": 1024, "participant_accuracy": 1.0})
        run = {"experiment": "key_protected", "study": "accuracy", "seed": seed}
        return run | {"accuracy": rows}

    runs = [accuracy(0, 0.8), accuracy(1, 0.9)]
    assert in_brief(runs) == (
        "accuracy d = 10: 0.85 [0.21, 1.49] (2 seeds); "
        "d = 1024: 1.00 [1.00, 1.00] (2 seeds)"
    )
    many = [
        {"dimension": d, "distribution": "normal", "largest": 1 / d}
        for d in (1, 2, 4, 8, 16, 32, 64)
    ]
    run = {"experiment": "key_protected", "study": "orthogonality", "seed": 0}
    text = in_brief([run | {"keys": many}])
    assert "normal, d = 1: 1.00 (one seed); normal, d = 2: 0.50" in text
    assert "d = 32" in text and "d = 8" not in text


def test_keys_attacks_have_the_class_they_show_best_where_there_is_no_target():
    def run(seed, target, known, best):
        one = {"guess": "known", "dimension": 64, "largest": None}
        one["pooled"] = {"targets": [target], "recovered": known}
        random = {"guess": "random", "dimension": 64, "pooled": one["pooled"]}
        random["largest"] = {"attack": {"recovered": best}, "control": None}
        found = {"experiment": "key_protected", "study": "attack", "seed": seed}
        return found | {"attacks": [one, random]}

    # Two targets of one seed are no two seeds.
    text = in_brief([run(0, 3, 0.2, -0.5), run(0, 4, 0.6, -0.1)])
    assert text == (
        "recovered known, d = 64: 0.40 (one seed); random, d = 64: -0.30 (one seed)"
    )


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
    page = results.render(tmp_path, {}, claims)
    assert page.index("### A paper") < page.index("## fig6\n")
    assert "## What the papers say" not in results.render(tmp_path, {})


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
    found = (re.match(r"[a-z]+_fig\d+", name) for name in names)
    return {figure[0] for figure in found if figure}
