"""Features of images by name, and the cache for real images: equal, checked, made again."""

import threading
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.evaluation import describe_real, features
from jaxunlearn.evaluation.features import Features, of_inception
from jaxunlearn.studies.runs.cache import real_images

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
    assert len(list((tmp_path / "new").glob("*.npz"))) == 4


def test_a_file_of_others_or_a_changed_one_is_replaced(pixels, tmp_path):
    real = real_images(tmp_path, pixels, IMAGES)
    path = only_file(tmp_path)
    whole = path.read_bytes()
    real_images(tmp_path / "other", pixels, IMAGES[::-1])
    with np.load(path) as file:
        entries = dict(file)
    contents = [only_file(tmp_path / "other").read_bytes(), b"no arrays here", b"", whole[:-100]]
    for changed in ({**entries, "mean": entries["mean"] + 1e-9}, {"mu": np.zeros(2)}):
        np.savez(path, **changed)
        contents.append(path.read_bytes())
    for content in contents:
        path.write_bytes(content)
        assert_same(real_images(tmp_path, pixels, IMAGES), real)
        asked = len(pixels.describe.asked)
        assert_same(real_images(tmp_path, pixels, IMAGES), real)  # and now it is kept
        assert len(pixels.describe.asked) == asked


def test_a_damaged_file_is_harmless_wherever_it_is_damaged(pixels, tmp_path):
    real = real_images(tmp_path, pixels, IMAGES)
    path = only_file(tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.permutation(len(whole))[:60]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        for content in (bytes(damaged), whole[:place]):
            path.write_bytes(content)
            assert_same(real_images(tmp_path, pixels, IMAGES), real)
    assert len(pixels.describe.asked) > 90  # most of it was noticed, and computed again


def only_file(folder):
    (path,) = folder.glob("*.npz")
    return path


def test_two_processes_compute_what_is_kept_once(pixels, tmp_path):
    """The second waits for the first, and finds what it wrote."""
    asked, results = [], []

    def describe(images):
        asked.append(len(images))
        if len(asked) == 1:  # meanwhile another one comes
            waiting.start()
        return pixels.describe(images)

    both = pixels._replace(describe=describe)
    waiting = threading.Thread(target=lambda: results.append(real_images(tmp_path, both, IMAGES)))
    first = real_images(tmp_path, both, IMAGES)
    waiting.join()
    assert asked == [40]
    assert_same(results[0], first)


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
