"""Saliency masks from whole data sets: what `Method.init` computes before the first step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxunlearn.transforms import fisher_diagonal, fisher_ratio_mask, top_fraction_mask
from jaxunlearn.types import Arrays, InputError, ModelState, Params, Task

MASKS = ("saliency", "random")
_SHUFFLE_CHILD = 4  # of the run's key


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
    losses_fn = _plain_losses(task, model_state, arrays, key)
    return fisher_diagonal(losses_fn, params, _stacked_indices(arrays, batch_size), per_example)


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
    of_forget, of_retain = (
        fisher_of(
            task,
            key,
            params,
            model_state,
            arrays,
            per_example=per_example,
            batch_size=batch_size,
        )
        for arrays in (forget, retain)
    )
    return fisher_ratio_mask(of_forget, of_retain, threshold)


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


def arranged(choice: str) -> Callable[[Any, jax.Array], Any]:
    """What stands in the place of a saliency mask: itself, or a random one as its control.

    The random mask is a shuffle of the salient one over the whole tree, drawn by the run's key: it
    has just as many ones, anywhere. A method that does as well with it owes nothing to saliency.

    Args:
        choice: "saliency" or "random".

    Returns:
        `(mask, key of the run) -> mask`.

    Raises:
        InputError: another choice.

    Example:
        >>> shuffled = arranged("random")(jnp.arange(8) < 3, jax.random.key(0))
        >>> int(shuffled.sum())
        3
    """
    if choice not in MASKS:
        raise InputError(f"mask is {choice!r}, but must be one of {', '.join(MASKS)}.")

    def shuffled(mask: Any, key: jax.Array) -> Any:
        entries, in_place = ravel_pytree(mask)
        return in_place(jax.random.permutation(jax.random.fold_in(key, _SHUFFLE_CHILD), entries))

    return shuffled if choice == "random" else lambda mask, key: mask
