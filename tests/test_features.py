"""Features of images by name, and what is kept of the real ones: equal, found out, made anew."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import features
from jaxunlearn.evaluation import describe_real
from jaxunlearn.features import Features, of_inception, real_images
from jaxunlearn.types import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), np.uint8)


class Pixels(NamedTuple):
    """Describes an image by its first pixels, and counts how often it is asked."""

    asked: list[int]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.asked.append(len(images))
        return images.reshape(len(images), -1)[:, :3].astype(np.float32)


@pytest.fixture
def pixels():
    return Features("pixels", 3, "0" * 64, Pixels([]))


def assert_same(found, expected):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_real_images_are_described_once(pixels, tmp_path):
    expected = describe_real(pixels.describe(IMAGES), "pixels")
    first = real_images(tmp_path / "new", pixels, IMAGES)
    again = real_images(tmp_path / "new", pixels, IMAGES.copy())
    assert pixels.describe.asked == [40, 40]
    for found in (first, again):
        assert_same(found, expected)
    assert (again.statistics.name, again.features.dtype) == ("pixels", np.float32)
    assert (type(again.floor), type(again.statistics.num_images)) == (float, int)
    # Other images, another network and another name are others.
    for other, images in (
        (pixels, IMAGES[::-1]),
        (pixels._replace(stamp="1" * 64), IMAGES),
        (pixels._replace(name="others"), IMAGES),
    ):
        assert real_images(tmp_path / "new", other, images).statistics.name == other.name
    assert pixels.describe.asked == [40] * 5
    assert len(list((tmp_path / "new").iterdir())) == 4


def test_a_file_of_others_is_replaced_and_a_changed_one_named(pixels, tmp_path):
    real = real_images(tmp_path, pixels, IMAGES)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    real_images(tmp_path / "other", pixels, IMAGES[::-1])
    (other,) = (tmp_path / "other").iterdir()
    path.write_bytes(other.read_bytes())
    assert_same(real_images(tmp_path, pixels, IMAGES), real)
    with np.load(path) as file:
        entries = dict(file)
    for name, value in {"mean": entries["mean"] + 1e-9, "floor": np.array(0.0)}.items():
        np.savez(path, **{**entries, name: value})
        with pytest.raises(InputError, match="real-.*.npz was changed after it was written"):
            real_images(tmp_path, pixels, IMAGES)
    for content in (b"no arrays here", b"", whole[:-100]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="real-.*.npz is damaged"):
            real_images(tmp_path, pixels, IMAGES)
    np.savez(path, mu=np.zeros(2))
    with pytest.raises(InputError, match="real-.*.npz is damaged or has no features"):
        real_images(tmp_path, pixels, IMAGES)


def test_a_damaged_file_is_refused_or_harmless_wherever_it_is_damaged(pixels, tmp_path):
    real = real_images(tmp_path, pixels, IMAGES)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.permutation(len(whole))[:120]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        for content in (bytes(damaged), whole[:place]):
            path.write_bytes(content)
            try:  # times of day and the like may change without harm
                found = real_images(tmp_path, pixels, IMAGES)
            except InputError as error:
                assert path.name in str(error)
                refused += 1
            else:
                assert_same(found, real)
    assert refused > 180


class Described(NamedTuple):
    """What it says."""

    features: jax.Array


class Means(nn.Module):
    """A network with the outside of Inception-v3: the mean of each channel, and its extremes."""

    @nn.compact
    def __call__(self, images: jax.Array) -> Any:
        assert images.shape[1:] == (299, 299, 3) and images.dtype == jnp.float32
        parts = (images.mean((1, 2)), images.min((1, 2)), images.max((1, 2)))
        return Described(jnp.concatenate(parts, 1))


def test_inception_sees_coloured_images_of_its_size_and_range(monkeypatch, tmp_path):
    asked = []

    def load(path, *, frechet):
        asked.append((path, frechet))
        return Means(), {"fc": {"kernel": np.zeros((9, 1008))}}, {}

    monkeypatch.setattr(features, "load_inception", load)
    monkeypatch.setattr(features, "_INCEPTION_BATCH", 3)
    found = of_inception(tmp_path)
    assert asked == [(tmp_path, True)]
    assert (found.name, found.dimension) == ("Inception-v3 pool 9", 9)
    coloured = np.stack([np.full((4, 6), value, np.uint8) for value in (0, 51, 255)], axis=-1)
    described = found.describe(np.stack([coloured] * 5))
    assert described.shape == (5, 9)
    np.testing.assert_allclose(described, [[-1.0, -0.6, 1.0] * 3] * 5, atol=1e-4)
    grey = np.zeros((1, 8, 8, 1), np.uint8)
    grey[:, 4:] = 255
    np.testing.assert_allclose(
        found.describe(grey), [[0.0] * 3 + [-1.0] * 3 + [1.0] * 3], atol=1e-4
    )
