"""Dataset: bad data is refused at the door, and the fingerprint sees every pixel and label."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxunlearn import tasks
from jaxunlearn.data import Dataset, Examples, channel_statistics
from jaxunlearn.tasks.diffusion import as_signal
from jaxunlearn.types import InputError
from tests.data.toys import (
    toy,
    toy_arrays,
    toy_of_coarse_classes,
    toy_with_coarse_classes,
)


class Seen(nn.Module):
    """Its logits are what it is given."""

    @nn.compact
    def __call__(self, images):
        return images.reshape(len(images), -1) * self.param("one", nn.initializers.ones, ())


def seen_by_a_model(image, mean, std):
    task = tasks.classification(Seen(), image_shape=(4, 4, 3), num_classes=48, mean=mean, std=std)
    batch = {"image": jnp.asarray(image), "index": jnp.arange(len(image))}
    batch["epoch"] = 0 * batch["index"]
    logits, _ = task.outputs(*task.init(jax.random.key(0)), batch, jax.random.key(0), False)
    return np.asarray(logits, np.float64).reshape(image.shape)


def changed(examples: Examples, field: str, position: int, value: int) -> Examples:
    array = getattr(examples, field).copy()
    array.flat[position] = value
    return dataclasses.replace(examples, **{field: array})


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split(split):
    with pytest.raises(InputError, match="split of 'toy' is empty"):
        toy(**{split: Examples.from_arrays(np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, int))})


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("value", [-1, 5])
def test_labels_out_of_range(split, value):
    bad = changed(getattr(toy(), split), "label", 7, value)
    with pytest.raises(InputError, match=f"include {value} at position 7, but must be from 0 to 4"):
        toy(**{split: bad})


def test_examples_that_are_not_numbered_in_order():
    with pytest.raises(
        InputError, match=r"out of order, but must be numbered 0 to 2; .*Examples.from_arrays"
    ):
        toy(train=toy().train.take([0, 1, 3]))


def test_splits_of_different_shapes():
    with pytest.raises(
        InputError, match=r"the shapes \(4, 4, 1\) and \(4, 5, 1\), but must have the same shape"
    ):
        toy(test=Examples.from_arrays(*toy_arrays(10, shape=(4, 5, 1))))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"class_names": ("a",)},
            "class_names of 'toy' holds 1 names, but must hold one for each of the 5 classes",
        ),
        ({"mean": (0.5, 0.5)}, "one number for each of the 1 channels"),
        ({"std": (0.0,)}, "std above 0"),
        ({"std": (float("nan"),)}, "std above 0"),
        ({"augmentation": "flip"}, "is 'flip', but must be one of none, crop, flip_crop"),
        (
            {"coarse": np.zeros(59, int), "coarse_names": ("a",)},
            r"coarse have the shape \(59,\), but must have \(60,\)",
        ),
        (
            {"coarse": np.full(60, 2), "coarse_names": ("a", "b")},
            "coarse of 'toy' include .* but must be from",
        ),
        (
            {"fine": np.zeros(60, int), "fine_names": ("a",)},
            "fine_test is None, but must be given together with fine",
        ),
    ],
)
def test_settings_that_do_not_fit_the_data(fields, message):
    with pytest.raises(InputError, match=message):
        toy(**fields)


def test_fine_labels_whichever_classes_are_learned():
    fine, coarse = toy_with_coarse_classes(), toy_of_coarse_classes()
    assert (fine.num_classes, coarse.num_classes) == (10, 5)
    for ours, other in zip(fine.fine_labels, coarse.fine_labels, strict=True):
        np.testing.assert_array_equal(ours, other)
    np.testing.assert_array_equal(coarse.train.label, coarse.coarse)


def test_repr_is_one_line():
    assert repr(toy()) == "Dataset('toy', 60 training and 20 test images of 4x4x1, 5 classes)"


def test_fingerprint_is_the_same_for_the_same_data_only():
    data = toy()
    prints = [data.fingerprint]
    assert toy().fingerprint == data.fingerprint
    assert len(data.fingerprint) == 64
    for split in ("train", "test"):
        examples = getattr(data, split)
        pixel = int(examples.image.flat[100]) ^ 1
        label = (int(examples.label[3]) + 1) % 5
        prints.append(toy(**{split: changed(examples, "image", 100, pixel)}).fingerprint)
        prints.append(toy(**{split: changed(examples, "label", 3, label)}).fingerprint)
    reordered = Examples.from_arrays(data.train.image[::-1], data.train.label[::-1])
    prints.append(toy(train=reordered).fingerprint)
    as_float = Examples.from_arrays(data.train.image.astype(np.float32), data.train.label)
    prints.append(toy(train=as_float, test=as_float).fingerprint)
    prints.append(toy(name="other").fingerprint)
    prints.append(toy(class_names=tuple("abcde")).fingerprint)
    prints.append(toy(coarse=np.zeros(60, int), coarse_names=("a",)).fingerprint)
    assert len(set(prints)) == len(prints) == 10


def test_fingerprint_ignores_settings_and_memory_layout():
    data = toy()
    scattered = Examples.from_arrays(
        np.asfortranarray(data.train.image), data.train.label.astype(np.int64)
    )
    other = toy(train=scattered, mean=(0.1,), std=(0.2,), augmentation="crop")
    assert other.fingerprint == data.fingerprint


def test_fingerprint_golden():
    image = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    examples = Examples.from_arrays(image, np.array([0, 1]))
    data = Dataset("golden", examples, examples, 2, ("a", "b"), (0.5,), (0.5,), "none")
    assert data.fingerprint == "e63c42e0a41562438f2ee4f96d172876afbf992f37507288e87ace5d0948936c"


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.uint8, 255), (np.float16, 1), (np.float32, 1), (np.float64, 1)]
)
def test_channel_statistics_against_numpy(dtype, scale):
    image = toy_arrays(1500, shape=(4, 4, 3))[0].astype(dtype)
    mean, std = channel_statistics(image)
    exact = image.astype(np.float64) / scale
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, exact.std((0, 1, 2)), rtol=1e-12)


IMAGES = toy_arrays(64, shape=(4, 4, 3))[0]


@pytest.mark.parametrize(
    "image",
    [
        IMAGES,
        (IMAGES / 255).astype(np.float32),
        IMAGES.astype(np.float32),
        IMAGES.astype(np.float16),
        (IMAGES / 127.5 - 1).astype(np.float32),
        IMAGES.astype(np.float64),
    ],
    ids=["uint8", "[0, 1]", "[0, 255]", "float16", "[-1, 1]", "float64"],
)
def test_a_task_normalises_images_by_their_own_statistics(image):
    """Whatever their type and range: a model sees mean 0 and standard deviation 1."""
    mean, std = channel_statistics(image)
    seen = seen_by_a_model(image, mean, std)
    np.testing.assert_allclose(seen.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(seen.std((0, 1, 2)), 1.0, rtol=1e-5)
    np.testing.assert_allclose(
        seen, seen_by_a_model(IMAGES, *channel_statistics(IMAGES)), atol=1e-3
    )


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint16, bool])
def test_integers_other_than_bytes_are_refused_by_statistics_and_tasks_alike(dtype):
    image = IMAGES.astype(dtype)
    said = f"images are {np.dtype(dtype)}, but must be uint8 or floating point"
    for use in (
        channel_statistics,
        lambda x: Examples.from_arrays(x, np.zeros(64, int)),
        lambda x: seen_by_a_model(x, (0.5,), (0.5,)),
        as_signal,
    ):
        with pytest.raises(InputError, match=said.replace("int64", "int(32|64)")):
            use(jnp.asarray(image) if use is as_signal else image)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float32])
def test_floating_point_images_of_models_that_generate_stay_as_they_are(dtype):
    image = jnp.asarray(IMAGES / 127.5 - 1).astype(dtype)
    assert as_signal(image).dtype == jnp.float32
    np.testing.assert_array_equal(as_signal(image), image.astype(jnp.float32))
    np.testing.assert_allclose(as_signal(jnp.asarray(IMAGES)), IMAGES / 127.5 - 1, atol=1e-6)


def test_channel_statistics_of_a_constant_channel():
    image = np.full((3, 4, 4, 2), 51, np.uint8)
    image[0, 0, 0, 1] = 0
    mean, std = channel_statistics(image)
    assert mean[0] == pytest.approx(0.2)
    assert std[0] == 1.0
    assert 0 < std[1] < 0.1
