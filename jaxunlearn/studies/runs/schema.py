"""What a JSON file must hold, said as a value of the same form, and checked before it is used."""

import math
import reprlib
from pathlib import Path
from typing import Any

from jaxunlearn.types import InputError

_IN_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a finite number",
    list: "a list",
    dict: "an object",
    None: "null",
}


_OTHER = object()
_MEND = "; restore it, or delete it and run the command again that wrote it."


class Filled:
    """The shape of a list or an object with entries: `Filled([float])` is a list of some numbers.

    Args:
        shape: of the list or the object.
    """

    def __init__(self, shape: Any) -> None:
        self.shape = shape


def check_record(path: Path, value: Any, shape: Any, name: str = "") -> None:
    """Raises unless a value that was read from a file has a shape.

    A shape is `str`, `int` or `float` (a finite number), `list` or `dict`; `[shape]` for a list;
    `{"name": shape}` for an object with these fields and any others; `{str: shape}` for one with
    any names; a tuple of shapes for any of them, and None for null. What is missing counts as null.

    Args:
        path: the file, for the error.
        value: what it holds.
        shape: what it must hold.
        name: of the value in the file.

    Raises:
        InputError: it has another one; the error names the first place.

    Example:
        >>> shape = {"trials": [{"target": float}]}
        >>> check_record(Path("a.json"), {"trials": [{"target": 3}]}, shape)
        >>> check_record(Path("a.json"), {"trials": [{}]}, shape)
        Traceback (most recent call last):
        ...
        jaxunlearn.types.InputError: a.json has no "trials[0].target"; restore it, or ...
    """
    filled = isinstance(shape, Filled)
    shape = shape.shape if filled else shape
    kinds = _kinds(shape)
    kind = next((each for each in kinds if _is(value, each)), _OTHER)
    if kind is _OTHER or (filled and not value):
        words = " or ".join(_IN_WORDS[_plain(each)] for each in kinds)
        words += " with entries" if filled else ""
        raise InputError(
            f"{path} has {name or 'as its content'} = {reprlib.repr(value)}, but it must be {words}"
            f"{_MEND}"
        )
    if isinstance(kind, list):
        for i, entry in enumerate(value):
            check_record(path, entry, kind[0], f"{name}[{i}]")
    elif isinstance(kind, dict):
        inside = f"{name}." if name else ""
        for key, inner in kind.items():
            for each in value if key is str else (key,):
                if each not in value and None not in _kinds(inner):
                    raise InputError(f'{path} has no "{inside}{each}"{_MEND}')
                check_record(path, value.get(each), inner, f"{inside}{each}")


def _kinds(shape: Any) -> tuple[Any, ...]:
    return shape if isinstance(shape, tuple) else (shape,)


def _plain(shape: Any) -> Any:
    return type(shape) if isinstance(shape, list | dict) else shape


def _is(value: Any, shape: Any) -> bool:
    kind = _plain(shape)
    if kind is None or isinstance(value, bool):
        return value is None and kind is None
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)
