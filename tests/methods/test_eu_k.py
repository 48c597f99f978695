"""EU-k: the last layers start afresh, and know nothing of what they were."""

import jax
import numpy as np

from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal
from tests.methods.cases import runner


def test_the_last_layers_are_drawn_afresh_by_the_key() -> None:
    """As `task.init` draws them; another seed draws others."""
    method = toy.runner("eu_k", num_layers=1)
    original = toy.problem().params
    first, again, other = (method.start(seed).params for seed in (0, 0, 1))
    assert_trees_equal(first, again)
    assert_trees_equal(first["kernel"], original["kernel"])
    for params in (original, other):
        assert np.all(params["head"]["kernel"] != first["head"]["kernel"])
    np.testing.assert_array_equal(first["head"]["bias"], 0.0)  # the toy's biases start there


def test_the_end_does_not_hang_on_the_original_last_layers() -> None:
    method, problem = toy.runner("eu_k", num_layers=1), toy.problem()
    numbers = {name: np.float32(value) for name, value in method.numbers.items()}
    spoiled = problem.params | {"head": jax.tree.map(lambda x: x + 1.0, problem.params["head"])}
    key = jax.random.key(0)
    ours, same = (
        method.init(numbers, key, params, *problem[1:]) for params in (problem.params, spoiled)
    )
    assert_trees_equal(ours, same)


def test_all_layers_are_retraining() -> None:
    """From the same fresh weights."""
    ours = runner("eu_k").run()
    method, problem = runner("retrain"), toy.problem()
    numbers = {name: np.float32(value) for name, value in method.numbers.items()}
    state = method.init(numbers, jax.random.key(0), ours.start.params, *problem[1:])
    for n in range(3):
        forget = toy.nth_batch(problem.forget, n, toy.FORGET_BATCH)
        state, _ = method.step(numbers, state, forget, toy.nth_retain_batches(problem.retain, n, 1))
    assert_trees_close(ours.end.params, state.params)
    assert_trees_close(ours.end.model_state, state.model_state)
