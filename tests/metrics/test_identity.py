import numpy as np
import pytest

from tff_leak import errors
from tff_leak.data import sources
from tff_leak.metrics import identity, properties, reconstruction


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


def _inputs(**changes):
    made = {
        "target": 7,
        "attack": pictures(-0.9, -0.8, -0.4, 0.8),
        "control": pictures(0.9, -0.9),
        "private": pictures(-1, -0.5),
        "others": pictures(0.0)[:0],
        "heldout": sources.Examples(pictures(-0.7, 0.7), np.array([7, 2], np.int32)),
    }
    return reconstruction.TargetInputs(**{**made, **changes})


def test_identity_of_a_run_by_hand():
    gallery = sources.Examples.concatenate(
        [GALLERY, sources.Examples(pictures(0.1), np.array([5], np.int32))]
    )
    found = identity.evaluate_identity([_inputs()], gallery, window=None)
    [target] = found["targets"]
    assert found["people"] == 3
    assert target == {
        "target": 7,
        "attack": 0.75,
        "control": 0.5,
        "reference": 1.0,  # the one held-out picture of 7; that of 2 is not asked
        "closest_other": 0.25,
        "closest_other_person": 2,
    }
    assert found["pooled"] == {
        key: target[key] for key in ("attack", "control", "reference", "closest_other")
    }


def test_samples_that_show_somebody_else_fail_the_identity_control():
    # Made for 7, but all of them pictures of 2.
    inputs = _inputs(attack=pictures(0.6, 0.9, 1.0))
    found = identity.evaluate_identity([inputs], GALLERY, window=None)["targets"][0]
    assert found["attack"] == 0
    assert (found["closest_other"], found["closest_other_person"]) == (1.0, 2)


def test_pooled_over_targets_and_without_a_control():
    other = _inputs(target=2, attack=pictures(0.9), control=pictures(0.0)[:0])
    pooled = identity.evaluate_identity([_inputs(), other], GALLERY, window=None)[
        "pooled"
    ]
    assert pooled["attack"] == pytest.approx((0.75 + 1) / 2)
    assert pooled["control"] is None  # one of two targets has none


def test_people_of_a_servers_attack_by_hand():
    def of(target, **sets):
        return properties.PropertyInputs(
            target, sets, *(pictures(0.0),) * 2, *(pictures(0.0)[0],) * 2
        )

    # GALLERY: see above; nearest to .6 and 1 is person 2, to what is dark person 7.
    one = of(7, victim=pictures(-0.7, -0.5, 0.6, 1.0), representatives=pictures(0.9))
    two = of(2, victim=pictures(0.6))
    found = identity.evaluate_people([one, two], GALLERY)
    assert found["people"] == 2
    assert found["targets"] == [
        {"target": 7, "sets": {"victim": 0.5, "representatives": 0.0}},
        {"target": 2, "sets": {"victim": 1.0}},
    ]
    # What only one person has says nothing about both.
    assert found["pooled"] == {"sets": {"victim": 0.75}}
