"""Metrics and attacks of the user: what they receive, what they may return, who may have a name."""

import math

import numpy as np
import pytest

from jaxunlearn import evaluation, plugins
from jaxunlearn.evaluation import Predictions, SplitPredictions, custom, units
from jaxunlearn.types import InputError


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """What is registered here is forgotten afterwards."""
    for module, name in (
        (custom, "_MEASURES"),
        (units, "OWN_UNITS"),
        (plugins, "_OWNERS"),
    ):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))


def predictions(seed):
    rng = np.random.default_rng(seed)
    parts = []
    for count in (20, 30, 10, 25, 0):
        found = rng.dirichlet(np.ones(3), count).astype(np.float32)
        parts.append(Predictions(found, rng.integers(0, 3, count)))
    return SplitPredictions(*parts)


def test_metrics_and_attacks_stand_beside_all_others_and_leave_the_gaps():
    model, retrained = predictions(0), predictions(1)
    retrained = retrained._replace(forget=retrained.forget._replace(labels=model.forget.labels))
    before = evaluation.evaluate(model, retrained)

    @evaluation.register_metric(direction="high", unit="nats", low=0.0)
    def entropy(model):
        p = model.test.probabilities
        return -np.mean(np.sum(p * np.log(p + 1e-20), axis=1))

    @evaluation.register_metric(direction="low")
    def distance(model, retrained):
        return np.abs(model.forget.probabilities - retrained.forget.probabilities).max()

    @evaluation.register_metric(direction="neither")
    def forgotten_classes(model):
        return None if len(model.test_forget.labels) == 0 else 1.0

    @evaluation.register_attack
    def threshold(retain, test, forget):
        """Members are those with a confidence above one half."""
        return np.mean(forget.probabilities.max(axis=1) > 0.5)

    after = evaluation.evaluate(model, retrained)
    assert list(after) == [*before, "entropy", "distance", "threshold"]
    assert {name: after[name] for name in before} == before
    confident = model.forget.probabilities.max(axis=1) > 0.5
    assert after["threshold"] == pytest.approx(100 * confident.mean())
    p = model.test.probabilities
    assert after["entropy"] == pytest.approx(-(p * np.log(p)).sum(1).mean(), rel=1e-5)
    assert "distance" not in evaluation.evaluate(retrained) and after["distance"] > 0
    assert units.unit_of("entropy") == units.Unit("nats", 0.0)
    assert units.unit_of("threshold") == units.Unit("%", 0.0, 100.0)
    records = custom.records()
    assert records["entropy"] == {
        **{"kind": "metric", "direction": "high", "about": "", "unit": "nats"},
        **{"low": 0.0, "high": None},
    }
    assert records["threshold"]["about"].startswith("Members are those")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (lambda: math.nan, "the metric odd is nan, but must be finite and from 0 to 1"),
        (lambda: 2.0, "the metric odd is 2, but must be finite and from 0 to 1"),
        (lambda: "a lot", "cannot be computed, because it raises ValueError: could not convert"),
        (lambda: 1 / 0, "cannot be computed, because it raises ZeroDivisionError: division by"),
    ],
)
def test_a_value_that_is_no_number_is_refused(value, sentence):
    @evaluation.register_metric(direction="low", low=0.0, high=1.0)
    def odd(model):
        return value()

    with pytest.raises(InputError, match=sentence):
        evaluation.evaluate(predictions(0))


def test_names_directions_and_signatures_are_checked():
    def test_accuracy(model):
        return 1.0

    def metric(model, retrained, more):
        return 1.0

    metrics = evaluation.register_metric(direction="low")
    with pytest.raises(InputError, match="the metric test_accuracy already exists"):
        metrics(test_accuracy)
    with pytest.raises(InputError, match="metric metric takes .model, retrained, more., but must"):
        metrics(metric)
    with pytest.raises(InputError, match="attack test_accuracy takes .model., but must take .ret"):
        evaluation.register_attack(test_accuracy)
    evaluation.register_attack(metric)
    assert set(custom.records()) == {"metric"}
