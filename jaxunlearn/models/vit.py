"""Vision transformer.

    tokens = patches W + position;   x <- x + attention(norm(x));   x <- x + feed_forward(norm(x))

then a final norm, the class token (or the mean over the tokens) and a linear head.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; the sizes Ti and S are
Touvron et al., "Training data-efficient image transformers", ICML 2021. There is no dropout.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.checks import (
    check_choice,
    check_common,
    check_divides,
    check_flags,
    check_images,
    check_positive,
    check_sides,
    check_whole,
)
from jaxunlearn.models.depth import in_turn
from jaxunlearn.models.layers import FeedForward, Head, Linear, transformer_init


class SelfAttention(nn.Module):
    """Multi-head attention of every token to every token."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, tokens, width]` to the same shape."""
        batch, tokens, width = x.shape
        qkv = Linear(3 * width, kernel_init=transformer_init, dtype=self.dtype, name="qkv")(x)
        qkv = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads)
        x = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        x = x.reshape(batch, tokens, width)
        return Linear(width, kernel_init=transformer_init, dtype=self.dtype, name="out")(x)


class Block(nn.Module):
    """Pre-norm transformer block."""

    heads: int
    hidden: int
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, tokens, width]` to the same shape."""
        y = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm1")(x)
        x = x + SelfAttention(self.heads, self.dtype, name="attention")(y)
        y = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm2")(x)
        return x + FeedForward(self.hidden, self.dtype, name="feed_forward")(y)


class ViT(nn.Module):
    """Vision transformer with learned positions. The defaults are ViT-B/16.

    Attributes:
        num_classes: number of logits.
        patch_size: side of a square patch; divides the image's sides.
        width: size of a token.
        depth: number of blocks.
        heads: number of attention heads; divides the width.
        mlp_ratio: width inside the feed-forward block over the width of a token.
        pooling: output of the blocks: "cls", a learned class token, or "mean" over the tokens.
        dtype: type of the computation, float32 or bfloat16.
        remat: whether the backward pass recomputes the blocks instead of storing their activations.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = ViT(num_classes=3, patch_size=4, width=8, depth=1, heads=2)
        >>> images = jnp.zeros((2, 8, 8, 1))
        >>> logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
        >>> logits.shape, logits.dtype
        ((2, 3), dtype('float32'))
    """

    num_classes: int
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    pooling: str = "cls"
    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        check_common(self)
        check_flags(self, "remat")
        check_whole(self, "patch_size", "width", "depth", "heads")
        check_positive(self, "mlp_ratio")
        check_positive(self, "epsilon")
        check_choice(self, "pooling", ("cls", "mean"))
        check_divides(self, "width", "heads")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Map floating-point images `[B, H, W, C]` to float32 logits `[B, num_classes]`.

        H and W are multiples of `patch_size`, and the same as at initialisation. `train` has no
        effect; all models take it.

        Raises:
            InputError: the images have another shape or type, or do not divide into patches.
        """
        del train
        check_images(self, images)
        batch = len(images)
        remedy = "choose a patch_size that divides both sides"
        check_sides(self, images.shape[1:], self.patch_size, remedy)
        x = nn.Conv(
            self.width,
            (self.patch_size, self.patch_size),
            strides=self.patch_size,
            padding="VALID",
            kernel_init=transformer_init,
            dtype=self.dtype,
            name="patches",
        )(images)
        x = x.reshape(batch, -1, self.width)
        if self.pooling == "cls":
            token = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
            token = jnp.broadcast_to(token, (batch, 1, self.width))
            x = jnp.concatenate([token.astype(x.dtype), x], axis=1)
        position = self.param("position", transformer_init, (1, x.shape[1], self.width))
        x = x + position.astype(x.dtype)
        hidden = max(1, round(self.width * self.mlp_ratio))
        block = partial(Block, self.heads, hidden, self.epsilon, self.dtype)
        names = [f"block{i + 1}" for i in range(self.depth)]
        x = in_turn(self, [block], names, x, remat=self.remat)
        x = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")(x)
        if self.pooling == "cls":
            x = x[:, 0]
        return Head(self.num_classes, kernel_init=transformer_init, name="head")(x)
