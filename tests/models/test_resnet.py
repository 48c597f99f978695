"""Residual networks: a block against a plain loop, shapes of the stages, counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxunlearn.models import create
from jaxunlearn.models.resnet import Block, ResNet
from jaxunlearn.types import InputError


def convolve(x, kernel, stride):
    """Convolution `[B, H, W, C]` with zero padding of half the kernel, as a loop."""
    size, padding = kernel.shape[0], kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = [
        [
            np.tensordot(padded[:, i : i + size, j : j + size], kernel, 3)
            for j in range(0, x.shape[2], stride)
        ]
        for i in range(0, x.shape[1], stride)
    ]
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


@pytest.mark.parametrize(
    ("bottleneck", "stride", "kernels"),
    [
        (False, 1, {"conv1": (3, 3, 4, 4), "conv2": (3, 3, 4, 4)}),
        (False, 2, {"conv1": (3, 3, 4, 4), "conv2": (3, 3, 4, 4), "shortcut_conv": (1, 1, 4, 4)}),
        (
            True,
            2,
            {
                "conv1": (1, 1, 4, 4),
                "conv2": (3, 3, 4, 4),
                "conv3": (1, 1, 4, 16),
                "shortcut_conv": (1, 1, 4, 16),
            },
        ),
    ],
)
def test_block_formula(bottleneck, stride, kernels, random_variables):
    block = Block(4, stride, bottleneck, norm="batch", axis_name=None, dtype=jnp.float32)
    x = np.random.default_rng(1).normal(size=(2, 4, 4, 4)).astype(np.float32)
    variables = random_variables(block, x, train=False)
    params, stats = variables["params"], variables["batch_stats"]
    found = {name: p["kernel"].shape for name, p in params.items() if "kernel" in p}
    assert found == kernels

    def conv_norm(x, conv, norm, stride):
        x = convolve(x, params[conv]["kernel"], stride)
        mean, var = stats[norm]["batch"]["mean"], stats[norm]["batch"]["var"]
        x = (x - mean) / np.sqrt(var + 1e-5)
        return x * params[norm]["batch"]["scale"] + params[norm]["batch"]["bias"]

    last, strided = (3, 2) if bottleneck else (2, 1)
    y = x
    for i in range(1, last + 1):
        y = conv_norm(y, f"conv{i}", f"norm{i}", stride if i == strided else 1)
        y = np.maximum(y, 0) if i < last else y
    if "shortcut_conv" in params:
        expected = np.maximum(y + conv_norm(x, "shortcut_conv", "shortcut_norm", stride), 0)
    else:
        expected = np.maximum(y + x, 0)
    out = jax.jit(block.apply, static_argnums=2)(variables, x, False)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def basic_count(stem, widths, blocks, strides, classes):
    """Parameters of a network of basic blocks on three channels, added up by hand."""
    total = 27 * stem + 2 * stem
    channels = stem
    for width, count, first in zip(widths, blocks, strides, strict=True):
        for stride in [first] + [1] * (count - 1):
            total += 9 * channels * width + 9 * width * width + 4 * width
            if stride != 1 or channels != width:
                total += channels * width + 2 * width
            channels = width
    return total + channels * classes + classes


@pytest.mark.parametrize(
    ("name", "stem", "widths", "blocks", "expected"),
    [
        ("resnet10-narrow", 16, (16, 32, 64, 128), (1, 1, 1, 1), 308_826),
        ("resnet18", 64, (64, 128, 256, 512), (2, 2, 2, 2), 11_173_962),
        ("resnet34", 64, (64, 128, 256, 512), (3, 4, 6, 3), 21_282_122),
    ],
)
def test_count_by_hand(name, stem, widths, blocks, expected, shapes, count):
    strides = (1, 2, 2, 2)
    assert basic_count(stem, widths, blocks, strides, classes=10) == expected
    variables = shapes(create(name, num_classes=10), 32, 32, 3)
    assert count(variables["params"]) == expected
    # BatchNorm's two running statistics mirror its two parameters.
    norms = [v for k, v in flatten_dict(variables["params"]).items() if "batch" in k]
    assert count(variables["batch_stats"]) == count(norms)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet10-narrow", [(16, 16), (16, 16), (8, 32), (4, 64), (2, 128)]),
        ("resnet18", [(32, 64), (32, 64), (16, 128), (8, 256), (4, 512)]),
        ("resnet50", [(32, 64), (32, 256), (16, 512), (8, 1024), (4, 2048)]),
    ],
)
def test_stage_sizes(name, sizes):
    model = create(name, num_classes=10)

    def run(key, images):
        _, state = model.init_with_output(key, images, capture_intermediates=True)
        return state["intermediates"]

    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    out = jax.eval_shape(run, jax.random.key(0), images)
    last = {stage: f"stage{stage}_block{model.blocks[stage - 1]}" for stage in (1, 2, 3, 4)}
    found = [out["stem_conv"]["__call__"][0].shape]
    found += [out[name]["__call__"][0].shape for name in last.values()]
    assert found == [(1, side, side, channels) for side, channels in sizes]


def test_study_model_is_expressed_by_its_fields():
    named = create("resnet10-narrow", num_classes=10)
    assert named == ResNet(
        num_classes=10,
        stem_width=16,
        stem_stride=2,
        widths=(16, 32, 64, 128),
        blocks=(1, 1, 1, 1),
        strides=(1, 2, 2, 2),
        block="basic",
        norm="batch",
    )


def test_published_stem(random_variables):
    """7x7 convolution of stride 2, norm, relu and the largest of 3x3, as loops."""
    fields = {"stem_width": 4, "widths": (4,), "blocks": (1,), "strides": (1,)}
    model = ResNet(3, **fields, stem_size=7, stem_stride=2, stem_pool=True)
    images = np.random.default_rng(1).normal(size=(2, 12, 12, 3)).astype(np.float32)
    variables = random_variables(model, images)
    _, state = jax.jit(
        lambda images: model.apply(variables, images, capture_intermediates=True, mutable=True)
    )(images)
    (normed,) = state["intermediates"]["stem_norm"]["__call__"]
    params, stats = variables["params"], variables["batch_stats"]["stem_norm"]["batch"]
    x = convolve(images, params["stem_conv"]["kernel"], 2)
    x = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    x = x * params["stem_norm"]["batch"]["scale"] + params["stem_norm"]["batch"]["bias"]
    np.testing.assert_allclose(normed, x, rtol=1e-4, atol=1e-4)
    x = np.pad(np.maximum(x, 0), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    pooled = np.array(
        [[x[:, i : i + 3, j : j + 3].max((1, 2)) for j in (0, 2, 4)] for i in (0, 2, 4)]
    )
    block = Block(4, 1, False, norm="batch", axis_name=None, dtype=jnp.float32)
    inner = {kind: tree["stage1_block1"] for kind, tree in variables.items()}
    expected = block.apply(inner, pooled.transpose(2, 0, 1, 3), False)
    (found,) = state["intermediates"]["stage1_block1"]["__call__"]
    assert found.shape == (2, 3, 3, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032)],
)
def test_count_with_the_published_stem(name, expected, shapes, count):
    stem = {"stem_size": 7, "stem_stride": 2, "stem_pool": True}
    assert count(shapes(create(name, num_classes=1000, **stem), 224, 224, 3)["params"]) == expected


@pytest.mark.parametrize("stem_pool", [1, "no", None])
def test_stem_pool_is_a_truth_value(stem_pool):
    with pytest.raises(InputError, match=f"ResNet.stem_pool is {stem_pool!r}, but must be"):
        ResNet(3, stem_pool=stem_pool)


def test_axis_name_makes_two_replicas_one_batch(random_variables):
    fields = {"num_classes": 3, "stem_width": 4, "widths": (4,), "blocks": (1,), "strides": (2,)}
    images = np.random.default_rng(1).normal(size=(4, 6, 6, 1)).astype(np.float32)
    variables = random_variables(ResNet(**fields), images)

    def train(images, axis_name=None):
        model = ResNet(**fields, axis_name=axis_name)
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    expected, state = jax.jit(train)(images)
    halves = images.reshape(2, 2, 6, 6, 1)
    synced = jax.vmap(lambda half: train(half, "replica"), axis_name="replica")
    logits, states = jax.jit(synced)(halves)
    np.testing.assert_allclose(logits.reshape(4, 3), expected, rtol=1e-3, atol=1e-4)
    for both, one in zip(jax.tree.leaves(states), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(both, np.stack([one, one]), rtol=1e-3, atol=1e-5)
    apart, _ = jax.jit(jax.vmap(train))(halves)
    assert np.abs(apart.reshape(4, 3) - expected).max() > 1e-2
