"""Schedules in closed form, and optimizers equal to the hand-written rule."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn.methods.optimizers import SCHEDULES, optimizer, rest_of, schedule
from jaxunlearn.types import InputError


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.0]),
        ("quadratic", [1.0, 0.5625, 0.25, 0.0]),
        ("step", [1.0, 1.0, 0.1, 0.01]),
        ("cosine", [1.0, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0.0]),
        ("one_cycle", [0.0, 0.5 * (1 + math.cos(math.pi * 0.1 / 0.85)), None, 0.0]),
    ],
)
def test_schedules(name: str, shares: list[float | None]) -> None:
    """At 0, a quarter, half and all of 40 steps; beyond them they stay."""
    value = schedule(name, jnp.float32(3.0), 40)
    for count, share in zip((0, 10, 20, 40), shares, strict=True):
        if share is not None:
            assert np.isclose(value(jnp.int32(count)), 3.0 * share, atol=1e-6)
    assert value(jnp.int32(100)) == value(jnp.int32(40))


def test_one_cycle_rises_to_its_peak_and_falls() -> None:
    values = [float(schedule("one_cycle", 2.0, 100)(jnp.int32(n))) for n in range(101)]
    assert values[0] == 0.0 and np.argmax(values) == 15 and np.isclose(values[15], 2.0)
    assert np.isclose(values[-1], 0.0, atol=1e-6)
    assert np.all(np.diff(values[:16]) > 0) and np.all(np.diff(values[15:]) < 0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rest_of_a_course_is_its_end(name: str) -> None:
    """The last 20 of 100 steps, also where they are 20 steps of a course of 20."""
    whole, counts = schedule(name, 2.0, 100), jnp.arange(20)
    rest = rest_of(schedule(name, 2.0, 20), jnp.float32(0.8), 20)
    values = [
        [float(rate(n)) for n in shown] for rate, shown in ((whole, 80 + counts), (rest, counts))
    ]
    np.testing.assert_allclose(*values, rtol=1e-4)


def test_every_schedule_is_tested() -> None:
    assert set(SCHEDULES) == {
        "constant",
        "linear",
        "cosine",
        "quadratic",
        "step",
        "one_cycle",
    }


def test_sgd_couples_weight_decay_and_momentum() -> None:
    """`b <- m b + g + w p;  p <- p - rate(count) b`, which is not what AdamW does."""
    tx = optimizer("sgd", schedule("linear", 0.1, 4), 0.8, 0.01)
    params, buffer = jnp.array([1.0, -2.0]), np.zeros(2)
    state = tx.init(params)
    for n in range(3):
        gradient = np.array([0.5, 0.25 * n])
        buffer = 0.8 * buffer + gradient + 0.01 * np.asarray(params)
        updates, state = tx.update(jnp.asarray(gradient, jnp.float32), state, params)
        np.testing.assert_allclose(updates, -0.1 * (1 - n / 4) * buffer, rtol=1e-5)
        params = optax.apply_updates(params, updates)


def test_adamw_takes_its_momentum_and_decouples_weight_decay() -> None:
    rate = schedule("constant", 0.1, 4)
    ours, reference = (
        optimizer("adamw", rate, 0.5, 0.01),
        optax.adamw(0.1, b1=0.5, weight_decay=0.01),
    )
    params, other = jnp.array([1.0, -2.0]), optimizer("adamw", rate, 0.9, 0.01)
    states = [tx.init(params) for tx in (ours, reference, other)]
    for n in range(3):
        gradient = jnp.array([0.5, 0.25 * n])
        results = [
            tx.update(gradient, state, params)
            for tx, state in zip((ours, reference, other), states, strict=True)
        ]
        states = [state for _, state in results]
        np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    assert not np.allclose(results[0][0], results[2][0], rtol=1e-3)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="optimizer is 'adam', but must be one of sgd, adamw"):
        optimizer("adam", schedule("constant", 0.1, 1), 0.9, 0.0)
    with pytest.raises(InputError, match="schedule is 'exp', but must be one of constant, cosine"):
        schedule("exp", 0.1, 10)
