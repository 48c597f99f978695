"""Data parallelism: devices share the batches and, if asked, the parameters.

The mesh has two axes. Batches are split over both, parameters over "fsdp" only: with the shape
`(n, 1)` each device holds all parameters, with `(1, n)` a part of them. Arrays that mirror a
parameter (momentum, mask, slow weights, teacher) are split like it, because the rules depend only
on the end of a path and on the shape.

The compiled program works on the global batch; XLA inserts the collectives. So one device and eight
compute the same numbers, and the rest of the library does not know about devices. Under `pmap` each
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

from jaxunlearn.files import path_name, whole
from jaxunlearn.training.layout import Layout
from jaxunlearn.training.loggers import check_loggers
from jaxunlearn.types import InputError

AXES = ("data", "fsdp")
PARAMETERS = ("replicated", "sharded")
PARALLEL = ("jit", "pmap")

# The end of an array's path, and the axis to split; the first match wins. Other arrays are split
# along the largest axis that divides over the devices; vectors are not split.
RULES: tuple[tuple[str, int | None], ...] = (
    (r"embedding$", -1),  # rows are looked up by number
)


def make_mesh(num_devices: int | None = None, parameters: str = "replicated") -> Mesh:
    """A mesh of the first `num_devices` devices (default: all) along the axes "data" and "fsdp".

    `parameters` are "replicated" on the devices, or "sharded" over them.

    Raises:
        InputError: an impossible number of devices, or an unknown choice of `parameters`.

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
            f"devices is {count}, but must be {len(present)}, since several hosts use all of their "
            "devices."
        )
    shape = (1, count) if parameters == "sharded" else (count, 1)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 2, devices=present[:count])


class Placement(NamedTuple):
    """A `Layout` on the devices of this machine: checked once, the same for all programs of a run.

    Attributes:
        mesh: the devices, from `make_mesh`.
        axis_name: name of the axis that `pmap` maps; None under jit.

    The other fields are those of the `Layout`.
    """

    mesh: Mesh
    axis_name: str | None
    micro_batch: int
    chunk_steps: int
    checkpoint_every: int
    log: tuple[str, ...]
    validate_every: int
    stream: bool


def placement_of(layout: Layout = Layout()) -> Placement:
    """Resolves a layout, when a command that trains begins.

    Raises:
        InputError: a layout that is impossible on this machine, or under `pmap`.

    Example:
        >>> placement_of().axis_name is None, placement_of(Layout(parallel="pmap")).axis_name
        (True, 'devices')
    """
    if layout.parallel not in PARALLEL:
        raise InputError(f"parallel is {layout.parallel!r}, but must be {' or '.join(PARALLEL)}.")
    by_pmap = layout.parallel == "pmap"
    if by_pmap and (layout.parameters != "replicated" or layout.distributed):
        raise InputError(
            "parallel is 'pmap', which keeps all parameters on each device of a single host, but "
            "must be 'jit' for --parameters sharded or --distributed; leave these out, or choose "
            "jit."
        )
    least_of = {"chunk_steps": 1, "checkpoint_every": 1, "micro_batch": 0, "validate_every": 0}
    for name, least in least_of.items():
        if getattr(layout, name) < least:
            raise InputError(f"{name} is {getattr(layout, name)}, but must be {least} or more.")
    check_loggers(layout.log)
    if layout.validate_every and layout.distributed:
        raise InputError(
            "validate_every is given with --distributed, but one host measures; leave one out."
        )
    mesh = make_mesh(layout.devices, layout.parameters)
    if layout.micro_batch:
        check_divides(mesh, micro_batch=layout.micro_batch)
    kept = {name: getattr(layout, name) for name in Placement._fields[2:]}
    return Placement(mesh, "devices" if by_pmap else None, **kept)


def mapped(function: Callable[..., Any], mesh: Mesh, axis_name: str) -> Callable[..., Any]:
    """Inside jit: `function` under `pmap`, with all arguments on each device.

    The function must have the same results on every device; those of one device are returned.
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
    """Raises an InputError unless every batch size is positive and divides over the devices."""
    for name, size in batch_sizes.items():
        if size < 1 or size % mesh.size:
            raise InputError(
                f"{name} is {size}, but must be a positive multiple of the {mesh.size} devices; "
                f"the nearest is {max(1, round(size / mesh.size)) * mesh.size}."
            )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """`tree` on every device of the mesh; arrays that are already there may be shared."""
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
    """The rows of a batch of `size` that belong to the devices of this process, in order."""
    places = NamedSharding(mesh, PartitionSpec(AXES)).addressable_devices_indices_map((size,))
    return np.unique(np.concatenate([np.arange(size)[place] for place in places.values()]))


def place_rows(rows: Any, size: int, mesh: Mesh, axis: int) -> Any:
    """A batch of `size` rows along `axis`, over all devices, from each process's `own_rows`."""
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, AXES))

    def one(x: np.ndarray) -> jax.Array:
        whole = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(sharding, x, whole)

    return jax.tree.map(one, rows)


def shardings(state: Any, mesh: Mesh) -> Any:
    """The shardings of a state by `RULES`: a tree of `NamedSharding`.

    Example:
        >>> kernel = jax.ShapeDtypeStruct((3, 4), "float32")
        >>> shardings({"kernel": kernel}, make_mesh(1))["kernel"].spec  # one device splits nothing
        P()
    """

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        count = mesh.shape["fsdp"]
        axis = _split_axis(path_name(path), leaf.shape, count) if count > 1 else None
        spec = PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, "fsdp")
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, state)


def unsplit(params: Any, count: int) -> list[str]:
    """The names of parameters with two axes or more that cannot be split over `count` devices."""
    return [
        path_name(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if leaf.ndim > 1 and _split_axis(path_name(path), leaf.shape, count) is None
    ]


def _split_axis(name: str, shape: tuple[int, ...], count: int) -> int | None:
    """The axis of an array that is split over `count` devices, or None."""
    if len(shape) < 2:
        return None
    ruled = [axis for pattern, axis in RULES if re.search(pattern, name)]
    if ruled:
        axes = [] if ruled[0] is None else [ruled[0] % len(shape)]
    else:
        axes = sorted(range(len(shape)), key=lambda axis: (shape[axis], axis), reverse=True)
    return next((axis for axis in axes if shape[axis] and shape[axis] % count == 0), None)
