"""The flags of the commands, made from the dataclasses and the methods that they configure.

Each type here is a dictionary of the flags that were given.
"""

import json
import re
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union

import tyro
from docstring_parser import parse
from typing_extensions import TypedDict

from jaxunlearn import methods
from jaxunlearn.cli.begin import Begin
from jaxunlearn.cli.lists import meanings
from jaxunlearn.data import ForgetRequest
from jaxunlearn.studies.config import Aim, Problem
from jaxunlearn.studies.console import Output
from jaxunlearn.studies.diffusion import Diffusion
from jaxunlearn.studies.fields import from_dict, parse_settings
from jaxunlearn.studies.plans import SOURCE, UNSEEN
from jaxunlearn.training.layout import Layout

_METAVARS = {
    "fraction": "SHARE",
    "words": "WORD ...",
    "classes": "CLASS ...",
    "indices": "INT ... | FILE",
    "names": "FILE",
    "validation_names": "FILE",
    "data": "NAME",
    "model": "NAME",
    "data_dir": "FOLDER",
    "folder": "FOLDER",
    "test_fraction": "SHARE",
    "label": "COLUMN",
    "captions": "FILE",
    "anchor": "CLASS",
    "trainable": "REGEX",
    "model_settings": "NAME=VALUE ...",
    "checkpoint": "PATH",
    "params_key": "NAME",
    "tokenizer": "FOLDER",
}
_TAKEN = [field.name for cls in (ForgetRequest, Aim, Layout) for field in fields(cls)]
_TAKEN += ["pretrained", "data_dir", "retrained", "vary", "trials", "seeds", "group_size", "shard"]

Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
Dest = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
NewFile = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
Needed = Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
File = Annotated[Path, tyro.conf.arg(metavar="FILE")]
Weights = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Shard = Annotated[str, tyro.conf.arg(metavar="I/N")]
Oracle = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")]
Place = Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")]
Written = Annotated[str | None, tyro.conf.arg(metavar="LAYOUT", help_behavior_hint="")]
Metric = Annotated[str | None, tyro.conf.arg(metavar="METRIC", help_behavior_hint="")]
Number = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
Rate = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
Numbers = Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...", help_behavior_hint="")]
Texts = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT ...", help_behavior_hint="")]
Shares = Annotated[tuple[float, ...], tyro.conf.arg(metavar="SHARE ...")]
Varied = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUES ...")]


class Chosen(NamedTuple):
    """A method and the settings given for it."""

    name: str
    settings: dict[str, Any]


def _flag(name: str, kind: Any, about: str, default: Any, *marks: Any, method: str = "") -> Any:
    """A flag whose explanation ends with its default.

    A method's setting becomes `--METHOD.NAME` if the command already has a flag of that name.
    """
    shown = "" if default in (None, (), {}, "") else f"(default: {_plain(default)})"
    metavar = _METAVARS.get(name) if kind in (str, tuple[str, ...], float) else None
    full = f"{method}.{name}" if method and name in _TAKEN else None
    flag = tyro.conf.arg(name=full, help=about, help_behavior_hint=shown, metavar=metavar)
    return Annotated[(kind, flag, *marks)]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _typed(name: str, flags: Mapping[str, Any]) -> Any:
    return TypedDict(name, dict(flags), total=False)  # type: ignore[operator]


def _of(
    cls: type,
    kinds: Mapping[str, Any] = types.MappingProxyType({}),
    *marks: Any,
    without: Collection[str] = (),
    defaults: Mapping[str, Any] = types.MappingProxyType({}),
) -> Any:
    """The fields of a dataclass as flags; `kinds` and `defaults` override their own."""
    texts = parse(cls.__doc__ or "").params
    about = {each.arg_name: " ".join((each.description or "").split()) for each in texts}
    flags, hints = {}, typing.get_type_hints(cls)
    for entry in fields(cls):
        if entry.name in without:
            continue
        kind = kinds.get(entry.name, hints[entry.name])
        if type(None) in typing.get_args(kind):
            kind = next(each for each in typing.get_args(kind) if each is not type(None))
        default = defaults.get(entry.name, None if entry.default is MISSING else entry.default)
        flags[entry.name] = _flag(entry.name, kind, about.get(entry.name, ""), default, *marks)
    return _typed(cls.__name__, flags)


def _settings(method: str, defaults: Mapping[str, Any]) -> Any:
    """The settings of a method as flags, with their choices or limits."""
    about, limits, flags = meanings(method), methods.limits(method), {}
    optional = methods.optional_settings(method)
    for name, default in {**defaults, **optional, **defaults}.items():
        kind: Any = type(default)
        limit, text = limits.get(name), about.get(name, "")
        if isinstance(limit, methods.Choices) and not limit.others:
            kind = Literal[limit.names]
        elif limit is not None:
            text = f"{text.removesuffix('.')} ({limit})."
        absent = name not in defaults and name != "guard_every"
        flags[name] = _flag(name, kind, text, None if absent else default, method=method)
    return _typed(method, flags)


def _training() -> Any:
    return _settings("retrain", Problem().training_settings())


def _method() -> Any:
    """A subcommand for each method and recipe, with a flag for each setting."""
    names = [name for name in methods.choices() if name != "retrain"]
    return Union[tuple(map(_subcommand, names))]  # noqa: UP007


def _subcommand(name: str) -> Any:
    kind = _settings(name, methods.settings(name))

    def choose(settings: Annotated[kind, tyro.conf.arg(name="")]) -> Chosen:  # type: ignore[valid-type]
        return Chosen(name, settings)

    about = methods.summary(name)
    return Annotated[Chosen, tyro.conf.subcommand(name, description=about, constructor=choose)]


_Pairs = tuple[str, ...]
_autoencoder = _typed(
    "Autoencoder",
    {
        "model": _flag("model", str, "name of the autoencoder (jaxunlearn list models).", None),
        "model_settings": _flag(
            "model_settings", _Pairs, "fields of the autoencoder that differ from its preset.", None
        ),
        "training": _training(),
        "checkpoint": _flag(
            "checkpoint", str, "file or folder of weights, in place of training.", None
        ),
    },
)
_of_problem = {
    "model_settings": _Pairs,
    "validation_names": str,
    "diffusion": _of(Diffusion),
    "training": _training(),
    "autoencoder": _autoencoder,
}
Learned = Annotated[
    dict, tyro.conf.arg(name="", constructor=_of(Problem, _of_problem, without=SOURCE))
]
Adopted = Annotated[
    dict,
    tyro.conf.arg(name="", constructor=_of(Problem, _of_problem, defaults=UNSEEN)),
]


def fields_of(given: dict[str, Any], flag: str = "--") -> dict[str, Any]:
    """The fields that flags set, without empty tables and with the settings of models parsed."""
    given = {
        name: fields_of(value, f"{flag}{name}.") if isinstance(value, dict) else value
        for name, value in given.items()
    }
    if "model_settings" in given:
        pairs = given["model_settings"]
        given["model_settings"] = parse_settings(pairs, f"{flag}model-settings")
    return {name: value for name, value in given.items() if value != {}}


def _request() -> Any:
    """The fields of a request, of which one is given, and --drop-held-out beside them."""
    group = tyro.conf.create_mutex_group(required=True, title="forget request")
    kinds = {"classes": _Pairs, "indices": _Pairs, "names": str, "drop_held_out": bool}
    flags = _of(ForgetRequest, kinds, group).__annotations__
    one = _of(ForgetRequest, kinds).__annotations__
    others = {name: flag for name, flag in flags.items() if name != "file"}
    return _typed("ForgetRequest", others | {"drop_held_out": one["drop_held_out"]})


def request(given: Mapping[str, Any]) -> ForgetRequest:
    """The request of the flags: whole numbers are numbers, and other indices are a file.

    Example:
        >>> request({"classes": ("3", "cat")}).classes, request({"indices": ("a.txt",)}).indices
        ((3, 'cat'), 'a.txt')
    """
    values = dict(given)
    for name in values.keys() & {"classes", "indices"}:
        values[name] = tuple(
            int(word) if re.fullmatch("[+-]?[0-9]+", word) else word for word in values[name]
        )
    listed = values.get("indices", ())
    if len(listed) == 1 and isinstance(listed[0], str):
        values["indices"] = listed[0]
    return ForgetRequest(**values)


Forget = Annotated[dict, tyro.conf.arg(name="", constructor=_request())]
Aimed = Annotated[dict, tyro.conf.arg(name="", constructor=_of(Aim, {"anchor": str}))]


def aim(given: Mapping[str, Any]) -> Aim | None:
    """The aim of the flags, if there are any; a whole number is the number of a class."""
    values = dict(given)
    if re.fullmatch("-?[0-9]+", values.get("anchor", "")):
        values["anchor"] = int(values["anchor"])
    return from_dict(Aim, values, "unlearn") if values else None


def _layout(*names: str) -> Any:
    """The fields of a layout that mean something to a command, by default all of them."""
    without = {entry.name for entry in fields(Layout)} - set(names) if names else ()
    return Annotated[dict, tyro.conf.arg(name="", constructor=_of(Layout, without=without))]


Laid = _layout()
LaidInSearch = _layout("devices", "micro_batch", "chunk_steps", "checkpoint_every", "log")
LaidInGroups = _layout("devices", "micro_batch", "chunk_steps")
LaidInBatches = _layout("micro_batch")
Begun = Annotated[Begin, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff]
Shown = Annotated[Output, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff]
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Method = Annotated[Chosen, tyro.conf.arg(name="", constructor_factory=_method)]
