"""Pools and shares: disjoint, complete, seeded, and refused when impossible."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from tff_leak import errors
from tff_leak.data import partition
from tff_leak.data.sources import Examples, Source


def _examples(labels, first_id: int = 0) -> Examples:
    """1x1 images whose only value is a number of their own, over 2**16."""
    labels = np.asarray(labels, np.int32)
    ids = np.arange(first_id, first_id + len(labels), dtype=np.float32)
    ids *= np.float32(2**-16)
    return Examples(ids.reshape(-1, 1, 1, 1), labels)


def _source(train_counts, test_counts=None) -> Source:
    train = _examples(np.repeat(np.arange(len(train_counts)), train_counts))
    test = None
    if test_counts is not None:
        labels = np.repeat(np.arange(len(test_counts)), test_counts)
        test = _examples(labels, first_id=len(train))
    names = tuple(f"c{label}" for label in range(len(train_counts)))
    return Source("made", train, test, names, synthetic=True, foreground=False)


def _ids(examples: Examples) -> list[int]:
    return (examples.images.ravel() * 2**16).astype(int).tolist()


def _labels_fit(parts, labels) -> bool:
    return all(np.array_equal(labels[_ids(part)], part.labels) for part in parts)


def _counts(examples: Examples, classes: int) -> list[int]:
    return np.bincount(examples.labels, minlength=classes).tolist()


def _pools(pools):
    return pools.participants, pools.judge, pools.reference


def _one_line_error(call, *args, **kwargs) -> str:
    with pytest.raises(errors.InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "count, sizes", [(10, (6, 2, 2)), (100, (50, 35, 15)), (3, (1, 1, 1))]
)
def test_shares_without_a_test_part(count, sizes):
    pools = partition.split_pools(_source([count] * 4), seed=0)
    assert tuple(_counts(pool, 4) for pool in _pools(pools)) == tuple(
        [size] * 4 for size in sizes
    )


def test_with_a_test_part_the_reference_is_all_of_it():
    source = _source([900, 300], [40, 30])
    pools = partition.split_pools(source, seed=0)
    assert _counts(pools.judge, 2) == [200, 100]
    assert _counts(pools.participants, 2) == [700, 200]
    assert sorted(_ids(pools.reference)) == _ids(source.test)
    assert _labels_fit(
        [pools.reference], np.r_[source.train.labels, source.test.labels]
    )


def test_limits_and_explicit_numbers():
    pools = partition.split_pools(
        _source([50, 60], [20, 20]),
        per_class=7,
        judge_per_class=5,
        reference_per_class=3,
        seed=0,
    )
    assert [_counts(pool, 2) for pool in _pools(pools)] == [[7, 7], [5, 5], [3, 3]]
    source = _source([50, 60])
    pools = partition.split_pools(
        source, judge_per_class=0, reference_per_class=0, seed=0
    )
    assert sorted(_ids(pools.participants)) == _ids(source.train)
    assert len(pools.judge) == len(pools.reference) == 0
    assert pools.judge.images.shape == (0, 1, 1, 1)


def test_all_of_train_for_the_participants():
    source = _source([30, 20], [5, 5])
    pools = partition.split_pools(source, judge_per_class=0, seed=3)
    assert sorted(_ids(pools.participants)) == _ids(source.train)
    assert len(pools.judge) == 0 and len(pools.reference) == 10


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(
    counts=strategies.lists(strategies.integers(3, 60), min_size=1, max_size=5),
    with_test=strategies.booleans(),
    seed=strategies.integers(0, 2**31),
)
def test_pools_are_disjoint_complete_and_stratified(counts, with_test, seed):
    source = _source(counts, [4] * len(counts) if with_test else None)
    pools = partition.split_pools(source, seed=seed)
    everything = sum((_ids(pool) for pool in _pools(pools)), [])
    total = len(source.train) + (len(source.test) if with_test else 0)
    assert sorted(everything) == list(range(total))
    labels = np.r_[source.train.labels, source.test.labels if with_test else []]
    assert _labels_fit(_pools(pools), labels)
    for pool in _pools(pools):
        assert min(_counts(pool, len(counts))) >= 1


def test_pools_follow_the_seed():
    source = _source([40, 40])
    first, again, other = (
        [_ids(pool) for pool in _pools(partition.split_pools(source, seed=seed))]
        for seed in (5, 5, 6)
    )
    assert first == again
    assert all(sorted(a) != sorted(b) for a, b in zip(first, other, strict=True))
    assert np.any(np.diff(source.train.labels[first[0]]) < 0)  # Classes are mixed.


@pytest.mark.parametrize(
    "source, numbers, words",
    [
        (_source([2, 30]), {}, "class c0 has only 0, 1 and 1"),
        (_source([30, 0]), {}, "class c1 has only 0, 0 and 0"),
        (_source([30, 30], [5, 0]), {}, "class c1 has only 20, 10 and 0"),
        (_source([30]), {"judge_per_class": 40}, "has only 0, 30 and 0"),
        (_source([30], [3]), {"reference_per_class": 4}, "20, 10 and 3"),
        (_source([30]), {"per_class": 0}, "per_class=0"),
        (_source([30]), {"judge_per_class": -1}, "judge_per_class=-1"),
    ],
)
def test_pools_that_cannot_be_filled(source, numbers, words):
    assert words in _one_line_error(partition.split_pools, source, seed=0, **numbers)


def test_negative_seed():
    assert "seed=-1" in _one_line_error(partition.split_pools, _source([9]), seed=-1)


def test_class_lists_share_a_common_class_evenly():
    examples = _examples(np.repeat([0, 1, 2], [10, 7, 5]))
    parts = partition.by_class_lists(examples, [[0, 1], [1], [], [1]], seed=0)
    assert [_counts(part, 3) for part in parts] == [
        [10, 3, 0],
        [0, 2, 0],
        [0, 0, 0],
        [0, 2, 0],
    ]
    given = sum((_ids(part) for part in parts), [])
    assert sorted(given) == list(range(17))
    assert _labels_fit(parts, examples.labels)
    assert parts[2].images.shape == (0, 1, 1, 1)
    assert np.any(np.diff(parts[0].labels) < 0)


def test_class_lists_follow_the_seed():
    examples = _examples(np.repeat([0, 1], 30))
    first, again, other = (
        [_ids(p) for p in partition.by_class_lists(examples, [[0, 1], [1]], seed=seed)]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert sorted(first[1]) != sorted(other[1])


@hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
@hypothesis.given(
    lists=strategies.lists(
        strategies.sets(strategies.integers(0, 3), max_size=4), min_size=1, max_size=6
    ),
    seed=strategies.integers(0, 1000),
)
def test_class_lists_are_disjoint_and_use_every_image(lists, seed):
    examples = _examples(np.repeat([0, 1, 2, 3], [6, 11, 8, 9]))
    parts = partition.by_class_lists(examples, [sorted(c) for c in lists], seed=seed)
    named = set().union(*lists)
    given = sum((_ids(part) for part in parts), [])
    expected = np.flatnonzero(np.isin(examples.labels, list(named))).tolist()
    assert sorted(given) == expected
    for part, classes in zip(parts, lists, strict=True):
        assert set(part.labels.tolist()) == classes
    for label in named:
        shares = [_counts(p, 4)[label] for p in parts if label in p.labels]
        assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(
    "lists, words",
    [
        ([[0], [4]], "class 4 has no images"),
        ([[0], [-1]], "class -1 has no images"),
        ([[0, 0]], "twice in the list of participant 0"),
        ([[1], [1], [1]], "class 1 has 2 images for 3 participants"),
    ],
)
def test_impossible_class_lists(lists, words):
    examples = _examples([0, 0, 0, 1, 1])
    message = _one_line_error(partition.by_class_lists, examples, lists, seed=0)
    assert words in message


def test_one_class_per_client():
    examples = _examples([2, 0, 2, 5, 0, 2])
    parts = partition.by_class(examples, seed=0)
    assert [set(part.labels.tolist()) for part in parts] == [{0}, {2}, {5}]
    assert [sorted(_ids(part)) for part in parts] == [[1, 4], [0, 2, 5], [3]]


def test_random_classes_are_disjoint_and_of_the_asked_size():
    examples = _examples(np.repeat(np.arange(10), 30))
    parts = partition.random_classes(
        examples, clients=10, classes_per_client=3, per_class=8, seed=0
    )
    for part in parts:
        assert sorted(set(_counts(part, 10))) == [0, 8]
        assert len(part) == 24
    given = sum((_ids(part) for part in parts), [])
    assert len(set(given)) == len(given) == 240
    assert _labels_fit(parts, examples.labels)


def test_random_classes_use_the_last_image():
    examples = _examples(np.repeat([0, 1], 4))
    parts = partition.random_classes(
        examples, clients=4, classes_per_client=2, per_class=1, seed=0
    )
    assert sorted(sum((_ids(part) for part in parts), [])) == list(range(8))
    message = _one_line_error(
        partition.random_classes,
        examples,
        clients=5,
        classes_per_client=2,
        per_class=1,
        seed=0,
    )
    assert "4 of 5 clients" in message and "10 needed" in message


def test_random_classes_follow_the_seed_and_are_drawn_evenly():
    examples = _examples(np.repeat(np.arange(5), 400))
    draw = [
        partition.random_classes(
            examples, clients=100, classes_per_client=2, per_class=2, seed=seed
        )
        for seed in (0, 0, 1)
    ]
    ids = [[_ids(part) for part in parts] for parts in draw]
    assert ids[0] == ids[1] and ids[0] != ids[2]
    holders = np.sum([np.array(_counts(p, 5)) > 0 for p in draw[0]], axis=0)
    # 100 clients x 2 of 5 classes: 40 a class expected, standard deviation below 5.
    assert holders.sum() == 200 and np.all(np.abs(holders - 40) < 20)


@pytest.mark.parametrize("name", ["clients", "classes_per_client", "per_class"])
def test_random_classes_refuse_zero(name):
    numbers = {"clients": 1, "classes_per_client": 1, "per_class": 1, name: 0}
    message = _one_line_error(
        partition.random_classes, _examples([0, 1]), seed=0, **numbers
    )
    assert f"{name}=0" in message
