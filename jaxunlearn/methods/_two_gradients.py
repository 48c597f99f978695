"""Methods that aggregate two gradients, one of each loss on its own batch.

The two backward passes together cost as much as one pass over both batches.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import Metrics, advance, begin, first
from jaxunlearn.methods.objectives import Objective, forget_loss, loss_pair, retain_loss
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
    pair = loss_pair(task, objective)

    def gradients(state: TrainState, forget: Batch, retain: Batch) -> Gradients:
        key = jax.random.wrap_key_data(state.key)
        forget_value, forget_grads = jax.value_and_grad(
            lambda p: forget_loss(task, objective, p, state.model_state, forget, key)
        )(state.params)
        (retain_value, model_state), retain_grads = jax.value_and_grad(
            lambda p: retain_loss(task, p, state.model_state, retain, key), has_aux=True
        )(state.params)
        losses = LossPair(forget_value, retain_value)
        return Gradients(losses, forget_grads, retain_grads, model_state)

    def of_joint_batch(state: TrainState, forget: Batch, retain: Batch) -> Gradients:
        key = jax.random.wrap_key_data(state.key)
        losses, pullback, model_state = jax.vjp(
            lambda p: pair(p, state.model_state, forget, retain, key), state.params, has_aux=True
        )
        zeros, ones = optax.tree.zeros_like(losses), optax.tree.ones_like(losses)
        (forget_grads,) = pullback(LossPair(ones.forget, zeros.retain))
        (retain_grads,) = pullback(LossPair(zeros.forget, ones.retain))
        return Gradients(losses, forget_grads, retain_grads, model_state)

    return of_joint_batch if task.joint_batch else gradients


def two_gradients(
    task: Task,
    aggregator: optax.GradientTransformation,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    *,
    measure_after: bool = False,
) -> Method:
    """Descends along the aggregate of both gradients: `theta <- theta - opt(aggregate(g_f, g_r))`.

    The `aggregator` receives `retain_grads`, `forget_value` and `retain_value`. With
    `measure_after`, it also receives `after`: both losses of the previous step's batches after that
    step, which cost a forward pass.
    """
    transform = optax.chain(aggregator, optimizer)
    gradients, pair = gradients_of(task, objective), loss_pair(task, objective)

    def init(*start: Any) -> TrainState:
        state, unmeasured = begin(transform, *start[:3]), LossPair(jnp.zeros([]), jnp.zeros([]))
        return state._replace(opt_state=(state.opt_state, unmeasured)) if measure_after else state

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
        batch, opt_state, extra = first(retain), state.opt_state, {}
        if measure_after:
            opt_state, extra["after"] = opt_state
        found = gradients(state, forget, batch)
        losses = found.losses
        updates, opt_state = transform.update(
            found.forget,
            opt_state,
            state.params,
            retain_grads=found.retain,
            forget_value=losses.forget,
            retain_value=losses.retain,
            **extra,
        )
        metrics = {
            "forget_loss": losses.forget,
            "retain_loss": losses.retain,
            "forget_gradient_norm": optax.tree.norm(found.forget),
            "retain_gradient_norm": optax.tree.norm(found.retain),
        }
        moved = advance(state, updates, opt_state, found.model_state)
        if measure_after:
            key = jax.random.wrap_key_data(state.key)
            after, _ = pair(moved.params, state.model_state, forget, batch, key)
            moved = moved._replace(opt_state=(opt_state, after))
        return moved, metrics

    return Method(init, step)
