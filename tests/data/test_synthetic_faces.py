"""Synthetic faces: reproducible, individual, and with the attributes they claim."""

import numpy as np
import pytest

from tff_leak import errors
from tff_leak.data import synthetic_faces


@pytest.fixture(scope="module")
def faces():
    return synthetic_faces.generate(seed=0)


def test_forty_people_with_ten_pictures(faces):
    assert faces.images.shape == (400, 64, 64, 1)
    assert faces.images.dtype == np.float32
    assert -1.0 <= faces.images.min() < -0.5 and 0.5 < faces.images.max() <= 1.0
    np.testing.assert_array_equal(faces.identities, np.repeat(np.arange(40), 10))


def test_every_expression_and_half_with_glasses_for_each_person(faces):
    for person in range(40):
        mine = faces.identities == person
        assert faces.glasses[mine].sum() == 5
        counts = np.bincount(faces.expressions[mine])
        np.testing.assert_array_equal(counts, [2] * len(synthetic_faces.EXPRESSIONS))


def _share_of_nearest_with_same_identity(faces) -> float:
    rows = faces.images.reshape(len(faces.images), -1)
    distances = np.stack([np.abs(rows - row).mean(axis=1) for row in rows])
    np.fill_diagonal(distances, np.inf)
    nearest = faces.identities[distances.argmin(axis=1)]
    return np.mean(nearest == faces.identities)


def test_nearest_other_picture_is_of_the_same_person(faces):
    assert _share_of_nearest_with_same_identity(faces) >= 0.9
    others = synthetic_faces.generate(pictures=5, seed=7)
    assert _share_of_nearest_with_same_identity(others) >= 0.9


def test_same_seed_same_bytes_and_other_seed_other_people(faces):
    again = synthetic_faces.generate(people=2, seed=0)
    assert again.images.tobytes() == faces.images[:20].tobytes()
    other = synthetic_faces.generate(people=2, seed=1)
    assert np.abs(other.images - again.images).mean() > 0.05


def test_pictures_of_a_person_differ(faces):
    first = faces.images[:10].reshape(10, -1)
    assert len(np.unique(first, axis=0)) == 10


def test_glasses_darken_the_eyes_only():
    person = synthetic_faces._draw_person(np.random.default_rng(3))
    view = synthetic_faces._draw_view(np.random.default_rng(4))
    without = synthetic_faces._render(person, view, 0, False)[:, :, 0]
    with_glasses = synthetic_faces._render(person, view, 0, True)[:, :, 0]
    difference = with_glasses - without
    assert difference.min() < -0.3
    assert np.abs(difference[42:]).max() == 0.0
    assert np.abs(difference[:18]).max() == 0.0


def test_expression_moves_the_mouth_and_not_the_shoulders():
    person = synthetic_faces._draw_person(np.random.default_rng(3))
    view = synthetic_faces._draw_view(np.random.default_rng(4))
    neutral, surprise = (
        synthetic_faces._render(person, view, expression, False)[:, :, 0]
        for expression in (0, synthetic_faces.EXPRESSIONS.index("surprise"))
    )
    assert np.abs(neutral - surprise)[42:54, 24:40].max() > 0.3
    np.testing.assert_array_equal(neutral[60:], surprise[60:])


@pytest.mark.parametrize("wrong", [{"people": 0}, {"pictures": 0}, {"seed": -1}])
def test_bad_numbers(wrong):
    with pytest.raises(errors.InputError, match="expected at least 1") as caught:
        synthetic_faces.generate(**wrong)
    assert "\n" not in str(caught.value)
