"""What goes from fast step to fast step beside the weights, and what it costs."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods
from jaxunlearn.methods._remain import remain_phase
from jaxunlearn.tasks import classification
from jaxunlearn.tasks.trainable_subset import trainable_subset
from jaxunlearn.types import Task
from tests import toy
from tests.helpers import assert_trees_close

pytestmark = pytest.mark.long

KEY = jax.random.key(0)
WITH_FAST_STEPS = ("sfron", "sfron_released", "eupmu_sfron")


def counting() -> Task:
    """The toy, whose model state also counts its training batches, draws keys and holds weights."""

    def losses(params: Any, state: Any, batch: Any, key: Any, train: bool) -> tuple[Any, Any]:
        values, mean = toy.TASK.losses(params, {"mean": state["mean"]}, batch, key, train)
        if train:
            state = state | {
                "seen": state["seen"] + 1,
                "late": state["late"] + 1,
                "odd": state["odd"] + 1,
                "key": jax.random.split(state["key"])[0],
            }
        return values + 0.0 * jnp.sum(state["frozen"]), state | mean

    return toy.TASK._replace(losses=losses, forget_losses=toy.TASK.forget_losses)


def first_state() -> dict[str, jax.Array]:
    return {
        "mean": jnp.zeros(toy.HIDDEN),
        "seen": jnp.uint32(0),
        "late": jnp.uint32(3_000_000_000),
        "odd": jnp.int32(2**24 + 1),
        "key": jax.random.key(7),
        "frozen": jnp.asarray(np.random.default_rng(0).normal(size=5), jnp.float32) * 1e-20,
    }


@pytest.mark.parametrize("name", WITH_FAST_STEPS)
def test_counters_keys_and_frozen_weights_are_exact(name: str) -> None:
    """Four steps of five retain batches count 20 of them; an optimizer would round or move them."""
    settings = methods.settings(name, {"num_steps": 4, "weight_decay": 0.5, "num_fast_steps": 5})
    method = methods.build(counting(), name, settings)
    problem = toy.problem()
    state = method.init(KEY, problem.params, first_state(), problem.forget, problem.retain)
    step = jax.jit(method.step)
    for n in range(4):
        retain = toy.nth_retain_batches(problem.retain, n, method.retain_batches)
        state, _ = step(state, toy.nth_batch(problem.forget, n, 4), retain)
    key = jax.random.key(7)
    for _ in range(20):
        key = jax.random.split(key)[0]
    ours, start = state.model_state, first_state()
    assert [int(ours[name] - start[name]) for name in ("seen", "late", "odd")] == [20, 20, 20]
    assert all(ours[name].dtype == start[name].dtype for name in start)
    np.testing.assert_array_equal(jax.random.key_data(ours["key"]), jax.random.key_data(key))
    np.testing.assert_array_equal(ours["frozen"], start["frozen"])
    assert np.any(ours["mean"] != start["mean"])


@pytest.mark.parametrize("unroll", [1, True])
@pytest.mark.parametrize("share", [False, True])
def test_unrolled_or_not_the_remain_phase_is_the_same(share: bool, unroll: Any) -> None:
    problem = toy.problem()
    retain = toy.nth_retain_batches(problem.retain, 0, 3)
    ours, plain = (
        remain_phase(
            toy.TASK,
            optax.sgd(0.1, momentum=0.9),
            num_fast_steps=3,
            share_optimizer=share,
            unroll=how,
        )
        for how in (unroll, 1)
    )
    results = [
        jax.jit(phase.update)(
            problem.params,
            phase.init(problem.params),
            problem.params,
            problem.model_state,
            retain,
            KEY,
        )
        for phase in (ours, plain)
    ]
    assert_trees_close(*results, rtol=1e-5)


class Wide(nn.Module):
    """5.8 M parameters under a head of 20 k."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for _ in range(2):
            x = nn.relu(nn.Dense(2048)(x.reshape(len(x), -1)))
        return nn.Dense(10, name="head")(x)


@pytest.mark.parametrize("name", WITH_FAST_STEPS)
def test_frozen_weights_cost_a_step_nothing(name: str) -> None:
    """Temporary memory is that of the head and of the activations, not of 23 MB of weights."""
    task = classification(Wide(), image_shape=(28, 28, 1), num_classes=10)
    part = trainable_subset(task, "head").task
    settings = methods.settings(name, {"num_steps": 4, "num_fast_steps": 3})
    method = methods.build(part, name, settings)

    def batch(*shape: int) -> Any:
        return {
            "image": jax.ShapeDtypeStruct((*shape, 28, 28, 1), jnp.float32),
            **{k: jax.ShapeDtypeStruct(shape, jnp.int32) for k in ("label", "index", "epoch")},
        }

    arrays = {k: v for k, v in batch(16).items() if k != "epoch"}
    state = jax.eval_shape(
        lambda key, *data: method.init(key, *part.init(key), *data), KEY, arrays, arrays
    )
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(tree))
        for tree in (state.model_state, state.params, state.opt_state)
    ]
    assert sizes[0] > 5_800_000 and sizes[1] < 21_000 and sizes[2] < 100_000
    step = jax.jit(method.step, donate_argnums=0)
    compiled = step.lower(state, batch(16), batch(method.retain_batches, 16)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2_000_000
