"""Passes over whole data sets, batch by batch, in evaluation mode: what `Method.init` may do."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.transforms import fisher_diagonal
from jaxunlearn.types import Arrays, ModelState, Params, Task, unvisited


def stacked_positions(arrays: Arrays, batch_size: int) -> jax.Array:
    """Positions of all examples as `[N, B]`; the last incomplete batch is left out."""
    size = arrays["label"].shape[0]
    batch_size = min(batch_size, size)
    count = size // batch_size
    return jnp.arange(count * batch_size).reshape(count, batch_size)


def plain_losses(
    task: Task, model_state: ModelState, arrays: Arrays, key: jax.Array
) -> Callable[[Params, jax.Array], jax.Array]:
    """`(params, positions [B]) -> losses [B]`, without augmentation or batch statistics."""

    def losses_fn(params: Params, positions: jax.Array) -> jax.Array:
        return task.losses(params, model_state, unvisited(arrays, positions), key, False)[0]

    return losses_fn


def fisher_of(
    task: Task,
    key: jax.Array,
    params: Params,
    model_state: ModelState,
    arrays: Arrays,
    *,
    per_example: bool,
    batch_size: int,
) -> Any:
    """The Fisher diagonal over all of the data: a tree like the parameters."""
    losses_fn = plain_losses(task, model_state, arrays, key)
    return fisher_diagonal(losses_fn, params, stacked_positions(arrays, batch_size), per_example)


def fisher_pair(
    task: Task,
    key: jax.Array,
    params: Params,
    model_state: ModelState,
    forget: Arrays,
    retain: Arrays,
    *,
    per_example: bool,
    batch_size: int,
) -> tuple[Any, Any]:
    """The Fisher diagonals over all of the forget and all of the retain data."""

    def fisher(arrays: Arrays) -> Any:
        return fisher_of(
            task,
            key,
            params,
            model_state,
            arrays,
            per_example=per_example,
            batch_size=batch_size,
        )

    return fisher(forget), fisher(retain)
