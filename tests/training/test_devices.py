"""Meshes, what divides over them, and where arrays end up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxunlearn.training.devices import (
    check_divides,
    make_mesh,
    placement_of,
    replicate,
    shardings,
    split_batch,
    unsplit,
)
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import InputError


def test_a_mesh_has_the_first_devices_or_all() -> None:
    assert make_mesh().devices.ravel().tolist() == jax.devices()
    assert make_mesh(3).devices.ravel().tolist() == jax.devices()[:3]
    assert make_mesh(3).shape == {"data": 3, "fsdp": 1}
    assert make_mesh(3, "sharded").shape == {"data": 1, "fsdp": 3}


@pytest.mark.parametrize("count", [0, -1, 9])
def test_devices_that_are_not_there(count: int) -> None:
    with pytest.raises(InputError, match=rf"devices is {count}, but this machine has 8 \(cpu\)"):
        make_mesh(count)


def test_parameters_are_replicated_or_sharded() -> None:
    with pytest.raises(InputError, match="parameters is 'split', but must be replicated or sh"):
        make_mesh(2, "split")


def test_what_pmap_does_not_do_is_refused() -> None:
    assert (
        placement_of().axis_name is None
        and placement_of(Layout(parallel="pmap")).axis_name == "devices"
    )
    for other in (Layout(parameters="sharded"), Layout(distributed=True)):
        with pytest.raises(InputError, match="parallel is 'pmap', which keeps all .* choose jit"):
            placement_of(dataclasses.replace(other, parallel="pmap"))
    with pytest.raises(InputError, match="parallel is 'map', but must be jit or pmap"):
        placement_of(Layout(parallel="map"))


def test_a_layout_is_resolved_at_the_door() -> None:
    layout = Layout(devices=2, parameters="sharded", micro_batch=4, chunk_steps=3)
    assert (
        placement_of(layout)
        == placement_of(layout)
        == (make_mesh(2, "sharded"), None, 4, 3, 1000, (), 0, False)
    )
    assert hash(placement_of(layout)) == hash(placement_of(layout))
    for name, value in (("chunk_steps", 0), ("checkpoint_every", -1), ("micro_batch", -2)):
        with pytest.raises(InputError, match=f"{name} is {value}, but must be"):
            placement_of(dataclasses.replace(layout, **{name: value}))
    with pytest.raises(InputError, match="micro_batch is 3, but must be a positive multiple of"):
        placement_of(dataclasses.replace(layout, micro_batch=3))


@pytest.mark.parametrize(("size", "nearest"), [(7, 8), (3, 4), (0, 4), (-4, 4), (18, 16)])
def test_batches_that_do_not_divide(size: int, nearest: int) -> None:
    with pytest.raises(
        InputError, match=rf"forget is {size}, .* 4 devices; the nearest is {nearest}\."
    ):
        check_divides(make_mesh(4), retain=8, forget=size)


def test_batches_that_do() -> None:
    mesh = make_mesh(4)
    check_divides(mesh, retain=8, forget=4)
    assert mesh.size == 4


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


@pytest.mark.parametrize("parameters", ["replicated", "sharded"])
@pytest.mark.parametrize("axis", [0, 1])
def test_splitting_a_batch(axis: int, parameters: str) -> None:
    mesh = make_mesh(2, parameters)
    given = replicate({"x": jnp.arange(16.0).reshape(4, 4), "y": jnp.ones((4, 2, 3))}, mesh)
    split = jax.jit(lambda batch: split_batch(batch, mesh, axis))(given)
    for name, leaf in split.items():
        expected = list(given[name].shape)
        expected[axis] //= 2
        assert leaf.addressable_shards[0].data.shape == tuple(expected)
        np.testing.assert_array_equal(leaf, given[name])


WHOLE = PartitionSpec()
SPECS = {
    "the largest axis": ("dense/kernel", (8, 16), PartitionSpec(None, "fsdp")),
    "the largest that divides": ("dense/kernel", (8, 15), PartitionSpec("fsdp")),
    "of equal ones the last": ("dense/kernel", (8, 8), PartitionSpec(None, "fsdp")),
    "channels of a convolution": ("kernel", (3, 3, 8, 4), PartitionSpec(None, None, "fsdp")),
    "the features of an embedding": ("embed/embedding", (64, 4), PartitionSpec(None, "fsdp")),
    "never its rows": ("embed/embedding", (64, 3), WHOLE),
    "nothing divides": ("kernel", (3, 5), WHOLE),
    "nothing to split": ("kernel", (0, 3), WHOLE),
    "vectors": ("bias", (64,), WHOLE),
    "scalars": ("step", (), WHOLE),
}


@pytest.mark.parametrize("case", SPECS)
def test_the_rules(case: str) -> None:
    path, shape, spec = SPECS[case]
    tree = {path: jax.ShapeDtypeStruct(shape, jnp.float32)}
    assert shardings(tree, make_mesh(4, "sharded"))[path].spec == spec


def test_replicated_parameters_are_split_along_an_axis_of_one_device() -> None:
    mesh = make_mesh(4)
    given = {"kernel": jnp.ones((3, 5))}
    assert jax.device_put(given, shardings(given, mesh))["kernel"].is_fully_replicated


def test_what_mirrors_a_parameter_follows_it() -> None:
    """Momentum, masks and slow weights have its path at their end, and its shape."""
    params = {
        "embed": {"embedding": jnp.ones((12, 8))},
        "dense": {"kernel": jnp.ones((8, 3)), "bias": jnp.ones(8)},
    }
    mesh = make_mesh(2, "sharded")
    state = {"adam": optax.adam(0.1).init(params), "mask": params, "slow": (params, {"x": params})}
    wanted = jax.tree.map(lambda sharding: sharding.spec, shardings(params, mesh))
    found = jax.tree.map(lambda sharding: sharding.spec, shardings(state, mesh))
    adam = found["adam"][0]
    for copy in (adam.mu, adam.nu, found["mask"], found["slow"][0], found["slow"][1]["x"]):
        assert copy == wanted
    assert adam.count == WHOLE and wanted["embed"]["embedding"] != wanted["dense"]["kernel"]


def test_which_parameters_stay_whole() -> None:
    params = {"a": {"kernel": jnp.ones((3, 5)), "bias": jnp.ones(5)}, "b": jnp.ones((4, 3))}
    assert unsplit(params, 4) == ["a/kernel"]
    assert unsplit(params, 2) == ["a/kernel"]
    assert unsplit(params, 3) == []
