"""Checks and small helpers that the transformations share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.types import InputError


def value_at(scalar_or_schedule: optax.ScalarOrSchedule, count: jax.Array) -> jax.Array:
    """A number, or the value of a schedule, as float32; a copy, since states are donated."""
    value = scalar_or_schedule(count) if callable(scalar_or_schedule) else scalar_or_schedule
    return jnp.array(value, jnp.float32)


def scalar(value: Any, name: str) -> jax.Array:
    """A floating-point scalar as a new float32 array; an InputError for anything else."""
    array = jnp.asarray(value)
    if array.ndim != 0 or not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(
            f"{name} has shape {array.shape} and dtype {array.dtype}, but must be one "
            "floating-point scalar; take the mean over the batch first."
        )
    return jnp.array(array, jnp.float32)


def wide_scalar(value: Any, name: str) -> jax.Array:
    """`scalar`, but refuses half precision, for a loss whose small changes matter."""
    dtype = jnp.asarray(value).dtype
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        raise InputError(
            f"{name} has dtype {dtype}, but must be float32, since small changes of the loss "
            "count; compute it from logits.astype(jnp.float32)."
        )
    return scalar(value, name)


def check_not_negative(value: jax.Array, name: str, what: str) -> None:
    """Outside `jit`, raises an InputError if a scalar is negative by more than rounding."""
    if not isinstance(value, jax.core.Tracer) and value <= -1e-8:
        raise InputError(f"{name} is {float(value):g}, but must not be negative with {what}.")


def chosen(condition: jax.Array, new: Any, old: Any) -> Any:
    """`new` if the condition holds, else `old`, in the dtypes of `old` under x64 too."""
    return optax.tree.cast_like(optax.tree.where(condition, new, old), old)


def has_masked_nodes(tree: Any) -> bool:
    """Whether `optax.masked` (or `optax.multi_transform`) has removed leaves from a tree."""
    return any(map(_is_masked, jax.tree.leaves(tree, is_leaf=_is_masked)))


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def without_masked(tree: Any, like: Any) -> Any:
    """`tree` without the leaves that `optax.masked` has removed from `like`."""
    if not has_masked_nodes(like):
        return tree
    try:
        return jax.tree.map(lambda t, u: t if _is_masked(t) else u, like, tree, is_leaf=_is_masked)
    except ValueError:
        return tree  # of another structure, which `check_like` reports


def missing(transformation: str, name: str, how: str) -> InputError:
    """The error for a missing keyword."""
    return InputError(
        f"{transformation} got no {name}; {how}, and put wrappers that drop keywords, such as "
        "optax.lookahead, inside the chain, not around it."
    )


def nodes(tree: Any, wanted: Callable[[Any], bool]) -> list[Any]:
    """The outermost nodes of a tree that satisfy a condition."""
    return [node for node in jax.tree.leaves(tree, is_leaf=wanted) if wanted(node)]


def only(opt_state: optax.OptState, wanted: Callable[[Any], bool], name: str) -> Any:
    """The state of a transformation in an optimizer state, with plain arrays for leaves.

    Raises:
        InputError: there is none, or there are several.
    """
    found = nodes(opt_state, wanted)
    if len(found) != 1:
        raise InputError(
            f"the optimizer state holds {len(found) or 'no'} {name}, but must hold exactly one; "
            f"pass the state of a chain with one {name}(...), with its NamedTuples intact (restore "
            "a checkpoint into the structure of tx.init(params))."
        )
    return unboxed(found[0])


def unboxed(opt_state: optax.OptState) -> optax.OptState:
    """`opt_state` with plain arrays in place of the variables of `nnx.Optimizer`."""

    def boxed(node: Any) -> bool:
        return hasattr(node, "__jax_array__")

    return jax.tree.map(lambda x: jnp.asarray(x) if boxed(x) else x, opt_state, is_leaf=boxed)


def check_floating(tree: Any, name: str) -> None:
    """Raises an InputError unless all leaves are floating-point (or complex) arrays or numbers."""
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
    """Raises an InputError unless `tree` has the structure and the shapes of `like`."""
    remedy = "build one from the other with jax.tree.map."
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
                f"{name} has {here} at {path or 'its root'}, where {like_name} has {there}; "
                f"{remedy}"
            )
    structures: list[Any] = [jax.tree.structure(side) for side in (tree, like)]
    if structures[0] != structures[1]:
        raise InputError(
            f"{name} has other containers than {like_name} (such as a list instead of a tuple); "
            f"{remedy}"
        )
