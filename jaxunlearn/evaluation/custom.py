"""Metrics and attacks of the user, registered by name.

    @evaluation.register_metric(direction="low")
    def unsure(model):
        "Mean entropy of the predictions on test data."
        p = model.test.probabilities
        return -np.mean(np.sum(p * np.log(p + 1e-20), axis=1))

`evaluate` computes all of them, and the report of a study has a column for each.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from jaxunlearn import plugins
from jaxunlearn.evaluation import units
from jaxunlearn.evaluation.predictions import SplitPredictions
from jaxunlearn.evaluation.units import UNITS, Unit
from jaxunlearn.names import reason
from jaxunlearn.types import InputError

DIRECTIONS = ("near", "low", "high", "neither")
_PERCENT = Unit("%", 0.0, 100.0)


class Measure(NamedTuple):
    """A registered metric or attack.

    Attributes:
        function: function of the user.
        direction: the good values: near the retrained model's, low, high, or neither.
        about: meaning, for the legend of the report.
        unit: unit and bounds.
        arguments: number of arguments: 1 or 2 for metrics, 3 for attacks.
    """

    function: Callable[..., Any]
    direction: str
    about: str
    unit: Unit
    arguments: int


_MEASURES: dict[str, Measure] = {}


def register_metric(
    *,
    direction: Literal["near", "low", "high", "neither"],
    unit: str = "",
    low: float = -math.inf,
    high: float = math.inf,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds a custom metric, for `evaluate`, every command and every report.

    The metric is a function `metric(model)` or `metric(model, retrained)` of `SplitPredictions`; it
    returns a number, or None where it has no value. With two arguments it is a distance, which the
    retrained model itself does not have. Its name and docstring head and explain the column.

    Args:
        direction: the good values: "near" the retrained model's, "low", "high", or "neither".
        unit: unit of the values, such as "nats".
        low: least possible value; intervals are cut there.
        high: greatest possible value.

    Raises:
        InputError: the name of another metric, another direction, or another number of arguments.

    Example:
        >>> from jaxunlearn import evaluation
        >>> @evaluation.register_metric(direction="up")
        ... def least(model):
        ...     return model.test.probabilities.min()
        Traceback (most recent call last):
        ...
        jaxunlearn.types.InputError: the direction of metric least is 'up', but must be one of ...
    """

    def add(metric: Callable[..., Any]) -> Callable[..., Any]:
        if direction not in DIRECTIONS:
            raise InputError(
                f"the direction of metric {metric.__name__} is {direction!r}, but must be one of "
                f"{', '.join(DIRECTIONS)}."
            )
        _add(
            "metric",
            "(model) or (model, retrained)",
            (1, 2),
            metric,
            direction,
            Unit(unit, low, high),
        )
        return metric

    return add


def register_attack(attack: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that adds a custom attack, for `evaluate`, every command and every report.

    Args:
        attack: a function `attack(retain, test, forget)` of `Predictions`, which returns the share
            of the forget data that it calls members, from 0 to 1. The report shows it in percent
            beside the retrained model's; the gaps are still the means over the published attacks.

    Raises:
        InputError: the name of another metric, or another number of arguments.
    """
    _add("attack", "(retain, test, forget)", (3,), attack, "near", _PERCENT)
    return attack


def _add(
    kind: str,
    wanted: str,
    numbers: tuple[int, ...],
    function: Callable[..., Any],
    direction: str,
    unit: Unit,
) -> None:
    name, signature = function.__name__, inspect.signature(function)
    needed = [p for p in signature.parameters.values() if p.default is p.empty]
    if len(needed) not in numbers or any(p.kind is p.KEYWORD_ONLY for p in needed):
        raise InputError(f"{kind} {name} takes {signature}, but must take {wanted}.")
    plugins.claim("metric", name, UNITS)
    about = " ".join((inspect.getdoc(function) or "").split())
    _MEASURES[name] = Measure(function, direction, about, unit, len(needed))
    units.OWN_UNITS[name] = unit


def records() -> dict[str, dict[str, Any]]:
    """All custom metrics and attacks by name, as plain JSON for the records of runs.

    Each has "kind", "direction", "about", "unit", "low", "high" (None without a bound) and, in a
    plug-in, "plugin" and "digest".
    """
    return {
        name: {
            "kind": "attack" if each.arguments == 3 else "metric",
            "direction": each.direction,
            "about": each.about,
            "unit": each.unit.name,
            "low": each.unit.low if math.isfinite(each.unit.low) else None,
            "high": each.unit.high if math.isfinite(each.unit.high) else None,
            **plugins.needed([("metric", name)]).get(f"metric {name}", {}),
        }
        for name, each in _MEASURES.items()
    }


def measured(model: SplitPredictions, retrained: SplitPredictions | None) -> dict[str, float]:
    """The values of all custom metrics and attacks that have one.

    Raises:
        InputError: one raises an exception, or returns anything but a number within its bounds.
    """
    values = {}
    for name, each in _MEASURES.items():
        if each.arguments == 2 and retrained is None:
            continue
        given: tuple[Any, ...] = (model, retrained)[: each.arguments]
        if each.arguments == 3:
            given = (model.retain, model.test, model.forget)
        value = _value(name, each, given)
        if value is not None:
            values[name] = value
    return values


def _value(name: str, measure: Measure, given: tuple[Any, ...]) -> float | None:
    try:
        found = measure.function(*given)
        value = None if found is None else float(found)
    except Exception as error:
        raise InputError(
            f"the metric {name} cannot be computed, because it raises {type(error).__name__}: "
            f"{reason(error)}."
        ) from error
    if value is None:
        return None
    scale = 100.0 if measure.arguments == 3 else 1.0
    low, high = measure.unit.low / scale, measure.unit.high / scale
    if not (math.isfinite(value) and low <= value <= high):
        raise InputError(
            f"the metric {name} is {value:g}, but must be finite and from {low:g} to {high:g}."
        )
    return scale * value
