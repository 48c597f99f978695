"""Models made by name: a table of presets, and overrides of their fields."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxunlearn import plugins
from jaxunlearn.models.frameworks import RANDOM, arguments, construct
from jaxunlearn.names import closest
from jaxunlearn.objects import is_object_path, load_object
from jaxunlearn.types import InputError

Presets = dict[str, tuple[Any, Mapping[str, Any]]]  # name -> (module, fields)
About = dict[str, tuple[int | None, str]]  # name -> (number of parameters, description)
_FILES: dict[str, str | None] = {}  # Python file of registered models


def add(constructor: Callable[..., Any], presets: Presets, about: About) -> None:
    """Adds a custom model, a class or a function, to a table of presets and its descriptions.

    Raises:
        InputError: the name of another model.
    """
    from jaxunlearn import models  # which import this module
    from jaxunlearn.models import denoisers, latent

    name, tables = constructor.__name__, (models.ABOUT, denoisers.ABOUT, latent.ABOUT)
    taken = {known for table in tables for known in table if table is not about}
    taken |= {known for known, (parameters, _) in about.items() if parameters is not None}
    plugins.claim("model", name, taken)
    presets[name] = constructor, {}
    about[name] = None, (inspect.getdoc(constructor) or "").partition("\n")[0]
    _FILES[name] = inspect.getsourcefile(constructor)


def file_of(name: str) -> str | None:
    """The Python file of a registered model; None for other models."""
    return _FILES.get(name)


def make(
    kind: str,
    presets: Presets,
    name: str,
    given: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> Any:
    """Make a model of a table of presets; `kind` names the models in errors.

    The caller sets the fields in `given`. Lists count as tuples, as modules must be hashable. A
    custom model, registered or at `module:object`, receives the fields in `given` that it has.
    """
    if is_object_path(name):
        presets = {name: (load_object(name, f"the {kind}"), {})}
    if name not in presets:
        raise InputError(
            f"unknown {kind} {name!r}{closest(str(name), presets)}; known {kind}s are "
            f"{', '.join(sorted(presets))}."
        )
    module, preset = presets[name]
    if not inspect.isclass(module) and not inspect.isroutine(module):
        if overrides:
            raise InputError(
                f"{kind} {name!r} is made already, so it has no field {next(iter(overrides))!r} to "
                "set; name its class, or a function that makes it."
            )
        return construct(name, lambda: module, {})
    reserved, known = {*given, *RANDOM, "parent", "name"}, arguments(module)
    allowed = tuple(field for field in known if field not in reserved)
    for field in overrides:
        if field not in allowed:
            raise InputError(
                f"{kind} {name!r} has no field {field!r}{closest(field, allowed)}; its fields are "
                f"{', '.join(allowed) or 'none'}."
            )
    given = {field: value for field, value in given.items() if field in known}
    fields = {**preset, **given, **overrides}
    return construct(name, module, {field: _tuples(value) for field, value in fields.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
