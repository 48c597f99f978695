"""Divergences: the published code's numbers, closed forms, direction and bounds."""

from pathlib import Path

import numpy as np
import pytest

from jaxunlearn.evaluation import js_divergence, kl_divergence
from jaxunlearn.types import InputError

with np.load(Path(__file__).parent.parent / "golden" / "evaluation.npz") as _file:
    GOLDEN = dict(_file)
P, Q = GOLDEN["retrained_probabilities"], GOLDEN["forget_probabilities"]


def test_divergences_equal_the_released_code():
    assert kl_divergence(P, Q) == pytest.approx(float(GOLDEN["kl_divergence"]), rel=1e-6)
    assert js_divergence(P, Q) == pytest.approx(float(GOLDEN["js_divergence"]), rel=1e-6)


def test_the_retrained_model_stands_first():
    assert abs(kl_divergence(Q, P) - float(GOLDEN["kl_divergence"])) > 0.1


def test_closed_forms_of_two_coins():
    p, q = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
    kl = 0.5 * np.log(2.0) + 0.5 * np.log(2.0 / 3.0)
    assert kl_divergence(p, q) == pytest.approx(kl, rel=1e-6)
    middle = np.array([0.375, 0.625])
    js = 0.5 * np.sum(p[0] * np.log(p[0] / middle)) + 0.5 * np.sum(q[0] * np.log(q[0] / middle))
    assert js_divergence(p, q) == pytest.approx(js, rel=1e-6)
    assert js_divergence(q, p) == pytest.approx(js, rel=1e-6)


def test_it_is_a_mean_over_examples():
    once = kl_divergence(P, Q)
    assert kl_divergence(np.tile(P, (3, 1)), np.tile(Q, (3, 1))) == pytest.approx(once, rel=1e-9)


def test_extremes_are_finite():
    p, q = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert kl_divergence(p, p) == 0.0
    assert js_divergence(p, p) == 0.0
    assert kl_divergence(p, q) == pytest.approx(-np.log(1e-20), rel=1e-6)
    assert js_divergence(p, q) == pytest.approx(np.log(2.0), rel=1e-6)


@pytest.mark.parametrize("divergence", [kl_divergence, js_divergence])
def test_bad_pairs_are_refused(divergence):
    with pytest.raises(InputError, match=r"p has shape \(100, 5\) and q \(99, 5\)"):
        divergence(P, Q[:99])
    with pytest.raises(
        InputError, match="prediction set q of the compared model has probabilities"
    ):
        divergence(P, np.where(Q == Q[3, 3], np.nan, Q))
    with pytest.raises(InputError, match="prediction set p .* has probabilities as small as"):
        divergence(2.0 * P, Q)
    with pytest.raises(InputError, match="prediction set p .* is empty"):
        divergence(P[:0], Q[:0])
