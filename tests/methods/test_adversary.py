"""Adversarial steps: the embedding that brings forgotten images back, inside the forget phase."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxunlearn import methods
from jaxunlearn.types import Conditions, InputError
from tests.toy_diffusion import CLASSES, KEY, batch_of, toy

pytestmark = pytest.mark.long

WIDTH = 2


class Readout(nn.Module):
    """Pixels, plus a matrix that reads the embedding of the label: the toy that can resist."""

    @nn.compact
    def __call__(self, images, timesteps, labels, train=False):
        del timesteps, train
        if self.has_variable("given", "classes"):
            embeddings = self.get_variable("given", "classes")[labels]
        else:
            embeddings = nn.Embed(CLASSES + 1, WIDTH, name="classes")(labels)
        x = nn.Dense(16, name="pixels")(images.reshape(len(images), -1))
        return (x + nn.Dense(16, use_bias=False, name="readout")(embeddings)).reshape(images.shape)


CONDITIONS = Conditions(
    read=lambda params, model_state: params["classes"]["embedding"],
    write=lambda model_state, table: {**model_state, "given": {"classes": table}},
)
TASK = toy(Readout(), reduction="mean", label_drop=0.0)._replace(conditions=CONDITIONS)
FORGET = batch_of() | {"label": jnp.zeros(6, jnp.int32)}
RETAIN = batch_of() | {"label": jnp.array([1, 2, 1, 2, 1, 2]), "index": jnp.arange(6, 12)}
SETTINGS = {"learning_rate": 0.3, "learning_rate_schedule": "constant", "weight_decay": 0.0}
SETTINGS |= {"objective": "match_anchor", "optimizer": "sgd", "momentum": 0.0}
NONE = {"adversarial_steps": 0}


def after(name, steps, task=TASK, **more):
    arrays = [{k: v for k, v in b.items() if k != "epoch"} for b in (FORGET, RETAIN)]
    held_out = {"held_out": arrays[1]}
    method = methods.build(task, name, methods.settings(name, SETTINGS | more) | held_out)
    state = method.init(KEY, *task.init(KEY), *arrays)
    retain = jax.tree.map(lambda x: jnp.stack([x] * method.retain_batches), RETAIN)
    step, history = jax.jit(method.step), []
    for _ in range(steps):
        state, metrics = step(state, FORGET, retain)
        history.append(metrics)
    return state, history


def test_the_adversary_finds_what_the_plain_objective_misses():
    """The plain objective moves the embedding of the class to its anchor's. The matrix still reads
    the old difference, so the old embedding brings the class back; the adversary starts there."""
    old = TASK.init(KEY)[0]["classes"]["embedding"]

    def gap(params, table):
        return jnp.linalg.norm((table[0] - table[1]) @ params["readout"]["kernel"])

    before = gap(TASK.init(KEY)[0], old)
    for steps, least, most in ((0, 0.9, 2.0), (1, 0.0, 0.25)):
        state, _ = after("scalarization", 200, adversarial_steps=steps, retain_weight=0.0)
        assert gap(state.params, state.params["classes"]["embedding"]) < 1e-3 * before
        assert least * before < gap(state.params, old) < most * before


def test_the_adversary_lowers_the_loss_of_the_forgotten_images_alone():
    """Its embedding is kept from step to step, so its loss falls; other labels' do not move."""
    still = {"learning_rate": 0.0, "forget_learning_rate": 0.0, "num_fast_steps": 1}
    old = TASK.init(KEY)[0]["classes"]["embedding"]
    state, history = after("sfron", 20, adversarial_steps=2, **still)
    chex.assert_trees_all_equal(state.params["classes"]["embedding"], old)
    assert np.any(state.opt_state.attacker.embeddings != old, axis=1).tolist() == [
        True,
        *[False] * CLASSES,
    ]
    assert history[-1]["adversary_loss"] < history[0]["adversary_loss"]


def test_no_adversarial_steps_change_nothing():
    states = [after("scalarization", 2, **m)[0] for m in ({}, NONE)]
    chex.assert_trees_all_equal(*states)


def test_a_guard_and_the_distance_from_the_original_model_go_with_it():
    """A guard calls the scaled step, and the original model is an entry of the model state."""
    more = {"adversarial_steps": 1, "retain_objective": "match_original"}
    plain, _ = after("eupmu", 2, **more)
    guarded, history = after("eupmu", 2, **more, guard_budget=1e6, guard_every=1)
    chex.assert_trees_all_equal(plain.params, guarded.params)
    assert history[-1]["guard_rollbacks"] == 0


def test_bad_settings_are_refused():
    for given, words in (
        ({"objective": "esd"}, "must be match_anchor with the setting adversarial_steps"),
        (
            {"adversarial_steps": -1},
            "adversarial_steps of method sfron is -1, but must be 0 or more",
        ),
    ):
        with pytest.raises(InputError, match=words):
            methods.settings("sfron", {"adversarial_steps": 1, "objective": "match_anchor"} | given)
    with pytest.raises(InputError, match="must be 0 for a model without known embeddings"):
        after("eupmu", 0, task=toy(), adversarial_steps=1)
