"""Parts that the denoisers share: embeddings of timestep and class, and checks.

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
    refused,
)
from jaxunlearn.types import InputError

EMBEDDINGS = "embeddings"  # {"condition": {"classes": [C + 1, width]}}, which replace the table
_LONGEST = 10_000.0  # ratio of the longest wavelength to the shortest
ddpm_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
zeros = nn.initializers.zeros


def sinusoid(
    values: jax.Array, width: int, *, cosine_first: bool = False, frequency_shift: int = 0
) -> jax.Array:
    """Sines and cosines of numbers `[N]` at geometric frequencies, float32 `[N, width]`.

    Half of the width holds `sin(v w_i)`, the other half `cos(v w_i)`, with

        w_i = 10000^(-i / (width / 2 - frequency_shift)),   i = 0 .. width / 2 - 1

    A `frequency_shift` of 1 makes the last frequency exactly 1/10000.

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
    """Embedding of timestep and class: a two-layer network of the sinusoid, plus a row of a table.

    Embeddings in the collection `EMBEDDINGS` take the place of the table.

    Attributes:
        num_classes: number of classes, without the null condition; None leaves the labels out.
        null_class: whether the table has a last row for the null condition.
        frequencies: width of the sinusoid.
        width: width of the result.
        cosine_first: order of sines and cosines; see `sinusoid`.
        frequency_shift: number in the exponents; see `sinusoid`.
        kernel_init: initialiser of the two layers.
        table_init: initialiser of the table of classes.
        dtype: type of the computation; the sinusoid is float32.
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
        if self.has_variable(EMBEDDINGS, "classes"):
            x = x + self.get_variable(EMBEDDINGS, "classes")[labels].astype(x.dtype)
        elif self.num_classes is not None:
            x = x + nn.Embed(
                self.num_classes + self.null_class,
                self.width,
                embedding_init=self.table_init,
                dtype=self.dtype,
                name="classes",
            )(labels)
        return x


def check_denoiser(module: Any) -> None:
    """The fields of every denoiser: num_classes, image_shape, learn_variance, dtype, remat."""
    if module.num_classes is not None:
        check_whole(module, "num_classes")
    check_wholes(module, "image_shape", (32, 32, 3))
    if len(module.image_shape) != 3:
        raise refused(module, "image_shape", "(height, width, channels), such as (32, 32, 3)")
    check_dtype(module)
    check_flags(module, "learn_variance", "remat")
    if module.frequency_shift not in (0, 1):
        raise refused(module, "frequency_shift", "0 or 1")


def check_inputs(
    module: Any, images: jax.Array, timesteps: jax.Array, labels: jax.Array | None
) -> None:
    """Images of the module's shape, with one timestep and one integer label each.

    Labels may be anything if the module has no classes.
    """
    check_images(module, images)
    name, batch = type(module).__name__, images.shape[:1]
    if images.shape[1:] != tuple(module.image_shape):
        raise InputError(
            f"images for {name} have shape {images.shape[1:]}, but must have shape "
            f"{tuple(module.image_shape)}; make the model with their image_shape."
        )
    check_timesteps(module, timesteps, batch)
    if module.num_classes is None:
        return
    if labels is None or labels.shape != batch or not jnp.issubdtype(labels.dtype, jnp.integer):
        found = "None" if labels is None else f"{labels.dtype} of shape {labels.shape}"
        raise InputError(
            f"labels for {name} are {found}, but must be integers of shape {batch}; give "
            f"{module.num_classes} for an unknown class."
        )


def check_timesteps(module: Any, timesteps: jax.Array, batch: tuple[int, ...]) -> None:
    """One timestep for each example."""
    if timesteps.shape != batch:
        raise InputError(
            f"timesteps for {type(module).__name__} have shape {timesteps.shape}, but must have "
            f"shape {batch}; repeat a single one with jnp.full."
        )
