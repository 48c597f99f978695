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
    run = runner("eupmu_budget, rarely audited").run(STEPS, budget=90.0, memory=0.75, **PLAIN)
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
    with pytest.raises(InputError, match=f"budget is .* points .* must be above {least:.3g}"):
        check_budget(toy.TASK, params, model_state, retain, 0.99 * least)


def test_examples_of_an_incomplete_batch_count_too() -> None:
    """The original model breaks the budget on those alone that do not fill a batch of 256."""
    _, model_state, _, retain = toy.problem()
    trained = runner("finetune").run(60, learning_rate=0.5).states[-1].params
    probabilities = toy.TASK.predict(trained, model_state, retain)
    known = np.flatnonzero(np.asarray(probabilities.argmax(1) == retain["label"]))
    first = jax.tree.map(lambda leaf: leaf[known[0] * np.ones(500, int)], retain)
    check_budget(toy.TASK, trained, model_state, first, 100.0)
    wrong = first | {"label": first["label"].at[256:].set((first["label"][0] + 1) % 3)}
    with pytest.raises(InputError, match="must be above .* for the original model"):
        check_budget(toy.TASK, trained, model_state, wrong, 100.0)


@pytest.mark.parametrize("learning_rate", [5.0, 10.0])
def test_the_budget_holds_at_the_end_whatever_the_learning_rate(learning_rate: float) -> None:
    """Audits wind back what broke it; the same steps without audits leave it far behind."""
    _, model_state, forget, retain = toy.problem()
    trained = runner("finetune").run(60, learning_rate=0.5).states[-1].params
    ends = {}
    for audit_every in (2, 1000):
        rate = optax.constant_schedule(learning_rate)
        method = methods.eupmu_budget(
            toy.TASK,
            optax.sgd(rate, momentum=0.9),
            num_steps=12 if audit_every == 2 else 1000,
            budget=5.0,
            audit_every=audit_every,
        )
        state = method.init(jax.random.key(0), trained, model_state, forget, retain)
        step, scales = jax.jit(method.step), []
        for n in range(12):
            batches = toy.nth_batch(forget, n, 4), toy.nth_retain_batches(retain, n, 1)
            state, metrics = step(state, *batches)
            scales.append(float(metrics["forget_scale"]))
        ends[audit_every] = errors(state.params, state.model_state), min(scales)
        assert int(optax.tree.get(state.opt_state.opt_state.optimizer_state, "count")) == 12
    before = errors(trained, model_state)
    assert ends[2][0] <= before + 0.05 + 1e-6
    assert ends[1000][0] > before + 0.05 and ends[1000][1] == 1.0
    assert ends[2][1] < 1.0


def errors(params: object, model_state: object) -> float:
    """Share of wrong answers on all retain data."""
    retain = toy.problem().retain
    answers = jnp.argmax(toy.TASK.predict(params, model_state, retain), axis=1)
    return float(jnp.mean(answers != retain["label"]))
