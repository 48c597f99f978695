"""Implicit gradient surgery: one backward pass, and a multiplier that guards the retain loss.

Unlearning under a bounded rise of the retain loss asks, at every step, for the direction `d`
nearest to the forget gradient that does not raise the retain loss faster than a tolerance:

    minimise 1/2 |d - g_f|^2   subject to   <g_r, d> >= -tolerance      (the step is -step_size d)

whose answer is `d = g_f + lambda g_r`. Instead of solving for lambda from two gradients
(`unilateral_surgery` does that), the multiplier is carried from step to step and moved by what the
last step did to the retain loss. One backward pass of `l_f + lambda l_r` is then enough:

    dual gradient   dtilde = (phi(l_r before) - phi(l_r after)) / step_size + tolerance
    multiplier      lambda <- max(lambda - beta dtilde, 0)

**The sign of the tolerance.** It is the paper's: `tolerance >= 0` *permits* the retain loss to rise
by that much per unit step. The released code's `error` has the opposite sign, it *demands* a fall;
`tolerance=-error` reproduces it.

Source: Zhou et al., Efficient Utility-Preserving Machine Unlearning (EUPMU, arXiv 2510.22124),
2025, Equation 8.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.types import InputError, LossPair

ScalarOrSchedule = float | jax.Array | Callable[[jax.Array], jax.Array]

ESTIMATORS = ("same_batch", "next_batch")


def dual_gradient(
    before: jax.Array,
    after: jax.Array,
    tolerance: jax.Array | float,
    step_size: jax.Array | float,
    log_loss: bool = False,
) -> jax.Array:
    """How far the last step stayed inside what the tolerance permits: positive means inside.

    `(phi(before) - phi(after)) / step_size + tolerance`, where `phi` is the identity or
    `log(x + 1e-8)`.

    Args:
        before: the retain loss before the step, `[]`.
        after: the retain loss after the step, `[]`.
        tolerance: the permitted rise of `phi` of the retain loss per unit step.
        step_size: the length that "per unit step" refers to.
        log_loss: compare logarithms of the losses instead of the losses.

    Returns:
        The gradient that the multiplier descends, `[]`.

    Example:
        >>> float(dual_gradient(1.0, 1.5, tolerance=0.25, step_size=1.0))
        -0.25
    """
    if log_loss:
        before, after = jnp.log(before + 1e-8), jnp.log(after + 1e-8)
    return (before - after) / step_size + tolerance


class ImplicitSurgeryState(NamedTuple):
    """What `implicit_surgery` remembers.

    Its type is specialised per transformation (see `_state_type`), so that the rule by which the
    multiplier moves is found from the state alone while the state holds nothing but arrays.

    Attributes:
        count: the number of updates so far.
        multiplier: the stored multiplier (raw, possibly negative, if `project=False`).
        optimizer_state: the state of the multiplier's optimizer.
        retain_value: the retain loss given to the previous update.
        tolerance: the tolerance in force at the previous update.
        step_size: the step size in force at the previous update.
    """

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    multiplier: jax.Array  # shape=(), dtype=jnp.float32
    optimizer_state: optax.OptState
    retain_value: jax.Array  # shape=(), dtype=jnp.float32
    tolerance: jax.Array  # shape=(), dtype=jnp.float32
    step_size: jax.Array  # shape=(), dtype=jnp.float32


class _Rule(NamedTuple):
    """Everything about a surgery that is not an array."""

    optimizer: optax.GradientTransformation
    log_loss: bool
    convex: bool
    estimator: str
    project: bool

    def move(
        self,
        state: ImplicitSurgeryState,
        before: jax.Array,
        after: jax.Array,
        tolerance: jax.Array,
        step_size: jax.Array,
        **extra: Any,
    ) -> tuple[jax.Array, optax.OptState]:
        """One descent step of the multiplier: its new value and its optimizer's new state."""
        gradient = dual_gradient(before, after, tolerance, step_size, self.log_loss)
        optimizer = optax.with_extra_args_support(self.optimizer)
        step, optimizer_state = optimizer.update(
            gradient, state.optimizer_state, state.multiplier, **extra
        )
        moved = (state.multiplier + step).astype(jnp.float32)
        return jnp.maximum(moved, 0.0) if self.project else moved, optimizer_state

    def move_to_next_batch(
        self, state: ImplicitSurgeryState, retain_value: jax.Array, **extra: Any
    ) -> tuple[jax.Array, optax.OptState]:
        """The multiplier once this batch's retain loss is known; the first batch only starts it."""
        moved = self.move(
            state, state.retain_value, retain_value, state.tolerance, state.step_size, **extra
        )
        stay = (state.multiplier, state.optimizer_state)
        return jax.tree.map(lambda new, old: jnp.where(state.count > 0, new, old), moved, stay)


@functools.lru_cache(maxsize=4096)
def _state_type(rule: _Rule) -> type[ImplicitSurgeryState]:
    """A subclass of `ImplicitSurgeryState` that carries `rule`, the same one for the same rule."""
    return type("ImplicitSurgeryState", (ImplicitSurgeryState,), {"rule": rule, "__slots__": ()})


def _value(scalar_or_schedule: ScalarOrSchedule, count: jax.Array) -> jax.Array:
    value = scalar_or_schedule(count) if callable(scalar_or_schedule) else scalar_or_schedule
    return jnp.array(value, jnp.float32)  # a copy: states are donated, the caller's arrays are not


def _scalar(value: Any, name: str) -> jax.Array:
    array = jnp.asarray(value)
    if array.ndim != 0 or not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(
            f"{name} has shape {array.shape} and dtype {array.dtype}, but must be one "
            "floating-point scalar; take the mean over the batch first."
        )
    return jnp.array(array, jnp.float32)  # a copy, see `_value`


def implicit_surgery(
    multiplier_optimizer: optax.GradientTransformation,
    *,
    tolerance: ScalarOrSchedule = 0.0,
    step_size: ScalarOrSchedule = 1.0,
    log_loss: bool = False,
    convex: bool = False,
    estimator: str = "same_batch",
    initial_multiplier: float | jax.Array = 0.0,
    project: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Moves the multiplier of the retain loss by what the finished step does to that loss.

    The updates pass through unchanged. Stand it LAST in the chain, so that it sees the final step,
    and take gradients with `surgery_value_and_grad`, which weighs the losses by the multiplier.

        dual gradient   d = (phi(before) - phi(after)) / step_size + tolerance
        multiplier      descends d by `multiplier_optimizer`, clipped at 0

    where `phi` is the identity, or `log(x + 1e-8)` if `log_loss`. With fixed gradients, plain SGD
    of rate beta and the learning rate as `step_size`, lambda converges to the closed form for
    `beta |g_r|^2 < 2`, under either estimator with `surgery_value_and_grad`. Gradients weighed by
    the *stored* multiplier of "next_batch" lag by one step, which halves the bound.

    Args:
        multiplier_optimizer: any optax optimizer, over one float32 scalar.
        tolerance: the rise of `phi` of the retain loss permitted per unit step (>= 0 permits a
            rise, < 0 demands a fall); a number or a schedule.
        step_size: the unit of the step, normally the learning rate; a positive number or a
            schedule.
        log_loss: compare logarithms of the losses.
        convex: weigh the losses `(1, lambda) / (1 + lambda)` rather than `(1, lambda)`.
        estimator: "same_batch" compares the retain loss of one batch before and after the step (one
            more forward pass); "next_batch" compares the previous batch before the step with the
            present one after it (no extra pass; the first call only remembers).
        initial_multiplier: where the multiplier starts.
        project: clip the stored multiplier at 0; otherwise it is stored raw and clipped where used.

    Returns:
        A transformation whose `update(updates, state, params, *, retain_value,
        retain_value_fn=None, **extra)` takes the retain loss at `params` and, for "same_batch", a
        function from parameters to the retain loss of the same batch.

    Raises:
        InputError: an unknown estimator, a `multiplier_optimizer` that is none, a step size that is
            not positive, a negative `initial_multiplier` that would be projected; in `update`, a
            missing or non-scalar `retain_value`, or a missing `retain_value_fn` or `params` for
            "same_batch".

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
    rule = _Rule(multiplier_optimizer, log_loss, convex, estimator, project)
    state_type = _state_type(rule)

    def init_fn(params: optax.Params) -> ImplicitSurgeryState:
        del params
        start = jnp.array(initial_multiplier, jnp.float32)
        count = jnp.zeros([], jnp.int32)
        return state_type(
            count=count,
            multiplier=start,
            optimizer_state=multiplier_optimizer.init(jnp.array(start)),  # some store it: a copy
            retain_value=jnp.zeros([], jnp.float32),
            tolerance=_value(tolerance, count),
            step_size=_value(step_size, count),
        )

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
            raise InputError(
                "implicit_surgery got no retain_value; pass the retain loss at params as "
                "tx.update(..., retain_value=losses.retain)."
            )
        before = _scalar(retain_value, "retain_value")
        now_tolerance, now_step = _value(tolerance, state.count), _value(step_size, state.count)
        if estimator == "same_batch":
            if retain_value_fn is None or params is None:
                missing = "retain_value_fn" if retain_value_fn is None else "params"
                raise InputError(
                    f"implicit_surgery with estimator='same_batch' got no {missing}; pass "
                    "tx.update(grads, state, params, retain_value=..., retain_value_fn=...), or "
                    "use estimator='next_batch', which needs neither."
                )
            value_after = retain_value_fn(optax.apply_updates(params, updates))
            after = _scalar(value_after, "the value of retain_value_fn")
            moved = rule.move(state, before, after, now_tolerance, now_step, **extra)
        else:
            moved = rule.move_to_next_batch(state, before, **extra)
        return updates, state._replace(
            count=optax.safe_increment(state.count),
            multiplier=moved[0],
            optimizer_state=moved[1],
            retain_value=before,
            tolerance=now_tolerance,
            step_size=now_step,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def multiplier(opt_state: optax.OptState) -> jax.Array:
    """The multiplier lambda >= 0 of the retain loss, wherever it is in a chain's state.

    Args:
        opt_state: any optimizer state that holds exactly one surgery: implicit or unilateral.

    Returns:
        A float32 scalar `[]`.

    Raises:
        InputError: no surgery in `opt_state`, or several.

    Example:
        >>> tx = implicit_surgery(optax.sgd(1.0), initial_multiplier=0.5)
        >>> float(multiplier(tx.init(None)))
        0.5
    """
    return jnp.maximum(_find(opt_state, _has_multiplier).multiplier, 0.0)


def loss_weights(opt_state: optax.OptState) -> LossPair:
    """The weights of the two losses: `(1, lambda)`, or `(1, lambda) / (1 + lambda)` if convex.

    Args:
        opt_state: any optimizer state that holds exactly one `implicit_surgery`.

    Returns:
        `LossPair` of float32 scalars `[]`.

    Raises:
        InputError: no `implicit_surgery` in `opt_state`, or several.

    Example:
        >>> tx = implicit_surgery(optax.sgd(1.0), initial_multiplier=1.0, convex=True)
        >>> [float(weight) for weight in loss_weights(tx.init(None))]
        [0.5, 0.5]
    """
    state = _find(opt_state, _is_implicit)
    return _weights(state.rule, state.multiplier)


def surgery_value_and_grad(
    losses_fn: Callable[..., Any], *, has_aux: bool = False, axis_name: str | None = None
) -> Callable[..., tuple[Any, Any]]:
    """Both losses and the gradient of their surgery-weighted sum, in one forward and one backward.

    The pair of losses is differentiated once and pulled back along `loss_weights`. With the
    "next_batch" estimator the multiplier is refreshed by this batch's retain loss in between,
    by the rule that `update` then stores.

    Args:
        losses_fn: `losses_fn(params, *args) -> LossPair` of scalar losses, or, with `has_aux`,
            `(LossPair, aux)`.
        has_aux: whether `losses_fn` returns something besides the losses.
        axis_name: the mapped axis to average losses and gradients over, in `pmap` or `shard_map`.

    Returns:
        `vg(params, *args, state=opt_state) -> (losses, grads)`, or `((losses, aux), grads)`, with
        `losses` a `LossPair` of (averaged) scalars and `grads` a tree like `params`. Hand
        `losses.retain` on to `update` as `retain_value`.

    Raises:
        InputError: `state` missing or without an `implicit_surgery`; losses that are not a pair of
            floating-point scalars.

    Example:
        >>> surgery = implicit_surgery(optax.sgd(1.0), initial_multiplier=2.0)
        >>> tx = optax.chain(optax.sgd(0.1), surgery)
        >>> vg = surgery_value_and_grad(lambda p: LossPair(forget=-p, retain=p**2))
        >>> losses, grads = vg(1.0, state=tx.init(1.0))
        >>> float(grads)  # -1 + 2 * 2
        3.0
    """

    def averaged(tree: Any) -> Any:
        return tree if axis_name is None else jax.lax.pmean(tree, axis_name)

    def pair_fn(params: Any, *args: Any) -> tuple[LossPair, Any]:
        losses, aux = losses_fn(params, *args) if has_aux else (losses_fn(params, *args), None)
        return averaged(_as_pair_of_scalars(losses)), aux

    def value_and_grad_fn(params: Any, *args: Any, state: optax.OptState = None) -> tuple[Any, Any]:
        surgery = _find(state, _is_implicit)
        losses, pullback, aux = jax.vjp(lambda p: pair_fn(p, *args), params, has_aux=True)
        current = surgery.multiplier
        if surgery.rule.estimator == "next_batch":
            current, _ = surgery.rule.move_to_next_batch(surgery, losses.retain.astype(jnp.float32))
        weights = _weights(surgery.rule, current)
        cotangents = jax.tree.map(lambda w, loss: w.astype(loss.dtype), weights, losses)
        (grads,) = pullback(cotangents)
        return ((losses, aux) if has_aux else losses), averaged(grads)

    return value_and_grad_fn


def _weights(rule: _Rule, raw_multiplier: jax.Array) -> LossPair:
    value = jnp.maximum(raw_multiplier, 0.0)
    scale = 1.0 / (1.0 + value) if rule.convex else jnp.ones_like(value)
    return LossPair(forget=scale, retain=value * scale)


def _as_pair_of_scalars(losses: Any) -> LossPair:
    if not isinstance(losses, tuple) or len(losses) != 2:
        raise InputError(
            f"losses_fn returned {type(losses).__name__}, but must return "
            "LossPair(forget=..., retain=...); with has_aux=True, that and the auxiliary value."
        )
    for name, loss in zip(LossPair._fields, losses, strict=True):
        _scalar(loss, f"the {name} loss")
    return LossPair(*map(jnp.asarray, losses))


def _is_implicit(node: Any) -> bool:
    return isinstance(node, ImplicitSurgeryState) and hasattr(node, "rule")


def _has_multiplier(node: Any) -> bool:
    return isinstance(node, tuple) and "multiplier" in getattr(node, "_fields", ())


def _find(opt_state: optax.OptState, wanted: Callable[[Any], bool]) -> Any:
    found = [node for node in jax.tree.leaves(opt_state, is_leaf=wanted) if wanted(node)]
    if len(found) != 1:
        count = "no" if not found else str(len(found))
        raise InputError(
            f"the optimizer state holds {count} implicit_surgery, but must hold exactly one; pass "
            "the state of a chain that ends with implicit_surgery(...), with its NamedTuples "
            "intact (a restored checkpoint must be restored into the structure of tx.init(params))."
        )
    return found[0]
