"""Damage to classes and maps of disagreement, against loops."""

import numpy as np
import pytest

from jaxunlearn.evaluation import Predictions, accuracy
from jaxunlearn.evaluation.per_class import class_accuracies, class_damage, disagreement_map
from jaxunlearn.types import InputError

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 300)  # of five classes: the last has no examples


def random_model(seed):
    return Predictions(np.random.default_rng(seed).dirichlet(np.ones(5), 300), LABELS)


def test_class_accuracies_are_those_on_the_examples_of_each_class():
    model = random_model(1)
    found = class_accuracies(model)
    for label in range(4):
        chosen = LABELS == label
        part = Predictions(model.probabilities[chosen], LABELS[chosen])
        assert found[label] == pytest.approx(accuracy(part))
    assert np.isnan(found[4])


def test_damage_is_what_the_retrained_model_gets_right_and_the_model_does_not():
    model, retrained = random_model(1), random_model(2)
    damage = class_damage(model, retrained)
    np.testing.assert_allclose(damage, -class_damage(retrained, model))
    counts = np.bincount(LABELS, minlength=5)
    mean = np.nansum(damage * counts) / counts.sum()
    assert mean == pytest.approx(accuracy(retrained) - accuracy(model))
    truth = Predictions(np.eye(5)[LABELS], LABELS)
    wrong = Predictions(np.eye(5)[(LABELS + 1) % 5], LABELS)
    assert class_damage(wrong, truth)[:4].tolist() == [100.0] * 4


def test_the_map_counts_pairs_of_predicted_classes_with_the_retrained_one_first():
    model, retrained = random_model(1), random_model(2)
    expected = np.zeros((5, 5), int)
    for ours, theirs in zip(model.probabilities, retrained.probabilities, strict=True):
        expected[theirs.argmax(), ours.argmax()] += 1
    np.testing.assert_array_equal(disagreement_map(model, retrained), expected)
    same = disagreement_map(model, model)
    assert np.trace(same) == same.sum() == 300


def test_predictions_of_other_examples_are_refused():
    model = random_model(1)
    shifted = Predictions(model.probabilities, np.roll(LABELS, 1))
    fewer = Predictions(model.probabilities[:9], LABELS[:9])
    for other in (shifted, fewer):
        for function in (class_damage, disagreement_map):
            with pytest.raises(InputError, match="same examples"):
                function(model, other)
