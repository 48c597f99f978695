"""A task whose batches are computed in micro-batches, one after the other, to save memory.

    l_i = losses(params, micro-batch of i),     gradient = sum over micro-batches, in one loop

Losses are per example, so whatever a method makes of them (a mean, weights, two gradients) is that
of the whole batch, and no method knows. The backward pass computes each micro-batch's forward pass
anew: memory is that of one micro-batch, for one more forward pass.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.tasks.latent_diffusion import FIRST_STAGE
from jaxunlearn.tasks.narrowed import FROZEN
from jaxunlearn.types import Batch, InputError, ModelState, Params, Task


def accumulated(task: Task, micro_batch: int) -> Task:
    """The task in micro-batches: the same losses, outputs and predictions, but for rounding.

    Batches that are no multiple of a micro-batch are computed whole; `check_micro_batch` refuses
    them in steps. Dropout draws a mask for each micro-batch.

    Args:
        task: what is unlearned. Its examples must not depend on one another, but for the mirrored
            timesteps of diffusion, whose pairs stay together in even micro-batches.
        micro_batch: how many examples are computed at once.

    Returns:
        A `Task`.

    Raises:
        InputError: micro-batches of less than one example, odd ones of a model that generates, or a
            model with batch statistics: those of a micro-batch are others.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = accumulated(classification(model, image_shape=(8, 8, 1), num_classes=10), 2)
        >>> task.predict(*task.init(jax.random.key(0)), {"image": jnp.zeros((6, 8, 8, 1))}).shape
        (6, 10)
    """
    if micro_batch < 1:
        raise InputError(f"micro_batch is {micro_batch}, but must be 1 or more, or 0 for none.")
    if task.predict is None and micro_batch % 2:
        raise InputError(
            f"micro_batch is {micro_batch}, but must be even for a model that generates, whose "
            f"examples are drawn in pairs; take {micro_batch + 1}."
        )
    _, model_state = jax.eval_shape(task.init, jax.random.key(0))
    if model_state.keys() - {FROZEN, FIRST_STAGE}:
        raise InputError(
            f"micro_batch is {micro_batch}, but the model keeps statistics of whole batches, which "
            "micro-batches do not have; choose a model without BatchNorm, such as norm=group, or "
            "set micro_batch to 0."
        )

    def in_shares(function: Callable[..., Any], batch: Batch) -> Any:
        """`function(share)` of each share of the batch, and their results put together."""
        size = len(jax.tree.leaves(batch)[0])
        if size <= micro_batch or size % micro_batch:
            return function(batch)
        # Every so many examples one: each share lies on all devices that share the batch, and has
        # both of the two examples that lie half a batch apart.
        shares = jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape(micro_batch, -1, *x.shape[1:]), 0, 1), batch
        )
        results = jax.lax.map(jax.checkpoint(function, prevent_cse=False), shares)
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(size, *x.shape[2:]), results)

    def of_examples(function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of the task that returns something for each example, and the model state."""

        def whole(
            params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
        ) -> tuple[jax.Array, ModelState]:
            def share(part: Batch) -> jax.Array:
                return function(params, model_state, part, key, train)[0]

            return in_shares(share, batch), model_state

        return whole

    def predict(params: Params, model_state: ModelState, batch: Batch) -> jax.Array:
        assert task.predict is not None
        predict = task.predict
        return in_shares(lambda part: predict(params, model_state, part), batch)

    return task._replace(
        losses=of_examples(task.losses),
        predict=predict if task.predict else None,
        outputs=of_examples(task.outputs) if task.outputs else None,
        forget_losses=of_examples(task.forget_losses) if task.forget_losses else None,
        saliency_losses=of_examples(task.saliency_losses) if task.saliency_losses else None,
    )


def check_micro_batch(micro_batch: int, **batch_sizes: int) -> None:
    """Raises unless every batch is a whole number of micro-batches, or smaller than one.

    Raises:
        InputError: one is not.
    """
    for name, size in batch_sizes.items():
        if micro_batch and size > micro_batch and size % micro_batch:
            raise InputError(
                f"{name} is {size}, but must be a multiple of micro_batch, {micro_batch}, or at "
                f"most that; the nearest is {round(size / micro_batch) * micro_batch}."
            )
