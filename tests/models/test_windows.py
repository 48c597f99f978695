"""Windows, masks and relative positions against plain loops over tokens."""

import numpy as np
import pytest

from jaxunlearn.models.windows import partition, relative_index, shift_mask, unpartition


@pytest.mark.parametrize(("height", "width", "window"), [(4, 4, 2), (6, 9, 3), (4, 8, 4)])
def test_partition_and_back(height, width, window):
    x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    windows = partition(x, window)
    across = width // window
    assert windows.shape == (2, (height // window) * across, window * window, 3)
    for i in range(height):
        for j in range(width):
            number = (i // window) * across + j // window
            place = (i % window) * window + j % window
            np.testing.assert_array_equal(windows[:, number, place], x[:, i, j])
    np.testing.assert_array_equal(unpartition(windows, height, width), x)


@pytest.mark.parametrize(
    ("height", "width", "window", "shift"),
    [(4, 4, 2, 1), (6, 9, 3, 1), (8, 12, 4, 2), (4, 4, 2, 0)],
)
def test_mask_allows_exactly_the_tokens_that_were_neighbours(height, width, window, shift):
    row, column = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    places = np.stack([row, column], axis=-1)[None]
    rolled = np.roll(places, (-shift, -shift), axis=(1, 2))
    windows = np.asarray(partition(rolled, window))[0]
    mask = shift_mask(height, width, window, shift)
    assert mask.shape == (windows.shape[0], window**2, window**2)
    for tokens, allowed in zip(windows, mask, strict=True):
        # Unrolled, two tokens of a window are less than a window apart unless the roll wrapped one.
        apart = np.abs(tokens[:, None] - tokens[None]).max(axis=-1)
        np.testing.assert_array_equal(allowed, apart < window)
    assert mask.all() == (shift == 0)


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_relative_index_is_one_number_per_offset(window):
    index = relative_index(window)
    seen = {}
    for a in range(window**2):
        for b in range(window**2):
            offset = (a // window - b // window, a % window - b % window)
            assert seen.setdefault(offset, index[a, b]) == index[a, b]
    assert sorted(seen.values()) == list(range((2 * window - 1) ** 2))
