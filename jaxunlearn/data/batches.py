"""One function of a batch, applied to any number of examples."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

_SIZE = 100


def in_batches(function: Callable[[Any], Any], arrays: Any, size: int | None = None) -> Any:
    """Applies a function to all examples in batches of one shape, so that it compiles once.

    The last batch is filled with copies of the last example, whose results are dropped. Results of
    one batch are fetched while the next one is computed.

    Args:
        function: compiled function from a batch, leaves `[B, ...]`, to results `[B, ...]`.
        arrays: tree of NumPy or JAX arrays `[N, ...]`, N at least 1.
        size: batch size B; by default 100, or N if that is less.

    Returns:
        The results as NumPy arrays, leaves `[N, ...]`.

    Example:
        >>> in_batches(lambda batch: 2 * batch["x"], {"x": np.arange(5)}, size=2)
        array([0, 2, 4, 6, 8])
    """
    count = len(jax.tree.leaves(arrays)[0])
    size = size or min(_SIZE, count)
    rows: list[Any] = []
    for start in range(0, count, size):
        positions = np.minimum(np.arange(start, start + size), count - 1)
        result = function(jax.tree.map(functools.partial(_rows, positions), arrays))
        rows[-1:] = jax.device_get(rows[-1:])
        rows.append(result)
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *jax.device_get(rows))


def _rows(positions: np.ndarray, array: Any) -> Any:
    return _taken(array, positions) if isinstance(array, jax.Array) else array[positions]


@jax.jit
def _taken(array: jax.Array, positions: jax.Array) -> jax.Array:
    return array[positions]
