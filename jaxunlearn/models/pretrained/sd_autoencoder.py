"""The autoencoder of Stable Diffusion, in diffusers' layout (`AutoencoderKL`).

A folder holds `config.json` and `diffusion_pytorch_model.safetensors`. Older names of attention
matrices, from before diffusers 0.15, are read too.

Source of the layout: the public tensor names and shapes of Stable Diffusion v1's `vae` folder.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.pretrained.config_json import (
    Like,
    Options,
    check_derived,
    described_by,
    read_options,
    write_config,
)
from jaxunlearn.models.pretrained.diffusers_names import ATTENTION, OLD_ATTENTION, RESIDUAL
from jaxunlearn.models.pretrained.names import naming, nested
from jaxunlearn.models.pretrained.tensors import read, stored_shapes, weights_of, write

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_FIELDS = {
    "in_channels": "channels",
    "latent_channels": "latent_channels",
    "block_out_channels": "widths",
    "layers_per_block": "blocks",
    "norm_num_groups": "groups",
    "scaling_factor": "scaling_factor",
}
_DOWN, _UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
_OPTIONS = Options(
    needed="in_channels out_channels latent_channels block_out_channels layers_per_block "
    "down_block_types up_block_types".split(),
    optional={"norm_num_groups": 32, "scaling_factor": 0.18215},
    fixed={
        "act_fn": ["silu"],
        "shift_factor": [None],
        "latents_mean": [None],
        "latents_std": [None],
        "use_quant_conv": [True],
        "use_post_quant_conv": [True],
        "mid_block_add_attention": [True],
        "_class_name": ["AutoencoderKL"],
    },
    free=("sample_size", "force_upcast"),
)
_CODERS = {"encoder": "encoder", "decoder": "decoder"}
_CODER = {
    "in": "conv_in",
    "norm": "conv_norm_out",
    "out": "conv_out",
    **nested({"middle_block#": "mid_block.resnets.#"}, RESIDUAL),
}
_LEVELS = {
    "encoder/level#_block#": "encoder.down_blocks.#.resnets.#",
    "decoder/level#_block#": "decoder.up_blocks.#.resnets.#",
}


def _names(attention: Mapping[str, str]) -> dict[str, str]:
    middle = nested({"middle_attention": "mid_block.attentions.0"}, attention)
    return {
        "moments": "quant_conv",
        "latents": "post_quant_conv",
        "encoder/level#_conv": "encoder.down_blocks.#.downsamplers.0.conv",
        "decoder/level#_conv": "decoder.up_blocks.#.upsamplers.0.conv",
        **nested(_CODERS, _CODER | middle),
        **nested(_LEVELS, RESIDUAL),
    }


NAMES, _OLD_NAMES = _names(ATTENTION), _names(OLD_ATTENTION)


def load_autoencoder(folder: str | os.PathLike[str]) -> tuple[AutoencoderKL, Any]:
    """Reads the autoencoder of Stable Diffusion v1, or one of another size, from its folder.

    Returns:
        `(module, params)`, float32; `module.clone(dtype="bfloat16")` computes in another type.

    Raises:
        InputError: a file is missing or damaged, or describes another network.
    """
    folder = Path(folder)
    options = read_options(folder, _OPTIONS)
    with described_by(folder):
        module = AutoencoderKL(**{field: options[name] for name, field in _FIELDS.items()})
    check_derived(folder, options, _derived(module), "give a model of Stable Diffusion v1's kind.")
    images = jax.ShapeDtypeStruct((1, module.factor, module.factor, module.channels), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    weights = weights_of(folder, _WEIGHTS, sharded_first=True)
    old = any(".attentions.0.proj_attn." in name for name in stored_shapes(weights))
    return module, read(weights, shapes, naming(_OLD_NAMES if old else NAMES))


def save_autoencoder(
    folder: str | os.PathLike[str], module: AutoencoderKL, params: Any, *, like: Like = None
) -> None:
    """Writes `config.json` and the weights, for `load_autoencoder`.

    Args:
        folder: folder to write to; it is created.
        module: autoencoder; `dtype` and `remat` are not stored.
        params: parameters of the autoencoder.
        like: folder that the model was read from, whose options without effect are kept; by default
            `folder`.

    Raises:
        InputError: `like` holds no such model, or a file cannot be written.
    """
    folder = Path(folder)
    sizes = {name: getattr(module, field) for name, field in _FIELDS.items()}
    fixed = {"_class_name": "AutoencoderKL", "act_fn": "silu"}
    write_config(folder, like, _OPTIONS, fixed | sizes | _derived(module))
    write(folder / _WEIGHTS, params, naming(NAMES))


def _derived(module: AutoencoderKL) -> dict[str, Any]:
    """Options that follow from the fields."""
    levels = len(module.widths)
    return {
        "out_channels": module.channels,
        "down_block_types": (_DOWN,) * levels,
        "up_block_types": (_UP,) * levels,
    }
