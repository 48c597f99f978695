"""Bad Teacher imitates two networks, and no label."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests import toy
from tests.helpers import assert_trees_close, assert_trees_equal, flat
from tests.methods.cases import runner

PLAIN = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}


def test_a_step_descends_both_divergences() -> None:
    """From the random network on forget data, and from the original one on retain data."""
    problem, key = toy.problem(), jax.random.key(0)
    run = runner("bad_teacher").run(2, retain_weight=0.7, **PLAIN)
    before, after = run.states[1:]
    forget = toy.nth_batch(problem.forget, 1, toy.FORGET_BATCH)
    retain = toy.nth_batch(problem.retain, 1, toy.RETAIN_BATCH)
    ignorant = run.start.opt_state[1][0]

    def kl(teacher: Any, params: Any, batch: Any) -> jax.Array:
        assert toy.TASK.outputs is not None
        target = jax.nn.softmax(toy.TASK.outputs(*teacher, batch, key, False)[0])
        logits, _ = toy.TASK.outputs(params, before.model_state, batch, key, True)
        log_ratio = jnp.log(target) - jnp.log(jax.nn.softmax(logits))
        return jnp.mean(jnp.sum(target * log_ratio, axis=1))

    @jax.jit
    def by_hand(params: Any) -> Any:
        original = (problem.params, problem.model_state)
        return kl(ignorant, params, forget) + 0.7 * kl(original, params, retain)

    gradient = jax.grad(by_hand)(before.params)
    moved = jax.tree.map(lambda x, y: (x - y) / 0.1, before.params, after.params)
    assert_trees_close(moved, gradient, atol=3e-6)
    total = run.metrics[1]["forget_loss"] + 0.7 * run.metrics[1]["retain_loss"]
    assert np.isclose(total, by_hand(before.params), rtol=1e-4)


def test_the_bad_teacher_is_a_fresh_network_of_the_run() -> None:
    """Another one for another seed, far from the original, and it never moves."""
    run, other = runner("bad_teacher").run(), runner("bad_teacher").start(seed=1)
    _, (ignorant, original) = run.start.opt_state
    assert_trees_equal(run.end.opt_state[1], run.start.opt_state[1])
    assert_trees_equal(original.params, toy.problem().params)
    assert not np.any(ignorant.model_state["mean"])
    for params in (other.opt_state[1][0].params, original.params):
        assert np.all(ignorant.params["kernel"] != params["kernel"])
    drawn = flat(ignorant.params["kernel"])
    assert 0.25 < np.std(drawn) < 1.0  # as `init` draws it: 0.5


def test_labels_do_not_matter() -> None:
    forget = toy.problem().forget
    other = forget | {"label": (forget["label"] + 1) % toy.CLASSES}
    usual, relabelled = runner("bad_teacher").run(), runner("bad_teacher").run(forget=other)
    assert_trees_equal(usual.end.params, relabelled.end.params)
