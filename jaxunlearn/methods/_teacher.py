"""The teacher of a method: constant weights, and the distance of a student from their outputs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.types import Batch, BatchFunction, InputError, ModelState, Params, Task


class Teacher(NamedTuple):
    """Constant weights that a student imitates or moves away from."""

    params: Params
    model_state: ModelState


def keep(params: Params, model_state: ModelState) -> Teacher:
    """A teacher with its own copies, because steps donate the state."""
    return Teacher(*jax.tree.map(jnp.copy, (params, model_state)))


def outputs_of(task: Task, method: str) -> BatchFunction:
    """`task.outputs`; an InputError for a task without outputs and divergence."""
    if task.outputs is None or task.divergence is None:
        raise InputError(
            f"method {method} needs a task with outputs and divergence; classification has them."
        )
    return task.outputs


def distance_from(
    task: Task, method: str, temperature: float | jax.Array = 1.0
) -> Callable[..., tuple[jax.Array, ModelState]]:
    """`distance(teacher, params, model_state, batch, key) -> (mean divergence, model_state)`.

    The teacher is in evaluation mode: it uses its running statistics, and its examples are not
    augmented. The student is in training mode; the model state is the one after its pass. The
    divergence is `t^2 divergence(teacher / t, student / t)` at the temperature t.
    """
    outputs, divergence = outputs_of(task, method), task.divergence
    assert divergence is not None  # checked by `outputs_of`

    def distance(
        teacher: Teacher, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, ModelState]:
        target, _ = outputs(teacher.params, teacher.model_state, batch, key, False)
        student, model_state = outputs(params, model_state, batch, key, True)
        apart = divergence(target / temperature, student / temperature)
        return temperature**2 * jnp.mean(apart), model_state

    return distance
