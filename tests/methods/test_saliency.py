"""The random mask: the control of every method that has a saliency mask."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxunlearn import methods
from jaxunlearn.methods._build import Start
from jaxunlearn.methods._passes import batches_of
from jaxunlearn.methods._saliency import fisher_mask
from jaxunlearn.types import InputError
from tests import toy
from tests.helpers import assert_trees_equal, flat
from tests.methods.test_salun import STRONG, mask_of

pytestmark = pytest.mark.long

EVERY_METHOD = ("salun", "sfron", "sfron_released", "eupmu_sfron")


def entries(opt_state: Any) -> np.ndarray:
    return flat(mask_of(opt_state)).astype(bool)


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_the_random_mask_has_as_many_ones_elsewhere(method: str) -> None:
    usual, control = toy.runner(method), toy.runner(method, mask="random")
    salient, with_other = (entries(usual.start(seed).opt_state) for seed in (0, 1))
    drawn, again, other = (entries(control.start(seed).opt_state) for seed in (0, 0, 1))
    assert 0 < salient.sum() < salient.size
    assert drawn.sum() == salient.sum() and other.sum() == with_other.sum()
    assert np.any(drawn != salient) and np.any(drawn != other)
    np.testing.assert_array_equal(drawn, again)


def test_the_random_mask_falls_anywhere_in_the_tree() -> None:
    """Over many draws each entry is as likely as any other, and no leaf has a fixed number."""
    control = toy.runner("salun", mask="random")
    draws = [mask_of(control.start(seed, fraction=0.5).opt_state) for seed in range(60)]
    counts = np.sum([flat(mask) for mask in draws], axis=0)
    assert np.all(np.abs(counts - 30.0) < 5 * np.sqrt(60 * 0.25))
    for leaves in zip(*map(jax.tree.leaves, draws), strict=True):
        assert len({int(leaf.sum()) for leaf in leaves}) > 1


def test_weights_outside_the_random_mask_stay_bit_equal() -> None:
    """Under momentum and weight decay, over several steps."""
    run = toy.runner("salun", mask="random").run(5, fraction=0.25, **STRONG)
    mask = entries(run.start.opt_state)
    assert mask.sum() == int(0.25 * mask.size)
    before, after = flat(run.start.params), flat(run.end.params)
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert np.all(after[mask] != before[mask])
    assert_trees_equal(mask_of(run.start.opt_state), mask_of(run.end.opt_state))


@pytest.mark.parametrize("method", ["sfron", "eupmu_sfron"])
def test_the_mask_of_some_batches_is_that_of_the_examples_in_them(method: str) -> None:
    """Three batches of four, of either data set; others with another seed."""
    problem = toy.problem()
    some = toy.runner(method, num_mask_batches=3)
    for seed in (0, 1):
        key = jax.random.key(seed)
        drawn = []
        for arrays in (problem.forget, problem.retain):
            positions, weights = batches_of(arrays, 4, key, 3)
            assert positions.shape == (3, 4) and len(np.unique(positions)) == 12
            assert np.all(weights == 1.0)
            drawn.append({name: values[positions.ravel()] for name, values in arrays.items()})
        rest = {"threshold": 1.0, "per_example": True, "batch_size": 4, "num_batches": 0}
        start = Start(key, problem.params, problem.model_state, *drawn)
        expected = flat(fisher_mask(toy.TASK, start, **rest)).astype(bool)
        np.testing.assert_array_equal(entries(some.start(seed).opt_state), expected)
    everything = entries(toy.runner(method).start().opt_state)
    assert np.any(entries(some.start().opt_state) != everything)


def test_more_batches_than_there_are_take_all_of_the_data() -> None:
    of_all, of_many = (toy.runner("sfron", num_mask_batches=n).start() for n in (0, 1000))
    np.testing.assert_array_equal(entries(of_many.opt_state), entries(of_all.opt_state))


def test_a_negative_number_of_batches_is_refused() -> None:
    with pytest.raises(
        InputError, match="num_mask_batches of method sfron is -1, but must be 0 or more"
    ):
        methods.settings("sfron", {"num_mask_batches": -1})


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_other_masks_are_refused(method: str) -> None:
    with pytest.raises(
        InputError, match="mask of method .* is 'none', but must be one of saliency, random"
    ):
        toy.runner(method, mask="none")
