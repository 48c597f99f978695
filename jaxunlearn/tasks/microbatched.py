"""A task that computes each batch in micro-batches, one after another, to save memory.

    l_i = losses(params, micro-batch of i),     gradient = sum over micro-batches, in one loop

Losses are per example, so a method sees the losses of the whole batch and may use them in any way
(a mean, weights, two gradients). The backward pass repeats the forward pass of each micro-batch:
one more forward pass, with the memory of one micro-batch.
"""

from collections.abc import Callable
from typing import Any

import jax
from optax.microbatching import AccumulationType, microbatch

from jaxunlearn.methods.wrapped import wrapped
from jaxunlearn.models.frameworks import BUFFERS, RNGS
from jaxunlearn.tasks.latent_diffusion import FIRST_STAGE
from jaxunlearn.tasks.trainable_subset import FROZEN
from jaxunlearn.types import Batch, InputError, ModelState, Params, Task


def microbatched(task: Task, micro_batch: int) -> Task:
    """The task in micro-batches: equal losses, outputs and predictions, up to rounding.

    A batch that is not a multiple of a micro-batch is computed whole; `check_micro_batch` refuses
    it in steps. Dropout draws one mask per micro-batch.

    Args:
        task: the task. Its examples must not depend on one another, except for the mirrored
            timesteps of diffusion, whose pairs stay together in even micro-batches.
        micro_batch: number of examples computed at once.

    Raises:
        InputError: micro-batches below one example, odd ones for a generative model, or a model
            with batch statistics, which would be statistics of micro-batches.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = microbatched(classification(model, image_shape=(8, 8, 1), num_classes=10), 2)
        >>> task.predict(*task.init(jax.random.key(0)), {"image": jnp.zeros((6, 8, 8, 1))}).shape
        (6, 10)
    """
    if micro_batch < 1:
        raise InputError(f"micro_batch is {micro_batch}, but must be 1 or more, or 0 for none.")
    if task.predict is None and micro_batch % 2:
        raise InputError(
            f"micro_batch is {micro_batch}, but must be even for a generative model, which draws "
            f"its examples in pairs; take {micro_batch + 1}."
        )
    if statistics_of(task):
        raise InputError(
            f"micro_batch is {micro_batch}, but must be 0 for a model with statistics of whole "
            "batches; set it to 0, or choose a model without BatchNorm, such as norm=group."
        )

    def in_micro_batches(function: Callable[..., Any]) -> Callable[..., Any]:
        def whole(
            params: Params, model_state: ModelState, batch: Batch, *rest: Any
        ) -> tuple[jax.Array, ModelState]:
            def values(part: Batch) -> jax.Array:
                return function(params, model_state, part, *rest)[0]

            size = len(jax.tree.leaves(batch)[0])
            if size <= micro_batch or size % micro_batch:
                return values(batch), model_state
            # optax takes every n-th example, so a micro-batch is on all devices that share the
            # batch, and two examples that are half a batch apart stay together.
            once_more = jax.checkpoint(values, prevent_cse=False)
            parts = microbatch(once_more, 0, micro_batch, AccumulationType.CONCAT)
            return parts(batch), model_state

        return whole

    return wrapped(task, in_micro_batches)


def statistics_of(task: Task) -> set[str]:
    """The entries of the model state that a batch writes, such as BatchNorm's statistics."""
    _, model_state = jax.eval_shape(task.init, jax.random.key(0))
    return set(model_state) - {FROZEN, FIRST_STAGE, RNGS, BUFFERS}


def check_micro_batch(micro_batch: int, **batch_sizes: int) -> None:
    """Raises an InputError unless every batch is a multiple of a micro-batch, or at most one."""
    for name, size in batch_sizes.items():
        if micro_batch and size > micro_batch and size % micro_batch:
            raise InputError(
                f"{name} is {size}, but must be a multiple of micro_batch, {micro_batch}, or less; "
                f"the nearest is {round(size / micro_batch) * micro_batch}."
            )
