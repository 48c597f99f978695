"""The data set `digits`: 1797 handwritten digits of 8x8 pixels inside scikit-learn.

It needs no network and no files. Source: E. Alpaydin and C. Kaynak, Optical Recognition of
Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

import numpy as np

_TEST_EVERY = 5


def read_digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The training and test split: images uint8 `[N, 8, 8, 1]` and labels int64 `[N]` each.

    Pixels 0..16 become 0..255. Every fifth digit of each class, in scikit-learn's order, is a test
    example. That order goes from writer to writer, so both splits hold equal shares of each class
    and of each writer.

    Example:
        >>> {split: len(labels) for split, (_, labels) in read_digits().items()}
        {'train': 1442, 'test': 355}
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target
    rank = np.zeros(len(labels), np.int64)
    for digit in range(10):
        members = labels == digit
        rank[members] = np.arange(members.sum())
    test = rank % _TEST_EVERY == _TEST_EVERY - 1
    return {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])}
