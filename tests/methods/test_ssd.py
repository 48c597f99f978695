"""Selective synaptic dampening, against numbers computed by hand."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.methods.ssd import dampened
from tests import toy
from tests.helpers import assert_trees_close, flat
from tests.methods.cases import runner


@pytest.mark.parametrize(
    ("dampening", "expected"),
    [
        (2.0, [2.0, 1.0, 0.5, 2.0, -1.0, 2.0]),  # times min(2 F_all / F_f, 1)
        (6.0, [2.0, 2.0, 1.5, 2.0, -2.0, 2.0]),  # never more than 1
        (0.0, [2.0, 0.0, 0.0, 2.0, 0.0, 2.0]),  # cut off
    ],
)
def test_the_selected_are_dampened_and_the_rest_is_spared(
    dampening: float, expected: list[float]
) -> None:
    """Selected where `F_f > 3 F_all`: the second, third and fifth; not the last, 0 > 0."""
    theta = jnp.array([2.0, 2.0, 2.0, 2.0, -2.0, 2.0])
    forget = jnp.array([1.0, 4.0, 8.0, 8.0, 4.0, 0.0])
    everything = jnp.array([1.0, 1.0, 1.0, 4.0, 1.0, 0.0])
    assert dampened(theta, forget, everything, 3.0, dampening).tolist() == expected


def test_the_diagonals_are_of_all_examples(example_gradients: Callable[..., Any]) -> None:
    """F_all is over forget and retain examples alike."""
    params, model_state, forget, retain = toy.problem()
    together = {name: jnp.concatenate([forget[name], retain[name]]) for name in forget}

    def fisher(arrays: Any) -> Any:
        gradients = example_gradients(params, model_state, arrays)
        return jax.tree.map(lambda g: np.mean(np.float64(g) ** 2, axis=0), gradients)

    state = runner("ssd").start(selection=1.2, dampening=0.5)
    f, d, theta = flat(fisher(forget)), flat(fisher(together)), flat(params)
    selected = f > 1.2 * d
    assert 5 < selected.sum() < theta.size - 5
    expected = np.where(selected, theta * np.minimum(0.5 * d / f, 1.0), theta)
    np.testing.assert_allclose(flat(state.params), expected, rtol=1e-5)
    np.testing.assert_array_equal(flat(state.params)[~selected], theta[~selected])
    assert_trees_close(state.model_state, model_state)
