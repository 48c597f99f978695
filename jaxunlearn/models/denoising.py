"""Pieces that the denoisers share: embedding of the timestep, attention, and what they check.

A denoiser takes noisy images (or latents) `[B, H, W, C]`, timesteps `[B]` and labels `[B]`:

    e = W2 silu(W1 sinusoid(t) + b1) + b2 + class_table[label]

`sinusoid` holds sines and cosines of the timestep at geometric frequencies. The label `num_classes`
is the null condition of classifier-free guidance.

Sources: Vaswani et al., "Attention Is All You Need", NIPS 2017, section 3.5; Ho, Jain, Abbeel,
"Denoising Diffusion Probabilistic Models", NeurIPS 2020, appendix B; Ho and Salimans,
"Classifier-Free Diffusion Guidance", 2022.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.checks import (
    check_dtype,
    check_flags,
    check_images,
    check_whole,
    check_wholes,
)
from jaxunlearn.types import InputError

_LONGEST = 10_000.0  # ratio of the longest wavelength to the shortest
ddpm_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
zeros = nn.initializers.zeros


def sinusoid(
    values: jax.Array, width: int, *, cosine_first: bool = False, frequency_shift: int = 0
) -> jax.Array:
    """Sines and cosines of numbers at geometric frequencies.

    Half of the width holds `sin(v w_i)`, the other half `cos(v w_i)`, with

        w_i = 10000^(-i / (width / 2 - frequency_shift)),   i = 0 .. width / 2 - 1

    Args:
        values: `[N]`, integers or floating-point numbers, such as timesteps.
        width: how many numbers stand for each; even.
        cosine_first: the cosines stand before the sines.
        frequency_shift: 1 makes the last frequency exactly 1/10000.

    Returns:
        `[N, width]`, float32.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> print(np.asarray(sinusoid(jnp.array([0, 1]), 4)).round(2))
        [[0.   0.   1.   1.  ]
         [0.84 0.01 0.54 1.  ]]
    """
    half = width // 2
    exponents = jnp.arange(half, dtype=jnp.float32) / (half - frequency_shift)
    frequencies = jnp.exp(-math.log(_LONGEST) * exponents)
    angles = values.astype(jnp.float32)[:, None] * frequencies[None, :]
    parts = (
        (jnp.cos(angles), jnp.sin(angles)) if cosine_first else (jnp.sin(angles), jnp.cos(angles))
    )
    return jnp.concatenate(parts, axis=-1)


class Condition(nn.Module):
    """One vector for the timestep and the class: a two-layer network of the sinusoid, plus a row.

    Attributes:
        num_classes: classes beside the null condition; None leaves the labels out.
        null_class: whether the table has a row for the null condition, after those of the classes.
        frequencies: width of the sinusoid.
        width: width of the result.
        cosine_first: see `sinusoid`.
        frequency_shift: see `sinusoid`.
        kernel_init: initialiser of the two layers.
        table_init: initialiser of the table of classes.
        dtype: type computed in; the sinusoid is float32.
    """

    num_classes: int | None
    frequencies: int
    width: int
    cosine_first: bool
    frequency_shift: int
    kernel_init: Any
    table_init: Any
    dtype: Any = jnp.float32
    null_class: bool = True

    @nn.compact
    def __call__(self, timesteps: jax.Array, labels: jax.Array | None) -> jax.Array:
        """Map timesteps `[B]` and labels `[B]` to `[B, width]`."""
        x = sinusoid(
            timesteps,
            self.frequencies,
            cosine_first=self.cosine_first,
            frequency_shift=self.frequency_shift,
        )
        init = self.kernel_init
        x = nn.Dense(self.width, kernel_init=init, dtype=self.dtype, name="time1")(x)
        x = nn.silu(x)
        x = nn.Dense(self.width, kernel_init=init, dtype=self.dtype, name="time2")(x)
        if self.num_classes is not None:
            x = x + nn.Embed(
                self.num_classes + self.null_class,
                self.width,
                embedding_init=self.table_init,
                dtype=self.dtype,
                name="classes",
            )(labels)
        return x


class Attention(nn.Module):
    """Multi-head attention of every token to every token.

    Attributes:
        heads: number of heads; divides the width.
        kernel_init: initialiser of the query, the key and the value.
        out_init: initialiser of the last layer.
        dtype: type computed in; the softmax is float32.
    """

    heads: int
    kernel_init: Any
    out_init: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, tokens, width]` to the same shape."""
        batch, tokens, width = x.shape
        q, k, v = (
            nn.Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name=name)(x).reshape(
                batch, tokens, self.heads, width // self.heads
            )
            for name in ("query", "key", "value")
        )
        x = jax.nn.dot_product_attention(q, k, v).reshape(batch, tokens, width)
        return nn.Dense(width, kernel_init=self.out_init, dtype=self.dtype, name="out")(x)


def check_denoiser(module: nn.Module) -> None:
    """The fields that every denoiser has: num_classes, image_shape, learn_variance, dtype, remat.

    Args:
        module: the module being built.

    Raises:
        InputError: one of them is not allowed.
    """
    name, fields = type(module).__name__, vars(module)
    if fields["num_classes"] is not None:
        check_whole(module, "num_classes")
    check_wholes(module, "image_shape", (32, 32, 3))
    if len(fields["image_shape"]) != 3:
        raise InputError(
            f"{name}.image_shape is {fields['image_shape']!r}, but it must be (height, width, "
            "channels), such as (32, 32, 3)"
        )
    check_dtype(module)
    check_flags(module, "learn_variance", "remat")
    if fields["frequency_shift"] not in (0, 1):
        raise InputError(
            f"{name}.frequency_shift is {fields['frequency_shift']!r}, but it must be 0 or 1"
        )


def check_inputs(
    module: Any, images: jax.Array, timesteps: jax.Array, labels: jax.Array | None
) -> None:
    """Images of the module's shape, with one timestep and one whole label each.

    Args:
        module: the denoiser called.
        images: what it was called with, `[B, *image_shape]`.
        timesteps: `[B]`.
        labels: `[B]`; anything where the module has no classes.

    Raises:
        InputError: they are something else.
    """
    check_images(module, images)
    name, batch = type(module).__name__, images.shape[:1]
    if images.shape[1:] != tuple(module.image_shape):
        raise InputError(
            f"{name} was made for images of shape {tuple(module.image_shape)}, but these have "
            f"shape {images.shape[1:]}; make it with their image_shape"
        )
    if timesteps.shape != batch:
        raise InputError(
            f"{name} takes one timestep per image, {batch}, but these have shape "
            f"{timesteps.shape}; repeat a single one with jnp.full"
        )
    if module.num_classes is None:
        return
    if labels is None or labels.shape != batch or not jnp.issubdtype(labels.dtype, jnp.integer):
        found = "none were given" if labels is None else f"these are {labels.dtype}{labels.shape}"
        raise InputError(
            f"{name} takes one whole label per image, {batch}, but {found}; give "
            f"{module.num_classes} where the class is unknown"
        )
