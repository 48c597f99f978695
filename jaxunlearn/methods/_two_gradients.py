"""Methods that aggregate two gradients, one of each loss on its own batch.

The two backward passes together cost as much as one pass over both batches.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jaxunlearn.methods._build import Metrics, advance, begin, first
from jaxunlearn.methods.objectives import Objective, retain_loss
from jaxunlearn.types import Batch, LossPair, Method, Task, TrainState


class Gradients(NamedTuple):
    """Both losses of one step and their gradients, and the model state after the retain batch."""

    losses: LossPair
    forget: Any
    retain: Any
    model_state: Any


def gradients_of(
    task: Task, objective: Objective
) -> Callable[[TrainState, Batch, Batch], Gradients]:
    """`(state, forget, retain) -> Gradients`, with `retain` one batch."""

    def gradients(state: TrainState, forget: Batch, retain: Batch) -> Gradients:
        key = jax.random.wrap_key_data(state.key)
        forget_value, forget_grads = jax.value_and_grad(
            lambda p: objective(task, p, state.model_state, forget, key)
        )(state.params)
        (retain_value, model_state), retain_grads = jax.value_and_grad(
            lambda p: retain_loss(task, p, state.model_state, retain, key), has_aux=True
        )(state.params)
        losses = LossPair(forget_value, retain_value)
        return Gradients(losses, forget_grads, retain_grads, model_state)

    return gradients


def two_gradients(
    task: Task,
    aggregator: optax.GradientTransformation,
    optimizer: optax.GradientTransformation,
    objective: Objective,
) -> Method:
    """Descends along the aggregate of both gradients: `theta <- theta - opt(aggregate(g_f, g_r))`.

    The `aggregator` receives `retain_grads`, `forget_value` and `retain_value`.
    """
    transform = optax.chain(aggregator, optimizer)
    gradients = gradients_of(task, objective)

    def init(*start: Any) -> TrainState:
        return begin(transform, *start[:3])

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
        found = gradients(state, forget, first(retain))
        losses = found.losses
        updates, opt_state = transform.update(
            found.forget,
            state.opt_state,
            state.params,
            retain_grads=found.retain,
            forget_value=losses.forget,
            retain_value=losses.retain,
        )
        metrics = {
            "forget_loss": losses.forget,
            "retain_loss": losses.retain,
            "forget_gradient_norm": optax.tree.norm(found.forget),
            "retain_gradient_norm": optax.tree.norm(found.retain),
        }
        return advance(state, updates, opt_state, found.model_state), metrics

    return Method(init, step)
