"""Whose losses membership inference compares: one share of each class everywhere."""

import numpy as np
import pytest

from experiments.update_attacks_data import build_data, match_by_class
from tff_leak.attacks.membership_inference import infer_membership
from tff_leak.data import sources
from tff_leak.data.sources import Examples
from tff_leak.errors import InputError


def _examples(*counts, first):
    """So many of each class; every image is its number, from `first`."""
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    numbers = np.arange(first, first + len(labels), dtype=np.float32)
    return Examples(numbers.reshape(-1, 1, 1, 1), labels)


def _numbers(examples):
    return [int(number) for number in examples.images.ravel()]


MEMBERS = _examples(5, 2, 1, first=0)
NOBODYS = _examples(6, 10, 1, 4, first=100)


def test_each_part_has_as_many_of_each_class_as_can_be_had():
    compared = match_by_class(MEMBERS, NOBODYS, seed=0)
    for part in compared:
        # Half of six; all of two; of one none can be had twice; nobody holds a 3.
        assert np.bincount(part.labels).tolist() == [3, 2]
    chosen = [_numbers(part) for part in compared]
    assert set(chosen[0]) < set(_numbers(MEMBERS))
    assert set(chosen[1] + chosen[2]) < set(_numbers(NOBODYS))
    for part, origin in zip(compared, (MEMBERS, NOBODYS, NOBODYS), strict=True):
        labels = dict(zip(_numbers(origin), origin.labels, strict=True))
        assert [labels[number] for number in _numbers(part)] == part.labels.tolist()
    # Nothing stands twice, also not in the others and in the control.
    assert len(set(sum(chosen, []))) == 15


def test_others_are_as_many_times_as_many_as_every_class_allows():
    members, nobodys = _examples(2, 1, first=0), _examples(7, 4, first=100)
    compared = match_by_class(members, nobodys, seed=0)
    # Seven are two for the control and twice two; four would be thrice one as well.
    counts = [np.bincount(part.labels).tolist() for part in compared]
    assert counts == [[2, 1], [4, 2], [2, 1]]
    assert len(set(_numbers(compared.others) + _numbers(compared.more))) == 9


def test_the_seed_draws():
    def chosen(seed):
        return [_numbers(p) for p in match_by_class(MEMBERS, NOBODYS, seed=seed)]

    assert chosen(3) == chosen(3)
    for part in range(3):
        assert len({str(sorted(chosen(seed)[part])) for seed in range(8)}) > 1


def test_what_tells_classes_apart_does_not_tell_members():
    """By chance clients have other shares of the classes than what nobody holds."""
    data = build_data(
        sources.load("digits"),
        clients=6,
        classes_per_client=2,
        per_class=5,
        victims=[],
        with_control=False,
        seed=0,
    )
    held = np.concatenate([part.labels for part in data.clients])
    by_class = [losses.astype(float) for losses in (held, data.judge.labels)]
    assert infer_membership(*by_class).advantage > 0.1
    members, others, more = (part.labels.astype(float) for part in data.compared)
    assert len(members) == len(more) == len(held) < len(others)
    assert infer_membership(members, others).advantage == 0.0
    assert infer_membership(more, others).advantage == 0.0


def test_attacks_on_updates_compare_nothing():
    data = build_data(
        sources.load("digits"),
        clients=2,
        classes_per_client=1,
        per_class=1,
        victims=[],
        with_control=True,
        seed=0,
    )
    assert data.compared is None


def test_without_anything_to_compare_with():
    with pytest.raises(InputError, match="nobody holds are 5, not two of any class"):
        match_by_class(MEMBERS, _examples(1, 1, 1, 2, first=100), seed=0)
