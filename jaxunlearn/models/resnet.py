"""Residual networks, with the small stem for CIFAR or the published one for ImageNet.

    y = relu(F(x) + shortcut(x)),   F = norm(conv(relu(norm(conv(x)))))   (basic block)

The shortcut is the identity, or a 1x1 convolution with a norm where the shape changes. The
bottleneck block is 1x1, 3x3 (with the stride), 1x1 to four times the width.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016. For CIFAR
the stem is one 3x3 convolution without max-pooling, the default here; for ImageNet it is 7x7 of
stride 2 with max-pooling (`stem_size=7, stem_stride=2, stem_pool=True`). Group normalisation is Wu
and He, ECCV 2018.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.checks import (
    check_choice,
    check_common,
    check_flags,
    check_images,
    check_same_length,
    check_whole,
    check_wholes,
)
from jaxunlearn.models.layers import Head, Norm, he_init


class Block(nn.Module):
    """One residual block, basic or bottleneck.

    Attributes:
        width: channels of the 3x3 convolutions.
        stride: stride of the first 3x3 convolution and of the shortcut.
        bottleneck: whether the block has three convolutions and four times the output channels.
        norm: "batch" or "group".
        axis_name: mapped axis over which BatchNorm averages its statistics.
        dtype: type of the computation.
    """

    width: int
    stride: int
    bottleneck: bool
    norm: str
    axis_name: str | None
    dtype: Any

    def _conv(self, features: int, size: int, stride: int, name: str) -> nn.Module:
        return nn.Conv(
            features,
            (size, size),
            strides=stride,
            padding=size // 2,
            use_bias=False,
            kernel_init=he_init,
            dtype=self.dtype,
            name=name,
        )

    def _norm(self, name: str) -> Norm:
        return Norm(self.norm, self.axis_name, self.dtype, name=name)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H / stride, W / stride, C']`."""
        convs: tuple[tuple[int, int, int], ...]  # (channels, kernel size, stride) of each
        if self.bottleneck:
            out = 4 * self.width
            convs = ((self.width, 1, 1), (self.width, 3, self.stride), (out, 1, 1))
        else:
            out = self.width
            convs = ((self.width, 3, self.stride), (self.width, 3, 1))

        y = x
        for i, (features, size, stride) in enumerate(convs, start=1):
            y = self._conv(features, size, stride, name=f"conv{i}")(y)
            y = self._norm(f"norm{i}")(y, train)
            if i < len(convs):
                y = nn.relu(y)

        if self.stride != 1 or x.shape[-1] != out:
            x = self._conv(out, 1, self.stride, name="shortcut_conv")(x)
            x = self._norm("shortcut_norm")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Residual network: stem, stages of blocks, global average pooling, linear head.

    The defaults are ResNet-18 for CIFAR.

    Attributes:
        num_classes: number of logits.
        stem_width: channels of the stem.
        stem_stride: stride of the stem.
        widths: channels of each stage (the output of a bottleneck stage has four times as many).
        blocks: number of blocks of each stage.
        strides: stride of each stage's first block.
        block: kind of the blocks, "basic" or "bottleneck".
        norm: "batch", with running statistics in the collection `batch_stats`, or "group", with
            no mutable state.
        axis_name: mapped axis over which BatchNorm averages its statistics (pmap, vmap, shard_map);
            None under plain or sharded jit.
        dtype: type of the computation, float32 or bfloat16.
        stem_size: side of the stem's kernel.
        stem_pool: whether 3x3 max-pooling of stride 2 follows the stem.
        remat: whether the backward pass recomputes the blocks instead of storing their activations.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = ResNet(num_classes=3, stem_width=4, widths=(4,), blocks=(1,), strides=(1,))
        >>> images = jnp.zeros((2, 8, 8, 1))
        >>> variables = jax.jit(model.init)(jax.random.key(0), images)
        >>> logits, state = model.apply(variables, images, train=True, mutable=["batch_stats"])
        >>> logits.shape, list(state)
        ((2, 3), ['batch_stats'])
    """

    num_classes: int
    stem_width: int = 64
    stem_stride: int = 1
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    block: str = "basic"
    norm: str = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32
    stem_size: int = 3
    stem_pool: bool = False
    remat: bool = False

    def __post_init__(self) -> None:
        check_common(self)
        check_whole(self, "stem_width", "stem_stride", "stem_size")
        check_wholes(self, "widths", (64, 128, 256, 512))
        check_wholes(self, "blocks", (2, 2, 2, 2))
        check_wholes(self, "strides", (1, 2, 2, 2))
        check_same_length(self, "widths", "blocks", "strides")
        check_choice(self, "block", ("basic", "bottleneck"))
        check_flags(self, "stem_pool", "remat")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Map floating-point images `[B, H, W, C]` to float32 logits `[B, num_classes]`.

        With `train`, BatchNorm uses the statistics of the batch and updates the running ones.

        Raises:
            InputError: the images have another shape or type.
        """
        check_images(self, images)
        x = nn.Conv(
            self.stem_width,
            (self.stem_size, self.stem_size),
            strides=self.stem_stride,
            padding=self.stem_size // 2,
            use_bias=False,
            kernel_init=he_init,
            dtype=self.dtype,
            name="stem_conv",
        )(images)
        x = nn.relu(Norm(self.norm, self.axis_name, self.dtype, name="stem_norm")(x, train))
        if self.stem_pool:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        stages = zip(self.widths, self.blocks, self.strides, strict=True)
        block = nn.remat(Block, static_argnums=2) if self.remat else Block
        for i, (width, count, stride) in enumerate(stages, start=1):
            for j in range(1, count + 1):
                x = block(
                    width=width,
                    stride=stride if j == 1 else 1,
                    bottleneck=self.block == "bottleneck",
                    norm=self.norm,
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                    name=f"stage{i}_block{j}",
                )(x, train)
        return Head(self.num_classes, name="head")(x)
