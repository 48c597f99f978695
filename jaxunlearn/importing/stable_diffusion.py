"""Stable Diffusion v1 in diffusers' layout: a folder with a folder for each part.

    FOLDER/vae/  text_encoder/  unet/     config.json and weights (safetensors)
    FOLDER/tokenizer/                     vocab.json, merges.txt
    FOLDER/scheduler/  model_index.json   what else diffusers' `StableDiffusionPipeline` wants

Each part can also be read and written on its own: `load_autoencoder`, `load_text_encoder`,
`load_text_unet`, `ClipTokenizer.load`, and the same with `save`. Noise is added as in version 1:

    beta_t = (sqrt(.00085) + (t / 999) (sqrt(.012) - sqrt(.00085)))^2,   t = 0 .. 999

and the U-Net says the noise; a folder that says otherwise is refused. Safety checkers are left out.

Source of the layout: the public files of Stable Diffusion v1.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from jaxunlearn.files import read_json, write_json
from jaxunlearn.importing.sd_autoencoder import load_autoencoder, save_autoencoder
from jaxunlearn.importing.sd_text_encoder import load_text_encoder, save_text_encoder
from jaxunlearn.importing.sd_text_unet import load_text_unet, save_text_unet
from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.text_encoder import TextEncoder
from jaxunlearn.models.text_unet import TextUNet
from jaxunlearn.tokenizer import ClipTokenizer
from jaxunlearn.types import InputError

__all__ = [
    "StableDiffusion",
    "load_autoencoder",
    "load_stable_diffusion",
    "load_text_encoder",
    "load_text_unet",
    "save_autoencoder",
    "save_stable_diffusion",
    "save_text_encoder",
    "save_text_unet",
]

_CLASS = "StableDiffusionPipeline"
_INDEX = {
    "_class_name": _CLASS,
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
_SAMPLER = {
    "_class_name": "PNDMScheduler",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


class StableDiffusion(NamedTuple):
    """The parts of a pipeline, each module with its parameters.

    Attributes:
        autoencoder: images to latents and back.
        autoencoder_params: its parameters.
        text_encoder: token ids to hidden states.
        text_encoder_params: its parameters.
        unet: noisy latents, timesteps and hidden states to noise.
        unet_params: its parameters.
        tokenizer: prompts to token ids.
    """

    autoencoder: AutoencoderKL
    autoencoder_params: Any
    text_encoder: TextEncoder
    text_encoder_params: Any
    unet: TextUNet
    unet_params: Any
    tokenizer: ClipTokenizer


def load_stable_diffusion(folder: str | os.PathLike[str]) -> StableDiffusion:
    """Reads all parts of a pipeline.

    Args:
        folder: with the folders `vae`, `text_encoder`, `unet` and `tokenizer`.

    Returns:
        The parts.

    Raises:
        InputError: a file is missing or damaged, describes another network or another way of adding
            noise, or the parts do not fit each other.
    """
    folder = Path(folder)
    _check_index(folder / "model_index.json")
    _check_noise(folder / "scheduler" / "scheduler_config.json")
    tokenizer = ClipTokenizer.load(folder / "tokenizer")
    pipeline = StableDiffusion(
        *load_autoencoder(folder / "vae"),
        *load_text_encoder(folder / "text_encoder"),
        *load_text_unet(folder / "unet"),
        tokenizer,
    )
    _check_fit(pipeline)
    return pipeline


def save_stable_diffusion(folder: str | os.PathLike[str], pipeline: StableDiffusion) -> None:
    """Writes all parts, so that `load_stable_diffusion` gives the same and diffusers can read it.

    Args:
        folder: where to; it is made.
        pipeline: the parts; `dtype` and `remat` of the modules are not kept.

    Raises:
        InputError: the parts do not fit each other, or a file cannot be written.
    """
    _check_fit(pipeline)
    folder = Path(folder)
    save_autoencoder(folder / "vae", pipeline.autoencoder, pipeline.autoencoder_params)
    save_text_encoder(folder / "text_encoder", pipeline.text_encoder, pipeline.text_encoder_params)
    save_text_unet(folder / "unet", pipeline.unet, pipeline.unet_params)
    pipeline.tokenizer.save(folder / "tokenizer")
    write_json(folder / "scheduler" / "scheduler_config.json", _SAMPLER | _NOISE)
    write_json(folder / "model_index.json", _INDEX)


def _check_index(path: Path) -> None:
    if path.exists() and (found := read_json(path).get("_class_name")) != _CLASS:
        raise InputError(
            f"{path} is of the pipeline {found!r}, but only {_CLASS!r} is supported here; give a "
            "folder of Stable Diffusion v1."
        )


def _check_noise(path: Path) -> None:
    config = read_json(path) if path.exists() else {}
    for name, only in _NOISE.items():
        if config.get(name, only) != only:
            raise InputError(
                f"{path} says that {name!r} is {config[name]!r}, but Stable Diffusion v1 has "
                f"{only!r}, and no other is supported here; give a folder of version 1."
            )


def _check_fit(pipeline: StableDiffusion) -> None:
    unet, text_encoder, tokenizer = pipeline.unet, pipeline.text_encoder, pipeline.tokenizer
    if not isinstance(tokenizer, ClipTokenizer):
        raise InputError(
            f"the layout of Stable Diffusion has no place for a {type(tokenizer).__name__}; save "
            "the other parts on their own."
        )
    latents = pipeline.autoencoder.latent_channels
    for fits, what in (
        (unet.channels == latents, f"{unet.channels} channels, the latents {latents}"),
        (
            unet.context_width == text_encoder.width,
            f"a context {unet.context_width} wide, the text encoder's states are "
            f"{text_encoder.width} wide",
        ),
    ):
        if not fits:
            raise InputError(
                f"the parts do not fit: the U-Net has {what}; take all from one model."
            )
    if tokenizer.size > text_encoder.vocabulary or tokenizer.length > text_encoder.length:
        raise InputError(
            f"the parts do not fit: the tokenizer has {tokenizer.size} ids and prompts of "
            f"{tokenizer.length}, the text encoder takes {text_encoder.vocabulary} and "
            f"{text_encoder.length}; take all from one model."
        )
