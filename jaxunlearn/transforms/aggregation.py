"""Two gradients in, one direction out: exact surgery and the other two-loss aggregators.

Each is a gradient transformation whose `updates` is a `LossPair` of gradient trees (forget, retain)
and whose result is one tree, to be stepped by whatever follows it in the chain:

    tx = optax.chain(unilateral_surgery(tolerance=0.01), optax.sgd(1e-2, momentum=0.9))
    updates, state = tx.update(LossPair(forget=g_f, retain=g_r), state, params)

With a = |g_r|^2, b = |g_f|^2 and c = <g_r, g_f> over the whole tree, every rule below is a pair of
weights computed from those three numbers, so all of them live inside `jit`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.transforms._checks import check_like, scalar, value_at
from jaxunlearn.types import InputError, LossPair

_TINY = 1e-30  # keeps 0 / 0 finite; far below the squared norm of any gradient that matters


class UnilateralSurgeryState(NamedTuple):
    """What `unilateral_surgery` remembers.

    Attributes:
        count: the number of updates so far.
        multiplier: the exact multiplier of the last update, for `multiplier(opt_state)`.
    """

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    multiplier: jax.Array  # shape=(), dtype=jnp.float32


def unilateral_surgery(
    tolerance: optax.ScalarOrSchedule = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """The nearest direction to the forget gradient that respects the retain loss, in closed form.

        d = g_f + lambda g_r,   lambda = max(0, (-<g_r, g_f> - tolerance) / |g_r|^2)

    solves `min 1/2 |d - g_f|^2` subject to `<g_r, d> >= -tolerance`; when the constraint is active,
    `<g_r, d> = -tolerance`. (1e-8 is added to the denominator.)

    Args:
        tolerance: the permitted rise of the retain loss per unit step; a number or a schedule.

    Returns:
        A transformation from a `LossPair` of gradient trees to one tree. `multiplier(opt_state)`
        reads the last multiplier.

    Raises:
        InputError: in `update`, updates that are not a `LossPair` of trees of the same structure
            and shapes.

    Reference: Zhou et al., Efficient Utility-Preserving Machine Unlearning (EUPMU,
    arXiv 2510.22124), 2025.

    Example:
        >>> tx = unilateral_surgery()
        >>> g = LossPair(forget=jnp.array([1.0, 1.0]), retain=jnp.array([-1.0, 0.0]))
        >>> direction, _ = tx.update(g, tx.init(g.forget))
        >>> direction.tolist()  # the part that would raise the retain loss is gone
        [0.0, 1.0]
    """

    def init_fn(params: optax.Params) -> UnilateralSurgeryState:
        del params
        return UnilateralSurgeryState(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.float32))

    def update_fn(
        updates: optax.Updates,
        state: UnilateralSurgeryState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, UnilateralSurgeryState]:
        del params, extra
        a, _, c = _inner_products(updates)
        weight = jnp.maximum((-c - value_at(tolerance, state.count)) / (a + 1e-8), 0.0)
        combined = _combine(updates, jnp.ones_like(weight), weight)
        return combined, UnilateralSurgeryState(optax.safe_increment(state.count), weight)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def pcgrad() -> optax.GradientTransformationExtraArgs:
    """Projects each gradient off the other when they conflict, then adds them.

        d = g_f + g_r - [c < 0] (c / a g_r + c / b g_f)

    Of two gradients each ends as its projection onto the cone of directions that raise neither
    loss, so this is twice their mean, which is UPGrad.

    Returns:
        A stateless transformation from a `LossPair` of gradient trees to one tree.

    Reference: Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020; UPGrad: Quinton
    and Rey, Jacobian Descent for Multi-Objective Optimization, 2024.

    Example:
        >>> g = LossPair(forget=jnp.array([1.0, 1.0]), retain=jnp.array([-1.0, 0.0]))
        >>> pcgrad().update(g, optax.EmptyState())[0].tolist()
        [-0.5, 1.5]
    """

    def weights(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
        conflict = jnp.minimum(c, 0.0)
        return 1.0 - conflict / jnp.maximum(b, _TINY), 1.0 - conflict / jnp.maximum(a, _TINY)

    return _stateless(weights)


def mgda() -> optax.GradientTransformationExtraArgs:
    """The point of least norm between the two gradients.

        d = w g_f + (1 - w) g_r,   w = clip(<g_r - g_f, g_r> / |g_r - g_f|^2, 0, 1)

    Returns:
        A stateless transformation from a `LossPair` of gradient trees to one tree.

    Reference: Desideri, Multiple-gradient descent algorithm, 2012; Sener and Koltun, NeurIPS 2018.

    Example:
        >>> g = LossPair(forget=jnp.array([1.0, 0.0]), retain=jnp.array([0.0, 1.0]))
        >>> mgda().update(g, optax.EmptyState())[0].tolist()
        [0.5, 0.5]
    """

    def weights(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
        forget = jnp.clip((a - c) / jnp.maximum(a + b - 2.0 * c, _TINY), 0.0, 1.0)
        return forget, 1.0 - forget

    return _stateless(weights)


def cagrad(c: float | jax.Array = 0.4) -> optax.GradientTransformationExtraArgs:
    """The direction that helps the worse of the two losses most, near their average gradient.

        d = g_0 + c |g_0| / |g_w| g_w,   g_0 = (g_f + g_r) / 2,   g_w = w g_f + (1 - w) g_r
        w minimises <g_w, g_0> + c |g_0| |g_w| over [0, 1]

    The minimum of this convex function of one variable is found by bisection of its derivative.

    Args:
        c: the radius, relative to `|g_0|`; 0 is the plain average.

    Returns:
        A stateless transformation from a `LossPair` of gradient trees to one tree.

    Raises:
        InputError: a negative `c`.

    Reference: Liu et al., Conflict-Averse Gradient Descent, NeurIPS 2021.

    Example:
        >>> g = LossPair(forget=jnp.array([1.0, 0.0]), retain=jnp.array([0.0, 1.0]))
        >>> cagrad(0.0).update(g, optax.EmptyState())[0].tolist()
        [0.5, 0.5]
    """
    if isinstance(c, int | float) and c < 0:
        raise InputError(f"c is {c}, but must be 0 or more; the usual choice is 0.4.")

    def weights(a: jax.Array, b: jax.Array, inner: jax.Array) -> tuple[jax.Array, jax.Array]:
        radius = c * 0.5 * jnp.sqrt(jnp.maximum(a + b + 2.0 * inner, 0.0))

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

    return _stateless(weights)


def nash() -> optax.GradientTransformationExtraArgs:
    """The Nash bargaining solution between the two losses, in closed form.

        d = w_f g_f + w_r g_r
        w_r = (a + c sqrt(a / b))^(-1/2),   w_f = (b + c sqrt(b / a))^(-1/2)

    It solves `G G^T w = 1 / w`: both losses gain the same in proportion, whatever their scale.

    Returns:
        A stateless transformation from a `LossPair` of gradient trees to one tree.

    Reference: Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022.

    Example:
        >>> g = LossPair(forget=jnp.array([2.0, 0.0]), retain=jnp.array([0.0, 0.5]))
        >>> nash().update(g, optax.EmptyState())[0].tolist()  # scale does not matter
        [1.0, 1.0]
    """

    def weights(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
        a, b = jnp.maximum(a, _TINY), jnp.maximum(b, _TINY)
        # 1 + cos is 0 for opposite gradients, where no direction helps both.
        agreement = jnp.maximum(1.0 + c / (jnp.sqrt(a) * jnp.sqrt(b)), 1e-6)
        return jax.lax.rsqrt(b * agreement), jax.lax.rsqrt(a * agreement)

    return _stateless(weights)


class GdrGmaState(NamedTuple):
    """What `gdr_gma` remembers.

    Attributes:
        count: the number of updates so far.
        bank: the last forget gradients, one leading axis added to every leaf.
    """

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    bank: optax.Updates  # leaves [bank_size, ...], dtype of the parameters


def gdr_gma(
    bank_size: int = 4, sharpness: float | jax.Array = 1.0, threshold: float | jax.Array = 0.1
) -> optax.GradientTransformationExtraArgs:
    """Rectifies both directions and weighs forgetting down as the retain loss rises.

        g_f' = g_f - [<g_f, g_r> < 0] <g_f, g_r> / |g_r|^2 g_r
        g_r' = g_r - [<g_r, m> < 0] <g_r, m> / |m|^2 m,   m = mean of the last forget gradients
        d = w g_f' + (1 - w) g_r',   w = 1 / (1 + exp(sharpness (l_r - threshold)))

    Args:
        bank_size: how many forget gradients the memory bank holds, at least 1.
        sharpness: how fast the weight moves from forgetting to retaining.
        threshold: the retain loss at which both weigh the same.

    Returns:
        A transformation from a `LossPair` of gradient trees to one tree, whose `update` takes the
        retain loss as `retain_value`.

    Raises:
        InputError: a `bank_size` below 1; in `update`, a missing `retain_value`.

    Reference: Lin et al., GDR-GMA, ACM Multimedia 2024.

    Example:
        >>> tx = gdr_gma(bank_size=1, threshold=0.5)
        >>> g = LossPair(forget=jnp.array([1.0, 0.0]), retain=jnp.array([0.0, 1.0]))
        >>> tx.update(g, tx.init(g.forget), retain_value=0.5)[0].tolist()
        [0.5, 0.5]
    """
    if bank_size < 1:
        raise InputError(f"bank_size is {bank_size}, but must be at least 1.")

    def init_fn(params: optax.Params) -> GdrGmaState:
        bank = jax.tree.map(lambda p: jnp.zeros((bank_size, *p.shape), p.dtype), params)
        return GdrGmaState(jnp.zeros([], jnp.int32), bank)

    def update_fn(
        updates: optax.Updates,
        state: GdrGmaState,
        params: optax.Params | None = None,
        *,
        retain_value: jax.Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, GdrGmaState]:
        del params, extra
        value = _required(retain_value, "retain_value", "gdr_gma")
        pair = _checked(updates)
        slot = state.count % bank_size
        bank = jax.tree.map(lambda m, g: m.at[slot].set(g.astype(m.dtype)), state.bank, pair.forget)
        count = optax.safe_increment(state.count)
        filled = jnp.minimum(count, bank_size).astype(jnp.float32)
        memory = jax.tree.map(lambda m: jnp.sum(m.astype(jnp.float32), axis=0) / filled, bank)
        forget = _rectified(pair.forget, pair.retain)
        retain = _rectified(pair.retain, memory)
        weight = jax.nn.sigmoid(-sharpness * (value - threshold))
        return _combine(LossPair(forget, retain), weight, 1.0 - weight), GdrGmaState(count, bank)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class FamoState(NamedTuple):
    """What `famo` remembers.

    Attributes:
        count: the number of updates so far.
        logits: the logits of the two weights (forget, retain).
        optimizer_state: the state of the logits' Adam.
        log_losses: the logarithms of the two losses at the previous update.
    """

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    logits: jax.Array  # shape=(2,), dtype=jnp.float32
    optimizer_state: optax.OptState
    log_losses: jax.Array  # shape=(2,), dtype=jnp.float32


def famo(
    learning_rate: float | jax.Array = 0.025, weight_decay: float | jax.Array = 1e-3
) -> optax.GradientTransformationExtraArgs:
    """Descends the log losses with weights that slow down whichever loss falls faster.

        d = sum_i z_i g_i / l_i / sum_i (z_i / l_i),   z = softmax(logits)
        the logits descend `J_softmax^T (log l_before - log l_after)` by Adam, with decay

    where before and after are the losses of the previous and the present call (the first call only
    remembers). Both losses must be positive.

    Args:
        learning_rate: the rate of the logits' Adam.
        weight_decay: the decay added to the logits' gradient.

    Returns:
        A transformation from a `LossPair` of gradient trees to one tree, whose `update` takes the
        two losses as `forget_value` and `retain_value`.

    Raises:
        InputError: in `update`, a missing `forget_value` or `retain_value`.

    Reference: Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023.

    Example:
        >>> tx = famo()
        >>> g = LossPair(forget=jnp.array([1.0, 0.0]), retain=jnp.array([0.0, 1.0]))
        >>> state = tx.init(g.forget)
        >>> tx.update(g, state, forget_value=1.0, retain_value=1.0)[0].tolist()
        [0.5, 0.5]
    """
    optimizer = optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate))

    def init_fn(params: optax.Params) -> FamoState:
        del params
        logits = jnp.zeros([2], jnp.float32)
        # Every field is an array of its own: a state is donated buffer by buffer.
        log_losses = jnp.zeros([2], jnp.float32)
        return FamoState(jnp.zeros([], jnp.int32), logits, optimizer.init(logits), log_losses)

    def update_fn(
        updates: optax.Updates,
        state: FamoState,
        params: optax.Params | None = None,
        *,
        forget_value: jax.Array | None = None,
        retain_value: jax.Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, FamoState]:
        del params, extra
        losses = jnp.stack(
            [
                _required(forget_value, "forget_value", "famo"),
                _required(retain_value, "retain_value", "famo"),
            ]
        )
        log_losses = jnp.log(losses + 1e-8)
        _, softmax_vjp = jax.vjp(jax.nn.softmax, state.logits)
        (gradient,) = softmax_vjp(state.log_losses - log_losses)
        step, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.logits)
        moved = (state.logits + step, optimizer_state)
        stay = (state.logits, state.optimizer_state)
        logits, optimizer_state = jax.tree.map(
            lambda new, old: jnp.where(state.count > 0, new, old), moved, stay
        )
        shares = jax.nn.softmax(logits) / (losses + 1e-8)
        shares = shares / jnp.sum(shares)
        count = optax.safe_increment(state.count)
        return _combine(updates, shares[0], shares[1]), FamoState(
            count, logits, optimizer_state, log_losses
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _stateless(
    weights_fn: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
) -> optax.GradientTransformationExtraArgs:
    """A transformation that weighs the two gradients by `weights_fn(a, b, c) -> (w_f, w_r)`."""

    def init_fn(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update_fn(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra
        return _combine(updates, *weights_fn(*_inner_products(updates))), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _dot(x: Any, y: Any) -> jax.Array:
    """The inner product over whole trees, accumulated in float32."""
    leaves = jax.tree.map(lambda u, v: jnp.sum(u.astype(jnp.float32) * v.astype(jnp.float32)), x, y)
    return jax.tree.reduce(jnp.add, leaves, jnp.zeros([], jnp.float32))


def _inner_products(updates: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`a = |g_r|^2`, `b = |g_f|^2`, `c = <g_r, g_f>`."""
    pair = _checked(updates)
    return (
        _dot(pair.retain, pair.retain),
        _dot(pair.forget, pair.forget),
        _dot(pair.retain, pair.forget),
    )


def _combine(updates: Any, forget_weight: jax.Array, retain_weight: jax.Array) -> Any:
    pair = _checked(updates)
    return jax.tree.map(
        lambda f, r: (forget_weight * f + retain_weight * r).astype(f.dtype),
        pair.forget,
        pair.retain,
    )


def _rectified(gradient: Any, other: Any) -> Any:
    """`gradient` without its component against `other`, if it has one."""
    scale = jnp.minimum(_dot(gradient, other), 0.0) / jnp.maximum(_dot(other, other), _TINY)
    return jax.tree.map(lambda g, o: (g - scale * o).astype(g.dtype), gradient, other)


def _checked(updates: Any) -> LossPair:
    if not isinstance(updates, LossPair):
        raise InputError(
            f"updates is a {type(updates).__name__}, but must be "
            "LossPair(forget=gradients, retain=gradients); an aggregator stands first in its chain."
        )
    check_like(updates.retain, updates.forget, "the retain gradient", "the forget gradient")
    return updates


def _required(value: Any, name: str, transformation: str) -> jax.Array:
    if value is None:
        raise InputError(
            f"{transformation} got no {name}; pass the loss as tx.update(..., {name}=...)."
        )
    return scalar(value, name)
