"""Calibration against brute force and closed forms."""

import numpy as np
import pytest

from jaxunlearn.evaluation import Predictions
from jaxunlearn.evaluation.calibration import brier_score, calibration_error
from jaxunlearn.types import InputError


def random_predictions(count=500, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return Predictions(rng.dirichlet(np.ones(classes), count), rng.integers(0, classes, count))


@pytest.mark.parametrize("num_bins", [1, 5, 15])
def test_the_calibration_error_is_that_of_a_loop_over_bins(num_bins):
    probabilities, labels = random_predictions()
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for b in range(num_bins):
        inside = (confidence > b / num_bins) & (confidence <= (b + 1) / num_bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = calibration_error(Predictions(probabilities, labels), num_bins)
    assert found == pytest.approx(100 * total, rel=1e-9)


def test_a_model_that_is_right_as_often_as_it_is_confident_has_no_error():
    share = np.repeat([0.6, 0.8], 100)
    right = np.concatenate([np.arange(100) < 60, np.arange(100) < 80])
    labels = np.where(right, 0, 1)
    honest = Predictions(np.stack([share, 1 - share], axis=1), labels)
    assert calibration_error(honest) == pytest.approx(0.0, abs=1e-9)
    boastful = Predictions(np.tile([1.0, 0.0], (200, 1)), labels)
    assert calibration_error(boastful) == pytest.approx(30.0)


def test_errors_of_opposite_sign_in_two_bins_do_not_cancel():
    probabilities = np.array([[0.95, 0.05], [0.55, 0.45]])
    predictions = Predictions(probabilities, np.array([1, 0]))
    assert calibration_error(predictions, 15) == pytest.approx(50 * (0.95 + 0.45))
    assert calibration_error(predictions, 1) == pytest.approx(100 * abs(0.75 - 0.5))


def test_the_brier_score_of_known_cases():
    labels = np.array([0, 1])
    assert brier_score(Predictions(np.eye(2), labels)) == 0.0
    assert brier_score(Predictions(np.eye(2)[::-1], labels)) == 2.0
    assert brier_score(Predictions(np.full((2, 2), 0.5), labels)) == 0.5
    probabilities, labels = random_predictions()
    by_hand = [np.sum((p - np.eye(4)[y]) ** 2) for p, y in zip(probabilities, labels, strict=True)]
    assert brier_score(Predictions(probabilities, labels)) == pytest.approx(np.mean(by_hand))


def test_wrong_input_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        calibration_error(random_predictions(), 0)
    with pytest.raises(InputError, match="sum"):
        brier_score(Predictions(np.ones((2, 2)), np.array([0, 1])))
