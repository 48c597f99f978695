"""One function over batches of one shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.data.batches import in_batches


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
@pytest.mark.parametrize(("count", "size"), [(7, 3), (6, 3), (2, 3), (7, None)])
def test_results_are_those_of_each_example_in_order(kind, count, size):
    shapes = []

    @jax.jit
    def function(batch):
        shapes.append(batch["x"].shape)
        return batch["x"].sum(axis=1), {"twice": 2 * batch["y"]}

    x, y = np.arange(2.0 * count, dtype=np.float32).reshape(count, 2), np.arange(count)
    sums, rest = in_batches(function, {"x": kind(x), "y": kind(y)}, size)
    np.testing.assert_array_equal(sums, x.sum(axis=1))
    np.testing.assert_array_equal(rest["twice"], 2 * y)
    assert isinstance(sums, np.ndarray)
    assert shapes == [(size or count, 2)]  # compiled once, whatever is left for the last batch


def test_by_default_few_examples_are_one_batch_and_many_go_by_hundreds():
    sizes = []
    for count in (3, 250):
        in_batches(lambda batch: sizes.append(len(batch)) or batch, np.arange(count))
    assert sizes == [3, 100, 100, 100]
