"""Random points and grids of the settings that may vary, and the refusal of all others."""

import math

import numpy as np
import pytest

from jaxunlearn import methods
from jaxunlearn.studies.search.space import (
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
    points = [point["alpha"] for point in draw({"alpha": Range(0.01, 100.0)}, 4000)]
    logarithms = np.log10(points)
    assert min(points) >= 0.01 and max(points) <= 100.0
    counts, _ = np.histogram(logarithms, bins=4, range=(-2, 2))
    # Binomial with n = 4000 and p = 1/4: standard deviation 27; four of them.
    assert np.abs(counts - 1000).max() < 110


def test_numbers_of_a_range_have_three_digits_and_stay_inside():
    for point in draw({"fraction": Range(0.9991, 0.9999), "alpha": Range(1.0, 9.0)}, 200):
        assert 0.9991 <= point["fraction"] <= 0.9999
        assert point["alpha"] == float(f"{point['alpha']:.3g}")


def test_choices_are_drawn_evenly():
    points = [point["alpha"] for point in draw({"alpha": Choices((1.0, 5.0))}, 1000)]
    assert set(points) == {1.0, 5.0}
    assert abs(points.count(1.0) - 500) < 4 * math.sqrt(250)


def test_points_depend_on_neither_the_order_of_settings_nor_what_else_varies():
    alpha, rate, momentum = Range(1.0, 9.0), Range(0.01, 1.0), Choices((0.9, 0.0, 0.5))
    points = draw({"alpha": alpha, "learning_rate": rate, "momentum": momentum}, 40)
    turned = Choices(momentum.values[::-1])
    assert draw({"momentum": turned, "learning_rate": rate, "alpha": alpha}, 40) == points
    assert draw({"learning_rate": rate, "alpha": alpha, "momentum": momentum}, 9) == points[:9]
    assert draw({"alpha": alpha}, 40) == [{"alpha": point["alpha"]} for point in points]


def test_two_settings_are_drawn_independently():
    space = {"alpha": Range(0.01, 100.0), "learning_rate": Range(0.01, 100.0)}
    logarithms = np.log([list(point.values()) for point in draw(space, 4000)])
    # Of independent numbers: standard deviation 1 / sqrt(4000).
    assert abs(np.corrcoef(logarithms.T)[0, 1]) < 4 / math.sqrt(4000)


def test_a_grid_has_every_combination_once():
    points = grid({"momentum": Choices((0.9, 0.0, 0.9)), "alpha": Choices((3.0, 1.0, 2.0))})
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
    with pytest.raises(InputError, match="alpha is a range.*alpha=1,10.*number of trials"):
        grid({"alpha": Range(1.0, 10.0)})


@pytest.mark.parametrize(
    "pair",
    ["alpha", "=1", "alpha=", "alpha=1,", "alpha=low:high", "alpha=1:2:3", "alpha=:2", "a=x"],
)
def test_malformed_ranges_are_refused(pair):
    with pytest.raises(InputError, match="--vary is .* but must give each setting once"):
        parse_space((pair,), "--vary")
    with pytest.raises(InputError, match="must give each setting once"):
        parse_space(("alpha=1", "alpha=2"), "--vary")


@pytest.mark.parametrize("pair", ["objective=ascent,random_labels", "log_loss=true,false"])
def test_words_and_switches_cannot_vary(pair):
    with pytest.raises(InputError, match="for any other setting, search once for each value"):
        parse_space((pair,), "--vary")


@pytest.mark.parametrize("value", [[1.0], [1.0, 2.0, 3.0], ["a", "b"], [True, False], []])
def test_a_list_in_a_file_must_be_a_range(value):
    with pytest.raises(InputError, match=r"alpha is .* a range \[low, high\]"):
        from_lists({"alpha": value})
