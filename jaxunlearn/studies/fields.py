"""Fields as people write them, in TOML or as name=value, made into dataclasses strictly.

An unknown field, a missing one, or a value of another type is refused by a sentence that names it.
"""

import ast
import contextlib
import dataclasses
import json
import tomllib
import types
import typing
from pathlib import Path
from typing import Any

from jaxunlearn.names import closest
from jaxunlearn.types import InputError

# How errors name types to people who write TOML.
_IN_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list",
    dict: "a table",
}


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        InputError: the file is missing or no TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"the configuration {path} cannot be read ({error.strerror or error}); give a TOML "
            "file, such as those in experiments/configs."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the configuration {path} is no TOML in UTF-8 ({error}); correct the file."
        ) from error


def parse_settings(pairs: tuple[str, ...], flag: str) -> dict[str, Any]:
    """Settings from "name=value": what is JSON or a constant of Python as such, the rest as text.

    Args:
        pairs: the words of the command line.
        flag: how errors name it.

    Returns:
        The values by name.

    Raises:
        InputError: a word that is not name=value, a name given twice, or a value that is nested
            too deeply.

    Example:
        >>> parse_settings(("num_steps=5", "log_loss=True", "objective=ascent"), "--settings")
        {'num_steps': 5, 'log_loss': True, 'objective': 'ascent'}
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name or name in parsed:
            raise InputError(
                f"{flag} got {pair!r}, but takes each setting once, as name=value, such as "
                "learning_rate=0.01."
            )
        try:
            parsed[name] = _value(text)
        except (RecursionError, MemoryError) as error:
            raise InputError(
                f"{flag}: the value of {name} is nested too deeply; write it with fewer brackets."
            ) from error
    return parsed


def _value(text: str) -> Any:
    """A value in the spelling of JSON (true, [1e-3]) or of Python (True, [.001]), or the text."""
    with contextlib.suppress(ValueError):
        return json.loads(text)
    with contextlib.suppress(ValueError, SyntaxError, TypeError):  # the last: not a value of JSON
        return json.loads(json.dumps(ast.literal_eval(text)))
    return text


def from_dict(cls: Any, values: Any, where: str) -> Any:
    """Makes a dataclass from plain values, strictly.

    Args:
        cls: the dataclass.
        values: a dictionary, as TOML or JSON has it.
        where: how errors name it.

    Returns:
        An instance of `cls`.

    Raises:
        InputError: an unknown or missing field, or a value of another type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where} is {values!r}, but must be a table of fields.")
    hints = typing.get_type_hints(cls)
    known = {entry.name: hints[entry.name] for entry in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            raise InputError(
                f"{where} has no field {name!r}{closest(name, known)}, only {', '.join(known)}."
            )
    for entry in dataclasses.fields(cls):
        required = (entry.default, entry.default_factory) == (dataclasses.MISSING,) * 2
        if required and entry.name not in values:
            raise InputError(f"{where} has no {entry.name}, but needs one; add it.")
    fields = {
        name: _convert(known[name], value, f"{where}: {name}") for name, value in values.items()
    }
    return cls(**fields)


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_dict(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(
            _convert(arguments[0], entry, f"{where}[{i}]") for i, entry in enumerate(value)
        )
    if origin is dict and isinstance(value, dict):
        return {
            key: _convert(arguments[1], entry, f"{where}.{key}") for key, entry in value.items()
        }
    if kind is Any:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if origin is None and type(value) is kind:
        return value
    raise InputError(f"{where} is {value!r}, but must be {_IN_WORDS[origin or kind]}.")
