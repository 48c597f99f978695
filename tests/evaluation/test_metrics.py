"""The results table's numbers: percentages, gaps, ToW, and what is left out without data."""

import numpy as np
import pytest

from jaxunlearn.evaluation import (
    Predictions,
    SplitPredictions,
    accuracy,
    average_gap,
    distances,
    entropy_member_rate,
    evaluate,
    js_divergence,
    kl_divergence,
    same_number,
    svc_non_member_rate,
    tug_of_war,
    weights_moved,
)
from jaxunlearn.types import InputError

EMPTY = Predictions(np.zeros((0, 4)), np.zeros(0, int))


def sample(count, sharpness, seed, labels=None):
    """Softmax predictions that favour the true class by `sharpness`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count) if labels is None else labels
    logits = rng.normal(size=(count, 4)) + sharpness * np.eye(4)[labels]
    exponent = np.exp(logits)
    return Predictions(exponent / exponent.sum(1, keepdims=True), labels)


def make_model(seed, sharpness=4.0, forget_labels=None, test_forget=EMPTY):
    return SplitPredictions(
        forget=sample(40, sharpness, seed, forget_labels),
        retain=sample(90, 4.0, seed + 1),
        validation=sample(30, 2.0, seed + 2),
        test=sample(60, 2.0, seed + 3),
        test_forget=test_forget,
    )


LABELS = np.arange(40) % 4
MODEL = make_model(0, sharpness=3.0, forget_labels=LABELS)
RETRAINED = make_model(10, sharpness=2.0, forget_labels=LABELS)


def test_accuracy_is_a_percentage():
    p = np.eye(4)[[0, 1, 2, 3, 0]]
    assert accuracy(Predictions(p, np.array([0, 1, 2, 0, 1]))) == pytest.approx(60.0)


def test_evaluate_without_a_retrained_model_has_no_distances():
    metrics = evaluate(MODEL)
    assert set(metrics) == {
        "forget_accuracy",
        "retain_accuracy",
        "validation_accuracy",
        "test_accuracy",
        "svc_non_member_rate",
        "entropy_member_rate",
    }
    assert metrics["forget_accuracy"] == accuracy(MODEL.forget)
    members = same_number(MODEL.retain, 60)
    expected = 100 * svc_non_member_rate(members, MODEL.test, MODEL.forget)
    assert metrics["svc_non_member_rate"] == pytest.approx(expected)
    expected = 100 * entropy_member_rate(MODEL.retain, MODEL.test, MODEL.forget)
    assert metrics["entropy_member_rate"] == pytest.approx(expected)


def test_the_confidence_attack_sees_as_many_members_as_others():
    """Else it calls everybody what there is more of, as where half of the data are forgotten."""
    many = MODEL._replace(test=sample(900, 3.5, 5))
    few = many._replace(test=same_number(many.test, len(MODEL.retain.labels)))
    rates = [evaluate(model)["svc_non_member_rate"] for model in (many, few)]
    assert rates[0] == rates[1] < 95.0
    assert 100 * svc_non_member_rate(many.retain, many.test, many.forget) == 100.0


def test_evaluate_against_a_retrained_model():
    metrics, oracle = evaluate(MODEL, RETRAINED), evaluate(RETRAINED)
    p, q = RETRAINED.forget.probabilities, MODEL.forget.probabilities
    assert metrics["kl_to_retrained"] == pytest.approx(kl_divergence(p, q))
    assert metrics["js_to_retrained"] == pytest.approx(js_divergence(p, q))
    for attack in ("svc_non_member_rate", "entropy_member_rate"):
        names = ("forget_accuracy", "retain_accuracy", "test_accuracy", attack)
        expected = np.mean([abs(metrics[name] - oracle[name]) for name in names])
        assert metrics[f"average_gap_{attack}"] == pytest.approx(expected)
        assert expected > 0
    assert 0 < metrics["tow"] < 1
    assert evaluate(MODEL, RETRAINED, retrained_metrics=oracle) == metrics


def test_a_model_has_no_distance_to_itself():
    metrics = evaluate(MODEL, MODEL)
    assert metrics["tow"] == 1.0
    for name in ("kl_to_retrained", "js_to_retrained"):
        assert metrics[name] == 0.0
    for name in ("svc_non_member_rate", "entropy_member_rate"):
        assert metrics[f"average_gap_{name}"] == 0.0


def test_forgotten_classes_have_a_test_accuracy_of_their_own():
    test_forget = Predictions(np.eye(4)[[0, 0, 1, 0]], np.array([0, 1, 1, 1]))
    metrics = evaluate(make_model(0, test_forget=test_forget))
    assert metrics["test_forget_accuracy"] == 50.0


def test_no_validation_data_is_no_error_but_no_test_data_is():
    assert "validation_accuracy" not in evaluate(MODEL._replace(validation=EMPTY))
    for name in ("forget", "retain", "test"):
        with pytest.raises(InputError, match=f"the {name} prediction set is empty, but must"):
            evaluate(MODEL._replace(**{name: EMPTY}))


def test_gap_and_tug_of_war_by_hand():
    """SFR-on's published row for CIFAR-10: distances .96, .12, 1.15 and 2.58 give a gap of 1.20."""
    oracle = {
        "forget_accuracy": 95.62,
        "retain_accuracy": 100.0,
        "test_accuracy": 95.34,
        "svc_non_member_rate": 10.0,
        "entropy_member_rate": 74.84,
    }
    model = {
        "forget_accuracy": 96.58,
        "retain_accuracy": 99.88,
        "test_accuracy": 94.19,
        "svc_non_member_rate": 10.0,
        "entropy_member_rate": 72.26,
    }
    assert average_gap(model, oracle, "entropy_member_rate") == pytest.approx(1.2025)
    assert average_gap(model, oracle, "svc_non_member_rate") == pytest.approx(2.23 / 4)
    expected = (1 - 0.0096) * (1 - 0.0012) * (1 - 0.0115)
    assert tug_of_war(model, oracle) == pytest.approx(expected, rel=1e-12)
    assert distances(model, oracle)["tow"] == tug_of_war(model, oracle)


def test_unknown_attacks_and_missing_numbers_are_refused():
    with pytest.raises(InputError, match="must be one of svc_non_member_rate"):
        average_gap({}, {}, "membership")
    with pytest.raises(InputError, match="lack test_accuracy"):
        tug_of_war({"forget_accuracy": 1.0, "retain_accuracy": 1.0}, {})


def test_a_retrained_model_of_another_request_is_refused():
    with pytest.raises(
        InputError, match="40 forget examples and the retrained model 40 with other"
    ):
        evaluate(MODEL, make_model(20))
    shorter = RETRAINED._replace(forget=sample(39, 2.0, 0, LABELS[:39]))
    with pytest.raises(InputError, match="the retrained model 39"):
        evaluate(MODEL, shorter)


def test_the_movement_of_weights_is_relative_to_all_of_them():
    before = {"w": np.array([3.0, 0.0]), "b": np.array([4.0])}
    assert weights_moved(before, before) == 0.0
    assert weights_moved(before, {"w": np.array([3.0, 1.0]), "b": np.array([4.0])}) == 20.0
    assert weights_moved({"w": np.zeros(2)}, {"w": np.ones(2)}) == 0.0
