"""Fast and slow weights: a step, bent by the curvature of the retain loss.

Steepest descent in the metric of the remaining outputs multiplies a forget step by the inverse
Hessian of the retain loss. Fast and slow weights approximate this product online: the fast weights
take the step and descend the retain loss for a few steps, then the slow weights move towards them:

    fast_0 = params + updates
    fast_{i+1} = fast_i + fast_optimizer(grad_fn(fast_i, i))        i = 0 ... K - 1
    returns  slow_step_size * (fast_K - params)

For a quadratic retain loss with Hessian H, `params` at its minimum, and SGD of rate eta, the
returned step is exactly `slow_step_size * (I - eta H)^K updates`: it is smaller in directions that
matter for the retained data.

References:
    Huang et al., Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement
    (SFR-on), NeurIPS 2024, https://arxiv.org/abs/2409.19732
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.transforms._checks import check_like, has_masked_nodes, missing, only
from jaxunlearn.types import InputError


class FastSlowState(NamedTuple):
    """The state of `fast_slow` and `shared_fast_slow`.

    Attributes:
        count: number of updates so far.
        fast_optimizer_state: state of the fast optimizer.
        carry: last carry from `grad_fn`; None before the first update, or without carry.
    """

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    fast_optimizer_state: optax.OptState
    carry: Any  # of the shapes and dtypes of the carry that `update` received


def fast_slow(
    fast_optimizer: optax.GradientTransformation,
    *,
    num_fast_steps: int,
    slow_step_size: optax.ScalarOrSchedule = 1.0,
    has_carry: bool = False,
    unroll: int | bool = 1,
) -> optax.GradientTransformationExtraArgs:
    """Lets fast weights descend the retain loss after each step, and moves slow weights after them.

        fast_0 = params + updates;   fast_{i+1} = fast_i + fast_optimizer(grad_fn(fast_i, i))
        returns slow_step_size * (fast_K - params)

    With `has_carry`, `grad_fn` passes running statistics, counters or keys from one fast step to
    the next. The last carry is in the state, for `fast_slow_carry`; before the first update it is
    None, since `init` knows only parameters. In `jax.lax.scan`, where a state keeps its structure,
    set the first carry beforehand and omit the keyword:
    `state = optax.tree.set(tx.init(params), carry=batch_stats)`.

    Args:
        fast_optimizer: any optax optimizer; its state is kept from update to update.
        num_fast_steps: K >= 0, the number of retain steps of the fast weights.
        slow_step_size: fraction of the way that the slow weights move, a number or a schedule; 1
            moves all the way.
        has_carry: whether `grad_fn` receives and returns a carry.
        unroll: number of fast steps in one iteration of the compiled loop, as in `jax.lax.scan`;
            True leaves no loop. XLA's convolutions on CPUs are slow inside loops: use True there.

    Returns:
        A transformation whose `update(updates, state, params, *, grad_fn, carry=None, **extra)`
        takes `grad_fn(params, i)`, the gradient of the retain loss on the i-th fast batch (`i` is a
        traced int32 scalar), or with `has_carry` `grad_fn(params, i, carry) -> (gradient, carry)`.
        `carry` is any tree of arrays, by default the one in the state. Other keywords go to
        `fast_optimizer`.

    Raises:
        InputError: a `fast_optimizer` that is not one, a negative or fractional number of steps, a
            slow step size that is not positive; in `update`, a missing `grad_fn`, `params` or
            `carry`, a gradient unlike the parameters, or a carry that changes its type.

    Example:
        >>> H = jnp.array([1.0, 0.1])
        >>> tx = fast_slow(optax.sgd(0.5), num_fast_steps=2)
        >>> params = jnp.zeros(2)
        >>> step, _ = tx.update(jnp.ones(2), tx.init(params), params, grad_fn=lambda p, i: H * p)
        >>> [round(float(s), 4) for s in step]  # (1 - 0.5 * 1)^2 and (1 - 0.5 * 0.1)^2
        [0.25, 0.9025]
    """
    optimizer = _checked(fast_optimizer, num_fast_steps, slow_step_size, unroll)

    def init_fn(params: optax.Params) -> FastSlowState:
        return FastSlowState(jnp.zeros([], jnp.int32), optimizer.init(params), None)

    def update_fn(
        updates: optax.Updates,
        state: FastSlowState,
        params: optax.Params | None = None,
        *,
        grad_fn: Callable[..., Any] | None = None,
        carry: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, FastSlowState]:
        _check_arguments(grad_fn, params, carry, has_carry)
        assert grad_fn is not None
        if has_carry:
            carry = jax.tree.map(jnp.asarray, state.carry if carry is None else carry)
            if carry is None:
                raise InputError(
                    "fast_slow with has_carry=True got no carry; pass tx.update(..., carry=...), "
                    "such as the running statistics."
                )
        offset, fast_state = updates, state.fast_optimizer_state
        # The fast weights are stored as their offset from `params`, which is the result and is not
        # rounded to the precision of the weights.
        dtypes = jax.tree.map(lambda u: u.dtype, offset)

        def fast_step(i: jax.Array, loop: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            offset, fast_state, carry = loop
            fast = optax.apply_updates(params, offset)
            gradient = grad_fn(fast, i, carry) if has_carry else grad_fn(fast, i)
            if has_carry:
                gradient, carry = _checked_pair(gradient, carry)
            check_like(gradient, params, "the gradient that grad_fn returned", "the parameter tree")
            step, fast_state = optimizer.update(gradient, fast_state, fast, **extra)
            offset = jax.tree.map(lambda o, s, dtype: (o + s).astype(dtype), offset, step, dtypes)
            return offset, fast_state, carry

        offset, fast_state, carry = jax.lax.fori_loop(
            0, num_fast_steps, fast_step, (offset, fast_state, carry), unroll=_known(unroll)
        )
        share = slow_step_size(state.count) if callable(slow_step_size) else slow_step_size
        slow = jax.tree.map(lambda o, d: (share * o).astype(d), offset, dtypes)
        return slow, FastSlowState(optax.safe_increment(state.count), fast_state, carry)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def shared_fast_slow(
    fast_optimizer: optax.GradientTransformation,
    *,
    num_fast_steps: int,
    slow_step_size: optax.ScalarOrSchedule = 1.0,
    has_carry: bool = False,
    unroll: int | bool = 1,
) -> optax.GradientTransformationExtraArgs:
    """`fast_slow` whose fast optimizer also steps the `updates`, which are the forget *gradient*.

        fast_0 = params + fast_optimizer(updates);   then as in `fast_slow`

    Both phases share one momentum, as in the released SFR-on. `updates` is the raw (masked,
    clipped, scaled) gradient: put no optimizer before this transformation.

    Arguments, result and errors are the same as for `fast_slow`; the optimizer takes K + 1 steps
    per update.

    Example:
        >>> tx = shared_fast_slow(optax.sgd(0.5), num_fast_steps=1)
        >>> params = jnp.zeros(2)
        >>> step, _ = tx.update(jnp.ones(2), tx.init(params), params, grad_fn=lambda p, i: p)
        >>> step.tolist()  # -0.5, then -0.5 + 0.5 * 0.5
        [-0.25, -0.25]
    """
    following = fast_slow(
        fast_optimizer,
        num_fast_steps=num_fast_steps,
        slow_step_size=slow_step_size,
        has_carry=has_carry,
        unroll=unroll,
    )
    optimizer = optax.with_extra_args_support(fast_optimizer)

    def update_fn(
        updates: optax.Updates,
        state: FastSlowState,
        params: optax.Params | None = None,
        *,
        grad_fn: Callable[..., Any] | None = None,
        carry: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, FastSlowState]:
        _check_arguments(grad_fn, params, carry, has_carry)
        step, stepped = optimizer.update(updates, state.fast_optimizer_state, params, **extra)
        state = state._replace(fast_optimizer_state=stepped)
        return following.update(step, state, params, grad_fn=grad_fn, carry=carry, **extra)

    return optax.GradientTransformationExtraArgs(following.init, update_fn)


def fast_slow_carry(opt_state: optax.OptState) -> Any:
    """The carry after the last fast step, at any place in an optimizer state.

    Raises:
        InputError: no `fast_slow` or `shared_fast_slow` in `opt_state`, or several, or no carry
            yet.

    Example:
        >>> tx = fast_slow(optax.sgd(0.5), num_fast_steps=3, has_carry=True)
        >>> params = jnp.zeros(2)
        >>> grad_fn = lambda p, i, seen: (p, seen + 1)
        >>> _, state = tx.update(params, tx.init(params), params, grad_fn=grad_fn, carry=0)
        >>> int(fast_slow_carry(state))
        3
    """
    state = only(opt_state, lambda node: isinstance(node, FastSlowState), "fast_slow")
    if state.carry is None:
        raise InputError(
            "the optimizer state holds no carry; call fast_slow with has_carry=True and pass "
            "tx.update(..., carry=...) first."
        )
    return state.carry


def _checked(
    optimizer: Any, num_fast_steps: Any, slow_step_size: Any, unroll: Any
) -> optax.GradientTransformationExtraArgs:
    if not isinstance(optimizer, optax.GradientTransformation):
        raise InputError(
            f"fast_optimizer is {optimizer!r}, but must be an optax gradient transformation "
            "such as optax.sgd(1e-2)."
        )
    fractional = isinstance(num_fast_steps, float)
    if fractional or (isinstance(num_fast_steps, int) and num_fast_steps < 0):
        raise InputError(f"num_fast_steps is {num_fast_steps}, but must be an integer, 0 or more.")
    if isinstance(slow_step_size, int | float) and not slow_step_size > 0:
        raise InputError(
            f"slow_step_size is {slow_step_size}, but must be positive; 1.0 follows all the way."
        )
    if not isinstance(unroll, int | jax.Array) or (isinstance(unroll, int) and unroll < 0):
        raise InputError(
            f"unroll is {unroll!r}, but must be True, False or an integer number of fast steps."
        )
    unrolled = unroll if isinstance(unroll, bool) else _known(unroll) != 1
    if unrolled and isinstance(num_fast_steps, jax.Array):
        raise InputError(
            f"num_fast_steps is an array, but must be an integer with unroll = {unroll}; name both "
            "in the static_args of inject_hyperparams."
        )
    return optax.with_extra_args_support(optimizer)


def _known(unroll: Any) -> int | bool:
    """The number of unrolled steps; 1 if `inject_hyperparams` has made it an array."""
    return unroll if isinstance(unroll, int) else 1


def _check_arguments(grad_fn: Any, params: Any, carry: Any, has_carry: bool) -> None:
    if grad_fn is None or params is None:
        name = "grad_fn" if grad_fn is None else "params"
        how = "grad_fn=lambda params, i: retain gradient of the i-th fast batch"
        raise missing("fast_slow", name, f"pass tx.update(updates, state, params, {how})")
    if carry is not None and not has_carry:
        raise InputError(
            "fast_slow got a carry, but was made with has_carry=False; make it with "
            "fast_slow(..., has_carry=True)."
        )

    if has_masked_nodes(params):
        raise InputError(
            "fast_slow is inside optax.masked or optax.multi_transform, where it sees only some of "
            "the parameters, but grad_fn needs all of them; put fast_slow outside, and wrap its "
            "fast_optimizer and the transformations before it instead."
        )


def _checked_pair(returned: Any, carry: Any) -> tuple[optax.Updates, Any]:
    """The gradient and the carry from `grad_fn`; a carry must keep its structure and dtypes."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise InputError(
            f"grad_fn returned {type(returned).__name__}, but with has_carry=True must return "
            "(gradient, carry)."
        )
    gradient, after = returned
    check_like(after, carry, "the carry that grad_fn returned", "the carry that it received")
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(carry), strict=True):
        if jnp.asarray(new).dtype != old.dtype:
            raise InputError(
                f"the carry that grad_fn returned has dtype {jnp.asarray(new).dtype}, but must "
                f"have {old.dtype}, as the carry that it received; cast it with .astype."
            )
    return gradient, after
