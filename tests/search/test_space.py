"""Random points and grids of the settings that may vary, and the refusal of all others."""

import math

import numpy as np
import pytest

from jaxunlearn import methods
from jaxunlearn.search.space import (
    Choices,
    Range,
    check_space,
    draw,
    from_lists,
    grid,
    parse_space,
    traceable,
)
from jaxunlearn.types import InputError


def test_every_factor_of_a_range_is_as_likely_as_the_next():
    generator = np.random.default_rng(0)
    points = [draw({"alpha": Range(0.01, 100.0)}, generator)["alpha"] for _ in range(4000)]
    logarithms = np.log10(points)
    assert min(points) >= 0.01 and max(points) <= 100.0
    counts, _ = np.histogram(logarithms, bins=4, range=(-2, 2))
    # Binomial with n = 4000 and p = 1/4: standard deviation 27; four of them.
    assert np.abs(counts - 1000).max() < 110


def test_numbers_of_a_range_have_three_digits_and_stay_inside():
    generator = np.random.default_rng(1)
    for _ in range(200):
        value = draw({"fraction": Range(0.9991, 0.9999)}, generator)["fraction"]
        assert 0.9991 <= value <= 0.9999
        value = draw({"alpha": Range(1.0, 9.0)}, generator)["alpha"]
        assert value == float(f"{value:.3g}")


def test_choices_are_drawn_evenly():
    generator = np.random.default_rng(2)
    points = [draw({"alpha": Choices((1.0, 5.0))}, generator)["alpha"] for _ in range(1000)]
    assert set(points) == {1.0, 5.0}
    assert abs(points.count(1.0) - 500) < 4 * math.sqrt(250)


def test_a_grid_has_every_combination_once():
    points = grid({"alpha": Choices((1.0, 2.0, 3.0)), "momentum": Choices((0.0, 0.9))})
    pairs = [(point["alpha"], point["momentum"]) for point in points]
    assert pairs == [(a, m) for a in (1.0, 2.0, 3.0) for m in (0.0, 0.9)]
    assert grid({}) == [{}]


def test_traceable_settings_are_the_floating_point_ones():
    for method in methods.available():
        kinds = {name: type(value) for name, value in methods.settings(method).items()}
        assert set(traceable(method)) == {name for name, kind in kinds.items() if kind is float}
    assert {"learning_rate", "tolerance"} <= set(traceable("eupmu"))


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"num_steps": Choices((5.0,))}, ("cannot be varied", "compiled", "learning_rate")),
        ({"objective": Choices((5.0,))}, ("cannot be varied", "tolerance")),
        ({"alhpa": Choices((5.0,))}, ("no setting 'alhpa'",)),
        ({"learning_rate": Range(0.0, 1.0)}, ("0 to 1", "above 0")),
        ({"learning_rate": Range(2.0, 1.0)}, ("2 to 1", "end higher")),
        ({"learning_rate": Range(1.0, float("inf"))}, ("1 to inf",)),
        ({"learning_rate": Range(float("nan"), 1.0)}, ("nan to 1",)),
        ({"learning_rate": Choices(())}, ("no values to choose from",)),
        ({"learning_rate": Choices((0.1, -1.0))}, ("-1.0", "0 or more")),
        ({"momentum": Range(0.5, 2.0)}, ("2.0", "in [0, 1]")),
    ],
)
def test_what_cannot_be_searched_is_refused(space, words):
    with pytest.raises(InputError) as caught:
        check_space("eupmu", space)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_grid_of_a_range_is_refused():
    with pytest.raises(InputError, match="alpha is a range.*alpha=1,10.*how many trials"):
        grid({"alpha": Range(1.0, 10.0)})


@pytest.mark.parametrize(
    "pair",
    ["alpha", "=1", "alpha=", "alpha=1,", "alpha=low:high", "alpha=1:2:3", "alpha=:2", "a=x"],
)
def test_malformed_ranges_are_refused(pair):
    with pytest.raises(InputError, match="--vary got .* but takes each setting once"):
        parse_space((pair,), "--vary")
    with pytest.raises(InputError, match="takes each setting once"):
        parse_space(("alpha=1", "alpha=2"), "--vary")


@pytest.mark.parametrize("pair", ["objective=ascent,random_labels", "log_loss=true,false"])
def test_words_and_switches_cannot_vary(pair):
    with pytest.raises(InputError, match="what is no number cannot vary: give it one value"):
        parse_space((pair,), "--vary")


@pytest.mark.parametrize("value", [[1.0], [1.0, 2.0, 3.0], ["a", "b"], [True, False], []])
def test_a_list_in_a_file_must_be_a_range(value):
    with pytest.raises(InputError, match=r"alpha is .* a range \[low, high\]"):
        from_lists({"alpha": value})
