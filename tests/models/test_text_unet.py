"""The text-conditioned U-Net: its transformer against the formula, what depends on what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.models.latent import create_text_unet
from jaxunlearn.models.text_unet import TextUNet
from jaxunlearn.models.transformer_blocks import ImageTransformer, TextBlock
from jaxunlearn.types import InputError

RNG = np.random.default_rng(0)
LATENTS = RNG.normal(size=(3, 7, 4, 4)).astype("f")
TIMESTEPS = np.array([3, 999, 3], np.int32)
CONTEXT = RNG.normal(size=(3, 5, 16)).astype("f")


@pytest.fixture(scope="module")
def tiny(random_variables):
    model = create_text_unet("tiny", widths=(8, 8), attention_levels=())
    return jax.jit(model.apply), random_variables(model, LATENTS, TIMESTEPS, CONTEXT)


def test_text_block_formula(random_variables):
    x, context = RNG.normal(size=(2, 3, 4)).astype("f"), RNG.normal(size=(2, 5, 6)).astype("f")
    block = TextBlock(heads=2)
    p = random_variables(block, x, context)["params"]

    def norm(x, name):
        mean, var = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
        return (x - mean) / np.sqrt(var + 1e-5) * p[name]["scale"] + p[name]["bias"]

    def attention(x, context, name):
        assert "bias" not in p[name]["query"]
        q, k, v = (
            source @ p[name][matrix]["kernel"]
            for source, matrix in ((x, "query"), (context, "key"), (context, "value"))
        )
        heads = []
        for i in (slice(0, 2), slice(2, 4)):
            weights = np.exp(q[..., i] @ k[..., i].transpose(0, 2, 1) / np.sqrt(2))
            heads.append(weights / weights.sum(axis=-1, keepdims=True) @ v[..., i])
        return np.concatenate(heads, axis=-1) @ p[name]["out"]["kernel"] + p[name]["out"]["bias"]

    y = norm(x, "norm1")
    h = x + attention(y, y, "self_attention")
    h = h + attention(norm(h, "norm2"), context, "cross_attention")
    y = norm(h, "norm3") @ p["up"]["kernel"] + p["up"]["bias"]
    y = y[..., :16] * y[..., 16:] * np.asarray(jax.scipy.stats.norm.cdf(y[..., 16:]))
    expected = h + y @ p["down"]["kernel"] + p["down"]["bias"]
    found = jax.jit(block.apply)({"params": p}, x, context)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_depends_on_timestep_and_text_of_the_same_example(tiny):
    apply, variables = tiny
    noise = apply(variables, LATENTS, TIMESTEPS, CONTEXT)
    assert noise.shape == LATENTS.shape  # although 7 is odd
    later = apply(variables, LATENTS, np.array([3, 998, 3], np.int32), CONTEXT)
    other = CONTEXT.copy()
    other[1, 4] += 1
    told = apply(variables, LATENTS, TIMESTEPS, other)
    for changed in (later, told):
        difference = np.abs(changed - noise).max(axis=(1, 2, 3))
        assert difference[1] > 1e-3
        assert difference[0] == difference[2] == 0
    turned = apply(variables, LATENTS, TIMESTEPS, CONTEXT[:, ::-1])  # positions are in the states
    np.testing.assert_allclose(turned, noise, rtol=1e-4, atol=1e-5)


def test_transformers_only_where_listed():
    batch = jnp.zeros((1, 4, 4, 4)), jnp.zeros(1), jnp.zeros((1, 2, 16))
    model = create_text_unet("tiny", widths=(8, 8, 8), attention_levels=(2,))
    params = jax.eval_shape(model.init, jax.random.key(0), *batch)["params"]
    assert {name for name in params if "attention" in name} == {
        "down2_attention1",
        "middle_attention",
        "up2_attention1",
        "up2_attention2",
    }
    assert {name for name in params if "conv" in name} == {
        "down1_conv",
        "down2_conv",
        "up2_conv",
        "up3_conv",
    }


def test_new_transformer_is_the_identity():
    layer = ImageTransformer(heads=2, groups=4)

    @jax.jit
    def last(key):
        return layer.init(key, LATENTS, CONTEXT)["params"]["out"]

    assert not any(leaf.any() for leaf in jax.tree.leaves(last(jax.random.key(0))))


def test_bad_fields_and_inputs(tiny):
    apply, variables = tiny
    with pytest.raises(InputError, match="widths is .* but must be a multiple of the 7 heads"):
        TextUNet(heads=7)
    with pytest.raises(InputError, match="but must be levels from 1 to 4"):
        TextUNet(attention_levels=(5,))
    with pytest.raises(InputError, match="is .9,.*begins with an even width"):
        TextUNet(widths=(9,), attention_levels=(), heads=3, groups=3)
    for batch, said in (
        ((LATENTS[..., :3], TIMESTEPS, CONTEXT), "must have 4 channels"),
        (
            (LATENTS, TIMESTEPS[:1], CONTEXT),
            r"timesteps .* have shape \(1,\), but must have shape \(3,\)",
        ),
        (
            (LATENTS, TIMESTEPS, CONTEXT[..., :15]),
            r"is float32 of shape .* but must be .* \[3, L, 16\]",
        ),
        ((LATENTS, TIMESTEPS, CONTEXT[:2]), r"\[3, L, 16\]"),
        ((LATENTS, TIMESTEPS, CONTEXT[0]), r"\[3, L, 16\]"),
        ((LATENTS, TIMESTEPS, TIMESTEPS), r"is int32 of shape \(3,\), but must be .* \[3, L, 16\]"),
    ):
        with pytest.raises(InputError, match=said):
            apply(variables, *batch)
