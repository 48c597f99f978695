"""Fast and slow weights against the exact product on a quadratic, and their edges."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import fast_slow
from tests.helpers import assert_trees_close, assert_trees_equal, flat, quadratic, relative_error

PROBLEM = quadratic()
BETA, ETA = 0.05, 0.4


def one_update(tx: Any, updates: Any, params: Any, grad_fn: Any = PROBLEM.retain_grad) -> Any:
    return jax.jit(lambda u, p: tx.update(u, tx.init(p), p, grad_fn=grad_fn)[0])(updates, params)


@pytest.mark.parametrize("slow_step_size", [1.0, 0.3])
@pytest.mark.parametrize("num_fast_steps", [0, 1, 3, 20])
def test_a_quadratic_bends_the_step_by_powers_of_its_hessian(
    num_fast_steps: int, slow_step_size: float
) -> None:
    """From the optimum: `-slow_step_size beta (I - eta H)^K g`, to 1e-6 of the longest entry."""
    tx = optax.chain(
        optax.sgd(BETA),
        fast_slow(optax.sgd(ETA), num_fast_steps=num_fast_steps, slow_step_size=slow_step_size),
    )
    # At the origin, where parameters of the size of the step round no more than the step itself.
    problem = PROBLEM._replace(optimum=jax.tree.map(jnp.zeros_like, PROBLEM.optimum))
    ours = one_update(tx, problem.gradient, problem.optimum, problem.retain_grad)
    contraction = np.eye(6) - ETA * problem.hessian
    power = np.linalg.matrix_power(contraction, num_fast_steps)
    exact = -slow_step_size * BETA * power @ flat(problem.gradient)
    assert relative_error(ours, problem.tree(exact)) < 1e-6
    wrong = -slow_step_size * BETA * np.linalg.matrix_power(contraction, num_fast_steps + 1)
    assert relative_error(ours, problem.tree(wrong @ flat(problem.gradient))) > 1e-2


def test_away_from_the_optimum_the_retain_descent_is_part_of_the_step() -> None:
    """params + result = params + updates, descended K times: the plain loop, written out."""
    params = jax.tree.map(lambda p: p + 0.5, PROBLEM.optimum)
    updates = jax.tree.map(lambda g: -BETA * g, PROBLEM.gradient)
    fast = optax.apply_updates(params, updates)
    for _ in range(3):
        fast = jax.tree.map(lambda p, g: p - ETA * g, fast, PROBLEM.retain_grad(fast))
    step = one_update(fast_slow(optax.sgd(ETA), num_fast_steps=3), updates, params)
    assert_trees_close(step, jax.tree.map(jnp.subtract, fast, params), rtol=1e-5)


def test_grad_fn_gets_the_fast_weights_and_the_number_of_the_fast_batch() -> None:
    """The i-th gradient is `i + 1`: K = 3 steps of rate 1 move by -(1 + 2 + 3)."""
    tx = fast_slow(optax.sgd(1.0), num_fast_steps=3)

    def grad_fn(params: Any, i: jax.Array) -> Any:
        assert i.dtype == jnp.int32 and i.shape == ()
        return jax.tree.map(lambda p: jnp.full_like(p, i + 1), params)

    step = one_update(tx, {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, grad_fn)
    np.testing.assert_allclose(step["w"], [-6.0, -6.0])


@pytest.mark.parametrize("share", [False, True])
def test_momentum_persists_between_updates_and_is_shared_only_if_asked(share: bool) -> None:
    """Two updates, written out: one buffer for both phases, or one for the retain steps only."""
    rate, momentum, params = 0.1, 0.9, PROBLEM.optimum
    tx = fast_slow(optax.sgd(rate, momentum=momentum), num_fast_steps=2, share_optimizer=share)
    state, buffer, expected = tx.init(params), np.zeros(6), flat(params)
    update = jax.jit(lambda *args: tx.update(*args, grad_fn=PROBLEM.retain_grad))
    given = jax.tree.map(lambda g: g if share else -rate * g, PROBLEM.gradient)
    optimum = flat(PROBLEM.optimum)
    for _ in range(2):
        updates, state = update(given, state, params)
        params = optax.apply_updates(params, updates)
        if share:
            buffer = momentum * buffer + flat(PROBLEM.gradient)
            expected = expected - rate * buffer
        else:
            expected = expected - rate * flat(PROBLEM.gradient)
        for _ in range(2):
            buffer = momentum * buffer + PROBLEM.hessian @ (expected - optimum)
            expected = expected - rate * buffer
    assert relative_error(params, PROBLEM.tree(expected)) < 1e-6


def test_the_result_is_finer_than_the_precision_of_the_weights() -> None:
    """A step of 1e-4 beside weights of 100 keeps its digits; fast - slow would lose them."""
    params = {"w": jnp.full(3, 100.0)}
    updates = {"w": jnp.array([1e-4, 2e-4, -3e-4])}
    tx = fast_slow(optax.sgd(1e-5), num_fast_steps=2)
    step = one_update(tx, updates, params, lambda p, i: {"w": jnp.ones(3)})
    np.testing.assert_allclose(step["w"], np.array([1e-4, 2e-4, -3e-4]) - 2e-5, rtol=1e-5)


def test_no_fast_steps_and_slow_step_one_is_the_step_itself() -> None:
    for optimizer in (optax.sgd(1.0), optax.adamw(1e-2)):
        tx = fast_slow(optimizer, num_fast_steps=0)
        step = one_update(tx, PROBLEM.gradient, PROBLEM.optimum)
        assert_trees_equal(step, PROBLEM.gradient)


def test_extra_keywords_reach_the_fast_optimizer() -> None:
    """An optimizer that reads `scale`, as line searches read `value`."""

    def update(updates: Any, state: Any, params: Any = None, *, scale: Any, **extra: Any) -> Any:
        del params, extra
        return jax.tree.map(lambda u: -scale * u, updates), state

    reader = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    tx = fast_slow(reader, num_fast_steps=1)
    params = {"w": jnp.ones(2)}
    step, _ = tx.update(
        {"w": jnp.zeros(2)}, tx.init(params), params, grad_fn=lambda p, i: p, scale=3.0, other=1
    )
    np.testing.assert_array_equal(step["w"], [-3.0, -3.0])
