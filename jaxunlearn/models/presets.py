"""Models made by name: a table of presets, and fields that differ from them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxunlearn.names import closest
from jaxunlearn.types import InputError

Presets = Mapping[str, tuple[Any, Mapping[str, Any]]]  # name -> (module, fields)


def make(
    kind: str,
    presets: Presets,
    name: str,
    given: Mapping[str, Any],
    overrides: Mapping[str, Any],
    *hidden: str,
) -> Any:
    """Make a model of a table.

    Lists count as tuples, as modules must be hashable, so values of a JSON file will do.

    Args:
        kind: word for the models of the table in errors, such as "model".
        presets: the table.
        name: name of the model.
        given: fields that every model of the table takes from the caller.
        overrides: other fields that differ from the preset.
        *hidden: fields that cannot be overridden.

    Returns:
        The module.

    Raises:
        InputError: the name is unknown, a field is unknown, or a value is not allowed.
    """
    if name not in presets:
        raise InputError(
            f"unknown {kind} {name!r}{closest(str(name), presets)}; known {kind}s are "
            f"{', '.join(sorted(presets))}."
        )
    module, preset = presets[name]
    reserved = {*given, *hidden, "parent", "name"}
    allowed = tuple(f.name for f in dataclasses.fields(module) if f.name not in reserved)
    for field in overrides:
        if field not in allowed:
            raise InputError(
                f"{kind} {name!r} has no field {field!r}{closest(field, allowed)}; its fields are "
                f"{', '.join(allowed)}."
            )
    fields = {**preset, **given, **overrides}
    return module(**{field: _tuples(value) for field, value in fields.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
