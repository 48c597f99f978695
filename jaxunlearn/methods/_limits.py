"""The limits of a setting, in the signature of the method that has it.

    def mine(task, optimizer, *, alpha: NotNegative = 1.0, shift: float = -1.0, rounds: Count = 3):

A setting without limits may be any number.
"""

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, get_args

import jax

from jaxunlearn.types import InputError

# What compiled programs can hold: their numbers have 32 bits.
_LARGEST = {int: 2**31 - 1, float: 3.4e38}


class Limits(NamedTuple):
    """The smallest and the largest value that a setting may have.

    Attributes:
        low: the smallest value.
        high: the largest value.
        above: whether `low` itself is too small.

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


Count = Annotated[int, Limits(0, above=True)]
CountOrZero = Annotated[int, Limits(0)]
NotNegative = Annotated[float | jax.Array, Limits(0.0)]
Positive = Annotated[float | jax.Array, Limits(0.0, above=True)]
Share = Annotated[float | jax.Array, Limits(0.0, 1.0)]
Percent = Annotated[float | jax.Array, Limits(0.0, 100.0)]


def limits_of(parameter: inspect.Parameter, names: Mapping[str, Any]) -> Limits:
    """The limits in the annotation of a setting; any number if there are none.

    Args:
        parameter: the setting.
        names: the globals of its function, where the annotation is text.

    Returns:
        Its limits.

    Raises:
        InputError: the annotation is text that has no meaning there.
    """
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, dict(names))
        except NameError as error:
            raise InputError(
                f"setting {parameter.name} is annotated as {annotation!r}, but {error}; import it "
                "outside of TYPE_CHECKING, since the limits of settings stand there."
            ) from error
    found = [extra for extra in get_args(annotation)[1:] if isinstance(extra, Limits)]
    return found[0] if found else Limits()


def checked(method: str, key: str, value: Any, default: Any, limits: Limits) -> Any:
    """The value of a setting in the type of its default.

    Raises:
        InputError: it has another type, or is outside the limits.
    """
    kind = type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise InputError(
            f"setting {key} of method {method} is {value!r}, but must be of type {kind.__name__}, "
            f"such as {default!r}."
        )
    if kind not in _LARGEST:
        return value
    if value != value:
        raise InputError(f"setting {key} of method {method} is not a number; give one.")
    if value not in limits:
        size = f" and at most {_LARGEST[kind]:.10g} in size" * (abs(value) > _LARGEST[kind])
        raise InputError(
            f"setting {key} of method {method} is {value!r}, but must be {limits}{size}; "
            f"the default is {default!r}."
        )
    return value
