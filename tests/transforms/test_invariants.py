"""What holds for any gradients: of masks, multipliers, weights, and at the edges of settings."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxunlearn import (
    LossPair,
    adaptive_weights,
    cagrad,
    fast_slow,
    implicit_surgery,
    multiplier,
    saliency_mask,
    shared_fast_slow,
    surgery_value_and_grad,
    top_fraction_mask,
    unilateral_surgery,
)
from tests.helpers import assert_trees_close, assert_trees_equal, quadratic

few = settings(max_examples=15, deadline=None, derandomize=True)
numbers = st.floats(-100.0, 100.0, width=32, allow_subnormal=False)
vectors = hnp.arrays(np.float32, (5,), elements=numbers)
losses = st.floats(0.0, 100.0, width=32, allow_subnormal=False)

OPTIMIZERS = {
    "sgd": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9)),
    "adamw": optax.adamw(0.1, weight_decay=0.1),
    "lion": optax.lion(0.1, weight_decay=0.1),
}


def steps(tx: Any, gradients: list[Any], params: Any, **extra: Any) -> Any:
    """The parameters after one step for each gradient."""
    state = tx.init(params)
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params


@jax.jit
def masked_steps(mask: Any, gradients: Any, params: Any) -> dict[str, Any]:
    """Three steps under each optimizer, with the mask last; the mask comes with the state."""
    results = {}
    for name, optimizer in OPTIMIZERS.items():
        tx = optax.chain(optimizer, saliency_mask(mask))
        results[name] = steps(tx, [{"w": g} for g in gradients], params)
    return results


@few
@given(vectors, hnp.arrays(np.float32, (3, 5), elements=numbers), hnp.arrays(bool, (5,)))
def test_masked_out_parameters_are_bit_equal_under_momentum_and_weight_decay(
    start: np.ndarray, gradients: np.ndarray, mask: np.ndarray
) -> None:
    start = start + 0.0  # -0 + 0 is 0: the one change of bits that adding zero makes
    results = masked_steps({"w": mask}, jnp.asarray(gradients), {"w": jnp.asarray(start)})
    for params in results.values():
        held = np.asarray(params["w"])[~mask]
        assert held.tobytes() == start[~mask].tobytes()


@few
@given(vectors, hnp.arrays(np.float32, (3, 5), elements=numbers))
def test_a_mask_of_ones_is_the_optimizer_itself(start: np.ndarray, gradients: np.ndarray) -> None:
    params, listed = {"w": jnp.asarray(start)}, [{"w": jnp.asarray(g)} for g in gradients]
    plain = optax.sgd(0.1, momentum=0.9)
    masked = optax.chain(plain, saliency_mask({"w": np.ones(5)}))
    assert_trees_equal(steps(masked, listed, params), steps(plain, listed, params))


SURGERIES = [
    implicit_surgery(optimizer, project=project, estimator=estimator, log_loss=log_loss)
    for optimizer in (optax.sgd(2.0), optax.adam(1.0))
    for project, estimator, log_loss in [
        (True, "same_batch", False),
        (False, "same_batch", True),
        (True, "next_batch", True),
        (False, "next_batch", False),
    ]
]


@jax.jit
def all_multipliers(before: Any, after: Any) -> tuple[jax.Array, jax.Array]:
    """What every surgery uses and stores after each pair of losses."""
    used, stored = [], []
    for tx in SURGERIES:
        state = tx.init(0.0)
        for b, a in zip(before, after, strict=True):
            _, state = tx.update(0.0, state, 0.0, retain_value=b, retain_value_fn=lambda _, a=a: a)
            used.append(multiplier(state))
            stored.append(state.multiplier)
    shape = (len(SURGERIES), len(before))
    return jnp.stack(used).reshape(shape), jnp.stack(stored).reshape(shape)


@few
@given(*[hnp.arrays(np.float32, (4,), elements=losses)] * 2)
def test_the_multiplier_is_never_negative(before: np.ndarray, after: np.ndarray) -> None:
    used, stored = map(np.asarray, all_multipliers(list(before), list(after)))
    assert np.all(used >= 0.0) and np.all(np.isfinite(used))
    np.testing.assert_array_equal(used, np.maximum(stored, 0.0))


@few
@given(
    hnp.arrays(np.float32, (6,), elements=st.floats(0.0, 50.0, width=32)),
    st.floats(0.0, 2.0, width=32),
)
def test_adaptive_weights_have_mean_one_and_fall_with_the_loss(
    values: np.ndarray, exponent: float
) -> None:
    weights = np.asarray(adaptive_weights(jnp.asarray(values), exponent), np.float64)
    assert np.all(weights >= 0.0)
    np.testing.assert_allclose(np.mean(weights), 1.0, rtol=1e-5)
    order = np.argsort(values)
    assert np.all(np.diff(weights[order]) <= 1e-5 * weights.max())


@few
@given(hnp.arrays(np.float32, (6,), elements=losses))
def test_exponent_zero_weighs_all_examples_alike(values: np.ndarray) -> None:
    weights = adaptive_weights(jnp.asarray(values), 0.0)
    np.testing.assert_allclose(weights, np.ones(6), rtol=1e-6)


@few
@given(vectors, st.floats(0.0, 1.0, width=32))
def test_top_fraction_mask_marks_a_share_of_the_largest(values: np.ndarray, share: float) -> None:
    mask = np.asarray(top_fraction_mask(jnp.asarray(values), share))
    assert mask.sum() == math.floor(5 * share)
    if 0 < mask.sum() < 5:
        assert np.abs(values[mask]).min() >= np.abs(values[~mask]).max()


@jax.jit
def unilateral(tolerance: jax.Array, pair: LossPair) -> tuple[Any, Any]:
    tx = unilateral_surgery(tolerance=tolerance)
    return tx.update(pair.forget, tx.init(pair.forget), retain_grads=pair.retain)


@few
@given(vectors, vectors, st.floats(-1.0, 1.0, width=32))
def test_unilateral_surgery_respects_the_tolerance(
    forget: np.ndarray, retain: np.ndarray, tolerance: float
) -> None:
    """`<g_r, d> >= -tolerance` whenever the retain gradient is more than rounding."""
    direction, state = unilateral(tolerance, LossPair(forget, retain))
    f, r, d = (np.asarray(x, np.float64) for x in (forget, retain, direction))
    assert float(multiplier(state)) >= 0.0
    rounding = 1e-5 * (np.linalg.norm(r) * (np.linalg.norm(f) + np.linalg.norm(d)) + 1.0)
    if np.linalg.norm(r) > 1e-2:
        assert r @ d >= -tolerance - rounding


@few
@given(vectors, vectors)
def test_cagrad_with_radius_zero_is_the_average(forget: np.ndarray, retain: np.ndarray) -> None:
    tx = cagrad(c=0.0)
    direction, _ = tx.update(jnp.asarray(forget), tx.init(forget), retain_grads=jnp.asarray(retain))
    np.testing.assert_allclose(direction, 0.5 * (forget + retain), rtol=1e-5, atol=1e-4)


@few
@given(vectors, hnp.arrays(np.float32, (3, 5), elements=numbers))
def test_no_fast_steps_is_the_optimizer_itself(start: np.ndarray, gradients: np.ndarray) -> None:
    """On its own step, or with the shared optimizer: slow step 1 follows all the way."""
    params, listed = {"w": jnp.asarray(start)}, [{"w": jnp.asarray(g)} for g in gradients]
    plain = optax.sgd(0.1, momentum=0.9)
    expected = steps(plain, listed, params)
    outside = optax.chain(plain, fast_slow(optax.adam(1.0), num_fast_steps=0))
    shared = shared_fast_slow(plain, num_fast_steps=0)
    for tx in (outside, shared):
        assert_trees_equal(steps(tx, listed, params, grad_fn=lambda p, i: p), expected)


def test_a_multiplier_held_at_zero_is_descent_on_the_forget_loss_alone() -> None:
    """And one held at 1 is descent on the sum, whatever the retain loss does."""
    problem = quadratic()
    params = jax.tree.map(lambda p: p + 1.0, problem.optimum)
    optimizer = optax.adam(0.1)
    for value in (0.0, 1.0):
        surgery = implicit_surgery(optax.set_to_zero(), initial_multiplier=value)
        tx = optax.chain(optimizer, surgery)

        def ours(carry: Any, _: Any, tx: Any = tx, surgery: Any = surgery) -> tuple[Any, None]:
            p, state = carry
            value_and_grad = surgery_value_and_grad(problem.losses, surgery)
            pair, grads = value_and_grad(p, state=state)
            updates, state = tx.update(
                grads, state, p, retain_value=pair.retain, retain_value_fn=problem.retain_loss
            )
            return (optax.apply_updates(p, updates), state), None

        def plain(carry: Any, _: Any, value: float = value) -> tuple[Any, None]:
            p, state = carry
            loss = lambda q: problem.losses(q).forget + value * problem.losses(q).retain  # noqa: E731
            updates, state = optimizer.update(jax.grad(loss)(p), state, p)
            return (optax.apply_updates(p, updates), state), None

        results = [
            jax.jit(lambda c, step=step: jax.lax.scan(step, c, length=4)[0][0])(
                (params, transformation.init(params))
            )
            for step, transformation in ((ours, tx), (plain, optimizer))
        ]
        assert_trees_close(*results, rtol=1e-6)
