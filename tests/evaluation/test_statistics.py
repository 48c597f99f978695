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
    assert summarize([2.5])[:3] == (2.5, None, 1) and summarize([2.5]).interval is None
    assert summarize([2.5, 2.5])[:3] == (2.5, 0.0, 2)


@pytest.mark.parametrize(
    ("values", "bounds", "interval"),
    [
        ([99.0, 99.5, 100.0], (0.0, 100.0), (98.258, 100.0)),  # 99.5 +- 4.303 * 0.5 / sqrt(3)
        ([0.0, 0.1, 0.5], (0.0, 100.0), (0.0, 0.857)),
        ([20.0, 30.0, 100.0], (0.0, 100.0), (0.0, 100.0)),
        ([50.0, 50.5, 51.0], (0.0, 100.0), (49.258, 51.742)),
        ([1.0, 2.0, 3.0], (-math.inf, math.inf), (-0.484, 4.484)),
    ],
)
def test_an_interval_ends_at_the_possible_values(values, bounds, interval):
    summary = summarize(values, bounds)
    assert summary.interval == pytest.approx(interval, abs=1e-3)
    whole = summarize(values).interval
    assert summary.is_cut == (summary.interval != whole)
    assert summary.values == tuple(values)


def test_equal_values_at_a_bound_are_not_cut():
    assert not summarize([100.0] * 3, (0.0, 100.0)).is_cut
    assert not summarize([0.0] * 3, (0.0, 100.0)).is_cut


def test_a_cut_interval_covers_the_mean_as_often():
    """A rate near its bound: what is cut off could not have held the mean."""
    rng, covered, cut = np.random.default_rng(0), 0, 0
    for _ in range(400):
        values = rng.binomial(20, 0.9, size=4) * 5.0
        whole, within = summarize(values), summarize(values, (0.0, 100.0))
        low, high = within.interval
        assert (low <= 90.0 <= high) == (abs(whole.mean - 90.0) <= whole.half_width)
        covered += low <= 90.0 <= high
        cut += within.is_cut
    assert covered / 400 > 0.9 and cut > 100


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [[1.0], [2.0]]])
def test_nothing_to_summarize_is_refused(values):
    with pytest.raises(InputError, match="one or more finite numbers"):
        summarize(values)


def test_the_interval_covers_the_mean_as_often_as_it_promises():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        summary = summarize(rng.normal(size=4))
        covered += abs(summary.mean) <= summary.half_width
    assert 0.92 < covered / 400 < 0.98
