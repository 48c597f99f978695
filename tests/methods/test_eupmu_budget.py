"""The automatic tolerance: what is left of the budget, spread over the steps that are left."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods
from jaxunlearn.methods.eupmu_budget import check_budget
from jaxunlearn.types import InputError
from tests import toy
from tests.helpers import assert_trees_equal
from tests.methods.cases import runner

PLAIN = {"learning_rate": 0.3, "momentum": 0.0, "weight_decay": 0.0}
STEPS = 4


def error_and_loss() -> tuple[float, float]:
    """Of the original model on all retain data, in evaluation mode."""
    params, model_state, _, retain = toy.problem()
    probabilities = np.asarray(toy.TASK.predict(params, model_state, retain))
    labels = np.asarray(retain["label"])
    confidence = probabilities[np.arange(len(labels)), labels]
    return float(np.mean(probabilities.argmax(1) != labels)), float(np.mean(-np.log(confidence)))


def test_the_tolerance_by_hand() -> None:
    error, average = error_and_loss()
    limit = np.log(2.0) * (error + 0.9)
    run = runner("eupmu_budget").run(STEPS, budget=90.0, memory=0.75, **PLAIN)
    total = STEPS
    for n, metrics in enumerate(run.metrics):
        np.testing.assert_allclose(metrics["tolerance"], (limit - average) / (total - n), rtol=1e-4)
        average = 0.75 * average + 0.25 * metrics["retain_loss"]


def test_the_forget_loss_rests_while_the_budget_is_overdrawn() -> None:
    error, loss = error_and_loss()
    assert np.log(2.0) * (error + 1e-3) < loss  # overdrawn from the start
    run = runner("eupmu_budget").run(2, budget=0.1, memory=1.0, **PLAIN)
    assert_trees_equal(run.states[1].params, run.states[0].params)  # the multiplier begins at 0
    assert run.metrics[1]["multiplier"] > 0.0  # and now demands a repair


def test_the_forget_loss_acts_within_the_budget() -> None:
    _, model_state, forget, retain = toy.problem()
    trained = runner("finetune").run(60, learning_rate=0.5).states[-1].params
    method = methods.eupmu_budget(toy.TASK, optax.sgd(0.3), num_steps=STEPS, budget=100.0)
    state = method.init(jax.random.key(0), trained, model_state, forget, retain)
    batches = toy.nth_batch(forget, 0, 4), toy.nth_retain_batches(retain, 0, 1)
    after, metrics = jax.jit(method.step)(state, *batches)
    assert metrics["tolerance"] > 0.0
    moved = jax.tree.map(jnp.subtract, after.params, state.params)
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(moved)) > 1e-3


def test_a_budget_that_the_original_model_breaks_is_refused() -> None:
    params, model_state, _, retain = toy.problem()
    error, loss = error_and_loss()
    least = 100.0 * (loss / np.log(2.0) - error)
    check_budget(toy.TASK, params, model_state, retain, 1.01 * least)
    with pytest.raises(InputError, match=f"budget of .* is broken .* above {least:.3g}"):
        check_budget(toy.TASK, params, model_state, retain, 0.99 * least)
