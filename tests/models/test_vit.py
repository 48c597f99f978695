"""Vision transformer: attention against its formula, the role of positions, counts by hand."""

import jax
import numpy as np
import pytest

from jaxunlearn.models import create
from jaxunlearn.models.vit import SelfAttention, ViT
from jaxunlearn.types import InputError


def test_attention_formula(random_variables):
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    layer = SelfAttention(heads=3)
    params = random_variables(layer, x)["params"]
    qkv = x @ params["qkv"]["kernel"] + params["qkv"]["bias"]
    heads = []
    for head in range(3):
        q, k, v = (qkv[..., 6 * i + 2 * head : 6 * i + 2 * head + 2] for i in range(3))
        weights = np.asarray(jax.nn.softmax(q @ k.transpose(0, 2, 1) / np.sqrt(2), axis=-1))
        heads.append(weights @ v)
    joined = np.concatenate(heads, axis=-1)
    expected = joined @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_only_positions_tell_patches_apart(pooling, random_variables):
    model = ViT(3, patch_size=2, width=8, depth=1, heads=2, pooling=pooling)
    images = np.random.default_rng(1).normal(size=(2, 4, 4, 1)).astype(np.float32)
    swapped = np.concatenate([images[:, 2:], images[:, :2]], axis=1)  # upper and lower patches
    params = random_variables(model, images)["params"]
    apply = jax.jit(lambda params, images: model.apply({"params": params}, images))
    nowhere = {**params, "position": np.zeros_like(params["position"])}
    np.testing.assert_allclose(
        apply(nowhere, images), apply(nowhere, swapped), rtol=1e-4, atol=1e-4
    )
    assert np.abs(apply(params, images) - apply(params, swapped)).max() > 1e-2


def test_pooling_decides_on_the_class_token(shapes):
    cls = shapes(create("vit-ti", num_classes=10), 224, 224, 3)["params"]
    mean = shapes(create("vit-ti", num_classes=10, pooling="mean"), 224, 224, 3)["params"]
    assert cls["cls"].shape == (1, 1, 192)
    assert cls["position"].shape == (1, 197, 192)
    assert "cls" not in mean
    assert mean["position"].shape == (1, 196, 192)


@pytest.mark.parametrize(
    ("name", "width", "heads", "expected"),
    [
        ("vit-ti", 192, 3, 5_717_416),
        ("vit-s", 384, 6, 22_050_664),
        ("vit-b", 768, 12, 86_567_656),
    ],
)
def test_count_by_hand(name, width, heads, expected):
    attention = 4 * width * width + 4 * width
    feed_forward = 8 * width * width + 5 * width
    block = attention + feed_forward + 4 * width
    embedding = 16 * 16 * 3 * width + width + 197 * width + width
    head = 1000 * width + 1000
    assert embedding + 12 * block + 2 * width + head == expected
    model = create(name, num_classes=1000)
    assert (model.width, model.depth, model.heads, model.patch_size) == (width, 12, heads, 16)


def test_images_that_do_not_divide_into_patches(shapes):
    model = create("vit-s", num_classes=10)
    with pytest.raises(
        InputError, match="are 28x32, but must have sides .* of 16; .*divides both sides"
    ):
        shapes(model, 28, 32, 1)
