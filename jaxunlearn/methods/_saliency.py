"""Saliency masks from whole data sets: what `Method.init` computes before the first step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.transforms import fisher_diagonal, fisher_ratio_mask, top_fraction_mask
from jaxunlearn.types import Arrays, ModelState, Params, Task


def _stacked_indices(arrays: Arrays, batch_size: int) -> jax.Array:
    """Positions of all examples as `[N, B]`; the last incomplete batch is left out."""
    size = arrays["label"].shape[0]
    batch_size = min(batch_size, size)
    count = size // batch_size
    return jnp.arange(count * batch_size).reshape(count, batch_size)


def _plain_losses(
    task: Task, model_state: ModelState, arrays: Arrays, key: jax.Array
) -> Callable[[Params, jax.Array], jax.Array]:
    """`(params, positions [B]) -> losses [B]`, without augmentation or batch statistics."""

    def losses_fn(params: Params, positions: jax.Array) -> jax.Array:
        batch = {name: values[positions] for name, values in arrays.items()}
        batch["epoch"] = jnp.zeros_like(batch["index"])
        return task.losses(params, model_state, batch, key, False)[0]

    return losses_fn


def fisher_mask(
    task: Task,
    key: jax.Array,
    params: Params,
    model_state: ModelState,
    forget: Arrays,
    retain: Arrays,
    *,
    threshold: float | jax.Array,
    per_example: bool,
    batch_size: int,
) -> Any:
    """`1[F_forget / F_retain >= threshold]`, with the Fisher diagonals over all of the data."""

    def diagonal(arrays: Arrays) -> Any:
        losses_fn = _plain_losses(task, model_state, arrays, key)
        return fisher_diagonal(losses_fn, params, _stacked_indices(arrays, batch_size), per_example)

    return fisher_ratio_mask(diagonal(forget), diagonal(retain), threshold)


def gradient_mask(
    task: Task,
    key: jax.Array,
    params: Params,
    model_state: ModelState,
    forget: Arrays,
    *,
    fraction: float | jax.Array,
    batch_size: int,
) -> Any:
    """The given fraction of parameters with the largest summed forget gradient."""
    losses_fn = _plain_losses(task, model_state, forget, key)

    def add(total: Params, positions: jax.Array) -> tuple[Params, None]:
        gradient = jax.grad(lambda p: jnp.mean(losses_fn(p, positions)))(params)
        return jax.tree.map(jnp.add, total, gradient), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    total, _ = jax.lax.scan(add, zeros, _stacked_indices(forget, batch_size))
    return top_fraction_mask(total, fraction)
