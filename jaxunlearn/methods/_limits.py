"""The allowed values of a setting, as annotations in the signature of its method.

    def mine(task, optimizer, *, alpha: NotNegative = 1.0, shift: float = -1.0, rounds: Count = 3):

`Literal["one", "other"]` limits strings. A number without limits may have any finite value.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import jax

from jaxunlearn.names import closest
from jaxunlearn.types import InputError

# The largest numbers in compiled programs, which have 32 bits.
_LARGEST = {int: 2**31 - 1, float: 3.4e38}


class Limits(NamedTuple):
    """The range of a number, from `low` (itself excluded if `above`) to `high`.

    Example:
        >>> str(Limits(0.0)), str(Limits(0.0, above=True)), str(Limits(0.0, 1.0))
        ('0 or more', 'positive', 'in [0, 1]')
        >>> -1.0 in Limits(0.0)
        False
    """

    low: float = float("-inf")
    high: float = float("inf")
    above: bool = False

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, int | float)
        low = value > self.low if self.above else value >= self.low
        return low and value <= self.high and abs(value) <= _LARGEST[type(value)]

    def __str__(self) -> str:
        if self.low == float("-inf") and self.high == float("inf"):
            return "finite"
        if self.low == float("-inf"):
            return f"at most {self.high:g}"
        if self.high == float("inf"):
            if self.low == 0.0:
                return "positive" if self.above else "0 or more"
            return f"above {self.low:g}" if self.above else f"{self.low:g} or more"
        if self.above:
            return f"above {self.low:g} and at most {self.high:g}"
        return f"in [{self.low:g}, {self.high:g}]"


class Choices(NamedTuple):
    """The names that a string may be.

    Attributes:
        names: the names.
        others: description of further names, which are checked when the method is built, or "".

    Example:
        >>> str(Choices(("once", "every_epoch"))), str(Choices(("a",), "a name of the task"))
        ('one of once, every_epoch', 'one of a, or a name of the task')
    """

    names: tuple[str, ...]
    others: str = ""

    def __contains__(self, value: object) -> bool:
        return bool(self.others) or value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}" + (f", or {self.others}" if self.others else "")


Count = Annotated[int, Limits(0, above=True)]
CountOrZero = Annotated[int, Limits(0)]
NotNegative = Annotated[float | jax.Array, Limits(0.0)]
Positive = Annotated[float | jax.Array, Limits(0.0, above=True)]
Decay = Annotated[float | jax.Array, Limits(0.0, 0.999999)]
Share = Annotated[float | jax.Array, Limits(0.0, 1.0)]
Guidance = Annotated[float | jax.Array, Limits(-1.0)]
Percent = Annotated[float | jax.Array, Limits(0.0, 100.0)]


def settings_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The keyword-only parameters of a function; `num_steps` only if it has a default.

    Parameters whose default is None are optional settings (`OptionalSettings`).
    """
    return [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
        and parameter.default is not None
        and (parameter.name != "num_steps" or parameter.default is not parameter.empty)
    ]


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of the settings of a function, by name."""
    return {parameter.name: parameter.default for parameter in settings_of(function)}


def limits_of(function: Callable[..., Any]) -> dict[str, Limits | Choices]:
    """The limits in the annotations of a function's settings, by name."""
    names = getattr(inspect.unwrap(function), "__globals__", {})
    found = {p.name: _limits_in(p, names) for p in settings_of(function)}
    return {name: limits for name, limits in found.items() if limits is not None}


def _limits_in(parameter: inspect.Parameter, names: Mapping[str, Any]) -> Limits | Choices | None:
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, dict(names))
        except NameError as error:
            raise InputError(
                f"setting {parameter.name} is annotated as {annotation!r}, but {error}; import it "
                "outside TYPE_CHECKING, since annotations hold the limits of settings."
            ) from error
    if get_origin(annotation) is Literal:
        return Choices(get_args(annotation))
    kinds = Limits, Choices
    return next((extra for extra in get_args(annotation)[1:] if isinstance(extra, kinds)), None)


def checked(
    method: str, key: str, value: Any, default: Any, limits: Limits | Choices | None
) -> Any:
    """The value of a setting in the type of its default; an InputError if it is not allowed."""
    kind = type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise InputError(
            f"setting {key} of method {method} is {value!r}, but must be of type {kind.__name__}, "
            f"such as {default!r}."
        )
    if value != value:
        raise InputError(f"setting {key} of method {method} is NaN, but must be a number.")
    limits = Limits() if limits is None and kind in _LARGEST else limits
    if limits is None or value in limits:
        return value
    size, hint = "", ""
    if isinstance(limits, Choices):
        hint = closest(value, limits.names)
    elif abs(value) > _LARGEST[kind]:
        size = f" and at most {_LARGEST[kind]:.10g} in size"
    raise InputError(
        f"setting {key} of method {method} is {value!r}{hint}, but must be {limits}{size}; "
        f"the default is {default!r}."
    )
