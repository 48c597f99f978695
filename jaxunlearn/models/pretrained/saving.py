"""Models in the layouts of other libraries: the counterpart of `find`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn import models
from jaxunlearn.files import write_json
from jaxunlearn.models import denoisers, latent
from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.ddpm_unet import DDPMUNet
from jaxunlearn.models.pretrained.adapters import write_adapters
from jaxunlearn.models.pretrained.classifiers import save_classifier
from jaxunlearn.models.pretrained.config_json import CONFIG, INDEX
from jaxunlearn.models.pretrained.diffusers_dit import save_dit
from jaxunlearn.models.pretrained.diffusers_unet import save_unet2d
from jaxunlearn.models.pretrained.recognise import (
    AUTOENCODER,
    DIT,
    FIRST_STAGE,
    PIXELS,
    Found,
    adaptable,
)
from jaxunlearn.models.pretrained.sd_single_file import save_single_file
from jaxunlearn.models.pretrained.stable_diffusion import (
    SCHEDULER,
    StableDiffusion,
    save_autoencoder,
    save_stable_diffusion,
)
from jaxunlearn.models.tokenizer import ClipTokenizer
from jaxunlearn.types import InputError, Weights


def save(folder: str | os.PathLike[str], found: Found, weights: Weights) -> None:
    """Writes weights of a model in its layout, with its configuration.

    Args:
        folder: folder to write to; it is created.
        found: the model, whose own weights are not used.
        weights: parameters and model state.

    Raises:
        InputError: the layout does not have such a model, or a file cannot be written.

    Example:
        >>> import jax, tempfile, jax.numpy as jnp
        >>> from jaxunlearn.models.pretrained import find
        >>> model = models.create("vit-tiny-test", 3)
        >>> params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
        >>> weights = Weights(params, {})
        >>> found = Found("timm", "classifier", "vit-tiny-test", {}, weights, num_classes=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(folder, found, weights)
        ...     again = find(folder, heads=2)
        >>> again.layout, again.model, again.fields, again.num_classes
        ('timm', 'vit-tiny-test', {}, 3)
    """
    layouts = ("diffusers", "compvis") if found.kind == "text_to_image" else ("diffusers",)
    if found.kind != "classifier" and found.layout not in layouts:
        raise InputError(
            f"the layout is {found.layout!r}, but must be {' or '.join(layouts)} for "
            f"{found.model!r}."
        )
    _SAVE[found.kind](Path(folder), found, weights)


def save_adapters(
    folder: str | os.PathLike[str],
    found: Found,
    weights: Weights,
    *,
    rank: int,
    layout: str = "peft",
) -> None:
    """Writes the change of weights as low-rank adapters, which it is after unlearning by adapters.

    Args:
        folder: folder to write to; it is created.
        found: the model with the weights before.
        weights: the weights after.
        rank: rank of the adapters.
        layout: "peft" or "kohya".

    Raises:
        InputError: the model has no U-Net, the change is of a higher rank, or a file cannot be
            written.
    """
    before = adaptable(found, found.weights.params)
    after = {name: part.params for name, part in adaptable(found, weights.params).items()}
    write_adapters(folder, before, after, rank=rank, layout=layout)


def _save_classifier(folder: Path, found: Found, weights: Weights) -> None:
    like = found.config.get(CONFIG)
    save_classifier(folder, found.layout, _module(found), weights, like=like)
    if found.layout == "transformers" and PIXELS in found.config:
        write_json(folder / PIXELS, found.config[PIXELS])


def _save_denoiser(folder: Path, found: Found, weights: Weights) -> None:
    """A pipeline, or the model alone if there is no scheduler."""
    module = _module(found)
    like = found.config.get(CONFIG, {})
    name, pipeline, kind, write = (
        ("unet", "DDPMPipeline", "UNet2DModel", save_unet2d)
        if isinstance(module, DDPMUNet)
        else ("transformer", "DiTPipeline", DIT, save_dit)
    )
    write(folder / name if found.process else folder, module, weights.params, like=like)
    if not found.process:
        return
    index = {"_class_name": pipeline, name: ["diffusers", kind]} | found.config.get(INDEX, {})
    index |= {"scheduler": ["diffusers", found.process["_class_name"]]}
    if found.autoencoder is not None:
        _save_first_stage(folder / "vae", found, weights)
        index |= {"vae": ["diffusers", AUTOENCODER]}
    write_json(folder / SCHEDULER, found.process)
    write_json(folder / INDEX, index)


def _save_autoencoder(folder: Path, found: Found, weights: Weights) -> None:
    like = found.config.get(CONFIG, {})
    module = _make_autoencoder(found.model, found.fields, weights.params)
    scaled = module.clone(scaling_factor=like.get("scaling_factor", module.scaling_factor))
    save_autoencoder(folder, scaled, weights.params, like=like)


def _save_first_stage(folder: Path, found: Found, weights: Weights) -> None:
    save_autoencoder(folder, *_first_stage(found, weights), like=found.config.get("vae", {}))


def _save_text_to_image(folder: Path, found: Found, weights: Weights) -> None:
    size, params = found.model.partition("-")[2], weights.params
    vocabulary, width = params["text_encoder"]["tokens"]["embedding"].shape
    text_encoder = latent.create_text_encoder(
        size,
        vocabulary=vocabulary,
        length=len(params["text_encoder"]["position"]),
        **found.fields.get("text_encoder", {}),
    )
    unet = latent.create_text_unet(
        size,
        channels=params["unet"]["in"]["kernel"].shape[2],
        context_width=width,
        **found.fields.get("unet", {}),
    )
    config = dict(found.config)
    tokenizer = config.pop("tokenizer")
    if found.process is not None:
        config["scheduler"] = found.process
    parts = StableDiffusion(
        *_first_stage(found, weights),
        text_encoder,
        params["text_encoder"],
        unet,
        params["unet"],
        ClipTokenizer(**tokenizer | {"merges": tuple(map(tuple, tokenizer["merges"]))}),
        config,
    )
    if found.layout == "compvis":
        save_single_file(folder / "model.safetensors", parts)
    else:
        save_stable_diffusion(folder, parts)


_SAVE: dict[str, Callable[[Path, Found, Weights], None]] = {
    "classifier": _save_classifier,
    "denoiser": _save_denoiser,
    "autoencoder": _save_autoencoder,
    "text_to_image": _save_text_to_image,
}


def _module(found: Found) -> Any:
    """The module of a classifier or denoiser."""
    if found.kind == "classifier":
        assert found.num_classes is not None
        return models.create(found.model, found.num_classes, **found.fields)
    assert found.image_shape is not None
    return denoisers.create(found.model, found.image_shape, found.num_classes, **found.fields)


def _make_autoencoder(model: str, fields: dict[str, Any], params: Any) -> AutoencoderKL:
    channels = params["encoder"]["in"]["kernel"].shape[2]
    return latent.create_autoencoder(model.partition("-")[2], channels, **fields)


def _first_stage(found: Found, weights: Weights) -> tuple[AutoencoderKL, Any]:
    """The autoencoder in the model state."""
    assert found.autoencoder is not None
    stage = weights.model_state[FIRST_STAGE]
    model, fields = found.autoencoder["model"], found.autoencoder.get("model_settings", {})
    # The factor in float32, without digits that it does not have.
    factor = float(str(np.float32(stage["scaling_factor"])))
    module = _make_autoencoder(model, fields, stage["params"])
    return module.clone(scaling_factor=factor), stage["params"]
