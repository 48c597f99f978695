"""Methods that edit the weights once, from whole data sets, without training."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import Metrics, Start, begin, first
from jaxunlearn.types import Batch, Method, Params, Task, TrainState


def one_shot(task: Task, edit: Callable[[Start], Params]) -> Method:
    """The method whose weights `edit` makes before the first step.

    A step only measures both losses, in evaluation mode; one step is enough.
    """

    def init(*start: Any) -> TrainState:
        given = Start(*start)
        return begin(optax.identity(), given.key, edit(given), given.model_state)

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.wrap_key_data(state.key)

        def mean_loss(batch: Batch) -> jax.Array:
            return jnp.mean(task.losses(state.params, state.model_state, batch, key, False)[0])

        metrics = {"forget_loss": mean_loss(forget), "retain_loss": mean_loss(first(retain))}
        return state._replace(step=state.step + 1), metrics

    return Method(init, step)
