"""Fisher forgetting: the variance of its noise, entry by entry."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.methods.fisher_forgetting import noise_variance
from tests import toy
from tests.helpers import assert_trees_equal, flat
from tests.methods.cases import runner


def noise(seed: int = 0, **numbers: float) -> np.ndarray:
    state = runner("fisher_forgetting").start(seed, **numbers)
    return flat(state.params) - flat(toy.problem().params)


@pytest.fixture(scope="module")
def normal() -> np.ndarray:
    """The draws themselves: noise whose variance is 1 everywhere."""
    return noise(alpha=1e20, max_variance=1.0)


def test_the_variance_is_alpha_over_the_root_of_fisher(
    normal: np.ndarray, example_gradients: Callable[..., Any]
) -> None:
    """Of the retain data; no exponent other than -1/2 passes."""
    params, model_state, _, retain = toy.problem()
    gradients = example_gradients(params, model_state, retain)
    fisher = flat(jax.tree.map(lambda g: np.mean(np.float64(g) ** 2, axis=0), gradients))
    assert fisher.max() > 20 * fisher.min() > 0
    variance = (noise(alpha=1e-2, max_variance=1e6) / normal) ** 2
    clear = np.abs(normal) > 0.2  # rounding of the weights is relative to them, not to the noise
    np.testing.assert_allclose(variance[clear], 1e-2 * fisher[clear] ** -0.5, rtol=1e-3)


def test_the_variance_is_clamped(normal: np.ndarray) -> None:
    np.testing.assert_allclose(noise(alpha=1e20, max_variance=0.25), 0.5 * normal, atol=1e-6)


def test_without_variance_there_is_no_noise_even_where_nothing_depends_on_a_weight() -> None:
    fisher = jnp.array([0.0, 1e-30, 4.0])
    np.testing.assert_array_equal(noise_variance(fisher, 0.0, 1.0), [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(noise_variance(fisher, 1.0, 0.0), [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(noise_variance(fisher, 1.0, 9.0), [9.0, 9.0, 0.5])


def test_the_draws_are_standard_normal_and_belong_to_the_key(normal: np.ndarray) -> None:
    draws = np.concatenate([normal, *(noise(s, alpha=1e20, max_variance=1.0) for s in range(1, 8))])
    assert abs(draws.mean()) < 4 / np.sqrt(draws.size)
    assert abs(draws.var() - 1.0) < 4 * np.sqrt(2 / draws.size)
    assert len(np.unique(draws)) > 0.99 * draws.size
    assert_trees_equal(noise(), noise())


def test_the_forget_data_are_not_looked_at() -> None:
    params, model_state, forget, retain = toy.problem()
    method, key = runner("fisher_forgetting"), jax.random.key(0)
    other = forget | {"image": -forget["image"]}
    numbers = method._all({})
    states = [method.init(numbers, key, params, model_state, f, retain) for f in (forget, other)]
    assert_trees_equal(states[0].params, states[1].params)
