"""The blocks of a transformer as one loop: the same results, whatever the depth."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.models import create, denoisers, depth, latent

WITHOUT = 10**9  # turns: no loop


class Block(nn.Module):
    """A block with a matrix, a vector and a second input."""

    rate: float
    dtype: object

    @nn.compact
    def __call__(self, x, shift):
        y = nn.LayerNorm(dtype=self.dtype, name="norm")(x + shift)
        return x + self.rate * nn.Dense(x.shape[-1], dtype=self.dtype, name="up")(nn.tanh(y))


class Net(nn.Module):
    """Five blocks of two kinds in turn: two turns of a loop, and one more."""

    dtype: object = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x, shift):
        kinds = [partial(Block, 1.0, self.dtype), partial(Block, -2.0, self.dtype)]
        names = [f"block{i}" for i in range(1, 6)]
        return depth.in_turn(self, kinds, names, x, shift, remat=self.remat)


def gradients(monkeypatch, model, variables, inputs, fewest):
    """The outputs and the gradients, with loops of at least so many turns."""
    monkeypatch.setattr(depth, "FEWEST", fewest)

    def loss(variables):
        outputs = model.apply(variables, *inputs)
        return jnp.mean((outputs.astype(jnp.float32) - 1) ** 2), outputs

    return jax.jit(jax.grad(loss, has_aux=True))(variables)


def scans(program):
    """The lengths of the loops of a program, at its top."""
    return [eqn.params["length"] for eqn in program.eqns if eqn.primitive.name == "scan"]


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_loop_changes_no_gradient(dtype, remat, monkeypatch):
    model = Net(dtype, remat)
    inputs = jax.random.normal(jax.random.key(0), (2, 3, 4), dtype), jnp.full((2, 3, 4), 0.5, dtype)
    variables = model.init(jax.random.key(1), *inputs)
    assert list(variables["params"]) == [f"block{i}" for i in range(1, 6)]
    loop = gradients(monkeypatch, model, variables, inputs, 2)
    plain = gradients(monkeypatch, model, variables, inputs, WITHOUT)
    tolerance = 1e-6 if dtype == jnp.float32 else 0.02
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), loop, plain)


def test_remat_stores_no_products(monkeypatch):
    monkeypatch.setattr(depth, "FEWEST", 2)
    x, shift = jnp.ones((7, 4)), jnp.ones((7, 4))
    variables = Net().init(jax.random.key(0), x, shift)

    def held(model):
        _, pull_back = jax.vjp(lambda x: model.apply(variables, x, shift), x)
        return sum(leaf.shape == (2, 7, 4) for leaf in jax.tree.leaves(pull_back))

    assert held(Net(remat=True)) == 1  # the inputs of the turns
    assert held(Net()) > 1


def test_deep_models_have_a_loop_and_shallow_ones_none():
    images = jnp.zeros((1, 8, 8, 1))
    text = partial(latent.create_text_encoder, "tiny")
    dit = partial(denoisers.create, "dit-tiny-test", (8, 8, 1), 3)
    cases = [
        (partial(create, "vit-tiny-test", 3), (images,)),
        (dit, (images, jnp.zeros(1), jnp.zeros(1, int))),
        (text, (jnp.zeros((1, 8), int),)),
    ]
    for make, inputs in cases:
        for count, expected in ((depth.FEWEST - 1, []), (depth.FEWEST, [depth.FEWEST])):
            model = make(depth=count)
            variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
            assert scans(jax.make_jaxpr(model.apply)(variables, *inputs)) == expected
    swin = create("swin-t", 10, depths=(2, 2, 18, 2))
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(swin.init, jax.random.key(0), images)
    assert scans(jax.make_jaxpr(swin.apply)(variables, images)) == [9]  # pairs of the third stage


@pytest.mark.long
@pytest.mark.parametrize("name", ["dit", "swin"])
def test_models_compute_the_same_with_and_without_a_loop(name, monkeypatch):
    images = jax.random.normal(jax.random.key(2), (2, 8, 8, 1))
    model, *inputs = {
        "dit": lambda: (
            denoisers.create("dit-tiny-test", (8, 8, 1), 3),
            *(images, jnp.array([5, 900]), jnp.array([0, 2])),
        ),
        "swin": lambda: (
            create("swin-t", 3, patch_size=1, window=4, width=8, depths=(4,), heads=(2,)),
            images,
        ),
    }[name]()
    variables = jax.jit(model.init)(jax.random.key(0), *inputs)
    variables = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape),
        variables,
    )
    loop = gradients(monkeypatch, model, variables, inputs, 2)
    plain = gradients(monkeypatch, model, variables, inputs, WITHOUT)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), loop, plain)
