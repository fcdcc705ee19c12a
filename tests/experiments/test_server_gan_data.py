"""Who holds what: only the victim's pictures are turned, nothing is given out twice."""

import functools

import numpy as np
import pytest

from experiments.server_gan_data import build_data
from tff_leak.data import sources, transforms
from tff_leak.errors import InputError


@functools.cache
def _source():
    return sources.load("digits")


def _data(**changes):
    settings = {
        "clients": 4,
        "classes_per_client": 3,
        "per_class": 15,
        "victim": 2,
        "angle": 40.0,
        "auxiliary": 100,
        "seed": 1,
        **changes,
    }
    return build_data(_source(), **settings)


def test_only_the_victims_pictures_are_turned_and_in_the_control_none():
    data = _data()
    for number, (one, upright) in enumerate(
        zip(data.clients, data.control, strict=True)
    ):
        np.testing.assert_array_equal(one.labels, upright.labels)
        assert len(one) == 45
        assert np.array_equal(one.images, upright.images) == (number != 2)
    turned = transforms.rotate(data.control[2].images, 40.0)
    np.testing.assert_array_equal(data.clients[2].images, turned)
    assert data.held == sorted(set(data.control[2].labels.tolist()))
    assert len(data.held) == 3


def test_pictures_are_28x28_and_lose_nothing_but_an_empty_border():
    assert _data().source.image_shape == (28, 28, 1)
    border = _source().train.images.copy()
    border[:, 2:-2, 2:-2] = -1
    assert (border == -1).all()


def test_nothing_is_given_out_twice():
    """The server's, tests, held-out pictures and clients' are all different ones."""
    data = _data()
    parts = [data.auxiliary, data.test, data.without_property, *data.control]
    rows = np.concatenate([part.images.reshape(len(part), -1) for part in parts])
    known = np.unique(_source().train.images[:, 2:-2, 2:-2].reshape(1797, -1), axis=0)
    # Some digits occur twice in the source itself.
    repeated = 1797 - len(known)
    assert len(rows) - len(np.unique(rows, axis=0)) <= repeated
    assert len(data.auxiliary) == 100
    assert set(data.auxiliary.labels) == set(range(10))


def test_the_server_never_sees_a_turned_picture_but_the_judge_does():
    plain, other = _data(), _data(angle=-35.0)
    np.testing.assert_array_equal(plain.auxiliary.images, other.auxiliary.images)
    half = len(plain.judge) // 2
    np.testing.assert_array_equal(plain.judge.images[:half], other.judge.images[:half])
    turned = transforms.rotate(plain.judge.images[:half], 40.0)
    np.testing.assert_allclose(plain.judge.images[half:], turned, atol=1e-6)


def test_templates_are_means_of_heldout_pictures():
    data = _data()
    heldout = data.without_property
    turned = transforms.rotate(heldout.images, 40.0)
    np.testing.assert_array_equal(data.with_property.images, turned)
    np.testing.assert_array_equal(data.with_property.labels, heldout.labels)
    label = data.held[1]
    with_it, without = data.templates(label)
    of_class = heldout.labels == label
    np.testing.assert_array_equal(with_it, turned[of_class].mean(axis=0))
    np.testing.assert_array_equal(without, heldout.images[of_class].mean(axis=0))
    assert data.words == ("turned", "upright")
    assert data.gallery is None


def test_others_pictures_are_other_clients_or_else_held_out():
    data = _data()
    for label in range(10):
        others = data.others_images(label)
        held = [
            one.of_class(label).images for i, one in enumerate(data.clients) if i != 2
        ]
        count = sum(map(len, held))
        expected = (
            np.concatenate(held)
            if count
            else data.without_property.of_class(label).images
        )
        np.testing.assert_array_equal(others, expected)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"victim": 4}, "--victim is 4: expected a client from 0 to 3"),
        ({"clients": 1, "victim": 0}, "--clients is 1: expected at least 2"),
        ({"angle": 360.0}, "--angle is 360: expected one that turns"),
        ({"auxiliary": 5000}, "--auxiliary is 5000: expected 1 or more, and at least"),
        ({"per_class": 5000}, "suffice for 0 of 4 clients"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(InputError, match=message):
        _data(**changes)


def test_every_class_of_the_victim_keeps_pictures_to_compare_with():
    parts = [_data().auxiliary, _data().test, _data().without_property]
    nobody_holds = sum(map(len, parts))
    with pytest.raises(InputError, match=r"--auxiliary is \d+: .* held-out pictures"):
        for seed in range(5):
            _data(auxiliary=nobody_holds - 20, seed=seed)
