"""Checks of a model's fields and inputs, shared by all models.

Fields are checked while the module is built, before any array exists. The `InputError` gives the
value, the allowed values and an example.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.types import InputError

_DTYPES = ("float32", "bfloat16")


def refused(module: nn.Module, field: str, allowed: str) -> InputError:
    """The error for a value of a field that is not allowed."""
    value = getattr(module, field)
    return InputError(f"{type(module).__name__}.{field} is {value!r}, but must be {allowed}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_whole(module: nn.Module, *fields: str) -> None:
    """Each field is a whole number of at least 1."""
    for field in fields:
        value = getattr(module, field)
        if not _is_whole(value) or value < 1:
            raise refused(module, field, "a whole number of at least 1")


def check_wholes(module: nn.Module, field: str, example: tuple, *, empty: bool = False) -> None:
    """The field is a tuple of whole numbers of at least 1, which may be `empty`."""
    value = getattr(module, field)
    good = isinstance(value, tuple | list) and all(_is_whole(v) and v >= 1 for v in value)
    if not good or not (value or empty):
        raise refused(module, field, f"a tuple of whole numbers of at least 1, such as {example}")


def check_choice(module: nn.Module, field: str, allowed: Sequence[str]) -> None:
    """The field is one of the allowed words."""
    if getattr(module, field) not in tuple(allowed):
        raise refused(module, field, "one of " + ", ".join(repr(word) for word in allowed))


def check_positive(module: nn.Module, field: str) -> None:
    """The field is a finite number above 0."""
    value = getattr(module, field)
    number = isinstance(value, float | np.floating) or _is_whole(value)
    if not number or not 0 < value < float("inf"):
        raise refused(module, field, "a finite number above 0")


def check_same_length(module: nn.Module, *fields: str) -> None:
    """The fields are tuples with one entry per stage, of the same length."""
    lengths = {field: len(getattr(module, field)) for field in fields}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{field} has {length}" for field, length in lengths.items())
        raise InputError(
            f"fields of {type(module).__name__} must have one entry per stage, but {found}; give "
            "them the same number of entries."
        )


def check_dtype(module: nn.Module) -> None:
    """The type of the computation is float32 or bfloat16."""
    dtype: Any = getattr(module, "dtype", None)
    try:
        known = dtype is not None and jnp.dtype(dtype).name in _DTYPES
    except TypeError:
        known = False
    if not known:
        raise refused(module, "dtype", "one of " + ", ".join(_DTYPES))


def check_flags(module: nn.Module, *fields: str) -> None:
    """Each field is True or False."""
    for field in fields:
        if not isinstance(getattr(module, field), bool):
            raise refused(module, field, "True or False")


def check_levels(module: Any) -> None:
    """The levels with attention are levels of `widths`, counted from 1."""
    if any(level > len(module.widths) for level in module.attention_levels):
        raise refused(module, "attention_levels", f"levels from 1 to {len(module.widths)}")


def check_divides(module: nn.Module, field: str, divisor: str) -> None:
    """A width, or every width of a tuple, is a multiple of another field, such as "groups"."""
    value, parts = getattr(module, field), getattr(module, divisor)
    widths = value if isinstance(value, tuple | list) else (value,)
    if any(width % parts for width in widths):
        raise refused(module, field, f"a multiple of the {parts} {divisor}")


def check_common(module: nn.Module, norms: Sequence[str] = ("batch", "group")) -> None:
    """The fields of every classifier: num_classes, dtype and, where present, norm and axis_name."""
    check_whole(module, "num_classes")
    check_dtype(module)
    if hasattr(module, "norm"):
        check_choice(module, "norm", norms)
    axis_name = getattr(module, "axis_name", None)
    if not (axis_name is None or isinstance(axis_name, str)):
        raise refused(module, "axis_name", "None or the name of a mapped axis, such as 'batch'")


def check_images(
    module: nn.Module, images: jax.Array, channels: int | None = None, features: bool = False
) -> None:
    """Images are floating-point `[B, H, W, C]`, with the given number of channels if any.

    With `features`, the module also takes features `[B, F]`.
    """
    name = type(module).__name__
    if images.ndim != 4 and not (features and images.ndim == 2):
        remedy = "choose the model mlp for features" if images.ndim == 2 else "add the missing axis"
        raise InputError(
            f"images for {name} have shape {images.shape}, but must have shape [B, H, W, C]; "
            f"{remedy}."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"images for {name} are {images.dtype}, but must be normalised floating-point numbers; "
            "scale and normalise them first."
        )
    if channels is not None and images.shape[-1] != channels:
        raise InputError(
            f"images for {name} have shape {images.shape}, but must have {channels} channels; make "
            "the model with the channels of the images."
        )


def check_sides(module: nn.Module, images: tuple[int, ...], divisor: int, remedy: str) -> None:
    """The sides of images, `(height, width, ...)`, are multiples of a divisor."""
    height, width = images[:2]
    if height % divisor or width % divisor:
        raise InputError(
            f"images for {type(module).__name__} are {height}x{width}, but must have sides that "
            f"are multiples of {divisor}; {remedy}."
        )
