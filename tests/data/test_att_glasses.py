"""Our annotation of glasses: counts, range, and the builder's order of pictures."""

import numpy as np
import pytest

from tff_leak.data import att_faces, att_glasses, sources

# Pictures with glasses of the people who have both kinds.
BOTH = {4: 5, 7: 3, 13: 8, 17: 8, 19: 5, 20: 8, 36: 2}
ALWAYS = (2, 6, 14, 27, 28, 31, 34, 37)


def test_counts():
    worn = att_glasses.wears_glasses()
    assert worn.shape == (400,) and worn.dtype == bool
    assert worn.sum() == 119
    by_person = worn.reshape(40, 10).sum(axis=1)
    for person in range(1, 41):
        expected = 10 if person in ALWAYS else BOTH.get(person, 0)
        assert by_person[person - 1] == expected, person


def test_every_entry_is_a_picture_and_stands_there_once():
    for person, pictures in att_glasses.WITH_GLASSES.items():
        assert 1 <= person <= att_faces.PEOPLE
        assert list(pictures) == sorted(set(pictures))
        assert set(pictures) <= set(range(1, att_faces.PICTURES + 1))


def test_single_pictures():
    """Taken from the pictures themselves, apart from the table."""
    worn = att_glasses.wears_glasses().reshape(40, 10)
    with_glasses = [(4, 1), (4, 9), (7, 4), (7, 10), (13, 1), (19, 6), (20, 5), (36, 9)]
    without = [(4, 4), (4, 10), (7, 9), (13, 3), (17, 4), (19, 7), (20, 6), (36, 8)]
    for person, picture in with_glasses:
        assert worn[person - 1, picture - 1], (person, picture)
    for person, picture in [*without, (1, 1), (40, 10)]:
        assert not worn[person - 1, picture - 1], (person, picture)


def test_the_order_is_the_builders(tfds_data_dir, tmp_path, monkeypatch):
    manual = tfds_data_dir / "downloads" / "manual"
    if not manual.is_dir():
        pytest.skip(f"{tfds_data_dir} holds no AT&T faces")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = sources.load("att_faces", data_dir=tfds_data_dir)
    pictures = att_faces.read_pictures(manual)
    np.testing.assert_array_equal(source.glasses, att_glasses.wears_glasses())
    for person, with_glasses in BOTH.items():
        of_person = source.glasses[source.train.labels == person - 1]
        assert of_person.sum() == with_glasses
    for number, (person, picture) in enumerate(pictures):
        shown = (source.train.images[number] + 1.0) * 127.5
        np.testing.assert_allclose(shown, pictures[person, picture], atol=1e-3)
        listed = picture in att_glasses.WITH_GLASSES.get(person, ())
        assert source.glasses[number] == listed


def test_only_faces_know_of_glasses():
    assert sources.load("digits").glasses is None
    drawn = sources.load("synthetic_faces")
    assert drawn.glasses.shape == (400,)
    assert (drawn.glasses.reshape(40, 10).sum(axis=1) == 5).all()
