"""U-Nets over pixels, in diffusers' layout (`UNet2DModel`).

A folder holds `config.json` and `diffusion_pytorch_model.safetensors`. Public unconditional models
(of the DDPM paper, on CIFAR-10) become modules that ignore labels. The layout leaves open whether
the last row of a class embedding means no class: `save_unet2d` writes it as `_null_class`, which
diffusers ignores, and for other files it is an argument.

Older names of attention matrices, from before 2023, are read too.

Source of the layout: the public tensor names and shapes of `google/ddpm-cifar10-32`, and of the
files that diffusers itself writes.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.models.ddpm_unet import DDPMUNet
from jaxunlearn.models.pretrained.config_json import (
    CONFIG,
    Like,
    Options,
    check_derived,
    described_by,
    read_options,
    write_config,
)
from jaxunlearn.models.pretrained.diffusers_names import (
    ATTENTION,
    OLD_ATTENTION,
    attention_levels,
    block_types,
    unet_names,
)
from jaxunlearn.models.pretrained.names import naming
from jaxunlearn.models.pretrained.tensors import read, stored_shapes, weights_of, write
from jaxunlearn.types import InputError

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_FIELDS = {
    "attention_head_dim": "head_width",
    "block_out_channels": "widths",
    "dropout": "dropout",
    "flip_sin_to_cos": "cosine_first",
    "freq_shift": "frequency_shift",
    "layers_per_block": "blocks",
    "norm_eps": "epsilon",
    "norm_num_groups": "groups",
}
_NULL_CLASS = "_null_class"
_PADDING = {"asymmetric": 0, "symmetric": 1}
_DOWN = {True: "AttnDownBlock2D", False: "DownBlock2D"}
_UP = {True: "AttnUpBlock2D", False: "UpBlock2D"}
_OPTIONS = Options(
    needed="block_out_channels down_block_types in_channels out_channels sample_size "
    "up_block_types".split(),
    optional={
        "attention_head_dim": 8,
        "downsample_padding": 1,
        "dropout": 0.0,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "layers_per_block": 2,
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "num_class_embeds": None,
        "time_embedding_dim": None,
        _NULL_CLASS: None,
    },
    fixed={
        "_class_name": ["UNet2DModel"],
        "act_fn": ["silu"],
        "add_attention": [True],
        "attn_norm_num_groups": [None],
        "center_input_sample": [False],
        "class_embed_type": [None],
        "downsample_type": ["conv"],
        "mid_block_scale_factor": [1],
        "mid_block_type": ["UNetMidBlock2D"],
        "resnet_time_scale_shift": ["default"],
        "time_embedding_type": ["positional"],
        "upsample_type": ["conv"],
    },
    free=("num_train_timesteps",),  # of learned embeddings only
)
_OUTER = {
    "stem": "conv_in",
    "condition/time1": "time_embedding.linear_1",
    "condition/time2": "time_embedding.linear_2",
    "condition/classes": "class_embedding",
    "norm": "conv_norm_out",
    "out": "conv_out",
}
NAMES = unet_names(_OUTER, ATTENTION)
_OLD_NAMES = unet_names(_OUTER, OLD_ATTENTION)


def load_unet2d(
    folder: str | os.PathLike[str], *, null_class: bool | None = None
) -> tuple[DDPMUNet, Any]:
    """Reads a U-Net over pixels.

    Args:
        folder: folder of `config.json` and the weights, the `unet` folder of a pipeline.
        null_class: whether the last row of the class embedding means no class, as in a model that
            was trained with dropped labels; needed if the file leaves it open.

    Returns:
        `(module, params)`, float32; `module.clone(dtype="bfloat16", remat=True)` computes in
        another type, with less memory.

    Raises:
        InputError: a file is missing or damaged, or describes another network.
    """
    folder = Path(folder)
    options = read_options(folder, _OPTIONS)
    module = _module(folder, options, null_class)
    derived = _derived(module)
    if options["time_embedding_dim"] is None:
        del derived["time_embedding_dim"]
    check_derived(folder, options, derived, "give a U-Net of the DDPM paper's kind.")
    images = jax.ShapeDtypeStruct((1, *module.image_shape), jnp.float32)
    one = jax.ShapeDtypeStruct((1,), jnp.int32)  # a timestep, and a label
    shapes = jax.eval_shape(module.init, jax.random.key(0), images, one, one)["params"]
    weights = weights_of(folder, _WEIGHTS, sharded_first=True)
    old = "mid_block.attentions.0.proj_attn.weight" in stored_shapes(weights)
    names = naming(_OLD_NAMES if old else NAMES, levels=len(module.widths))
    return module, read(weights, shapes, names)


def save_unet2d(
    folder: str | os.PathLike[str], module: DDPMUNet, params: Any, *, like: Like = None
) -> None:
    """Writes `config.json` and the weights, for `load_unet2d`.

    Args:
        folder: folder to write to; it is created.
        module: U-Net; `dtype` and `remat` are not stored.
        params: parameters of the U-Net.
        like: folder that the model was read from, whose options without effect are kept; by default
            `folder`.

    Raises:
        InputError: `like` holds no such model, or a file cannot be written.
    """
    folder = Path(folder)
    height, width, channels = module.image_shape
    config = {
        "_class_name": "UNet2DModel",
        "act_fn": "silu",
        "downsample_padding": _PADDING[module.downsampling],
        "in_channels": channels,
        "num_class_embeds": None,
        "sample_size": height if height == width else [height, width],
    }
    if module.num_classes is not None:
        config["num_class_embeds"] = module.num_classes + module.null_class
        config[_NULL_CLASS] = module.null_class
    config |= {name: getattr(module, field) for name, field in _FIELDS.items()}
    write_config(folder, like, _OPTIONS, config | _derived(module))
    write(folder / _WEIGHTS, params, naming(NAMES, levels=len(module.widths)))


def _module(folder: Path, options: Mapping[str, Any], null_class: bool | None) -> DDPMUNet:
    size, rows, channels = (options[n] for n in ("sample_size", "num_class_embeds", "in_channels"))
    padding = options["downsample_padding"]
    if null_class is None:
        null_class = options[_NULL_CLASS]
    if rows is None:
        null_class = True
    elif null_class is None:
        raise InputError(
            f"{folder / CONFIG} has a class embedding of {rows} rows, whose last one may mean no "
            "class; give null_class=True if the model was trained with dropped labels, or "
            "null_class=False if every row is a class."
        )
    sides = size if isinstance(size, tuple) else (size, size)
    with described_by(folder):
        return DDPMUNet(
            num_classes=rows - null_class if isinstance(rows, int) else rows,
            null_class=null_class,
            image_shape=(*sides, channels),
            attention_levels=attention_levels(options["down_block_types"], _DOWN[True]),
            downsampling=next((name for name, p in _PADDING.items() if p == padding), padding),
            learn_variance=options["out_channels"] != channels,
            **{field: options[name] for name, field in _FIELDS.items()},
        )


def _derived(module: DDPMUNet) -> dict[str, Any]:
    """Options that follow from the fields."""
    return {
        **block_types(module, _DOWN, _UP),
        "out_channels": module.image_shape[-1] * (2 if module.learn_variance else 1),
        "time_embedding_dim": 4 * module.widths[0],
    }
