"""Faces shared out: only the victim's wear glasses, and nothing is given out twice."""

import dataclasses
import functools

import numpy as np
import pytest

from experiments.glasses_data import build_glasses_data
from tff_leak.data import att_glasses, sources
from tff_leak.data.sources import Examples, Source
from tff_leak.errors import InputError


def _source(glasses):
    """Pictures of 4x4 that are all different; `glasses` bool [people, pictures]."""
    people, pictures = glasses.shape
    shades = np.arange(people * pictures, dtype=np.float32) / (people * pictures)
    images = np.broadcast_to(shades[:, None, None, None], (len(shades), 4, 4, 1))
    return Source(
        name="att_faces",
        train=Examples(
            np.ascontiguousarray(images),
            np.repeat(np.arange(people, dtype=np.int32), pictures),
        ),
        test=None,
        class_names=tuple(map(str, range(people))),
        synthetic=False,
        foreground=False,
        glasses=glasses.ravel(),
    )


@functools.cache
def _att():
    """As AT&T's faces, by our annotation."""
    return _source(att_glasses.wears_glasses().reshape(40, 10))


def _data(source=None, **changes):
    settings = {
        "clients": 10,
        "people": 2,
        "per_person": 2,
        "victim": 3,
        "auxiliary": 4,
        "seed": 0,
        **changes,
    }
    return build_glasses_data(source or _att(), **settings)


def _numbers(source, examples):
    """Which pictures of the source these are, by their shade."""
    shades = source.train.images[:, 0, 0, 0]
    numbers = np.searchsorted(shades, examples.images[:, 0, 0, 0])
    np.testing.assert_array_equal(source.train.labels[numbers], examples.labels)
    return numbers


@pytest.mark.parametrize("seed", range(4))
def test_only_the_victims_pictures_show_glasses(seed):
    source, data = _att(), _data(seed=seed)
    worn = [source.glasses[_numbers(source, one)] for one in data.clients]
    for number, of_client in enumerate(worn):
        assert of_client.all() if number == 3 else not of_client.any()
    for one in [*data.control, data.auxiliary, data.test, data.without_property]:
        assert not source.glasses[_numbers(source, one)].any()
    assert source.glasses[_numbers(source, data.with_property)].all()


def test_control_and_attack_differ_in_the_victims_pictures_alone():
    data = _data()
    for number, (one, other) in enumerate(zip(data.clients, data.control, strict=True)):
        same = np.array_equal(one.images, other.images)
        assert same == (number != 3)
    assert sorted(data.control[3].labels) == sorted(data.clients[3].labels)


def test_the_victims_people_have_five_pictures_of_each_kind():
    """By our annotation these are people 4 and 19, labels 3 and 18."""
    for seed in range(4):
        data = _data(seed=seed)
        assert data.held == [3, 18]
        assert sorted(data.clients[3].labels) == [3, 3, 18, 18]
        for label in data.held:
            elsewhere = [
                len(one.of_class(label)) for i, one in enumerate(data.clients) if i != 3
            ]
            # Of five without glasses two are the control's, one the server's and one
            # held out.
            assert sum(elsewhere) == 1
            assert len(data.auxiliary.of_class(label)) == 1
            assert len(data.with_property.of_class(label)) == 2
            assert len(data.without_property.of_class(label)) == 3
            assert len(data.judge.of_class(label)) == 3


def test_nothing_is_given_out_twice():
    """But for templates without glasses, and the control's pictures for the judge."""
    source, data = _att(), _data()
    parts = [*data.clients, data.auxiliary, data.test, data.with_property, data.judge]
    numbers = np.concatenate([_numbers(source, part) for part in parts])
    assert len(numbers) == len(np.unique(numbers))
    judged = set(_numbers(source, data.judge))
    assert set(_numbers(source, data.control[3])) <= judged
    templates = set(_numbers(source, data.without_property))
    assert not templates & judged
    assert not templates & set(_numbers(source, data.control[3]))
    # Whom a picture shows is asked of all pictures but the reference.
    gallery = set(_numbers(source, data.gallery))
    assert gallery == set(range(400)) - set(_numbers(source, data.with_property))


def test_who_takes_part():
    data = _data()
    held = set(np.concatenate([one.labels for one in data.clients]))
    # Not the eight who always wear glasses, nor the three of whom only two pictures
    # are without.
    always, seldom = {1, 5, 13, 26, 27, 30, 33, 36}, {12, 16, 19}
    assert held == set(range(40)) - always - seldom
    assert set(data.auxiliary.labels) == set(range(40)) - always
    assert set(data.judge.labels) == set(range(40))
    counts = np.bincount(data.auxiliary.labels, minlength=40)
    assert counts[0] == 4
    # Person 7 has seven without glasses: two are a client's, two the judge's, one is
    # for tests.
    assert counts[6] == 2
    assert [counts[label] for label in seldom] == [1, 1, 1]
    assert set(data.test.labels) == held - {3, 18}


def test_others_people_are_spread_evenly():
    data = _data(clients=20)
    people = [len(set(one.labels)) for i, one in enumerate(data.clients) if i != 3]
    # 27 people and the victim's two among 19 clients.
    assert sum(people) == 29
    assert max(people) - min(people) <= 2


def test_a_seed_decides_and_repeats():
    one, same, other = _data(), _data(), _data(seed=1)
    for first, second in zip(one.clients, same.clients, strict=True):
        np.testing.assert_array_equal(first.images, second.images)
    assert not np.array_equal(one.clients[3].images, other.clients[3].images)


def test_drawn_faces_have_glasses_of_their_own():
    source = sources.load("synthetic_faces")
    data = _data(source)
    assert data.words == ("with glasses", "without glasses")
    assert data.angle is None
    keys = {image.tobytes(): n for n, image in enumerate(source.train.images)}
    for number, one in enumerate(data.clients):
        worn = [source.glasses[keys[image.tobytes()]] for image in one.images]
        assert all(worn) if number == 3 else not any(worn)
    with_it, without = data.templates(data.held[0])
    assert with_it.shape == (64, 64, 1)
    assert not np.array_equal(with_it, without)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"victim": 10}, "--victim is 10 of 10 clients: expected at least 2, and"),
        ({"clients": 1, "victim": 0}, "--victim is 0 of 1 clients: expected at least"),
        ({"auxiliary": 0}, "--auxiliary is 0: expected 1 or more"),
        ({"people": 3}, "--classes_per_client is 3: expected from 1 to 2 people"),
        ({"per_person": 3}, "--classes_per_client is 2: expected from 1 to 0 people"),
        ({"clients": 40}, "--clients is 40: expected at most 28, as 27 people"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(InputError, match=message):
        _data(**changes)


def test_a_source_that_knows_nothing_of_glasses_is_refused():
    source = dataclasses.replace(_att(), name="mnist", glasses=None)
    with pytest.raises(InputError, match="--property is glasses with --dataset=mnist"):
        _data(source)
