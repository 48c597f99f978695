"""Diffusion transformer: patches of noisy latents in, noise and variance out.

    a1, b1, g1, a2, b2, g2 = W silu(e) + b
    x <- x + g1 attention((1 + b1) norm(x) + a1);   x <- x + g2 feed_forward((1 + b2) norm(x) + a2)

`e` is the embedding of timestep and class, and the norms have no learned scale. W, b and the last
layer start at zero ("adaLN-zero"), so every block starts as the identity. Positions are fixed sines
and cosines, of the column and then of the row.

Source: Peebles and Xie, "Scalable Diffusion Models with Transformers", ICCV 2023, section 3.2.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.checks import (
    check_divides,
    check_positive,
    check_sides,
    check_whole,
    refused,
)
from jaxunlearn.models.denoising import Condition, check_denoiser, check_inputs, sinusoid, zeros
from jaxunlearn.models.depth import in_turn
from jaxunlearn.models.layers import Linear
from jaxunlearn.models.transformer_blocks import Attention

_FREQUENCIES = 256  # width of the timestep's sinusoid

_xavier = nn.initializers.xavier_uniform()
_xavier_patches = nn.initializers.xavier_uniform(in_axis=(0, 1, 2), out_axis=3)
_normal = nn.initializers.normal(0.02)


def positions(rows: int, columns: int, width: int) -> jax.Array:
    """Fixed embedding of the positions in a grid, in reading order, `[rows * columns, width]`.

    The width is a multiple of 4: half for the column, half for the row.

    Example:
        >>> import numpy as np
        >>> print(np.asarray(positions(2, 2, 4)).round(2))
        [[0.   1.   0.   1.  ]
         [0.84 0.54 0.   1.  ]
         [0.   1.   0.84 0.54]
         [0.84 0.54 0.84 0.54]]
    """
    row, column = jnp.divmod(jnp.arange(rows * columns), columns)
    return jnp.concatenate([sinusoid(column, width // 2), sinusoid(row, width // 2)], axis=-1)


def _modulated(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    return x * (1 + scale[:, None, :]) + shift[:, None, :]


class Block(nn.Module):
    """Transformer block whose norms and gates depend on timestep and class.

    Attributes:
        heads: number of attention heads.
        epsilons: numbers added to the variance in the first and in the second norm.
        dtype: type of the computation.
    """

    heads: int
    epsilons: tuple[float, float]
    dtype: Any

    def _norm(self, x: jax.Array, index: int) -> jax.Array:
        return nn.LayerNorm(
            epsilon=self.epsilons[index], use_bias=False, use_scale=False, dtype=self.dtype
        )(x)

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """Map `[B, tokens, width]` and `[B, width]` to `[B, tokens, width]`."""
        width = x.shape[-1]
        modulation = nn.Dense(6 * width, kernel_init=zeros, dtype=self.dtype, name="modulation")
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(
            modulation(nn.silu(condition)), 6, axis=-1
        )
        y = _modulated(self._norm(x, 0), shift1, scale1)
        attention = Attention(self.heads, kernel_init=_xavier, dtype=self.dtype, name="attention")
        y = attention(y)
        x = x + gate1[:, None, :] * y
        y = _modulated(self._norm(x, 1), shift2, scale2)
        y = Linear(4 * width, kernel_init=_xavier, dtype=self.dtype, name="up")(y)
        y = nn.gelu(y, approximate=True)
        y = Linear(width, kernel_init=_xavier, dtype=self.dtype, name="down")(y)
        return x + gate2[:, None, :] * y


class DiT(nn.Module):
    """Diffusion transformer with adaLN-zero. The defaults are DiT-XL/2 for 256x256 images.

    Attributes:
        num_classes: number of classes, without the null condition.
        image_shape: (height, width, channels) of the images or latents.
        patch_size: side of a square patch; divides height and width.
        width: size of a token; a multiple of 4.
        depth: number of blocks.
        heads: number of attention heads; divides the width.
        epsilon: number added to the variance in the norms before the feed-forward layers (in all
            other norms: 1e-6).
        frequency_shift: number in the exponents of `jaxunlearn.models.denoising.sinusoid`: 0, as
            published, or 1.
        learn_variance: whether the output has twice the channels, the second half for the variance.
        dtype: type of the computation, float32 or bfloat16.
        remat: whether the backward pass recomputes the blocks instead of storing their activations.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = DiT(3, (8, 8, 1), width=8, depth=1, heads=2)
        >>> batch = jnp.zeros((2, 8, 8, 1)), jnp.array([0, 999]), jnp.array([2, 3])
        >>> noise, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), *batch)
        >>> noise.shape, noise.dtype
        ((2, 8, 8, 2), dtype('float32'))
    """

    num_classes: int
    image_shape: tuple[int, int, int] = (32, 32, 4)
    patch_size: int = 2
    width: int = 1152
    depth: int = 28
    heads: int = 16
    epsilon: float = 1e-6
    frequency_shift: int = 0
    learn_variance: bool = True
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        check_denoiser(self)
        check_whole(self, "num_classes", "patch_size", "width", "depth", "heads")
        check_positive(self, "epsilon")
        check_divides(self, "width", "heads")
        if self.width % 4:
            raise refused(self, "width", "a multiple of 4")
        remedy = "choose a patch_size that divides both sides"
        check_sides(self, self.image_shape, self.patch_size, remedy)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: jax.Array, timesteps: jax.Array, labels: jax.Array, train: bool = False
    ) -> jax.Array:
        """The noise in a batch, float32 `[B, H, W, 2 C]`; C channels without `learn_variance`.

        Args:
            images: noisy images `[B, *image_shape]`, floating-point.
            timesteps: timesteps `[B]`, integers or floating-point.
            labels: labels `[B]`, integers from 0 to num_classes, the last for the null condition.
            train: flag without effect, which all denoisers take.

        Raises:
            InputError: the images, timesteps or labels are of another shape or kind.
        """
        del train
        check_inputs(self, images, timesteps, labels)
        batch, height, width, channels = images.shape
        patch = self.patch_size
        rows, columns = height // patch, width // patch
        x = nn.Conv(
            self.width,
            (patch, patch),
            strides=patch,
            padding="VALID",
            kernel_init=_xavier_patches,
            dtype=self.dtype,
            name="patches",
        )(images)
        x = x.reshape(batch, rows * columns, self.width)
        x = x + positions(rows, columns, self.width).astype(x.dtype)[None]
        condition = Condition(
            self.num_classes,
            frequencies=_FREQUENCIES,
            width=self.width,
            cosine_first=True,
            frequency_shift=self.frequency_shift,
            kernel_init=_normal,
            table_init=_normal,
            dtype=self.dtype,
            name="condition",
        )(timesteps, labels)
        block = partial(Block, self.heads, (1e-6, self.epsilon), self.dtype)
        names = [f"block{i + 1}" for i in range(self.depth)]
        x = in_turn(self, [block], names, x, condition, remat=self.remat)

        condition = nn.silu(condition).astype(jnp.float32)
        modulation = nn.Dense(2 * self.width, kernel_init=zeros, name="modulation")(condition)
        x = nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False)(x.astype(jnp.float32))
        x = _modulated(x, *jnp.split(modulation, 2, axis=-1))
        channels *= 2 if self.learn_variance else 1
        x = nn.Dense(patch * patch * channels, kernel_init=zeros, name="out")(x)
        x = x.reshape(batch, rows, columns, patch, patch, channels)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)
