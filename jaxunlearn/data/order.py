"""Data order: which examples the steps of a run visit.

The examples are visited in an endless stream of permutations, one per epoch, all derived from the
run's key; a batch is the next stretch of the stream. The position in the stream follows from the
step alone, so a resumed run sees exactly what an undisturbed one would. A run draws the
permutations once an epoch, so that a step takes no longer with more data.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.types import Arrays, Batch


def visits(
    key: jax.Array, arrays: Arrays, first_step: jax.Array, per_step: int, num_steps: int
) -> dict[str, jax.Array]:
    """Which examples the next steps visit: a stretch of the endless stream of permutations.

    Args:
        key: the key of this stream.
        arrays: the examples, N of them.
        first_step: the step the stretch begins with (traced).
        per_step: how many examples a step takes.
        num_steps: how many steps the stretch spans.

    Returns:
        `{"position": [num_steps, per_step], "epoch": [num_steps, per_step]}`.
    """
    permuted = shuffled(key, arrays, first_step, per_step, num_steps)
    return stretch(permuted, first_step, per_step, num_steps)


class Shuffled(NamedTuple):
    """Some permutations of the stream, one after another.

    Attributes:
        permutations: of the examples, one an epoch. shape=(epochs, N), dtype=jnp.int32
        first_epoch: the epoch of the first one. shape=(), dtype=jnp.int32
        until: a stretch that begins at this step or later needs others. shape=(), dtype=jnp.int32
    """

    permutations: jax.Array
    first_epoch: jax.Array
    until: jax.Array


def shuffled(
    key: jax.Array, arrays: Arrays, first_step: jax.Array, per_step: int, num_steps: int
) -> Shuffled:
    """The permutations that a stretch needs, with the same arguments as `visits`.

    Args:
        key: the key of this stream.
        arrays: the examples, N of them.
        first_step: the step the stretch begins with (traced).
        per_step: how many examples a step takes.
        num_steps: how many steps the stretch spans.

    Returns:
        Permutations of as many epochs as any stretch of this length touches, which may begin amid
        one: they serve the stretches after it too, until they end.
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
    """What `visits` returns, from permutations that are at hand.

    Args:
        permuted: from `shuffled`, for this stretch or one before it.
        first_step: the step the stretch begins with (traced), less than `permuted.until`.
        per_step: how many examples a step takes.
        num_steps: how many steps the stretch spans.

    Returns:
        `{"position": [num_steps, per_step], "epoch": [num_steps, per_step]}`.
    """
    size = permuted.permutations.shape[1]
    first_epoch, place = _reached(first_step, per_step, size)
    places = place + jnp.arange(num_steps * per_step).reshape(num_steps, per_step)
    epochs = first_epoch + places // size
    position = permuted.permutations[epochs - permuted.first_epoch, places % size]
    return {"position": position, "epoch": epochs}


def _reached(step: jax.Array, per_step: int, size: int) -> tuple[jax.Array, jax.Array]:
    """`divmod(step * per_step, size)`: the epoch a step begins in, and its place there.

    The product may exceed int32, so it is built up from the binary digits of `per_step`.
    """
    more, rest = step // size, step % size
    epoch, place = jnp.zeros_like(step), jnp.zeros_like(step)
    for digit in map(int, f"{per_step:b}"):
        place = 2 * place + digit * rest
        epoch = 2 * epoch + digit * more + place // size
        place %= size
    return epoch, place


def gathered(arrays: Arrays, order: Batch, shared: Callable[[Batch], Batch]) -> Batch:
    """The examples at the positions of an order, or the order itself if only the index is given.

    Args:
        arrays: N examples `[N, ...]`, or their index alone, of data that lie elsewhere.
        order: from `stretch`.
        shared: lays a batch out over the devices.

    Returns:
        Leaves of the shape of the positions, `[..., *]`, with "epoch".
    """
    if arrays.keys() == {"index"}:
        return order
    found = {name: values[order["position"]] for name, values in arrays.items()}
    return shared(found | {"epoch": order["epoch"]})


def take(arrays: Arrays, order: dict[str, jax.Array], i: jax.Array) -> Batch:
    """The batch of the i-th step of a stretch, out of all examples or of the batches of its steps.

    Args:
        arrays: N examples `[N, ...]`, or the batches themselves, with "epoch", `[num_steps, ...]`.
        order: what each step visits; of batches themselves, it does not count.
        i: the step.

    Returns:
        The batch.
    """
    if "epoch" in arrays:
        return {name: values[i] for name, values in arrays.items()}
    batch = {name: values[order["position"][i]] for name, values in arrays.items()}
    return batch | {"epoch": order["epoch"][i]}
