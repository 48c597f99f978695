"""Passes over whole data sets, batch by batch, in evaluation mode: what `Method.init` may do."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.transforms import fisher_diagonal
from jaxunlearn.types import Arrays, ModelState, Params, Task, unvisited

_ORDER_CHILD = 6  # of the run's key


def batches_of(
    arrays: Arrays, batch_size: int, key: jax.Array, num_batches: int = 0
) -> tuple[jax.Array, jax.Array]:
    """All examples, or some at random, in random batches.

    Which examples are drawn, and which share a batch, depends on their indices and on the key, not
    on the order in which they are stored.

    Args:
        arrays: the examples.
        batch_size: B, at most; fewer if there are fewer examples.
        key: the key of the run.
        num_batches: N, at most; 0 takes all examples.

    Returns:
        Positions `[N, B]`, and weights `[N, B]`: 1, or 0 where an incomplete last batch is filled
        up.
    """
    child = jax.random.fold_in(key, _ORDER_CHILD)
    draws = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(child, i)))(arrays["index"])
    order = jnp.argsort(draws)
    size = len(order)
    batch_size = min(batch_size, size)
    count = -(-size // batch_size)
    places = jnp.arange(count * batch_size).reshape(count, batch_size)[: num_batches or count]
    return order[places % size], (places < size).astype(jnp.float32)


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


def plain_losses(
    task: Task, model_state: ModelState, arrays: Arrays, key: jax.Array
) -> Callable[[Params, jax.Array], jax.Array]:
    """`(params, positions [B]) -> losses [B]`, without augmentation or batch statistics."""

    def losses_fn(params: Params, positions: jax.Array) -> jax.Array:
        return task.losses(params, model_state, unvisited(arrays, positions), key, False)[0]

    return losses_fn


def saliency_losses(
    task: Task, model_state: ModelState, arrays: Arrays, key: jax.Array
) -> Callable[[Params, jax.Array], jax.Array]:
    """The same, with the gradients that tell how much each parameter matters."""
    return plain_losses(
        task._replace(losses=task.saliency_losses or task.losses), model_state, arrays, key
    )


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
    losses_fn = saliency_losses(task, model_state, arrays, key)
    positions, weights = batches_of(arrays, batch_size, key, num_batches)
    return fisher_diagonal(losses_fn, params, positions, per_example, weights=weights)


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


def gradient_of(
    losses_fn: Callable[[Params, jax.Array], jax.Array],
    params: Params,
    arrays: Arrays,
    batch_size: int,
    key: jax.Array,
) -> Params:
    """The gradient of the sum of all losses, batch by batch: a tree like the parameters."""

    def add(total: Params, batch: tuple[jax.Array, jax.Array]) -> tuple[Params, None]:
        positions, weights = batch
        gradient = jax.grad(lambda p: jnp.sum(weights * losses_fn(p, positions)))(params)
        return jax.tree.map(jnp.add, total, gradient), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, batches_of(arrays, batch_size, key))[0]
