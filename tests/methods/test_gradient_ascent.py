"""Gradient ascent climbs the forget loss, and touches nothing else."""

from typing import Any

import jax
import numpy as np

from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal
from tests.methods.cases import runner


def test_one_step_by_hand(weighted_ascent_by_hand: Any) -> None:
    run = runner("gradient_ascent").run(1, learning_rate=0.1, weight_decay=0.0)
    batch = toy.nth_batch(toy.problem().forget, 0, toy.FORGET_BATCH)
    loss, grads = weighted_ascent_by_hand(run.start.params, run.start.model_state, batch, 0.0)
    assert loss < 0 and np.isclose(run.metrics[0]["forget_loss"], loss, rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, run.start.params, grads)
    assert_trees_close(run.end.params, expected)


def test_the_forget_loss_rises_and_the_model_state_stays() -> None:
    """The metric is the minimised objective, minus the loss. Three batches make one round."""
    run = runner("gradient_ascent").run(9, learning_rate=0.1)
    rounds = np.reshape([-metrics["forget_loss"] for metrics in run.metrics], (3, 3)).mean(axis=1)
    assert rounds[0] < rounds[1] < rounds[2]
    assert_trees_equal(run.end.model_state, run.start.model_state)
