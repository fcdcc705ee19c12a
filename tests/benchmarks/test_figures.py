"""Verdicts, table and JSON of figures."""

import json

import numpy as np
import pytest

from benchmarks import figures
from benchmarks.figures import Bound, Figure


@pytest.mark.parametrize(
    ("bound", "value", "holds", "text"),
    [
        (Bound(at_most=1.1), 1.1, True, "<= 1.1"),
        (Bound(at_most=1.1), 1.2, False, "<= 1.1"),
        (Bound(at_least=5), 5.0, True, ">= 5"),
        (Bound(at_least=5), 4.9, False, ">= 5"),
        (Bound(), 99.0, True, "-"),
    ],
)
def test_bound(bound, value, holds, text):
    assert bound.holds(value) is holds
    assert str(bound) == text


@pytest.mark.parametrize(
    ("value", "low", "high", "bound", "verdict"),
    [
        (1.0, 0.9, 1.05, Bound(at_most=1.1), "pass"),
        (1.0, 0.9, 1.2, Bound(at_most=1.1), "pass?"),
        (1.2, 1.0, 1.3, Bound(at_most=1.1), "fail?"),
        (1.2, 1.15, 1.3, Bound(at_most=1.1), "fail"),
        (1.2, None, None, Bound(at_most=1.1), "fail"),
        (0.5, 0.0, 1.0, Bound(at_least=0.4), "pass?"),
        (1.2, 1.0, 1.3, Bound(), "stated"),
        (None, None, None, Bound(at_most=1.0), "skipped"),
    ],
)
def test_verdict(value, low, high, bound, verdict):
    assert Figure("a", "name", value, low, high, bound=bound).verdict == verdict


def test_compare_scales_the_numerator():
    times = {"large": np.full(5, 30.0), "small": np.full(5, 2.0)}
    figure = figures.compare(
        "d", "time", times, "large", "small", scale=0.1, bound=Bound(at_most=1.4)
    )
    assert figure.name == "time: large / small"
    assert (figure.value, figure.low, figure.high) == (1.5, 1.5, 1.5)
    assert figure.verdict == "fail"
    assert figure.medians == {"large": 30.0, "small": 2.0}
    assert figure.rounds == 5


def test_json_round_trip():
    figure = Figure(
        "a", "n", 1.0, 0.9, 1.1, bound=Bound(at_most=2), medians={"x": 0.5}, rounds=3
    )
    values = json.loads(json.dumps(figure.as_dict()))
    assert values["verdict"] == "pass"
    assert Figure.from_dict(values) == figure


def test_table_has_every_figure_and_the_notes():
    shown = figures.table(
        [
            Figure("a", "pair", 1.0, 0.9, 1.1, bound=Bound(at_most=1.1), note="why"),
            figures.skipped("e", "cohort", "no such package"),
            figures.broken("f", "share", "it fell over"),
            Figure("f", "peak", 290.0, unit="GFLOP/s"),
        ]
    )
    lines = shown.splitlines()
    assert "1 [0.9, 1.1]" in lines[1]
    assert "pass" in lines[1]
    assert "skipped" in lines[2]
    assert "fail" in lines[3]
    assert "290 GFLOP/s" in lines[4]
    assert lines[5] == ""
    assert lines[6:] == [
        "a: pair: why",
        "e: cohort: no such package",
        "f: share: it fell over",
    ]


def test_check_equal_is_relative_to_the_whole():
    expected = [np.array([3.0, 0.0]), np.array([4.0])]
    found = [np.array([3.0, 0.0]), np.array([4.5])]
    assert figures.check_equal("x", found, expected, 0.2) == pytest.approx(0.1)
    with pytest.raises(AssertionError, match="x differs by 0.1 of its size"):
        figures.check_equal("x", found, expected, 0.05)
    with pytest.raises(AssertionError, match="shapes"):
        figures.check_equal("x", [np.ones(2)], [np.ones(3)], 1.0)
    with pytest.raises(AssertionError):
        figures.check_equal("x", [np.array([np.nan])], [np.ones(1)], 1.0)
    with pytest.raises(AssertionError):  # Nothing that changed proves nothing.
        figures.check_equal("x", [np.zeros(1)], [np.zeros(1)], 1.0)


def test_machine_is_json():
    facts = json.loads(json.dumps(figures.machine()))
    assert facts["cores"] >= 1
    assert set(facts["versions"]) >= {"tensorflow", "tensorflow-federated"}
    assert "git_commit" in facts
