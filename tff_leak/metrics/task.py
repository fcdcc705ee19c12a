"""How well the shared model does the task that it is trained for."""

import numpy as np
from sklearn import metrics as sklearn_metrics

from tff_leak import errors


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Share of right predictions, 0 to 1.

    Args:
      labels: int [n], n at least 1.
      predicted: int [n], the predicted classes.

    Raises:
      InputError: If the two differ in length or are empty.
    """
    labels, predicted = _matching(labels, predicted)
    return float((labels == predicted).mean())


def confusion_matrix(
    labels: np.ndarray, predicted: np.ndarray, num_classes: int
) -> np.ndarray:
    """Counts of true (row) against predicted (column) class.

    Args:
      labels: int [n] in [0, num_classes).
      predicted: int [n] in [0, num_classes).
      num_classes: Number of the model's outputs, an injected fake class included.

    Returns:
      int64 [num_classes, num_classes].

    Raises:
      InputError: If the lengths differ, nothing is given, or a class is out of range.
    """
    labels, predicted = _matching(labels, predicted)
    for name, classes in (("label", labels), ("predicted class", predicted)):
        if classes.min() < 0 or classes.max() >= num_classes:
            raise errors.InputError(
                f"A {name} lies in [{classes.min()}, {classes.max()}]; expected "
                f"classes in [0, {num_classes - 1}]; count every output of the model, "
                "a fake class included, in num_classes."
            )
    return sklearn_metrics.confusion_matrix(
        labels, predicted, labels=np.arange(num_classes)
    ).astype(np.int64)


def per_class_accuracy(confusion: np.ndarray) -> list[float | None]:
    """Share of right predictions for each true class.

    Args:
      confusion: int [num_classes, num_classes] from `confusion_matrix`.

    Returns:
      num_classes figures from 0 to 1; None for a class that has no example.
    """
    totals = confusion.sum(axis=1)
    return [
        float(right / total) if total else None
        for right, total in zip(np.diagonal(confusion), totals, strict=True)
    ]


def _matching(
    labels: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.ndim != 1 or labels.shape != predicted.shape or not len(labels):
        raise errors.InputError(
            f"Labels {labels.shape} and predictions {predicted.shape} do not fit; "
            "expected two vectors of one length, at least 1; give the predicted "
            "classes (argmax), not their scores."
        )
    return labels, predicted
