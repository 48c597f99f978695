"""Data parallelism by sharded jit: one mesh axis splits the batches, everything else is replicated.

The compiled program works on the global batch; XLA inserts the reductions. So one device and eight
compute the same numbers, and nothing else in the library knows about devices.
"""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxunlearn.types import InputError

AXIS = "data"


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh of the first `num_devices` devices (default: all) along the axis "data".

    Args:
        num_devices: how many devices to use.

    Returns:
        A mesh whose axis is of type `Auto`.

    Raises:
        InputError: fewer than one device, or more than there are.

    Example:
        >>> make_mesh(1).shape["data"]
        1
    """
    present = jax.devices()
    count = len(present) if num_devices is None else num_devices
    if not 1 <= count <= len(present):
        raise InputError(
            f"devices is {count}, but this machine has {len(present)} ({present[0].platform}); ask "
            f"for 1 to {len(present)}, or set JAX_NUM_CPU_DEVICES for more CPU devices."
        )
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=present[:count])


def check_divides(mesh: Mesh, **batch_sizes: int) -> None:
    """Raises unless every batch size is positive and divides over the devices of the mesh.

    Raises:
        InputError: it does not.
    """
    count = mesh.shape[AXIS]
    for name, size in batch_sizes.items():
        if size < 1 or size % count:
            raise InputError(
                f"{name} is {size}, but must be a positive multiple of the {count} devices; "
                f"the nearest is {max(1, round(size / count)) * count}."
            )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """`tree` on every device of the mesh; what is there already may be shared, not copied."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split_batch(batch: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Inside jit: the batch with its `axis` split over the devices of the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))
    return jax.lax.with_sharding_constraint(batch, sharding)
