"""Published image classifiers: ResNets in torchvision's and timm's layout, ViTs in timm's.

Both layouts are one safetensors file; timm puts a `config.json` beside it. The tensors determine
the sizes of a model; other properties are as in the published models:

- a 7x7 stem has stride 2 and max-pooling, a 3x3 stem (as for CIFAR) has stride 1; `save_resnet`
  stores whether it pools, and for other files it is an argument; stages have strides 1, 2, 2, 2;
- a ViT's heads are 64 channels wide up to a width of 1024, unless `config.json` gives `num_heads`.

ResNets for CIFAR with the names `linear` for the last layer and `shortcut` for shortcuts are read
too; they have no max-pooling.

Source of the layouts: the public tensor names and shapes of torchvision's `resnet18`, `resnet34`
and `resnet50`, and of timm's models of the same names and `vit_*_patch*`.
"""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.pretrained.names import Naming, naming
from jaxunlearn.models.pretrained.tensors import (
    read,
    stored_metadata,
    stored_shape,
    stored_shapes,
    weights_of,
    write,
)
from jaxunlearn.models.pretrained.timm_config import (
    NAME,
    check_timm_config,
    read_timm_config,
    write_timm_config,
)
from jaxunlearn.models.resnet import ResNet
from jaxunlearn.models.vit import ViT
from jaxunlearn.types import InputError

_FILE = "model.safetensors"
_RESNETS = {"basic": r"resnet(18|34)", "bottleneck": r"resnet(26|50|101|152|200)"}
_VITS = r"(vit|deit)_(tiny|small|base|large)_patch\d+_\d+"
_STEMS = [(7, 2, True), (3, 1, False), (3, 1, True)]  # (size, stride, pool)
_WIDEST = 1024  # published ViT with heads of 64
_HEAD, _SHORTCUT = "fc", "downsample"
_STEM_POOL = "stem_pool"  # stored beside the tensors
_VIT_NAMES = {
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


def load_resnet(
    path: str | os.PathLike[str], *, stem_pool: bool | None = None
) -> tuple[ResNet, Any, Any]:
    """Reads a ResNet of basic or bottleneck blocks, such as ResNet-18, -34 and -50.

    Args:
        path: a safetensors file, or a folder with one and optionally timm's `config.json`.
        stem_pool: whether max-pooling follows a 3x3 stem; needed if the file does not tell.

    Returns:
        `(module, params, model_state)`; the model state holds BatchNorm's running statistics.

    Raises:
        InputError: a file is missing or damaged, or describes another network.

    Example:
        >>> import tempfile
        >>> model = ResNet(3, stem_width=4, widths=(4,), blocks=(1,), strides=(1,))
        >>> shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        >>> variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_resnet(folder, model, variables["params"], variables)
        ...     module, params, model_state = load_resnet(folder)
        >>> module == model, list(model_state)
        (True, ['batch_stats'])
    """
    path = Path(path)
    config, weights = read_timm_config(path), _weights(path)
    shapes = stored_shapes(weights)
    width, channels, size, _ = stored_shape(path, shapes, "conv1.weight", 4)
    if size not in (3, 7):
        raise InputError(
            f"the stem of the ResNet in {path} is {size}x{size}, but must be 7x7 (as published) or "
            "3x3 (as for CIFAR); give the file of such a network."
        )
    blocks = [_count(shapes, "layer1.{}.conv1.weight")]
    while count := _count(shapes, f"layer{len(blocks) + 1}.{{}}.conv1.weight"):
        blocks.append(count)
    stages = range(1, len(blocks) + 1)
    other_names = _HEAD + ".weight" not in shapes and "linear.weight" in shapes
    head, shortcut = ("linear", "shortcut") if other_names else (_HEAD, _SHORTCUT)
    if stem_pool is None:
        stem_pool = _stem_pool(weights, size, other_names)
    module = ResNet(
        num_classes=_num_classes(path, shapes, head),
        stem_width=width,
        stem_stride=2 if size == 7 else 1,
        widths=tuple(stored_shape(path, shapes, f"layer{i}.0.conv1.weight", 4)[0] for i in stages),
        blocks=tuple(blocks),
        strides=_strides(len(blocks)),
        block="bottleneck" if "layer1.0.conv3.weight" in shapes else "basic",
        stem_size=size,
        stem_pool=stem_pool,
    )
    check_timm_config(path, config, _RESNETS[module.block], _resnet_options(module, channels))
    named = _resnet_names(head, shortcut)
    variables = read(
        weights, _wanted(module, 32, channels), named, ignore=[r".*\.num_batches_tracked"]
    )
    return module, variables["params"], {"batch_stats": variables["batch_stats"]}


def save_resnet(
    folder: str | os.PathLike[str],
    module: ResNet,
    params: Any,
    model_state: Any,
    *,
    like: str | os.PathLike[str] | Mapping[str, Any] | None = None,
) -> None:
    """Writes `model.safetensors` and timm's `config.json`, for `load_resnet`.

    A network with a 3x3 stem gets no `config.json`, as timm has no such network; torchvision's
    ResNet with another `conv1` (and `maxpool`) takes the weights.

    Args:
        folder: folder to write to; it is created.
        module: a ResNet with BatchNorm and a published stem and strides.
        params: parameters of the network.
        model_state: running statistics of the network, in "batch_stats".
        like: folder that the network was read from, or its `config.json`, whose name of the
            architecture and description of the data (`pretrained_cfg`, `label_names`) are kept; by
            default `folder`.

    Raises:
        InputError: the layout does not support the network, or a file cannot be written.
    """
    _check_published(module)
    folder = Path(folder)
    if module.stem_size == 7:
        options = _resnet_options(module, params["stem_conv"]["kernel"].shape[2])
        otherwise = "resnet18" if module.block == "basic" else "resnet50"
        write_timm_config(folder, like, _RESNETS[module.block], otherwise, options)
    save_torchvision_resnet(folder, module, params, model_state)
    if module.stem_size != 7:
        (folder / NAME).unlink(missing_ok=True)  # of another network


def save_torchvision_resnet(
    folder: str | os.PathLike[str], module: ResNet, params: Any, model_state: Any
) -> None:
    """Writes `model.safetensors` alone, as `save_resnet` does, for torchvision's networks."""
    _check_published(module)
    variables = {"params": params, "batch_stats": model_state["batch_stats"]}
    metadata = {_STEM_POOL: str(module.stem_pool)}
    write(Path(folder) / _FILE, variables, _resnet_names(), metadata)


def _check_published(module: ResNet) -> None:
    stem = (module.stem_size, module.stem_stride, module.stem_pool)
    for field, value, allowed in (
        ("norm", module.norm, ["batch"]),
        ("strides", tuple(module.strides), [_strides(len(module.strides))]),
        ("(stem_size, stem_stride, stem_pool)", stem, _STEMS),
    ):
        if value not in allowed:
            raise InputError(
                f"ResNet.{field} is {value!r}, but must be {' or '.join(map(repr, allowed))} in "
                "the published layout."
            )


def load_vit(path: str | os.PathLike[str], *, heads: int | None = None) -> tuple[ViT, Any]:
    """Reads a ViT that classifies by its class token, such as ViT-Ti, -S, -B and -L.

    Args:
        path: a safetensors file, or a folder with one and optionally timm's `config.json`.
        heads: number of attention heads, if neither `config.json` nor the published models tell.

    Returns:
        `(module, params)`. The positions fix the size of the images: square, with
        `patch_size * sqrt(tokens - 1)` pixels a side.

    Raises:
        InputError: a file is missing or damaged, or describes another network.

    Example:
        >>> import tempfile
        >>> model = ViT(3, patch_size=4, width=8, depth=1, heads=2)
        >>> shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        >>> params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes["params"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_vit(folder, model, params)
        ...     load_vit(folder)[0] == model
        True
    """
    path = Path(path)
    config, weights = read_timm_config(path), _weights(path)
    shapes = stored_shapes(weights)
    width, channels, patch_size, _ = stored_shape(path, shapes, "patch_embed.proj.weight", 4)
    tokens = stored_shape(path, shapes, "pos_embed", 3)[1]
    cells = math.isqrt(tokens - 1)
    if cells**2 != tokens - 1 or not cells:
        raise InputError(
            f"the positions in {path} are {tokens}, but must be one for the class token and a "
            "square number for the patches; give the file of such a network."
        )
    module = ViT(
        num_classes=_num_classes(path, shapes, "head"),
        patch_size=patch_size,
        width=width,
        depth=_count(shapes, "blocks.{}.norm1.weight"),
        heads=_heads(path, config, width) if heads is None else heads,
        mlp_ratio=stored_shape(path, shapes, "blocks.0.mlp.fc1.weight", 2)[0] / width,
    )
    side = cells * patch_size
    check_timm_config(path, config, _VITS, _vit_options(module, side, channels))
    return module, read(weights, _wanted(module, side, channels)["params"], naming(_VIT_NAMES))


def save_vit(
    folder: str | os.PathLike[str],
    module: ViT,
    params: Any,
    *,
    like: str | os.PathLike[str] | Mapping[str, Any] | None = None,
) -> None:
    """Writes `model.safetensors` and timm's `config.json`, for `load_vit`.

    Args:
        folder: folder to write to; it is created.
        module: a ViT with a class token, for square images.
        params: parameters of the network.
        like: as in `save_resnet`.

    Raises:
        InputError: the layout does not support the network, or a file cannot be written.
    """
    cells = math.isqrt(params["position"].shape[1] - 1)
    if module.pooling != "cls" or cells**2 != params["position"].shape[1] - 1:
        raise InputError(
            f"the ViT has pooling {module.pooling!r} and {params['position'].shape[1]} positions, "
            "but must have pooling 'cls' and square images in the published layout."
        )
    side, channels = cells * module.patch_size, params["patches"]["kernel"].shape[2]
    # Any published name serves: the options hold all differences.
    options = _vit_options(module, side, channels)
    size = {"input_size": [channels, side, side]}
    write_timm_config(Path(folder), like, _VITS, "vit_base_patch16_224", options, size)
    write(Path(folder) / _FILE, params, naming(_VIT_NAMES))


def _weights(path: Path) -> Path:
    return weights_of(path, _FILE, sharded_first=False) if path.is_dir() else path


def _num_classes(path: Path, shapes: dict[str, tuple[int, ...]], head: str) -> int:
    if f"{head}.weight" not in shapes:
        inside = sorted(name for name in shapes if re.match(rf"{head}\.\d", name))
        has = f"has a head of several layers ({inside[0]!r} ...)" if inside else "has no head"
        raise InputError(
            f"the network in {path} {has}, but must have one layer {head!r} with an output for "
            "each class; save the network with such a head, trained or not."
        )
    return stored_shape(path, shapes, f"{head}.weight", 2)[0]


def _stem_pool(weights: Path, size: int, other_names: bool) -> bool:
    """Whether max-pooling follows the stem, if it was not given."""
    kept = stored_metadata(weights).get(_STEM_POOL)
    if kept is not None or other_names:
        return kept == "True"
    if size == 3:
        raise InputError(
            f"the stem of the ResNet in {weights} is 3x3, which leaves max-pooling open; give "
            "stem_pool=False (as usual for CIFAR) or stem_pool=True."
        )
    return True


def _heads(path: Path, config: dict[str, Any], width: int) -> Any:
    heads = config.get("model_args", {}).get("num_heads")
    if heads is None and (width % 64 or width > _WIDEST):
        raise InputError(
            f"the tokens of the ViT in {path} have {width} channels, which leave the number of "
            f"heads open (64 wide in ViTs of up to {_WIDEST}); give heads=, or a folder whose "
            "config.json holds 'num_heads' in its 'model_args'."
        )
    return width // 64 if heads is None else heads


def _resnet_names(head: str = _HEAD, shortcut: str = _SHORTCUT) -> Naming:
    return naming(
        {
            "stem_conv": "conv1",
            "stem_norm/batch": "bn1",
            "stage#_block#/conv#": "layer@.#.conv@",
            "stage#_block#/norm#/batch": "layer@.#.bn@",
            "stage#_block#/shortcut_conv": f"layer@.#.{shortcut}.0",
            "stage#_block#/shortcut_norm/batch": f"layer@.#.{shortcut}.1",
            "head/linear": head,
        }
    )


def _resnet_options(module: ResNet, channels: int) -> dict[str, Any]:
    """The options of a ResNet in timm's configuration."""
    return {
        "num_classes": module.num_classes,
        "num_features": module.widths[-1] * (4 if module.block == "bottleneck" else 1),
        "global_pool": "avg",
        "layers": list(module.blocks),
        "channels": list(module.widths),
        "in_chans": channels,
    }


def _vit_options(module: ViT, side: int, channels: int) -> dict[str, Any]:
    """The options of a ViT in timm's configuration."""
    return {
        "num_classes": module.num_classes,
        "num_features": module.width,
        "global_pool": "token",
        "img_size": [side, side],
        "patch_size": module.patch_size,
        "embed_dim": module.width,
        "depth": module.depth,
        "num_heads": module.heads,
        "mlp_ratio": module.mlp_ratio,
        "in_chans": channels,
    }


def _wanted(module: nn.Module, side: int, channels: int) -> Any:
    images = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), images)


def _strides(stages: int) -> tuple[int, ...]:
    return (1,) + (2,) * (stages - 1)


def _count(shapes: dict[str, tuple[int, ...]], pattern: str) -> int:
    """The number of names with 0, 1, 2 ... filled in, up to the first gap."""
    count = 0
    while pattern.format(count) in shapes:
        count += 1
    return count
