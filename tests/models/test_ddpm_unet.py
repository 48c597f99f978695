"""The U-Net: its blocks against their formulas, the published count, dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from jaxunlearn.models.ddpm_unet import DDPMUNet, ResidualBlock
from jaxunlearn.models.denoisers import create
from jaxunlearn.models.denoising import zeros
from jaxunlearn.models.transformer_blocks import PixelAttention
from jaxunlearn.types import InputError


def silu(x):
    return x / (1 + np.exp(-x))


def group_norm(x, groups, params):
    split = x.reshape(*x.shape[:3], groups, -1).astype(np.float64)
    mean = split.mean(axis=(1, 2, 4), keepdims=True)
    var = split.var(axis=(1, 2, 4), keepdims=True)
    return ((split - mean) / np.sqrt(var + 0.1)).reshape(x.shape) * params["scale"] + params["bias"]


def conv(x, params):
    """A 3x3 convolution with a border of one zero, as a sum over shifts."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    return params["bias"] + sum(
        padded[:, i : i + height, j : j + width] @ params["kernel"][i, j]
        for i in range(3)
        for j in range(3)
    )


def test_residual_block_formula(random_variables):
    rng = np.random.default_rng(0)
    x, e = rng.normal(size=(2, 3, 4, 4)).astype("f"), rng.normal(size=(2, 5)).astype("f")
    block = ResidualBlock(6, groups=2, epsilon=0.1, dropout=0.0, dtype=jnp.float32)
    p = random_variables(block, x, e)["params"]
    h = conv(silu(group_norm(x, 2, p["norm1"])), p["conv1"])
    h = h + (silu(e) @ p["condition"]["kernel"] + p["condition"]["bias"])[:, None, None]
    h = conv(silu(group_norm(h, 2, p["norm2"])), p["conv2"])
    expected = h + x @ p["shortcut"]["kernel"][0, 0] + p["shortcut"]["bias"]
    out = jax.jit(block.apply)({"params": p}, x, e)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_attention_formula(random_variables):
    x = np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype("f")
    layer = PixelAttention(heads=2, groups=2, epsilon=0.1, out_init=zeros)
    p = random_variables(layer, x)["params"]
    y = group_norm(x, 2, p["norm"]).reshape(2, 6, 4)
    q, k, v = (
        y @ p["attention"][n]["kernel"] + p["attention"][n]["bias"]
        for n in ("query", "key", "value")
    )
    heads = []
    for i in (slice(0, 2), slice(2, 4)):
        weights = np.exp(q[..., i] @ k[..., i].transpose(0, 2, 1) / np.sqrt(2))
        heads.append(weights / weights.sum(axis=-1, keepdims=True) @ v[..., i])
    out = p["attention"]["out"]
    expected = np.concatenate(heads, axis=-1) @ out["kernel"] + out["bias"]
    found = jax.jit(layer.apply)({"params": p}, x)
    np.testing.assert_allclose(found, x + expected.reshape(x.shape), rtol=1e-4, atol=1e-4)


def test_dropout_only_while_training(random_variables):
    x, e = np.ones((2, 3, 3, 4), "f"), np.ones((2, 5), "f")
    still = ResidualBlock(4, groups=2, epsilon=1e-6, dropout=0.0, dtype=jnp.float32)
    variables = random_variables(still, x, e)

    @jax.jit
    def drop(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return still.clone(dropout=0.5).apply(variables, x, e, rngs=rngs)

    np.testing.assert_array_equal(drop(0), drop(0))
    assert np.abs(drop(0) - drop(1)).max() > 1e-2
    assert np.abs(drop(0) - still.apply(variables, x, e)).max() > 1e-2

    model = DDPMUNet(None, (4, 4, 1), widths=(4,), blocks=1, attention_levels=(), groups=2)
    batch = jnp.zeros((2, 4, 4, 1)), jnp.zeros(2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *batch)

    def run(dropout, train):
        other = model.clone(dropout=dropout)
        return jax.eval_shape(lambda v: other.apply(v, *batch, train=train), shapes)

    run(0.5, train=False)
    run(0.0, train=True)
    with pytest.raises(InvalidRngError, match="dropout"):
        run(0.5, train=True)


def test_published_count_without_classes(count):
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    timesteps = jax.ShapeDtypeStruct((2,), jnp.int32)
    model = create("ddpm-cifar10", (32, 32, 3), None, dtype="bfloat16", remat=True)
    variables = jax.eval_shape(model.init, jax.random.key(0), images, timesteps)
    assert count(variables) == 35_746_307
    params = variables["params"]
    assert {name for name in params if "attention" in name} == {"middle_attention"} | {
        f"{way}2_attention{i}" for way, most in (("down", 2), ("up", 3)) for i in range(1, most + 1)
    }
    # The way up sees what the way down left: 256 + 128, and 128 + 128 channels.
    widths = [params[f"up1_block{i}"]["conv1"]["kernel"].shape[2] for i in (1, 2, 3)]
    assert widths == [384, 256, 256]
    out = jax.jit(model.apply).lower(variables, images, timesteps).out_info
    assert (out.shape, out.dtype) == ((2, 32, 32, 3), jnp.float32)


def test_labels_are_needed_where_there_are_classes():
    model = DDPMUNet(3, (4, 4, 1), widths=(4,), attention_levels=(), groups=2)
    with pytest.raises(
        InputError, match="labels for DDPMUNet are None, but must be integers .*; give 3"
    ):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 4, 4, 1)), jnp.zeros(2))


def test_sides_that_do_not_halve():
    DDPMUNet(10, (28, 28, 1), widths=(32, 32, 32))
    with pytest.raises(
        InputError, match="are 28x32, but must have sides that are multiples of 8; .*fewer widths"
    ):
        DDPMUNet(10, (28, 32, 1))
