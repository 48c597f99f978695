"""The autoencoder: its attention against the formula, the Gaussian of its latents."""

import jax
import numpy as np
import pytest

from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.latent import create_autoencoder
from jaxunlearn.models.transformer_blocks import PixelAttention
from jaxunlearn.types import InputError

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 6, 3)).astype("f")


@pytest.fixture(scope="module")
def tiny(random_variables):
    model = create_autoencoder("tiny")
    return model, random_variables(model, IMAGES)


def test_pixel_attention_formula(random_variables):
    x = np.random.default_rng(1).normal(size=(2, 2, 3, 4)).astype("f")
    layer = PixelAttention(groups=2)
    p = random_variables(layer, x)["params"]
    groups = x.reshape(2, 6, 2, 2)
    mean, var = (f(groups, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    y = ((groups - mean) / np.sqrt(var + 1e-6)).reshape(2, 6, 4)
    y = y * p["norm"]["scale"] + p["norm"]["bias"]
    q, k, v, out = (p["attention"][name] for name in ("query", "key", "value", "out"))
    q, k, v = (y @ dense["kernel"] + dense["bias"] for dense in (q, k, v))
    weights = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(4))  # one head
    y = weights / weights.sum(axis=-1, keepdims=True) @ v @ out["kernel"] + out["bias"]
    found = jax.jit(layer.apply)({"params": p}, x)
    np.testing.assert_allclose(found, x + y.reshape(x.shape), rtol=1e-4, atol=1e-4)


def test_mean_before_log_variance_which_is_clipped(tiny):
    model, variables = tiny
    bias = np.array([1, -100, 3, 100, 5, -100, 7, 100], "f")
    moments = {"kernel": np.zeros((1, 1, 8, 8), "f"), "bias": bias}
    variables = {"params": {**variables["params"], "moments": moments}}
    encode = jax.jit(lambda variables: model.apply(variables, IMAGES, method="encode"))
    mean, log_variance = encode(variables)
    np.testing.assert_array_equal(mean, np.broadcast_to(bias[:4], (2, 4, 3, 4)))
    np.testing.assert_array_equal(log_variance, np.broadcast_to([5, -30, 7, 20], (2, 4, 3, 4)))


def test_call_decodes_the_mean_and_nothing_is_scaled(tiny):
    model, variables = tiny

    def in_two(variables, images):
        mean, _ = model.apply(variables, images, method="encode")
        return model.apply(variables, mean, method="decode")

    scaled = model.clone(scaling_factor=7.0).apply
    programs = {str(jax.make_jaxpr(f)(variables, IMAGES)) for f in (model.apply, scaled, in_two)}
    assert len(programs) == 1


def test_bad_fields_and_images(tiny):
    model, variables = tiny
    with pytest.raises(InputError, match="widths is .* but must be a multiple of the 3 groups"):
        AutoencoderKL(groups=3)
    with pytest.raises(InputError, match="scaling_factor is 0, but must be a finite number"):
        AutoencoderKL(scaling_factor=0)
    for images, said in (
        (np.zeros((1, 7, 8, 3), "f"), "are 7x8, but must have sides that are multiples of 2"),
        (np.zeros((1, 8, 8, 1), "f"), "have shape .* but must have 3 channels"),
        (np.zeros((1, 8, 8, 3), np.uint8), "are uint8, but must be normalised floating-point"),
    ):
        with pytest.raises(InputError, match=said):
            model.apply(variables, images, method="encode")
    with pytest.raises(InputError, match="must have 4 channels"):
        model.apply(variables, IMAGES, method="decode")
