"""The aggregators against quadratic programs, brute force and hand arithmetic."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from jaxunlearn import (
    LossPair,
    cagrad,
    famo,
    gdr_gma,
    mgda,
    multiplier,
    nash,
    pcgrad,
    unilateral_surgery,
)
from tests.helpers import assert_trees_equal, cosine, dot, flat

SEEDS = range(3)


def gradients(seed: int, conflict: bool | None = None) -> LossPair:
    """Two gradients over a tree of 7 entries; with `conflict`, of a negative (positive) product."""
    rng = np.random.default_rng(seed)
    forget, retain = rng.normal(size=7), rng.normal(size=7) * 0.6
    if conflict is not None and (forget @ retain < 0) != conflict:
        retain = -retain
    return LossPair(*(tree(v) for v in (forget, retain)))


def tree(vector: np.ndarray) -> dict[str, jax.Array]:
    vector = jnp.asarray(vector, jnp.float32)
    return {"a": vector[:4].reshape(2, 2), "b": vector[4:]}


@functools.partial(jax.jit, static_argnums=0)
def update(tx: Any, pair: LossPair, state: Any, **values: Any) -> tuple[Any, Any]:
    return tx.update(pair.forget, state, retain_grads=pair.retain, **values)


def direction(tx: optax.GradientTransformationExtraArgs, pair: LossPair) -> np.ndarray:
    combined, _ = update(tx, pair, tx.init(pair.forget))
    assert jax.tree.structure(combined) == jax.tree.structure(pair.forget)
    return flat(combined)


def on_circle(pair: LossPair, count: int = 20_001) -> np.ndarray:
    """Unit vectors of the plane of the two gradients, `[count, 7]`."""
    basis, _ = np.linalg.qr(np.stack([flat(pair.forget), flat(pair.retain)], axis=1))
    angles = np.linspace(0.0, 2.0 * np.pi, count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) @ basis.T


@pytest.mark.parametrize("tolerance", [-0.5, 0.0, 0.3])
@pytest.mark.parametrize("seed", SEEDS)
def test_unilateral_surgery_solves_the_quadratic_program(seed: int, tolerance: float) -> None:
    """`min 1/2 |d - g_f|^2` subject to `<g_r, d> >= -tolerance`, by a general solver in float64."""
    pair = gradients(seed)
    forget, retain = flat(pair.forget), flat(pair.retain)
    solution = scipy.optimize.minimize(
        lambda d: 0.5 * np.sum((d - forget) ** 2),
        np.zeros(7),
        jac=lambda d: d - forget,
        constraints={
            "type": "ineq",
            "fun": lambda d: retain @ d + tolerance,
            "jac": lambda _: retain,
        },
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    assert solution.success
    np.testing.assert_allclose(
        direction(unilateral_surgery(tolerance=tolerance), pair), solution.x, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("tolerance", [-0.5, 0.0, 0.3])
def test_unilateral_surgery_stops_at_the_tolerance(tolerance: float) -> None:
    """`<g_r, d> = -tolerance` when active: positive permits a rise, negative demands a fall."""
    pair = gradients(0, conflict=True)
    assert dot(pair.retain, pair.forget) < -tolerance  # active
    d = direction(unilateral_surgery(tolerance=tolerance), pair)
    assert flat(pair.retain) @ d == pytest.approx(-tolerance, abs=1e-5)


def test_unilateral_surgery_leaves_harmless_gradients_alone() -> None:
    pair = gradients(1, conflict=False)
    tx = unilateral_surgery()
    combined, state = update(tx, pair, tx.init(pair.forget))
    assert_trees_equal(combined, pair.forget)
    assert float(multiplier(state)) == 0.0 and int(state.count) == 1


def test_unilateral_surgery_takes_a_schedule() -> None:
    """The tolerance of update n is `schedule(n)`."""
    pair = gradients(0, conflict=True)
    tx = unilateral_surgery(tolerance=lambda count: jnp.where(count == 0, 0.0, 100.0))
    state = tx.init(pair.forget)
    _, state = update(tx, pair, state)
    assert float(multiplier(state)) > 0.0
    combined, state = update(tx, pair, state)
    assert float(multiplier(state)) == 0.0
    assert_trees_equal(combined, pair.forget)


def test_multiplier_of_a_chain_with_exact_surgery() -> None:
    pair = gradients(0, conflict=True)
    tx = optax.chain(unilateral_surgery(), optax.adam(1e-2))
    _, state = update(tx, pair, tx.init(pair.forget))
    expected = -dot(pair.retain, pair.forget) / dot(pair.retain, pair.retain)
    assert float(multiplier(state)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_pcgrad_leaves_no_conflict(seed: int) -> None:
    """Each gradient is projected off the other: the sum of two vectors computed one by one."""
    pair = gradients(seed, conflict=True)
    f, r = flat(pair.forget), flat(pair.retain)
    d = direction(pcgrad(), pair)
    expected = (f - (f @ r) / (r @ r) * r) + (r - (f @ r) / (f @ f) * f)
    np.testing.assert_allclose(d, expected, rtol=1e-4, atol=1e-5)
    assert d @ f > 0 and d @ r > 0


@pytest.mark.parametrize("conflict", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_pcgrad_is_twice_upgrad_of_two_gradients(seed: int, conflict: bool) -> None:
    """UPGrad by its definition: each gradient projected onto the dual cone, by a general solver."""
    pair = gradients(seed, conflict)
    both = np.stack([flat(pair.forget), flat(pair.retain)])

    def projected(g: np.ndarray) -> np.ndarray:
        multipliers, _ = scipy.optimize.nnls(both.T, -g)
        return g + both.T @ multipliers

    upgrad = np.mean([projected(g) for g in both.astype(np.float64)], axis=0)
    np.testing.assert_allclose(direction(pcgrad(), pair), 2.0 * upgrad, rtol=1e-4, atol=1e-5)


def test_pcgrad_adds_gradients_that_agree() -> None:
    pair = gradients(2, conflict=False)
    expected = flat(pair.forget) + flat(pair.retain)
    np.testing.assert_allclose(direction(pcgrad(), pair), expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])  # the solution at either end, and inside
@pytest.mark.parametrize("seed", SEEDS)
def test_mgda_is_the_point_of_least_norm(seed: int, scale: float) -> None:
    pair = gradients(seed)
    pair = LossPair(pair.forget, jax.tree.map(lambda g: scale * g, pair.retain))
    shares = np.linspace(0.0, 1.0, 20_001)[:, None]
    points = shares * flat(pair.forget) + (1.0 - shares) * flat(pair.retain)
    best = points[np.argmin(np.sum(points**2, axis=1))]
    np.testing.assert_allclose(direction(mgda(), pair), best, atol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_nash_maximises_the_product_of_gains(seed: int) -> None:
    """`max log <g_f, d> + log <g_r, d>` over directions, and `G G^T w = 1 / w` for the weights."""
    pair = gradients(seed)
    candidates = on_circle(pair)
    gains = np.minimum(candidates @ flat(pair.forget), candidates @ flat(pair.retain))
    product = (candidates @ flat(pair.forget)) * (candidates @ flat(pair.retain))
    best = candidates[np.argmax(np.where(gains > 0, product, -np.inf))]
    d = direction(nash(), pair)
    assert d @ best / np.linalg.norm(d) == pytest.approx(1.0, abs=1e-6)
    both = np.stack([flat(pair.forget), flat(pair.retain)], axis=1)
    weights = np.linalg.lstsq(both, d, rcond=None)[0]
    np.testing.assert_allclose(both.T @ both @ weights, 1.0 / weights, rtol=1e-4)


@pytest.mark.parametrize("radius", [0.2, 0.4, 0.9])
@pytest.mark.parametrize("seed", SEEDS)
def test_cagrad_maximises_the_worse_gain_in_a_ball(seed: int, radius: float) -> None:
    """`max_d min(<g_f, d>, <g_r, d>)` where `|d - g_0| <= c |g_0|`, by trying the whole circle."""
    pair = gradients(seed)
    mean = 0.5 * (flat(pair.forget) + flat(pair.retain))
    candidates = mean + radius * np.linalg.norm(mean) * on_circle(pair)
    worse = np.minimum(candidates @ flat(pair.forget), candidates @ flat(pair.retain))
    d = direction(cagrad(c=radius), pair)
    assert np.linalg.norm(d - mean) == pytest.approx(radius * np.linalg.norm(mean), rel=1e-4)
    ours = min(d @ flat(pair.forget), d @ flat(pair.retain))
    assert ours == pytest.approx(np.max(worse), abs=1e-4)


def test_cagrad_with_radius_zero_is_the_average() -> None:
    pair = gradients(3)
    expected = 0.5 * (flat(pair.forget) + flat(pair.retain))
    np.testing.assert_allclose(direction(cagrad(c=0.0), pair), expected, rtol=1e-6)


def test_famo_by_hand() -> None:
    """Four calls with given losses, in numpy: softmax weights, logits moved by Adam with decay."""
    pair = gradients(0)
    forget, retain = flat(pair.forget), flat(pair.retain)
    losses = np.array([[2.0, 0.5], [1.5, 0.8], [1.4, 0.9], [1.0, 0.7]])
    tx = famo(logit_learning_rate=0.1, logit_decay=1e-2)
    state = tx.init(pair.forget)
    logits, first, second = np.zeros(2), np.zeros(2), np.zeros(2)
    for t, (forget_value, retain_value) in enumerate(losses):
        if t > 0:
            z = np.exp(logits) / np.sum(np.exp(logits))
            fall = np.log(losses[t - 1]) - np.log(losses[t])
            gradient = z * (fall - z @ fall) + 1e-2 * logits
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            step = first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
            logits = logits - 0.1 * step
        z = np.exp(logits) / np.sum(np.exp(logits))
        shares = z / losses[t] / np.sum(z / losses[t])
        combined, state = update(
            tx,
            pair,
            state,
            forget_value=jnp.array(forget_value),
            retain_value=jnp.array(retain_value),
        )
        np.testing.assert_allclose(
            flat(combined), shares[0] * forget + shares[1] * retain, rtol=1e-3, atol=1e-4
        )
    assert float(state.logits[1]) > float(state.logits[0])  # the retain loss fell the least


def test_gdr_gma_by_hand() -> None:
    """Three calls with a bank of two: the third forgets the first."""
    pairs = [gradients(seed) for seed in (0, 1, 2)]
    values = [0.1, 0.4, 0.9]
    tx = gdr_gma(bank_size=2, sharpness=3.0, threshold=0.4)
    state = tx.init(pairs[0].forget)

    def rectified(g: np.ndarray, other: np.ndarray) -> np.ndarray:
        return g - min(g @ other, 0.0) / (other @ other) * other

    for t, (pair, value) in enumerate(zip(pairs, values, strict=True)):
        forget, retain = flat(pair.forget), flat(pair.retain)
        memory = np.mean([flat(p.forget) for p in pairs[max(0, t - 1) : t + 1]], axis=0)
        weight = 1.0 / (1.0 + np.exp(3.0 * (value - 0.4)))
        expected = weight * rectified(forget, retain) + (1 - weight) * rectified(retain, memory)
        combined, state = update(tx, pair, state, retain_value=jnp.array(value))
        np.testing.assert_allclose(flat(combined), expected, rtol=1e-4, atol=1e-5)
    assert any(dot(pair.forget, pair.retain) < 0 for pair in pairs)


def test_gdr_gma_and_famo_take_schedules() -> None:
    """Each call has the weights of the numbers that the schedule gives at its count."""
    pair = gradients(0)
    values = {"forget_value": jnp.float32(1.5), "retain_value": jnp.float32(0.7)}
    tx = gdr_gma(bank_size=1, sharpness=lambda n: 2.0 + n, threshold=lambda n: 0.1 * n)
    state = tx.init(pair.forget)
    for n in range(3):
        combined, state = update(tx, pair, state, **values)
        fixed = gdr_gma(bank_size=1, sharpness=2.0 + n, threshold=0.1 * n)
        expected, _ = update(fixed, pair, fixed.init(pair.forget), **values)
        np.testing.assert_allclose(flat(combined), flat(expected), rtol=1e-6)
    tx = famo(logit_learning_rate=lambda n: jnp.where(n == 0, 0.0, 1.0), logit_decay=0.0)
    state, logits = tx.init(pair.forget), []
    for n in range(3):  # the first call moves nothing, and the second by a rate of 0
        values["retain_value"] = jnp.float32(0.7 - 0.2 * n)
        _, state = update(tx, pair, state, **values)
        logits.append(float(jnp.max(jnp.abs(state.logits))))
    assert logits[:2] == [0.0, 0.0] and logits[2] > 0.5


@pytest.mark.parametrize("norm", [1e-4, 1e-3, 1.0])
def test_exact_surgery_is_exact_for_small_retain_gradients(norm: float) -> None:
    """`<g_r, d> = 0`, for the gradients of a model that has learned its data by heart as well."""
    pair = gradients(0, conflict=True)
    scale = norm / np.linalg.norm(flat(pair.retain))
    pair = LossPair(pair.forget, jax.tree.map(lambda g: scale * g, pair.retain))
    violation = dot(pair.forget, pair.retain)
    d = direction(unilateral_surgery(), pair)
    assert abs(flat(pair.retain) @ d) < 1e-5 * abs(violation)
    damped = direction(unilateral_surgery(epsilon=norm**2), pair)
    assert flat(pair.retain) @ damped == pytest.approx(0.5 * violation, rel=1e-3)


EDGES = {  # of (g, 0), (0, g), (g, g), (g, -g): the multiple of g, or of g / |g|
    "unilateral_surgery": (unilateral_surgery(), (1.0, 0.0, 1.0, 0.0), False),
    "pcgrad": (pcgrad(), (1.0, 1.0, 2.0, 0.0), False),
    "mgda": (mgda(), (0.0, 0.0, 1.0, 0.0), False),
    "cagrad": (cagrad(c=0.4), (0.5, 0.5, 1.4, 0.0), False),
    "nash": (nash(), (1.0, 1.0, np.sqrt(2.0), 0.0), True),
}


@pytest.mark.parametrize("name", EDGES)
def test_edges(name: str) -> None:
    """The table at the head of the module."""
    tx, multiples, normalised = EDGES[name]
    gradient = gradients(0).forget
    zero, minus = jax.tree.map(jnp.zeros_like, gradient), jax.tree.map(jnp.negative, gradient)
    unit = flat(gradient) / (np.linalg.norm(flat(gradient)) if normalised else 1.0)
    pairs = ((gradient, zero), (zero, gradient), (gradient, gradient), (gradient, minus))
    for pair, multiple in zip(pairs, multiples, strict=True):
        np.testing.assert_allclose(
            direction(tx, LossPair(*pair)), multiple * unit, rtol=1e-4, atol=1e-4
        )
    assert not np.any(direction(tx, LossPair(zero, zero)))
    broken = jax.tree.map(lambda g: g.at[0].set(jnp.nan), gradient)
    assert np.any(np.isnan(direction(tx, LossPair(gradient, broken))))


SCALE_FREE = {"pcgrad": pcgrad(), "mgda": mgda(), "nash": nash(), "cagrad": cagrad(c=0.4)}


@pytest.mark.parametrize("name", SCALE_FREE)
def test_directions_do_not_depend_on_the_scale_of_the_gradients(name: str) -> None:
    """No constant inside dominates small gradients or is lost beside large ones."""
    pair = gradients(0, conflict=True)
    reference = direction(SCALE_FREE[name], pair)
    for scale in (1e-8, 1e8):
        scaled = jax.tree.map(lambda g, scale=scale: scale * g, pair)
        assert cosine(direction(SCALE_FREE[name], scaled), reference) > 1.0 - 1e-6


@pytest.mark.parametrize("name", [*SCALE_FREE, "unilateral_surgery"])
def test_vanishing_equal_and_opposite_gradients_stay_finite(name: str) -> None:
    tx = SCALE_FREE.get(name, unilateral_surgery())
    gradient = gradients(0).forget
    zero = jax.tree.map(jnp.zeros_like, gradient)
    largest = 10.0 * np.linalg.norm(flat(gradient))
    for other in (zero, gradient, jax.tree.map(jnp.negative, gradient)):
        for pair in (LossPair(gradient, other), LossPair(other, gradient), LossPair(zero, zero)):
            assert np.linalg.norm(direction(tx, pair)) <= largest
