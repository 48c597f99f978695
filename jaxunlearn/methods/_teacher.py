"""What methods with a teacher share: the outputs of a task, and how far a student is from them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.types import Batch, InputError, ModelState, Params, Task

Outputs = Callable[[Params, ModelState, Batch, jax.Array, bool], tuple[jax.Array, ModelState]]


class Teacher(NamedTuple):
    """Weights that are imitated or fled from; they never move.

    Attributes:
        params: the parameters.
        model_state: the running statistics, as they were left.
    """

    params: Params
    model_state: ModelState


def keep(params: Params, model_state: ModelState) -> Teacher:
    """A teacher with its own copies, for a state that is donated from step to step."""
    return Teacher(*jax.tree.map(jnp.copy, (params, model_state)))


def outputs_of(task: Task, method: str) -> Outputs:
    """What the model of a task says of a batch.

    Raises:
        InputError: a task without outputs and divergence, on which the method cannot run.
    """
    if task.outputs is None or task.divergence is None:
        raise InputError(
            f"method {method} needs a task with outputs and divergence; classification has them."
        )
    return task.outputs


def distance_from(task: Task, method: str) -> Callable[..., tuple[jax.Array, ModelState]]:
    """How far a student is from a teacher on a batch.

    The teacher is in evaluation mode: it uses its running statistics and sees the examples as they
    are, without augmentation. The student is in training mode.

    Args:
        task: what is unlearned.
        method: the name of the method, for the error.

    Returns:
        `distance(teacher, params, model_state, batch, key) -> (mean divergence, model_state)`, the
        model state as the student's pass leaves it behind.

    Raises:
        InputError: a task without outputs and divergence.
    """
    outputs, divergence = outputs_of(task, method), task.divergence
    assert divergence is not None  # `outputs_of` has looked

    def distance(
        teacher: Teacher, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, ModelState]:
        target, _ = outputs(teacher.params, teacher.model_state, batch, key, False)
        student, model_state = outputs(params, model_state, batch, key, True)
        return jnp.mean(divergence(target, student)), model_state

    return distance
