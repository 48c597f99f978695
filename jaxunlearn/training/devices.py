"""Data parallelism: devices share the batches, and the parameters if asked to.

The mesh has two axes. Batches are split over both, parameters over "fsdp" only: with the shape
`(n, 1)` each device holds all parameters, with `(1, n)` a share of them. Whatever mirrors a
parameter (momentum, mask, slow weights, teacher) is split like it, because the rules depend only on
the end of a path and on the shape.

The compiled program works on the global batch; XLA inserts the collectives. So one device and eight
compute the same numbers, and nothing else in the library knows about devices. Under `pmap` each
device runs the whole program, and the task computes its share of a batch
(`tasks/shard_over_axis.py`).
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxunlearn.files import whole
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import InputError

AXES = ("data", "fsdp")
PARAMETERS = ("replicated", "sharded")
PARALLEL = ("jit", "pmap")

# The end of an array's path, and the axis that is split; the first match wins. All other arrays are
# split along their largest axis that the devices divide; vectors are not split.
RULES: tuple[tuple[str, int | None], ...] = (
    (r"embedding$", -1),  # rows are looked up by number
)


def make_mesh(num_devices: int | None = None, parameters: str = "replicated") -> Mesh:
    """A mesh of the first `num_devices` devices (default: all) along the axes "data" and "fsdp".

    Args:
        num_devices: number of devices.
        parameters: "replicated", all parameters on each device, or "sharded", a share on each.

    Returns:
        A mesh whose axes are of type `Auto`.

    Raises:
        InputError: fewer than one device, more than there are, or an unknown word.

    Example:
        >>> dict(make_mesh(1).shape)
        {'data': 1, 'fsdp': 1}
    """
    if parameters not in PARAMETERS:
        raise InputError(f"parameters is {parameters!r}, but must be {' or '.join(PARAMETERS)}.")
    present = jax.devices()
    count = len(present) if num_devices is None else num_devices
    if not 1 <= count <= len(present):
        raise InputError(
            f"devices is {count}, but this machine has {len(present)} ({present[0].platform}); use "
            f"{'1' if len(present) == 1 else f'1 to {len(present)}'}, or set JAX_NUM_CPU_DEVICES "
            "for more CPU devices."
        )
    if jax.process_count() > 1 and count != len(present):
        raise InputError(
            f"devices is {count}, but several hosts share all of theirs; ask for {len(present)}."
        )
    shape = (1, count) if parameters == "sharded" else (count, 1)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 2, devices=present[:count])


class Placement(NamedTuple):
    """A `Layout` on the devices of this machine: checked once, the same for all programs of a run.

    Attributes:
        mesh: the devices, from `make_mesh`.
        axis_name: name of the axis that `pmap` maps; None under sharded jit, which has none.
        micro_batch: largest number of examples computed at once; 0 for whole batches.
        chunk_steps: largest number of steps between two looks at a run.
        checkpoint_every: least number of steps between two checkpoints.
    """

    mesh: Mesh
    axis_name: str | None
    micro_batch: int
    chunk_steps: int
    checkpoint_every: int


def placement_of(layout: Layout = Layout()) -> Placement:
    """Resolves a layout, at the door of every command that trains.

    Args:
        layout: the devices, and how they share a batch.

    Returns:
        The `Placement`.

    Raises:
        InputError: an unknown word, more devices than there are, micro-batches that do not divide
            over them, a number of steps below 1, or something that `pmap` does not do.

    Example:
        >>> placement_of().axis_name is None, placement_of(Layout(parallel="pmap")).axis_name
        (True, 'devices')
    """
    if layout.parallel not in PARALLEL:
        raise InputError(f"parallel is {layout.parallel!r}, but must be {' or '.join(PARALLEL)}.")
    by_pmap = layout.parallel == "pmap"
    if by_pmap and (layout.parameters != "replicated" or layout.distributed):
        raise InputError(
            "parallel is 'pmap', which keeps all parameters on each device of a single host; leave "
            "out --parameters and --distributed, or choose jit."
        )
    for name, least in (("chunk_steps", 1), ("checkpoint_every", 1), ("micro_batch", 0)):
        if getattr(layout, name) < least:
            raise InputError(f"{name} is {getattr(layout, name)}, but must be {least} or more.")
    mesh = make_mesh(layout.devices, layout.parameters)
    if layout.micro_batch:
        check_divides(mesh, micro_batch=layout.micro_batch)
    return Placement(
        mesh,
        "devices" if by_pmap else None,
        layout.micro_batch,
        layout.chunk_steps,
        layout.checkpoint_every,
    )


def mapped(function: Callable[..., Any], mesh: Mesh, axis_name: str) -> Callable[..., Any]:
    """Inside jit: `function` under `pmap`, with all of its arguments on each device.

    Args:
        function: function of arrays, with the same results on every device.
        mesh: mesh of the devices.
        axis_name: name of the mapped axis.

    Returns:
        The function, with the results of one device.
    """
    each = jax.pmap(
        lambda *args, device: function(*args),
        axis_name,
        in_axes=None,
        out_axes=None,
        devices=list(mesh.devices.flat),
    )
    return lambda *args: each(*args, device=jnp.arange(mesh.size))


def check_divides(mesh: Mesh, **batch_sizes: int) -> None:
    """Raises unless every batch size is positive and divides over the devices of the mesh.

    Raises:
        InputError: it does not.
    """
    for name, size in batch_sizes.items():
        if size < 1 or size % mesh.size:
            raise InputError(
                f"{name} is {size}, but must be a positive multiple of the {mesh.size} devices; "
                f"the nearest is {max(1, round(size / mesh.size)) * mesh.size}."
            )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """`tree` on every device of the mesh; arrays that are there already may be shared."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    if not mesh.is_multi_process:
        return jax.device_put(tree, everywhere)

    def put(leaf: Any) -> jax.Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        return jax.device_put(whole(leaf), everywhere)

    return jax.tree.map(put, tree)


def split_batch(batch: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Inside jit: the batch with its `axis` split over the devices of the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, AXES))
    return jax.lax.with_sharding_constraint(batch, sharding)


def own_rows(size: int, mesh: Mesh) -> np.ndarray:
    """The rows of a batch of that size on the devices of this process, in order."""
    places = NamedSharding(mesh, PartitionSpec(AXES)).addressable_devices_indices_map((size,))
    return np.unique(np.concatenate([np.arange(size)[place] for place in places.values()]))


def place_rows(rows: Any, size: int, mesh: Mesh, axis: int) -> Any:
    """Arrays over all devices, from the rows of each process.

    Args:
        rows: tree of numpy arrays, with the rows `own_rows` along `axis`.
        size: size of the whole batch.
        mesh: mesh of the devices.
        axis: batch axis.

    Returns:
        The tree, with arrays whose `axis` has `size` rows and is split over the devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, AXES))

    def one(x: np.ndarray) -> jax.Array:
        whole = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(sharding, x, whole)

    return jax.tree.map(one, rows)


def shardings(state: Any, mesh: Mesh) -> Any:
    """The shardings of a state on the devices of the mesh, by the rules.

    Args:
        state: tree of arrays or of `jax.ShapeDtypeStruct`.
        mesh: mesh from `make_mesh`.

    Returns:
        A tree of `NamedSharding`.

    Example:
        >>> kernel = jax.ShapeDtypeStruct((3, 4), "float32")
        >>> shardings({"kernel": kernel}, make_mesh(1))["kernel"].spec  # one device splits nothing
        P()
    """

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        count = mesh.shape["fsdp"]
        axis = _split_axis(_name(path), leaf.shape, count) if count > 1 else None
        spec = PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, "fsdp")
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, state)


def unsplit(params: Any, count: int) -> list[str]:
    """The names of parameters with two axes or more that cannot be split over `count` devices."""
    return [
        _name(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if leaf.ndim > 1 and _split_axis(_name(path), leaf.shape, count) is None
    ]


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _split_axis(name: str, shape: tuple[int, ...], count: int) -> int | None:
    """The axis of an array that is split over `count` devices, counted from the front, or None."""
    if len(shape) < 2:
        return None
    ruled = [axis for pattern, axis in RULES if re.search(pattern, name)]
    if ruled:
        axes = [] if ruled[0] is None else [ruled[0] % len(shape)]
    else:
        axes = sorted(range(len(shape)), key=lambda axis: (shape[axis], axis), reverse=True)
    return next((axis for axis in axes if shape[axis] and shape[axis] % count == 0), None)
