"""Vision transformers in the layouts of timm, torchvision and transformers.

The class token classifies. Heads are 64 channels wide up to a width of 1024, unless `config.json`
gives their number. The positions fix the size of the images: square, with
`patch_size * sqrt(tokens - 1)` pixels a side.

Source of the layouts: the public tensor names and shapes of timm's `vit_*_patch*`, torchvision's
`vit_b_16` and transformers' `ViTForImageClassification`.
"""

import math
from typing import Any

from jaxunlearn.models.pretrained.classifier_layout import Layout, Size, Source, allowed
from jaxunlearn.models.pretrained.names import Stored, naming
from jaxunlearn.models.pretrained.timm_config import timm_config
from jaxunlearn.models.pretrained.transformers_config import transformers_config
from jaxunlearn.models.vit import ViT
from jaxunlearn.types import InputError

_ARCHITECTURES = r"(vit|deit)_(tiny|small|base|large|huge)_patch\d+_\d+", "vit_base_patch16_224"
_Table = dict[str, Stored]
_TIMM: _Table = {
    "patches": "patch_embed.proj",
    "cls": "cls_token",
    "position": "pos_embed",
    "norm": "norm",
    "head/linear": "head",
    "block#/norm1": "blocks.#.norm1",
    "block#/attention/qkv": "blocks.#.attn.qkv",
    "block#/attention/out": "blocks.#.attn.proj",
    "block#/norm2": "blocks.#.norm2",
    "block#/feed_forward/up": "blocks.#.mlp.fc1",
    "block#/feed_forward/down": "blocks.#.mlp.fc2",
}
_LAYER = "encoder.layers.encoder_layer_#"
_TORCHVISION: _Table = {
    "patches": "conv_proj",
    "cls": "class_token",
    "position": "encoder.pos_embedding",
    "norm": "encoder.ln",
    "head/linear": "heads.head",
    "block#/norm1": f"{_LAYER}.ln_1",
    "block#/attention/qkv/kernel": f"{_LAYER}.self_attention.in_proj_weight",
    "block#/attention/qkv/bias": f"{_LAYER}.self_attention.in_proj_bias",
    "block#/attention/out": f"{_LAYER}.self_attention.out_proj",
    "block#/norm2": f"{_LAYER}.ln_2",
    "block#/feed_forward/up": f"{_LAYER}.mlp.0",
    "block#/feed_forward/down": f"{_LAYER}.mlp.3",
}
_LAYER = "encoder.layer.#"
_ATTENTION = f"{_LAYER}.attention.attention"
_TRANSFORMERS: _Table = {
    "patches": "embeddings.patch_embeddings.projection",
    "cls": "embeddings.cls_token",
    "position": "embeddings.position_embeddings",
    "norm": "layernorm",
    "block#/norm1": f"{_LAYER}.layernorm_before",
    "block#/attention/qkv": tuple(f"{_ATTENTION}.{each}" for each in ("query", "key", "value")),
    "block#/attention/out": f"{_LAYER}.attention.output.dense",
    "block#/norm2": f"{_LAYER}.layernorm_after",
    "block#/feed_forward/up": f"{_LAYER}.intermediate.dense",
    "block#/feed_forward/down": f"{_LAYER}.output.dense",
}
_WITH_PREFIX: _Table = {
    ours: f"vit.{stored}" if isinstance(stored, str) else tuple(f"vit.{s}" for s in stored)
    for ours, stored in _TRANSFORMERS.items()
}
_WITH_PREFIX["head/linear"] = "classifier"


def _fields(source: Source, table: _Table, heads: str, epsilon: float) -> tuple[Any, Size]:
    name = naming(table)
    width, channels, patch_size, _ = source.shape(name(("patches", "kernel")), 4)
    tokens = source.shape(name(("position",)), 3)[1]
    cells = math.isqrt(tokens - 1)
    if cells**2 != tokens - 1 or not cells:
        raise InputError(
            f"the positions in {source.path} are {tokens}, but must be one for the class token and "
            "a square number for the patches; give the file of such a network."
        )
    up = source.shape(name(("block1", "feed_forward", "up", "kernel")), 2)
    return {
        "patch_size": patch_size,
        "width": width,
        "depth": source.number_of(name, "block{}", "norm1", "scale"),
        "heads": source.heads(width, heads),
        "mlp_ratio": up[0] / width,
        "epsilon": source.config.get("layer_norm_eps", epsilon),
    }, Size(cells * patch_size, channels)


def _size(module: ViT, params: Any) -> Size:
    cells = math.isqrt(params["position"].shape[1] - 1)
    if module.pooling != "cls" or cells**2 != params["position"].shape[1] - 1:
        raise InputError(
            f"the ViT has pooling {module.pooling!r} and {params['position'].shape[1]} positions, "
            "but must have pooling 'cls' and square images in the published layout."
        )
    return Size(cells * module.patch_size, params["patches"]["kernel"].shape[2])


def _timm_options(module: ViT, size: Size) -> dict[str, Any]:
    return {
        "num_classes": module.num_classes,
        "num_features": module.width,
        "global_pool": "token",
        "img_size": [size.side, size.side],
        "patch_size": module.patch_size,
        "embed_dim": module.width,
        "depth": module.depth,
        "num_heads": module.heads,
        "mlp_ratio": module.mlp_ratio,
        "in_chans": size.channels,
    }


def _transformers_options(module: ViT, size: Size) -> dict[str, Any]:
    return {
        "hidden_size": module.width,
        "image_size": size.side,
        "intermediate_size": round(module.width * module.mlp_ratio),
        "layer_norm_eps": module.epsilon,
        "num_attention_heads": module.heads,
        "num_channels": size.channels,
        "num_hidden_layers": module.depth,
        "patch_size": module.patch_size,
    }


def _layout(library: str, sign: str, table: _Table, head: str, heads: str, eps: float) -> Layout:
    def check(module: ViT) -> None:
        allowed(module, **({} if library == "transformers" else {"epsilon": (eps,)}))

    return Layout(
        library,
        ViT,
        sign,
        lambda source: _fields(source, table, heads, eps),
        lambda module: table,
        head,
        _size,
        check,
        stored=lambda module: {"heads": str(module.heads)},
    )


_HUGGING = _layout(
    "transformers",
    r"vit\.embeddings\.patch_embeddings\.projection\.weight",
    _WITH_PREFIX,
    "classifier",
    "num_attention_heads",
    1e-12,
)._replace(
    ignored=(r"(vit\.)?pooler\.dense\.(weight|bias)",),  # which no classifier uses
    config=transformers_config(
        "vit",
        "ViTForImageClassification",
        _transformers_options,
        {
            "hidden_act": ["gelu"],
            "qkv_bias": [True],
            "hidden_dropout_prob": [0.0],
            "attention_probs_dropout_prob": [0.0],
        },
        "encoder_stride pooler_act pooler_output_size",
    ),
)
LAYOUTS = (
    _layout("timm", r"blocks\.0\.norm1\.weight", _TIMM, "head", "num_heads", 1e-6)._replace(
        config=timm_config(lambda module: _ARCHITECTURES, _timm_options)
    ),
    _layout("torchvision", r"conv_proj\.weight", _TORCHVISION, "heads.head", "num_heads", 1e-6),
    _HUGGING,
    _HUGGING._replace(  # without a head
        sign=r"embeddings\.patch_embeddings\.projection\.weight",
        fields=lambda source: _fields(source, _TRANSFORMERS, "num_attention_heads", 1e-12),
        names=lambda module: _TRANSFORMERS,
    ),
)
