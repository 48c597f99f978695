"""The core under other hands: Flax NNX, Equinox and a bare dict, each in a loop of its own.

Every test trains a small network on clusters, then unlearns a mislabelled part of the data with
surgery: the forget loss must rise, and the retain loss may not.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxunlearn import (
    LossPair,
    fast_slow,
    implicit_surgery,
    multiplier,
    saliency_mask,
    surgery_value_and_grad,
    top_fraction_mask,
)
from tests.helpers import cross_entropy, example_losses, network

PRETRAIN, UNLEARN, RATE = 150, 40, 0.05


def clusters() -> tuple[Any, Any]:
    """(forget, retain): 16 examples with the wrong label, and 64 with the right one."""
    rng = np.random.default_rng(0)
    centres = 2.0 * rng.normal(size=(4, 6))
    labels = np.arange(80) % 4
    inputs = centres[labels] + rng.normal(size=(80, 6))
    labels[:16] = (labels[:16] + 1) % 4
    data = jnp.asarray(inputs, jnp.float32), jnp.asarray(labels, jnp.int32)
    return tuple(jax.tree.map(lambda x, s=s: x[s], data) for s in (slice(16), slice(16, 80)))


FORGET, RETAIN = clusters()


class Outcome(NamedTuple):
    """Forget and retain loss (both plain cross-entropies), before and after, and the multiplier."""

    before: LossPair
    after: LossPair
    multiplier: float


def assert_unlearned(outcome: Outcome) -> None:
    assert outcome.after.forget > outcome.before.forget + 0.5
    assert outcome.after.retain < outcome.before.retain + 0.05
    assert outcome.multiplier > 0.0


SURGERIES = {
    estimator: implicit_surgery(
        optax.adam(1.0), log_loss=True, tolerance=-0.02, estimator=estimator
    )
    for estimator in ("same_batch", "next_batch")
}


def chained(surgery: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(RATE, momentum=0.9), surgery)


def test_a_bare_dict_of_arrays() -> None:
    """Nothing but jax and optax; here with a saliency mask and the remain geometry as well."""

    def mean_loss(params: Any, data: Any) -> jax.Array:
        return jnp.mean(example_losses(params, data))

    def losses_fn(params: Any) -> LossPair:
        return LossPair(forget=-mean_loss(params, FORGET), retain=mean_loss(params, RETAIN))

    def pretrain_step(params: Any, _: Any) -> tuple[Any, None]:
        gradient = jax.grad(lambda p: mean_loss(p, FORGET) + 4.0 * mean_loss(p, RETAIN))(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), None

    @jax.jit
    def run() -> Any:
        start, _ = jax.lax.scan(pretrain_step, network(hidden=16), length=PRETRAIN)
        salient = top_fraction_mask(jax.grad(mean_loss)(start, FORGET), 0.8)
        tx = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.sgd(RATE, momentum=0.9),
            fast_slow(optax.sgd(0.1), num_fast_steps=2),
            saliency_mask(salient),
            SURGERIES["same_batch"],
        )
        value_and_grad = surgery_value_and_grad(losses_fn, SURGERIES["same_batch"])

        def step(carry: Any, _: Any) -> tuple[Any, None]:
            params, state = carry
            losses, grads = value_and_grad(params, state=state)
            updates, state = tx.update(
                grads,
                state,
                params,
                retain_value=losses.retain,
                retain_value_fn=lambda p: mean_loss(p, RETAIN),
                grad_fn=lambda p, i: jax.grad(mean_loss)(p, RETAIN),
            )
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (start, tx.init(start)), length=UNLEARN)
        held = jax.tree.map(
            lambda p, q, m: jnp.all(jnp.where(m, True, p == q)), start, params, salient
        )
        measured = [LossPair(mean_loss(p, FORGET), mean_loss(p, RETAIN)) for p in (start, params)]
        return Outcome(*measured, multiplier(state)), held

    outcome, held = run()
    assert_unlearned(outcome)
    assert all(jax.tree.leaves(held))


def test_equinox() -> None:
    """A module is the tree of parameters once its arrays are filtered out."""
    model = eqx.nn.MLP(6, 4, 16, 1, activation=jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def mean_loss(params: Any, data: Any) -> jax.Array:
        inputs, labels = data
        return jnp.mean(cross_entropy(jax.vmap(eqx.combine(params, static))(inputs), labels))

    def losses_fn(params: Any) -> LossPair:
        return LossPair(forget=-mean_loss(params, FORGET), retain=mean_loss(params, RETAIN))

    tx = chained(SURGERIES["same_batch"])
    value_and_grad = surgery_value_and_grad(losses_fn, SURGERIES["same_batch"])

    @eqx.filter_jit
    def pretrain_step(params: Any) -> Any:
        gradient = jax.grad(lambda p: mean_loss(p, FORGET) + 4.0 * mean_loss(p, RETAIN))(params)
        return eqx.apply_updates(params, jax.tree.map(lambda g: -0.1 * g, gradient))

    @eqx.filter_jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        losses, grads = value_and_grad(params, state=state)
        updates, state = tx.update(
            grads,
            state,
            params,
            retain_value=losses.retain,
            retain_value_fn=lambda p: mean_loss(p, RETAIN),
        )
        return eqx.apply_updates(params, updates), state

    for _ in range(PRETRAIN):
        params = pretrain_step(params)
    measure = jax.jit(lambda p: LossPair(mean_loss(p, FORGET), mean_loss(p, RETAIN)))
    before, state = measure(params), tx.init(params)
    for _ in range(UNLEARN):
        params, state = step(params, state)
    assert_unlearned(Outcome(before, measure(params), multiplier(state)))


class NnxNetwork(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(6, 16, rngs=rngs)
        self.second = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.second(jnp.tanh(self.first(inputs)))


@pytest.mark.parametrize("estimator", SURGERIES)
def test_flax_nnx(estimator: str) -> None:
    """`nnx.Optimizer` holds the chain's state, where the multiplier is, and forwards keywords."""
    surgery = SURGERIES[estimator]
    model = NnxNetwork(nnx.Rngs(0))

    def mean_loss(model: NnxNetwork, data: Any) -> jax.Array:
        inputs, labels = data
        return jnp.mean(cross_entropy(model(inputs), labels))

    @nnx.jit
    def pretrain_step(model: NnxNetwork, optimizer: nnx.Optimizer) -> None:
        gradient = nnx.grad(lambda m: mean_loss(m, FORGET) + 4.0 * mean_loss(m, RETAIN))(model)
        optimizer.update(model, gradient)

    @nnx.jit
    def step(model: NnxNetwork, optimizer: nnx.Optimizer) -> None:
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def losses_fn(params: Any) -> LossPair:
            merged = nnx.merge(graph, params, rest)
            return LossPair(forget=-mean_loss(merged, FORGET), retain=mean_loss(merged, RETAIN))

        value_and_grad = surgery_value_and_grad(losses_fn, surgery)
        losses, grads = value_and_grad(params, state=optimizer.opt_state)
        optimizer.update(
            model,
            grads,
            retain_value=losses.retain,
            retain_value_fn=lambda params: losses_fn(params).retain,
        )

    pretrainer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    for _ in range(PRETRAIN):
        pretrain_step(model, pretrainer)
    measure = nnx.jit(lambda m: LossPair(mean_loss(m, FORGET), mean_loss(m, RETAIN)))
    before, optimizer = measure(model), nnx.Optimizer(model, chained(surgery), wrt=nnx.Param)
    for _ in range(UNLEARN):
        step(model, optimizer)
    assert_unlearned(Outcome(before, measure(model), multiplier(optimizer.opt_state)))
