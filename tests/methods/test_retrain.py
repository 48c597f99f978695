"""Fine-tuning is plain SGD on the retain data, with momentum and coupled weight decay."""

from typing import Any

import jax
import numpy as np

from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal
from tests.methods.cases import runner


def test_finetuning_by_hand(retain_by_hand: Any) -> None:
    numbers = {"learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.01}
    run = runner("finetune").run(**numbers)
    params, model_state = run.start.params, run.start.model_state
    buffer = jax.tree.map(np.zeros_like, params)
    for n in range(3):
        batch = toy.nth_batch(toy.problem().retain, n, toy.RETAIN_BATCH)
        loss, model_state, grads = retain_by_hand(params, model_state, batch)
        assert np.isclose(run.metrics[n]["retain_loss"], loss, rtol=1e-5)
        buffer = jax.tree.map(lambda b, g, p: 0.8 * b + g + 0.01 * p, buffer, grads, params)
        params = jax.tree.map(lambda p, b: p - 0.1 * b, params, buffer)
        assert_trees_close(run.states[n + 1].params, params, rtol=1e-5)
        assert_trees_close(run.states[n + 1].model_state, model_state, rtol=1e-5)


def test_retraining_is_the_same_descent() -> None:
    """They differ in the weights that they are given, which the caller decides."""
    assert_trees_equal(runner("retrain").run().end, runner("finetune").run().end)
