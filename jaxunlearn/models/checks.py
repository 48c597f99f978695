"""What every model asks of its configuration and of the images it is given.

A check reads one field of a module and raises `InputError` with the value found, what is allowed
and an example; it runs while the module is built, before any array exists.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.types import InputError

_DTYPES = ("float32", "bfloat16")


def _refuse(module: nn.Module, field: str, allowed: str) -> InputError:
    value = getattr(module, field)
    return InputError(f"{type(module).__name__}.{field} is {value!r}, but it must be {allowed}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_whole(module: nn.Module, *fields: str) -> None:
    """Each field is a whole number of at least 1.

    Args:
        module: the module being built.
        *fields: names of its fields.

    Raises:
        InputError: a field is something else.
    """
    for field in fields:
        value = getattr(module, field)
        if not _is_whole(value) or value < 1:
            raise _refuse(module, field, "a whole number of at least 1")


def check_wholes(module: nn.Module, field: str, example: tuple, *, empty: bool = False) -> None:
    """The field is a tuple of whole numbers of at least 1.

    Args:
        module: the module being built.
        field: name of its field.
        example: a good value, shown in the error.
        empty: whether the empty tuple is allowed too.

    Raises:
        InputError: the field is something else.
    """
    value = getattr(module, field)
    good = isinstance(value, tuple | list) and all(_is_whole(v) and v >= 1 for v in value)
    if not good or not (value or empty):
        raise _refuse(module, field, f"a tuple of whole numbers of at least 1, such as {example}")


def check_choice(module: nn.Module, field: str, allowed: Sequence[str]) -> None:
    """The field is one of the allowed words.

    Args:
        module: the module being built.
        field: name of its field.
        allowed: the words.

    Raises:
        InputError: the field is something else.
    """
    if getattr(module, field) not in tuple(allowed):
        raise _refuse(module, field, "one of " + ", ".join(repr(word) for word in allowed))


def check_positive(module: nn.Module, field: str) -> None:
    """The field is a finite number above 0.

    Args:
        module: the module being built.
        field: name of its field.

    Raises:
        InputError: the field is something else.
    """
    value = getattr(module, field)
    number = isinstance(value, float | np.floating) or _is_whole(value)
    if not number or not 0 < value < float("inf"):
        raise _refuse(module, field, "a finite number above 0")


def check_same_length(module: nn.Module, *fields: str) -> None:
    """The fields are tuples with one entry per stage, so all have the same length.

    Args:
        module: the module being built.
        *fields: names of its fields.

    Raises:
        InputError: the lengths differ.
    """
    lengths = {field: len(getattr(module, field)) for field in fields}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{field} has {length}" for field, length in lengths.items())
        raise InputError(
            f"{type(module).__name__} takes one entry per stage, but {found}; give them the same "
            "number of entries"
        )


def check_dtype(module: nn.Module) -> None:
    """The type that a model computes in is float32 or bfloat16.

    Args:
        module: the module being built.

    Raises:
        InputError: it is another.
    """
    dtype: Any = getattr(module, "dtype", None)
    try:
        known = dtype is not None and jnp.dtype(dtype).name in _DTYPES
    except TypeError:
        known = False
    if not known:
        raise _refuse(module, "dtype", "one of " + ", ".join(_DTYPES))


def check_flags(module: nn.Module, *fields: str) -> None:
    """Each field is True or False.

    Args:
        module: the module being built.
        *fields: names of its fields.

    Raises:
        InputError: a field is something else.
    """
    for field in fields:
        if not isinstance(getattr(module, field), bool):
            raise _refuse(module, field, "True or False")


def check_common(module: nn.Module) -> None:
    """The fields that every model has: num_classes, dtype and, where present, norm and axis_name.

    Args:
        module: the module being built.

    Raises:
        InputError: one of them is not allowed.
    """
    check_whole(module, "num_classes")
    check_dtype(module)
    if hasattr(module, "norm"):
        check_choice(module, "norm", ("batch", "group"))
    axis_name = getattr(module, "axis_name", None)
    if not (axis_name is None or isinstance(axis_name, str)):
        raise _refuse(module, "axis_name", "None or the name of a mapped axis, such as 'batch'")


def check_images(module: nn.Module, images: jax.Array) -> None:
    """Images are floating-point `[B, H, W, C]`: scaled and normalised before they come here.

    Args:
        module: the model called.
        images: what it was called with.

    Raises:
        InputError: the images have another rank, or are integers.
    """
    name = type(module).__name__
    if images.ndim != 4:
        raise InputError(
            f"{name} takes images of shape [B, H, W, C], but these have shape {images.shape}; add "
            "the missing axis"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"{name} takes normalised floating-point images, but these are {images.dtype}; scale "
            "and normalise them first"
        )
