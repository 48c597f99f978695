"""Methods that edit the weights once, from whole data sets, instead of training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import begin, first
from jaxunlearn.types import Arrays, Batch, Method, ModelState, Params, Task, TrainState

# edit(key, params, model_state, forget, retain) -> params
Edit = Callable[[jax.Array, Params, ModelState, Arrays, Arrays], Params]


def one_shot(task: Task, edit: Edit) -> Method:
    """The method whose weights are finished before its first step.

    `init` edits them. A step counts, and measures both losses in evaluation mode; it moves nothing,
    so one step is enough.

    Args:
        task: what is unlearned.
        edit: `(key, params, model_state, forget, retain) -> params`.

    Returns:
        A `Method`. It has no optimizer.
    """

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        edited = edit(key, params, model_state, forget, retain)
        return begin(optax.identity(), key, edited, model_state)

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.wrap_key_data(state.key)

        def mean_loss(batch: Batch) -> jax.Array:
            return jnp.mean(task.losses(state.params, state.model_state, batch, key, False)[0])

        metrics = {"forget_loss": mean_loss(forget), "retain_loss": mean_loss(first(retain))}
        return state._replace(step=state.step + 1), metrics

    return Method(init, step)
