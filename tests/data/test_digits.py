"""The embedded data set: as scikit-learn has it, split fairly, the same everywhere."""

import numpy as np
from sklearn.datasets import load_digits

from jaxunlearn.data import channel_statistics, load


def test_every_digit_is_there_once_and_scaled_to_bytes(digits):
    original = load_digits()
    ours = np.concatenate([digits.train.image, digits.test.image])[..., 0]
    labels = np.concatenate([digits.train.label, digits.test.label])
    assert ours.shape == (1797, 8, 8)
    assert ours.dtype == np.uint8
    assert (ours.min(), ours.max()) == (0, 255)
    back = np.round(ours / 255 * 16).reshape(1797, 64)

    def rows(images: np.ndarray, classes: np.ndarray) -> list[tuple[int, ...]]:
        return sorted(map(tuple, np.column_stack([classes, images]).astype(int).tolist()))

    assert rows(back, labels) == rows(original.data, original.target)


def test_the_split_is_stratified_and_about_four_to_one(digits):
    train, test = (np.bincount(part.label, minlength=10) for part in (digits.train, digits.test))
    assert (train.sum(), test.sum()) == (1442, 355)
    np.testing.assert_array_equal(test, (train + test) // 5)


def test_order_is_that_of_scikit_learn(digits):
    original = load_digits()
    # The first four digits of each class are training examples, and so are these.
    np.testing.assert_array_equal(digits.train.label[:30], original.target[:30])


def test_golden_fingerprint(digits):
    """That of every earlier version, so that runs of all versions are of the same data."""
    assert digits.fingerprint == "9ce459424938436bcae236133a43b95cedcebaa798c981d7d56c3e743667771b"
    captioned = load("digits_captions").fingerprint
    assert captioned == "2ea25d50161d9d17b3c2389ce32e9c704ec90ef4aace3238660db4fa6243f840"


def test_table_holds_the_statistics_of_the_training_images(digits):
    mean, std = channel_statistics(digits.train.image)
    np.testing.assert_allclose(digits.mean, mean, atol=5e-5)
    np.testing.assert_allclose(digits.std, std, atol=5e-5)
    assert digits.class_names == tuple("0123456789")
    assert digits.augmentation == "none"
