"""Attacks: the published code's numbers, closed forms of the features, labels, directions."""

from pathlib import Path

import numpy as np
import pytest

from jaxunlearn.evaluation import (
    FEATURES,
    Predictions,
    attack_feature,
    entropy_member_rate,
    exposure_auc,
    same_number,
    svc_non_member_rate,
)
from jaxunlearn.types import InputError

with np.load(Path(__file__).parent.parent / "golden" / "evaluation.npz") as _file:
    GOLDEN = dict(_file)
RETAIN, TEST, FORGET = (
    Predictions(GOLDEN[f"{name}_probabilities"], GOLDEN[f"{name}_labels"])
    for name in ("retain", "test", "forget")
)


@pytest.mark.parametrize("feature", ["correctness", "confidence", "entropy", "probability"])
def test_svc_rate_equals_the_released_code(feature):
    rate = svc_non_member_rate(RETAIN, TEST, FORGET, feature)
    assert rate == pytest.approx(float(GOLDEN[f"svc_{feature}"]), rel=1e-6)


def test_the_released_numbers_come_from_every_member_given():
    balanced = Predictions(RETAIN.probabilities[:200], RETAIN.labels[:200])
    assert svc_non_member_rate(balanced, TEST, FORGET) != pytest.approx(
        float(GOLDEN["svc_confidence"]), abs=0.05
    )


def test_entropy_rate_equals_the_released_code():
    rate = entropy_member_rate(RETAIN, TEST, FORGET)
    assert rate == pytest.approx(float(GOLDEN["entropy_logistic_member_rate"]), rel=1e-6)


def test_the_two_attacks_point_in_opposite_directions():
    labels = np.zeros(30, int)
    sure = Predictions(np.tile([0.98, 0.02], (30, 1)), labels)
    unsure = Predictions(np.tile([0.6, 0.4], (30, 1)), labels)
    assert svc_non_member_rate(sure, unsure, sure) == 0.0
    assert svc_non_member_rate(sure, unsure, unsure) == 1.0
    assert entropy_member_rate(sure, unsure, sure) == 1.0
    assert entropy_member_rate(sure, unsure, unsure) == 0.0


def test_the_entropy_attack_is_balanced():
    """Nine times as many members must not make every example a member."""
    rng = np.random.default_rng(0)

    def sample(count, high):
        top = rng.uniform(0.55, high, count)
        return Predictions(np.stack([top, 1 - top], 1), np.zeros(count, int))

    members, others = sample(900, 0.95), sample(100, 0.85)
    assert 0.1 < entropy_member_rate(members, others, others) < 0.7


def test_features_follow_their_formulas():
    p = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
    predictions = Predictions(p, np.array([0, 1]))
    entropy = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1))
    first = -0.3 * np.log(0.7) - 0.2 * np.log(0.8) - 0.1 * np.log(0.9)
    second = -0.8 * np.log(0.2) - 0.7 * np.log(0.3) - 0.1 * np.log(0.9)
    expected = {
        "correctness": [[1.0], [0.0]],
        "confidence": [[0.7], [0.2]],
        "entropy": [[entropy], [entropy]],
        "modified_entropy": [[first], [second]],
        "probability": p,
    }
    assert set(expected) == set(FEATURES)
    for name, values in expected.items():
        np.testing.assert_allclose(attack_feature(predictions, name), values, rtol=1e-12)


def test_features_stay_finite_for_certain_predictions():
    certain = Predictions(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    for name in FEATURES:
        assert np.isfinite(attack_feature(certain, name)).all()
    right, wrong = attack_feature(certain, "modified_entropy")[:, 0]
    assert right == 0.0
    assert wrong > 100.0


def test_labels_matter_to_the_modified_entropy_attack_and_not_to_the_entropy_attack():
    """Members are right, non-members wrong, with the very same probabilities."""
    rng = np.random.default_rng(1)
    top = rng.uniform(0.8, 0.99, 40)
    p = np.stack([top, 1 - top], 1)
    right, wrong = Predictions(p, np.zeros(40, int)), Predictions(p, np.ones(40, int))
    assert svc_non_member_rate(right, wrong, right, "modified_entropy") == 0.0
    assert svc_non_member_rate(right, wrong, wrong, "modified_entropy") == 1.0
    blind = svc_non_member_rate(right, wrong, right, "entropy")
    assert blind == svc_non_member_rate(right, wrong, wrong, "entropy")


def test_unknown_features_and_mismatched_sets_are_refused():
    with pytest.raises(InputError, match="did you mean 'modified_entropy'"):
        svc_non_member_rate(RETAIN, TEST, FORGET, "modified_entropie")
    with pytest.raises(InputError, match="must be one of correctness, confidence, entropy"):
        attack_feature(FORGET, "loss")
    two = Predictions(np.array([[0.5, 0.5]]), np.array([0]))
    for attack in (svc_non_member_rate, entropy_member_rate):
        with pytest.raises(InputError, match="'forget': 2"):
            attack(RETAIN, TEST, two)
        empty = Predictions(np.zeros((0, 5)), np.zeros(0, int))
        with pytest.raises(InputError, match="the test prediction set is empty, but must"):
            attack(RETAIN, empty, FORGET)


def test_same_number_is_a_fixed_sample_without_repetition():
    count = 50
    members = Predictions(np.full((200, 2), 0.5), np.arange(200))
    chosen = same_number(members, count).labels
    assert len(set(chosen.tolist())) == count
    np.testing.assert_array_equal(chosen, same_number(members, count).labels)
    assert chosen.max() > 150 and chosen.min() < 50
    assert len(same_number(members, 1000).labels) == 200


def test_the_exposure_of_retained_examples_counts_pairs_and_half_of_ties():
    def of(*confidences):
        rows = np.array([[c, 1 - c] for c in confidences])
        return Predictions(rows, np.zeros(len(rows), int))

    # 0.9 beats both; 0.6 ties with one and beats the other.
    assert exposure_auc(of(0.9, 0.6), of(0.6, 0.5)) == pytest.approx(100 * 3.5 / 4)
    assert exposure_auc(of(0.6, 0.5), of(0.9, 0.6)) == pytest.approx(100 * 0.5 / 4)
