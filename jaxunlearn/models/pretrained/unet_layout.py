"""What the U-Nets of diffusers' layout have in common: the names of their blocks."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxunlearn.models.pretrained.config_json import stored_as
from jaxunlearn.models.pretrained.tensors import Tensor

_RESIDUAL = {
    "norm1": Tensor("norm1"),
    "conv1": Tensor("conv1", "conv"),
    "condition": Tensor("time_emb_proj", "linear"),
    "norm2": Tensor("norm2"),
    "conv2": Tensor("conv2", "conv"),
    "shortcut": Tensor("conv_shortcut", "conv"),
}


def unet_tensor(
    path: Sequence[str], levels: int, outer: Mapping[str, Tensor], attention: Mapping[str, Tensor]
) -> Tensor:
    """The stored tensor of a parameter.

    Args:
        path: of the parameter.
        levels: number of levels; the layout counts those of the way up from the smallest image.
        outer: the names of the layers outside of the blocks.
        attention: the names of the layers of attention blocks.

    Returns:
        Its name and kind.
    """
    block, *rest = path
    place = re.fullmatch(r"(down|middle|up)(\d*)_(block|attention|conv)(\d*)", block)
    if not place:
        return stored_as("", outer, path)
    way, level, what, i = place[1], int(place[2] or 1), place[3], int(place[4] or 1)
    stored_level = level - 1 if way == "down" else levels - level
    prefix = "mid_block." if way == "middle" else f"{way}_blocks.{stored_level}."
    if what == "conv":
        return stored_as(prefix, {block: Tensor(f"{way}samplers.0.conv", "conv")}, path)
    if what == "block":
        return stored_as(f"{prefix}resnets.{i - 1}.", _RESIDUAL, rest)
    return stored_as(f"{prefix}attentions.{i - 1}.", attention, rest)


def block_types(
    module: Any, down: Mapping[bool, str], up: Mapping[bool, str]
) -> dict[str, tuple[str, ...]]:
    """The options that name the kind of each level's blocks.

    Args:
        module: a U-Net with `widths` and `attention_levels`.
        down: names of the kinds on the way down, by whether there is attention.
        up: the same on the way up.

    Returns:
        "down_block_types" and "up_block_types".
    """
    attends = [level in module.attention_levels for level in range(1, len(module.widths) + 1)]
    return {
        "down_block_types": tuple(down[a] for a in attends),
        "up_block_types": tuple(up[a] for a in attends[::-1]),
    }
