"""The settings that a search varies, and their values: log-uniform ranges and lists of choices.

Only floating-point settings can vary: they are arguments of a method's compiled program, so all
values share one program, and many of them run at once under `vmap`.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn import methods
from jaxunlearn.training.programs import split
from jaxunlearn.types import InputError


class Range(NamedTuple):
    """All numbers from low to high, uniform on a logarithmic scale."""

    low: float
    high: float


class Choices(NamedTuple):
    """Several numbers, equally likely."""

    values: tuple[float, ...]


Space = Mapping[str, Range | Choices]


def traceable(method: str) -> tuple[str, ...]:
    """The settings of a method that can vary: the floating-point ones.

    Example:
        >>> "tolerance" in traceable("eupmu"), "num_steps" in traceable("eupmu")
        (True, False)
    """
    return tuple(split(methods.settings(method)).numbers)


def check_space(method: str, space: Space) -> None:
    """Raises unless a method can be run with every value of a space."""
    known = methods.settings(method) | methods.optional_settings(method)
    for name, values in space.items():
        if name not in known:
            methods.settings(method, {name: None})  # raises, with a hint
        if not isinstance(known[name], float):
            raise InputError(
                f"setting {name} of method {method} is part of the compiled program, so it cannot "
                f"be varied; vary {', '.join(traceable(method))}, or search once for each value of "
                f"{name}."
            )
        if isinstance(values, Range) and not 0 < values.low < values.high < math.inf:
            raise InputError(
                f"the range of {name} is {values.low:g} to {values.high:g}, but must begin above 0 "
                "and end higher, since its numbers are drawn log-uniformly; otherwise list the "
                "values."
            )
        if isinstance(values, Choices) and not values.values:
            raise InputError(f"{name} has no values to choose from; give at least one.")
        for value in values if isinstance(values, Range) else values.values:
            methods.settings(method, {name: value})


def draw(space: Space, count: int) -> list[dict[str, float]]:
    """Random points of a space, always the same; a larger count extends a smaller one.

    Each setting has its own generator, seeded by its name: its values depend neither on the order
    of the settings nor on the other ones. Numbers of a range are rounded to three digits.

    Example:
        >>> draw({"learning_rate": Range(0.001, 1.0)}, 2)
        [{'learning_rate': 0.0646}, {'learning_rate': 0.00331}]
    """
    columns = {
        name: _column(values, count, np.random.default_rng(list(name.encode())))
        for name, values in sorted(space.items())
    }
    return [dict(zip(columns, point, strict=True)) for point in zip(*columns.values(), strict=True)]


def _column(values: Range | Choices, count: int, generator: np.random.Generator) -> list[float]:
    if isinstance(values, Choices):
        every = sorted(values.values)
        return [every[generator.integers(len(every))] for _ in range(count)]
    low, high = math.log(values.low), math.log(values.high)
    exact = [math.exp(generator.uniform(low, high)) for _ in range(count)]
    return [min(max(float(f"{value:.3g}"), values.low), values.high) for value in exact]


def grid(space: Space) -> list[dict[str, float]]:
    """All combinations of the choices of a space without ranges, in the order of names and numbers.

    Example:
        >>> grid({"momentum": Choices((0.9,)), "alpha": Choices((2.0, 1.0))})
        [{'alpha': 1.0, 'momentum': 0.9}, {'alpha': 2.0, 'momentum': 0.9}]
    """
    lists: dict[str, list[float]] = {}
    for name, values in sorted(space.items()):
        if isinstance(values, Range):
            raise InputError(
                f"{name} is a range, but must be a list of values in a grid; list them, as in "
                f"{name}={values.low:g},{values.high:g}, or set the number of trials to draw."
            )
        lists[name] = sorted(set(values.values))
    return [dict(zip(lists, point, strict=True)) for point in itertools.product(*lists.values())]


def parse_space(pairs: tuple[str, ...], flag: str) -> dict[str, Range | Choices]:
    """A space from "name=low:high" and "name=a,b,c".

    Example:
        >>> parse_space(("alpha=1:10", "momentum=0,0.9"), "--vary")
        {'alpha': Range(low=1.0, high=10.0), 'momentum': Choices(values=(0.0, 0.9))}
    """
    space: dict[str, Range | Choices] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            if not equals or not name or name in space:
                raise ValueError
            if ":" in text:
                low, high = map(float, text.split(":"))
                space[name] = Range(low, high)
            else:
                space[name] = Choices(tuple(float(part) for part in text.split(",")))
        except ValueError:
            raise InputError(
                f"{flag} is {pair!r}, but must give each setting once, as name=low:high for random "
                "numbers from a range or name=a,b,c for a list of numbers, such as "
                "learning_rate=0.001:0.1; for any other setting, search once for each value."
            ) from None
    return space


def from_lists(entries: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Range]]:
    """Splits a table of a search file into fixed settings and ranges, its lists of two.

    Example:
        >>> from_lists({"num_steps": 100, "alpha": [1, 10.0]})
        ({'num_steps': 100}, {'alpha': Range(low=1.0, high=10.0)})
    """
    fixed, ranges = {}, {}
    for name, value in entries.items():
        if not isinstance(value, list):
            fixed[name] = value
        elif len(value) == 2 and all(type(end) in (int, float) for end in value):
            ranges[name] = Range(float(value[0]), float(value[1]))
        else:
            raise InputError(
                f"{name} is {value!r}, but must be one value, or a range [low, high] of two "
                "numbers."
            )
    return fixed, ranges
