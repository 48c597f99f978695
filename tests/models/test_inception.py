"""Inception-v3: the published count, the sizes of the blocks, the two poolings by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.models.inception import Block, InceptionV3, resize
from jaxunlearn.types import InputError


def test_published_count_and_sizes(count):
    model = InceptionV3(dtype=jnp.bfloat16)

    def run(key, images):
        return model.init_with_output(key, images, capture_intermediates=True)

    images = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    described, variables = jax.eval_shape(run, jax.random.key(0), images)
    assert count(variables["params"]) == 23_834_568  # torchvision, without the auxiliary classifier
    assert described.features.shape == (1, 2048) and described.logits.shape == (1, 1000)
    outside = (described, variables["params"], variables["batch_stats"])
    assert {leaf.dtype for leaf in jax.tree.leaves(outside)} == {jnp.dtype("float32")}
    blocks = variables["intermediates"]
    assert blocks["Mixed_7c"]["__call__"][0].dtype == jnp.bfloat16
    sizes = {"5b": (35, 256), "5c": (35, 288), "5d": (35, 288), "6a": (17, 768), "6b": (17, 768)}
    sizes |= {"6e": (17, 768), "7a": (8, 1280), "7b": (8, 2048), "7c": (8, 2048)}
    for name, (side, channels) in sizes.items():
        assert blocks[f"Mixed_{name}"]["__call__"][0].shape == (1, side, side, channels)


@pytest.mark.parametrize("count_padding", [True, False])
def test_poolings_by_hand(count_padding):
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 2)).astype(np.float32)
    block = Block((("mean",), ("max",)), divisor=1, count_padding=count_padding, dtype=jnp.float32)
    found = block.apply({}, x)
    for i in range(3):
        for j in range(4):
            window = x[0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].reshape(-1, 2)
            counted = 9 if count_padding else len(window)
            expected = np.concatenate([window.sum(0) / counted, window.max(0)])
            np.testing.assert_allclose(found[0, i, j], expected, rtol=1e-5, atol=1e-6)


def test_halving_takes_the_largest_without_padding():
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype(np.float32)
    found = Block((("halve",),), 1, True, jnp.float32).apply({}, x)
    expected = [[x[:, i : i + 3, j : j + 3].max((1, 2)) for j in (0, 2)] for i in (0, 2)]
    np.testing.assert_array_equal(found, np.moveaxis(expected, 2, 0))


def test_bytes_become_what_the_network_takes_only_by_the_caller():
    model = InceptionV3(5, divisor=16)
    with pytest.raises(InputError, match="but must be normalised floating-point"):
        model.init(jax.random.key(0), np.zeros((1, 299, 299, 3), np.uint8))
    with pytest.raises(InputError, match="are 299x74, but must be .*; resize them to 299"):
        model.init(jax.random.key(0), np.zeros((1, 299, 74, 3), np.float32))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"divisor": 3}, "InceptionV3.divisor is 3, but must be 1, 2, 4, 8 or 16"),
        ({"divisor": 0}, "InceptionV3.divisor is 0, but must be a whole number"),
        ({"frechet": 1}, "InceptionV3.frechet is 1, but must be True or False"),
        ({"num_classes": 0}, "InceptionV3.num_classes is 0"),
        ({"dtype": "float16"}, "InceptionV3.dtype is 'float16'"),
    ],
)
def test_fields_that_are_wrong(fields, match):
    with pytest.raises(InputError, match=match):
        InceptionV3(**fields)


def test_resizing_keeps_a_plane_and_means():
    rows, columns = np.mgrid[0:6, 0:4].astype(np.float32)
    plane = (2 * rows + 3 * columns)[None, :, :, None]
    found = resize(jnp.asarray(plane), 12)[0, :, :, 0]
    centres = [(np.arange(12) + 0.5) * size / 12 - 0.5 for size in (6, 4)]
    centres = [np.clip(c, 0, size - 1) for c, size in zip(centres, (6, 4), strict=True)]
    np.testing.assert_allclose(found, 2 * centres[0][:, None] + 3 * centres[1][None], atol=1e-5)
