"""Labels from the output layer: by hand, and the rule for what falls."""

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.attacks.label_inference import (
    allot_labels,
    class_shares,
    held_classes,
    infer_labels,
)
from tff_leak.errors import InputError


def _update(examples, confidences):
    """One step of rate 1: (input, label) pairs, the same confidences for all."""
    columns = np.zeros((len(examples[0][0]), len(confidences)))
    biases = np.zeros(len(confidences))
    for inputs, label in examples:
        errors = np.array(confidences) - np.eye(len(confidences))[label]
        columns += np.outer(inputs, errors)
        biases += errors
    scale = len(examples)
    return [tf.constant([x / scale], tf.float32) for x in (columns, biases)]


# Three examples of class 0, one of class 2.
DATA = [([1.0, 0.0], 0), ([0.9, 0.1], 0), ([0.8, 0.2], 0), ([0.0, 1.0], 2)]


def test_held_classes_and_shares_by_hand():
    updates = _update(DATA, [0.25] * 4)
    # Biases fall by p - share: .25 - .75, .25, .25 - .25, .25.
    np.testing.assert_allclose(updates[1], [[-0.5, 0.25, 0.0, 0.25]])
    assert held_classes(updates).numpy().tolist() == [[True, False, False, False]]
    # A bias that neither rises nor falls tells nothing; one that rises a little does.
    updates = _update(DATA, [0.26, 0.26, 0.22, 0.26])
    assert held_classes(updates).numpy().tolist() == [[True, False, True, False]]
    # Rises above the fall of the others, .26: .49 + .26 and .03 + .26.
    expected = np.array([0.75, 0, 0.29, 0]) / 1.04
    np.testing.assert_allclose(class_shares(updates)[0], expected, atol=1e-5)


def test_a_class_is_found_although_its_bias_falls():
    # The model expects class 2 in 40% of the cases, the client has it in 25%.
    columns, biases = _update(DATA, [0.2, 0.2, 0.4, 0.2])
    assert biases[0, 2] > 0
    assert held_classes([columns, biases]).numpy().tolist() == [
        [True, False, True, False]
    ]
    # It is the column that tells: with that of the others, it is not held.
    others = columns[:, :, 1:2] * biases[0, 2] / biases[0, 1]
    columns = tf.concat([columns[:, :, :2], others, columns[:, :, 3:]], axis=2)
    assert held_classes([columns, biases]).numpy().tolist() == [
        [True, False, False, False]
    ]


def test_labels_are_even_and_every_class_is_there():
    updates = _update(DATA, [0.26, 0.26, 0.22, 0.26])
    assert infer_labels(updates, 4).numpy().tolist() == [[0, 0, 2, 2]]
    assert infer_labels(updates, 3).numpy().tolist() == [[0, 0, 2]]
    assert infer_labels(updates, 1).numpy().tolist() == [[0]]
    labels = infer_labels(updates, 2)
    assert labels.dtype == tf.int32
    assert labels.numpy().tolist() == [[0, 2]]
    nothing = [tf.zeros_like(update) for update in updates]
    assert infer_labels(nothing, 2).numpy().tolist() == [[0, 0]]
    assert np.all(class_shares(nothing) == 0)


@pytest.mark.parametrize(
    "shares, images, expected",
    [
        ([0.6, 0.0, 0.4], 5, [0, 0, 0, 2, 2]),
        ([0.6, 0.0, 0.4], 10, [0] * 6 + [2] * 4),
        # One each before anybody has two, then 98, 98/3, 98/5 ... above 1.
        ([0.98, 0.01, 0.01], 5, [0, 0, 0, 1, 2]),
        ([0.98, 0.0, 0.02], 3, [0, 0, 2]),
    ],
)
def test_allotment(shares, images, expected):
    found = allot_labels(tf.constant([shares, shares[::-1]]), images).numpy()
    assert found[0].tolist() == expected
    assert found[1].tolist() == sorted(2 - label for label in expected)


def test_bad_input():
    updates = _update(DATA, [0.25] * 4)
    with pytest.raises(InputError, match="images is 0: expected at least 1"):
        infer_labels(updates, 0)
    with pytest.raises(
        InputError, match=r"the shapes \[\(1, 4\), \(1, 4\)\]: expected"
    ):
        infer_labels([updates[1], updates[1]], 2)
