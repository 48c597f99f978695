"""The models of the benchmarks beside PyTorch, as functions of our parameters.

Each is written from the equations at the top of our module of that name. `carried` brings a tree of
our parameters into PyTorch's layouts; the names stay. Images are `[B, C, H, W]`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Any]
DEVICE = "cpu"  # where tensors are made; `side_by_side.prepare_torch` sets it


def tensor(array: Any, **options: Any) -> Tensor:
    """An array of JAX's or NumPy's as a tensor on the device."""
    return torch.tensor(np.ascontiguousarray(np.asarray(array)), device=DEVICE, **options)


def carried(tree: Any, name: str = "") -> Any:
    """Our parameters as tensors: kernels are `[out, in]`, of convolutions `[F, C, h, w]`."""
    if isinstance(tree, dict):
        return {key: carried(value, key) for key, value in tree.items()}
    array = np.asarray(tree)
    if name == "kernel":
        array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
    return tensor(array, requires_grad=True)


def dense(x: Tensor, w: Weights) -> Tensor:
    """A linear layer."""
    return F.linear(x, w["kernel"], w["bias"])


def conv(x: Tensor, w: Weights, stride: int = 1, padding: int = 0) -> Tensor:
    """A convolution."""
    return F.conv2d(x, w["kernel"], w.get("bias"), stride, padding)


def layer_norm(x: Tensor, w: Weights | None = None) -> Tensor:
    """Over the last axis; without scale and bias if there are none."""
    scale, bias = (w["scale"], w["bias"]) if w else (None, None)
    return F.layer_norm(x, x.shape[-1:], scale, bias, 1e-6)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Of every token to every token, `[B, tokens, width]`."""
    q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def mlp(w: Weights, images: Tensor, train: bool) -> Tensor:
    """`jaxunlearn.models.mlp`."""
    x = images.flatten(1)
    for name in sorted(name for name in w if name.startswith("hidden")):
        x = F.relu(dense(x, w[name]))
    return dense(x, w["head"]["linear"])


def vit(heads: int, patch: int) -> Callable[[Weights, Tensor, bool], Tensor]:
    """`jaxunlearn.models.vit`."""

    def forward(w: Weights, images: Tensor, train: bool) -> Tensor:
        x = conv(images, w["patches"], patch).flatten(2).transpose(1, 2)
        x = torch.cat([w["cls"].expand(len(x), -1, -1), x], 1) + w["position"]
        for i in range(1, sum(name.startswith("block") for name in w) + 1):
            block = w[f"block{i}"]
            q, k, v = dense(layer_norm(x, block["norm1"]), block["attention"]["qkv"]).chunk(3, -1)
            x = x + dense(attention(q, k, v, heads), block["attention"]["out"])
            y = F.gelu(dense(layer_norm(x, block["norm2"]), block["feed_forward"]["up"]))
            x = x + dense(y, block["feed_forward"]["down"])
        return dense(layer_norm(x, w["norm"])[:, 0], w["head"]["linear"])

    return forward


def resnet(strides: tuple[int, ...], stem_stride: int = 2) -> Callable[..., Tensor]:
    """`jaxunlearn.models.resnet` with basic blocks.

    Running statistics may be given: they are read in evaluation, and written in training. Without,
    evaluation takes fresh ones.
    """

    def norm(x: Tensor, w: Weights, state: Weights | None, train: bool) -> Tensor:
        w = w["batch"]
        mean, var = (None, None) if train else (x.new_zeros(x.shape[1]), x.new_ones(x.shape[1]))
        if state is not None:
            mean, var = state["batch"]["mean"], state["batch"]["var"]
        return F.batch_norm(x, mean, var, w["scale"], w["bias"], train, eps=1e-5)

    def forward(w: Weights, images: Tensor, train: bool, state: Weights | None = None) -> Tensor:
        def normed(x: Tensor, *names: str) -> Tensor:
            own, kept = w, state
            for name in names:
                own, kept = own[name], kept and kept[name]
            return norm(x, own, kept, train)

        x = F.relu(normed(conv(images, w["stem_conv"], stem_stride, 1), "stem_norm"))
        for name in sorted(name for name in w if name.startswith("stage")):
            block, first = w[name], name.endswith("_block1")
            stride = strides[int(name[5]) - 1] if first else 1
            y = F.relu(normed(conv(x, block["conv1"], stride, 1), name, "norm1"))
            y = normed(conv(y, block["conv2"], 1, 1), name, "norm2")
            if "shortcut_conv" in block:
                x = normed(conv(x, block["shortcut_conv"], stride), name, "shortcut_norm")
            x = F.relu(x + y)
        return dense(x.mean((2, 3)), w["head"]["linear"])

    return forward


def sinusoid(values: Tensor, width: int, cosine_first: bool, shift: int) -> Tensor:
    """Sines and cosines of numbers at geometric frequencies."""
    half = width // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=DEVICE) / (half - shift))
    angles = values.float()[:, None] * rates
    parts = [torch.sin(angles), torch.cos(angles)]
    return torch.cat(parts[::-1] if cosine_first else parts, 1)


def condition(w: Weights, x: Tensor, labels: Tensor) -> Tensor:
    """The embedding of timestep and class."""
    x = dense(F.silu(dense(x, w["time1"])), w["time2"])
    return x + F.embedding(labels, w["classes"]["embedding"])


def unet(
    levels: int, groups: int, attends: tuple[int, ...], blocks: int = 1, dropout: float = 0.0
) -> Callable[..., Tensor]:
    """`jaxunlearn.models.ddpm_unet` in training, with one attention head."""

    def norm(x: Tensor, w: Weights) -> Tensor:
        return F.group_norm(x, groups, w["scale"], w["bias"], 1e-6)

    def block(x: Tensor, e: Tensor, w: Weights) -> Tensor:
        y = conv(F.silu(norm(x, w["norm1"])), w["conv1"], 1, 1)
        y = y + dense(F.silu(e), w["condition"])[:, :, None, None]
        y = F.dropout(F.silu(norm(y, w["norm2"])), dropout)
        y = conv(y, w["conv2"], 1, 1)
        return (conv(x, w["shortcut"]) if "shortcut" in w else x) + y

    def attend(x: Tensor, w: Weights) -> Tensor:
        y, inner = norm(x, w["norm"]).flatten(2).transpose(1, 2), w["attention"]
        y = attention(*(dense(y, inner[name]) for name in ("query", "key", "value")), 1)
        return x + dense(y, inner["out"]).transpose(1, 2).reshape(x.shape)

    def forward(w: Weights, images: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        width = w["condition"]["time1"]["kernel"].shape[1]
        e = condition(w["condition"], sinusoid(timesteps, width, False, 1), labels)
        x = conv(images, w["stem"], 1, 1)
        left = [x]
        for level in range(1, levels + 1):
            for i in range(1, blocks + 1):
                x = block(x, e, w[f"down{level}_block{i}"])
                if level in attends:
                    x = attend(x, w[f"down{level}_attention{i}"])
                left.append(x)
            if level < levels:
                x = conv(F.pad(x, (0, 1, 0, 1)), w[f"down{level}_conv"], 2)
                left.append(x)
        x = attend(block(x, e, w["middle_block1"]), w["middle_attention"])
        x = block(x, e, w["middle_block2"])
        for level in range(levels, 0, -1):
            for i in range(1, blocks + 2):
                x = block(torch.cat([x, left.pop()], 1), e, w[f"up{level}_block{i}"])
                if level in attends:
                    x = attend(x, w[f"up{level}_attention{i}"])
            if level > 1:
                x = conv(F.interpolate(x, scale_factor=2.0), w[f"up{level}_conv"], 1, 1)
        return conv(F.silu(norm(x, w["norm"])), w["out"], 1, 1)

    return forward


def dit(heads: int, patch: int) -> Callable[..., Tensor]:
    """`jaxunlearn.models.dit`."""

    def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return layer_norm(x) * (1 + scale[:, None]) + shift[:, None]

    def forward(w: Weights, images: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        x = conv(images, w["patches"], patch)
        rows, columns, width = x.shape[2], x.shape[3], x.shape[1]
        places = torch.arange(rows * columns, device=DEVICE)
        at = [sinusoid(p, width // 2, False, 0) for p in (places % columns, places // columns)]
        x = x.flatten(2).transpose(1, 2) + torch.cat(at, 1)
        e = F.silu(condition(w["condition"], sinusoid(timesteps, 256, True, 0), labels))
        for i in range(1, sum(name.startswith("block") for name in w) + 1):
            block, inner = w[f"block{i}"], w[f"block{i}"]["attention"]
            shift1, scale1, gate1, shift2, scale2, gate2 = dense(e, block["modulation"]).chunk(6, 1)
            y = modulated(x, shift1, scale1)
            y = attention(*(dense(y, inner[name]) for name in ("query", "key", "value")), heads)
            x = x + gate1[:, None] * dense(y, inner["out"])
            y = F.gelu(dense(modulated(x, shift2, scale2), block["up"]), approximate="tanh")
            x = x + gate2[:, None] * dense(y, block["down"])
        x = dense(modulated(x, *dense(e, w["modulation"]).chunk(2, 1)), w["out"])
        x = x.unflatten(1, (rows, columns)).unflatten(-1, (patch, patch, -1))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)

    return forward
