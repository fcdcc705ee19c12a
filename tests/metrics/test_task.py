import numpy as np
import pytest

from tff_leak import errors
from tff_leak.metrics import task

LABELS = np.array([0, 0, 1, 1, 1, 3])
PREDICTED = np.array([0, 1, 1, 1, 3, 3])


def test_accuracy_by_hand():
    assert task.accuracy(LABELS, PREDICTED) == pytest.approx(4 / 6)


def test_confusion_matrix_by_hand():
    expected = [[1, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]]
    found = task.confusion_matrix(LABELS, PREDICTED, 4)
    np.testing.assert_array_equal(found, expected)


def test_per_class_accuracy_has_none_for_an_absent_class():
    confusion = task.confusion_matrix(LABELS, PREDICTED, 4)
    found = task.per_class_accuracy(confusion)
    assert found == [pytest.approx(1 / 2), pytest.approx(2 / 3), None, 1.0]


@pytest.mark.parametrize(
    "labels, predicted",
    [(LABELS, PREDICTED[:2]), (LABELS[:0], LABELS[:0]), (LABELS, np.zeros((6, 4)))],
)
def test_bad_input(labels, predicted):
    with pytest.raises(errors.InputError, match="argmax"):
        task.accuracy(labels, predicted)


def test_class_out_of_range():
    with pytest.raises(errors.InputError, match="fake class"):
        task.confusion_matrix(LABELS, PREDICTED, 3)
