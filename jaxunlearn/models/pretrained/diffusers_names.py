"""Names that diffusers' networks share: residual blocks, attention, the levels of U-Nets."""

from collections.abc import Mapping
from typing import Any

from jaxunlearn.models.pretrained.names import nested

RESIDUAL = {
    "norm1": "norm1",
    "conv1": "conv1",
    "condition": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "shortcut": "conv_shortcut",
}
ATTENTION = {
    "norm": "group_norm",
    "attention/query": "to_q",
    "attention/key": "to_k",
    "attention/value": "to_v",
    "attention/out": "to_out.0",
}
OLD_ATTENTION = {  # in files from before diffusers 0.15
    "norm": "group_norm",
    "attention/query": "query",
    "attention/key": "key",
    "attention/value": "value",
    "attention/out": "proj_attn",
}


def unet_names(outer: Mapping[str, str], attention: Mapping[str, str]) -> dict[str, str]:
    """The key mappings of a U-Net, which counts levels on the way up from the smallest image.

    `outer` names the layers outside the blocks, `attention` the layers of attention blocks.
    """
    residual_blocks = {
        "down#_block#": "down_blocks.#.resnets.#",
        "middle_block#": "mid_block.resnets.#",
        "up#_block#": "up_blocks.~.resnets.#",
    }
    attention_blocks = {
        "down#_attention#": "down_blocks.#.attentions.#",
        "middle_attention": "mid_block.attentions.0",
        "up#_attention#": "up_blocks.~.attentions.#",
    }
    return {
        **outer,
        "down#_conv": "down_blocks.#.downsamplers.0.conv",
        "up#_conv": "up_blocks.~.upsamplers.0.conv",
        **nested(residual_blocks, RESIDUAL),
        **nested(attention_blocks, attention),
    }


def attention_levels(down_block_types: Any, attends: str) -> tuple[int, ...]:
    """The levels, counted from 1, whose kind of blocks on the way down is `attends`."""
    kinds = down_block_types if isinstance(down_block_types, tuple) else ()
    return tuple(level for level, kind in enumerate(kinds, start=1) if kind == attends)


def block_types(
    module: Any, down: Mapping[bool, str], up: Mapping[bool, str]
) -> dict[str, tuple[str, ...]]:
    """The options "down_block_types" and "up_block_types" of a U-Net.

    `down` and `up` name the kinds of blocks on each way, with attention and without.
    """
    attends = [level in module.attention_levels for level in range(1, len(module.widths) + 1)]
    return {
        "down_block_types": tuple(down[a] for a in attends),
        "up_block_types": tuple(up[a] for a in attends[::-1]),
    }
