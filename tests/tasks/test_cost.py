"""What an unlearning step of a diffusion model costs, in floating-point operations.

Counted on the program before XLA optimises it, so nothing is compiled.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxunlearn import methods
from jaxunlearn.methods import objectives
from jaxunlearn.models import denoisers
from jaxunlearn.models.process import Process
from jaxunlearn.tasks import diffusion

SHAPE, SIZE = (8, 8, 1), 4


@functools.cache
def task_of(model):
    module = denoisers.create(model, SHAPE, 10)
    return diffusion(module, Process(), image_shape=SHAPE, num_classes=10)


def batch(*lead):
    def of(shape, dtype):
        return jax.ShapeDtypeStruct((*lead, SIZE, *shape), dtype)

    return {
        "image": of(SHAPE, jnp.float32),
        "label": of((), jnp.int32),
        "index": of((), jnp.int32),
        "epoch": of((), jnp.int32),
    }


def flops(function, *shapes):
    return jax.jit(function).lower(*shapes).cost_analysis()["flops"]


@functools.cache
def plain(model):
    """Of one step of Adam on forget data, and one on retain data."""
    task, optimizer = task_of(model), optax.adam(1e-4)
    params, _ = jax.eval_shape(task.init, jax.random.key(0))

    def step(params, state, batch):
        key = jax.random.key(0)
        loss, grads = jax.value_and_grad(
            lambda p: objectives.retain_loss(task, p, {}, batch, key)[0]
        )(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return 2 * flops(step, params, jax.eval_shape(optimizer.init, params), batch())


SFRON = {"num_fast_steps": 1, "share_optimizer": True, "variant": "FR-on"}
EUPMU = {"estimator": "next_batch", "objective": "adaptive_ascent"}


ANCHOR = {"objective": "match_anchor"}


@pytest.mark.parametrize(
    ("model", "name", "settings", "most"),
    [
        ("ddpm-tiny", "sfron", SFRON, 1.05),
        ("dit-tiny-test", "sfron", SFRON, 1.05),
        ("dit-tiny-test", "eupmu", EUPMU, 1.05),
        # What the anchor is denoised as takes a forward pass more, one of six.
        ("dit-tiny-test", "sfron", SFRON | ANCHOR, 1.05 + 1 / 6),
        ("dit-tiny-test", "eupmu", EUPMU | ANCHOR, 1.05 + 1 / 6),
    ],
)
def test_a_step_costs_what_a_forget_and_a_retain_step_cost(model, name, settings, most):
    task = task_of(model)
    chosen = methods.settings(name, {"optimizer": "adamw", **settings})
    method = methods.build(task, name, chosen)
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    arrays = {key: value for key, value in batch().items() if key != "epoch"}
    state = jax.eval_shape(
        lambda p, f, r: method.init(jax.random.key(0), p, {}, f, r), params, arrays, arrays
    )
    ratio = flops(method.step, state, batch(), batch(method.retain_batches)) / plain(model)
    assert most - 0.25 < ratio < most, ratio
