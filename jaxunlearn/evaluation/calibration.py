"""Calibration of probabilities: calibration error and Brier score.

With c_i the largest probability of example i, and examples sorted by it into 15 equal bins of
[0, 1],

    ECE   = sum over bins b of n_b / N |accuracy_b - mean confidence_b|
    Brier = mean_i sum_c (p_ic - 1[y_i = c])^2

On forget data the goal of unlearning is the retrained model's value, not a small one.

Sources: Guo et al., On Calibration of Modern Neural Networks, ICML 2017; Brier, Verification of
Forecasts Expressed in Terms of Probability, 1950.
"""

import numpy as np

from jaxunlearn.evaluation.predictions import Predictions, check_predictions
from jaxunlearn.types import InputError


def calibration_error(predictions: Predictions, num_bins: int = 15) -> float:
    """The expected calibration error (ECE) of the predicted class, in percentage points.

    It is 0 where the confidence equals the accuracy. A value on an edge is in the bin below it.

    Example:
        >>> half_right = Predictions(np.tile([0.9, 0.1], (4, 1)), np.array([0, 0, 1, 1]))
        >>> round(calibration_error(half_right), 6)
        40.0
    """
    if num_bins < 1:
        raise InputError(f"num_bins is {num_bins}, but must be at least 1; 15 is usual.")
    probabilities, labels = check_predictions(predictions, "calibrated")
    confidence = probabilities.max(axis=1)
    surplus = confidence - (probabilities.argmax(axis=1) == labels)
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    return 100.0 * float(np.abs(np.bincount(bins, surplus)).sum()) / len(labels)


def brier_score(predictions: Predictions) -> float:
    """The Brier score, from 0 (sure and right) to 2 (sure and wrong).

    Example:
        >>> round(brier_score(Predictions(np.array([[0.8, 0.2]]), np.array([0]))), 6)
        0.08
    """
    probabilities, labels = check_predictions(predictions, "calibrated")
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())
