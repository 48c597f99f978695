"""Passes over whole data sets, batch by batch, in evaluation mode: what `Method.init` may do."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.transforms import fisher_diagonal
from jaxunlearn.types import Arrays, ModelState, Params, Task, unvisited

_ORDER_CHILD = 6  # of the run's key


def stacked_positions(arrays: Arrays, batch_size: int) -> jax.Array:
    """Positions of all examples as `[N, B]`; the last incomplete batch is left out."""
    size = arrays["label"].shape[0]
    batch_size = min(batch_size, size)
    count = size // batch_size
    return jnp.arange(count * batch_size).reshape(count, batch_size)


def mean_over(arrays: Arrays, batch_size: int, values_of: Callable[[jax.Array], Any]) -> Any:
    """The mean over all examples, batch by batch; the last batch counts by what it has of them.

    Args:
        arrays: the examples, N of them.
        batch_size: how many are looked at at once.
        values_of: `positions [B] -> values [B]`, an array or a tree of them.

    Returns:
        Scalars, of the same tree.
    """
    size = arrays["label"].shape[0]
    batch_size = min(batch_size, size)
    places = jnp.arange(-(-size // batch_size) * batch_size).reshape(-1, batch_size)

    def total(some: jax.Array) -> Any:
        values = values_of(jnp.minimum(some, size - 1))
        return jax.tree.map(lambda each: jnp.sum(jnp.where(some < size, each, 0.0)), values)

    return jax.tree.map(lambda sums: jnp.sum(sums) / size, jax.lax.map(total, places))


def drawn_positions(arrays: Arrays, batch_size: int, num_batches: int, key: jax.Array) -> jax.Array:
    """Positions of random examples, none twice, as `[N, B]`: at most so many batches of them."""
    size = arrays["label"].shape[0]
    order = jax.random.permutation(jax.random.fold_in(key, _ORDER_CHILD), size)
    return order[stacked_positions(arrays, batch_size)[:num_batches]]


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
    num_batches: int = 0,
) -> Any:
    """The Fisher diagonal over random batches, or (0) all data: a tree like the parameters."""
    losses_fn = plain_losses(task, model_state, arrays, key)
    if num_batches:
        positions = drawn_positions(arrays, batch_size, num_batches, key)
    else:
        positions = stacked_positions(arrays, batch_size)
    return fisher_diagonal(losses_fn, params, positions, per_example)


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
    num_batches: int = 0,
) -> tuple[Any, Any]:
    """The Fisher diagonals over the forget and over the retain data."""

    def fisher(arrays: Arrays) -> Any:
        return fisher_of(
            task,
            key,
            params,
            model_state,
            arrays,
            per_example=per_example,
            batch_size=batch_size,
            num_batches=num_batches,
        )

    return fisher(forget), fisher(retain)
