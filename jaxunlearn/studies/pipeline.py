"""The problem that a folder of diffusers describes: its model, its noise and its tokenizer."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxunlearn.models import denoisers, latent, pretrained
from jaxunlearn.models.pretrained import Found
from jaxunlearn.models.published import read_json
from jaxunlearn.studies.diffusion import Diffusion
from jaxunlearn.types import InputError

_CONFIG, _INDEX = "config.json", "model_index.json"
_OPEN = ("null_class",)  # facts that some files leave open, given as model settings
_PARTS = ("text_encoder", "unet")


def is_pipeline(path: Path) -> bool:
    """Whether a folder holds a model of diffusers: a pipeline, or one part of it."""
    if (path / _INDEX).is_file() or (path / "text_encoder" / _CONFIG).is_file():
        return True
    return (path / _CONFIG).is_file() and "_class_name" in read_json(path / _CONFIG)


def described(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a problem whose checkpoint is a folder of diffusers.

    The model, its settings, its autoencoder, its diffusion, its tokenizer and the size of its
    images come from the folder; given fields of the diffusion, and settings of the model such as
    its dtype, replace them.

    Args:
        given: fields of the problem; "checkpoint" and "data" are needed.

    Raises:
        InputError: the folder is no such model, or a given field contradicts it.
    """
    if not given.get("data"):
        raise InputError(
            "data is not given, but must be images for the model, such as folder:IMAGES; give them "
            "(--data)."
        )
    settings = dict(given.get("model_settings", {}))
    path = Path(given["checkpoint"]).expanduser().absolute()
    found = found_in(path, **{name: settings[name] for name in _OPEN if name in settings})
    fields = _fields(found, path)
    for name in ("model", "autoencoder"):
        if given.get(name) not in (None, fields.get(name)):
            raise InputError(
                f"{name} is {given[name]!r}, but the checkpoint {path} is {fields.get(name)!r}; "
                "leave it out."
            )
    for part in _PARTS:
        if part in settings and part in fields["model_settings"]:
            settings[part] = fields["model_settings"][part] | settings[part]
    fields["model_settings"] |= settings
    fields["diffusion"] |= given.get("diffusion") or {}
    if fields["image_size"] is None or not str(given["data"]).startswith("folder"):
        del fields["image_size"]
    return {**fields, **given, **{n: fields[n] for n in ("model_settings", "diffusion")}}


def found_in(path: Path, **facts: Any) -> Found:
    """The model in a folder of diffusers; the last one is kept."""
    return _found_in(path, tuple(facts.items()))


@functools.lru_cache(maxsize=1)
def _found_in(path: Path, facts: tuple[tuple[str, Any], ...]) -> Found:
    return pretrained.find(path, **dict(facts))


def forget_found() -> None:
    """Frees the memory of the last model that was found."""
    _found_in.cache_clear()


def _fields(found: Found, path: Path) -> dict[str, Any]:
    """The fields of the problem of a model."""
    fields: dict[str, Any] = {"model": found.model, "model_settings": dict(found.fields)}
    if found.kind == "text_to_image":
        fields["tokenizer"] = str(path / "tokenizer")
    elif found.autoencoder is not None:
        fields["model"] = f"latent-{found.model}"
    if found.autoencoder is not None:
        fields["autoencoder"] = found.autoencoder
    return fields | {"diffusion": _diffusion(found), "image_size": _image_size(found)}


def _diffusion(found: Found) -> dict[str, Any]:
    """The diffusion of the scheduler, guided as in the pipelines of diffusers."""
    chosen: dict[str, Any] = {"guidance": 6.5 if found.kind == "text_to_image" else 3.0}
    if found.kind == "denoiser":
        assert found.image_shape is not None
        model = denoisers.create(found.model, found.image_shape, found.num_classes, **found.fields)
        if model.learn_variance:
            chosen["variance"] = "learned_range"
        if model.num_classes is None or not getattr(model, "null_class", True):
            chosen |= {"guidance": 0.0, "label_drop": 0.0}
    elif found.process is None:
        chosen["schedule"] = "scaled_linear"
    if found.process is None:
        return chosen
    steps = min(Diffusion.sampling_steps, found.process.get("num_train_timesteps", 1000))
    return Diffusion.from_scheduler(found.process, sampling_steps=steps, **chosen).identity()


def _image_size(found: Found) -> int | None:
    """The side of the images in pixels, if the model has one."""
    sides = found.config.get("unet", {}).get("sample_size")
    if found.image_shape is not None:
        sides = found.image_shape[0] if found.image_shape[0] == found.image_shape[1] else None
    if not isinstance(sides, int) or found.autoencoder is None:
        return sides if isinstance(sides, int) else None
    size = found.autoencoder["model"].partition("-")[2]
    return sides * latent.create_autoencoder(size, **found.autoencoder["model_settings"]).factor
