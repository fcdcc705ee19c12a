import numpy as np
import pytest

from tff_leak import errors
from tff_leak.data import sources
from tff_leak.metrics import identity


def pictures(*values):
    images = np.stack([np.full((8, 8, 1), value, np.float32) for value in values])
    return images


GALLERY = sources.Examples(pictures(-1, -0.5, 0.5, 1), np.array([7, 7, 2, 2], np.int32))


def test_nearest_person_by_hand():
    images = pictures(-0.9, -0.1, 0.1, 0.8)
    np.testing.assert_array_equal(identity.identify(images, GALLERY), [7, 7, 2, 2])
    assert identity.identity_share(images[:3], GALLERY, 7) == pytest.approx(2 / 3)
    # The identity control: nothing made for 7 is someone else's.
    assert identity.identity_share(images[:2], GALLERY, 2) == 0


def test_what_is_outside_the_window_does_not_count():
    images = pictures(0.9)
    images[:, 2:] = -1
    assert identity.identify(images, GALLERY)[0] == 7
    assert identity.identify(images, GALLERY, window=(2, 8))[0] == 2


def test_real_faces_are_named(tfds_data_dir):
    faces = sources.load("att_faces", data_dir=tfds_data_dir).train
    rank = np.array([np.sum(faces.labels[:i] == k) for i, k in enumerate(faces.labels)])
    gallery = faces.take(np.flatnonzero(rank < 6))
    real = faces.take(np.flatnonzero(rank >= 6))
    named = identity.identify(real.images, gallery)
    assert (named == real.labels).mean() > 0.9


def test_bad_input():
    with pytest.raises(errors.InputError, match="same data source"):
        identity.identify(np.zeros((1, 9, 9, 1)), GALLERY)
