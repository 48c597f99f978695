"""The scale of stored pixels: one rule for statistics and all tasks.

    uint8              x / 255
    floating point     x

Other integers have no known scale, so they are refused.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.types import InputError


def pixel_scale(dtype: Any) -> float:
    """The divisor of stored pixels of a type: 255 or 1.

    Example:
        >>> pixel_scale(jnp.uint8), pixel_scale(jnp.float16)
        (255.0, 1.0)
    """
    if dtype == jnp.uint8:
        return 255.0
    if jnp.issubdtype(dtype, jnp.floating):
        return 1.0
    raise InputError(
        f"images are {jnp.dtype(dtype)}, but must be uint8 or floating point; convert values from "
        "0 to 255 with .astype(np.uint8)."
    )


def as_floats(images: jax.Array) -> jax.Array:
    """Images in float32 or wider: uint8 is scaled to [0, 1], floating point is not scaled.

    Example:
        >>> as_floats(jnp.array([0, 255], jnp.uint8)).tolist()
        [0.0, 1.0]
    """
    scale = pixel_scale(images.dtype)
    images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    return images / scale if scale != 1.0 else images
