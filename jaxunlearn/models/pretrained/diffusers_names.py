"""Names that several networks of diffusers share: residual blocks, attention, the levels of
U-Nets.
"""

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
    """The table of a U-Net, which counts levels on the way up from the smallest image.

    Args:
        outer: names of the layers outside of the blocks.
        attention: names of the layers of attention blocks.

    Returns:
        The table, for `jaxunlearn.models.pretrained.names.naming`.
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


def block_types(
    module: Any, down: Mapping[bool, str], up: Mapping[bool, str]
) -> dict[str, tuple[str, ...]]:
    """The options "down_block_types" and "up_block_types".

    Args:
        module: a U-Net with `widths` and `attention_levels`.
        down: names of the kinds of blocks on the way down, without and with attention.
        up: names of the kinds of blocks on the way up, likewise.
    """
    attends = [level in module.attention_levels for level in range(1, len(module.widths) + 1)]
    return {
        "down_block_types": tuple(down[a] for a in attends),
        "up_block_types": tuple(up[a] for a in attends[::-1]),
    }
