"""A utility budget for any method: the loss on held-out retain data never ends above it.

    L_0, L_k   mean loss on held-out retain data, at the start and at the k-th audit
    L_k > L_0 + budget   ->   back to the last audit that passed, with half the step from there on

There is an audit after every `every` steps and after the last one, always with the same examples
and the same noise. So the final weights have passed an audit or are the original ones.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.methods._limits import defaults_of
from jaxunlearn.methods._passes import mean_over, plain_losses
from jaxunlearn.methods._settings import GuardSettings
from jaxunlearn.methods._winding_back import Watched, audit, watch
from jaxunlearn.types import (
    Arrays,
    Batch,
    InputError,
    Method,
    Metrics,
    ModelState,
    Params,
    Task,
    TrainState,
)

_BATCH = 256


def check_guard(name: str, given: Mapping[str, Any]) -> None:
    """Raises unless the given settings of the guard are complete and the method can have one."""
    if name == "retrain":
        raise InputError(
            "method retrain starts from new weights, so there is nothing to guard; leave out "
            f"{' and '.join(key for key in defaults_of(GuardSettings) if key in given)}."
        )
    if "guard_budget" not in given:
        raise InputError(
            f"method {name} has guard_every without guard_budget; give guard_budget, the largest "
            "rise of the held-out retain loss, such as 0.05."
        )


def guarded(
    method: Method,
    task: Task,
    held_out: Arrays,
    *,
    num_steps: int,
    budget: float | jax.Array,
    every: int = 10,
) -> Method:
    """A method under a utility budget.

    Halving the step also halves the rise that a tolerance permits, which is per unit of step size.
    A multiplier sees the smaller step, and schedules continue when a run is wound back. A loss that
    is not finite fails at once, so a diverging run is wound back too. If no audit fails, the
    weights equal the weights without the guard, bit for bit on CPUs. For this, a method with a
    `scaled_step` is compiled with and without a scale; groups compute both.

    Args:
        method: any method.
        task: the unlearning task.
        held_out: retain examples outside the training data, such as validation data.
        num_steps: number of steps.
        budget: largest rise of the held-out retain loss.
        every: number of steps between two audits.

    Returns:
        A `Method`. Its metrics also hold the `guard_loss` of the latest audit, the number of
        `guard_rollbacks`, and the `guard_scale` of the next steps.

    Example:
        >>> import optax
        >>> from jaxunlearn import methods
        >>> def careful(task, held_out):
        ...     ascent = methods.gradient_ascent(task, optax.sgd(0.1))
        ...     return guarded(ascent, task, held_out, num_steps=100, budget=0.05)
    """

    def measure(
        params: Params, model_state: ModelState, audited: Arrays, key: jax.Array
    ) -> jax.Array:
        losses = plain_losses(task, model_state, held_out, key)
        mean: jax.Array = mean_over(held_out, _BATCH, lambda some: losses(params, some))
        return mean

    scaled_step = functools.partial(
        _scaled_move if method.scaled_step is None else _scaled_updates, method
    )

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        state = method.init(key, params, model_state, forget, retain)
        return watch(state, (params, model_state), measure, budget, {})

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
        own = state._replace(opt_state=state.opt_state.opt_state)
        after, metrics = scaled_step(own, forget, retain, state.opt_state.scale)
        state, metrics = audit(state, after, metrics, measure, every=every, num_steps=num_steps)
        watched: Watched = state.opt_state
        return state, metrics | {
            "guard_loss": watched.last_value,
            "guard_rollbacks": watched.rollbacks.astype(jnp.float32),
            "guard_scale": watched.scale,
        }

    return method._replace(init=init, step=step)


def _scaled_move(
    method: Method, state: TrainState, forget: Batch, retain: Batch, scale: jax.Array
) -> tuple[TrainState, Metrics]:
    after, metrics = method.step(state, forget, retain)
    params = jax.lax.cond(
        scale < 1.0,
        lambda: jax.tree.map(
            lambda old, new: old + scale.astype(old.dtype) * (new - old),
            state.params,
            after.params,
        ),
        lambda: after.params,
    )
    return after._replace(params=params), metrics


def _scaled_updates(
    method: Method, state: TrainState, forget: Batch, retain: Batch, scale: jax.Array
) -> tuple[TrainState, Metrics]:
    # Even a factor of 1 changes bits, because it prevents the fusion of products and sums.
    assert method.scaled_step is not None
    scaled_step = method.scaled_step
    stepped: tuple[TrainState, Metrics] = jax.lax.cond(
        scale < 1.0,
        lambda: scaled_step(state, forget, retain, scale),
        lambda: method.step(state, forget, retain),
    )
    return stepped


def guard_records(state: TrainState) -> list[dict[str, Any]]:
    """The audits of a guarded run, or of each run of a group under `vmap`, from the last state.

    "start", "limit" and "end" are values of the held-out retain loss; "rollbacks" is a count.
    """
    watched: Watched = state.opt_state
    values = (watched.start, watched.limit, watched.safe_value, watched.rollbacks)
    return [
        {"start": float(start), "limit": float(limit), "end": float(end), "rollbacks": int(count)}
        for start, limit, end, count in zip(*map(np.atleast_1d, values), strict=True)
    ]
