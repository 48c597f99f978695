"""Fronts and areas against the definitions, computed by brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxunlearn.evaluation.pareto import hypervolume, pareto_front
from jaxunlearn.types import InputError

# Small whole numbers: many ties, and areas that can be counted square by square.
GRID = 6
few = settings(max_examples=100, deadline=None, derandomize=True)
clouds = st.lists(st.tuples(st.integers(0, GRID), st.integers(0, GRID)), max_size=12)


def dominates(p, q):
    return p[0] <= q[0] and p[1] <= q[1] and p != q


@few
@given(clouds)
def test_the_front_is_what_nothing_dominates(points):
    front = pareto_front(points).tolist()
    expected = {
        i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)
    }
    assert len(front) == len(set(front)) and set(front) == expected
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


@few
@given(clouds, st.tuples(st.integers(0, GRID), st.integers(0, GRID)))
def test_the_hypervolume_is_the_number_of_dominated_squares(points, reference):
    squares = {
        (x, y)
        for left, low in points
        for x in range(left, reference[0])
        for y in range(low, reference[1])
    }
    assert hypervolume(points, reference) == len(squares)


@few
@given(clouds, st.permutations(range(12)))
def test_order_and_dominated_points_change_nothing(points, order):
    shuffled = [points[i] for i in order if i < len(points)]
    reference = (GRID, GRID)
    area = hypervolume(points, reference)
    assert hypervolume(shuffled, reference) == area
    front = [points[i] for i in pareto_front(points)]
    assert hypervolume(front, reference) == area
    assert hypervolume([*points, (GRID, 0), (0, GRID)], reference) == area  # on the border


@few
@given(clouds, st.tuples(st.integers(0, GRID), st.integers(0, GRID)))
def test_one_more_point_never_loses_area(points, more):
    reference = (GRID, GRID)
    gained = hypervolume([*points, more], reference) - hypervolume(points, reference)
    strictly_inside = more[0] < GRID and more[1] < GRID
    covered = any(p[0] <= more[0] and p[1] <= more[1] for p in points)
    assert (gained > 0) == (strictly_inside and not covered)


@pytest.mark.parametrize("points", [[1, 2], [[1, 2, 3]], [[np.nan, 1]], [[np.inf, 1]]])
def test_malformed_points_are_refused(points):
    for function in (pareto_front, lambda each: hypervolume(each, (1, 1))):
        with pytest.raises(InputError, match="Pareto"):
            function(points)
    with pytest.raises(InputError, match="finite"):
        hypervolume([[1, 2]], (np.nan, 1))
