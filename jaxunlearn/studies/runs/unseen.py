"""Forget data that bring unseen examples along, for objectives that compare the two.

Objectives that end when forget data look like data that was never seen (`objectives.match_unseen`
and `objectives.until_unseen`) find it in the forget batch. It is validation data, which no model
was trained on and no result is reported on.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.data import Splits
from jaxunlearn.data.examples import to_device
from jaxunlearn.methods import objectives
from jaxunlearn.types import Arrays, InputError, Task, Weights, unvisited

_BATCH = 256


def has_unseen(splits: Splits) -> bool:
    """Whether there are validation examples like those that are forgotten."""
    return len(splits.validation) > 0 and len(splits.test_forget) == 0


def check_unseen(settings: Mapping[str, Any], splits: Splits) -> None:
    """Raises if an objective needs validation examples like those that are forgotten, and has none.

    Args:
        settings: of the method, which name its objective if it has one.
        splits: the data of the request.

    Raises:
        InputError: there are none.
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


def with_unseen(task: Task, original: Weights, splits: Splits, forget: Arrays) -> Arrays:
    """Forget data with one validation example for each, by the order of losses.

    Args:
        task: what is unlearned.
        original: the original model.
        splits: the data of the request, of which validation data is the unseen part.
        forget: the forget data on the device.

    Returns:
        Its leaves and as many of validation data: see `objectives.with_unseen`.
    """
    unseen = to_device(splits.validation)
    losses = example_losses(task, original, to_device(splits.forget))
    return objectives.with_unseen(forget, losses, unseen, example_losses(task, original, unseen))


def example_losses(task: Task, weights: Weights, arrays: Arrays) -> jax.Array:
    """The loss of each example in evaluation mode, `[N]`.

    Args:
        task: what is unlearned.
        weights: of a model.
        arrays: N examples.

    Returns:
        Losses, however small.
    """
    size = len(arrays["label"])
    batch = min(_BATCH, size)
    starts = range(0, size, batch)
    places = [jnp.minimum(start + jnp.arange(batch), size - 1) for start in starts]
    return jnp.concatenate([_batch_losses(task, weights, arrays, some) for some in places])[:size]


@functools.partial(jax.jit, static_argnums=0)
def _batch_losses(task: Task, weights: Weights, arrays: Arrays, places: jax.Array) -> jax.Array:
    return task.losses(*weights, unvisited(arrays, places), jax.random.key(0), False)[0]
