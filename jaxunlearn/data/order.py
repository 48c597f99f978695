"""Data order: the examples that each step of a run visits.

The examples are visited in an endless stream of permutations, one per epoch, all derived from the
run's key; each step takes the next examples of the stream. The position in the stream follows from
the step alone, so a resumed run sees the same batches as an uninterrupted one. Permutations are
drawn once per epoch, so that a step takes no longer with more data.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.types import Arrays, Batch


def visits(
    key: jax.Array, arrays: Arrays, first_step: jax.Array, per_step: int, num_steps: int
) -> dict[str, jax.Array]:
    """The examples of `num_steps` steps from `first_step` (traced) on.

    Args:
        key: key of the stream.
        arrays: arrays of N examples.
        first_step: first step, int32.
        per_step: number of examples of a step.
        num_steps: number of steps.

    Returns:
        `{"position": [num_steps, per_step], "epoch": [num_steps, per_step]}`.
    """
    permuted = shuffled(key, arrays, first_step, per_step, num_steps)
    return stretch(permuted, first_step, per_step, num_steps)


class Shuffled(NamedTuple):
    """Consecutive permutations of the stream.

    Attributes:
        permutations: permutation of each epoch. shape=(epochs, N), dtype=jnp.int32
        first_epoch: epoch of the first permutation. shape=(), dtype=jnp.int32
        until: first step at which a stretch needs other permutations. shape=(), dtype=jnp.int32
    """

    permutations: jax.Array
    first_epoch: jax.Array
    until: jax.Array


def shuffled(
    key: jax.Array, arrays: Arrays, first_step: jax.Array, per_step: int, num_steps: int
) -> Shuffled:
    """The permutations that `visits` needs for the same arguments.

    They cover as many epochs as any `num_steps` steps can touch, so they serve later steps too, up
    to `until`.
    """
    size = arrays["index"].shape[0]
    num_epochs = (num_steps * per_step - 1) // size + 2
    first_epoch, place = _reached(first_step, per_step, size)
    permutations = jax.vmap(
        lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), size)
    )(first_epoch + jnp.arange(num_epochs))
    until = first_step + (num_epochs * size - place) // per_step - num_steps + 1
    return Shuffled(permutations, first_epoch, until)


def stretch(
    permuted: Shuffled, first_step: jax.Array, per_step: int, num_steps: int
) -> dict[str, jax.Array]:
    """The result of `visits`, from permutations of `shuffled`; `first_step` is below `until`."""
    size = permuted.permutations.shape[1]
    first_epoch, place = _reached(first_step, per_step, size)
    places = place + jnp.arange(num_steps * per_step).reshape(num_steps, per_step)
    epochs = first_epoch + places // size
    position = permuted.permutations[epochs - permuted.first_epoch, places % size]
    return {"position": position, "epoch": epochs}


def _reached(step: jax.Array, per_step: int, size: int) -> tuple[jax.Array, jax.Array]:
    """`divmod(step * per_step, size)`: the epoch of a step's first example, and its place there.

    The product may exceed int32, so it is computed bit by bit of `per_step`.
    """
    more, rest = step // size, step % size
    epoch, place = jnp.zeros_like(step), jnp.zeros_like(step)
    for digit in map(int, f"{per_step:b}"):
        place = 2 * place + digit * rest
        epoch = 2 * epoch + digit * more + place // size
        place %= size
    return epoch, place


def gathered(arrays: Arrays, order: Batch, shared: Callable[[Batch], Batch]) -> Batch:
    """The examples at the positions of an order, with "epoch", laid out by `shared`.

    If `arrays` holds only the index, the data is elsewhere, and the order itself is returned.
    """
    if arrays.keys() == {"index"}:
        return order
    found = {name: values[order["position"]] for name, values in arrays.items()}
    return shared(found | {"epoch": order["epoch"]})


def take(arrays: Arrays, order: dict[str, jax.Array], i: jax.Array) -> Batch:
    """The batch of step i, from all examples or from stacked batches (which have "epoch")."""
    if "epoch" in arrays:
        return {name: values[i] for name, values in arrays.items()}
    batch = {name: values[order["position"][i]] for name, values in arrays.items()}
    return batch | {"epoch": order["epoch"][i]}
