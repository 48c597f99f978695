"""Swin transformers in the layouts of timm and torchvision.

The tables of relative positions give the windows and the heads. In timm's files from before version
0.9 tokens are merged after a stage, not before the next one, and the head is `head`; they are read
too.

Source of the layouts: the public tensor names and shapes of timm's `swin_*_patch4_window7_224` and
torchvision's `swin_t`.
"""

import math
from typing import Any

from jaxunlearn.models.pretrained.classifier_layout import Layout, Size, Source
from jaxunlearn.models.pretrained.names import naming, nested
from jaxunlearn.models.pretrained.timm_config import timm_config
from jaxunlearn.models.swin import Swin

_ARCHITECTURES = (
    r"swin_(tiny|small|base|large)_patch\d+_window\d+_\d+",
    "swin_tiny_patch4_window7_224",
)
_BLOCK = {
    "norm1": "norm1",
    "attention/relative_bias": "attn.relative_position_bias_table",
    "attention/qkv": "attn.qkv",
    "attention/out": "attn.proj",
    "norm2": "norm2",
}
_OUTER = {"patches": "patch_embed.proj", "patch_norm": "patch_embed.norm", "norm": "norm"}
_MLP = {"feed_forward/up": "mlp.fc1", "feed_forward/down": "mlp.fc2"}
_BLOCKS = {"stage#_block#": "layers.#.blocks.#"}
_MERGE = {"norm": "norm", "reduction": "reduction"}
_TIMM = {
    **_OUTER,
    **nested(_BLOCKS, _BLOCK | _MLP),
    **nested({"merge#": "layers.@.downsample"}, _MERGE),
    "head/linear": "head.fc",
}
_STAGES = range(1, 9)  # of torchvision's, with the mergers between them: numbered through
_TORCHVISION = {
    "patches": "features.0.0",
    "patch_norm": "features.0.2",
    **nested(
        {f"stage{i}_block#": f"features.{2 * i - 1}.#" for i in _STAGES},
        _BLOCK | {"feed_forward/up": "mlp.0", "feed_forward/down": "mlp.3"},
    ),
    **nested({f"merge{i}": f"features.{2 * i}" for i in _STAGES}, _MERGE),
    "norm": "norm",
    "head/linear": "head",
}
_OLD_TIMM = _TIMM | nested({"merge#": "layers.#.downsample"}, _MERGE) | {"head/linear": "head"}


def _fields(source: Source, table: dict[str, str]) -> tuple[dict[str, Any], Size]:
    name = naming(table)
    width, channels, patch_size, _ = source.shape(name(("patches", "kernel")), 4)
    depths: list[int] = []
    while count := source.number_of(name, f"stage{len(depths) + 1}_block{{}}", "norm1", "scale"):
        depths.append(count)
    stages = range(1, len(depths) + 1)
    bias = ("attention", "relative_bias")
    tables = [source.shape(name((f"stage{i}_block1", *bias)), 2) for i in stages]
    windows = [_window(rows) for rows, _ in tables]
    up = source.shape(name(("stage1_block1", "feed_forward", "up", "kernel")), 2)
    given = source.config.get("model_args", {}).get("img_size")
    side = given[0] if isinstance(given, list) else given or _side(patch_size, windows)
    return {
        "patch_size": patch_size,
        "window": max(windows),
        "width": width,
        "depths": tuple(depths),
        "heads": tuple(heads for _, heads in tables),
        "mlp_ratio": up[0] / width,
    }, Size(side, channels)


def _window(rows: int) -> int:
    """The side of a window whose table of relative positions has so many rows."""
    return (math.isqrt(rows) + 1) // 2


def _side(patch_size: int, windows: list[int]) -> int:
    """A side of images: the last window is the grid of its stage, or fits into it as well."""
    return patch_size * 2 ** (len(windows) - 1) * windows[-1]


def _size(module: Swin, params: Any) -> Size:
    stages = range(1, len(module.depths) + 1)
    tables = [params[f"stage{i}_block1"]["attention"]["relative_bias"] for i in stages]
    side = _side(module.patch_size, [_window(len(table)) for table in tables])
    return Size(side, params["patches"]["kernel"].shape[2])


def _timm_options(module: Swin, size: Size) -> dict[str, Any]:
    return {
        "num_classes": module.num_classes,
        "num_features": module.width * 2 ** (len(module.depths) - 1),
        "global_pool": "avg",
        "img_size": [size.side, size.side],
        "patch_size": module.patch_size,
        "embed_dim": module.width,
        "depths": list(module.depths),
        "num_heads": list(module.heads),
        "window_size": module.window,
        "mlp_ratio": module.mlp_ratio,
        "in_chans": size.channels,
    }


def _layout(library: str, sign: str, table: dict[str, str], unlike: str = r"(?!)") -> Layout:
    return Layout(
        library,
        Swin,
        sign,
        lambda source: _fields(source, table),
        lambda module: table,
        table["head/linear"],
        _size,
        unlike=unlike,
        ignored=(r".*\.(relative_position_index|attn_mask)",),  # which follow from the sizes
    )


_CONFIG = timm_config(lambda module: _ARCHITECTURES, _timm_options)
_TABLE = r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table"
_MERGED_AFTER = r"layers\.0\.downsample\.reduction\.weight"
LAYOUTS = (
    _layout("timm", _TABLE, _TIMM, unlike=_MERGED_AFTER)._replace(config=_CONFIG),
    _layout("timm", _MERGED_AFTER, _OLD_TIMM)._replace(config=_CONFIG),
    _layout("torchvision", r"features\.1\.0\.attn\.relative_position_bias_table", _TORCHVISION),
)
