"""Revival steps: the objective is descended at the weights of an attacker on retain data too."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods
from jaxunlearn.types import InputError, Task
from tests.methods.test_adversary import NONE, after
from tests.toy_diffusion import KEY

TARGET, RATE = jnp.array([3.0, 0.0]), 0.1


def _forgotten(task, params, model_state, batch, key, embeddings=None):
    """A forget objective whose gradient depends on the parameters: |w|^4 / 4."""
    return jnp.sum(params["w"] ** 4) / 4.0


def _losses(params, model_state, batch, key, train):
    """A retain loss with its minimum at TARGET: retain data pull back what was forgotten."""
    loss = jnp.sum((params["w"] - TARGET) ** 2)
    return jnp.full(len(batch["label"]), loss), model_state


LINEAR = Task(
    lambda key: ({"w": jnp.array([2.0, 1.0])}, {}),
    _losses,
    None,
    2,
    objectives=(("match_anchor", _forgotten),),
)
BATCH = {name: jnp.zeros(2, jnp.int32) for name in ("label", "index", "epoch")}


def walked(steps, **more):
    chosen = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.01}
    chosen |= {"learning_rate_schedule": "constant", "objective": "match_anchor"}
    chosen |= {"retain_weight": 0.0} | more
    method = methods.build(LINEAR, "scalarization", methods.settings("scalarization", chosen))
    state = method.init(KEY, *LINEAR.init(KEY), BATCH, BATCH)
    retain = jax.tree.map(lambda x: x[None], BATCH)
    for _ in range(steps):
        state, _ = jax.jit(method.step)(state, BATCH, retain)
    return state


def test_the_objective_is_descended_at_the_attackers_weights_too():
    """Three steps by hand with K = 2: the attacker starts again from theta in the third."""
    attacker = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(RATE))
    theta = jnp.array([2.0, 1.0])
    for step in range(3):
        if step % 2 == 0:
            phi, memory = theta, attacker.init(theta)
        updates, memory = attacker.update(2.0 * (phi - TARGET), memory)
        phi = phi + updates
        theta = theta - 0.01 * (theta**3 + phi**3) / 2.0
    state = walked(3, revival_steps=2, revival_rate=RATE)
    chex.assert_trees_all_close(state.params["w"], theta, rtol=1e-6)
    chex.assert_trees_all_close(state.opt_state.attacker.params["w"], phi, rtol=1e-6)


def test_the_default_rate_is_the_rate_of_the_run_and_no_steps_change_nothing():
    chex.assert_trees_all_equal(
        walked(2, revival_steps=2), walked(2, revival_steps=2, revival_rate=0.01)
    )
    chex.assert_trees_all_equal(walked(2, revival_steps=0), walked(2))


@pytest.mark.long
def test_an_adversary_and_a_multiplier_go_with_it():
    """With both attackers there are the metrics of both, and the adversary changes the steps."""
    more = {"adversarial_steps": 1, "revival_steps": 2, "revival_rate": 0.1}
    state, history = after("eupmu", 3, **more)
    plain, _ = after("eupmu", 3, **more | NONE)
    assert "adversary_loss" in history[-1] and "multiplier" in history[-1]
    assert np.any(jax.tree.leaves(state.params)[0] != jax.tree.leaves(plain.params)[0])


@pytest.mark.long
def test_the_attacker_descends_the_ordinary_loss_whatever_the_retain_loss_is():
    """At the original weights the distance from the original model has no gradient."""
    more = {"revival_steps": 2, "revival_rate": 0.1}
    plain = after("scalarization", 1, **more)[0].opt_state.attacker
    matched, _ = after("scalarization", 1, **more, retain_objective="match_original")
    attacker = matched.opt_state.opt_state.attacker
    chex.assert_trees_all_close(attacker.params, plain.params, rtol=1e-5)


def test_bad_settings_are_refused():
    for given, words in (
        ({"objective": "ascent"}, "must be match_anchor or .* with the setting revival_steps"),
        ({"revival_steps": -1}, "revival_steps of method sfron is -1, but must be 0 or more"),
        ({"revival_rate": 0.0}, "revival_rate of method sfron is 0.0, but must be"),
    ):
        with pytest.raises(InputError, match=words):
            methods.settings("sfron", {"revival_steps": 2, "objective": "match_anchor"} | given)
    for none in ({}, {"revival_steps": 0}):
        with pytest.raises(InputError, match="without revival_steps there is none"):
            methods.settings("sfron", {"revival_rate": 0.1, "objective": "match_anchor"} | none)
