"""The U-Net of Stable Diffusion v1, in diffusers' layout (`UNet2DConditionModel`).

A folder holds `config.json` and `diffusion_pytorch_model.safetensors`. The layout has many later
options, for other networks of the same class; only their values in version 1 are supported.

Source of the layout: the public tensor names and shapes of Stable Diffusion v1's `unet` folder.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.models.pretrained.config_json import (
    Like,
    Options,
    check_derived,
    described_by,
    read_options,
    write_config,
)
from jaxunlearn.models.pretrained.diffusers_names import attention_levels, block_types, unet_names
from jaxunlearn.models.pretrained.names import naming, nested
from jaxunlearn.models.pretrained.tensors import read, weights_of, write
from jaxunlearn.models.text_unet import TextUNet

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_SAMPLE_SIZE = 64  # default side of the latents in diffusers
_FIELDS = {
    "in_channels": "channels",
    "block_out_channels": "widths",
    "layers_per_block": "blocks",
    "attention_head_dim": "heads",  # the number of heads, despite its name
    "cross_attention_dim": "context_width",
    "norm_num_groups": "groups",
}
_DOWN = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
_UP = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
_MIDDLE = "UNetMidBlock2DCrossAttn"
_OFF = (
    "addition_embed_type addition_time_embed_dim class_embed_type cross_attention_norm "
    "encoder_hid_dim encoder_hid_dim_type num_attention_heads num_class_embeds "
    "projection_class_embeddings_input_dim reverse_transformer_layers_per_block "
    "time_cond_proj_dim time_embedding_act_fn time_embedding_dim timestep_post_act"
)
_OPTIONS = Options(
    needed="in_channels out_channels block_out_channels layers_per_block attention_head_dim "
    "cross_attention_dim down_block_types up_block_types".split(),
    optional={"norm_num_groups": 32},
    fixed={
        "_class_name": ["UNet2DConditionModel"],
        "act_fn": ["silu"],
        "attention_type": ["default"],
        "center_input_sample": [False],
        "class_embeddings_concat": [False],
        "conv_in_kernel": [3],
        "conv_out_kernel": [3],
        "downsample_padding": [1],
        "dropout": [0.0],
        "dual_cross_attention": [False],
        "flip_sin_to_cos": [True],
        "freq_shift": [0],
        "mid_block_only_cross_attention": [None, False],
        "mid_block_scale_factor": [1],
        "mid_block_type": [_MIDDLE],
        "norm_eps": [1e-5],
        "only_cross_attention": [False],
        "resnet_out_scale_factor": [1.0],
        "resnet_skip_time_act": [False],
        "resnet_time_scale_shift": ["default"],
        "time_embedding_type": ["positional"],
        "transformer_layers_per_block": [1],
        "use_linear_projection": [False],
        **{name: [None] for name in _OFF.split()},
    },
    free=("sample_size", "upcast_attention", "addition_embed_type_num_heads"),
)
_MATRICES = {"query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "norm3": "norm3",
    "up": "ff.net.0.proj",
    "down": "ff.net.2",
    **nested({"self_attention": "attn1", "cross_attention": "attn2"}, _MATRICES),
}
TRANSFORMER = {
    "norm": "norm",
    "in": "proj_in",
    "out": "proj_out",
    **nested({"block": "transformer_blocks.0"}, _BLOCK),
}
_OUTER = {
    "in": "conv_in",
    "condition/time1": "time_embedding.linear_1",
    "condition/time2": "time_embedding.linear_2",
    "norm": "conv_norm_out",
    "out": "conv_out",
}
NAMES = unet_names(_OUTER, TRANSFORMER)


def load_text_unet(folder: str | os.PathLike[str]) -> tuple[TextUNet, Any]:
    """Reads the U-Net of Stable Diffusion v1, or one of another size, from its folder.

    Returns:
        `(module, params)`, float32; `module.clone(dtype="bfloat16", remat=True)` computes in
        another type, with less memory.

    Raises:
        InputError: a file is missing or damaged, or describes another network.
    """
    folder = Path(folder)
    options = read_options(folder, _OPTIONS)
    levels = attention_levels(options["down_block_types"], _DOWN[True])
    fields = {field: options[name] for name, field in _FIELDS.items()}
    with described_by(folder):
        module = TextUNet(attention_levels=levels, **fields)
    check_derived(folder, options, _derived(module), "give a model of Stable Diffusion v1's kind.")
    latents = jax.ShapeDtypeStruct((1, 8, 8, module.channels), jnp.float32)
    timesteps = jax.ShapeDtypeStruct((1,), jnp.int32)
    context = jax.ShapeDtypeStruct((1, 1, module.context_width), jnp.float32)
    inputs = (latents, timesteps, context)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    names = naming(NAMES, levels=len(module.widths))
    return module, read(weights_of(folder, _WEIGHTS, sharded_first=True), shapes, names)


def save_text_unet(
    folder: str | os.PathLike[str], module: TextUNet, params: Any, *, like: Like = None
) -> None:
    """Writes `config.json` and the weights, for `load_text_unet`.

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
    sizes = {name: getattr(module, field) for name, field in _FIELDS.items()}
    fixed = {"_class_name": "UNet2DConditionModel", "act_fn": "silu"}
    config = fixed | sizes | _derived(module)
    write_config(folder, like, _OPTIONS, config, otherwise={"sample_size": _SAMPLE_SIZE})
    write(folder / _WEIGHTS, params, naming(NAMES, levels=len(module.widths)))


def _derived(module: TextUNet) -> dict[str, Any]:
    """Options that follow from the fields."""
    return {"out_channels": module.channels, **block_types(module, _DOWN, _UP)}
