"""The lists of `jaxunlearn list`: names and meanings of methods, models, data and settings."""

import dataclasses
import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

from jaxunlearn import methods, models
from jaxunlearn.data.registry import registered
from jaxunlearn.data.table import TABLE
from jaxunlearn.evaluation.custom import records
from jaxunlearn.methods import _constructor
from jaxunlearn.models import denoisers, latent
from jaxunlearn.names import closest
from jaxunlearn.studies.config import Aim
from jaxunlearn.studies.fields import json_schema
from jaxunlearn.studies.report.columns import DIRECTIONS, with_own
from jaxunlearn.studies.study import Study
from jaxunlearn.types import InputError

_NAMES = {"methods": methods.available, "recipes": methods.recipes}


def describe(what: str) -> str:
    """The text that `jaxunlearn list WHAT` prints.

    Raises:
        InputError: `what` is neither "methods", "recipes", "models", "data" or "metrics" nor the
            name of a method or recipe.
    """
    if what in _NAMES:
        return _columns({name: methods.summary(name) for name in _NAMES[what]()})
    if what in ("models", "data"):
        return _sizes(_sized(what))
    if what == "metrics":
        return _columns(
            {name: f"{entry['direction']}: {entry['about']}" for name, entry in _metrics().items()}
        )
    if what not in methods.choices():
        known = (*_NAMES, "models", "data", "metrics", *methods.choices())
        raise InputError(
            f"the list is {what!r}{closest(what, known)}, but must be methods, recipes, models, "
            "data, metrics, or a method or recipe, for its settings; jaxunlearn list prints the "
            "methods."
        )
    return _settings(what)


def entries(what: str) -> dict[str, dict[str, Any]]:
    """The entries of `jaxunlearn list WHAT --json`: "about" by name, and numbers or defaults."""
    if what in ("models", "data"):
        number = "parameters" if what == "models" else "classes"
        return {name: {number: size, "about": text} for name, (size, text) in _sized(what).items()}
    if what in _NAMES:
        return {name: {"about": methods.summary(name)} for name in _NAMES[what]()}
    if what == "metrics":
        return _metrics()
    describe(what)  # raises for an unknown name
    about, settings = meanings(what), methods.settings(what)
    return {name: {"default": settings[name], "about": about.get(name, "")} for name in settings}


def _metrics() -> dict[str, dict[str, Any]]:
    """The metrics that reports show, with those of plug-ins: direction, unit and meaning."""
    return {
        column.key: {
            "direction": DIRECTIONS[column.direction],
            "unit": column.unit.name,
            "about": column.meaning,
        }
        for column in with_own(records())
    }


def _sized(what: str) -> Mapping[str, tuple[int | None, str]]:
    """Models with their numbers of parameters, or data sets with their numbers of classes."""
    if what == "models":
        return models.ABOUT | denoisers.ABOUT | latent.ABOUT
    sets: dict[str, tuple[int | None, str]]
    sets = {name: (entry.num_classes, entry.about) for name, entry in TABLE.items()}
    own = {
        "folder:DIR": "images of one's own, a folder for each class",
        "npz:FILE, csv:FILE": "arrays or a table of one's own",
        "my_package.data:load": "the Dataset that a function of one's own returns",
        "any other": "the name of any image-classification set of tfds",
    }
    others: dict[str, tuple[int | None, str]] = {name: (None, about) for name, about in own.items()}
    return sets | registered() | others


def schema(cls: type) -> str:
    """The JSON schema of the TOML file of a study (`Study`) or a search (`Search`), for editors.

    It knows the names and types of the settings of all methods together.
    """
    schema = json_schema(cls)
    if cls is Study:  # the settings of a search are lists and ranges
        names = [name for name in methods.choices() if name != "retrain"]
        known: dict[str, Any] = {}
        for name in names:
            known = methods.settings(name) | methods.optional_settings(name) | known
        known |= dataclasses.asdict(Aim(anchor=0))
        types = {bool: "boolean", int: "integer", float: "number", str: "string"}
        values: dict[str, Any]
        values = {name: {"type": types[type(value)]} for name, value in sorted(known.items())}
        values["anchor"] = {"type": ["integer", "string"]}
        values = {"method": {"enum": names}} | values
        settings = {"type": "object", "properties": values, "additionalProperties": False}
        schema["$defs"]["Settings"] = settings
        runs = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Settings"}}
        fields = schema["properties"]
        fields["methods"] |= runs
        fields["overrides"] |= {"type": "object", "additionalProperties": runs}
    return json.dumps(schema, indent=1)


def _settings(method: str) -> str:
    """A method's equations, and its settings with their defaults and meanings."""
    explained = meanings(method)
    for name, limits in methods.limits(method).items():
        explained[name] = f"{explained.get(name, '').removesuffix('.')} ({limits})."
    usual, generating = methods.settings(method), methods.settings(method, generates=True)
    rows = {
        f"{name} = {json.dumps(value)}": explained.get(name, "") for name, value in usual.items()
    }
    for name, value in methods.optional_settings(method).items():
        if name in usual:
            continue
        shown = json.dumps(value) if name == "guard_every" else "none"
        rows[f"{name} = {shown}"] = explained.get(name, "")
    text = f"{methods.about(method)}\n\n{_columns(rows)}"
    others = [f"{k} = {json.dumps(v)}" for k, v in generating.items() if v != usual[k]]
    if method == "retrain" or not others:
        return text
    return f"{text}\n\nModels that generate images have other defaults: {', '.join(others)}."


def meanings(method: str) -> dict[str, str]:
    """The meaning of every setting, from the docstrings of the method and the settings classes."""
    found: dict[str, str] = {}
    optional = methods.OptionalSettings, methods.ObjectiveSettings
    shared = (methods.CommonSettings, methods.GuardSettings, *optional)
    for source in (*shared, _constructor(method)):
        text = inspect.getdoc(source) or ""
        match = re.search(r"\n(?:Args|Attributes):\n(.*?)(?:\n\S|\Z)", text, re.DOTALL)
        entries = re.split(r"^    (?=\w+: )", match[1] if match else "", flags=re.MULTILINE)[1:]
        named = (" ".join(entry.split()).partition(": ") for entry in entries)
        found |= {n: text for n, _, text in named if n != "optimizer" or not found}
    return found


def _sizes(known: Mapping[str, tuple[int | None, str]]) -> str:
    """Names with a number, if they have one, and a text."""
    numbers = {name: "" if number is None else f"{number:,}" for name, (number, _) in known.items()}
    width = max(map(len, numbers.values()))
    return _columns(
        {name: f"{numbers[name]:>{width}}  {text}" for name, (_, text) in known.items()}
    )


def _columns(rows: dict[str, str]) -> str:
    """Names on the left, texts on the right, wrapped to the width of the terminal."""
    left = max(map(len, rows)) + 2
    right = max(shutil.get_terminal_size((120, 24)).columns - left, 30)
    lines = []
    for name, text in rows.items():
        first, *others = textwrap.wrap(text, right, break_on_hyphens=False) or [""]
        lines += [f"{name:{left}}{first}".rstrip(), *(" " * left + other for other in others)]
    return "\n".join(lines)
