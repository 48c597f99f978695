"""The problem of a model that generates, as a folder of diffusers describes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxunlearn.models import denoisers, latent
from jaxunlearn.studies.diffusion import Diffusion
from jaxunlearn.types import InputError

if TYPE_CHECKING:
    from jaxunlearn.models.pretrained import Found

_PARTS = ("text_encoder", "unet")


def described(found: "Found", path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a problem that a model of another library determines.

    These are the model, its settings, its autoencoder, its diffusion, its tokenizer and the size of
    its images. Given settings of the model, such as its dtype, and of its diffusion replace them.

    Args:
        found: the model.
        path: its folder.
        given: fields of the problem.

    Raises:
        InputError: there are no data, or the model is of latents and has no autoencoder.
    """
    if not given.get("data"):
        raise InputError(
            f"the checkpoint {path} is a model that generates, but the data are not given; give "
            "images by --data, such as folder:IMAGES (in a study, data)."
        )
    settings = dict(given.get("model_settings") or {})
    own = {name: dict(value) if name in _PARTS else value for name, value in found.fields.items()}
    if found.kind == "text_to_image":
        text = found.weights.params["text_encoder"]
        vocabulary, length = len(text["tokens"]["embedding"]), len(text["position"])
        own["text_encoder"] |= {"vocabulary": vocabulary, "length": length}
        for part in _PARTS:
            own[part] |= settings.pop(part, {})
    fields: dict[str, Any] = {"model": found.model, "model_settings": own | settings}
    if found.autoencoder is not None:
        fields["autoencoder"] = found.autoencoder | (given.get("autoencoder") or {})
        if found.kind == "denoiser":
            fields["model"] = f"{latent.LATENT}{found.model}"
            # Latents have fewer pixels than images, and other patches by default.
            fields["model_settings"] = {"patch_size": _module(found).patch_size} | own | settings
    if found.kind == "text_to_image":
        fields["tokenizer"] = given.get("tokenizer") or str(path / "tokenizer")
    side = _image_size(found)
    if side is not None and str(given["data"]).partition(":")[0] == "folder":
        fields["image_size"] = given.get("image_size") or side
    return fields | {"diffusion": _diffusion(found, given.get("diffusion") or {})}


def _diffusion(found: "Found", given: Mapping[str, Any]) -> dict[str, Any]:
    """The diffusion of the scheduler, guided as in the pipelines of diffusers."""
    chosen: dict[str, Any] = {}
    if found.autoencoder is not None:
        chosen["guidance"] = 6.5 if found.kind == "text_to_image" else 3.0
    if found.kind == "denoiser":
        model = _module(found)
        if model.learn_variance:
            chosen["variance"] = "learned_range"
        if model.num_classes is None or not getattr(model, "null_class", True):
            chosen |= {"guidance": 0.0, "label_drop": 0.0}  # no prediction for no class
    elif found.process is None:
        chosen["schedule"] = "scaled_linear"
    if found.process is None:
        return chosen | dict(given)
    steps = found.process.get("num_train_timesteps", Diffusion.num_timesteps)
    chosen["sampling_steps"] = min(Diffusion.sampling_steps, steps)
    return Diffusion.from_scheduler(found.process, **(chosen | dict(given))).identity()


def _module(found: "Found") -> Any:
    """The module of a denoiser."""
    shape = found.image_shape or ()
    return denoisers.create(found.model, shape, found.num_classes, **found.fields)


def _image_size(found: "Found") -> int | None:
    """The side of square images in pixels, if the model has one."""
    shape, config = found.image_shape, found.config.get("unet", {})
    side = shape[0] if shape and shape[0] == shape[1] else config.get("sample_size")
    if not isinstance(side, int) or found.autoencoder is None:
        return side if isinstance(side, int) else None
    size, settings = found.autoencoder["model"].partition("-")[2], found.autoencoder
    return side * latent.create_autoencoder(size, **settings["model_settings"]).factor
