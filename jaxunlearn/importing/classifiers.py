"""Published image classifiers: ResNets in torchvision's and timm's layout, ViTs in timm's.

Both layouts are one safetensors file; timm puts a `config.json` beside it. The sizes of a model are
read off its tensors. What these cannot tell follows the published models:

- a 7x7 stem has stride 2 and max-pooling, a 3x3 stem (the one used for CIFAR) neither; the stages
  have strides 1, 2, 2, 2;
- a ViT's heads are 64 channels wide, unless `config.json` gives `num_heads`.

Source of the layouts: the public tensor names and shapes of torchvision's `resnet18`, `resnet34`
and `resnet50`, and of timm's models of the same names and `vit_*_patch*`.
"""

import math
import os
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.importing.tensors import Tensor, read, stored_shape, stored_shapes, write
from jaxunlearn.importing.timm_config import check_config, read_config, write_config
from jaxunlearn.models.resnet import ResNet
from jaxunlearn.models.vit import ViT
from jaxunlearn.types import InputError

_FILE = "model.safetensors"
_RESNETS = r"resnet(18|34|50)"
_VITS = r"(vit|deit)_(tiny|small|base)_patch\d+_\d+"
_STEMS = {7: (7, 2, True), 3: (3, 1, False)}  # (size, stride, pool) by the size
_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_VIT_PLACES = {
    ("patches", "kernel"): Tensor("patch_embed.proj.weight", "conv"),
    ("patches", "bias"): Tensor("patch_embed.proj.bias"),
    ("cls",): Tensor("cls_token"),
    ("position",): Tensor("pos_embed"),
    ("norm", "scale"): Tensor("norm.weight"),
    ("norm", "bias"): Tensor("norm.bias"),
    ("head", "linear", "kernel"): Tensor("head.weight", "linear"),
    ("head", "linear", "bias"): Tensor("head.bias"),
}
_VIT_BLOCK = {
    ("norm1",): "norm1",
    ("attention", "qkv"): "attn.qkv",
    ("attention", "out"): "attn.proj",
    ("norm2",): "norm2",
    ("feed_forward", "up"): "mlp.fc1",
    ("feed_forward", "down"): "mlp.fc2",
}


def load_resnet(path: str | os.PathLike[str]) -> tuple[ResNet, Any, Any]:
    """Reads a ResNet of basic or bottleneck blocks, such as ResNet-18, -34 and -50.

    Args:
        path: a safetensors file, or a folder with one and perhaps timm's `config.json`.

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
    shapes = stored_shapes(path)
    width, channels, size, _ = stored_shape(path, shapes, "conv1.weight", 4)
    if size not in _STEMS:
        raise InputError(
            f"the stem of the ResNet in {path} is {size}x{size}, but must be 7x7 (as published) or "
            "3x3 (as for CIFAR); give the file of such a network."
        )
    blocks = [_count(shapes, "layer1.{}.conv1.weight")]
    while count := _count(shapes, f"layer{len(blocks) + 1}.{{}}.conv1.weight"):
        blocks.append(count)
    stages = range(1, len(blocks) + 1)
    stem_size, stem_stride, stem_pool = _STEMS[size]
    module = ResNet(
        num_classes=stored_shape(path, shapes, "fc.weight", 2)[0],
        stem_width=width,
        stem_stride=stem_stride,
        widths=tuple(stored_shape(path, shapes, f"layer{i}.0.conv1.weight", 4)[0] for i in stages),
        blocks=tuple(blocks),
        strides=_strides(len(blocks)),
        block="bottleneck" if "layer1.0.conv3.weight" in shapes else "basic",
        stem_size=stem_size,
        stem_pool=stem_pool,
    )
    check_config(path, read_config(path), _RESNETS, _resnet_options(module, channels))
    wanted = _wanted(module, 32, channels)
    variables = read(path, wanted, _name_resnet, ignore=[r".*\.num_batches_tracked"])
    return module, variables["params"], {"batch_stats": variables["batch_stats"]}


def save_resnet(
    folder: str | os.PathLike[str], module: ResNet, params: Any, model_state: Any
) -> None:
    """Writes `model.safetensors` and timm's `config.json`, so that `load_resnet` gives the same.

    Args:
        folder: where to; it is made.
        module: a ResNet with BatchNorm and a published stem and strides.
        params: its parameters.
        model_state: its running statistics, in "batch_stats".

    Raises:
        InputError: the layout cannot say what the network does, or a file cannot be written.
    """
    stem = (module.stem_size, module.stem_stride, module.stem_pool)
    for field, value, allowed in (
        ("norm", module.norm, ["batch"]),
        ("strides", tuple(module.strides), [_strides(len(module.strides))]),
        ("(stem_size, stem_stride, stem_pool)", stem, list(_STEMS.values())),
    ):
        if value not in allowed:
            raise InputError(
                f"ResNet.{field} is {value!r}, which the published layout has no place for; it "
                f"can be {' or '.join(map(repr, allowed))}."
            )
    options = _resnet_options(module, params["stem_conv"]["kernel"].shape[2])
    architecture = "resnet18" if module.block == "basic" else "resnet50"
    write_config(Path(folder), architecture, options)
    variables = {"params": params, "batch_stats": model_state["batch_stats"]}
    write(Path(folder) / _FILE, variables, _name_resnet)


def load_vit(path: str | os.PathLike[str]) -> tuple[ViT, Any]:
    """Reads a ViT that classifies by its class token, such as ViT-Ti, -S and -B.

    Args:
        path: a safetensors file, or a folder with one and perhaps timm's `config.json`.

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
    shapes, config = stored_shapes(path), read_config(path)
    width, channels, patch_size, _ = stored_shape(path, shapes, "patch_embed.proj.weight", 4)
    tokens = stored_shape(path, shapes, "pos_embed", 3)[1]
    cells = math.isqrt(tokens - 1)
    if cells**2 != tokens - 1 or not cells:
        raise InputError(
            f"the positions in {path} are {tokens}, but must be one for the class token and those "
            "of a square of patches; give the file of such a network."
        )
    module = ViT(
        num_classes=stored_shape(path, shapes, "head.weight", 2)[0],
        patch_size=patch_size,
        width=width,
        depth=_count(shapes, "blocks.{}.norm1.weight"),
        heads=_heads(path, config, width),
        mlp_ratio=stored_shape(path, shapes, "blocks.0.mlp.fc1.weight", 2)[0] / width,
    )
    side = cells * patch_size
    check_config(path, config, _VITS, _vit_options(module, side, channels))
    return module, read(path, _wanted(module, side, channels)["params"], _name_vit)


def save_vit(folder: str | os.PathLike[str], module: ViT, params: Any) -> None:
    """Writes `model.safetensors` and timm's `config.json`, so that `load_vit` gives the same.

    Args:
        folder: where to; it is made.
        module: a ViT with a class token, for square images.
        params: its parameters.

    Raises:
        InputError: the layout cannot say what the network does, or a file cannot be written.
    """
    cells = math.isqrt(params["position"].shape[1] - 1)
    if module.pooling != "cls" or cells**2 != params["position"].shape[1] - 1:
        raise InputError(
            f"a ViT with pooling {module.pooling!r} and {params['position'].shape[1]} positions "
            "has no place in the published layout; it takes pooling 'cls' and square images."
        )
    options = _vit_options(module, cells * module.patch_size, params["patches"]["kernel"].shape[2])
    # Any published name will do: the options say all that may differ from it.
    write_config(Path(folder), "vit_base_patch16_224", options)
    write(Path(folder) / _FILE, params, _name_vit)


def _heads(path: Path, config: dict[str, Any], width: int) -> Any:
    heads = config.get("model_args", {}).get("num_heads")
    if heads is None and width % 64:
        raise InputError(
            f"the tokens of the ViT in {path} have {width} channels, which heads of 64 do not "
            "divide; give a folder whose config.json holds 'num_heads' in its 'model_args'."
        )
    return width // 64 if heads is None else heads


def _name_resnet(path: tuple[str, ...]) -> Tensor:
    """Such as `("params", "stage2_block1", "norm1", "batch", "scale")` -> `layer2.0.bn1.weight`."""
    _, *modules, leaf = path
    if modules == ["head", "linear"]:
        return Tensor("fc.weight", "linear") if leaf == "kernel" else Tensor("fc.bias")
    stage = re.fullmatch(r"stage(\d+)_block(\d+)", modules[0])
    prefix = f"layer{stage[1]}.{int(stage[2]) - 1}." if stage else ""
    layer = modules[1] if stage else modules[0]
    stored = {
        "stem_conv": "conv1",
        "stem_norm": "bn1",
        "shortcut_conv": "downsample.0",
        "shortcut_norm": "downsample.1",
    }.get(layer, layer.replace("norm", "bn"))
    if leaf == "kernel":
        return Tensor(f"{prefix}{stored}.weight", "conv")
    return Tensor(f"{prefix}{stored}.{_NORM[leaf]}")


def _name_vit(path: tuple[str, ...]) -> Tensor:
    """Such as `("block1", "attention", "qkv", "kernel")` -> `blocks.0.attn.qkv.weight`."""
    block = re.fullmatch(r"block(\d+)", path[0])
    if not block:
        return _VIT_PLACES[path]
    stored = f"blocks.{int(block[1]) - 1}.{_VIT_BLOCK[path[1:-1]]}"
    if path[-1] == "kernel":
        return Tensor(f"{stored}.weight", "linear")
    return Tensor(f"{stored}.{_NORM[path[-1]]}")


def _resnet_options(module: ResNet, channels: int) -> dict[str, Any]:
    """What timm's configuration may say of a ResNet."""
    return {
        "num_classes": module.num_classes,
        "num_features": module.widths[-1] * (4 if module.block == "bottleneck" else 1),
        "global_pool": "avg",
        "layers": list(module.blocks),
        "channels": list(module.widths),
        "in_chans": channels,
    }


def _vit_options(module: ViT, side: int, channels: int) -> dict[str, Any]:
    """What timm's configuration may say of a ViT."""
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
    """How many of the names with 0, 1, 2 ... filled in are there without a gap."""
    count = 0
    while pattern.format(count) in shapes:
        count += 1
    return count
