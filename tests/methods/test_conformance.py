"""What every method must do, whatever it is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods
from jaxunlearn.methods.optimizers import schedule
from tests import toy
from tests.helpers import assert_trees_equal, flat
from tests.methods.cases import CASES, CONVOLUTIONAL, FORGET_ONLY, GENERATING, ONE_SHOT, runner

pytestmark = pytest.mark.long

every_method = pytest.mark.parametrize("case", CASES)
every_method_that_trains = pytest.mark.parametrize("case", [c for c in CASES if c not in ONE_SHOT])


def test_every_method_has_a_case() -> None:
    elsewhere = {*GENERATING, *CONVOLUTIONAL}
    assert {name for name, _ in CASES.values()} | elsewhere == set(methods.available())


@every_method
def test_steps_move_finite_weights(case: str) -> None:
    """Each of three steps counts, moves every leaf (or none) and reports finite losses."""
    run = runner(case).run()
    assert [int(state.step) for state in run.states] == [0, 1, 2, 3]
    for before, after in zip(run.states[:-1], run.states[1:], strict=True):
        assert np.all(np.isfinite(flat((after.params, after.opt_state))))
        for x, y in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True):
            assert np.any(x != y) == (case not in ONE_SHOT)
    for metrics in run.metrics:
        assert metrics.keys() & {"forget_loss", "retain_loss"}
        assert np.all(np.isfinite(list(metrics.values())))


@every_method
def test_types_are_stable(case: str) -> None:
    """A step returns a state of the very types that it was given, so that it can be looped over."""
    method, problem = runner(case), toy.problem()
    numbers = {name: jnp.float32(value) for name, value in method.numbers.items()}
    before = jax.eval_shape(method.init, numbers, jax.random.key(0), *problem)
    forget = toy.nth_batch(problem.forget, 0, toy.FORGET_BATCH)
    retain = toy.nth_retain_batches(problem.retain, 0, method.retain_batches)
    after, metrics = jax.eval_shape(method.step, numbers, before, forget, retain)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)
    assert all(value.shape == () for value in metrics.values())


@every_method
def test_the_same_seed_gives_the_same_bits_and_another_does_not(case: str) -> None:
    """And the caller's arrays survive although the state is donated from step to step."""
    given = toy.problem()
    copies = jax.device_get(given)
    first, again, other = (runner(case).run(seed=seed) for seed in (3, 3, 4))
    assert_trees_equal(first.end, again.end)
    assert np.any(flat(first.end.params) != flat(other.end.params)) == (case != "ssd")
    assert_trees_equal(given, copies)


@every_method
def test_forget_data_never_writes_the_model_state(case: str) -> None:
    """At learning rate 0, other forget data changes nothing at all in what the model keeps."""
    method, usual = runner(case), toy.problem().forget
    other = usual | {"image": 3.0 - usual["image"], "label": (usual["label"] + 1) % toy.CLASSES}
    rates = {k: 0.0 for k in ("learning_rate", "forget_learning_rate") if k in method.numbers}
    run, run_on_other = method.run(**rates), method.run(forget=other, **rates)
    assert_trees_equal(run.end.params, run.start.params)
    assert_trees_equal(run.end.model_state, run_on_other.end.model_state)
    moved = np.any(flat(run.end.model_state) != flat(run.start.model_state))
    assert moved == (case not in FORGET_ONLY + ONE_SHOT)
    if "forget_loss" in run.metrics[0]:
        assert run.metrics[0]["forget_loss"] != run_on_other.metrics[0]["forget_loss"]


@every_method_that_trains
def test_the_learning_rate_ends_with_the_run(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The schedule spans just as many steps as the optimizer takes in the whole run."""
    opt_state = runner(case).run(num_steps=3).end.opt_state
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_schedule_state)
    counts = [int(node.count) for node in nodes if _is_schedule_state(node)]
    spans: list[int] = []

    def spy(name: str, peak: Any, num_steps: int) -> optax.Schedule:
        spans.append(num_steps)
        return schedule(name, peak, num_steps)

    monkeypatch.setattr(methods, "schedule", spy)
    name, static = CASES[case]
    known = methods.settings(name)
    small = {"num_steps": 3} | ({"num_fast_steps": 2} if "num_fast_steps" in known else {})
    methods.build(toy.TASK, name, methods.settings(name, small | static))
    assert spans == [max(counts)]


def _is_schedule_state(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)


def test_keys_may_be_typed_or_raw_and_survive() -> None:
    """Called outside jit, where a state could share buffers with what it was made from."""
    method = methods.eupmu(toy.TASK, optax.sgd(0.1), multiplier_learning_rate=2.0)
    problem = toy.problem()
    states = [
        (key, method.init(key, *problem)) for key in (jax.random.key(7), jax.random.PRNGKey(7))
    ]
    assert_trees_equal(states[0][1], states[1][1])
    for key, state in states:
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
        donate = jax.jit(lambda s: s._replace(step=s.step + 1), donate_argnums=0)
        assert int(donate(state).step) == 1
        assert state.key.is_deleted() and not key.is_deleted()
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(problem))
