"""Who takes part, with which data, and what is refused."""

import numpy as np
import pytest

from experiments.federation import build_federation, load_data
from tff_leak.data import sources
from tff_leak.data.sources import Examples, Source
from tff_leak.errors import InputError


@pytest.fixture
def source():
    labels = np.repeat(np.arange(6, dtype=np.int32), 10)
    # Each picture carries its own number, so that it can be followed.
    images = np.zeros((60, 8, 8, 1), np.float32)
    images[:, 0, 0, 0] = np.arange(60) / 100
    examples = Examples(images, labels)
    names = tuple("abcdef")
    return Source("made", examples, None, names, synthetic=True, foreground=True)


def _build(source, **changes):
    arguments = {"participants": "0-2;3-5", "adversaries": [1], "targets": [1]}
    arguments |= changes
    return build_federation(source, source.train, seed=0, **arguments)


def test_class_lists_ranges_and_single_classes(source):
    federation = _build(source, participants="0,2;1,3-5;none", adversaries=[2])
    held = [sorted(set(part.labels.tolist())) for part in federation.data]
    assert held == [[0, 2], [1, 3, 4, 5], []]
    assert federation.victim(1) == 1


def test_without_a_judge_the_held_out_pictures_are_all_tests(source, monkeypatch):
    """As the authors of key protected classification share the faces: seven, three."""
    monkeypatch.setattr(sources, "load", lambda *_, **__: source)

    def load(**changes):
        data = load_data(
            "made",
            data_dir=None,
            per_class=None,
            participants="0-2;3-5",
            adversaries=[],
            targets=[],
            seed=0,
            **changes,
        )
        counts = [np.bincount(part.labels).tolist() for part in data.federation.data]
        rest = [data.judge, data.reference, data.test]
        return counts, [np.bincount(part.labels, minlength=6).tolist() for part in rest]

    assert load(held_out_per_class=3) == (
        [[7, 7, 7], [0, 0, 0, 7, 7, 7]],
        [6 * [0], 6 * [3], 6 * [3]],
    )
    assert load() == (
        [[6, 6, 6], [0, 0, 0, 6, 6, 6]],
        [6 * [2], 6 * [2], 6 * [2]],
    )


def test_each_gives_everybody_one_class(source):
    federation = _build(source, participants="each;none", adversaries=[6])
    assert [set(part.labels.tolist()) for part in federation.data[:6]] == [
        {label} for label in range(6)
    ]
    assert len(federation.data[6]) == 0


def test_a_shared_class_has_a_victim_and_others(source):
    federation = _build(source, participants="0,1;1,2;3", adversaries=[2])
    victim = federation.data[0].of_class(1).images
    others = federation.others_images(1)
    assert len(victim) == len(others) == 5
    assert not set(victim[:, 0, 0, 0]) & set(others[:, 0, 0, 0])
    assert federation.others_images(0).shape == (0, 8, 8, 1)


def test_somebody_has_data(source):
    with pytest.raises(
        InputError, match="'none;none': expected at least one with data"
    ):
        _build(source, participants="none;none", adversaries=[], targets=[])


def test_where_everybody_attacks_everybody_is_a_victim(source):
    shares = {"participants": "0,1;1,2;3", "adversaries": [2, 0, 1]}
    shares |= {"targets": [1, 2, 3], "all_may_attack": True}
    federation = _build(source, **shares)
    assert federation.everybody_attacks and federation.victims == (0, 1, 2)
    assert [federation.victim(label) for label in range(4)] == [0, 0, 1, 2]
    np.testing.assert_array_equal(
        federation.others_images(1), federation.data[1].of_class(1).images
    )
    message = "5 is a class that nobody else holds: expected one of 1,2,3; choose"
    with pytest.raises(InputError, match=message):
        _build(source, **shares | {"targets": [1, 5, 3]})
    with pytest.raises(InputError, match="3 is a class of adversary 2 itself"):
        _build(source, **shares | {"targets": [3, 2, 3]})
    # As long as somebody is honest, the others are no victims.
    honest = _build(source, **shares | {"adversaries": [2, 0], "targets": [1, 2]})
    assert not honest.everybody_attacks and honest.victims == (1,)
    assert honest.victim(1) == 1


def test_many_participants_in_one_word(source):
    federation = _build(source, participants="3x0-2;none", adversaries=[3])
    assert [np.unique(part.labels).tolist() for part in federation.data] == [
        *3 * [[0, 1, 2]],
        [],
    ]
    written_out = _build(source, participants="0-2;0-2; 0-2 ;none", adversaries=[3])
    for one, other in zip(federation.data, written_out.data, strict=True):
        np.testing.assert_array_equal(one.images, other.images)


def test_in_the_control_nobody_holds_a_target(source):
    federation = _build(source)
    control = federation.without_targets()
    assert all(1 not in part.labels for part in control.data)
    assert len(control.data[0]) == len(federation.data[0]) - 10
    np.testing.assert_array_equal(control.data[1].images, federation.data[1].images)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"participants": "0-2"}, "expected at least two participants"),
        ({"participants": "0-2;3-9"}, "has '3-9': expected classes from 0 to 5"),
        ({"participants": "0-2;a"}, "has 'a': expected classes such as 0-4"),
        ({"participants": "0-;3"}, "has '0-': expected classes such as 0-4"),
        ({"participants": "0-999999999;3"}, "expected classes from 0 to 5"),
        ({"participants": "0,0;3"}, "has '0,0': expected classes"),
        ({"participants": "0x0;3"}, "has '0x0': expected a number of participants"),
        ({"participants": "ax0;3"}, "has 'ax0': expected a number of participants"),
        ({"participants": "2x7;3"}, "has '7': expected classes from 0 to 5"),
        ({"adversaries": [2]}, "--adversaries is 2: expected different numbers from 0"),
        ({"adversaries": [0, 1], "targets": [3, 0]}, "expected an honest participant"),
        ({"targets": [1, 2]}, "--targets is 1,2: expected one class for each of the 1"),
        ({"targets": [4]}, "target 4 is a class of adversary 1 itself"),
        (
            {"participants": "0-1;3-5", "targets": [2]},
            "target 2 is a class that no honest participant holds: expected one of 0,1",
        ),
    ],
)
def test_what_is_refused(source, changes, message):
    with pytest.raises(InputError, match=message):
        _build(source, **changes)
