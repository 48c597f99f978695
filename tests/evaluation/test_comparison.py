"""Paired tests against scipy, Holm against its definition, and letters that say what tests say."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxunlearn.evaluation import summarize
from jaxunlearn.evaluation.comparison import LEVEL, _letters, holm, paired_difference, rank
from jaxunlearn.types import InputError

few = settings(max_examples=100, deadline=None, derandomize=True)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_difference_is_that_of_scipy(n):
    rng = np.random.default_rng(n)
    first, second = rng.normal(size=(2, n))
    ours, theirs = paired_difference(first, second), stats.ttest_rel(first, second)
    low, high = theirs.confidence_interval(0.95)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.mean == pytest.approx((low + high) / 2)
    assert ours.half_width == pytest.approx((high - low) / 2)
    assert ours.n == n


def test_pairing_sees_what_the_spread_over_seeds_hides():
    seeds = np.array([0.0, 10.0, 20.0, 30.0])
    better, worse = seeds, seeds + [1.0, 1.1, 0.9, 1.0]
    assert paired_difference(worse, better).p_value < 0.001
    assert stats.ttest_ind(worse, better).pvalue > 0.9
    one, other = summarize(better), summarize(worse)
    assert one.mean + one.half_width > other.mean - other.half_width


def test_constant_differences():
    assert paired_difference([1.0, 2.0], [1.0, 2.0]).p_value == 1.0
    assert paired_difference([2.0, 3.0], [1.0, 2.0]).p_value == 0.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@few
def test_holm_rejects_what_the_sequential_test_rejects(p_values):
    adjusted = holm(p_values)
    assert (adjusted >= p_values).all() and (adjusted <= 1).all()
    order, rejected = np.argsort(p_values, kind="stable"), set()
    for i, which in enumerate(order):  # as Holm describes it: stop at the first that holds
        if p_values[which] * (len(p_values) - i) >= LEVEL:
            break
        rejected.add(int(which))
    assert set(np.flatnonzero(adjusted < LEVEL)) == rejected


@given(st.sets(st.sampled_from([frozenset(p) for p in itertools.combinations("pqrstu", 2)])))
@few
def test_two_methods_share_a_letter_exactly_if_they_do_not_differ(apart):
    letters = _letters("pqrstu", apart)
    for one, other in itertools.combinations("pqrstu", 2):
        shared = set(letters[one]) & set(letters[other])
        assert bool(shared) == (frozenset((one, other)) not in apart)
    assert all(letters.values())


def test_a_ranking_shows_which_methods_are_alike():
    noise = np.random.default_rng(0).normal(size=(4, 6)) * 0.1
    centres = {"far": 9.0, "near": 2.0, "nearer": 2.05, "wide": 4.0}
    values = {
        name: dict(enumerate(centre + noise[i] * (40 if name == "wide" else 1)))
        for i, (name, centre) in enumerate(centres.items())
    }
    places = {place.name: place for place in rank(values)}
    best = next(iter(places))
    assert best in ("near", "nearer") and list(places)[-1] == "far"
    assert places[best].to_best is None and places[best].p_adjusted is None
    assert set(places["near"].letters) & set(places["nearer"].letters)
    assert not set(places["near"].letters) & set(places["far"].letters)
    assert "wide" in places["near"].like and "far" not in places["near"].like
    far = places["far"]
    assert far.to_best.mean == pytest.approx(far.value.mean - places[best].value.mean)
    assert far.to_best.p_value < far.p_adjusted < LEVEL
    pairs = [
        paired_difference(list(values[a].values()), list(values[b].values())).p_value
        for a, b in itertools.combinations(values, 2)
    ]
    assert far.p_adjusted in holm(pairs)


def test_high_values_first_and_seeds_that_a_method_lacks():
    values = {"a": {0: 1.0, 1: 1.2, 2: 1.1}, "b": {1: 5.2, 2: 5.1}, "c": {0: 3.0}}
    best, *others = rank(values, lowest_first=False)
    assert best.name == "b" and [place.name for place in others] == ["c", "a"]
    assert others[0].to_best is None and others[0].value.half_width is None
    assert others[1].to_best.n == 2 and others[1].to_best.mean == pytest.approx(-4.0)
    assert others[0].like == ("b", "a")


def test_fewer_seeds_than_an_interval_needs_are_refused():
    with pytest.raises(InputError, match="1 and 1 values, but must have at least two each"):
        paired_difference([1.0], [2.0])
    with pytest.raises(InputError, match="2 and 3 values"):
        paired_difference([1.0, 2.0], [2.0, 3.0, 4.0])
    with pytest.raises(InputError, match="no method of the ranking has two or more seeds; run"):
        rank({"a": {0: 1.0}, "b": {0: 2.0}})
    with pytest.raises(InputError, match="finite"):
        rank({"a": {0: 1.0, 1: float("nan")}})
