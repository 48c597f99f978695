"""Keys per example: what all randomness that must not hang on batches is drawn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import InputError
from jaxunlearn.types import example_keys


def keys(index: list[int], epoch: list[int], seed: int = 0) -> np.ndarray:
    batch = {"index": jnp.array(index), "epoch": jnp.array(epoch)}
    return np.asarray(jax.random.key_data(example_keys(jax.random.key(seed), batch)))


def test_a_key_hangs_on_example_visit_and_run_alone() -> None:
    many = keys([5, 9, 2, 7], [0, 0, 1, 1])
    np.testing.assert_array_equal(many[[2, 1]], keys([2, 9], [1, 0]))
    assert np.all(np.any(many != keys([5, 9, 2, 7], [0, 0, 1, 1], seed=1), axis=1))


def test_keys_differ_among_examples_and_visits() -> None:
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40)), axis=-1).reshape(-1, 2)
    assert len({tuple(key) for key in keys(grid[:, 0].tolist(), grid[:, 1].tolist())}) == 1600


@pytest.mark.parametrize("child", [1, 2, 3])
def test_keys_are_none_of_the_other_streams(child: int) -> None:
    """Labels and data order descend from other children of the run's key."""
    stream = jax.random.fold_in(jax.random.key(0), child)
    others = [jax.random.fold_in(stream, epoch) for epoch in range(5)]
    data = {tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in [stream, *others]}
    found = {tuple(key) for key in keys([child] * 5, list(range(5))).tolist()}
    assert not data & found


def test_input_errors_are_value_errors() -> None:
    assert issubclass(InputError, ValueError)
