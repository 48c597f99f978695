"""What several methods share: how a state begins and advances, and the descent of one loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods.objectives import Objective, retain_loss
from jaxunlearn.types import (
    Arrays,
    Batch,
    InputError,
    LossPair,
    Method,
    ModelState,
    Params,
    Task,
    TrainState,
)

# loss_fn(params, model_state, forget, retain, key) -> (loss, (model_state, metrics))
LossFn = Callable[..., tuple[jax.Array, tuple[ModelState, dict[str, jax.Array]]]]


def begin(
    transform: optax.GradientTransformation,
    key: jax.Array,
    params: Params,
    model_state: ModelState,
) -> TrainState:
    """The state before the first step, with its own copies of the parameters and the key.

    Raises:
        InputError: a key of another PRNG implementation than the default one.
    """
    key, kind = jax.random.key_data(key), str(jax.random.key_impl(key))
    if kind != str(jax.random.key_impl(jax.random.key(0))):
        raise InputError(
            f"key is of the PRNG implementation {kind}, but must be of the default one; make it by "
            f"jax.random.key(seed), or set jax_default_prng_impl to {kind}."
        )
    params, model_state, key = jax.tree.map(jnp.copy, (params, model_state, key))
    step = jnp.zeros([], jnp.int32)
    return TrainState(step, params, model_state, transform.init(params), key)


def predict_of(task: Task, method: str) -> Callable[[Params, ModelState, Batch], jax.Array]:
    """How a task predicts classes.

    Raises:
        InputError: it does not.
    """
    if task.predict is None:
        raise InputError(
            f"method {method} needs the classes that a model predicts, but this model generates "
            "images; choose another method, such as sfron or eupmu."
        )
    return task.predict


def check_generates(task: Task, method: str) -> None:
    """Raises unless a task generates.

    Raises:
        InputError: it classifies.
    """
    if task.predict is not None:
        raise InputError(
            f"method {method} erases what a model generates, but this model classifies; choose "
            "another method, such as sfron or eupmu."
        )


def begin_with(transform: optax.GradientTransformation) -> Callable[..., TrainState]:
    """The `init` of a method that asks nothing of the data: `begin`, whatever they are."""

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        del forget, retain
        return begin(transform, key, params, model_state)

    return init


def advance(
    state: TrainState, updates: optax.Updates, opt_state: Any, model_state: ModelState
) -> TrainState:
    """The state after one step."""
    return state._replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        model_state=model_state,
        opt_state=opt_state,
    )


def first(batches: Batch) -> Batch:
    """The first of the stacked retain batches."""
    return jax.tree.map(lambda x: x[0], batches)


def descend(
    loss_fn: LossFn,
    transform: optax.GradientTransformation,
    init: Callable[..., TrainState] | None = None,
) -> Method:
    """The method that descends one scalar loss of a forget and a retain batch.

    Args:
        loss_fn: `(params, model_state, forget, retain, key) -> (loss, (model_state, metrics))`.
        transform: the optimizer.
        init: makes the first state, if not `begin(transform, ...)`.

    Returns:
        A `Method`.
    """

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.wrap_key_data(state.key)
        (_, (model_state, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, state.model_state, forget, first(retain), key
        )
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        return advance(state, updates, opt_state, model_state), metrics

    return Method(init or begin_with(transform), step)


def weighted(task: Task, objective: Objective, weights: LossPair) -> LossFn:
    """`weights.forget * objective + weights.retain * retain loss`; retain data writes the state."""

    def loss_fn(
        params: Params, model_state: ModelState, forget: Batch, retain: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[ModelState, dict[str, jax.Array]]]:
        forget_loss = objective(task, params, model_state, forget, key)
        retain_value, model_state = retain_loss(task, params, model_state, retain, key)
        total = weights.forget * forget_loss + weights.retain * retain_value
        return total, (model_state, {"forget_loss": forget_loss, "retain_loss": retain_value})

    return loss_fn
