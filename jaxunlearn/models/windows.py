"""Geometry of windows over a grid of tokens: cutting, joining, masks and relative positions.

Windows are squares of `window` by `window` tokens. To shift them by `shift`, the grid is rolled by
`-shift` before it is cut; the mask separates tokens that are neighbours only by the roll.

Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
ICCV 2021, section 3.2.
"""

import jax
import numpy as np


def partition(x: jax.Array, window: int) -> jax.Array:
    """Cut a grid of tokens `[B, H, W, C]` into square windows `[B, windows, window^2, C]`.

    Example:
        >>> import jax.numpy as jnp
        >>> partition(jnp.arange(16).reshape(1, 4, 4, 1), 2)[0, 1, :, 0].tolist()
        [2, 3, 6, 7]
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, window * window, channels)


def unpartition(windows: jax.Array, height: int, width: int) -> jax.Array:
    """Join windows to a grid `[B, height, width, C]`; the inverse of `partition`."""
    batch, _, area, channels = windows.shape
    side = round(area**0.5)
    x = windows.reshape(batch, height // side, width // side, side, side, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)


def shift_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """The pairs of tokens in a window that may attend to each other after a roll by `-shift`.

    The roll moves the first `shift` rows behind the last ones, into windows with rows that are not
    their neighbours; likewise for columns. Booleans `[windows, window^2, window^2]`, true for
    allowed pairs.

    Example:
        >>> shift_mask(4, 4, 2, 1).all(axis=(1, 2)).tolist()  # only the first window is unbroken
        [True, False, False, False]
    """
    wrapped_rows = np.arange(height) >= height - shift
    wrapped_columns = np.arange(width) >= width - shift
    region = 2 * wrapped_rows[:, None] + wrapped_columns[None, :]
    region = region.reshape(height // window, window, width // window, window)
    region = region.transpose(0, 2, 1, 3).reshape(-1, window * window)
    return region[:, :, None] == region[:, None, :]


def relative_index(window: int) -> np.ndarray:
    """Row of the bias table for each pair of tokens in a window, integers `[window^2, window^2]`.

    The row offset and the column offset between the two tokens, as one number.

    Example:
        >>> relative_index(2)[0].tolist()  # from the top left to each token
        [4, 3, 1, 0]
    """
    rows, columns = np.divmod(np.arange(window * window), window)
    row_offset = rows[:, None] - rows[None, :] + window - 1
    column_offset = columns[:, None] - columns[None, :] + window - 1
    return row_offset * (2 * window - 1) + column_offset
