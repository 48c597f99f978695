"""The autoencoder of Stable Diffusion, in diffusers' layout (`AutoencoderKL`).

A folder holds `config.json` and `diffusion_pytorch_model.safetensors`. Files from before diffusers
0.15 name the four matrices of an attention otherwise; both names are read, the new ones written.

Source of the layout: the public tensor names and shapes of Stable Diffusion v1's `vae` folder.
"""

import functools
import os
import re
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
    stored_as,
    write_config,
)
from jaxunlearn.models.pretrained.tensors import Tensor, read, stored_shapes, weights_of, write

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
    needed=(
        "in_channels",
        "out_channels",
        "latent_channels",
        "block_out_channels",
        "layers_per_block",
        "down_block_types",
        "up_block_types",
    ),
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
_OLD = {"query": "query", "key": "key", "value": "value", "out": "proj_attn"}
_NEW = {"query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
_RESIDUAL = {
    "norm1": Tensor("norm1"),
    "conv1": Tensor("conv1", "conv"),
    "norm2": Tensor("norm2"),
    "conv2": Tensor("conv2", "conv"),
    "shortcut": Tensor("conv_shortcut", "conv"),
}
_CODER = {
    "in": Tensor("conv_in", "conv"),
    "norm": Tensor("conv_norm_out"),
    "out": Tensor("conv_out", "conv"),
}
_OUTER = {"moments": Tensor("quant_conv", "conv"), "latents": Tensor("post_quant_conv", "conv")}


def load_autoencoder(folder: str | os.PathLike[str]) -> tuple[AutoencoderKL, Any]:
    """Reads the autoencoder of Stable Diffusion v1, or one of another size.

    Args:
        folder: the `vae` folder of a pipeline.

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
    return module, read(weights, shapes, functools.partial(naming, attention=_OLD if old else _NEW))


def save_autoencoder(
    folder: str | os.PathLike[str], module: AutoencoderKL, params: Any, *, like: Like = None
) -> None:
    """Writes `config.json` and the weights, so that `load_autoencoder` gives the same.

    Args:
        folder: where to; it is made.
        module: the autoencoder; `dtype` and `remat` are not kept.
        params: its parameters.
        like: the folder that the model was read from; options of its `config.json` that change
            nothing here are kept. Without it, those of a `config.json` already in `folder` are.

    Raises:
        InputError: `like` holds no such model, or a file cannot be written.
    """
    folder = Path(folder)
    sizes = {name: getattr(module, field) for name, field in _FIELDS.items()}
    fixed = {"_class_name": "AutoencoderKL", "act_fn": "silu"}
    write_config(folder, like, _OPTIONS, fixed | sizes | _derived(module))
    write(folder / _WEIGHTS, params, naming)


def naming(path: tuple[str, ...], attention: Mapping[str, str] = _NEW) -> Tensor:
    """The stored tensor of a parameter.

    Args:
        path: of the parameter.
        attention: stored names of an attention's four matrices.

    Returns:
        Its name and kind.

    Example:
        >>> naming(("decoder", "level1_block3", "conv1", "kernel"))
        Tensor(name='decoder.up_blocks.0.resnets.2.conv1.weight', kind='conv')
    """
    coder, block, *rest = path
    if coder in _OUTER:
        return stored_as("", _OUTER, path)
    if block in _CODER:
        return stored_as(f"{coder}.", _CODER, path[1:])
    if block == "middle_attention":
        layers = {f"attention/{ours}": Tensor(n, "linear") for ours, n in attention.items()}
        layers["norm"] = Tensor("group_norm")
        return stored_as(f"{coder}.mid_block.attentions.0.", layers, rest)
    if middle := re.fullmatch(r"middle_block(\d+)", block):
        return stored_as(f"{coder}.mid_block.resnets.{int(middle[1]) - 1}.", _RESIDUAL, rest)
    place = re.fullmatch(r"level(\d+)_(?:conv|block(\d+))", block)
    assert place, f"{path} is not a parameter of AutoencoderKL"
    way = "down" if coder == "encoder" else "up"
    level = f"{coder}.{way}_blocks.{int(place[1]) - 1}."
    if place[2] is None:
        return stored_as(level, {block: Tensor(f"{way}samplers.0.conv", "conv")}, path[1:])
    return stored_as(f"{level}resnets.{int(place[2]) - 1}.", _RESIDUAL, rest)


def _derived(module: AutoencoderKL) -> dict[str, Any]:
    """Options that follow from the fields."""
    levels = len(module.widths)
    return {
        "out_channels": module.channels,
        "down_block_types": (_DOWN,) * levels,
        "up_block_types": (_UP,) * levels,
    }
