"""VGG: layers, counts by hand, image sizes."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from jaxunlearn.models import create
from jaxunlearn.types import InputError

CHANNELS = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]


def test_thirteen_convolutions_counted_by_hand(shapes, count):
    params = shapes(create("vgg16", num_classes=10), 32, 32, 3)["params"]
    flat = flatten_dict(params)
    pairs = list(pairwise(CHANNELS))
    kernels = [leaf.shape for path, leaf in flat.items() if "conv" in path[0] and "kernel" in path]
    assert sorted(kernels) == sorted((3, 3, a, b) for a, b in pairs)
    without_biases = sum(9 * a * b + 2 * b for a, b in pairs) + 512 * 10 + 10
    assert without_biases == 14_724_042
    assert count(params) == without_biases + sum(CHANNELS[1:]) == 14_728_266


def test_each_stage_halves_the_image():
    model = create("vgg-tiny", num_classes=3)

    def run(key, images):
        _, state = model.init_with_output(key, images, capture_intermediates=True)
        return state["intermediates"]

    out = jax.eval_shape(run, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    found = [out[f"stage{i}_norm1"]["__call__"][0].shape for i in (1, 2, 3)]
    assert found == [(1, 16, 16, 8), (1, 8, 8, 16), (1, 4, 4, 32)]


def test_size_of_the_image_does_not_change_the_parameters(shapes):
    model = create("vgg16", num_classes=10)
    assert shapes(model, 32, 32, 3) == shapes(model, 64, 48, 3)


def test_group_norm_has_no_state(shapes):
    assert list(shapes(create("vgg16", num_classes=10, norm="group"), 32, 32, 3)) == ["params"]


def test_images_too_small(shapes):
    with pytest.raises(InputError, match="5 stages are 28x28, but must be at least 32x32"):
        shapes(create("vgg16", num_classes=10), 28, 28, 1)
