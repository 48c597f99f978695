"""Two gradients in, one direction out: exact surgery and the other two-loss aggregators.

Each is a gradient transformation: its updates are the forget gradient, its keyword `retain_grads`
is the retain gradient, and the rest of the chain steps the resulting direction:

    tx = optax.chain(unilateral_surgery(tolerance=0.01), optax.sgd(1e-2, momentum=0.9))
    updates, state = tx.update(forget_grads, state, params, retain_grads=retain_grads)

    >>> forget_grads, retain_grads = jnp.array([1.0, 1.0]), jnp.array([-1.0, 0.0])
    >>> for aggregator in (unilateral_surgery, pcgrad, mgda, cagrad, nash, gdr_gma, famo):
    ...     tx = aggregator()
    ...     direction, _ = tx.update(
    ...         forget_grads, tx.init(forget_grads), retain_grads=retain_grads,
    ...         forget_value=1.0, retain_value=1.0
    ...     )
    ...     print(f"{aggregator.__name__:18} [{direction[0]:5.2f}, {direction[1]:.2f}]")
    unilateral_surgery [ 0.00, 1.00]
    pcgrad             [-0.50, 1.50]
    mgda               [-0.20, 0.40]
    cagrad             [-0.20, 0.50]
    nash               [-0.54, 1.31]
    gdr_gma            [-0.50, 0.50]
    famo               [ 0.00, 0.50]

With a = |g_r|^2, b = |g_f|^2 and c = <g_r, g_f> over the whole tree, every rule below is a pair of
weights, computed from these three numbers inside `jit`.

| gradients | result |
| --- | --- |
| both zero | zero |
| g_r = 0 | `unilateral_surgery`, `pcgrad`: g_f; `mgda`: 0; `cagrad`: g_f / 2; `nash`: g_f / norm |
| g_f = 0 | likewise for g_r, but `unilateral_surgery`: zero if the tolerance permits a rise |
| equal | `unilateral_surgery`, `mgda`: g; `pcgrad`: 2 g; `cagrad`: (1 + c) g; `nash`: 1.4 g/norm |
| opposite | zero: `unilateral_surgery` without tolerance, `pcgrad`, `mgda`, `nash`, `cagrad` |
| not finite | not finite; `optax.apply_if_finite` around the chain checks only g_f |
| a norm above 1e19 or below 1e-19 | its square is outside the range of float32: scale the loss |

`gdr_gma` and `famo` also use the losses. All of them raise `InputError` for `retain_grads` that are
missing, or differ from the forget gradients in structure or shapes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.transforms._checks import check_not_negative, chosen, value_at
from jaxunlearn.transforms._pairs import aggregator, combine, dot, inner_products, required
from jaxunlearn.types import InputError, LossPair

_TINY = 1e-30  # keeps 0 / 0 finite; far below the squared norm of any gradient that matters


class UnilateralSurgeryState(NamedTuple):
    """The state of `unilateral_surgery`.

    Attributes:
        count: number of updates so far.
        multiplier: exact multiplier of the last update, for `multiplier(opt_state)`.
    """

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    multiplier: jax.Array  # shape=(), dtype=jnp.float32


def unilateral_surgery(
    *, tolerance: optax.ScalarOrSchedule = 0.0, epsilon: float | jax.Array = 1e-30
) -> optax.GradientTransformationExtraArgs:
    """The direction nearest to the forget gradient that protects the retain loss, in closed form.

        d = g_f + lambda g_r,   lambda = max(0, (-<g_r, g_f> - tolerance) / |g_r|^2)

    solves `min 1/2 |d - g_f|^2` subject to `<g_r, d> >= -tolerance`; when the constraint is active,
    `<g_r, d> = -tolerance`. It is the limit of `implicit_surgery` with the learning rate as
    `step_size`: both permit the same rise for the same `tolerance`.

    Args:
        tolerance: permitted rise of the retain loss per unit step; a number or a schedule.
        epsilon: number that is added to `|g_r|^2` in the denominator.

    Reference: Zhou et al., Efficient Utility-Preserving Machine Unlearning with Implicit Gradient
    Surgery (arXiv 2510.22124), NeurIPS 2025.
    """

    def rule(pair: LossPair, state: Any, **extra: Any) -> tuple[Any, UnilateralSurgeryState]:
        a, _, c = inner_products(pair)
        weight = jnp.maximum((-c - value_at(tolerance, state.count)) / (a + epsilon), 0.0)
        weight = jnp.where(a > 0.0, weight, 0.0).astype(jnp.float32)
        combined = combine(pair, jnp.ones_like(weight), weight)
        return combined, UnilateralSurgeryState(optax.safe_increment(state.count), weight)

    def init_fn(params: optax.Params) -> UnilateralSurgeryState:
        del params
        return UnilateralSurgeryState(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.float32))

    return aggregator("unilateral_surgery", rule, init_fn)


def pcgrad() -> optax.GradientTransformationExtraArgs:
    """Removes from each gradient its part against the other, then adds them.

        d = g_f + g_r - [c < 0] (c / a g_r + c / b g_f)

    Each projection is the point nearest to its gradient in the cone of directions that raise
    neither loss. UPGrad is the mean of the two, half of this sum.

    Reference: Yu et al., Gradient Surgery for Multi-Task Learning (arXiv 2001.06782), NeurIPS 2020;
    Quinton and Rey, Jacobian Descent for Multi-Objective Optimization (arXiv 2406.16232), 2024.
    """

    def weights(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
        conflict = jnp.minimum(c, 0.0)
        return 1.0 - conflict / jnp.maximum(b, _TINY), 1.0 - conflict / jnp.maximum(a, _TINY)

    return _stateless(weights, "pcgrad")


def mgda() -> optax.GradientTransformationExtraArgs:
    """The point of least norm between the two gradients.

        d = w g_f + (1 - w) g_r,   w = clip(<g_r - g_f, g_r> / |g_r - g_f|^2, 0, 1)

    Reference: Desideri, Multiple-gradient descent algorithm (MGDA) for multiobjective optimization
    (doi 10.1016/j.crma.2012.03.014), 2012; Sener and Koltun, Multi-Task Learning as Multi-Objective
    Optimization (arXiv 1810.04650), NeurIPS 2018.
    """

    def weights(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
        forget = jnp.clip((a - c) / jnp.maximum(a + b - 2.0 * c, _TINY), 0.0, 1.0)
        return forget, 1.0 - forget

    return _stateless(weights, "mgda")


class CagradState(NamedTuple):
    """The state of `cagrad`: the number of updates so far."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32


def cagrad(
    *, c: optax.ScalarOrSchedule = 0.4, rescale: bool = False
) -> optax.GradientTransformationExtraArgs:
    """The direction near the average gradient with the largest gain for the worse of both losses.

        d = g_0 + c |g_0| / |g_w| g_w,   g_0 = (g_f + g_r) / 2,   g_w = w g_f + (1 - w) g_r
        w minimises <g_w, g_0> + c |g_0| |g_w| over [0, 1]

    The minimum of this convex function of one variable is found by bisection of its derivative.

    Args:
        c: radius, relative to `|g_0|`, a number or a schedule; 0 is the plain average.
        rescale: whether the direction is `2 d / (1 + c^2)`, as in the released code.

    Raises:
        InputError: a negative `c`.

    Reference: Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning (arXiv
    2110.14048), NeurIPS 2021.
    """
    if isinstance(c, int | float) and c < 0:
        raise InputError(f"c is {c}, but must be 0 or more; the usual choice is 0.4.")

    def weights(
        a: jax.Array, b: jax.Array, inner: jax.Array, radius: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        radius = radius * 0.5 * jnp.sqrt(jnp.maximum(a + b + 2.0 * inner, 0.0))

        def norm(w: jax.Array) -> jax.Array:
            square = w**2 * b + 2.0 * w * (1.0 - w) * inner + (1.0 - w) ** 2 * a
            return jnp.sqrt(jnp.maximum(square, 1e-12 * (a + b) + _TINY))

        def slope(w: jax.Array) -> jax.Array:
            half_square_slope = w * b + (1.0 - 2.0 * w) * inner - (1.0 - w) * a
            return 0.5 * (b - a) + radius * half_square_slope / norm(w)

        def bisect(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = 0.5 * (low + high)
            falling = slope(middle) < 0
            return jnp.where(falling, middle, low), jnp.where(falling, high, middle)

        low, high = jax.lax.fori_loop(0, 40, bisect, (jnp.zeros_like(a), jnp.ones_like(a)))
        w = 0.5 * (low + high)
        scale = radius / norm(w)
        return 0.5 + scale * w, 0.5 + scale * (1.0 - w)

    def rule(pair: LossPair, state: CagradState, **extra: Any) -> tuple[optax.Updates, CagradState]:
        radius = value_at(c, state.count)
        scale = 2.0 / (1.0 + radius**2) if rescale else 1.0
        shares = (scale * share for share in weights(*inner_products(pair), radius))
        return combine(pair, *shares), CagradState(optax.safe_increment(state.count))

    return aggregator("cagrad", rule, lambda params: CagradState(jnp.zeros([], jnp.int32)))


def nash(*, epsilon: float | jax.Array = 1e-6) -> optax.GradientTransformationExtraArgs:
    """The Nash bargaining solution between the two losses, in closed form.

        d = w_f g_f + w_r g_r
        w_r = (a + c sqrt(a / b))^(-1/2),   w_f = (b + c sqrt(b / a))^(-1/2)

    It solves `G G^T w = 1 / w`: both losses have the same relative gain, whatever their scale.

    Args:
        epsilon: smallest value of `1 + cos(g_f, g_r)`, which is 0 for opposite gradients.

    Reference: Navon et al., Multi-Task Learning as a Bargaining Game (arXiv 2202.01017), ICML 2022.
    """

    def weights(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
        a, b = jnp.maximum(a, _TINY), jnp.maximum(b, _TINY)
        agreement = jnp.maximum(1.0 + c / (jnp.sqrt(a) * jnp.sqrt(b)), epsilon)
        return jax.lax.rsqrt(b * agreement), jax.lax.rsqrt(a * agreement)

    return _stateless(weights, "nash")


class GdrGmaState(NamedTuple):
    """The state of `gdr_gma`.

    Attributes:
        count: number of updates so far.
        bank: last forget gradients, along a new leading axis of every leaf.
    """

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    bank: optax.Updates  # leaves [bank_size, ...], dtype of the parameters


def gdr_gma(
    *,
    bank_size: int = 4,
    sharpness: optax.ScalarOrSchedule = 10.0,
    threshold: optax.ScalarOrSchedule = 0.1,
) -> optax.GradientTransformationExtraArgs:
    """Rectifies both directions and gives forgetting less weight as the retain loss rises.

        g_f' = g_f - [<g_f, g_r> < 0] <g_f, g_r> / |g_r|^2 g_r
        g_r' = g_r - [<g_r, m> < 0] <g_r, m> / |m|^2 m,   m = mean of the last forget gradients
        d = w g_f' + (1 - w) g_r',   w = 1 / (1 + exp(sharpness (l_r - threshold)))

    Args:
        bank_size: number of forget gradients in the memory bank, at least 1.
        sharpness: rate at which the weight moves from forgetting to retaining; a number or a
            schedule.
        threshold: retain loss at which both weigh the same; a number or a schedule.

    Returns:
        A transformation with `update(forget_grads, state, params, *, retain_grads, retain_value)`.

    Raises:
        InputError: a `bank_size` below 1; in `update`, a missing `retain_value`.

    Reference: Lin et al., GDR-GMA: Machine Unlearning via Direction-Rectified and
    Magnitude-Adjusted Gradients, ACM Multimedia 2024.
    """
    if isinstance(bank_size, jax.core.Tracer):
        raise InputError(
            "bank_size is traced, but must be a Python integer, since it sets a shape; use "
            "optax.inject_hyperparams(gdr_gma, static_args='bank_size')."
        )
    if bank_size < 1:
        raise InputError(f"bank_size is {bank_size}, but must be at least 1.")

    def init_fn(params: optax.Params) -> GdrGmaState:
        bank = jax.tree.map(lambda p: jnp.zeros((bank_size, *p.shape), p.dtype), params)
        return GdrGmaState(jnp.zeros([], jnp.int32), bank)

    def rule(
        pair: LossPair, state: GdrGmaState, retain_value: Any = None, **extra: Any
    ) -> tuple[optax.Updates, GdrGmaState]:
        value = required(retain_value, "retain_value", "gdr_gma")
        slot = state.count % bank_size
        bank = jax.tree.map(lambda m, g: m.at[slot].set(g.astype(m.dtype)), state.bank, pair.forget)
        count = optax.safe_increment(state.count)
        filled = jnp.minimum(count, bank_size).astype(jnp.float32)
        memory = jax.tree.map(lambda m: jnp.sum(m.astype(jnp.float32), axis=0) / filled, bank)
        forget = _rectified(pair.forget, pair.retain)
        retain = _rectified(pair.retain, memory)
        excess = value - value_at(threshold, state.count)
        weight = jax.nn.sigmoid(-value_at(sharpness, state.count) * excess)
        return combine(LossPair(forget, retain), weight, 1.0 - weight), GdrGmaState(count, bank)

    return aggregator("gdr_gma", rule, init_fn)


class FamoState(NamedTuple):
    """The state of `famo`.

    Attributes:
        count: number of updates so far.
        logits: logits of the two weights (forget, retain).
        optimizer_state: state of the logits' Adam.
        log_losses: logarithms of both losses at the previous update.
    """

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    logits: jax.Array  # shape=(2,), dtype=jnp.float32
    optimizer_state: optax.OptState
    log_losses: jax.Array  # shape=(2,), dtype=jnp.float32


def famo(
    *,
    logit_learning_rate: optax.ScalarOrSchedule = 0.025,
    logit_decay: optax.ScalarOrSchedule = 1e-3,
    epsilon: float | jax.Array = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """Descends the log losses with weights that slow down the loss that falls faster.

        d = sum_i z_i g_i / l_i / sum_i (z_i / l_i),   z = softmax(logits)
        the logits descend `J_softmax^T (log l_before - log l_after)` by Adam, with decay

    with the losses of the previous call (before) and of this call (after); the first call only
    stores them. Neither loss may be negative. For exact differences, as in the paper, pass
    `after`, the losses of the previous call's batch at the present parameters.

    Args:
        logit_learning_rate: learning rate of the logits' Adam; a number or a schedule.
        logit_decay: weight decay of the logits; a number or a schedule.
        epsilon: number that is added to the losses.

    Returns:
        A transformation with `update(forget_grads, state, params, *, retain_grads, forget_value,
        retain_value, after=None)`.

    Raises:
        InputError: in `update`, a `forget_value` or `retain_value` that is missing, in half
            precision or (outside `jit`) negative.

    Reference: Liu et al., FAMO: Fast Adaptive Multitask Optimization (arXiv 2306.03792), NeurIPS
    2023.
    """
    optimizer = optax.chain(optax.add_decayed_weights(logit_decay), optax.adam(logit_learning_rate))

    def init_fn(params: optax.Params) -> FamoState:
        del params
        logits = jnp.zeros([2], jnp.float32)
        # Every field needs its own array, because states are donated.
        log_losses = jnp.zeros([2], jnp.float32)
        return FamoState(jnp.zeros([], jnp.int32), logits, optimizer.init(logits), log_losses)

    def rule(
        pair: LossPair, state: FamoState, after: LossPair | None = None, **extra: Any
    ) -> tuple[optax.Updates, FamoState]:
        names = ("forget_value", "retain_value")
        losses = jnp.stack([required(extra.get(name), name, "famo") for name in names])
        for value, name in zip(losses, names, strict=True):
            check_not_negative(value, name, "famo; choose an objective that is positive")
        log_losses = jnp.log(losses + epsilon).astype(jnp.float32)
        log_after = log_losses if after is None else jnp.log(jnp.stack(after) + epsilon)
        _, softmax_vjp = jax.vjp(jax.nn.softmax, state.logits)
        (gradient,) = softmax_vjp(state.log_losses - log_after)
        step, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.logits)
        moved, stay = (state.logits + step, optimizer_state), (state.logits, state.optimizer_state)
        logits, optimizer_state = chosen(state.count > 0, moved, stay)
        shares = jax.nn.softmax(logits) / (losses + epsilon)
        shares = shares / jnp.sum(shares)
        count = optax.safe_increment(state.count)
        return combine(pair, shares[0], shares[1]), FamoState(
            count, logits, optimizer_state, log_losses
        )

    return aggregator("famo", rule, init_fn)


def _stateless(
    weights_fn: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    name: str,
) -> optax.GradientTransformationExtraArgs:
    """The transformation that weighs both gradients by `weights_fn(a, b, c) -> (w_f, w_r)`."""

    def rule(pair: LossPair, state: Any, **extra: Any) -> tuple[optax.Updates, Any]:
        return combine(pair, *weights_fn(*inner_products(pair))), state

    return aggregator(name, rule, lambda params: optax.EmptyState())


def _rectified(gradient: Any, other: Any) -> Any:
    """`gradient` without its component against `other`."""
    scale = jnp.minimum(dot(gradient, other), 0.0) / jnp.maximum(dot(other, other), _TINY)
    return jax.tree.map(lambda g, o: (g - scale * o).astype(g.dtype), gradient, other)
