"""Presets of latent diffusion: the published counts, what fits together, what is refused."""

import re

import jax
import jax.numpy as jnp
import pytest

from jaxunlearn.models.latent import (
    available,
    create_autoencoder,
    create_text_encoder,
    create_text_unet,
)
from jaxunlearn.types import InputError
from tests.published import COUNTS, published


@pytest.mark.parametrize(
    ("part", "blocks", "full"),  # rematerialised blocks; products in float32: scores, and the last
    [
        ("autoencoder", 4 * 2 + 4 * 3 + 2 * 3, 2 + 4),  # encoder, decoder, the middle of each
        ("text_encoder", 0, 1),  # in its loop
        ("text_unet", (8 + 2 + 12) + (6 + 1 + 9), 2 * 16 + 1),  # residual blocks, transformers
    ],
)
def test_published_sizes_lower_in_half_precision_with_remat(part, blocks, full, count):
    module, variables, inputs = published(part)
    assert count(variables) == COUNTS[part]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    traced = jax.jit(module.apply).trace(variables, *inputs)
    names = [equation.primitive.name for equation in traced.jaxpr.eqns]
    assert sum("remat" in name or "checkpoint" in name for name in names) == blocks
    lowered = traced.lower()
    assert lowered.out_info.dtype == jnp.float32
    products = re.findall(
        r"stablehlo\.(?:dot_general|convolution).*-> tensor<(.*)>", lowered.as_text()
    )
    kinds = [product.rsplit("x", 1)[1] for product in products]
    assert (set(kinds), kinds.count("f32")) == ({"bf16", "f32"}, full)


@pytest.mark.parametrize(
    ("name", "channels", "side", "counts"),
    [("tiny", 3, 16, (43_711, 2_896, 52_004)), ("small", 1, 28, (681_333, 105_216, 1_077_572))],
)
def test_models_of_a_name_fit_each_other(name, channels, side, counts, count):
    autoencoder = create_autoencoder(name, channels)
    text_encoder, unet = create_text_encoder(name), create_text_unet(name)

    def everything(images, ids):
        autoencode = autoencoder.init_with_output
        (mean, _), a = autoencode(jax.random.key(0), images, method="encode")
        _, b = autoencode(jax.random.key(0), mean, method="decode")
        states, c = text_encoder.init_with_output(jax.random.key(0), ids)
        noise, d = unet.init_with_output(jax.random.key(0), mean, jnp.zeros(2), states)
        return mean, noise, ({**a["params"], **b["params"]}, c, d)

    images = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
    ids = jax.ShapeDtypeStruct((2, text_encoder.length), jnp.int32)
    mean, noise, parts = jax.eval_shape(everything, images, ids)
    side //= {"tiny": 2, "small": 4}[name]
    assert mean.shape == noise.shape == (2, side, side, 4)
    assert tuple(map(count, parts)) == counts


def test_overrides():
    assert available() == ("sd-v1", "small", "tiny")
    unet = create_text_unet("small", widths=[16, 32], dtype="bfloat16")
    assert unet.widths == (16, 32)
    assert hash(unet) == hash(create_text_unet("small", widths=(16, 32), dtype="bfloat16"))
    assert create_autoencoder("sd-v1", 1).channels == 1
    assert create_text_encoder("small", vocabulary=9).vocabulary == 9


@pytest.mark.parametrize("create", [create_autoencoder, create_text_encoder, create_text_unet])
def test_unknown_names(create):
    with pytest.raises(InputError, match=r"'smal' \(did you mean 'small'\?\); known .*s are sd-v1"):
        create("smal")
    with pytest.raises(InputError, match=r"'small' has no field 'dtyp' \(did you mean 'dtype'"):
        create("small", dtyp="float32")
    with pytest.raises(InputError, match="dtype is 'float16', but must be one of float32"):
        create("small", dtype="float16")
    with pytest.raises(InputError, match="remat is 1, but must be True or False"):
        create("small", remat=1)
