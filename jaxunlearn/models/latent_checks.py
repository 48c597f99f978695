"""What the models of latent diffusion ask of their configuration and of what they are given."""

from typing import Any

import flax.linen as nn
import jax

from jaxunlearn.models.checks import check_dtype, check_flags, check_images
from jaxunlearn.types import InputError


def check_computing(module: Any) -> None:
    """The fields that say how a model computes: dtype and remat.

    Args:
        module: the module being built.

    Raises:
        InputError: one of them is not allowed.
    """
    check_dtype(module)
    check_flags(module, "remat")


def check_divides(module: nn.Module, field: str, divisor: str) -> None:
    """A width, or every width of a tuple, divides into equal parts.

    Args:
        module: the module being built.
        field: name of the field that holds the width or the widths.
        divisor: name of the field that holds the number of parts, such as "groups" or "heads".

    Raises:
        InputError: there is a remainder.
    """
    value, parts = getattr(module, field), getattr(module, divisor)
    widths = value if isinstance(value, tuple | list) else (value,)
    if any(width % parts for width in widths):
        raise InputError(
            f"{type(module).__name__}.{field} is {value!r}, which does not divide into {parts} "
            f"{divisor}; choose multiples of {divisor}"
        )


def check_channels(module: nn.Module, images: jax.Array, channels: int) -> None:
    """Images or latents are floating-point `[B, H, W, channels]`.

    Args:
        module: the model called.
        images: what it was called with.
        channels: how many channels it was made for.

    Raises:
        InputError: they have another shape, or are integers.
    """
    check_images(module, images)
    if images.shape[-1] != channels:
        raise InputError(
            f"{type(module).__name__} was made for {channels} channels, but these images have "
            f"shape {images.shape}; make it with their number of channels"
        )
