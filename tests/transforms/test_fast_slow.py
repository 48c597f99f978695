"""Fast and slow weights against the exact product on a quadratic, and their edges."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import InputError, fast_slow, fast_slow_carry, shared_fast_slow
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
    fast_and_slow = shared_fast_slow if share else fast_slow
    tx = fast_and_slow(optax.sgd(rate, momentum=momentum), num_fast_steps=2)
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


@pytest.mark.parametrize("unroll", [False, 0, 2, 3, True])
def test_unrolled_steps_are_the_steps_of_the_loop(unroll: Any) -> None:
    """Even where 2 does not divide K = 3; unrolled to the last, no loop is left to compile."""
    params = jax.tree.map(lambda p: p + 0.5, PROBLEM.optimum)
    looped = fast_slow(optax.adam(ETA), num_fast_steps=3)
    tx = fast_slow(optax.adam(ETA), num_fast_steps=3, unroll=unroll)
    expected = one_update(looped, PROBLEM.gradient, params)
    assert_trees_close(one_update(tx, PROBLEM.gradient, params), expected, rtol=1e-6)
    step = jax.jit(lambda p: one_update(tx, PROBLEM.gradient, p))
    assert ("while(" in step.lower(params).compile().as_text()) == (unroll is False)


@pytest.mark.parametrize("fast_and_slow", [fast_slow, shared_fast_slow])
def test_a_slow_step_size_may_be_a_schedule(fast_and_slow: Any) -> None:
    """1, 1/2 and 1/3 of the way, by the number of updates."""
    whole = fast_and_slow(optax.sgd(ETA), num_fast_steps=2)
    tx = fast_and_slow(optax.sgd(ETA), num_fast_steps=2, slow_step_size=lambda n: 1 / (1 + n))
    expected = one_update(whole, PROBLEM.gradient, PROBLEM.optimum)
    state = tx.init(PROBLEM.optimum)
    for number in range(3):
        step, state = tx.update(
            PROBLEM.gradient, state, PROBLEM.optimum, grad_fn=PROBLEM.retain_grad
        )
        share = jax.tree.map(lambda e, n=number: e / (1 + n), expected)
        assert_trees_close(step, share, rtol=1e-6)


def first_carry() -> dict[str, jax.Array]:
    """Statistics, counters at the edges of float32 and of int32, a key and a flag."""
    return {
        "mean": jnp.zeros(2),
        "seen": jnp.uint32(3_000_000_000),
        "odd": jnp.int32(2**24 + 1),
        "key": jax.random.key(0),
        "flag": jnp.array(False),
    }


def carried(params: Any, i: jax.Array, carry: Any) -> tuple[Any, Any]:
    """The retain gradient, and the carry one fast step later."""
    key, draw = jax.random.split(carry["key"])
    return PROBLEM.retain_grad(params, i), {
        "mean": 0.9 * carry["mean"] + 0.1 * jax.random.normal(draw, 2),
        "seen": carry["seen"] + 1,
        "odd": carry["odd"] + 2,
        "key": key,
        "flag": ~carry["flag"],
    }


def comparable(carry: Any) -> Any:
    return carry | {"key": jax.random.key_data(carry["key"])}


@pytest.mark.parametrize("unroll", [1, True])
@pytest.mark.parametrize("fast_and_slow", [fast_slow, shared_fast_slow])
def test_the_carry_goes_from_fast_step_to_fast_step(fast_and_slow: Any, unroll: Any) -> None:
    """What a plain loop leaves, exact in every dtype; the step is the one without carry.

    A weight decay, which moves whatever an optimizer sees, does not reach it.
    """
    optimizer = optax.adamw(ETA, weight_decay=0.1)
    settings = {"num_fast_steps": 3, "slow_step_size": 0.5}
    tx = fast_and_slow(optimizer, **settings, has_carry=True, unroll=unroll)
    expected = first_carry()
    for i in range(3):
        _, expected = carried(PROBLEM.optimum, jnp.int32(i), expected)

    def update(gradient: Any, state: Any, carry: Any) -> Any:
        return tx.update(gradient, state, PROBLEM.optimum, grad_fn=carried, carry=carry)

    state = tx.init(PROBLEM.optimum)
    step, state = jax.jit(update)(PROBLEM.gradient, state, first_carry())
    carry = fast_slow_carry((optax.EmptyState(), {"nested": state}))
    assert jax.tree.map(lambda x: x.dtype, carry) == jax.tree.map(lambda x: x.dtype, first_carry())
    assert_trees_close(comparable(carry), comparable(expected), rtol=1e-6)
    assert int(carry["seen"]) == 3_000_000_003 and int(carry["odd"]) == 2**24 + 7
    plain = fast_and_slow(optimizer, **settings)
    assert_trees_close(step, one_update(plain, PROBLEM.gradient, PROBLEM.optimum), rtol=1e-6)


def test_without_the_keyword_the_carry_of_the_state_continues() -> None:
    """Stored beforehand, it runs in a scan with donated state, and through `apply_if_finite`."""
    tx = optax.apply_if_finite(
        optax.chain(optax.sgd(BETA), fast_slow(optax.sgd(ETA), num_fast_steps=5, has_carry=True)),
        max_consecutive_errors=9,
    )
    state = optax.tree.set(tx.init(PROBLEM.optimum), carry=first_carry())

    def body(loop: Any, scale: jax.Array) -> tuple[Any, None]:
        params, state = loop
        gradient = jax.tree.map(lambda g: g * scale, PROBLEM.gradient)
        updates, state = tx.update(gradient, state, params, grad_fn=carried)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda state, scales: jax.lax.scan(body, (PROBLEM.optimum, state), scales)[0][1])
    seen = [1.0, 1.0, jnp.nan, 1.0, 1.0]  # the step that is not finite counts nothing
    before = jax.tree.structure(state)
    state = jax.jit(run, donate_argnums=0)(state, jnp.array(seen))
    assert jax.tree.structure(state) == before
    assert int(fast_slow_carry(state)["seen"]) == 3_000_000_020


def test_a_carry_may_be_donated_beside_the_state_that_holds_it() -> None:
    """And compiles twice: before the state holds one, and since."""
    tx = fast_slow(optax.sgd(ETA), num_fast_steps=5, has_carry=True)

    def step(params: Any, carry: Any, state: Any) -> Any:
        updates, state = tx.update(PROBLEM.gradient, state, params, grad_fn=carried, carry=carry)
        return optax.apply_updates(params, updates), fast_slow_carry(state), state

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    params = jax.tree.map(jnp.copy, PROBLEM.optimum)
    loop = params, first_carry(), tx.init(params)
    for _ in range(4):
        loop = compiled(*loop)
    assert int(loop[1]["odd"]) == 2**24 + 1 + 40
    assert compiled._cache_size() == 2


def test_no_fast_steps_hand_the_carry_on() -> None:
    tx = fast_slow(optax.sgd(1.0), num_fast_steps=0, has_carry=True)
    for carry in ({}, {"mean": jnp.ones(2)}):
        _, state = tx.update(
            {"w": jnp.ones(2)},
            tx.init(PARAMS),
            PARAMS,
            grad_fn=lambda p, i, carry: (p, carry),
            carry=carry,
        )
        assert_trees_equal(fast_slow_carry(state), carry)


PARAMS = {"w": jnp.ones(2)}


def update_with(grad_fn: Any, tx: Any = None, carry: Any = None) -> Any:
    tx = tx or fast_slow(optax.sgd(1.0), num_fast_steps=1, has_carry=True)
    state = optax.tree.set(tx.init(PARAMS), carry=carry) if carry is not None else tx.init(PARAMS)
    return tx.update(PARAMS, state, PARAMS, grad_fn=grad_fn)


def sgd_with_unroll(steps: Any, unroll: Any) -> Any:
    return fast_slow(optax.sgd(1.0), num_fast_steps=steps, unroll=unroll)


ERRORS = {
    "no carry": (lambda: update_with(lambda p, i, c: (p, c)), "got no carry.*carry="),
    "a carry nobody asked for": (
        lambda: fast_slow(optax.sgd(1.0), num_fast_steps=1).update(
            PARAMS, None, PARAMS, grad_fn=lambda p, i: p, carry=1.0
        ),
        "has_carry=False.*has_carry=True",
    ),
    "a gradient alone": (
        lambda: update_with(lambda p, i, c: p, carry=jnp.ones(2)),
        "returned dict.*gradient, carry",
    ),
    "another shape": (
        lambda: update_with(lambda p, i, c: (p, jnp.ones(3)), carry=jnp.ones(2)),
        "the carry that grad_fn returned has shape .3,.",
    ),
    "another dtype": (
        lambda: update_with(lambda p, i, c: (p, c + 0.5), carry=jnp.int32(1)),
        "returned has dtype float32.*int32.*astype",
    ),
    "value and gradient": (
        lambda: update_with(lambda p, i: (1.0, p), fast_slow(optax.sgd(1.0), num_fast_steps=1)),
        "the gradient that grad_fn returned",
    ),
    "a masked part": (
        lambda: update_with(
            lambda p, i: p,
            optax.masked(fast_slow(optax.sgd(1.0), num_fast_steps=1), {"w": False}),
        ),
        "sees only some of the parameters.*outside",
    ),
    "unroll of a word": (lambda: sgd_with_unroll(2, "all"), "unroll is 'all'"),
    "unroll below zero": (lambda: sgd_with_unroll(2, -1), "unroll is -1"),
    "unroll of unknown steps": (lambda: sgd_with_unroll(jnp.int32(2), True), "static_args"),
    "a state without fast weights": (lambda: fast_slow_carry(optax.sgd(1.0).init(1.0)), "no fast"),
    "two of them": (
        lambda: fast_slow_carry([fast_slow(optax.sgd(1.0), num_fast_steps=1).init(1.0)] * 2),
        "2 fast_slow",
    ),
    "a carry before the first": (
        lambda: fast_slow_carry(fast_slow(optax.sgd(1.0), num_fast_steps=1).init(1.0)),
        "no carry.*has_carry=True",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_wrong_input_is_named(name: str) -> None:
    call, message = ERRORS[name]
    with pytest.raises(InputError, match=message):
        call()


def test_unrolling_under_inject_hyperparams() -> None:
    """Its arrays stand for the default; more needs `static_args`, as the sentence says."""
    static = optax.inject_hyperparams(fast_slow, static_args=("num_fast_steps", "unroll"))
    for inject, settings in ((optax.inject_hyperparams(fast_slow), {}), (static, {"unroll": True})):
        tx = inject(optax.sgd(ETA), num_fast_steps=2, slow_step_size=0.5, **settings)
        plain = fast_slow(optax.sgd(ETA), num_fast_steps=2, slow_step_size=0.5)
        step = one_update(tx, PROBLEM.gradient, PROBLEM.optimum)
        assert_trees_close(step, one_update(plain, PROBLEM.gradient, PROBLEM.optimum), rtol=1e-6)
