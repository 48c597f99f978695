"""The teacher of a method: its outputs, and the distance of a student from it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.types import Batch, InputError, ModelState, Params, Task

Outputs = Callable[[Params, ModelState, Batch, jax.Array, bool], tuple[jax.Array, ModelState]]


class Teacher(NamedTuple):
    """Weights that a student imitates or flees from; they never move.

    Attributes:
        params: the parameters.
        model_state: the running statistics.
    """

    params: Params
    model_state: ModelState


def keep(params: Params, model_state: ModelState) -> Teacher:
    """A teacher with its own copies, for a state that is donated from step to step."""
    return Teacher(*jax.tree.map(jnp.copy, (params, model_state)))


def outputs_of(task: Task, method: str) -> Outputs:
    """The outputs of the model of a task, `task.outputs`.

    Raises:
        InputError: a task without outputs and divergence.
    """
    if task.outputs is None or task.divergence is None:
        raise InputError(
            f"method {method} needs a task with outputs and divergence; classification has them."
        )
    return task.outputs


def distance_from(task: Task, method: str) -> Callable[..., tuple[jax.Array, ModelState]]:
    """The mean divergence of a student from a teacher on a batch.

    The teacher is in evaluation mode: it uses its running statistics, and its examples are not
    augmented. The student is in training mode.

    Args:
        task: the unlearning task.
        method: name of the method, for the error.

    Returns:
        `distance(teacher, params, model_state, batch, key) -> (mean divergence, model_state)`, the
        model state after the student's pass.

    Raises:
        InputError: a task without outputs and divergence.
    """
    outputs, divergence = outputs_of(task, method), task.divergence
    assert divergence is not None  # checked by `outputs_of`

    def distance(
        teacher: Teacher, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, ModelState]:
        target, _ = outputs(teacher.params, teacher.model_state, batch, key, False)
        student, model_state = outputs(params, model_state, batch, key, True)
        return jnp.mean(divergence(target, student)), model_state

    return distance
