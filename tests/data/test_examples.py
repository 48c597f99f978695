"""Examples: identities kept, arrays read-only, bad images and labels refused."""

import numpy as np
import pytest

from jaxunlearn.data import Examples
from jaxunlearn.types import InputError
from tests.data.toys import toy_arrays


def test_from_arrays_numbers_the_examples():
    examples = Examples.from_arrays(*toy_arrays(6))
    assert len(examples) == 6
    assert examples.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert examples.image.dtype == np.uint8
    assert examples.label.dtype == examples.index.dtype == np.int32


def test_repr_is_one_line():
    examples = Examples.from_arrays(*toy_arrays(6))
    assert repr(examples) == "Examples(6 uint8 images of 4x4x1)"
    assert repr(examples.take([])) == "Examples(0 uint8 images of 4x4x1)"


def test_take_keeps_identities():
    examples = Examples.from_arrays(*toy_arrays(6))
    taken = examples.take([5, 1]).take([1, 0])
    assert taken.index.tolist() == [1, 5]
    np.testing.assert_array_equal(taken.image, examples.image[[1, 5]])
    np.testing.assert_array_equal(taken.label, examples.label[[1, 5]])


def test_take_none_and_take_by_mask():
    examples = Examples.from_arrays(*toy_arrays(6))
    assert examples.take([]).image.shape == (0, 4, 4, 1)
    assert examples.take(examples.label == 0).index.tolist() == [0, 5]


def test_arrays_have_the_names_of_a_batch():
    examples = Examples.from_arrays(*toy_arrays(3))
    arrays = examples.arrays()
    assert set(arrays) == {"image", "label", "index"}
    assert arrays["image"] is examples.image


def test_arrays_are_read_only_but_the_source_is_not():
    image, label = toy_arrays(3)
    examples = Examples.from_arrays(image, label)
    with pytest.raises(ValueError, match="read-only"):
        examples.image[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        examples.label[0] = 0
    image[0] = 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_images_become_float32(dtype):
    image, label = toy_arrays(3)
    assert Examples.from_arrays(image.astype(dtype), label).image.dtype == np.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_images_that_are_not_finite(bad):
    image, label = toy_arrays(4)
    image = image.astype(np.float32)
    image[2, 1, 0, 0] = image[3, 0, 0, 0] = bad
    with pytest.raises(
        InputError, match="2 of 4 images hold NaN or infinity, the first at position 2"
    ):
        Examples.from_arrays(image, label)


def test_images_too_large_for_float32():
    image, label = toy_arrays(2)
    with pytest.raises(InputError, match="NaN or infinity"):
        Examples.from_arrays(image.astype(np.float64) * 1e300, label)


@pytest.mark.parametrize("shape", [(3, 4, 4), (3,), (3, 4, 4, 1, 1)])
def test_images_of_another_rank(shape):
    with pytest.raises(InputError, match=r"but must have the four axes \[N, H, W, C\]"):
        Examples.from_arrays(np.zeros(shape, np.uint8), np.zeros(3, int))


@pytest.mark.parametrize("dtype", [np.int64, bool, np.complex64])
def test_images_of_another_type(dtype):
    with pytest.raises(InputError, match="but must be uint8 or floating point"):
        Examples.from_arrays(np.zeros((3, 4, 4, 1), dtype), np.zeros(3, int))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            np.zeros(2, int),
            r"labels have the shape \(2,\), but must have \(3,\), one number for each",
        ),
        (np.zeros((3, 1), int), r"labels have the shape \(3, 1\)"),
        (np.zeros(3), "labels are float64, but must be integers"),
        (np.zeros(3, bool), "labels are bool, but must be integers; use .astype"),
        (
            np.array(["a", "b", "a"]),
            "labels are <U1, but must be integers; number the names, as in",
        ),
        (np.array([0, 1, 2**40]), "are from 0 to 1099511627776, but must fit in 32 bits"),
    ],
)
def test_labels_that_are_not_one_integer_an_image(label, message):
    with pytest.raises(InputError, match=message):
        Examples.from_arrays(np.zeros((3, 4, 4, 1), np.uint8), label)
