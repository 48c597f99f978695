"""Pairs of gradients: what the aggregators share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.transforms._checks import (
    check_floating,
    check_like,
    missing,
    wide_scalar,
    without_masked,
)
from jaxunlearn.types import LossPair


def aggregator(
    name: str, rule: Callable[..., Any], init_fn: Callable[[optax.Params], Any]
) -> optax.GradientTransformationExtraArgs:
    """The transformation of `rule(pair of gradients, state, **keywords) -> (updates, state)`."""

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        retain_grads: optax.Updates | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, Any]:
        del params
        result: tuple[optax.Updates, Any] = rule(_pair(updates, retain_grads, name), state, **extra)
        return result

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def dot(x: Any, y: Any) -> jax.Array:
    """The inner product of whole trees in float32; `optax.tree.vdot` would flatten every leaf."""
    product = optax.tree.mul(*(optax.tree.cast(tree, jnp.float32) for tree in (x, y)))
    return jnp.asarray(optax.tree.sum(product), jnp.float32)


def inner_products(pair: LossPair) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`a = |g_r|^2`, `b = |g_f|^2`, `c = <g_r, g_f>`."""
    forget, retain = pair
    return dot(retain, retain), dot(forget, forget), dot(retain, forget)


def combine(pair: LossPair, forget_weight: jax.Array, retain_weight: jax.Array) -> Any:
    return jax.tree.map(
        lambda f, r: (forget_weight * f + retain_weight * r).astype(f.dtype),
        pair.forget,
        pair.retain,
    )


def _pair(forget_grads: Any, retain_grads: Any, name: str) -> LossPair:
    """Both gradients; leaves that `optax.masked` removed from the first are removed from both."""
    if retain_grads is None:
        raise missing(
            name,
            "retain_grads",
            "pass the retain gradient, tx.update(forget_grads, state, params, retain_grads=...)",
        )
    retain_grads = without_masked(retain_grads, forget_grads)
    for tree, which in ((forget_grads, "forget"), (retain_grads, "retain")):
        check_floating(tree, f"the {which} gradient")
    check_like(retain_grads, forget_grads, "the retain gradient", "the forget gradient")
    return LossPair(forget_grads, retain_grads)


def required(value: Any, name: str, transformation: str) -> jax.Array:
    if value is None:
        raise missing(transformation, name, f"pass the loss, tx.update(..., {name}=...)")
    return wide_scalar(value, name)
