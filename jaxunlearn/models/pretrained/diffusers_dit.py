"""Diffusion transformers with adaLN-zero, in diffusers' layout (`DiTPipeline`).

The folder of a pipeline holds `transformer/config.json` and
`transformer/diffusion_pytorch_model.safetensors`; its other folders (the autoencoder of the
latents, the scheduler) are not touched here. Two ways of the layout are not the paper's:

- The network that embeds timestep and class is stored once for every block. In models of the paper
  these copies are equal, as they stem from one network; here it is one again, and copies that
  differ are an error.
- It embeds timesteps with `frequency_shift` 1, though the paper's weights were trained with 0. A
  module that is read gets what the layout computes: `module.clone(frequency_shift=0)` is what was
  trained.

Source of the layout: the public tensor names and shapes of `facebook/DiT-XL-2-256`, and those of
the files that diffusers itself writes.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxunlearn.models.dit import DiT
from jaxunlearn.models.pretrained.config_json import (
    CONFIG,
    Like,
    Options,
    described_by,
    read_options,
    stored_as,
    write_config,
)
from jaxunlearn.models.pretrained.tensors import Tensor, read, weights_of, write
from jaxunlearn.types import InputError

_PART = "transformer"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_SHIFT = 1  # what the layout computes with
_POSITIONS = r"pos_embed\.pos_embed"  # fixed, and stored only by some versions
_FIELDS = {
    "norm_eps": "epsilon",
    "num_attention_heads": "heads",
    "num_embeds_ada_norm": "num_classes",
    "num_layers": "depth",
    "patch_size": "patch_size",
}
_OFF = (
    "caption_channels",
    "cross_attention_dim",
    "interpolation_scale",
    "num_vector_embeds",
    "use_additional_conditions",
)
_OPTIONS = Options(
    needed=(
        "attention_head_dim",
        "in_channels",
        "num_attention_heads",
        "num_embeds_ada_norm",
        "num_layers",
        "patch_size",
        "sample_size",
    ),
    optional={"norm_eps": 1e-5, "out_channels": None},
    fixed={
        "_class_name": ["DiTTransformer2DModel", "Transformer2DModel"],
        "activation_fn": ["gelu-approximate"],
        "attention_bias": [True],
        "attention_type": ["default"],
        "double_self_attention": [False],
        "dropout": [0.0],
        "norm_elementwise_affine": [False],
        "norm_type": ["ada_norm_zero"],
        "only_cross_attention": [False],
        "upcast_attention": [False],
        "use_linear_projection": [False],
        **{name: [None] for name in _OFF},
    },
    free=("norm_num_groups",),  # of norms that this kind does not have
)
_BLOCK = {
    "condition/time1": Tensor("norm1.emb.timestep_embedder.linear_1", "linear"),
    "condition/time2": Tensor("norm1.emb.timestep_embedder.linear_2", "linear"),
    "condition/classes": Tensor("norm1.emb.class_embedder.embedding_table"),
    "modulation": Tensor("norm1.linear", "linear"),
    "attention/query": Tensor("attn1.to_q", "linear"),
    "attention/key": Tensor("attn1.to_k", "linear"),
    "attention/value": Tensor("attn1.to_v", "linear"),
    "attention/out": Tensor("attn1.to_out.0", "linear"),
    "up": Tensor("ff.net.0.proj", "linear"),
    "down": Tensor("ff.net.2", "linear"),
}
_OUTER = {
    "patches": Tensor("pos_embed.proj", "conv"),
    "modulation": Tensor("proj_out_1", "linear"),
    "out": Tensor("proj_out_2", "linear"),
}


def load_dit(folder: str | os.PathLike[str]) -> tuple[DiT, Any]:
    """Reads a diffusion transformer.

    Args:
        folder: of the pipeline.

    Returns:
        `(module, params)`, float32; `module.clone(dtype="bfloat16", remat=True)` computes in
        another type, with less memory.

    Raises:
        InputError: a file is missing or damaged, or describes another network.
    """
    folder = Path(folder) / _PART
    module = _module(folder, read_options(folder, _OPTIONS))
    inputs = (
        jax.ShapeDtypeStruct((1, *module.image_shape), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    weights = weights_of(folder, _WEIGHTS, sharded_first=True)
    copied = read(weights, with_copies(shapes), naming, ignore=[_POSITIONS])
    return module, _without_copies(weights, copied)


def save_dit(
    folder: str | os.PathLike[str], module: DiT, params: Any, *, like: Like = None
) -> None:
    """Writes the transformer of a pipeline, so that `load_dit` gives the same.

    Args:
        folder: of the pipeline; it is made, and the pipeline's other parts are left alone.
        module: the transformer; `dtype` and `remat` are not kept.
        params: its parameters.
        like: the folder of the pipeline that the model was read from; options of its transformer
            that change nothing here are kept. Without it, those already in `folder` are.

    Raises:
        InputError: the layout has no place for such a module, or a file cannot be written.
    """
    folder = Path(folder) / _PART
    height, width, channels = module.image_shape
    if module.frequency_shift != _SHIFT:
        raise InputError(
            f"DiT.frequency_shift is {module.frequency_shift}, but those who read this layout "
            f"compute with {_SHIFT}; save module.clone(frequency_shift={_SHIFT}) if its small "
            "change of the timesteps' embedding is acceptable."
        )
    if height != width:
        raise InputError(
            f"DiT.image_shape is {module.image_shape}, but this layout holds only transformers "
            "over squares; save one whose height is its width."
        )
    config = {
        "_class_name": "DiTTransformer2DModel",
        "activation_fn": "gelu-approximate",
        "attention_head_dim": module.width // module.heads,
        "in_channels": channels,
        "norm_type": "ada_norm_zero",
        "out_channels": channels * (2 if module.learn_variance else 1),
        "sample_size": height,
    }
    config |= {name: getattr(module, field) for name, field in _FIELDS.items()}
    if not (like is None or isinstance(like, Mapping)):
        like = Path(like) / _PART
    write_config(folder, like, _OPTIONS, config)
    write(folder / _WEIGHTS, with_copies(params), naming)


def with_copies(params: Mapping[str, Any]) -> dict[str, Any]:
    """The tree as the layout has it: every block with the network that embeds the condition.

    Args:
        params: of a `DiT`, or their shapes.

    Returns:
        A tree without "condition", but with "condition" in every block.

    Example:
        >>> with_copies({"condition": 1, "block1": {"up": 2}, "out": 3})
        {'block1': {'up': 2, 'condition': 1}, 'out': 3}
    """
    return {
        name: {**part, "condition": params["condition"]} if _is_block(name) else part
        for name, part in params.items()
        if name != "condition"
    }


def naming(path: Sequence[str]) -> Tensor:
    """The stored tensor of a parameter in a tree with copies.

    Args:
        path: of the parameter.

    Returns:
        Its name and kind.

    Example:
        >>> naming(("block1", "up", "kernel"))
        Tensor(name='transformer_blocks.0.ff.net.0.proj.weight', kind='linear')
    """
    block, *rest = path
    if _is_block(block):
        return stored_as(f"transformer_blocks.{int(block[5:]) - 1}.", _BLOCK, rest)
    return stored_as("", _OUTER, path)


def _is_block(name: str) -> bool:
    return re.fullmatch(r"block\d+", name) is not None


def _without_copies(weights: Path, tree: Mapping[str, Any]) -> dict[str, Any]:
    first = flatten_dict(tree["block1"]["condition"])
    params: dict[str, Any] = {"condition": tree["block1"]["condition"]}
    for name, part in tree.items():
        params[name] = part
        if not _is_block(name):
            continue
        params[name] = {layer: leaves for layer, leaves in part.items() if layer != "condition"}
        for path, leaf in flatten_dict(part["condition"]).items():
            if not np.array_equal(leaf, first[path]):
                one, other = (naming((b, "condition", *path)).name for b in ("block1", name))
                raise InputError(
                    f"the tensors {one!r} and {other!r} in {weights} differ, but all blocks of a "
                    "diffusion transformer share one embedding of the condition; give a model of "
                    "the paper's kind."
                )
    return params


def _module(folder: Path, options: Mapping[str, Any]) -> DiT:
    size, channels = options["sample_size"], options["in_channels"]
    heads, width = options["num_attention_heads"], options["attention_head_dim"]
    if isinstance(heads, int) and isinstance(width, int):
        width = heads * width
    out = channels if options["out_channels"] is None else options["out_channels"]
    with described_by(folder):
        module = DiT(
            image_shape=(size, size, channels),
            width=width,
            learn_variance=out != channels,
            frequency_shift=_SHIFT,
            **{field: options[name] for name, field in _FIELDS.items()},
        )
    if out not in (channels, 2 * channels):
        raise InputError(
            f"{folder / CONFIG} says that 'out_channels' is {out!r}, but only {channels} or "
            f"{2 * channels} is supported here, as many as 'in_channels' or twice as many."
        )
    return module
