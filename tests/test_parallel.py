"""Meshes, what divides over them, and where arrays end up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.parallel import AXIS, check_divides, make_mesh, replicate, split_batch
from jaxunlearn.types import InputError


def test_a_mesh_has_the_first_devices_or_all() -> None:
    assert make_mesh().devices.tolist() == jax.devices()
    assert make_mesh(3).devices.tolist() == jax.devices()[:3]
    assert make_mesh(3).shape == {AXIS: 3}


@pytest.mark.parametrize("count", [0, -1, 9])
def test_devices_that_are_not_there(count: int) -> None:
    with pytest.raises(InputError, match=rf"devices is {count}, but this machine has 8 \(cpu\)"):
        make_mesh(count)


@pytest.mark.parametrize(("size", "nearest"), [(7, 8), (3, 4), (0, 4), (-4, 4), (18, 16)])
def test_batches_that_do_not_divide(size: int, nearest: int) -> None:
    with pytest.raises(
        InputError, match=rf"forget is {size}, .* 4 devices; the nearest is {nearest}\."
    ):
        check_divides(make_mesh(4), retain=8, forget=size)


def test_batches_that_do() -> None:
    mesh = make_mesh(4)
    check_divides(mesh, retain=8, forget=4)
    assert mesh.shape[AXIS] == 4


@pytest.mark.parametrize("count", [1, 2])
def test_replicating(count: int) -> None:
    """Every device holds all of it, keys and numpy arrays included."""
    given = {"x": jnp.arange(4.0), "y": np.ones((2, 3), np.float32), "k": jax.random.key(0)}
    placed = replicate(given, make_mesh(count))
    for name, leaf in placed.items():
        assert leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == count
        assert leaf.shape == given[name].shape and leaf.dtype == given[name].dtype
    for shard in placed["x"].addressable_shards:
        np.testing.assert_array_equal(shard.data, given["x"])


@pytest.mark.parametrize("axis", [0, 1])
def test_splitting_a_batch(axis: int) -> None:
    mesh = make_mesh(2)
    given = replicate({"x": jnp.arange(16.0).reshape(4, 4), "y": jnp.ones((4, 2, 3))}, mesh)
    split = jax.jit(lambda batch: split_batch(batch, mesh, axis))(given)
    for name, leaf in split.items():
        expected = list(given[name].shape)
        expected[axis] //= 2
        assert leaf.addressable_shards[0].data.shape == tuple(expected)
        np.testing.assert_array_equal(leaf, given[name])
