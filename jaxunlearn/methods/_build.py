"""Parts that methods share: the first state, the step of a state, and the descent of one loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods.objectives import Objective, loss_pair
from jaxunlearn.types import (
    Arrays,
    Batch,
    InputError,
    LossPair,
    Method,
    Metrics,
    ModelState,
    Params,
    Task,
    TrainState,
)


class Start(NamedTuple):
    """The start of a run: the arguments of `Method.init`.

    Attributes:
        key: key of the run.
        params: parameters of the original model.
        model_state: running statistics of the original model.
        forget: all forget examples.
        retain: all retain examples.
    """

    key: jax.Array
    params: Params
    model_state: ModelState
    forget: Arrays
    retain: Arrays


class Now(NamedTuple):
    """The inputs of a loss besides the parameters and the batches.

    Attributes:
        step: number of finished steps.
        model_state: running statistics before the step.
        key: key of the run.
        memory: constants of the run, from `remember`.
    """

    step: jax.Array
    model_state: ModelState
    key: jax.Array
    memory: Any


# loss_fn(params, now, forget, retain) -> (loss, (model_state, metrics))
LossFn = Callable[[Params, Now, Batch, Batch], tuple[jax.Array, tuple[ModelState, Metrics]]]


def begin(
    transform: optax.GradientTransformation,
    key: jax.Array,
    params: Params,
    model_state: ModelState,
) -> TrainState:
    """The state before the first step, with its own copies of the parameters and the key."""
    key, kind = jax.random.key_data(key), str(jax.random.key_impl(key))
    if kind != str(jax.random.key_impl(jax.random.key(0))):
        raise InputError(
            f"key is of the PRNG implementation {kind}, but must be of the default one; make it "
            f"with jax.random.key(seed), or set jax_default_prng_impl to {kind}."
        )
    params, model_state, key = jax.tree.map(jnp.copy, (params, model_state, key))
    step = jnp.zeros([], jnp.int32)
    return TrainState(step, params, model_state, transform.init(params), key)


def predict_of(task: Task, method: str) -> Callable[[Params, ModelState, Batch], jax.Array]:
    """The function that predicts classes; an InputError for a generative model."""
    if task.predict is None:
        raise InputError(
            f"method {method} needs a model that predicts classes, but this one generates images; "
            "choose another method, such as sfron or eupmu."
        )
    return task.predict


def check_generates(task: Task, method: str) -> None:
    """Raises an InputError unless the model generates images."""
    if task.predict is not None:
        raise InputError(
            f"method {method} needs a model that generates images, but this one classifies; "
            "choose another method, such as sfron or eupmu."
        )


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
    optimizer: optax.GradientTransformation,
    remember: Callable[[Start], Any] = lambda start: None,
) -> Method:
    """The method that descends one scalar loss of a forget and a retain batch.

    `remember` makes the constants that `loss_fn` finds in `now.memory`. The method's optimizer
    state is `(state of the optimizer, memory)`.
    """

    def init(*start: Any) -> TrainState:
        state = begin(optimizer, *start[:3])
        return state._replace(opt_state=(state.opt_state, remember(Start(*start))))

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
        opt_state, memory = state.opt_state
        now = Now(state.step, state.model_state, jax.random.wrap_key_data(state.key), memory)
        grads, (model_state, metrics) = jax.grad(loss_fn, has_aux=True)(
            state.params, now, forget, first(retain)
        )
        updates, opt_state = optimizer.update(grads, opt_state, state.params)
        metrics = metrics | {"gradient_norm": optax.tree.norm(grads)}
        return advance(state, updates, (opt_state, memory), model_state), metrics

    return Method(init, step)


def forget_alone(task: Task, objective: Objective) -> LossFn:
    """The forget objective alone, without the retain data; running statistics stay unchanged."""

    def loss_fn(
        params: Params, now: Now, forget: Batch, retain: Batch
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        del retain
        loss = objective(task, params, now.model_state, forget, now.key)
        return loss, (now.model_state, {"forget_loss": loss})

    return loss_fn


def weighted(task: Task, objective: Objective, weights: LossPair) -> LossFn:
    """`weights.forget * objective + weights.retain * retain loss`."""
    pair = loss_pair(task, objective)

    def loss_fn(
        params: Params, now: Now, forget: Batch, retain: Batch
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        losses, model_state = pair(params, now.model_state, forget, retain, now.key)
        total = weights.forget * losses.forget + weights.retain * losses.retain
        metrics = {"forget_loss": losses.forget, "retain_loss": losses.retain}
        return total, (model_state, metrics)

    return loss_fn
