"""SalUn moves the largest gradients or changes, and the rest not by one bit."""

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


def change(run: Any, n: int) -> np.ndarray:
    """Exactly 0 where the bits are those of the start: float32 differences are exact in float64."""
    return flat(run.states[n].params) - flat(run.start.params)


def test_the_first_step_is_soft_thresholded() -> None:
    """Against the step of random labels: what is within the threshold stays bit-equal."""
    plain = change(runner("random_labels").run(1, **STRONG), 1)
    threshold = float(np.median(np.abs(plain)))
    shrunk = change(runner("salun_soft").run(1, threshold=threshold, **STRONG), 1)
    expected = np.sign(plain) * np.maximum(np.abs(plain) - threshold, 0.0)
    np.testing.assert_allclose(shrunk, expected, atol=1e-6)
    clear = np.abs(np.abs(plain) - threshold) > 1e-6  # not decided by rounding
    assert np.array_equal((shrunk == 0)[clear], (np.abs(plain) < threshold)[clear])
    assert 0.4 < np.mean(shrunk == 0) < 0.6


def test_some_weights_stay_bit_equal_to_the_end() -> None:
    """Under momentum and weight decay; a larger threshold leaves more of them."""
    unmoved = [
        np.mean(change(runner("salun_soft").run(4, threshold=threshold, **STRONG), 4) == 0)
        for threshold in (0.0, 0.05, 0.2)
    ]
    assert unmoved[0] == 0.0 < unmoved[1] < unmoved[2] < 1.0


def test_the_threshold_fades() -> None:
    """T = 4 steps without any gradient: each shrinks the change by 1 - t / 4 of the threshold."""
    method = runner("salun_soft")
    state = method.start()
    state = state._replace(params=jax.tree.map(lambda p: p + 1.0, state.params))
    numbers = {k: np.float32(v) for k, v in method.numbers.items()}
    still = {k: np.float32(0.0) for k in ("learning_rate", "weight_decay")}
    numbers |= still | {"threshold": np.float32(0.1)}
    start = flat(toy.problem().params)
    for n, left in enumerate((0.9, 0.825, 0.775, 0.75)):
        forget = toy.nth_batch(toy.problem().forget, n, toy.FORGET_BATCH)
        retain = toy.nth_retain_batches(toy.problem().retain, n, 1)
        state, _ = method.step(numbers, state, forget, retain)
        np.testing.assert_allclose(flat(state.params) - start, left, atol=1e-6)


def test_without_threshold_it_is_random_labels() -> None:
    ours, reference = runner("salun_soft").run(threshold=0.0), runner("random_labels").run()
    assert_trees_close(ours.end.params, reference.end.params)
    assert_trees_close(ours.end.model_state, reference.end.model_state)


def test_a_large_threshold_moves_nothing() -> None:
    run = runner("salun_soft").run(threshold=100.0, **STRONG)
    assert_trees_equal(run.end.params, run.start.params)
