"""Checks and small readings that the transformations share."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.types import InputError


def value_at(scalar_or_schedule: optax.ScalarOrSchedule, count: jax.Array) -> jax.Array:
    """A number, or what a schedule says at `count`, as a float32 array of its own.

    A copy, because states are donated and the caller's arrays are not.
    """
    value = scalar_or_schedule(count) if callable(scalar_or_schedule) else scalar_or_schedule
    return jnp.array(value, jnp.float32)


def scalar(value: Any, name: str) -> jax.Array:
    """A floating-point scalar as a float32 array of its own.

    Raises:
        InputError: it has another shape or type.
    """
    array = jnp.asarray(value)
    if array.ndim != 0 or not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(
            f"{name} has shape {array.shape} and dtype {array.dtype}, but must be one "
            "floating-point scalar; take the mean over the batch first."
        )
    return jnp.array(array, jnp.float32)


def wide_scalar(value: Any, name: str) -> jax.Array:
    """`scalar`, of a loss whose small changes matter.

    Raises:
        InputError: it is no floating-point scalar, or one of half precision.
    """
    dtype = jnp.asarray(value).dtype
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        raise InputError(
            f"{name} has dtype {dtype}, but must be float32, since small differences of losses "
            "count; compute the loss from logits.astype(jnp.float32)."
        )
    return scalar(value, name)


def check_not_negative(value: jax.Array, name: str, what: str) -> None:
    """Raises where a scalar whose value is known (outside `jit`) is negative by more than rounding.

    Raises:
        InputError: naming it and `what` takes no negative values.
    """
    if not isinstance(value, jax.core.Tracer) and value <= -1e-8:
        raise InputError(f"{name} is {float(value):g}, but must not be negative with {what}.")


def chosen(condition: jax.Array, new: Any, old: Any) -> Any:
    """`new` where the condition holds, else `old`; a tree whose leaves have the types of `old`."""

    def one(new: jax.Array, old: jax.Array) -> jax.Array:
        result = jnp.where(condition, new, old)
        return result if result.dtype == old.dtype else result.astype(old.dtype)

    return jax.tree.map(one, new, old)


def has_masked_nodes(tree: Any) -> bool:
    """Whether `optax.masked` (or `optax.multi_transform`) has taken leaves out of a tree."""
    return any(is_masked(node) for node in jax.tree.leaves(tree, is_leaf=is_masked))


def is_masked(node: Any) -> bool:
    """Whether a node stands for a leaf that `optax.masked` has taken out."""
    return isinstance(node, optax.MaskedNode)


def without_masked(tree: Any, like: Any) -> Any:
    """`tree` without the leaves that `optax.masked` has taken out of `like`."""
    if not has_masked_nodes(like):
        return tree
    try:
        return jax.tree.map(lambda t, u: t if is_masked(t) else u, like, tree, is_leaf=is_masked)
    except ValueError:
        return tree  # of another structure, which `check_like` names


def missing(transformation: str, name: str, how: str) -> InputError:
    """The error of a required keyword that was not given."""
    return InputError(
        f"{transformation} got no {name}; {how}, and put wrappers that drop keywords, such as "
        "optax.lookahead, inside the chain, not around it."
    )


def check_floating(tree: Any, name: str) -> None:
    """Raises unless every leaf of `tree` is a floating-point (or complex) array or number.

    Raises:
        InputError: naming the first leaf that is not.

    Example:
        >>> check_floating({"w": jnp.ones(3)}, "params")
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = getattr(leaf, "dtype", type(leaf))
        if dtype not in (float, complex) and not (
            hasattr(leaf, "dtype") and jnp.issubdtype(dtype, jnp.inexact)
        ):
            raise InputError(
                f"{name} has a leaf of type {getattr(dtype, '__name__', dtype)} at "
                f"{jax.tree_util.keystr(path) or 'its root'}, but all leaves must be "
                "floating-point; partition the model first, for example with "
                "eqx.partition(model, eqx.is_inexact_array)."
            )


def check_like(tree: Any, like: Any, name: str, like_name: str) -> None:
    """Raises unless `tree` has the structure and the shapes of `like`.

    Args:
        tree: the tree to check.
        like: what it must be like.
        name: what the error calls `tree`.
        like_name: what the error calls `like`.

    Raises:
        InputError: naming the first place where the two differ.

    Example:
        >>> check_like({"w": jnp.ones(3)}, {"w": jnp.zeros(3)}, "the mask", "the parameter tree")
    """
    mend = "build one from the other with jax.tree.map."
    found, wanted = (
        {
            jax.tree_util.keystr(path): f"shape {jnp.shape(leaf)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(side)
        }
        for side in (tree, like)
    )
    for path in [*wanted, *found]:
        here, there = found.get(path, "nothing"), wanted.get(path, "nothing")
        if here != there:
            raise InputError(
                f"{name} has {here} at {path or 'its root'}, where {like_name} has {there}; {mend}"
            )
    structures: list[Any] = [jax.tree.structure(side) for side in (tree, like)]
    if structures[0] != structures[1]:
        raise InputError(
            f"{name} has other containers than {like_name} (such as a list for a tuple); {mend}"
        )
