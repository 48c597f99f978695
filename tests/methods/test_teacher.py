"""Methods that ask a task for its outputs say so when it has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import methods
from jaxunlearn.methods._teacher import distance_from, keep
from jaxunlearn.types import InputError
from tests import toy
from tests.methods.cases import CONVOLUTIONAL, GENERATING

NEEDY = (
    "scrub",
    "scrub_r",
    "bad_teacher",
    "boundary_shrinking",
    "boundary_expanding",
    "unsir",
    "dmm",
)


@pytest.mark.parametrize("name", NEEDY)
def test_a_task_without_outputs_is_refused_when_the_method_is_built(name: str) -> None:
    task = toy.TASK._replace(outputs=None, divergence=None)
    message = r"method \w+ needs a task with outputs and divergence; classification has them\.$"
    with pytest.raises(InputError, match=message):
        methods.build(task, name, methods.settings(name))


def test_all_other_methods_ask_for_losses_only() -> None:
    task = toy.TASK._replace(outputs=None, divergence=None)
    for name in set(methods.available()) - {*NEEDY, *GENERATING, *CONVOLUTIONAL}:
        assert methods.build(task, name, methods.settings(name)).init


def test_the_teacher_is_in_evaluation_mode_and_the_student_in_training() -> None:
    """So even the teacher itself is at some distance, and its pass leaves statistics behind."""
    params, model_state, forget, _ = toy.problem()
    batch, key = toy.nth_batch(forget, 0, 4), jax.random.key(0)
    distance = distance_from(toy.TASK, "any")
    ours, left = distance(keep(params, model_state), params, model_state, batch, key)
    assert toy.TASK.outputs is not None
    target = np.asarray(toy.TASK.outputs(params, model_state, batch, key, False)[0], np.float64)
    logits, expected = toy.TASK.outputs(params, model_state, batch, key, True)
    p, q = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in (target, np.float64(logits)))
    np.testing.assert_allclose(ours, np.mean(np.sum(p * np.log(p / q), axis=1)), rtol=1e-4)
    assert ours > 1e-4
    np.testing.assert_array_equal(left["mean"], expected["mean"])
    assert jnp.any(left["mean"] != model_state["mean"])
