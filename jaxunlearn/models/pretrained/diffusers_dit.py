"""Diffusion transformers with adaLN-zero, in diffusers' layout (`DiTPipeline`).

The folder of a pipeline holds `transformer/config.json` and
`transformer/diffusion_pytorch_model.safetensors`; its other folders (the autoencoder of the
latents, the scheduler) are not touched. The layout differs from the paper in two points:

- The network that embeds timestep and class is stored once for every block. In models of the paper
  these copies are equal; here they are one network, and copies that differ are an error.
- Timesteps are embedded with `frequency_shift` 1, though the paper's weights were trained with 0. A
  module that is read has 1, like diffusers; `module.clone(frequency_shift=0)` is the trained one.

Source of the layout: the public tensor names and shapes of `facebook/DiT-XL-2-256`, and of the
files that diffusers itself writes.
"""

import os
import re
from collections.abc import Mapping
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
    write_config,
)
from jaxunlearn.models.pretrained.names import naming, nested
from jaxunlearn.models.pretrained.tensors import read, weights_of, write
from jaxunlearn.types import InputError

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_SHIFT = 1  # frequency_shift of the layout
_POSITIONS = r"pos_embed\.pos_embed"  # fixed, and stored only by some versions
_FIELDS = {
    "norm_eps": "epsilon",
    "num_attention_heads": "heads",
    "num_embeds_ada_norm": "num_classes",
    "num_layers": "depth",
    "patch_size": "patch_size",
}
_OPTIONAL = {"norm_eps": 1e-5, "out_channels": None}
_OFF = "caption_channels cross_attention_dim interpolation_scale num_vector_embeds"
_OPTIONS = Options(
    needed=[
        *("attention_head_dim", "in_channels", "sample_size"),
        *(name for name in _FIELDS if name not in _OPTIONAL),
    ],
    optional=_OPTIONAL,
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
        "use_additional_conditions": [None],
        **{name: [None] for name in _OFF.split()},
    },
    free=("norm_num_groups",),  # of norms that these models do not have
)
_BLOCK = {
    "condition/time1": "norm1.emb.timestep_embedder.linear_1",
    "condition/time2": "norm1.emb.timestep_embedder.linear_2",
    "condition/classes": "norm1.emb.class_embedder.embedding_table",
    "modulation": "norm1.linear",
    "attention/query": "attn1.to_q",
    "attention/key": "attn1.to_k",
    "attention/value": "attn1.to_v",
    "attention/out": "attn1.to_out.0",
    "up": "ff.net.0.proj",
    "down": "ff.net.2",
}
_NAMES = {
    "patches": "pos_embed.proj",
    "modulation": "proj_out_1",
    "out": "proj_out_2",
    **nested({"block#": "transformer_blocks.#"}, _BLOCK),
}


def load_dit(folder: str | os.PathLike[str]) -> tuple[DiT, Any]:
    """Reads a diffusion transformer from the folder of a pipeline, or from its own.

    Returns:
        `(module, params)`, float32; `module.clone(dtype="bfloat16", remat=True)` computes in
        another type, with less memory.

    Raises:
        InputError: a file is missing or damaged, or describes another network.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        folder = folder / "transformer"
    module = _module(folder, read_options(folder, _OPTIONS))
    images = jax.ShapeDtypeStruct((1, *module.image_shape), jnp.float32)
    one = jax.ShapeDtypeStruct((1,), jnp.int32)  # a timestep, and a label
    shapes = jax.eval_shape(module.init, jax.random.key(0), images, one, one)["params"]
    weights = weights_of(folder, _WEIGHTS, sharded_first=True)
    copied = read(weights, with_copies(shapes), naming(_NAMES), ignore=[_POSITIONS])
    return module, _without_copies(weights, copied)


def save_dit(
    folder: str | os.PathLike[str], module: DiT, params: Any, *, like: Like = None
) -> None:
    """Writes the transformer of a pipeline, for `load_dit`.

    Args:
        folder: folder of the transformer; it is created.
        module: transformer; `dtype` and `remat` are not stored.
        params: parameters of the transformer.
        like: folder that the transformer was read from, whose options without effect are kept; by
            default `folder`.

    Raises:
        InputError: the layout does not support the module, or a file cannot be written.
    """
    folder = Path(folder)
    height, width, channels = module.image_shape
    if module.frequency_shift != _SHIFT:
        raise InputError(
            f"DiT.frequency_shift is {module.frequency_shift}, but must be {_SHIFT} in this "
            f"layout; save module.clone(frequency_shift={_SHIFT}) if its small change of the "
            "timesteps' embedding is acceptable."
        )
    if height != width:
        raise InputError(
            f"DiT.image_shape is {module.image_shape}, but must be square in this layout."
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
    write_config(folder, like, _OPTIONS, config)
    write(folder / _WEIGHTS, with_copies(params), naming(_NAMES))


def with_copies(params: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of the layout, with a copy of "condition" in every block.

    Example:
        >>> with_copies({"condition": 1, "block1": {"up": 2}, "out": 3})
        {'block1': {'up': 2, 'condition': 1}, 'out': 3}
    """
    return {
        name: {**part, "condition": params["condition"]} if _is_block(name) else part
        for name, part in params.items()
        if name != "condition"
    }


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
                one, other = (naming(_NAMES)((b, "condition", *path)) for b in ("block1", name))
                raise InputError(
                    f"the tensors {one!r} and {other!r} in {weights} differ, but must be equal, as "
                    "all blocks share one embedding of the condition; give a DiT as in the paper."
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
            f"'out_channels' in {folder / CONFIG} is {out!r}, but must be {channels} or "
            f"{2 * channels}, 'in_channels' or twice as many."
        )
    return module
