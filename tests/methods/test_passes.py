"""Passes over whole data sets."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.methods._passes import mean_over


@pytest.mark.parametrize("size", [3, 4, 5, 8, 11])
def test_a_mean_is_over_all_examples(size: int) -> None:
    """Also over those of an incomplete batch, and of nothing else."""
    values = jnp.arange(1.0, size + 1.0) ** 2
    arrays = {"label": jnp.zeros(size, jnp.int32)}

    def values_of(positions):
        return {"value": values[positions], "one": jnp.ones(positions.shape)}

    found = mean_over(arrays, 4, values_of)
    np.testing.assert_allclose(found["value"], np.mean(values), rtol=1e-6)
    np.testing.assert_allclose(found["one"], 1.0)
