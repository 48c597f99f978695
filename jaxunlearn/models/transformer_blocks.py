"""Attention blocks of denoisers, autoencoders and text models.

    attention(x, c) = softmax(q k^T / sqrt(d)) v W + b,   q = x Q,   k = c K,   v = c V

for each head; `c` is `x` itself, or another sequence (the text). The transformer over the pixels of
an image is

    x <- x + attention(norm(x));   x <- x + attention(norm(x), c);   x <- x + geglu(norm(x))

with `geglu(x) = W2 (a * gelu(b))`, where `[a, b] = W1 x`.

Sources: Vaswani et al., "Attention Is All You Need", NIPS 2017; Shazeer, "GLU Variants Improve
Transformer", 2020; Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models",
CVPR 2022, section 3.3 and appendix E.2.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.layers import Linear


class Attention(nn.Module):
    """Multi-head attention of one sequence to another, or to itself.

    Attributes:
        heads: number of heads; divides the width.
        bias: whether queries, keys and values have a bias; the output has one.
        causal: whether a token attends only to itself and earlier tokens.
        kernel_init: initialiser of the matrices.
        out_init: initialiser of the matrix of the output; None stands for `kernel_init`.
        dtype: type of the computation; the softmax is float32.
    """

    heads: int
    bias: bool = True
    causal: bool = False
    kernel_init: Any = nn.initializers.lecun_normal()
    out_init: Any = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        """Map `[B, T, width]`, with a context `[B, L, D]` (None: x itself), to `[B, T, width]`."""
        width = x.shape[-1]

        def per_head(y: jax.Array, name: str) -> jax.Array:
            options = {"use_bias": self.bias, "kernel_init": self.kernel_init, "dtype": self.dtype}
            y = Linear(width, name=name, **options)(y)
            return y.reshape(*y.shape[:2], self.heads, width // self.heads)

        context = x if context is None else context
        query, key = per_head(x, "query"), per_head(context, "key")
        value = per_head(context, "value")
        y = jax.nn.dot_product_attention(query, key, value, is_causal=self.causal)
        out_init = self.out_init or self.kernel_init
        out = Linear(width, kernel_init=out_init, dtype=self.dtype, name="out")
        return out(y.reshape(x.shape))


class PixelAttention(nn.Module):
    """Attention of every pixel to every other, added to the input.

    Attributes:
        groups: number of groups of the norm.
        heads: number of heads; divides the channels.
        epsilon: number added to the variance in the norm.
        kernel_init: initialiser of the matrices.
        out_init: initialiser of the matrix of the output; None stands for `kernel_init`.
        dtype: type of the computation; the softmax is float32.
    """

    groups: int
    heads: int = 1
    epsilon: float = 1e-6
    kernel_init: Any = nn.initializers.lecun_normal()
    out_init: Any = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to the same shape."""
        norm = nn.GroupNorm(self.groups, epsilon=self.epsilon, dtype=self.dtype, name="norm")
        attention = Attention(
            self.heads,
            kernel_init=self.kernel_init,
            out_init=self.out_init,
            dtype=self.dtype,
            name="attention",
        )
        return x + attention(norm(x).reshape(x.shape[0], -1, x.shape[-1])).reshape(x.shape)


class TextBlock(nn.Module):
    """A transformer block whose tokens attend to each other and then to a context."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Map `[B, T, width]` with the context `[B, L, D]` to `[B, T, width]`."""

        def norm(name: str) -> nn.Module:
            return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)

        def attention(name: str) -> nn.Module:
            return Attention(self.heads, bias=False, dtype=self.dtype, name=name)

        width = x.shape[-1]
        x = x + attention("self_attention")(norm("norm1")(x))
        x = x + attention("cross_attention")(norm("norm2")(x), context)
        y = Linear(8 * width, dtype=self.dtype, name="up")(norm("norm3")(x))
        y, gate = jnp.split(y, 2, axis=-1)
        y = y * nn.gelu(gate, approximate=False)
        return x + Linear(width, dtype=self.dtype, name="down")(y)


class ImageTransformer(nn.Module):
    """One transformer block over the pixels of an image; the identity at initialisation."""

    heads: int
    groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` with the context `[B, L, D]` to `[B, H, W, C]`."""
        batch, height, width, channels = x.shape
        y = nn.GroupNorm(self.groups, epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        y = nn.Conv(channels, (1, 1), dtype=self.dtype, name="in")(y)
        y = y.reshape(batch, height * width, channels)
        y = TextBlock(self.heads, self.dtype, name="block")(y, context).reshape(x.shape)
        zeros = nn.initializers.zeros
        return x + nn.Conv(channels, (1, 1), kernel_init=zeros, dtype=self.dtype, name="out")(y)
