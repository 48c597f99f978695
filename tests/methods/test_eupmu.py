"""EUPMU: the multiplier and the weights of every step, recomputed from the published equations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods
from jaxunlearn.types import InputError
from tests import toy
from tests.helpers import assert_trees_close, dot
from tests.methods.cases import runner

PLAIN = {"learning_rate": 0.3, "momentum": 0.0, "weight_decay": 0.0}
MULTIPLIER = {
    "tolerance": 0.02,
    "multiplier_learning_rate": 0.5,
    "multiplier_decay": 0.1,
    "initial_multiplier": 1.5,
}


def retain_batch(n: int) -> Any:
    return toy.nth_batch(toy.problem().retain, n, toy.RETAIN_BATCH)


def multipliers_by_hand(duals: list[float]) -> list[float]:
    """Adam with L2 on the multiplier, clipped at 0 after each step."""
    optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.5))
    value, values = jnp.float32(1.5), [1.5]
    state = optimizer.init(value)
    for dual in duals:
        step, state = optimizer.update(jnp.float32(dual), state, value)
        value = jnp.maximum(value + step, 0.0)
        values.append(float(value))
    return values


def test_same_batch_by_hand(retain_by_hand: Any, forget_gradient: Any) -> None:
    """The multiplier sees the retain loss of one batch before and after each step."""
    run, duals = runner("eupmu").run(4, **PLAIN, **MULTIPLIER), []
    for n, (before, after) in enumerate(zip(run.states[:-1], run.states[1:], strict=True)):
        loss, _, _ = retain_by_hand(before.params, before.model_state, retain_batch(n))
        loss_after, _, _ = retain_by_hand(after.params, before.model_state, retain_batch(n))
        duals.append(np.log(loss) - np.log(loss_after) + 0.02)
    values = multipliers_by_hand(duals)
    np.testing.assert_allclose([m["multiplier"] for m in run.metrics], values[1:], rtol=1e-3)
    assert min(values) < 1.2  # it moved
    for n, (before, after) in enumerate(zip(run.states[:-1], run.states[1:], strict=True)):
        _, new_state, retain = retain_by_hand(before.params, before.model_state, retain_batch(n))
        forget = forget_gradient(before.params, before.model_state, n)
        weight = values[n]  # as it was before the step
        step = jax.tree.map(lambda f, r, w=weight: -0.3 * (f + w * r), forget, retain)
        assert_trees_close(after.params, optax.apply_updates(before.params, step), rtol=1e-4)
        assert_trees_close(after.model_state, new_state)


def test_next_batch_by_hand(retain_by_hand: Any, forget_gradient: Any) -> None:
    """Each batch's loss is compared with the previous one's, and weighs the very same step."""
    run = runner("eupmu, next batch").run(4, **PLAIN, **MULTIPLIER)
    losses = np.log([metrics["retain_loss"] for metrics in run.metrics])
    values = multipliers_by_hand(list(losses[:-1] - losses[1:] + 0.02))
    np.testing.assert_allclose([m["multiplier"] for m in run.metrics], values, rtol=1e-3)
    for n, (before, after) in enumerate(zip(run.states[:-1], run.states[1:], strict=True)):
        _, _, retain = retain_by_hand(before.params, before.model_state, retain_batch(n))
        forget = forget_gradient(before.params, before.model_state, n)
        step = jax.tree.map(lambda f, r, w=values[n]: -0.3 * (f + w * r), forget, retain)
        assert_trees_close(after.params, optax.apply_updates(before.params, step), rtol=1e-4)


@pytest.mark.parametrize("case", ["eupmu", "eupmu, next batch"])
def test_the_sign_of_the_tolerance(case: str) -> None:
    """A permitted rise lets the multiplier go, a demanded fall makes it grow."""
    generous, strict = (runner(case).run(4, tolerance=sign * 10.0) for sign in (1, -1))
    assert generous.metrics[-1]["multiplier"] == 0.0
    assert strict.metrics[-1]["multiplier"] > 2.0


def test_exact_with_an_inactive_constraint_only_forgets() -> None:
    ours = runner("eupmu, exact").run(tolerance=100.0)
    plain = runner("scalarization").run(retain_weight=0.0)
    assert [metrics["multiplier"] for metrics in ours.metrics] == [0.0] * 3
    assert_trees_close(ours.end.params, plain.end.params)
    assert_trees_close(ours.end.model_state, plain.end.model_state)


@pytest.mark.parametrize("tolerance", [0.0, -0.5])
def test_exact_by_hand(tolerance: float, retain_by_hand: Any, forget_gradient: Any) -> None:
    """Where the constraint is active, the step raises the log loss by exactly the tolerance."""
    run, active = runner("eupmu, exact").run(4, tolerance=tolerance, step_size=0.1, **PLAIN), 0
    for n, (before, after) in enumerate(zip(run.states[:-1], run.states[1:], strict=True)):
        loss, _, retain = retain_by_hand(before.params, before.model_state, retain_batch(n))
        forget = forget_gradient(before.params, before.model_state, n)
        permitted = tolerance * 0.1 / 0.3 * loss  # of the loss, for a step of length 1
        expected = max((-dot(retain, forget) - permitted) / dot(retain, retain), 0.0)
        multiplier = run.metrics[n]["multiplier"]
        assert np.isclose(multiplier, expected, rtol=1e-4, atol=1e-6)
        direction = jax.tree.map(lambda p, q: (p - q) / 0.3, before.params, after.params)
        active += multiplier > 0
        if multiplier > 0:
            assert np.isclose(dot(retain, direction), -permitted, atol=1e-4)
    assert active > 0


@pytest.mark.parametrize("log_loss", [False, True])
def test_exact_and_implicit_mean_the_same_rise(log_loss: bool) -> None:
    """Small steps on one batch: all three estimators come to the same multiplier."""
    problem = toy.problem()
    forget = toy.nth_batch(problem.forget, 0, toy.FORGET_BATCH)
    retain = toy.nth_retain_batches(problem.retain, 0, 1)

    def last(estimator: str, tolerance: jax.Array) -> jax.Array:
        method = methods.eupmu(
            toy.TASK,
            optax.sgd(2e-3),
            estimator=estimator,
            tolerance=tolerance,
            step_size=0.01,  # not the learning rate: the exact form measures that
            log_loss=log_loss,
            initial_multiplier=1.0,
            objective="ascent",
            multiplier_learning_rate=0.02,
            multiplier_decay=0.0,
        )

        def step(state: Any, _: Any) -> Any:
            state, metrics = method.step(state, forget, retain)
            return state, metrics["multiplier"]

        state = method.init(jax.random.key(0), *problem)
        return jnp.mean(jax.lax.scan(step, state, length=400)[1][-50:])

    @jax.jit
    def everything(tolerance: jax.Array) -> jax.Array:
        return jnp.stack([last(name, tolerance) for name in ("same_batch", "next_batch", "exact")])

    tight, loose = everything(jnp.float32(-0.1)), everything(jnp.float32(0.02))
    np.testing.assert_allclose(tight[:2], tight[2], rtol=0.02)
    np.testing.assert_allclose(loose[:2], loose[2], rtol=0.05)
    assert tight[2] > 2.0 * loose[2] > 0.2


def test_convex_weights(retain_by_hand: Any, forget_gradient: Any) -> None:
    run = toy.runner("eupmu", convex=True).run(1, **PLAIN, **MULTIPLIER)
    params, model_state = run.start.params, run.start.model_state
    _, _, retain = retain_by_hand(params, model_state, retain_batch(0))
    forget = forget_gradient(params, model_state, 0)
    step = jax.tree.map(lambda f, r: -0.3 * (f + 1.5 * r) / 2.5, forget, retain)
    assert_trees_close(run.end.params, optax.apply_updates(params, step), rtol=1e-5)


def test_the_log_objective_by_hand(retain_by_hand: Any, forget_gradient: Any) -> None:
    """It descends `(log L_f + lambda log L_r) / (1 + lambda)`, and the multiplier is as usual."""
    settings = {"log_objective": True, "convex": True, "estimator": "next_batch"}
    run = toy.runner("eupmu", **settings).run(3, **PLAIN, **MULTIPLIER)
    losses = np.log([metrics["retain_loss"] for metrics in run.metrics])
    values = multipliers_by_hand(list(losses[:-1] - losses[1:] + 0.02))
    np.testing.assert_allclose([m["multiplier"] for m in run.metrics], values, rtol=1e-3)
    for n, (before, after) in enumerate(zip(run.states[:-1], run.states[1:], strict=True)):
        loss, _, retain = retain_by_hand(before.params, before.model_state, retain_batch(n))
        forget = forget_gradient(before.params, before.model_state, n)
        shares = 1.0 / run.metrics[n]["forget_loss"], values[n] / loss
        f, r = (-0.3 * share / (1.0 + values[n]) for share in shares)
        step = jax.tree.map(lambda a, b, f=f, r=r: f * a + r * b, forget, retain)
        assert_trees_close(after.params, optax.apply_updates(before.params, step), rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": "ascent"}, "objective is 'ascent', but must be positive under log_objectiv"),
        ({"estimator": "exact"}, "log_objective is true, but must be false with the estimator exa"),
        ({"log_loss": False}, "log_objective is true, but must be false .* or without log_loss"),
    ],
)
def test_log_objectives_without_a_meaning_are_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        methods.eupmu(toy.TASK, optax.sgd(0.1), log_objective=True, **given)


def test_many_tolerances_in_one_vmap() -> None:
    """A sweep is one program: numbers and seeds are values like any other."""
    tolerances, seeds = np.array([-1.0, 0.0, 10.0], np.float32), [0, 0, 5]
    problem, single = toy.problem(), runner("eupmu")
    forget = toy.nth_batch(problem.forget, 0, toy.FORGET_BATCH)
    retain = toy.nth_retain_batches(problem.retain, 0, 1)

    def two_steps(tolerance: jax.Array, key: jax.Array) -> Any:
        method = methods.eupmu(toy.TASK, optax.sgd(0.3), tolerance=tolerance)
        step = lambda state, _: method.step(state, forget, retain)  # noqa: E731
        return jax.lax.scan(step, method.init(key, *problem), length=2)

    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    states, metrics = jax.jit(jax.vmap(two_steps))(jnp.asarray(tolerances), keys)
    assert metrics["multiplier"].shape == (3, 2)
    for i, (tolerance, seed) in enumerate(zip(tolerances, seeds, strict=True)):
        run = single.run(1, seed=seed, tolerance=float(tolerance), **PLAIN)
        assert np.isclose(metrics["multiplier"][i, 0], run.metrics[0]["multiplier"], rtol=1e-4)
        assert np.isclose(metrics["forget_loss"][i, 0], run.metrics[0]["forget_loss"], rtol=1e-5)
    assert metrics["multiplier"][0, -1] > metrics["multiplier"][2, -1]
    assert np.all(np.isfinite(states.params["kernel"]))


def test_unknown_estimators_are_refused() -> None:
    with pytest.raises(
        InputError, match="'other', but must be one of same_batch, next_batch, exac"
    ):
        toy.runner("eupmu", estimator="other")
