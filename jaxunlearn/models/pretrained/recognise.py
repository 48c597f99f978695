"""The model in a file or folder of another library, recognised by its files."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxunlearn import models
from jaxunlearn.models import denoisers, latent
from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.pretrained.adapters import Part, add_adapters, parts_of
from jaxunlearn.models.pretrained.classifiers import load_classifier
from jaxunlearn.models.pretrained.config_json import CONFIG, INDEX, check_there
from jaxunlearn.models.pretrained.diffusers_dit import load_dit
from jaxunlearn.models.pretrained.diffusers_unet import load_unet2d
from jaxunlearn.models.pretrained.sd_single_file import UNET, load_single_file
from jaxunlearn.models.pretrained.stable_diffusion import (
    SCHEDULER,
    StableDiffusion,
    load_autoencoder,
    load_stable_diffusion,
)
from jaxunlearn.models.pretrained.tensors import stored_shapes
from jaxunlearn.models.published import read_json
from jaxunlearn.models.vit import ViT
from jaxunlearn.types import InputError, Weights

PIXELS = "preprocessor_config.json"  # of transformers
FIRST_STAGE = "first_stage"  # of the model state: a text-to-image model's autoencoder
_NOT_SETTINGS = ("num_classes", "image_shape", "scaling_factor", "parent", "name")
_OF_PARTS = ("vocabulary", "length", "channels", "context_width")  # which the parts share
DIT = "DiTTransformer2DModel"
_PARTS = {"UNet2DModel": "unet", DIT: "transformer", "Transformer2DModel": "transformer"}
_PIPELINES = {"DDPMPipeline": "unet", "DDIMPipeline": "unet", "DiTPipeline": "transformer"}
AUTOENCODER, _STABLE_DIFFUSION = "AutoencoderKL", "StableDiffusionPipeline"


class Found(NamedTuple):
    """A model of another library. All attributes but the weights are plain JSON.

    Attributes:
        layout: name of the layout, such as "timm".
        kind: kind of the model: "classifier", "denoiser", "text_to_image" or "autoencoder".
        model: name of the model, as in a problem.
        fields: fields that differ from the preset of this name, as `model_settings` in a problem.
        weights: parameters and model state, float32.
        num_classes: number of classes; None for models without classes.
        image_shape: (height, width, channels) of images or latents, where the model fixes them.
        autoencoder: "model" and "model_settings" of the autoencoder of a text-to-image model.
        process: configuration of the scheduler, where there is one.
        mean: mean of the pixels in [0, 1] that the model was trained with, by channel, if known.
        std: standard deviation of these pixels, likewise.
        config: content of the files that no field holds, for `save`.
        notes: sentences for the user, such as on a new head.
    """

    layout: str
    kind: str
    model: str
    fields: dict[str, Any]
    weights: Weights
    num_classes: int | None = None
    image_shape: tuple[int, ...] | None = None
    autoencoder: dict[str, Any] | None = None
    process: dict[str, Any] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    config: Mapping[str, Any] = MappingProxyType({})
    notes: tuple[str, ...] = ()


def find(
    path: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    adapters: str | os.PathLike[str] | None = None,
    **left_open: Any,
) -> Found:
    """Reads a model of another library; the layout is recognised by the files.

    Args:
        path: a safetensors file, a folder with one, or the folder of a pipeline.
        num_classes: number of classes of a new head, for a classifier without one.
        adapters: file of low-rank adapters (PEFT, diffusers or kohya) that are added to the weights
            of a U-Net and its text encoder.
        **left_open: facts that some files leave open: `stem_pool` (whether max-pooling follows the
            3x3 stem of a ResNet), `heads` (of a ViT), `null_class` (whether the last row of a class
            embedding means no class), `tokenizer` (the folder of CLIP's, for a Stable Diffusion in
            one file; `ema=True` reads the means of its parameters). An error names the one that is
            needed.

    Raises:
        InputError: no layout is recognised, a fact is left open, or a file is missing, damaged or a
            pickle.
    """
    found = _find(Path(path), num_classes, left_open)
    if adapters is None:
        return found
    new = add_adapters(adapters, adaptable(found, found.weights.params))
    params = new if found.kind == "text_to_image" else new["unet"]
    return found._replace(weights=found.weights._replace(params=params))


def adaptable(found: Found, params: Any) -> dict[str, Part]:
    """The networks of a model that adapters can change."""
    if found.kind not in ("denoiser", "text_to_image") or found.model.startswith("dit"):
        raise InputError(
            f"the model is {found.model!r}, but must be a U-Net, or have one, for adapters; leave "
            "them out."
        )
    return parts_of(params, text_to_image=found.kind == "text_to_image")


def _find(path: Path, num_classes: int | None, left_open: dict[str, Any]) -> Found:
    index = read_json(path / INDEX) if (path / INDEX).is_file() else {}
    config = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
    kind = index.get("_class_name", config.get("_class_name"))
    if kind is None and (path / "text_encoder" / CONFIG).is_file():
        kind = _STABLE_DIFFUSION  # without its model_index.json
    if kind is None and any(name.startswith(UNET) for name in stored_shapes(path)):
        return _single_file(path, left_open)
    if kind is None:
        return _classifier(path, num_classes, left_open)
    if kind == _STABLE_DIFFUSION:
        _facts(left_open)
        return _text_to_image(load_stable_diffusion(path), "diffusers")
    if kind == AUTOENCODER:
        _facts(left_open)
        return _autoencoder(*load_autoencoder(path), config)
    if kind in (*_PIPELINES, *_PARTS):
        return _denoiser(path, index, left_open)
    known = (*_PIPELINES, _STABLE_DIFFUSION, *_PARTS, AUTOENCODER)
    raise InputError(
        f"{path} is a {kind!r} of diffusers, but must be one of {', '.join(known)}; give the "
        "folder of such a model."
    )


def _classifier(path: Path, num_classes: int | None, facts: dict[str, Any]) -> Found:
    given = load_classifier(path, num_classes=num_classes, **facts)
    presets = {name: models.create(name, 1) for name in _built_in(models)}
    model, fields = _settings(given.module, presets)
    side, channels = given.size
    configs = {CONFIG: dict(given.config)} if given.config else {}
    if (path / PIXELS).is_file():
        configs[PIXELS] = read_json(path / PIXELS)
    notes: tuple[str, ...] = ()
    if given.new_head:
        notes = (f"The network had no head; the new one of {num_classes} classes is untrained.",)
    return Found(
        layout=given.library,
        kind="classifier",
        model=model,
        fields=fields,
        weights=given.weights,
        num_classes=given.module.num_classes,
        image_shape=(side, side, channels) if isinstance(given.module, ViT) else None,
        mean=_pixels(configs, "mean"),
        std=_pixels(configs, "std"),
        config=configs,
        notes=notes,
    )


def _pixels(configs: dict[str, Any], name: str) -> tuple[float, ...] | None:
    """The mean or deviation of pixels in [0, 1], of each channel, where a file has it."""
    of_timm = configs.get(CONFIG, {}).get("pretrained_cfg") or {}
    found = configs.get(PIXELS, {}).get(f"image_{name}", of_timm.get(name))
    return tuple(map(float, found)) if isinstance(found, list) else None


def _denoiser(path: Path, index: dict[str, Any], left_open: dict[str, Any]) -> Found:
    """The U-Net or the transformer of a pipeline (with an index), or in a folder of its own."""
    part = path / _PIPELINES[index["_class_name"]] if index else path
    check_there(part)
    config = read_json(part / CONFIG)
    module: Any
    if config.get("_class_name") == "UNet2DModel":
        module, params = load_unet2d(part, **_facts(left_open, "null_class"))
    else:
        _facts(left_open)
        module, params = load_dit(part)
    presets = {name: denoisers.create(name, (32, 32, 4), 1) for name in _built_in(denoisers)}
    model, fields = _settings(module, presets)
    configs, scheduler = {CONFIG: config, INDEX: index}, path / SCHEDULER
    state, autoencoder = {}, None
    if index and (path / "vae").is_dir():
        configs["vae"] = read_json(path / "vae" / CONFIG)
        first = _autoencoder(*load_autoencoder(path / "vae"), configs["vae"])
        autoencoder = _described(first)
        state = {FIRST_STAGE: _stage(first)}
    return Found(
        layout="diffusers",
        kind="denoiser",
        model=model,
        fields=fields if module.num_classes is not None else fields | {"conditional": False},
        weights=Weights(params, state),
        num_classes=module.num_classes,
        image_shape=tuple(module.image_shape),
        autoencoder=autoencoder,
        process=read_json(scheduler) if index and scheduler.is_file() else None,
        config=configs,
    )


def _autoencoder(module: AutoencoderKL, params: Any, config: dict[str, Any]) -> Found:
    presets = {n: latent.create_autoencoder(n, module.channels) for n in latent.available()}
    model, fields = _settings(module, presets)
    config = {"scaling_factor": module.scaling_factor, **config}
    weights = Weights(params, {})
    model = f"autoencoder-{model}"
    return Found("diffusers", "autoencoder", model, fields, weights, config={CONFIG: config})


def _text_to_image(parts: StableDiffusion, layout: str) -> Found:
    configs: dict[str, Any] = dict(parts.configs)
    first = _autoencoder(parts.autoencoder, parts.autoencoder_params, configs.get("vae", {}))
    presets = {n: latent.create_text_unet(n) for n in latent.available()}
    size, unet = _settings(parts.unet, presets)
    _, text = _settings(parts.text_encoder, {size: latent.create_text_encoder(size)})
    fields = {"text_encoder": text, "unet": unet}
    return Found(
        layout=layout,
        kind="text_to_image",
        model=f"latent-{size}",
        fields={p: {n: v for n, v in f.items() if n not in _OF_PARTS} for p, f in fields.items()},
        weights=Weights(
            {"text_encoder": parts.text_encoder_params, "unet": parts.unet_params},
            {FIRST_STAGE: _stage(first)},
        ),
        autoencoder=_described(first),
        process=configs.pop("scheduler", None),
        config={**configs, "tokenizer": dataclasses.asdict(parts.tokenizer)},
    )


def _single_file(path: Path, facts: dict[str, Any]) -> Found:
    tokenizer = facts.pop("tokenizer", None)
    if tokenizer is None:
        raise InputError(
            f"{path} is a Stable Diffusion in one file, which holds no vocabulary; give "
            "tokenizer=, the folder of CLIP's tokenizer."
        )
    parts = load_single_file(path, tokenizer, **_facts(facts, "ema"))
    return _text_to_image(parts, "compvis")


def _described(first: Found) -> dict[str, Any]:
    return {"model": first.model, "model_settings": first.fields}


def _stage(first: Found) -> dict[str, Any]:
    factor = jnp.float32(first.config[CONFIG]["scaling_factor"])
    return {"params": first.weights.params, "scaling_factor": factor}


def _facts(left_open: dict[str, Any], *known: str) -> dict[str, Any]:
    """The facts, which must be known ones of the model."""
    for name in left_open.keys() - set(known):
        raise InputError(
            f"{name} is given, but the files of this model do not leave it open; leave it out."
        )
    return left_open


def _built_in(room: Any) -> list[str]:
    return [name for name in room.available() if room.ABOUT[name][0] is not None]


def _settings(module: nn.Module, presets: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The closest preset, and the fields that differ from it, as JSON."""

    def differing(preset: nn.Module) -> dict[str, Any]:
        names = [f.name for f in dataclasses.fields(module) if f.name not in _NOT_SETTINGS]
        pairs = ((name, getattr(module, name), getattr(preset, name)) for name in names)
        return {name: _plain(value) for name, value, other in pairs if value != other}

    same = {name: p for name, p in presets.items() if type(p) is type(module)}
    name = min(same, key=lambda name: len(differing(same[name])))
    return name, differing(same[name])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
