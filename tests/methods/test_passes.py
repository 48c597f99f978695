"""Passes over whole data sets: every example counts, whatever the size of a batch and the order."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.methods._build import Start
from jaxunlearn.methods._passes import batches_of, fisher_of, gradient_of, mean_over, plain_losses
from jaxunlearn.methods._saliency import fisher_mask, gradient_mask
from tests import toy
from tests.helpers import assert_trees_close, flat

pytestmark = pytest.mark.long

KEY = jax.random.key(3)
SIZES = (1, 7, 32, 47)
PROBLEM = toy.problem()


@pytest.mark.parametrize("size", [3, 4, 5, 8, 11])
def test_a_mean_is_over_all_examples(size: int) -> None:
    """Also over those of an incomplete batch, and of nothing else."""
    values = jnp.arange(1.0, size + 1.0) ** 2
    arrays = {"label": jnp.zeros(size, jnp.int32)}

    def values_of(positions: jax.Array) -> Any:
        return {"value": values[positions], "one": jnp.ones(positions.shape)}

    found = mean_over(arrays, 4, values_of)
    np.testing.assert_allclose(found["value"], np.mean(values), rtol=1e-6)
    np.testing.assert_allclose(found["one"], 1.0)


def data(size: int) -> Any:
    """Examples in the order of their classes, with indices of their own."""
    rng = np.random.default_rng(size)
    return {
        "image": jnp.asarray(rng.normal(size=(size, toy.INPUTS)), jnp.float32),
        "label": jnp.asarray(np.sort(rng.integers(0, toy.CLASSES, size)), jnp.int32),
        "index": jnp.asarray(rng.permutation(1000)[:size], jnp.int32),
    }


def permuted(arrays: Any) -> Any:
    order = np.random.default_rng(0).permutation(len(arrays["label"]))
    return {name: values[order] for name, values in arrays.items()}


@pytest.mark.parametrize("batch_size", SIZES)
@pytest.mark.parametrize("size", [1, 7, 47])
def test_every_example_is_in_one_batch(size: int, batch_size: int) -> None:
    positions, weights = batches_of(data(size), batch_size, KEY)
    assert positions.shape == weights.shape and positions.shape[1] == min(batch_size, size)
    np.testing.assert_array_equal(np.sort(positions[weights == 1.0]), np.arange(size))
    assert float(weights.sum()) == size and set(np.unique(weights)) <= {0.0, 1.0}
    some, _ = batches_of(data(size), batch_size, KEY, 2)
    np.testing.assert_array_equal(some, positions[:2])


def test_batches_depend_on_indices_and_key_and_mix_the_classes() -> None:
    arrays, others = data(47), permuted(data(47))
    batches = [
        jax.tree.map(np.asarray, given["index"][batches_of(given, 8, KEY)[0]])
        for given in (arrays, others)
    ]
    np.testing.assert_array_equal(*batches)
    other_key = arrays["index"][batches_of(arrays, 8, jax.random.key(4))[0]]
    assert np.any(other_key != batches[0])
    labels = arrays["label"][batches_of(arrays, 8, KEY)[0]]
    assert all(len(np.unique(batch)) > 1 for batch in labels)


def passes(arrays: Any, batch_size: int) -> dict[str, Any]:
    start = Start(KEY, PROBLEM.params, PROBLEM.model_state, arrays, PROBLEM.retain)
    return {
        "Fisher diagonal": fisher_of(toy.TASK, start, arrays, batch_size),
        "gradient": gradient_of(
            plain_losses(toy.TASK, PROBLEM.model_state, arrays, KEY),
            PROBLEM.params,
            arrays,
            batch_size,
            KEY,
        ),
        "Fisher mask": fisher_mask(toy.TASK, start, threshold=1.0, batch_size=batch_size),
        "gradient mask": gradient_mask(toy.TASK, start, fraction=0.5, batch_size=batch_size),
    }


@pytest.mark.parametrize("size", [7, 47])
def test_passes_do_not_depend_on_the_batch_size_nor_on_the_order(size: int) -> None:
    """1, 7, 32 or all at once; the examples in the order of their classes or in another."""
    compiled = jax.jit(passes, static_argnums=1)
    expected = compiled(data(size), size)
    assert 0 < flat(expected["Fisher mask"]).mean() < 1
    for batch_size in SIZES:
        for arrays in (data(size), permuted(data(size))):
            ours = compiled(arrays, batch_size)
            assert_trees_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_squared_batch_means_do_not_depend_on_the_order() -> None:
    """They do on the batch size, by their definition."""
    start = Start(KEY, *PROBLEM)
    compiled = jax.jit(lambda a: fisher_of(toy.TASK, start, a, 8, per_example=False))
    assert_trees_close(compiled(data(47)), compiled(permuted(data(47))), rtol=1e-5, atol=1e-8)


METHODS = {
    "influence": ({"num_fisher_batches": 100}, "fisher_batch_size", {}),
    "ssd": ({}, "fisher_batch_size", {"selection": 1.0}),
    "fisher_forgetting": ({}, "fisher_batch_size", {}),
    "salun": ({}, "mask_batch_size", {}),
    "sfron": ({}, "mask_batch_size", {}),
    "eupmu_sfron": ({}, "mask_batch_size", {}),
}


def started(name: str, batch_size: int, problem: toy.Problem = PROBLEM) -> Any:
    static, setting, numbers = METHODS[name]
    runner = toy.runner(name, **static, **{setting: batch_size})
    state = runner.init(runner._all(numbers), jax.random.key(0), *problem)
    return state.params, state.opt_state


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"influence"}))
def test_methods_do_not_depend_on_the_batch_size(name: str) -> None:
    """12 forget and 36 retain examples, in batches of 5 or all at once.

    `influence` does: it makes its Fisher matrix of the means of batches.
    """
    assert_trees_close(started(name, 5), started(name, 100))


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"fisher_forgetting"}))
def test_methods_see_the_last_forget_example(name: str) -> None:
    """In batches of 5 it is in an incomplete one."""
    image = PROBLEM.forget["image"]
    changed = PROBLEM._replace(forget=PROBLEM.forget | {"image": image.at[-1].add(5.0)})
    both = (flat(started(name, 5, problem)) for problem in (PROBLEM, changed))
    assert np.any(np.not_equal(*both))
