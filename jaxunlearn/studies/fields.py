"""Strict conversion of fields from TOML, JSON or name=value into dataclasses.

An error names the unknown field, the missing field, or the field with a value of the wrong type.
"""

import ast
import contextlib
import dataclasses
import functools
import json
import tomllib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from docstring_parser import parse
from pydantic import ConfigDict, TypeAdapter, ValidationError

from jaxunlearn.names import closest
from jaxunlearn.types import InputError

T = TypeVar("T")
_STRICT = ConfigDict(strict=True, extra="forbid")
# Types in words, by the codes of pydantic's errors.
_IN_WORDS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "dataclass_type": "a table of fields",
    "too_short": "a list or table with entries",
}


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file."""
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"the configuration {path} cannot be read ({error.strerror or error}); give a TOML "
            "file, such as those in experiments/configs."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the configuration {path} is not TOML in UTF-8 ({error}); correct the file."
        ) from error


def parse_settings(pairs: tuple[str, ...], flag: str) -> dict[str, Any]:
    """Settings from "name=value": JSON or a constant of Python where it is one, text otherwise.

    Example:
        >>> parse_settings(("depth=5", "norm=group", "bias=True"), "--model-settings")
        {'depth': 5, 'norm': 'group', 'bias': True}
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name or name in parsed:
            raise InputError(
                f"{flag} is {pair!r}, but must give each setting once, as name=value, such as "
                "norm=group."
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
    with contextlib.suppress(ValueError, SyntaxError, TypeError):  # TypeError: not a JSON value
        return json.loads(json.dumps(ast.literal_eval(text)))
    return text


def from_dict(cls: type[T], values: Any, where: str) -> T:
    """Makes a dataclass from plain values, strictly; `where` names the values in errors."""
    kind: Any = cls
    try:
        made: tuple[T] = _adapter(kind).validate_json(json.dumps([values], default=str))
    except ValidationError as error:
        raise first_error(error, kind, where) from None
    return made[0]


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON schema of a dataclass, with descriptions from its docstring."""
    schema = _adapter(cls).json_schema()
    kinds = schema.pop("$defs")
    for kind in _dataclasses(cls):
        about = parse(kind.__doc__ or "")
        table = kinds[kind.__name__]
        table["description"] = about.short_description or ""
        for entry in about.params:
            table["properties"][entry.arg_name]["description"] = " ".join(
                (entry.description or "").split()
            )
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **kinds.pop(cls.__name__),
        "$defs": kinds,
    }


def _dataclasses(kind: Any) -> set[Any]:
    """A dataclass and all dataclasses in its fields."""
    if not dataclasses.is_dataclass(kind):
        return set().union(*map(_dataclasses, typing.get_args(kind)))
    return {kind}.union(*map(_dataclasses, typing.get_type_hints(kind).values()))


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[tuple[Any]]:
    """The adapter of a tuple that holds one dataclass.

    A tuple passes its configuration on to dataclasses that have none of their own.
    """
    return TypeAdapter(tuple[kind], config=_STRICT)


def first_error(error: ValidationError, kind: Any, where: str, remedy: str = "") -> InputError:
    """One sentence for the first error of pydantic, an unknown field before all others.

    `where` names the values, and `remedy` ends the sentence, as in "; restore it". The first part
    of each place, the index in the tuple of `_adapter`, is left out.
    """
    errors = error.errors(include_url=False)
    unknown = [each for each in errors if each["type"] == "unexpected_keyword_argument"]
    found = (unknown or errors)[0]
    cause = found.get("ctx", {}).get("error")
    place = tuple(part for part in found["loc"][1:] if part not in ("int", "str"))  # of a union
    if isinstance(cause, InputError):
        return cause
    name, inside = _dotted(place), _dotted(place[:-1])
    if found["type"] in ("missing", "unexpected_keyword_argument"):
        owner = f"{where}: {inside}" if inside else where
        if not unknown:
            return InputError(f"{owner} has no {place[-1]}, but needs one{remedy or '; add it'}.")
        known = _fields(kind, place[:-1])
        hint = closest(str(place[-1]), known)
        return InputError(f"{owner} has no field {place[-1]!r}{hint}, only {', '.join(known)}.")
    if cause is None:
        words = _IN_WORDS.get(found["type"], found.get("ctx", {}).get("expected", found["msg"]))
        cause = f"is {_short(found['input'])}, but must be {words}"
    return InputError(f"{where}{': ' * bool(name)}{name} {cause}{remedy}.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _dotted(place: Sequence[int | str]) -> str:
    """A place in nested values, such as "runs[0].request"."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def _fields(kind: Any, place: Sequence[int | str]) -> list[str]:
    """The names of the fields of the dataclass at a place of another one."""
    for part in (*place, None):
        if type(None) in typing.get_args(kind):
            kind = next(each for each in typing.get_args(kind) if each is not type(None))
        if part is not None and dataclasses.is_dataclass(kind):
            kind = typing.get_type_hints(kind)[str(part)]
        elif part is not None:
            kind = typing.get_args(kind)[isinstance(part, str)]
    return [entry.name for entry in dataclasses.fields(kind)]
