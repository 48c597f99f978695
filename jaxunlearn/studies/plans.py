"""Plans in TOML files, and the fields of a problem that follow from its checkpoint."""

import os
from pathlib import Path
from typing import Any

from jaxunlearn.data.own import own_kind
from jaxunlearn.studies.fields import read_toml

PLACES = ("data_dir", "folder", "captions")  # the fields of a problem that locate its data
SOURCE = ("checkpoint", "step", "params_key")  # the fields that locate the weights to adopt
# Fields of a problem that old records lack: at their defaults they are no part of its identity.
LATER = ("image_size", "test_fraction", "label", "broken", "validation_names")
PIXELS = ("mean", "std")  # likewise
UNSEEN = {"validation_fraction": 0.0}  # adopted weights may have seen all training data


def read_plan(path: Path) -> dict[str, Any]:
    """The content of a TOML file; its relative paths are resolved from its own folder."""
    values = read_toml(path)
    folder = path.resolve().parent if path.is_file() else Path.cwd()
    requests = values.get("requests")
    tables: list[tuple[Any, str]] = [(values, "inception"), (values, "tuned")]
    located = (*PLACES, "validation_names", "checkpoint")
    tables += [(values.get("problem"), name) for name in located]
    if isinstance(values.get("problem"), dict):
        tables.append((values["problem"].get("autoencoder"), "checkpoint"))
    requests = requests if isinstance(requests, list) else []
    tables += [(each, name) for each in requests for name in ("indices", "names", "file")]
    for table, name in tables:
        if isinstance(table, dict) and isinstance(table.get(name), str):
            table[name] = _below(folder, table[name])
    problem = values.get("problem")
    if isinstance(problem, dict) and isinstance(problem.get("data"), str):
        kind, place = own_kind(problem["data"]) or (None, "")
        if place:
            problem["data"] = f"{kind}:{_below(folder, place)}"
    if isinstance(problem, dict):
        values["problem"] = for_checkpoint(problem)
    return values


def _below(folder: Path, path: str) -> str:
    """A path from a folder, unless it is absolute or begins with ~, the home folder."""
    return path if path[:1] == "~" else os.path.normpath(folder / path)


def for_checkpoint(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a problem, with the defaults that follow from its checkpoint.

    No training data count as unseen.
    """
    return UNSEEN | fields if fields.get("checkpoint") else fields
