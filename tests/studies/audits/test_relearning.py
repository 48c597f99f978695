"""Relearning: the curve against an ordinary training run, and its two ends."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import evaluation, methods, training
from jaxunlearn.studies.audits import relearning
from jaxunlearn.training import devices
from jaxunlearn.types import Weights
from tests import toy


def accuracy(weights, arrays):
    predict_fn = jax.tree_util.Partial(toy.TASK.predict, *weights)
    return evaluation.accuracy(evaluation.predict(predict_fn, arrays, 50))


def test_the_curve_is_that_of_fine_tuning_on_the_forget_data(monkeypatch):
    monkeypatch.setattr(relearning, "_BATCH_SIZE", 5)  # twelve examples: epochs end amid batches
    monkeypatch.setattr(relearning, "SETTINGS", relearning.SETTINGS | {"learning_rate": 0.3})
    params, state, forget, _ = toy.problem()
    wrong = forget | {"label": (forget["label"] + 1) % toy.CLASSES}  # something to learn
    before = [np.array(leaf) for leaf in jax.tree.leaves(params)]
    curve = relearning.relearning_curve(toy.TASK, Weights(params, state), wrong, 3, seed=2)
    settings = methods.settings("finetune", relearning.SETTINGS | {"num_steps": 8})
    program = training.compile_program(
        lambda numbers: methods.build(toy.TASK, "finetune", settings),
        forget_batch_size=5,
        retain_batch_size=5,
        chunk_steps=8,
        mesh=devices.make_mesh(1),
    )
    expected = [accuracy((params, state), wrong)]
    for steps in (3, 5, 8):  # ceilings of 12, 24 and 36 over 5
        outcome = training.run(program, {}, (params, state), wrong, wrong, num_steps=steps, seed=2)
        expected.append(accuracy((outcome.state.params, outcome.state.model_state), wrong))
    assert curve == expected
    assert curve[-1] > curve[0]
    for leaf, old in zip(jax.tree.leaves(params), before, strict=True):
        np.testing.assert_array_equal(leaf, old)


def test_what_is_known_already_stays_known():
    _, state, forget, _ = toy.problem()
    params = jax.tree.map(jnp.zeros_like, toy.problem().params)
    params["head"]["bias"] = jnp.array([50.0, 0.0, 0.0])
    sure = forget | {"label": jnp.zeros_like(forget["label"])}
    assert relearning.relearning_curve(toy.TASK, Weights(params, state), sure, 2) == [100.0] * 3
