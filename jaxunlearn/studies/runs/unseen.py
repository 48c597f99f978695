"""Forget data with unseen examples beside them, for objectives that compare the two.

The objectives `match_unseen` and `until_unseen` end when forget data look like unseen data, which
they find in the forget batch: validation data, without training and without results on it.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.data import Splits
from jaxunlearn.data.batches import in_batches
from jaxunlearn.methods import objectives
from jaxunlearn.types import Arrays, InputError, Task, Weights

_BATCH = 256


def has_unseen(splits: Splits) -> bool:
    """Whether there are validation examples of the same kind as the forget data."""
    return len(splits.validation) > 0 and len(splits.test_forget) == 0


def check_unseen(settings: Mapping[str, Any], splits: Splits) -> None:
    """Raises InputError if an objective needs unseen examples, and there are none.

    Args:
        settings: the settings of the method.
        splits: the splits of the request.
    """
    if not objectives.needs_unseen(settings):
        return
    if len(splits.validation) == 0:
        raise InputError(
            "the objective compares forget data with validation data, but there are none; raise "
            "validation_fraction, or choose another objective, such as random_labels."
        )
    if not has_unseen(splits):
        raise InputError(
            "the objective compares forget data with unseen data of the same kind, but where whole "
            "classes are forgotten there are none; choose another objective, such as "
            "adaptive_ascent."
        )


def with_unseen(task: Task, original: Weights, unseen: Arrays, forget: Arrays) -> Arrays:
    """Forget data with one unseen example for each, paired by the order of their losses.

    Args:
        task: the task of the model.
        original: weights of the original model.
        unseen: validation data on the device.
        forget: forget data on the device.

    Returns:
        The leaves of `forget` and as many of `unseen`, see `objectives.with_unseen`.
    """
    losses = [
        in_batches(functools.partial(_losses, task, original), x, _BATCH) for x in (forget, unseen)
    ]
    return objectives.with_unseen(forget, jnp.asarray(losses[0]), unseen, jnp.asarray(losses[1]))


@functools.partial(jax.jit, static_argnums=0)
def _losses(task: Task, weights: Weights, batch: Arrays) -> jax.Array:
    """The loss of each example in evaluation mode, `[B]`."""
    visited = batch | {"epoch": jnp.zeros_like(batch["index"])}
    return task.losses(*weights, visited, jax.random.key(0), False)[0]
