"""Implicit gradient surgery: one backward pass, and a multiplier that protects the retain loss.

Unlearning under a bounded rise of the retain loss asks, at every step, for the direction `d`
nearest to the forget gradient that does not raise the retain loss faster than a tolerance:

    minimise 1/2 |d - g_f|^2   subject to   <g_r, d> >= -tolerance      (the step is -step_size d)

The solution is `d = g_f + lambda g_r`. `unilateral_surgery` computes lambda from two gradients.
Here the multiplier is carried from step to step and updated by the change of the retain loss in the
last step, so that one backward pass of `l_f + lambda l_r` is enough:

    dual gradient   dtilde = (phi(l_r before) - phi(l_r after)) / step_size + tolerance
    multiplier      lambda <- max(lambda - beta dtilde, 0)

**The sign of the tolerance** is the paper's: `tolerance >= 0` *permits* the retain loss to rise by
that much per unit step. The released code's `error` has the opposite sign and *demands* a fall;
`tolerance=-error` reproduces it. A training loop:

    surgery = implicit_surgery(optax.adam(1e-2), tolerance=0.01, step_size=0.1)
    tx = optax.chain(optax.sgd(0.1), surgery)  # last, so that it sees the finished step
    losses_and_grads = surgery_value_and_grad(losses_fn, surgery)  # losses_fn returns a LossPair
    state = tx.init(params)
    for batch in batches:
        losses, grads = losses_and_grads(params, batch, state=state)
        updates, state = tx.update(
            grads, state, params,
            retain_value=losses.retain,
            retain_value_fn=lambda p: losses_fn(p, batch).retain,
        )
        params = optax.apply_updates(params, updates)

Reference: Zhou et al., Efficient Utility-Preserving Machine Unlearning with Implicit Gradient
Surgery (arXiv 2510.22124), NeurIPS 2025, Equation 8.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.transforms._checks import (
    check_floating,
    check_not_negative,
    chosen,
    has_masked_nodes,
    missing,
    nodes,
    only,
    scalar,
    unboxed,
    value_at,
    wide_scalar,
)
from jaxunlearn.types import InputError, LossPair

ESTIMATORS = ("same_batch", "next_batch")

# The states of optax wrappers that change the updates of the transformation inside.
_CHANGE_THE_STEP = ("ScheduleFreeState", "MechanicState")


def dual_gradient(
    before: jax.Array,
    after: jax.Array,
    tolerance: jax.Array | float,
    step_size: jax.Array | float,
    log_loss: bool = False,
) -> jax.Array:
    """The unused part of the tolerance in one step; negative if the step exceeded it.

    `(phi(before) - phi(after)) / step_size + tolerance`, where `phi` is the identity or
    `log(x + 1e-8)`.

    Args:
        before: retain loss before the step, `[]`.
        after: retain loss after the step, `[]`.
        tolerance: permitted rise of `phi` of the retain loss per unit step.
        step_size: length of the step, not 0.
        log_loss: whether `phi` is the logarithm.

    Returns:
        The gradient of the multiplier, `[]`.

    Example:
        >>> float(dual_gradient(1.0, 1.5, tolerance=0.25, step_size=1.0))
        -0.25
    """
    if log_loss:
        before, after = jnp.log(before + 1e-8), jnp.log(after + 1e-8)
    return (before - after) / step_size + tolerance


class LastStep(NamedTuple):
    """The last step, for the next call of "next_batch"; `retain_value` is the loss before it."""

    retain_value: jax.Array  # shape=(), dtype=jnp.float32
    tolerance: jax.Array  # shape=(), dtype=jnp.float32
    step_size: jax.Array  # shape=(), dtype=jnp.float32


class ImplicitSurgeryState(NamedTuple):
    """The state of `implicit_surgery`.

    Attributes:
        count: number of updates so far.
        multiplier: stored multiplier (raw, possibly negative, if `project=False`).
        convex: whether the loss weights sum to 1.
        optimizer_state: state of the multiplier's optimizer.
        last_step: the last step, for "next_batch"; None for "same_batch".
    """

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    multiplier: jax.Array  # shape=(), dtype=jnp.float32
    convex: jax.Array  # shape=(), dtype=jnp.bool_
    optimizer_state: optax.OptState
    last_step: LastStep | None


def implicit_surgery(
    multiplier_optimizer: optax.GradientTransformation,
    *,
    tolerance: optax.ScalarOrSchedule = 0.0,
    step_size: optax.ScalarOrSchedule = 1.0,
    log_loss: bool = False,
    convex: bool = False,
    estimator: str = "same_batch",
    initial_multiplier: float | jax.Array = 0.0,
    project: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Updates the multiplier of the retain loss by the change of that loss in the finished step.

    The updates pass through unchanged. Put it LAST in the chain, so that it sees the final step,
    and take gradients with `surgery_value_and_grad`, which weighs the losses by the multiplier.

        dual gradient   d = (phi(before) - phi(after)) / step_size + tolerance
        multiplier      descends d by `multiplier_optimizer`, clipped at 0

    where `phi` is the identity, or `log(x + 1e-8)` if `log_loss`. With fixed gradients, SGD of rate
    beta and the learning rate as `step_size`, lambda converges to the closed form if
    `beta |g_r|^2 < 2`, under either estimator with `surgery_value_and_grad`. Gradients weighed by
    the *stored* multiplier of "next_batch" lag by one step, which halves the bound.

    The multiplier stays constant in a step of size 0 (a schedule that warms up), and in a step
    whose losses are not finite or, under `log_loss`, negative.

    Args:
        multiplier_optimizer: any optax optimizer, over one float32 scalar.
        tolerance: permitted rise of `phi` of the retain loss per unit step, a number or a schedule;
            a negative tolerance demands a fall.
        step_size: unit of the step, normally the learning rate; a positive number or a schedule.
        log_loss: whether `phi` is the logarithm, for losses that are never negative.
        convex: whether the losses are weighted by `(1, lambda) / (1 + lambda)`.
        estimator: "same_batch" compares the retain loss of one batch before and after the step (one
            more forward pass); "next_batch" compares the previous batch before the step with the
            current batch after it (no extra pass; the first call only stores the loss).
        initial_multiplier: initial multiplier.
        project: whether the stored multiplier is clipped at 0; otherwise it is clipped only where
            it is used.

    Returns:
        A transformation whose `update(updates, state, params, *, retain_value,
        retain_value_fn=None, **extra)` takes the retain loss at `params` and, for "same_batch", a
        function from parameters to the retain loss of the same batch. Both are float32 scalars.

    Raises:
        InputError: an argument out of range; in `update`, a loss that is missing, not a float32
            scalar, or negative under `log_loss` (outside `jit`), and for "same_batch" missing
            `params`, or use inside `optax.masked`.

    Example:
        >>> tx = optax.chain(optax.sgd(0.1), implicit_surgery(optax.sgd(1.0), step_size=0.1))
        >>> params = jnp.array([1.0, 2.0])
        >>> retain_loss = lambda p: jnp.sum(p**2)
        >>> state = tx.init(params)
        >>> _, state = tx.update(jnp.array([-1.0, 0.0]), state, params,
        ...                      retain_value=retain_loss(params), retain_value_fn=retain_loss)
        >>> round(float(multiplier(state)), 3)  # the step raised the loss by 0.21: (0.21 / 0.1)
        2.1
    """
    if not isinstance(multiplier_optimizer, optax.GradientTransformation):
        raise InputError(
            f"multiplier_optimizer is {multiplier_optimizer!r}, but must be an optax gradient "
            "transformation such as optax.sgd(1.0)."
        )
    if estimator not in ESTIMATORS:
        raise InputError(f"estimator is {estimator!r}, but must be one of {', '.join(ESTIMATORS)}.")
    if isinstance(step_size, int | float) and not step_size > 0:
        raise InputError(
            f"step_size is {step_size}, but must be positive; the usual one is the learning rate."
        )
    if project and isinstance(initial_multiplier, int | float) and not initial_multiplier >= 0:
        raise InputError(
            f"initial_multiplier is {initial_multiplier}, but must be 0 or more; only "
            "project=False stores negative values."
        )
    optimizer = optax.with_extra_args_support(multiplier_optimizer)
    same_batch = estimator == "same_batch"

    def step_at(count: jax.Array, retain_value: jax.Array) -> LastStep:
        return LastStep(retain_value, value_at(tolerance, count), value_at(step_size, count))

    def init_fn(params: optax.Params) -> ImplicitSurgeryState:
        del params
        count, start = jnp.zeros([], jnp.int32), jnp.array(initial_multiplier, jnp.float32)
        optimizer_state = optimizer.init(jnp.array(start))  # some store it: a copy
        last_step = None if same_batch else step_at(count, jnp.zeros([], jnp.float32))
        convexity = jnp.array(convex, jnp.bool_)
        return ImplicitSurgeryState(count, start, convexity, optimizer_state, last_step)

    def descended(
        state: ImplicitSurgeryState, step: LastStep, after: jax.Array, extra: dict[str, Any]
    ) -> ImplicitSurgeryState:
        """The state after one step of the multiplier, which needs two usable losses."""
        moves = step.step_size > 0.0
        step_size = jnp.where(moves, step.step_size, 1.0)
        fall = dual_gradient(step.retain_value, after, 0.0, step_size, log_loss)
        usable = moves & jnp.isfinite(fall**2)  # optimizers square it
        if not same_batch:
            usable &= state.count > 0
        gradient = jnp.where(usable, fall, 0.0) + step.tolerance
        change, optimizer_state = optimizer.update(
            gradient, state.optimizer_state, state.multiplier, **extra
        )
        value = state.multiplier + change
        value = jnp.maximum(value, 0.0) if project else value
        value, optimizer_state = chosen(
            usable, (value, optimizer_state), (state.multiplier, state.optimizer_state)
        )
        return state._replace(multiplier=value, optimizer_state=optimizer_state)

    def loss(value: Any, name: str) -> jax.Array:
        array = wide_scalar(value, name)
        if log_loss:
            check_not_negative(array, name, "log_loss=True; set log_loss=False")
        return array

    def update_fn(
        updates: optax.Updates,
        state: ImplicitSurgeryState,
        params: optax.Params | None = None,
        *,
        retain_value: jax.Array | None = None,
        retain_value_fn: Callable[[optax.Params], jax.Array] | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ImplicitSurgeryState]:
        if retain_value is None:
            how = "pass the retain loss at params, tx.update(..., retain_value=losses.retain)"
            raise missing("implicit_surgery", "retain_value", how)
        step = step_at(state.count, loss(retain_value, "retain_value"))
        if same_batch:
            if retain_value_fn is None or params is None:
                absent = "retain_value_fn" if retain_value_fn is None else "params"
                raise InputError(
                    f"implicit_surgery with estimator='same_batch' got no {absent}; pass "
                    "tx.update(grads, state, params, retain_value=..., retain_value_fn=...), or "
                    "use estimator='next_batch', which needs neither."
                )
            if has_masked_nodes((updates, params)):
                raise InputError(
                    "implicit_surgery is inside optax.masked or optax.multi_transform, where it "
                    "sees only some of the parameters, but must see all of them; put it after the "
                    "wrapper, as in optax.chain(optax.masked(...), implicit_surgery(...))."
                )
            value_after = retain_value_fn(optax.apply_updates(params, updates))
            after = loss(value_after, "the value of retain_value_fn")
            state = descended(state, step, after, extra)
        else:
            assert state.last_step is not None
            state = descended(state, state.last_step, step.retain_value, extra)
            state = state._replace(last_step=step)
        return updates, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def multiplier(opt_state: optax.OptState) -> jax.Array:
    """The multiplier lambda >= 0 of the retain loss, at any place in an optimizer state.

    Raises:
        InputError: no surgery, implicit or unilateral, in `opt_state`, or several.

    Example:
        >>> tx = implicit_surgery(optax.sgd(1.0), initial_multiplier=0.5)
        >>> float(multiplier(tx.init(None)))
        0.5
    """

    def wanted(node: Any) -> bool:
        return isinstance(node, tuple) and "multiplier" in getattr(node, "_fields", ())

    return jnp.maximum(only(opt_state, wanted, "implicit_surgery").multiplier, 0.0)


def loss_weights(opt_state: optax.OptState) -> LossPair:
    """The weights of both losses: `(1, lambda)`, or `(1, lambda) / (1 + lambda)` if convex.

    Raises:
        InputError: no `implicit_surgery` in `opt_state`, or several, or a "same_batch" one that is
            not last in its chain.

    Example:
        >>> tx = implicit_surgery(optax.sgd(1.0), initial_multiplier=1.0, convex=True)
        >>> [float(weight) for weight in loss_weights(tx.init(None))]
        [0.5, 0.5]
    """
    state = _implicit_in(opt_state)
    _check_last(opt_state, state)
    value = jnp.maximum(state.multiplier, 0.0)
    scale = jnp.where(state.convex, 1.0 / (1.0 + value), 1.0)
    return LossPair(forget=scale, retain=value * scale)


def surgery_value_and_grad(
    losses_fn: Callable[..., Any],
    surgery: optax.GradientTransformation,
    *,
    has_aux: bool = False,
    axis_name: str | None = None,
) -> Callable[..., tuple[Any, Any]]:
    """Both losses and the gradient of their weighted sum, in one forward and one backward pass.

    The pair of losses is pulled back once, along `loss_weights`. With the "next_batch" estimator,
    the weights already include this batch's retain loss, exactly as after the following `update`.

    Args:
        losses_fn: `losses_fn(params, *args, **kwargs) -> LossPair` of scalar losses, or, with
            `has_aux`, `(LossPair, aux)`.
        surgery: the `implicit_surgery` of the chain, bare or inside `optax.inject_hyperparams`.
        has_aux: whether `losses_fn` returns an auxiliary value besides the losses.
        axis_name: mapped axis for the means of losses and gradients, in `pmap` or `shard_map`.

    Returns:
        `vg(params, *args, state=opt_state, **kwargs) -> (losses, grads)`, or `((losses, aux),
        grads)`, with `losses` a `LossPair` of (averaged) scalars and `grads` a tree like `params`.
        `state` is a chain's state or the `opt_state` of an `nnx.Optimizer`. Pass `losses.retain` to
        `update` as `retain_value`.

    Raises:
        InputError: `surgery` is not a transformation; in `vg`, a `state` without `surgery`,
            parameters or losses that are not floating-point, or a half-precision retain loss.

    Example:
        >>> surgery = implicit_surgery(optax.sgd(1.0), initial_multiplier=2.0)
        >>> tx = optax.chain(optax.sgd(0.1), surgery)
        >>> vg = surgery_value_and_grad(lambda p: LossPair(forget=-p, retain=p**2), surgery)
        >>> losses, grads = vg(1.0, state=tx.init(1.0))
        >>> float(grads)  # -1 + 2 * 2
        3.0
    """
    if not isinstance(surgery, optax.GradientTransformation):
        raise InputError(
            f"surgery is {surgery!r}, but must be the implicit_surgery(...) of the chain; call "
            "surgery_value_and_grad(losses_fn, surgery)."
        )

    def averaged(tree: Any) -> Any:
        return tree if axis_name is None else jax.lax.pmean(tree, axis_name)

    def value_and_grad_fn(
        params: Any, *args: Any, state: optax.OptState = None, **kwargs: Any
    ) -> tuple[Any, Any]:
        if state is None:
            raise InputError(
                "surgery_value_and_grad got no state; call it as vg(params, ..., state=opt_state)."
            )
        check_floating(params, "params")
        own_state = _state_of(surgery, state, params)

        def pair_fn(params: Any) -> tuple[LossPair, Any]:
            result = losses_fn(params, *args, **kwargs)
            losses, aux = result if has_aux else (result, None)
            return averaged(_as_pair_of_scalars(losses)), aux

        losses, pullback, aux = jax.vjp(pair_fn, params, has_aux=True)
        if _implicit_in(own_state).last_step is not None:
            at_rest = jax.tree.map(jnp.zeros_like, params)
            refresh = optax.with_extra_args_support(surgery).update
            _, own_state = refresh(at_rest, own_state, params, retain_value=losses.retain)
        weights = loss_weights(own_state)
        cotangents = jax.tree.map(lambda w, loss: w.astype(loss.dtype), weights, losses)
        (grads,) = pullback(cotangents)
        return ((losses, aux) if has_aux else losses), averaged(grads)

    return value_and_grad_fn


def _as_pair_of_scalars(losses: Any) -> LossPair:
    if not isinstance(losses, tuple) or len(losses) != 2:
        raise InputError(
            f"losses_fn returned {type(losses).__name__}, but must return "
            "LossPair(forget=..., retain=...), or with has_aux=True a tuple of that and the "
            "auxiliary value."
        )
    scalar(losses[0], "the forget loss")
    wide_scalar(losses[1], "the retain loss")
    return LossPair(*map(jnp.asarray, losses))


def _state_of(
    surgery: optax.GradientTransformation, opt_state: optax.OptState, params: optax.Params
) -> Any:
    """The part of `opt_state` that has the structure of `surgery.init(params)`."""
    opt_state = unboxed(opt_state)
    _check_last(opt_state, _implicit_in(opt_state))
    wanted: Any = jax.tree.structure(jax.eval_shape(surgery.init, params))
    found = nodes(opt_state, lambda node: bool(jax.tree.structure(node) == wanted))
    if len(found) != 1:
        raise InputError(
            "the optimizer state holds another implicit_surgery, but must hold the given one; pass "
            "the surgery of the chain to surgery_value_and_grad."
        )
    return found[0]


def _is_implicit(node: Any) -> bool:
    return isinstance(node, ImplicitSurgeryState)


def _implicit_in(opt_state: optax.OptState) -> Any:
    return only(opt_state, _is_implicit, "implicit_surgery")


def _check_last(opt_state: optax.OptState, state: ImplicitSurgeryState) -> None:
    """Raises if "same_batch" is not last in its chain and so does not see the finished step."""

    def is_early(node: Any) -> bool:
        if type(node).__name__ in _CHANGE_THE_STEP:
            return bool(nodes(tuple(node), _is_implicit))
        return type(node) is tuple and any(nodes(part, _is_implicit) for part in node[:-1])

    if state.last_step is None and nodes(opt_state, is_early):
        raise InputError(
            "implicit_surgery with estimator='same_batch' is before another member of its chain or "
            "inside a wrapper that changes the step, but must see the finished step; make it the "
            "last in optax.chain(...), after such wrappers."
        )
