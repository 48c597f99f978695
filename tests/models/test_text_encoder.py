"""The text transformer: what a token sees, activations, positions, half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.models.latent import create_text_encoder
from jaxunlearn.models.text_encoder import Block, TextEncoder
from jaxunlearn.types import InputError

IDS = np.random.default_rng(0).integers(32, size=(2, 8)).astype(np.int32)


@pytest.fixture(scope="module")
def tiny(random_variables):
    model = create_text_encoder("tiny")
    return model, jax.jit(model.apply), random_variables(model, IDS)


def norm(x, p):
    mean, var = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 0.1) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_block_formula(activation, random_variables):
    x = np.random.default_rng(1).normal(size=(2, 5, 4)).astype("f")
    block = Block(2, hidden=6, activation=activation, epsilon=0.1, dtype=jnp.float32)
    p = random_variables(block, x)["params"]
    q, k, v = (dense(norm(x, p["norm1"]), p["attention"][n]) for n in ("query", "key", "value"))
    heads = []
    for i in (slice(0, 2), slice(2, 4)):
        weights = np.exp(q[..., i] @ k[..., i].transpose(0, 2, 1) / np.sqrt(2))
        weights = np.tril(weights)  # nothing of what follows
        heads.append(weights / weights.sum(axis=-1, keepdims=True) @ v[..., i])
    h = x + dense(np.concatenate(heads, axis=-1), p["attention"]["out"])
    y = dense(norm(h, p["norm2"]), p["up"])
    quick = 1 / (1 + np.exp(-1.702 * y))
    gate = quick if activation == "quick_gelu" else np.asarray(jax.scipy.stats.norm.cdf(y))
    expected = h + dense(y * gate, p["down"])
    found = jax.jit(block.apply)({"params": p}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_token_sees_only_what_is_before_it(tiny):
    _, apply, variables = tiny
    states = apply(variables, IDS)
    other = IDS.copy()
    other[:, 5] = (IDS[:, 5] + 1) % 32
    changed = apply(variables, other)
    np.testing.assert_array_equal(states[:, :5], changed[:, :5])
    assert (np.abs(states - changed)[:, 5:].max(axis=-1) > 1e-3).all()
    short = apply(variables, IDS[:, :3])
    np.testing.assert_allclose(short, states[:, :3], rtol=1e-5, atol=1e-5)


def test_positions_tell_equal_tokens_apart(tiny):
    _, apply, variables = tiny
    same = np.full_like(IDS, 7)
    assert np.abs(np.diff(apply(variables, same), axis=1)).max() > 1e-2
    position = np.zeros_like(variables["params"]["position"])
    nowhere = {"params": {**variables["params"], "position": position}}
    np.testing.assert_allclose(np.diff(apply(nowhere, same), axis=1), 0, atol=1e-5)


def test_half_precision_and_remat(tiny):
    model, apply, variables = tiny
    full = apply(variables, IDS)
    rounded = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, IDS)
    assert full.dtype == rounded.dtype == jnp.float32
    assert 1e-4 < np.abs(full - rounded).max() < 0.2
    for remat, expected in ((False, 0), (True, model.depth)):
        program = jax.make_jaxpr(model.clone(remat=remat).apply)(variables, IDS)
        names = [equation.primitive.name for equation in program.eqns]
        assert sum("remat" in n or "checkpoint" in n for n in names) == expected


def test_bad_fields_and_ids(tiny):
    model, _, variables = tiny
    with pytest.raises(InputError, match="width is 768, but must be a multiple of the 5 heads"):
        TextEncoder(heads=5)
    with pytest.raises(InputError, match="activation is 'relu', but must be one of 'gelu'"):
        TextEncoder(activation="relu")
    for ids, said in (
        (IDS[0], r"are int32 of shape \(8,\), but must be integers of shape \[B, L\]"),
        (IDS.astype("f"), "token ids .* are float32 .* but must be integers"),
        (np.zeros((1, 9), np.int32), "have 9 tokens, but must have at most 8"),
    ):
        with pytest.raises(InputError, match=said):
            model.apply(variables, ids)
