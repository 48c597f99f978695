"""Saliency masks from whole data sets: what `Method.init` computes before the first step."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from jax.flatten_util import ravel_pytree

from jaxunlearn.methods._passes import fisher_pair, gradient_of, saliency_losses
from jaxunlearn.transforms import fisher_ratio_mask, top_fraction_mask
from jaxunlearn.types import Arrays, InputError, ModelState, Params, Task

MaskName = Literal["saliency", "random"]
MASKS: tuple[str, ...] = get_args(MaskName)
_SHUFFLE_CHILD = 4  # of the run's key


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
    num_batches: int,
) -> Any:
    """`1[F_forget / F_retain >= threshold]`, each over random batches, or (0) over all its data."""
    of_forget, of_retain = fisher_pair(
        task,
        key,
        params,
        model_state,
        forget,
        retain,
        per_example=per_example,
        batch_size=batch_size,
        num_batches=num_batches,
    )
    return fisher_ratio_mask(of_forget, of_retain, threshold=threshold)


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
    losses_fn = saliency_losses(task, model_state, forget, key)
    total = gradient_of(losses_fn, params, forget, batch_size, key)
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
        >>> import jax.numpy as jnp
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
