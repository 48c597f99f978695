"""Plans in TOML files, and the fields of a problem that follow from its checkpoint."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxunlearn.data.own import own_kind
from jaxunlearn.models.latent import LATENT
from jaxunlearn.models.published import is_pipeline
from jaxunlearn.studies.fields import read_toml
from jaxunlearn.studies.pipeline import described
from jaxunlearn.types import InputError

if TYPE_CHECKING:
    from jaxunlearn.models.pretrained import Found

PLACES = ("data_dir", "folder", "captions")  # the fields of a problem that locate its data
SOURCE = ("checkpoint", "step", "params_key", "tokenizer")  # of the weights that are adopted
# Fields of a problem that old records lack: at their defaults they are no part of its identity.
LATER = ("image_size", "test_fraction", "label", "broken", "validation_names")
PIXELS = ("mean", "std")  # likewise
FACTS = ("stem_pool", "heads", "null_class")  # fields that files of other libraries leave open
UNSEEN = {"validation_fraction": 0.0}  # adopted weights may have seen all training data


def read_plan(path: Path) -> dict[str, Any]:
    """The content of a TOML file; its relative paths are resolved from its own folder."""
    values = read_toml(path)
    folder = path.resolve().parent if path.is_file() else Path.cwd()
    problem, requests = values.get("problem"), values.get("requests")

    def locate(table: Any, *names: str) -> None:
        for name in names if isinstance(table, dict) else ():
            if isinstance(table.get(name), str):
                table[name] = _below(folder, table[name])

    locate(values, "inception", "tuned")
    for each in requests if isinstance(requests, list) else ():
        locate(each, "indices", "names", "file")
    if isinstance(problem, dict):
        locate(problem, *PLACES, "validation_names", "checkpoint", "tokenizer")
        locate(problem.get("autoencoder"), "checkpoint")
        kind, place = own_kind(str(problem.get("data"))) or (None, "")
        if place:
            problem["data"] = f"{kind}:{_below(folder, place)}"
        values["problem"] = for_checkpoint(problem)
    return values


def _below(folder: Path, path: str) -> str:
    """A path from a folder, unless it is absolute or begins with ~, the home folder."""
    return path if path[:1] == "~" else os.path.normpath(folder / path)


def for_checkpoint(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a problem, with the defaults that follow from its checkpoint.

    No training data count as unseen. A checkpoint of another library gives the model, its settings,
    the mean and deviation of the pixels, and the diffusion.

    Raises:
        InputError: another model is given than the checkpoint holds, or it cannot be read.
    """
    path = fields.get("checkpoint")
    if not isinstance(path, str) or not path:
        return fields
    found = published(path, fields)
    if found is None:
        return UNSEEN | fields
    given = dict(fields.get("model_settings") or {})
    more: dict[str, Any] = {"model": found.model, "model_settings": {**found.fields, **given}}
    if found.kind == "classifier":
        pixels = {"mean": found.mean, "std": found.std}
        more |= {
            name: list(value) for name, value in pixels.items() if value and name not in fields
        }
    elif found.kind != "autoencoder":
        more = described(found, Path(path).expanduser().absolute(), fields)
    return UNSEEN | fields | more


def published(path: str, fields: Mapping[str, Any], num_classes: int = 2) -> "Found | None":
    """The model in a checkpoint of another library; None for a tree of arrays by our own names.

    `fields` are the given fields of the problem; `num_classes` is for a new head, if the model has
    none.
    """
    place = Path(path).expanduser()
    configured = is_pipeline(place) or (place / "config.json").is_file()
    if place.is_dir() and (place / "fingerprints.json").is_file():
        return None  # a run, which is refused later
    safe = place.suffix == ".safetensors" or (place.is_dir() and any(place.glob("*.safetensors*")))
    if not (configured or safe):
        return None
    from jaxunlearn.models import pretrained  # needs safetensors

    settings, model = fields.get("model_settings") or {}, fields.get("model")
    facts = {name: value for name, value in settings.items() if name in FACTS}
    if fields.get("tokenizer"):
        facts["tokenizer"] = fields["tokenizer"]
    head = {"num_classes": num_classes}
    found, faults = None, []
    for options in (facts, {}, head, facts | head):  # one that is not open is refused
        try:
            found = pretrained.find(place, **options)
            break
        except InputError as error:
            faults.append(error)
    if found is None:
        if configured or model is None:
            raise faults[0]
        return None
    if model not in (None, found.model, LATENT + found.model):
        raise InputError(
            f"the model is {model!r}, but the checkpoint {path} holds {found.model!r} of "
            f"{found.layout}; leave out the model."
        )
    return found
