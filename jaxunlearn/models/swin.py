"""Swin transformer: attention inside windows that shift by half a window in every second block.

    x <- x + window_attention(norm(x));   x <- x + feed_forward(norm(x))
    attention(Q, K, V) = softmax(Q K^T / sqrt(d) + B) V,   B by the relative position in the window

The grid of tokens is rolled by the shift before it is cut into windows; a mask separates tokens
that are neighbours only by the roll. Between stages 2x2 neighbours are merged and the width
doubles.

Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
ICCV 2021. There is no stochastic depth.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.checks import (
    check_common,
    check_images,
    check_positive,
    check_same_length,
    check_sides,
    check_whole,
    check_wholes,
)
from jaxunlearn.models.depth import in_turn
from jaxunlearn.models.layers import FeedForward, Head, Linear, transformer_init
from jaxunlearn.models.windows import partition, relative_index, shift_mask, unpartition
from jaxunlearn.types import InputError


class WindowAttention(nn.Module):
    """Multi-head attention inside (shifted) windows of a grid of tokens.

    Attributes:
        heads: number of heads; divides the width.
        window: side of a window; divides the grid's sides.
        shift: shift of the windows, in tokens.
        dtype: type of the computation; the softmax is float32.
    """

    heads: int
    window: int
    shift: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to the same shape."""
        batch, height, width, channels = x.shape
        area = self.window**2
        mask = None
        if self.shift:
            x = jnp.roll(x, (-self.shift, -self.shift), axis=(1, 2))
            mask = jnp.asarray(shift_mask(height, width, self.window, self.shift))[:, None]
        x = partition(x, self.window)

        table_shape = ((2 * self.window - 1) ** 2, self.heads)
        table = self.param("relative_bias", transformer_init, table_shape)
        bias = table[relative_index(self.window)].transpose(2, 0, 1)[None]

        qkv = Linear(3 * channels, kernel_init=transformer_init, dtype=self.dtype, name="qkv")(x)
        qkv = qkv.reshape(*x.shape[:3], 3, self.heads, channels // self.heads)
        q, k, v = (qkv[:, :, :, i] for i in range(3))
        bias = bias.astype(q.dtype)
        x = jax.vmap(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, bias, mask))(q, k, v)
        x = x.reshape(batch, -1, area, channels)
        x = Linear(channels, kernel_init=transformer_init, dtype=self.dtype, name="out")(x)

        x = unpartition(x, height, width)
        return jnp.roll(x, (self.shift, self.shift), axis=(1, 2)) if self.shift else x


class Block(nn.Module):
    """Pre-norm block with window attention."""

    heads: int
    window: int
    shift: int
    mlp_ratio: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to the same shape."""
        y = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm1")(x)
        attention = WindowAttention(
            self.heads, self.window, self.shift, self.dtype, name="attention"
        )
        x = x + attention(y)
        y = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm2")(x)
        hidden = max(1, round(x.shape[-1] * self.mlp_ratio))
        return x + FeedForward(hidden, self.dtype, name="feed_forward")(y)


class PatchMerging(nn.Module):
    """Join 2x2 neighbours, `[B, H, W, C] -> [B, H/2, W/2, 2C]`: concatenate, norm, linear layer."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H/2, W/2, 2C]`."""
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = jnp.concatenate(corners, axis=-1)
        x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x)
        return nn.Dense(
            x.shape[-1] // 2,
            use_bias=False,
            kernel_init=transformer_init,
            dtype=self.dtype,
            name="reduction",
        )(x)


class Swin(nn.Module):
    """Swin transformer. The defaults are Swin-T for 224x224 images.

    A stage whose grid is no larger than the window is one window without a shift. For 64x64
    images use `window=4` or `window=8`.

    Attributes:
        num_classes: number of logits.
        patch_size: side of a square patch; divides the image's sides.
        window: side of a window; divides the grid of tokens in every stage that is larger than it.
        width: size of a token in the first stage; it doubles from stage to stage.
        depths: number of blocks of each stage.
        heads: number of attention heads of each stage, which divides the width of the stage.
        mlp_ratio: width inside the feed-forward block over the width of a token.
        dtype: type of the computation, float32 or bfloat16.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = Swin(num_classes=3, patch_size=2, window=2, width=8, depths=(2,), heads=(2,))
        >>> images = jnp.zeros((2, 8, 8, 1))
        >>> logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
        >>> logits.shape, logits.dtype
        ((2, 3), dtype('float32'))
    """

    num_classes: int
    patch_size: int = 4
    window: int = 7
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    mlp_ratio: float = 4.0
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_common(self)
        check_whole(self, "patch_size", "window", "width")
        check_wholes(self, "depths", (2, 2, 6, 2))
        check_wholes(self, "heads", (3, 6, 12, 24))
        check_same_length(self, "depths", "heads")
        check_positive(self, "mlp_ratio")
        for i, heads in enumerate(self.heads):
            if (self.width * 2**i) % heads:
                raise InputError(
                    f"Swin.heads is {self.heads!r}, but the heads of stage {i + 1} must divide its "
                    f"width, {self.width * 2**i}."
                )
        super().__post_init__()

    def _check_grid(self, height: int, width: int) -> None:
        stages, patch = len(self.depths), self.patch_size
        remedy = "resize them, or choose another patch_size"
        check_sides(self, (height, width), patch * 2 ** (stages - 1), remedy)
        grids = [(height // patch // 2**i, width // patch // 2**i) for i in range(stages)]

        def fits(window: int) -> bool:
            return not any(side % min(window, *grid) for grid in grids for side in grid)

        if not fits(self.window):
            good = [window for window in range(2, max(max(grids)) + 1) if fits(window)]
            remedy = f"choose a window out of {good}" if good else "resize them to squares"
            raise InputError(
                f"Swin.window is {self.window}, but must divide the grids of {height}x{width} "
                f"images, {', '.join(f'{h}x{w}' for h, w in grids)}; {remedy}."
            )

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Map floating-point images `[B, H, W, C]` to float32 logits `[B, num_classes]`.

        See `patch_size` and `window` for H and W. `train` has no effect; all models take it.

        Raises:
            InputError: the images have another shape or type, or do not divide into patches, stages
                and windows.
        """
        del train
        check_images(self, images)
        self._check_grid(*images.shape[1:3])
        x = nn.Conv(
            self.width,
            (self.patch_size, self.patch_size),
            strides=self.patch_size,
            padding="VALID",
            kernel_init=transformer_init,
            dtype=self.dtype,
            name="patches",
        )(images)
        x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="patch_norm")(x)
        for i, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True), start=1):
            if i > 1:
                x = PatchMerging(self.dtype, name=f"merge{i - 1}")(x)
            smaller = min(x.shape[1:3])
            window = min(self.window, smaller)
            shift = 0 if smaller <= self.window else window // 2
            fields = {"mlp_ratio": self.mlp_ratio, "dtype": self.dtype}
            pair = [partial(Block, heads, window, by, **fields) for by in (0, shift)]
            x = in_turn(self, pair, [f"stage{i}_block{j + 1}" for j in range(depth)], x)
        x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x)
        return Head(self.num_classes, kernel_init=transformer_init, name="head")(x)
