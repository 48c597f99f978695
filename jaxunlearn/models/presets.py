"""Models made by name: a table of presets, and overrides of their fields."""

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
) -> Any:
    """Make a model of a table of presets; `kind` names the models in errors.

    The caller sets the fields in `given`. Lists count as tuples, as modules must be hashable.
    """
    if name not in presets:
        raise InputError(
            f"unknown {kind} {name!r}{closest(str(name), presets)}; known {kind}s are "
            f"{', '.join(sorted(presets))}."
        )
    module, preset = presets[name]
    reserved = {*given, "parent", "name"}
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
