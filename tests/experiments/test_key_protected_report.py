"""Headlines of reports without an attack: which figure they are of."""

import types

import pytest

from experiments import key_protected_report as report
from experiments.key_protected_evaluation import Evaluation
from experiments.key_protected_program import Study

SUMMARY = {"seed": 0, "rounds": 3}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    nothing = types.SimpleNamespace(
        curves=lambda *_, **__: None, save=lambda *_: None, png=lambda *_: b""
    )
    monkeypatch.setattr(report, "figures", nothing)


def _verdict(build, study, tmp_path, found):
    experiment = types.SimpleNamespace(
        settings=types.SimpleNamespace(study=study),
        data=types.SimpleNamespace(
            source=types.SimpleNamespace(name="digits", synthetic=False)
        ),
    )
    directory = types.SimpleNamespace(figures=tmp_path, config={})
    return build(experiment, Evaluation(SUMMARY | found), directory).verdict


def test_accuracy_is_the_best_key_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_accuracy_curves", lambda *_: [])
    monkeypatch.setattr(report, "_accuracy_table", lambda found: ("", [], []))
    found = [
        {"dimension": d, "participant_accuracy": accuracy, "class_scores": []}
        for d, accuracy in ((16, 0.5), (64, 0.875), (256, 0.75))
    ]
    verdict = _verdict(
        report._accuracy_report, Study.ACCURACY, tmp_path, {"accuracy": found}
    )
    assert verdict.startswith(
        "Mean participant accuracy 0.8750 at d = 64, the best of 3 key sizes."
    )


@pytest.mark.parametrize(
    "study, what, figures",
    [
        (Study.ORTHOGONALITY, "two random keys", ("largest", "mean")),
        (
            Study.SHARED_CLASSES,
            "a shared class's embedding and another key",
            ("other_largest", "score_largest"),
        ),
    ],
)
def test_keys_alone_are_told_of_by_their_largest_product(
    tmp_path, study, what, figures
):
    first, other = figures
    found = [
        {"dimension": d, "distribution": "normal", other: 0.7071, first: value}
        for d, value in ((4, 0.9), (16, 0.5), (64, 0.25))
    ]
    verdict = _verdict(report._keys_report, study, tmp_path, {"keys": found})
    assert verdict.startswith(
        f"Largest product of {what}: 0.900 at d = 4, 0.250 at d = 64."
    )
