"""Metrics of generated images: by hand, in the right direction, and of valid input only."""

import math

import numpy as np
import pytest

from jaxunlearn.evaluation import (
    Predictions,
    classify_generated,
    compare_generated,
    describe_real,
    frechet_distance,
    halves_distance,
    precision_recall,
)
from jaxunlearn.evaluation.frechet import statistics
from jaxunlearn.evaluation.generation import keep_of_prompts
from jaxunlearn.types import InputError

FORGET = Predictions(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), np.array([2, 2]))
RETAIN = Predictions(
    np.array([[1.0, 0.0, 0.0], [0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]]),
    np.array([0, 1, 1, 0]),
)


def test_classes_by_hand():
    found = classify_generated(FORGET, RETAIN)
    entropy = [
        0.5 * math.log(2) + 0.5 * math.log(4),
        -0.2 * math.log(0.1) - 0.8 * math.log(0.8),
        -0.6 * math.log(0.6) - 0.4 * math.log(0.4),
        -0.2 * math.log(0.2) - 0.3 * math.log(0.3) - 0.5 * math.log(0.5),
    ]
    assert found == pytest.approx(
        {
            "generated_forget_accuracy": 50.0,
            "generated_forget_probability": (0.25 + 0.8) / 2,
            "generated_forget_entropy": (entropy[0] + entropy[1]) / 2,
            "generated_retain_accuracy": 50.0,
            "generated_retain_probability": (1.0 + 0.4 + 1.0 + 0.2) / 4,
            "generated_retain_entropy": (entropy[2] + entropy[3]) / 4,
        }
    )


def test_a_forgotten_class_lowers_accuracy_and_raises_entropy():
    sure, labels = np.tile([0.0, 0.0, 1.0], (5, 1)), np.full(5, 2)
    before = classify_generated(Predictions(sure, labels), RETAIN)
    after = classify_generated(Predictions(np.full((5, 3), 1 / 3), labels), RETAIN)
    assert before["generated_forget_accuracy"] == 100.0
    assert before["generated_forget_probability"] == 1.0
    assert before["generated_forget_entropy"] == 0.0
    assert after["generated_forget_accuracy"] == 0.0
    assert after["generated_forget_probability"] == pytest.approx(1 / 3)
    assert after["generated_forget_entropy"] == pytest.approx(math.log(3))


def test_any_forgotten_class_counts_as_the_one_asked_for():
    """Asked for an inverted sneaker (1), the model draws an upright one (2): the word is there."""
    forget = Predictions(np.array([[0.1, 0.3, 0.6], [0.5, 0.3, 0.2]]), np.array([1, 2]))
    found = classify_generated(forget, Predictions(np.array([[0.2, 0.8, 0.0]]), np.array([0])))
    assert found["generated_forget_accuracy"] == 50.0
    assert found["generated_forget_probability"] == pytest.approx((0.9 + 0.5) / 2)
    assert found["generated_retain_accuracy"] == 0.0
    assert found["generated_retain_probability"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("forget", "retain", "message"),
    [
        (RETAIN, FORGET._replace(labels=np.array([2, 1])), "class 1 is among the forg"),
        (FORGET._replace(labels=np.array([2, 3])), RETAIN, "the generated forget prediction set"),
        (FORGET, Predictions(np.zeros((0, 3)), np.zeros(0, int)), "generated retain .* is empty"),
    ],
)
def test_what_is_not_divided_by_class_is_refused(forget, retain, message):
    with pytest.raises(InputError, match=message):
        classify_generated(forget, retain)


def test_styles_and_subjects_of_kept_prompts_by_hand():
    """Three styles of two subjects: the judge errs in the style once and in the subject twice."""
    grid = np.array([[style, subject] for style in range(3) for subject in range(2)])
    asked, seen = np.array([0, 0, 1, 2, 3]), np.array([0, 2, 0, 2, 2])
    retain = Predictions(np.eye(6)[seen], asked)
    found = keep_of_prompts(retain, grid, [4, 5], [0])
    assert found == {
        "nearest_accuracy": 50.0,
        "in_domain_accuracy": 80.0,
        "cross_domain_accuracy": pytest.approx(60.0),
    }
    turned = keep_of_prompts(
        Predictions(np.eye(6)[[0, 2, 2]], np.array([0, 0, 4])), grid, [1, 3, 5], [2, 4]
    )
    assert turned["in_domain_accuracy"] == 100.0 and turned["nearest_accuracy"] == 0.0
    assert turned["cross_domain_accuracy"] == pytest.approx(100 / 3)
    assert [*keep_of_prompts(retain, grid, [5], [1])] == ["nearest_accuracy"]


def test_a_comparison_has_the_distance_the_floor_precision_and_recall():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(80, 3)), 0.8 * rng.normal(size=(60, 3)) + 0.3
    found = compare_generated(describe_real(real, "by hand"), generated)
    precision, recall = precision_recall(real, generated)
    assert found == {
        "frechet_retain": frechet_distance(statistics(real, "x"), statistics(generated, "x")),
        "precision_retain": precision,
        "recall_retain": recall,
        "frechet_floor": halves_distance(real),
    }
    assert found["precision_retain"] > found["recall_retain"]  # it draws too little variety
    same = compare_generated(describe_real(real, "by hand"), real)
    assert same.pop("frechet_floor") == found["frechet_floor"]
    assert same == pytest.approx(
        {"frechet_retain": 0.0, "precision_retain": 1.0, "recall_retain": 1.0}, abs=1e-8
    )
