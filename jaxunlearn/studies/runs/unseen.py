"""Forget data with unseen examples beside them, for objectives that compare the two.

The objectives compare forget data with the half of the validation data that does not judge, which
the forget batch holds as well.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.data import Splits
from jaxunlearn.data.batches import in_batches
from jaxunlearn.methods import objectives
from jaxunlearn.types import Arrays, InputError, Task, Weights

_BATCH = 256


def has_unseen(splits: Splits) -> bool:
    """Whether objectives may copy validation examples of the same kind as the forget data."""
    return len(splits.copied) > 0 and len(splits.test_forget) == 0


def check_unseen(settings: Mapping[str, Any], splits: Splits) -> None:
    """Raises InputError if an objective needs unseen examples, and there are none."""
    if not objectives.needs_unseen(settings):
        return
    if len(splits.copied) == 0:
        raise InputError(
            "the objective compares forget data with every second validation example of a class, "
            f"but {len(splits.validation)} validation examples leave none; raise "
            "validation_fraction, or choose another objective, such as random_labels."
        )
    if not has_unseen(splits):
        raise InputError(
            "the objective compares forget data with unseen data of the same kind, but there is "
            "none if whole classes are forgotten; choose another objective, such as "
            "adaptive_ascent."
        )
    if objectives.needs_classes(settings):
        objectives.check_partners(splits.forget.label, splits.copied.label)


def with_unseen(task: Task, original: Weights, unseen: Arrays, forget: Arrays) -> Arrays:
    """Forget data with one unseen example for each, paired by the order of their losses.

    Those of a classifier also have the mean prediction of the unseen examples of their class.
    """
    ours, theirs = (jnp.asarray(losses(task, original, part)) for part in (forget, unseen))
    paired = objectives.with_unseen(forget, ours, unseen, theirs)
    if task.predict is None:
        return paired
    found = in_batches(functools.partial(_probabilities, task, original), unseen, _BATCH)
    return objectives.with_class_means(paired, jnp.asarray(unseen["label"]), jnp.asarray(found))


def with_confidences(task: Task, original: Weights, retain: Arrays) -> Arrays:
    """Retain data with the confidence of the original model in each example."""
    return objectives.with_confidences(retain, jnp.asarray(losses(task, original, retain)))


def losses(task: Task, weights: Weights, arrays: Mapping[str, Any]) -> np.ndarray:
    """The loss of each example in evaluation mode, `[N]`, with the same noise every time."""
    found: np.ndarray = in_batches(functools.partial(_losses, task, weights), arrays, _BATCH)
    return found


@functools.partial(jax.jit, static_argnums=0)
def _losses(task: Task, weights: Weights, batch: Arrays) -> jax.Array:
    visited = batch | {"epoch": jnp.zeros_like(batch["index"])}
    return task.losses(*weights, visited, jax.random.key(0), False)[0]


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(task: Task, weights: Weights, batch: Arrays) -> jax.Array:
    assert task.predict is not None
    return task.predict(*weights, batch)
