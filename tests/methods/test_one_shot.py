"""Methods that edit the weights once: what is settled before the first step."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxunlearn import methods
from tests import toy
from tests.helpers import assert_trees_equal, flat
from tests.methods.cases import ONE_SHOT, runner

# What moves nothing, and what does.
STRENGTHS = {
    "influence": ({"alpha": 0.0}, {"alpha": 1.0}),
    "ssd": ({"selection": 1e6}, {"selection": 1.2}),
    "fisher_forgetting": ({"alpha": 0.0}, {"alpha": 1e-6}),
}


@pytest.mark.parametrize("name", ONE_SHOT)
def test_one_step_is_the_default(name: str) -> None:
    assert methods.settings(name)["num_steps"] == 1
    assert methods.settings(name, {"num_steps": 7})["num_steps"] == 7
    assert methods.settings("finetune")["num_steps"] == 100


@pytest.mark.parametrize("name", ONE_SHOT)
def test_at_strength_zero_nothing_moves(name: str) -> None:
    nothing, something = (runner(name).start(**numbers) for numbers in STRENGTHS[name])
    assert_trees_equal(nothing.params, toy.problem().params)
    assert np.any(flat(something.params) != flat(toy.problem().params))


def test_steps_measure_the_edited_weights_in_evaluation_mode() -> None:
    run = runner("fisher_forgetting").run(2)
    problem = toy.problem()
    losses = jax.jit(lambda p, s, b: toy.TASK.losses(p, s, b, jax.random.key(0), False)[0].mean())
    for n, metrics in enumerate(run.metrics):
        batches: dict[str, Any] = {
            "forget_loss": toy.nth_batch(problem.forget, n, toy.FORGET_BATCH),
            "retain_loss": toy.nth_batch(problem.retain, n, toy.RETAIN_BATCH),
        }
        for name, batch in batches.items():
            expected = losses(run.start.params, problem.model_state, batch)
            np.testing.assert_allclose(metrics[name], expected, rtol=1e-5)
