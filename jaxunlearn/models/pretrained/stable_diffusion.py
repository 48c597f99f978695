"""Stable Diffusion v1 in diffusers' layout: a folder with a folder for each part.

    FOLDER/vae/  text_encoder/  unet/     config.json and weights (safetensors)
    FOLDER/tokenizer/                     vocab.json, merges.txt
    FOLDER/scheduler/  model_index.json   other files of diffusers' `StableDiffusionPipeline`

Each part can also be read and written alone: `load_autoencoder`, `load_text_encoder`,
`load_text_unet`, `ClipTokenizer.load`, and the same with `save`. Noise is added as in version 1:

    beta_t = (sqrt(.00085) + (t / 999) (sqrt(.012) - sqrt(.00085)))^2,   t = 0 .. 999

and the U-Net predicts the noise; a folder with another process is refused. The sampler (the
scheduler's class and its other options) is not used, but is written back. Safety checkers are left
out.

Source of the layout: the public files of Stable Diffusion v1.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxunlearn.files import write_json
from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.pretrained.config_json import CONFIG, INDEX, check_there, described_by
from jaxunlearn.models.pretrained.sd_autoencoder import load_autoencoder, save_autoencoder
from jaxunlearn.models.pretrained.sd_text_encoder import load_text_encoder, save_text_encoder
from jaxunlearn.models.pretrained.sd_text_unet import load_text_unet, save_text_unet
from jaxunlearn.models.process import Process
from jaxunlearn.models.published import read_json
from jaxunlearn.models.text_encoder import TextEncoder
from jaxunlearn.models.text_unet import TextUNet
from jaxunlearn.models.tokenizer import ClipTokenizer
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
_PARTS = ("vae", "text_encoder", "unet")
_INDEX = {
    "_class_name": _CLASS,
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SCHEDULER = "scheduler/scheduler_config.json"
_PUBLISHED = {  # scheduler of version 1
    "_class_name": "PNDMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
_NOISE = "num_timesteps schedule beta_start beta_end prediction zero_terminal_snr".split()


class StableDiffusion(NamedTuple):
    """The parts of a pipeline, each module with its parameters.

    Attributes:
        autoencoder: map from images to latents and back.
        autoencoder_params: parameters of the autoencoder.
        text_encoder: map from token ids to hidden states.
        text_encoder_params: parameters of the text encoder.
        unet: map from noisy latents, timesteps and hidden states to noise.
        unet_params: parameters of the U-Net.
        tokenizer: map from prompts to token ids.
        configs: configurations of "vae", "text_encoder", "unet" and "scheduler" as read; options
            that no module has as a field are written back.
    """

    autoencoder: AutoencoderKL
    autoencoder_params: Any
    text_encoder: TextEncoder
    text_encoder_params: Any
    unet: TextUNet
    unet_params: Any
    tokenizer: ClipTokenizer
    configs: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


def load_stable_diffusion(folder: str | os.PathLike[str]) -> StableDiffusion:
    """Reads all parts of a pipeline from its folder.

    Raises:
        InputError: a file is missing or damaged, describes another network or another noise
            process, or the parts do not fit each other.
    """
    folder = Path(folder)
    _check_index(folder / INDEX)
    for part in _PARTS:
        check_there(folder / part)
    configs = {part: read_json(folder / part / CONFIG) for part in _PARTS}
    if (folder / SCHEDULER).exists():
        configs["scheduler"] = read_json(folder / SCHEDULER)
        _check_noise(folder, configs["scheduler"])
    text_encoder, text_encoder_params = load_text_encoder(folder / "text_encoder")
    pipeline = StableDiffusion(
        *load_autoencoder(folder / "vae"),
        text_encoder,
        text_encoder_params,
        *load_text_unet(folder / "unet"),
        ClipTokenizer.load(folder / "tokenizer", length=text_encoder.length),
        configs,
    )
    _check_fit(pipeline)
    return pipeline


def save_stable_diffusion(folder: str | os.PathLike[str], pipeline: StableDiffusion) -> None:
    """Writes all parts, for `load_stable_diffusion` and diffusers.

    The folder is created. Options in `pipeline.configs` that no module has as a field are written
    back; `dtype` and `remat` of the modules are not stored. A pipeline without a scheduler gets the
    one of Stable Diffusion v1, PNDM.

    Raises:
        InputError: the parts do not fit each other, or a file cannot be written.
    """
    _check_fit(pipeline)
    folder = Path(folder)
    vae, text_encoder, unet = (pipeline.configs.get(part) for part in _PARTS)
    save_autoencoder(folder / "vae", pipeline.autoencoder, pipeline.autoencoder_params, like=vae)
    save_text_encoder(
        folder / "text_encoder",
        pipeline.text_encoder,
        pipeline.text_encoder_params,
        like=text_encoder,
    )
    save_text_unet(folder / "unet", pipeline.unet, pipeline.unet_params, like=unet)
    pipeline.tokenizer.save(folder / "tokenizer")
    scheduler = pipeline.configs.get("scheduler", _PUBLISHED)
    write_json(folder / SCHEDULER, dict(scheduler))
    write_json(folder / INDEX, _INDEX | {"scheduler": ["diffusers", scheduler["_class_name"]]})


def _check_index(path: Path) -> None:
    if path.exists() and (found := read_json(path).get("_class_name")) != _CLASS:
        raise InputError(
            f"the pipeline in {path} is {found!r}, but must be {_CLASS!r}; give a folder of Stable "
            "Diffusion v1."
        )


def _check_noise(folder: Path, config: Mapping[str, Any]) -> None:
    with described_by(folder, SCHEDULER):
        found, wanted = map(Process.from_scheduler, (config, _PUBLISHED))
        for name in _NOISE:
            value, only = getattr(found, name), getattr(wanted, name)
            if value != only:
                raise InputError(
                    f"{name} is {value!r}, but must be {only!r}, as in Stable Diffusion v1; give a "
                    "folder of version 1."
                )


def _check_fit(pipeline: StableDiffusion) -> None:
    unet, text_encoder, tokenizer = pipeline.unet, pipeline.text_encoder, pipeline.tokenizer
    if not isinstance(tokenizer, ClipTokenizer):
        raise InputError(
            f"the tokenizer is a {type(tokenizer).__name__}, but must be a ClipTokenizer in the "
            "layout of Stable Diffusion; save the other parts one by one."
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
                f"the parts do not fit each other: the U-Net has {what}; take all from one model."
            )
    if tokenizer.size > text_encoder.vocabulary or tokenizer.length > text_encoder.length:
        raise InputError(
            f"the parts do not fit each other: the tokenizer has {tokenizer.size} ids and prompts "
            f"of {tokenizer.length}, the text encoder {text_encoder.vocabulary} and "
            f"{text_encoder.length}; take all from one model."
        )
