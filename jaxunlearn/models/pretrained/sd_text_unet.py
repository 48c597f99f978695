"""The U-Net of Stable Diffusion v1, in diffusers' layout (`UNet2DConditionModel`).

A folder holds `config.json` and `diffusion_pytorch_model.safetensors`. The layout has many later
options, for other networks of the same class; here they may only have the value that leaves the
network as it was in version 1.

Source of the layout: the public tensor names and shapes of Stable Diffusion v1's `unet` folder.
"""

import functools
import os
from collections.abc import Sequence
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
from jaxunlearn.models.pretrained.tensors import Tensor, read, weights_of, write
from jaxunlearn.models.pretrained.unet_layout import block_types, unet_tensor
from jaxunlearn.models.text_unet import TextUNet

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_SAMPLE_SIZE = 64  # side of the latents that diffusers draws if not told otherwise
_FIELDS = {
    "in_channels": "channels",
    "block_out_channels": "widths",
    "layers_per_block": "blocks",
    "attention_head_dim": "heads",  # the number of heads, whatever its name says
    "cross_attention_dim": "context_width",
    "norm_num_groups": "groups",
}
_DOWN = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
_UP = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
_MIDDLE = "UNetMidBlock2DCrossAttn"
_OFF = (
    "addition_embed_type",
    "addition_time_embed_dim",
    "class_embed_type",
    "cross_attention_norm",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "num_attention_heads",
    "num_class_embeds",
    "projection_class_embeddings_input_dim",
    "reverse_transformer_layers_per_block",
    "time_cond_proj_dim",
    "time_embedding_act_fn",
    "time_embedding_dim",
    "timestep_post_act",
)
_OPTIONS = Options(
    needed=(
        "in_channels",
        "out_channels",
        "block_out_channels",
        "layers_per_block",
        "attention_head_dim",
        "cross_attention_dim",
        "down_block_types",
        "up_block_types",
    ),
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
        **{name: [None] for name in _OFF},
    },
    free=("sample_size", "upcast_attention", "addition_embed_type_num_heads"),
)
_TRANSFORMER = {
    "norm": Tensor("norm"),
    "in": Tensor("proj_in", "conv"),
    "out": Tensor("proj_out", "conv"),
    "block/up": Tensor("transformer_blocks.0.ff.net.0.proj", "linear"),
    "block/down": Tensor("transformer_blocks.0.ff.net.2", "linear"),
    **{f"block/norm{i}": Tensor(f"transformer_blocks.0.norm{i}") for i in (1, 2, 3)},
    **{
        f"block/{ours}/{matrix}": Tensor(f"transformer_blocks.0.{stored}.{name}", "linear")
        for ours, stored in (("self_attention", "attn1"), ("cross_attention", "attn2"))
        for matrix, name in (
            ("query", "to_q"),
            ("key", "to_k"),
            ("value", "to_v"),
            ("out", "to_out.0"),
        )
    },
}
_OUTER = {
    "in": Tensor("conv_in", "conv"),
    "condition/time1": Tensor("time_embedding.linear_1", "linear"),
    "condition/time2": Tensor("time_embedding.linear_2", "linear"),
    "norm": Tensor("conv_norm_out"),
    "out": Tensor("conv_out", "conv"),
}


def load_text_unet(folder: str | os.PathLike[str]) -> tuple[TextUNet, Any]:
    """Reads the U-Net of Stable Diffusion v1, or one of another size.

    Args:
        folder: the `unet` folder of a pipeline.

    Returns:
        `(module, params)`, float32; `module.clone(dtype="bfloat16", remat=True)` computes in
        another type, with less memory.

    Raises:
        InputError: a file is missing or damaged, or describes another network.
    """
    folder = Path(folder)
    options = read_options(folder, _OPTIONS)
    kinds = options["down_block_types"]
    kinds = kinds if isinstance(kinds, tuple) else ()
    levels = tuple(i for i, kind in enumerate(kinds, start=1) if kind == _DOWN[True])
    fields = {field: options[name] for name, field in _FIELDS.items()}
    with described_by(folder):
        module = TextUNet(attention_levels=levels, **fields)
    check_derived(folder, options, _derived(module), "give a model of Stable Diffusion v1's kind.")
    inputs = (
        jax.ShapeDtypeStruct((1, 8, 8, module.channels), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
        jax.ShapeDtypeStruct((1, 1, module.context_width), jnp.float32),
    )
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    named = functools.partial(naming, levels=len(module.widths))
    return module, read(weights_of(folder, _WEIGHTS, sharded_first=True), shapes, named)


def save_text_unet(
    folder: str | os.PathLike[str], module: TextUNet, params: Any, *, like: Like = None
) -> None:
    """Writes `config.json` and the weights, so that `load_text_unet` gives the same.

    Args:
        folder: where to; it is made.
        module: the U-Net; `dtype` and `remat` are not kept.
        params: its parameters.
        like: the folder that the model was read from; options of its `config.json` that change
            nothing here are kept. Without it, those of a `config.json` already in `folder` are.

    Raises:
        InputError: `like` holds no such model, or a file cannot be written.
    """
    folder = Path(folder)
    sizes = {name: getattr(module, field) for name, field in _FIELDS.items()}
    fixed = {"_class_name": "UNet2DConditionModel", "act_fn": "silu"}
    config = fixed | sizes | _derived(module)
    write_config(folder, like, _OPTIONS, config, otherwise={"sample_size": _SAMPLE_SIZE})
    write(folder / _WEIGHTS, params, functools.partial(naming, levels=len(module.widths)))


def naming(path: Sequence[str], levels: int) -> Tensor:
    """The stored tensor of a parameter.

    Args:
        path: of the parameter.
        levels: number of levels; the layout counts those of the way up from the smallest image.

    Returns:
        Its name and kind.

    Example:
        >>> naming(("up4_block1", "condition", "bias"), levels=4)
        Tensor(name='up_blocks.0.resnets.0.time_emb_proj.bias', kind='plain')
    """
    return unet_tensor(path, levels, _OUTER, _TRANSFORMER)


def _derived(module: TextUNet) -> dict[str, Any]:
    """Options that follow from the fields."""
    return {"out_channels": module.channels, **block_types(module, _DOWN, _UP)}
