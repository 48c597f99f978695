"""Diffusion transformer: block and positions against their formulas, patches, published counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.models.denoisers import create
from jaxunlearn.models.dit import Block, DiT, positions
from jaxunlearn.types import InputError


def test_golden_positions():
    table = np.asarray(positions(4, 4, 16))
    first = [0, 0, 0, 0, 1, 1, 1, 1]
    second = [0.841, 0.1, 0.01, 0.001, 0.54, 0.995, 1, 1]
    np.testing.assert_allclose(table[0], first + first, atol=1e-3)
    np.testing.assert_allclose(table[1], second + first, atol=1e-3)  # one column on
    np.testing.assert_allclose(table[4], first + second, atol=1e-3)  # one row down
    np.testing.assert_allclose(table[5], second + second, atol=1e-3)
    np.testing.assert_array_equal(positions(2, 4, 16), table[:8])


def norm(x, epsilon):
    mean, var = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(var + epsilon)


def dense(x, params):
    return x @ params["kernel"] + params["bias"]


def test_block_formula(random_variables):
    rng = np.random.default_rng(0)
    x, e = rng.normal(size=(2, 5, 4)).astype("f"), rng.normal(size=(2, 4)).astype("f")
    block = Block(heads=1, epsilons=(0.1, 0.5), dtype=jnp.float32)
    p = random_variables(block, x, e)["params"]
    parts = np.split(dense(e / (1 + np.exp(-e)), p["modulation"])[:, None], 6, axis=-1)
    shift1, scale1, gate1, shift2, scale2, gate2 = parts
    y = norm(x, 0.1) * (1 + scale1) + shift1
    q, k, v = (dense(y, p["attention"][name]) for name in ("query", "key", "value"))
    weights = np.asarray(jax.nn.softmax(q @ k.transpose(0, 2, 1) / 2, axis=-1))
    h = x + gate1 * dense(weights @ v, p["attention"]["out"])
    y = dense(norm(h, 0.5) * (1 + scale2) + shift2, p["up"])
    y = y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    expected = h + gate2 * dense(y, p["down"])
    apply = jax.jit(block.apply)
    np.testing.assert_allclose(apply({"params": p}, x, e), expected, rtol=1e-4, atol=1e-4)
    p["modulation"] = jax.tree.map(np.zeros_like, p["modulation"])  # as at the beginning
    np.testing.assert_array_equal(apply({"params": p}, x, e), x)


def test_patches_come_back_where_they_were(random_variables):
    model = DiT(3, (4, 6, 3), width=8, depth=1, heads=2, learn_variance=True)
    batch = jnp.zeros((1, 4, 6, 3)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    variables = random_variables(model, *batch)
    variables["params"]["out"] = {"kernel": np.zeros((8, 24)), "bias": np.arange(24.0)}
    out = jax.jit(model.apply)(variables, *batch)
    tile = np.arange(24.0).reshape(2, 2, 6)  # rows, columns, noise before variance
    np.testing.assert_array_equal(out[0], np.tile(tile, (2, 3, 1)))


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads", "ours", "millions"),
    [
        ("dit-s/2", 384, 12, 6, 32_865_056, 33),
        ("dit-b/2", 768, 12, 12, 130_315_808, 130),
        ("dit-l/2", 1024, 24, 16, 457_840_672, 458),
        ("dit-xl/2", 1152, 28, 16, 674_834_720, 675),
    ],
)
def test_count_by_hand(name, width, depth, heads, ours, millions):
    attention = 4 * width * width + 4 * width
    feed_forward = 8 * width * width + 5 * width
    block = attention + feed_forward + 6 * width * width + 6 * width
    condition = 256 * width + width + width * width + width + 1001 * width
    last = 2 * width * width + 2 * width + 32 * width + 32
    assert 16 * width + width + condition + depth * block + last == ours
    assert round(ours / 1e6) == millions
    model = create(name, (32, 32, 4), num_classes=1000)
    assert (model.width, model.depth, model.heads, model.patch_size) == (width, depth, heads, 2)
    assert model.learn_variance
    if name == "dit-xl/2":  # the published number holds the fixed embedding of 256 positions too
        assert ours + 256 * width == 675_129_632


def test_sizes_that_do_not_divide():
    with pytest.raises(
        InputError, match="are 7x8, but must have sides .* of 2; .*divides both sides"
    ):
        DiT(10, (7, 8, 1))
    with pytest.raises(InputError, match="DiT.width is 1152.*multiple of the 5 heads"):
        DiT(10, heads=5)
    with pytest.raises(InputError, match="DiT.width is 6"):
        DiT(10, width=6, heads=2)
