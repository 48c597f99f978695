"""Layers that several models share: normalisation, the feed-forward block and the linear head.

Parameters are always float32; `dtype` is the type of the computation. Heads compute in float32, so
logits are float32 in every model.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

he_init = nn.initializers.he_normal()
transformer_init = nn.initializers.truncated_normal(stddev=0.02)

_MAX_GROUPS = 32
_MIN_CHANNELS_PER_GROUP = 4


def group_count(features: int) -> int:
    """The number of groups of GroupNorm over `features` channels.

    The largest power of two up to 32 that divides the channels and leaves at least 4 in a group
    (a group of one channel at 1x1 resolution would be normalised to a constant), or else 1.

    Example:
        >>> [group_count(features) for features in (8, 64, 512, 6)]
        [2, 16, 32, 1]
    """
    groups = _MAX_GROUPS
    while groups > 1 and (features % groups or features // groups < _MIN_CHANNELS_PER_GROUP):
        groups //= 2
    return groups


class Norm(nn.Module):
    """BatchNorm or GroupNorm over the channels of `[B, H, W, C]`.

    BatchNorm keeps running statistics in the collection `batch_stats`, `m <- .9 m + .1 batch`; they
    are read if `train` is false, and written if it is true and the collection is mutable. GroupNorm
    has no state and normalises each example on its own.

    Attributes:
        kind: kind of the norm, "batch" or "group".
        axis_name: mapped axis over which BatchNorm averages its statistics.
        dtype: type of the computation; statistics are float32.
    """

    kind: str
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map `[B, H, W, C]` to the same shape."""
        if self.kind == "group":
            groups = group_count(x.shape[-1])
            return nn.GroupNorm(groups, epsilon=1e-5, dtype=self.dtype, name="group")(x)
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name="batch",
        )(x)


def _as_matrix(x: jax.Array, kernel: jax.Array, numbers: Any, **options: Any) -> jax.Array:
    """The product of the last axis of x with a kernel, on a matrix with one row a token.

    A sum over two axes, batch and tokens, in the kernel's gradient makes XLA copy on CPUs.
    """
    del numbers
    rows = x.reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return product.reshape(*x.shape[:-1], -1)


Linear = functools.partial(nn.Dense, dot_general=_as_matrix)


class FeedForward(nn.Module):
    """The transformer's two-layer block: `W2 gelu(W1 x)` with the exact GELU."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[..., width]` to `[..., width]`."""
        width = x.shape[-1]
        x = Linear(self.hidden, kernel_init=transformer_init, dtype=self.dtype, name="up")(x)
        x = nn.gelu(x, approximate=False)
        return Linear(width, kernel_init=transformer_init, dtype=self.dtype, name="down")(x)


class Head(nn.Module):
    """Mean over all positions, then a linear layer, both in float32.

    Attributes:
        num_classes: number of logits.
        kernel_init: initialiser of the linear layer.
    """

    num_classes: int
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, ..., C]` to float32 logits `[B, num_classes]`."""
        x = x.astype(jnp.float32)
        x = x.mean(axis=tuple(range(1, x.ndim - 1)))
        return nn.Dense(self.num_classes, kernel_init=self.kernel_init, name="linear")(x)
