"""Intervals over seeds: the textbook quantiles, and honesty about a single seed."""

import math

import numpy as np
import pytest

from jaxunlearn.evaluation import summarize
from jaxunlearn.types import InputError


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.7062), (3, 4.3027), (5, 2.7764), (10, 2.2622)])
def test_half_width_uses_the_t_distribution(n, quantile):
    values = np.random.default_rng(n).normal(size=n)
    summary = summarize(values)
    assert summary.mean == pytest.approx(values.mean())
    spread = math.sqrt(((values - values.mean()) ** 2).sum() / (n - 1))
    assert summary.half_width == pytest.approx(quantile * spread / math.sqrt(n), rel=1e-4)
    assert summary.n == n


def test_one_value_has_no_interval_and_equal_values_have_width_zero():
    assert summarize([2.5]) == (2.5, None, 1)
    assert summarize([2.5, 2.5]) == (2.5, 0.0, 2)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [[1.0], [2.0]]])
def test_nothing_to_summarize_is_refused(values):
    with pytest.raises(InputError, match="one or more finite numbers"):
        summarize(values)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        summary = summarize(rng.normal(size=4))
        covered += abs(summary.mean) <= summary.half_width
    assert 0.92 < covered / 400 < 0.98
