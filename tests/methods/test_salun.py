"""SalUn moves the largest gradients, and the rest not by one bit."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxunlearn.transforms import SaliencyMaskState
from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal, flat
from tests.methods.cases import runner

STRONG = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.1}


def mask_of(opt_state: Any) -> Any:
    """The one mask somewhere in an optimizer state."""

    def is_mask(node: Any) -> bool:
        return isinstance(node, SaliencyMaskState)

    (state,) = [n for n in jax.tree.leaves(opt_state, is_leaf=is_mask) if is_mask(n)]
    return state.mask


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_masked_weights_stay_bit_equal(fraction: float) -> None:
    """Under momentum and weight decay, over several steps."""
    run = runner("salun").run(5, fraction=fraction, **STRONG)
    mask = flat(mask_of(run.start.opt_state)).astype(bool)
    assert mask.sum() == int(fraction * mask.size)
    before, after = flat(run.start.params), flat(run.end.params)
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert np.all(after[mask] != before[mask])
    assert_trees_equal(mask_of(run.start.opt_state), mask_of(run.end.opt_state))


def test_the_mask_is_of_the_largest_summed_gradients(example_gradients: Any) -> None:
    """In evaluation mode, over all of the forget data."""
    problem = toy.problem()
    gradients = example_gradients(problem.params, problem.model_state, problem.forget)
    summed = np.abs(flat(jax.tree.map(lambda g: g.sum(axis=0), gradients)))
    mask = flat(mask_of(runner("salun").start(fraction=0.25).opt_state)).astype(bool)
    assert summed[mask].min() > summed[~mask].max()


def test_everything_salient_is_random_labels() -> None:
    ours, reference = runner("salun").run(fraction=1.0), runner("random_labels").run()
    assert_trees_close(ours.end.params, reference.end.params)
    assert_trees_close(ours.end.model_state, reference.end.model_state)


def test_everything_salient_is_the_sum_of_any_objective_and_the_retain_loss() -> None:
    ours = toy.runner("salun", objective="ascent").run(fraction=1.0)
    reference = toy.runner("scalarization", objective="ascent").run(retain_weight=1.0)
    assert_trees_close(ours.end.params, reference.end.params)


def test_nothing_salient_moves_nothing() -> None:
    run = runner("salun").run(fraction=0.0, **STRONG)
    assert_trees_equal(run.end.params, run.start.params)
