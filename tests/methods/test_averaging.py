"""Averages of weights, and clipped gradients: settings that a run has only if they are given."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import methods
from jaxunlearn.types import InputError, Method, TrainState

KEY = jax.random.key(0)
EMPTY: dict = {"label": jnp.zeros(1)}


def walk() -> Method:
    """Weights that move by the step number; a statistic that follows; a counter."""

    def init(key, params, model_state, forget, retain):
        return TrainState(jnp.int32(0), params, model_state, (), jax.random.key_data(key))

    def step(state, forget, retain):
        number = state.step + 1
        params = jax.tree.map(lambda x: x + number, state.params)
        counts = {"mean": state.model_state["mean"] - number, "count": number}
        return state._replace(step=number, params=params, model_state=counts), {"retain_loss": 0.0}

    return Method(init, step)


def after(method: Method, num_steps: int) -> TrainState:
    start = {"w": jnp.array([100.0, 7.0])}, {"mean": jnp.zeros(()), "count": jnp.int32(0)}
    state = method.init(KEY, *start, EMPTY, EMPTY)
    for _ in range(num_steps):
        state, _ = jax.jit(method.step)(state, EMPTY, EMPTY)
    return state


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_average_is_of_the_visited_weights_alone(decay):
    state = after(methods.averaged(walk(), decay), 4)
    weights = np.array([decay**power for power in (3, 2, 1, 0)])
    visited = np.cumsum([1, 2, 3, 4])  # after each step, from the start
    average = np.sum(weights * visited) / np.sum(weights)
    found = methods.weights_of(state)
    chex.assert_trees_all_close(found.params["w"], jnp.array([100.0, 7.0]) + average, rtol=1e-6)
    chex.assert_trees_all_close(found.model_state["mean"], jnp.float32(-average), rtol=1e-6)
    assert found.model_state["count"] == 4 and found.model_state["count"].dtype == jnp.int32


def test_averaging_does_not_change_the_steps():
    plain, other = after(walk(), 4), after(methods.averaged(walk(), 0.9), 4)
    chex.assert_trees_all_equal(plain.params, other.params)
    assert methods.weights_of(plain).params is plain.params


def test_gradients_of_any_optimizer_are_clipped_to_the_norm(monkeypatch):
    seen = []

    def spy(task, optimizer):
        seen.append(optimizer)
        return Method(lambda *a: a, lambda *a: a)

    monkeypatch.setitem(methods._METHODS, "spy", spy)
    chosen = {"clip_norm": 0.5, "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 1.0}
    chosen |= {"learning_rate_schedule": "constant"}
    methods.build(None, "spy", methods.settings("spy", chosen))
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    updates, _ = seen[-1].update(grads, seen[-1].init(grads), grads)
    chex.assert_trees_all_close(updates, {"a": jnp.array([-0.3]), "b": jnp.array([-0.4])})


def test_a_run_has_optional_settings_only_if_they_are_given():
    assert not {"ema", "clip_norm"} & methods.settings("retrain").keys()
    assert methods.settings("retrain", {"ema": 0.9})["ema"] == 0.9
    assert "clip_norm" not in methods.settings("retrain", {"ema": 0.9})
    assert "guard_budget" not in methods.settings("finetune", {"clip_norm": 2})
    assert "clip_norm" not in methods.optional_settings("sfron")  # it has its own
    assert methods.settings("sfron")["clip_norm"] == 7.0


@pytest.mark.parametrize(
    ("method", "bad", "words"),
    [
        ("retrain", {"ema": 1.0}, r"setting ema of method retrain is 1.0, but must be in \[0, 0.9"),
        ("retrain", {"clip_norm": 0.0}, "clip_norm of method retrain is 0.0, but must be positive"),
        ("finetune", {"ema": 0.9}, "method finetune has no setting 'ema'"),
        ("retrain", {"guard_budget": 1.0}, "nothing to guard"),
    ],
)
def test_bad_optional_settings_are_refused(method, bad, words):
    with pytest.raises(InputError, match=words):
        methods.settings(method, bad)
