"""CLIP's text transformer, in transformers' layout (`CLIPTextModel`).

A folder holds `config.json` and `model.safetensors`. Published files put all tensors below
`text_model.`, which transformers 5 leaves out; both are read, and the published names are written.

Source of the layout: the public tensor names and shapes of Stable Diffusion v1's `text_encoder`
folder.
"""

import os
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.models.pretrained.config_json import (
    Like,
    Options,
    described_by,
    read_options,
    write_config,
)
from jaxunlearn.models.pretrained.names import naming, nested
from jaxunlearn.models.pretrained.tensors import read, stored_shapes, weights_of, write
from jaxunlearn.models.text_encoder import TextEncoder

_WEIGHTS = "model.safetensors"
PREFIX = "text_model."
_FIELDS = {
    "vocab_size": "vocabulary",
    "max_position_embeddings": "length",
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
    "hidden_act": "activation",
    "layer_norm_eps": "epsilon",
}
_OPTIONAL = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_OPTIONS = Options(
    needed=[name for name in _FIELDS if name not in _OPTIONAL],
    optional=_OPTIONAL,
    fixed={
        "model_type": ["clip_text_model"],
        "architectures": [["CLIPTextModel"], None],
        "attention_dropout": [0.0],
        "dropout": [0.0],
    },
    free="bos_token_id eos_token_id pad_token_id projection_dim initializer_factor "
    "initializer_range dtype torch_dtype output_attentions output_hidden_states return_dict "
    "use_return_dict use_cache transformers_version".split(),
)
_BLOCK = {
    "norm1": "layer_norm1",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
NAMES = {
    "tokens": "embeddings.token_embedding",
    "position": "embeddings.position_embedding.weight",
    "norm": "final_layer_norm",
    **nested({"block#": "encoder.layers.#"}, _BLOCK),
}


def load_text_encoder(folder: str | os.PathLike[str]) -> tuple[TextEncoder, Any]:
    """Reads the text encoder of Stable Diffusion v1, or one of another size, from its folder.

    Returns:
        `(module, params)`, float32; `module.clone(dtype="bfloat16")` computes in another type.

    Raises:
        InputError: a file is missing or damaged, or describes another network.
    """
    folder = Path(folder)
    options = read_options(folder, _OPTIONS)
    with described_by(folder):
        module = TextEncoder(**{field: options[name] for name, field in _FIELDS.items()})
    ids = jax.ShapeDtypeStruct((1, module.length), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), ids)["params"]
    weights = weights_of(folder, _WEIGHTS, sharded_first=False)
    below = any(name.startswith(PREFIX) for name in stored_shapes(weights))
    prefix = PREFIX if below else ""
    ignore = [re.escape(f"{prefix}embeddings.position_ids")]  # 0, 1, 2 ...
    return module, read(weights, shapes, naming(NAMES, prefix), ignore)


def save_text_encoder(
    folder: str | os.PathLike[str], module: TextEncoder, params: Any, *, like: Like = None
) -> None:
    """Writes `config.json` and the weights, for `load_text_encoder`.

    Args:
        folder: folder to write to; it is created.
        module: text encoder; `dtype` and `remat` are not stored.
        params: parameters of the text encoder.
        like: folder that the model was read from, whose options without effect are kept; by default
            `folder`.

    Raises:
        InputError: `like` holds no such model, or a file cannot be written.
    """
    folder = Path(folder)
    sizes = {name: getattr(module, field) for name, field in _FIELDS.items()}
    fixed = {"model_type": "clip_text_model", "architectures": ["CLIPTextModel"]}
    write_config(folder, like, _OPTIONS, fixed | sizes)
    write(folder / _WEIGHTS, params, naming(NAMES, PREFIX))
