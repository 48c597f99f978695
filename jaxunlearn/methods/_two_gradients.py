"""One gradient of each loss, on a batch of its own, made one direction by an aggregator.

The two backward passes together cost what one pass over both batches costs.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxunlearn.methods._build import advance, begin_with, first
from jaxunlearn.objectives import Objective, retain_loss
from jaxunlearn.types import Batch, LossPair, Method, Task, TrainState

# metrics(losses, opt_state) -> what a step reports
Metrics = Callable[[LossPair, Any], dict[str, jax.Array]]


def _losses(losses: LossPair, opt_state: Any) -> dict[str, jax.Array]:
    del opt_state
    return {"forget_loss": losses.forget, "retain_loss": losses.retain}


def two_gradients(
    task: Task,
    aggregator: optax.GradientTransformation,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    metrics: Metrics = _losses,
) -> Method:
    """Descends the direction that an aggregator makes of the forget and the retain gradient.

        theta <- theta - opt(aggregate(g_f, g_r))

    Args:
        task: what is unlearned.
        aggregator: one of `transforms.aggregation`; it receives `retain_grads`, and both losses at
            the same weights as `forget_value` and `retain_value`.
        optimizer: any optax optimizer, which steps the direction.
        objective: the forget objective.
        metrics: `metrics(losses, opt_state)`, what a step reports; both losses unless told.

    Returns:
        A `Method`.
    """
    transform = optax.chain(aggregator, optimizer)

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key, batch = jax.random.wrap_key_data(state.key), first(retain)
        forget_value, forget_grads = jax.value_and_grad(
            lambda p: objective(task, p, state.model_state, forget, key)
        )(state.params)
        (retain_value, model_state), retain_grads = jax.value_and_grad(
            lambda p: retain_loss(task, p, state.model_state, batch, key), has_aux=True
        )(state.params)
        updates, opt_state = transform.update(
            forget_grads,
            state.opt_state,
            state.params,
            retain_grads=retain_grads,
            forget_value=forget_value,
            retain_value=retain_value,
        )
        losses = LossPair(forget_value, retain_value)
        return advance(state, updates, opt_state, model_state), metrics(losses, opt_state)

    return Method(begin_with(transform), step)
