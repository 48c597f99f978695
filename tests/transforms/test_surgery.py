"""Implicit surgery: the multiplier's rule and its convergence, one forward and one backward."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from jaxunlearn import (
    LossPair,
    dual_gradient,
    implicit_surgery,
    loss_weights,
    multiplier,
    surgery_value_and_grad,
    unilateral_surgery,
)
from tests.helpers import (
    assert_trees_close,
    assert_trees_equal,
    dot,
    example_losses,
    examples,
    network,
    quadratic,
)

PARAMS = {"w": jnp.array([1.0, -2.0, 0.5])}
GRADS = {"w": jnp.array([0.3, 0.1, -0.2])}


def after_calls(tx: Any, values: list[tuple[float, float]]) -> list[float]:
    """The raw multiplier after each call with the retain losses (before, after)."""
    state, raw = tx.init(PARAMS), []
    for before, after in values:
        updates, state = tx.update(
            GRADS,
            state,
            PARAMS,
            retain_value=jnp.array(before),
            retain_value_fn=lambda _, after=after: jnp.array(after),
        )
        assert_trees_equal(updates, GRADS)  # the step itself is none of its business
        raw.append(float(state.multiplier))
    return raw


# ---- the rule -----------------------------------------------------------------------------------


def test_same_batch_by_hand() -> None:
    """d = (before - after) / step_size + tolerance; sgd(2) descends it, from 0.5, clipped at 0."""
    tx = implicit_surgery(
        optax.sgd(2.0), tolerance=0.1, step_size=0.5, initial_multiplier=0.5, project=True
    )
    # d = -0.4 + 0.1 = -0.3, then 2.1, then -1.9
    expected = [0.5 + 0.6, 0.0, 3.8]
    assert after_calls(tx, [(1.0, 1.2), (2.0, 1.0), (1.0, 2.0)]) == pytest.approx(expected)


def test_a_positive_tolerance_permits_a_rise_and_a_negative_one_demands_a_fall() -> None:
    """With the retain loss standing still, the sign of the tolerance decides alone."""
    still = [(1.0, 1.0)] * 3
    permits = implicit_surgery(optax.sgd(1.0), tolerance=0.1, initial_multiplier=1.0)
    demands = implicit_surgery(optax.sgd(1.0), tolerance=-0.1, initial_multiplier=1.0)
    assert after_calls(permits, still) == pytest.approx([0.9, 0.8, 0.7])
    assert after_calls(demands, still) == pytest.approx([1.1, 1.2, 1.3])
    assert float(dual_gradient(1.0, 1.25, tolerance=0.25, step_size=1.0)) == 0.0


def test_log_loss_by_hand() -> None:
    tx = implicit_surgery(optax.sgd(1.0), log_loss=True)
    assert after_calls(tx, [(1.0, 2.0)]) == pytest.approx([np.log(2.0)])
    assert np.isfinite(after_calls(tx, [(1.0, 0.0)])).all()


def test_unprojected_multiplier_is_stored_raw_and_clipped_where_used() -> None:
    tx = implicit_surgery(optax.sgd(1.0), project=False)
    assert after_calls(tx, [(2.0, 1.0), (1.0, 1.5)]) == pytest.approx([-1.0, -0.5])
    state = tx.init(PARAMS)._replace(multiplier=jnp.float32(-0.5))
    assert float(multiplier(state)) == 0.0
    assert tuple(map(float, loss_weights(state))) == (1.0, 0.0)
    clipped = implicit_surgery(optax.sgd(1.0), project=True)
    assert after_calls(clipped, [(2.0, 1.0), (1.0, 1.5)]) == pytest.approx([0.0, 0.5])


def test_next_batch_by_hand() -> None:
    """The first call only remembers; then before is the previous loss and after the present one."""
    tx = implicit_surgery(
        optax.adam(0.1), estimator="next_batch", initial_multiplier=1.0, log_loss=True
    )
    raw = after_calls(tx, [(1.0, np.nan), (1.5, np.nan), (1.2, np.nan)])
    optimizer, value = optax.adam(0.1), jnp.float32(1.0)
    state, expected = optimizer.init(value), [1.0]
    for before, after in [(1.0, 1.5), (1.5, 1.2)]:
        step, state = optimizer.update(jnp.float32(np.log(before) - np.log(after)), state, value)
        value = value + step
        expected.append(float(value))
    assert raw == pytest.approx(expected, rel=1e-5)


def test_schedules_follow_the_step_they_belong_to() -> None:
    """same_batch: those of this call. next_batch: those of the last, whose step is judged."""
    schedules = {
        "tolerance": lambda count: jnp.array([0.1, 0.2, 0.3])[count],
        "step_size": lambda count: jnp.array([1.0, 2.0, 4.0])[count],
    }
    losses = [(1.0, 2.0), (2.0, 4.0), (4.0, 8.0)]
    same = implicit_surgery(optax.sgd(1.0), **schedules)
    steps = np.array([1.0 - 0.1, 2.0 / 2.0 - 0.2, 4.0 / 4.0 - 0.3])
    assert after_calls(same, losses) == pytest.approx(np.cumsum(steps))
    later = implicit_surgery(optax.sgd(1.0), estimator="next_batch", **schedules)
    steps = np.array([0.0, (2.0 - 1.0) / 1.0 - 0.1, (4.0 - 2.0) / 2.0 - 0.2])
    assert after_calls(later, losses) == pytest.approx(np.cumsum(steps))


def test_same_batch_sees_the_final_step() -> None:
    """`retain_value_fn` gets the parameters as they will be after the chain, in their own dtype."""
    seen = []

    def retain_value_fn(params: Any) -> jax.Array:
        seen.append(params)
        return jnp.sum(params["w"].astype(jnp.float32))

    for dtype in (jnp.float32, jnp.bfloat16):
        params, grads = optax.tree.cast(PARAMS, dtype), optax.tree.cast(GRADS, dtype)
        tx = optax.chain(optax.sgd(0.5), implicit_surgery(optax.sgd(1.0)))
        updates, _ = tx.update(
            grads,
            tx.init(params),
            params,
            retain_value=jnp.array(1.0),
            retain_value_fn=retain_value_fn,
        )
        assert_trees_equal(seen[-1], optax.apply_updates(params, updates))


def test_extra_keywords_reach_the_optimizer_of_the_multiplier() -> None:
    """Such as `scale` here, or the `value` of an optimizer with a line search."""

    def update(gradient: Any, state: Any, params: Any = None, *, scale: Any, **extra: Any) -> Any:
        del params, extra
        return -scale * gradient, state

    reader = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    tx = implicit_surgery(reader)
    _, state = tx.update(
        GRADS,
        tx.init(PARAMS),
        PARAMS,
        retain_value=jnp.array(1.0),
        retain_value_fn=lambda _: jnp.array(1.5),
        scale=4.0,
    )
    assert float(multiplier(state)) == 2.0


def test_loss_weights_plain_and_convex() -> None:
    for value in (0.0, 0.25, 3.0):
        plain = implicit_surgery(optax.sgd(1.0), initial_multiplier=value).init(PARAMS)
        convex = implicit_surgery(optax.sgd(1.0), initial_multiplier=value, convex=True).init(
            PARAMS
        )
        assert tuple(map(float, loss_weights(plain))) == (1.0, value)
        expected = (1.0 / (1.0 + value), value / (1.0 + value))
        assert tuple(map(float, loss_weights(convex))) == pytest.approx(expected)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: tx,
        lambda tx: optax.chain(optax.adam(0.1), optax.chain(optax.identity(), tx)),
        lambda tx: optax.MultiSteps(tx, 2),
        lambda tx: optax.named_chain(("step", optax.sgd(0.1)), ("surgery", tx)),
        lambda tx: optax.apply_if_finite(optax.chain(optax.sgd(0.1), tx), 3),
        lambda tx: optax.inject_hyperparams(lambda rate: optax.chain(optax.sgd(rate), tx))(
            rate=0.1
        ),
    ],
)
def test_multiplier_is_found_anywhere(wrap: Any) -> None:
    state = wrap(implicit_surgery(optax.sgd(1.0), initial_multiplier=0.7)).init(PARAMS)
    assert float(multiplier(state)) == pytest.approx(0.7)
    assert float(loss_weights(state).retain) == pytest.approx(0.7)


def test_two_transformations_in_one_program_keep_their_own_rules() -> None:
    """The rule travels with the state, so two surgeries side by side do not mix."""
    plain = implicit_surgery(optax.sgd(1.0), initial_multiplier=1.0)
    convex = implicit_surgery(optax.sgd(1.0), initial_multiplier=1.0, convex=True)
    weights = jax.jit(lambda *states: [loss_weights(state).retain for state in states])
    assert list(map(float, weights(plain.init(PARAMS), convex.init(PARAMS)))) == [1.0, 0.5]


# ---- convergence on fixed gradients -------------------------------------------------------------

FIXED = LossPair(
    forget={"w": jnp.array([1.0, -2.0, 0.5])}, retain={"w": jnp.array([-1.0, 0.4, 0.2])}
)
TOLERANCE, RATE = 0.3, 0.05


def fixed_losses(params: Any) -> LossPair:
    """Linear losses: their gradients are `FIXED` everywhere."""
    return LossPair(*(jnp.vdot(gradient["w"], params["w"]) for gradient in FIXED))


def run_fixed(estimator: str, bound: float, refresh: bool, steps: int = 250) -> np.ndarray:
    """Multipliers of a run whose multiplier's rate is `bound / |g_r|^2`.

    Without `refresh`, "next_batch" is used as if its multiplier were read from the state: the
    gradient then is one step behind.
    """
    beta = bound / dot(FIXED.retain, FIXED.retain)
    surgery = implicit_surgery(
        optax.sgd(beta), tolerance=TOLERANCE, step_size=RATE, estimator=estimator
    )
    tx = optax.chain(optax.sgd(RATE), surgery)

    def step(carry: Any, _: Any) -> tuple[Any, jax.Array]:
        params, state = carry
        if refresh:
            losses, grads = surgery_value_and_grad(fixed_losses, surgery)(params, state=state)
        else:
            losses, weights = fixed_losses(params), loss_weights(state)
            grads = jax.grad(
                lambda p: sum(w * loss for w, loss in zip(weights, fixed_losses(p), strict=True))
            )(params)
        updates, state = tx.update(
            grads,
            state,
            params,
            retain_value=losses.retain,
            retain_value_fn=lambda p: fixed_losses(p).retain,
        )
        return (optax.apply_updates(params, updates), state), multiplier(state)

    start = jax.tree.map(jnp.zeros_like, PARAMS)
    run = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps))
    return np.asarray(run(start)[1])


@pytest.mark.parametrize(
    ("estimator", "refresh", "bound"),
    [
        ("same_batch", False, 2.0),  # measures the very step that its multiplier bent
        ("next_batch", True, 2.0),  # refreshed before the pullback
        ("next_batch", False, 1.0),  # one step of lag
    ],
)
def test_multiplier_converges_to_the_closed_form_below_the_bound_only(
    estimator: str, refresh: bool, bound: float
) -> None:
    """`beta |g_r|^2 < 2`, or `< 1` with a lag: lambda -> (-<g_r, g_f> - tolerance) / |g_r|^2."""
    exact = (-dot(FIXED.retain, FIXED.forget) - TOLERANCE) / dot(FIXED.retain, FIXED.retain)
    tx = unilateral_surgery(tolerance=TOLERANCE)
    _, state = tx.update(FIXED.forget, tx.init(PARAMS), retain_grads=FIXED.retain)
    assert float(multiplier(state)) == pytest.approx(exact, rel=1e-5) and exact > 1.0
    below = run_fixed(estimator, 0.9 * bound, refresh)
    above = run_fixed(estimator, 1.1 * bound, refresh)
    np.testing.assert_allclose(below[-5:], exact, rtol=1e-3)
    assert np.max(np.abs(above[-20:] - exact)) > 0.5 * exact


# ---- surgery_value_and_grad ---------------------------------------------------------------------

NETWORK, FORGET, RETAIN = network(hidden=12), examples(1, 32), examples(2, 64)


def network_losses(params: Any, forget: Any, retain: Any) -> LossPair:
    return LossPair(
        forget=-jnp.mean(example_losses(params, forget)),
        retain=jnp.mean(example_losses(params, retain)),
    )


def surgery_at(value: float, **settings: Any) -> optax.GradientTransformationExtraArgs:
    return implicit_surgery(optax.sgd(0.5), initial_multiplier=value, **settings)


@pytest.mark.parametrize(("convex", "weights"), [(False, (1.0, 3.0)), (True, (0.25, 0.75))])
def test_gradient_is_the_weighted_sum(convex: bool, weights: tuple[float, float]) -> None:
    surgery = surgery_at(3.0, convex=convex)
    vg = jax.jit(surgery_value_and_grad(network_losses, surgery))
    losses, grads = vg(NETWORK, FORGET, RETAIN, state=surgery.init(NETWORK))
    pair, parts = jax.jit(
        lambda p: (network_losses(p, FORGET, RETAIN), jax.jacrev(network_losses)(p, FORGET, RETAIN))
    )(NETWORK)
    for name, leaf in grads.items():
        expected = weights[0] * parts.forget[name] + weights[1] * parts.retain[name]
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)
    assert isinstance(losses, LossPair)
    assert_trees_close(losses, pair)


def count(jaxpr: Any, name: str) -> int:
    """How often a primitive stands in a jaxpr, inner ones included."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == name
        total += sum(count(inner, name) for inner in jaxprs_in_params(equation.params))
    return total


@pytest.mark.parametrize("estimator", ["same_batch", "next_batch"])
def test_one_forward_and_one_backward(estimator: str) -> None:
    """As many matrix products, and within 2% as many FLOPs, as differentiating `f + r`."""
    surgery = surgery_at(1.0, estimator=estimator)
    state = surgery.init(NETWORK)

    def ours(params: Any, state: Any, forget: Any, retain: Any) -> Any:
        return surgery_value_and_grad(network_losses, surgery)(params, forget, retain, state=state)

    def plain(params: Any, forget: Any, retain: Any) -> Any:
        return jax.value_and_grad(lambda p: sum(network_losses(p, forget, retain)))(params)

    arguments, base = (NETWORK, state, FORGET, RETAIN), (NETWORK, FORGET, RETAIN)
    products = count(jax.make_jaxpr(plain)(*base).jaxpr, "dot_general")
    assert products > 0
    assert count(jax.make_jaxpr(ours)(*arguments).jaxpr, "dot_general") == products

    def flops(function: Any, *args: Any) -> float:
        return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]

    assert flops(ours, *arguments) <= 1.02 * flops(plain, *base)


def test_next_batch_refreshes_by_the_rule_that_update_stores() -> None:
    """The weights inside the gradient are those that the state holds after `update`."""
    problem = quadratic()
    surgery = implicit_surgery(
        optax.adam(0.3), estimator="next_batch", initial_multiplier=0.5, tolerance=-0.1
    )
    tx = optax.chain(optax.sgd(0.05), surgery)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        losses, grads = surgery_value_and_grad(problem.losses, surgery)(params, state=state)
        updates, state = tx.update(grads, state, params, retain_value=losses.retain)
        return optax.apply_updates(params, updates), state, grads, problem.retain_grad(params)

    params = jax.tree.map(jnp.zeros_like, problem.optimum)
    state, used, stored = tx.init(params), [], []
    for _ in range(4):
        params, state, grads, retain = step(params, state)
        used.append((dot(grads, retain) - dot(problem.gradient, retain)) / dot(retain, retain))
        stored.append(float(multiplier(state)))
    assert used == pytest.approx(stored, rel=1e-4)
    assert len(set(stored)) == 4 and stored[0] == 0.5


def test_auxiliary_values_and_arguments_pass_through() -> None:
    def losses_fn(params: Any, scale: Any, shift: Any) -> Any:
        loss = jnp.sum(params["w"] ** 2) * scale
        return LossPair(forget=-loss, retain=loss + shift), {"norm": loss, "label": jnp.arange(2)}

    surgery = surgery_at(3.0)
    vg = jax.jit(surgery_value_and_grad(losses_fn, surgery, has_aux=True))
    (losses, aux), grads = vg(PARAMS, 2.0, 1.0, state=surgery.init(PARAMS))
    assert float(losses.retain) == pytest.approx(float(aux["norm"]) + 1.0)
    assert aux["label"].tolist() == [0, 1]
    np.testing.assert_allclose(grads["w"], 2.0 * 2.0 * PARAMS["w"] * (3.0 - 1.0), rtol=1e-6)


@pytest.mark.parametrize("estimator", ["same_batch", "next_batch"])
def test_bfloat16_parameters(estimator: str) -> None:
    """The gradients are in half precision as well, losses and multiplier in float32."""
    params = {"w": PARAMS["w"].astype(jnp.bfloat16)}
    surgery = implicit_surgery(optax.sgd(1.0), estimator=estimator)
    tx = optax.chain(optax.sgd(0.1), surgery)

    def losses_fn(p: Any) -> LossPair:
        w = p["w"].astype(jnp.float32)
        return LossPair(forget=-jnp.sum(w), retain=jnp.sum(w**2))

    state = tx.init(params)
    for _ in range(2):
        losses, grads = surgery_value_and_grad(losses_fn, surgery)(params, state=state)
        assert losses.retain.dtype == jnp.float32 and grads["w"].dtype == jnp.bfloat16
        updates, state = tx.update(
            grads,
            state,
            params,
            retain_value=losses.retain,
            retain_value_fn=lambda p: losses_fn(p).retain,
        )
        params = optax.apply_updates(params, updates)
        assert params["w"].dtype == jnp.bfloat16 and multiplier(state).dtype == jnp.float32


def test_losses_may_be_a_plain_tuple_and_need_not_depend_on_the_parameters() -> None:
    surgery = surgery_at(5.0)
    vg = surgery_value_and_grad(lambda p: (jnp.sum(p["w"]), jnp.array(2.0)), surgery)
    losses, grads = vg(PARAMS, state=surgery.init(PARAMS))
    assert isinstance(losses, LossPair) and float(losses.retain) == 2.0
    np.testing.assert_array_equal(grads["w"], jnp.ones(3))
