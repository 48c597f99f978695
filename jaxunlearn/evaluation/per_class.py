"""Differences from the retrained model by class: damage to each class, and disagreement maps."""

import numpy as np

from jaxunlearn.evaluation.predictions import Predictions, check_predictions
from jaxunlearn.types import InputError


def class_accuracies(predictions: Predictions) -> np.ndarray:
    """The accuracy on each class in percent, `[C]`; NaN for a class without examples.

    Example:
        >>> probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.7, 0.3, 0.0]])
        >>> class_accuracies(Predictions(probabilities, np.array([0, 1, 1]))).tolist()
        [100.0, 50.0, nan]
    """
    probabilities, labels = check_predictions(predictions, "evaluated")
    classes = probabilities.shape[1]
    right = np.bincount(labels[probabilities.argmax(axis=1) == labels], minlength=classes)
    counts = np.bincount(labels, minlength=classes)
    with np.errstate(invalid="ignore"):
        return 100.0 * right / counts


def class_damage(model: Predictions, retrained: Predictions) -> np.ndarray:
    """The accuracy on each class that the model lost compared with the retrained model.

    Percentage points `[C]`, positive where the model is worse; NaN for a class without examples.
    """
    _check_same(model, retrained)
    return class_accuracies(retrained) - class_accuracies(model)


def disagreement_map(model: Predictions, retrained: Predictions) -> np.ndarray:
    """Counts `[C, C]` of pairs of predicted classes: retrained model (rows) and model (columns).

    Both predict the same examples; agreement is on the diagonal.

    Example:
        >>> labels = np.array([0, 1])
        >>> sure, unsure = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.6, 0.4], [0.6, 0.4]])
        >>> disagreement_map(Predictions(unsure, labels), Predictions(sure, labels)).tolist()
        [[1, 0], [1, 0]]
    """
    _check_same(model, retrained)
    classes = np.asarray(model.probabilities).shape[1]
    theirs, ours = (np.asarray(p.probabilities).argmax(axis=1) for p in (retrained, model))
    return np.bincount(theirs * classes + ours, minlength=classes**2).reshape(classes, classes)


def _check_same(model: Predictions, retrained: Predictions) -> None:
    ours, theirs = (
        check_predictions(predictions, name)
        for predictions, name in ((model, "compared"), (retrained, "retrained"))
    )
    if ours.probabilities.shape != theirs.probabilities.shape or not np.array_equal(
        ours.labels, theirs.labels
    ):
        raise InputError(
            f"the model has predictions of shape {ours.probabilities.shape} and the retrained "
            f"model {theirs.probabilities.shape}, or other labels, but both must be for the same "
            "examples; use the retrained model of the same forget request and seed."
        )
