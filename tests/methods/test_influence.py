"""WoodFisher against the exact inverse, and the Newton step made of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.methods.influence import woodfisher
from tests import toy
from tests.helpers import flat, relative_error


@pytest.mark.parametrize("count", [3, 20])
def test_woodfisher_is_the_exact_inverse(count: int) -> None:
    """With fewer gradients than dimensions, and with more; on several vectors."""
    rng = np.random.default_rng(count)
    gradients, vectors = rng.normal(size=(count, 7)), rng.normal(size=(4, 7))
    fisher = 0.3 * np.eye(7) + gradients.T @ gradients / count
    inverse = woodfisher(lambda g: g, jnp.asarray(gradients, jnp.float32), 7, 0.3)
    ours = np.stack([inverse.times(jnp.asarray(v, jnp.float32)) for v in vectors])
    assert relative_error(ours, np.linalg.solve(fisher, vectors.T).T) < 1e-5
    other = np.linalg.solve(fisher + 0.01 * np.eye(7), vectors.T).T
    assert relative_error(ours, other) > 1e-3


def stacked(tree: Any) -> np.ndarray:
    """Gradients of examples as rows, `[N, P]`."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def test_the_step_is_newtons(example_gradients: Callable[..., Any]) -> None:
    """With all retain examples one by one: the Fisher matrix then hangs on no order."""
    params, model_state, forget, retain = toy.problem()
    runner = toy.runner("influence", num_fisher_batches=100, fisher_batch_size=1)
    state = runner.start(alpha=3.0, damping=0.05)
    of_retain = stacked(example_gradients(params, model_state, retain))
    of_forget = stacked(example_gradients(params, model_state, forget))
    count, size = of_retain.shape
    fisher = of_retain.T @ of_retain / count + 0.05 * np.eye(size)
    step = 3.0 / count * np.linalg.solve(fisher, of_forget.sum(axis=0))
    assert relative_error(flat(state.params) - flat(params), step) < 1e-4


def test_batches_are_of_the_mean_gradient_and_drawn_by_the_key(
    example_gradients: Callable[..., Any],
) -> None:
    """All retain data in one batch make the Fisher matrix of rank one."""
    params, model_state, forget, retain = toy.problem()
    runner = toy.runner("influence", num_fisher_batches=1, fisher_batch_size=36)
    state = runner.start(alpha=1.0, damping=0.5)
    mean = stacked(example_gradients(params, model_state, retain)).mean(axis=0)
    total = stacked(example_gradients(params, model_state, forget)).sum(axis=0)
    fisher = np.outer(mean, mean) + 0.5 * np.eye(mean.size)
    step = np.linalg.solve(fisher, total) / len(retain["label"])
    assert relative_error(flat(state.params) - flat(params), step) < 1e-4
    few = toy.runner("influence", num_fisher_batches=6, fisher_batch_size=4)
    assert np.any(few.start(seed=1).params["kernel"] != few.start(seed=2).params["kernel"])
