"""Boundary expanding: a shadow class beside the model's own, learned with it and dropped."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal
from tests.methods.cases import runner

PLAIN = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}


def test_steps_descend_the_loss_against_the_shadow_class() -> None:
    """Weights and shadow together, on forget data alone."""
    run = runner("boundary_expanding").run(3, **PLAIN)

    @jax.jit
    def by_hand(both: Any, model_state: Any, batch: Any) -> Any:
        def loss_fn(both: Any) -> jax.Array:
            assert toy.TASK.outputs is not None
            params, (kernel, bias) = both
            logits, _ = toy.TASK.outputs(params, model_state, batch, jax.random.key(0), True)
            shadow = jnp.sum(logits * kernel[None], axis=1) + bias
            everything = jnp.sum(jnp.exp(logits), axis=1) + jnp.exp(shadow)
            return jnp.mean(jnp.log(everything) - shadow)

        return jax.value_and_grad(loss_fn)(both)

    def both_of(state: Any) -> Any:
        shadow = state.opt_state[1]
        return state.params, (shadow["kernel"], shadow["bias"])

    for n, (before, after) in enumerate(zip(run.states[:-1], run.states[1:], strict=True)):
        batch = toy.nth_batch(toy.problem().forget, n, toy.FORGET_BATCH)
        loss, gradient = by_hand(both_of(before), before.model_state, batch)
        moved = jax.tree.map(lambda x, y: (x - y) / 0.1, both_of(before), both_of(after))
        assert_trees_close(moved, gradient, atol=3e-6)
        assert np.isclose(run.metrics[n]["forget_loss"], loss, rtol=1e-4)
    assert_trees_equal(run.end.model_state, run.start.model_state)


def test_what_comes_out_is_a_model_of_the_same_classes() -> None:
    """It has forgotten what the shadow class took in: the true class becomes less likely."""
    problem = toy.problem()
    end = runner("boundary_expanding").run(12, **PLAIN).end
    assert jax.tree.structure(end.params) == jax.tree.structure(problem.params)
    batch = problem.forget | {"epoch": jnp.zeros(toy.NUM_FORGET, jnp.int32)}

    def true_class(params: Any) -> float:
        p = toy.TASK.predict(params, problem.model_state, batch)
        assert p.shape == (toy.NUM_FORGET, toy.CLASSES)
        return float(jnp.mean(p[jnp.arange(toy.NUM_FORGET), batch["label"]]))

    assert true_class(end.params) < true_class(problem.params)


def test_the_shadow_is_drawn_by_the_key() -> None:
    first, again, other = (runner("boundary_expanding").start(seed) for seed in (0, 0, 1))
    assert_trees_equal(first.opt_state[1], again.opt_state[1])
    assert np.all(first.opt_state[1]["kernel"] != other.opt_state[1]["kernel"])
    assert float(first.opt_state[1]["bias"]) == 0.0
