"""An exponential moving average of the weights of a run, beside the weights that are trained.

    a_k = sum_{1 <= j <= k} d^(k - j) theta_j / sum_{1 <= j <= k} d^(k - j)
        = a_{k-1} + (1 - d) / (1 - d^k) (theta_k - a_{k-1})

The initial weights have no part in it, however short the run. d = 0 gives the last weights.

Sources: Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging (1992); Ho et
al., Denoising Diffusion Probabilistic Models (2020), whose samples are drawn from the average.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.types import (
    Arrays,
    Batch,
    Method,
    Metrics,
    ModelState,
    Params,
    TrainState,
    Weights,
)


class Averaged(NamedTuple):
    """The optimizer state of a method whose weights are averaged.

    Attributes:
        opt_state: optimizer state of the method itself.
        weights: average of the weights, of floating-point statistics too.
    """

    opt_state: Any
    weights: Weights


def averaged(method: Method, decay: float | jax.Array) -> Method:
    """A method that also averages its weights; `weights_of` reads the average from its state.

    Args:
        method: any method.
        decay: d, at least 0 and below 1.

    Returns:
        A `Method` with the same steps.

    Example:
        >>> import optax
        >>> from jaxunlearn import methods
        >>> def smooth(task):
        ...     return averaged(methods.retrain(task, optax.adam(1e-3)), 0.999)
    """

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        state = method.init(key, params, model_state, forget, retain)
        weights = jax.tree.map(jnp.copy, Weights(state.params, state.model_state))
        return state._replace(opt_state=Averaged(state.opt_state, weights))

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
        own = state._replace(opt_state=state.opt_state.opt_state)
        after, metrics = method.step(own, forget, retain)
        d = jnp.asarray(decay, jnp.float32)
        share = (1.0 - d) / -jnp.expm1(after.step * jnp.log(d))

        def moved(old: jax.Array, new: jax.Array) -> jax.Array:
            if not jnp.issubdtype(new.dtype, jnp.inexact):
                return new
            return old + share.astype(new.dtype) * (new - old)

        now = Weights(after.params, after.model_state)
        weights = jax.tree.map(moved, state.opt_state.weights, now)
        return after._replace(opt_state=Averaged(after.opt_state, weights)), metrics

    return method._replace(init=init, step=step)


def weights_of(state: TrainState) -> Weights:
    """The result of a run: the average of its weights if it has one, or else the last weights."""
    if isinstance(state.opt_state, Averaged):
        return state.opt_state.weights
    return Weights(state.params, state.model_state)
