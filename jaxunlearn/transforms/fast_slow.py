"""Fast and slow weights: any step, bent by the curvature of the retain loss.

Steepest descent in the metric of the remaining outputs multiplies a forget step by the inverse
Hessian of the retain loss. Fast and slow weights approximate that product online: take the step
with the fast weights, let them descend the retain loss for a few steps, and move the slow weights
towards where they came to rest:

    fast_0 = params + updates
    fast_{i+1} = fast_i + fast_optimizer(grad_fn(fast_i, i))        i = 0 ... K - 1
    returns  slow_step_size * (fast_K - params)

For a quadratic retain loss with Hessian H, `params` at its minimum, and SGD of rate eta, the
returned step is exactly `slow_step_size * (I - eta H)^K updates`: directions that matter for the
retained data are forgotten less.

Source: Huang et al., Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement
(SFR-on, arXiv 2409.19732), NeurIPS 2024.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jaxunlearn.types import InputError


class FastSlowState(NamedTuple):
    """What `fast_slow` remembers.

    Attributes:
        fast_optimizer_state: the state of the fast optimizer, carried from update to update.
    """

    fast_optimizer_state: optax.OptState


def fast_slow(
    fast_optimizer: optax.GradientTransformation,
    *,
    num_fast_steps: int,
    slow_step_size: float | jax.Array = 1.0,
    share_optimizer: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Lets fast weights descend the retain loss after each step, and follows them slowly.

    Args:
        fast_optimizer: any optax optimizer; its state persists between updates.
        num_fast_steps: how many retain steps the fast weights take, K >= 0.
        slow_step_size: the share of the way that the slow weights follow; 1 moves all the way.
        share_optimizer: if True, `updates` is the raw (masked, clipped, scaled) forget *gradient*,
            which `fast_optimizer` steps first, so that one momentum serves both phases, as in the
            released SFR-on. If False, `updates` is a finished step.

    Returns:
        A transformation whose `update(updates, state, params, *, grad_fn, **extra)` takes
        `grad_fn(params, i)`, the gradient of the retain loss of the i-th fast batch (`i` is a
        traced int32 scalar). Other keywords are forwarded to `fast_optimizer`.

    Raises:
        InputError: a `fast_optimizer` that is none, a negative or fractional number of steps, a
            slow step size that is not positive; in `update`, a missing `grad_fn` or `params`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax.numpy as jnp
        >>> H = jnp.array([1.0, 0.1])
        >>> tx = fast_slow(optax.sgd(0.5), num_fast_steps=2)
        >>> params = jnp.zeros(2)
        >>> step, _ = tx.update(jnp.ones(2), tx.init(params), params, grad_fn=lambda p, i: H * p)
        >>> [round(float(s), 4) for s in step]  # (1 - 0.5 * 1)^2 and (1 - 0.5 * 0.1)^2
        [0.25, 0.9025]
    """
    if not isinstance(fast_optimizer, optax.GradientTransformation):
        raise InputError(
            f"fast_optimizer is {fast_optimizer!r}, but must be an optax gradient transformation "
            "such as optax.sgd(1e-2)."
        )
    fractional = isinstance(num_fast_steps, float)
    if fractional or (isinstance(num_fast_steps, int) and num_fast_steps < 0):
        raise InputError(
            f"num_fast_steps is {num_fast_steps}, but must be a whole number, 0 or more."
        )
    if isinstance(slow_step_size, int | float) and not slow_step_size > 0:
        raise InputError(
            f"slow_step_size is {slow_step_size}, but must be positive; 1.0 follows all the way."
        )
    optimizer = optax.with_extra_args_support(fast_optimizer)

    def init_fn(params: optax.Params) -> FastSlowState:
        return FastSlowState(optimizer.init(params))

    def update_fn(
        updates: optax.Updates,
        state: FastSlowState,
        params: optax.Params | None = None,
        *,
        grad_fn: Callable[[optax.Params, jax.Array], optax.Updates] | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, FastSlowState]:
        if grad_fn is None or params is None:
            missing = "grad_fn" if grad_fn is None else "params"
            raise InputError(
                f"fast_slow got no {missing}; pass tx.update(updates, state, params, "
                "grad_fn=lambda params, i: retain gradient of the i-th fast batch)."
            )
        fast_state = state.fast_optimizer_state
        if share_optimizer:
            updates, fast_state = optimizer.update(updates, fast_state, params, **extra)
        # The fast weights are kept as their offset from `params`: that difference is the result,
        # and it is not rounded to the precision of the weights themselves.
        dtypes = jax.tree.map(lambda u: u.dtype, updates)

        def fast_step(i: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            offset, fast_state = carry
            fast = optax.apply_updates(params, offset)
            step, fast_state = optimizer.update(grad_fn(fast, i), fast_state, fast, **extra)
            offset = jax.tree.map(lambda o, s, dtype: (o + s).astype(dtype), offset, step, dtypes)
            return offset, fast_state

        offset, fast_state = jax.lax.fori_loop(0, num_fast_steps, fast_step, (updates, fast_state))
        slow = jax.tree.map(lambda o, d: (slow_step_size * o).astype(d), offset, dtypes)
        return slow, FastSlowState(fast_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
