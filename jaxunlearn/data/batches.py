"""Functions of a batch, over arrays of any length."""

from typing import Any

import numpy as np


def in_batches(function: Any, values: np.ndarray, size: int = 100) -> np.ndarray:
    """A function of a batch, over all values; the last batch is filled up and cut again.

    Args:
        function: of `[B, ...]`, compiled.
        values: `[N, ...]`.
        size: B, or N if that is less.

    Returns:
        `[N, ...]`.
    """
    size = min(size, len(values))
    rows = []
    for start in range(0, len(values), size):
        batch = values[start : start + size]
        filled = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), axis=0)])
        rows.append(np.asarray(function(filled))[: len(batch)])
    return np.concatenate(rows)
