"""Swin: attention in shifted windows against dense attention, sizes, counts by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.models import create
from jaxunlearn.models.swin import PatchMerging, WindowAttention
from jaxunlearn.types import InputError


@pytest.mark.parametrize(("window", "shift"), [(2, 0), (2, 1), (4, 2)])
def test_window_attention_against_dense_attention(window, shift, random_variables):
    height, width, heads, channels = 4, 8, 2, 6
    size = channels // heads
    x = np.random.default_rng(0).normal(size=(2, height, width, channels)).astype(np.float32)
    layer = WindowAttention(heads, window, shift)
    params = random_variables(layer, x)["params"]

    # Every token to every token, allowed inside a window of the shifted lattice: the lattice
    # is cut at `shift`, and the border windows are smaller.
    places = [(i, j) for i in range(height) for j in range(width)]
    table = params["relative_bias"].reshape(2 * window - 1, 2 * window - 1, heads)
    bias = np.full((heads, len(places), len(places)), -np.inf, np.float32)
    for a, (i, j) in enumerate(places):
        for b, (k, m) in enumerate(places):
            same_row = (i - shift) // window == (k - shift) // window
            same_column = (j - shift) // window == (m - shift) // window
            if same_row and same_column:
                bias[:, a, b] = table[i - k + window - 1, j - m + window - 1]
    tokens = x.reshape(2, -1, channels)
    qkv = tokens @ params["qkv"]["kernel"] + params["qkv"]["bias"]
    q, k, v = (
        qkv[..., i * channels : (i + 1) * channels].reshape(2, -1, heads, size) for i in range(3)
    )
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(size) + bias
    joined = np.einsum("bhqk,bkhd->bqhd", np.asarray(jax.nn.softmax(logits)), v)
    expected = joined.reshape(2, -1, channels) @ params["out"]["kernel"] + params["out"]["bias"]

    found = jax.jit(layer.apply)({"params": params}, x)
    np.testing.assert_allclose(found, expected.reshape(x.shape), rtol=1e-4, atol=1e-4)


def test_patch_merging_joins_two_by_two_neighbours(random_variables):
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32)
    layer = PatchMerging()
    variables = random_variables(layer, x)
    norm, kernel = (variables["params"][name] for name in ("norm", "reduction"))
    found = layer.apply(variables, x)
    assert found.shape == (1, 2, 2, 4)
    for i in (0, 1):
        for j in (0, 1):
            corners = [x[0, 2 * i + r, 2 * j + c] for r, c in ((0, 0), (1, 0), (0, 1), (1, 1))]
            joined = np.concatenate(corners)
            joined = (joined - joined.mean()) / np.sqrt(joined.var() + 1e-5)
            expected = (joined * norm["scale"] + norm["bias"]) @ kernel["kernel"]
            np.testing.assert_allclose(found[0, i, j], expected, rtol=1e-4, atol=1e-5)


def attention_calls(model, side):
    """`(window, shift)` of every attention layer, in order, and the shape of the logits."""
    calls = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, WindowAttention):
            calls.append((context.module.window, context.module.shift))
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    with nn.intercept_methods(record):
        logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    return calls, logits.shape


def test_every_second_block_is_shifted():
    calls, shape = attention_calls(create("swin-t", num_classes=10), 224)
    assert calls == [(7, 0), (7, 3)] * 5 + [(7, 0), (7, 0)]  # the last grid is one window of 7x7
    assert shape == (2, 10)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (4, [(4, 0), (4, 2)] * 2 + [(4, 0)] * 6 + [(2, 0)] * 2),
        (8, [(8, 0), (8, 4)] + [(8, 0)] * 2 + [(4, 0)] * 6 + [(2, 0)] * 2),
    ],
)
def test_small_images_with_suitable_windows(window, expected):
    model = create("swin-t", num_classes=200, window=window)
    assert attention_calls(model, 64) == (expected, (2, 200))


def test_count_by_hand():
    total = 4 * 4 * 3 * 96 + 96 + 2 * 96  # patches and their norm
    for i, (depth, heads) in enumerate(zip((2, 2, 6, 2), (3, 6, 12, 24), strict=True)):
        width = 96 * 2**i
        block = 12 * width * width + 13 * width + 13 * 13 * heads
        total += depth * block
        if i < 3:
            total += 8 * width * width + 8 * width  # merging and its norm
    assert total + 2 * 768 + 768 * 1000 + 1000 == 28_288_354


def test_unsuitable_sizes_say_what_would_do(shapes):
    with pytest.raises(InputError, match=r"window is 7.*16x16, 8x8, 4x4, 2x2; .* out of \[2, 4, 8"):
        shapes(create("swin-t", num_classes=10), 64, 64, 3)
    with pytest.raises(InputError, match="are 28x28, but must have sides that are multiples of 32"):
        shapes(create("swin-t", num_classes=10), 28, 28, 1)
    with pytest.raises(InputError, match="3x5; resize them to squares"):
        shapes(create("swin-t", num_classes=10), 96, 160, 3)
