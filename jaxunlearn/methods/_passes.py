"""Passes over whole data sets, batch by batch, in evaluation mode, for `Method.init`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.methods._build import Start
from jaxunlearn.transforms import fisher_diagonal
from jaxunlearn.types import Arrays, ModelState, Params, Task, unvisited

_ORDER_CHILD = 6  # of the run's key


def batches_of(
    arrays: Arrays, batch_size: int, key: jax.Array, num_batches: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Random batches of all examples, or at most `num_batches` of them if it is not 0.

    The draw depends on the key and on the indices of the examples, not on their order in memory.
    Returns positions `[N, B]`, and weights `[N, B]`: 1 for an example, 0 for padding.
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
    """The mean over all examples of `values_of(positions [B]) -> tree of [B]`, batch by batch."""
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
    """`plain_losses` of `task.saliency_losses`, if the task has them."""
    return plain_losses(
        task._replace(losses=task.saliency_losses or task.losses), model_state, arrays, key
    )


def fisher_of(
    task: Task,
    start: Start,
    arrays: Arrays,
    batch_size: int,
    *,
    per_example: bool = True,
    num_batches: int = 0,
    clip_gradients: float | jax.Array | None = None,
) -> Any:
    """The Fisher diagonal over `num_batches` random batches (0 for all): a tree like `params`."""
    losses_fn = saliency_losses(task, start.model_state, arrays, start.key)
    positions, weights = batches_of(arrays, batch_size, start.key, num_batches)
    return fisher_diagonal(
        losses_fn,
        start.params,
        positions,
        per_example,
        weights=weights,
        clip_norm=clip_gradients,
    )


def gradient_of(
    losses_fn: Callable[[Params, jax.Array], jax.Array],
    params: Params,
    arrays: Arrays,
    batch_size: int,
    key: jax.Array,
) -> Params:
    """The gradient of the sum of all losses, batch by batch: a tree like `params`."""

    def add(total: Params, batch: tuple[jax.Array, jax.Array]) -> tuple[Params, None]:
        positions, weights = batch
        gradient = jax.grad(lambda p: jnp.sum(weights * losses_fn(p, positions)))(params)
        return jax.tree.map(jnp.add, total, gradient), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, batches_of(arrays, batch_size, key))[0]


def fisher_over_timesteps(
    task: Task, start: Start, arrays: Arrays, batch_size: int, num_batches: int = 0
) -> Any:
    """The Fisher diagonal of a diffusion, whose bound of an example sums over all timesteps.

        F = mean_i (grad sum_t l_i(t))^2

    The examples are those of `fisher_of`; each takes T / batch_size passes, with fresh noise at
    each timestep.
    """
    count = task.num_timesteps
    assert count is not None
    steps = -(-count // batch_size) * batch_size
    timesteps = jnp.arange(steps).reshape(-1, batch_size)
    losses_of = task.saliency_losses or task.losses
    zeros = jax.tree.map(jnp.zeros_like, start.params)

    def of_example(position: jax.Array) -> Params:
        def add(total: Params, some: jax.Array) -> tuple[Params, None]:
            levels = jnp.minimum(some, count - 1)
            batch = unvisited(arrays, jnp.full_like(some, position))
            batch |= {"timestep": levels, "epoch": levels}

            def loss(params: Params) -> jax.Array:
                losses, _ = losses_of(params, start.model_state, batch, start.key, False)
                return jnp.sum(jnp.where(some < count, losses, 0.0))

            return jax.tree.map(jnp.add, total, jax.grad(loss)(start.params)), None

        return jax.lax.scan(add, zeros, timesteps)[0]

    def add_square(total: Params, one: tuple[jax.Array, jax.Array]) -> tuple[Params, None]:
        position, weight = one
        squares = jax.tree.map(lambda g: weight * g**2, of_example(position))
        return jax.tree.map(jnp.add, total, squares), None

    positions, weights = batches_of(arrays, batch_size, start.key, num_batches)
    total, _ = jax.lax.scan(add_square, zeros, (positions.ravel(), weights.ravel()))
    return jax.tree.map(lambda leaf: leaf / jnp.sum(weights), total)
