"""What a problem stands on is made once, and shared."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.data import ForgetRequest
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.problem import load_dataset, load_shapes, load_splits, load_task
from jaxunlearn.training import hosts
from jaxunlearn.types import InputError

pytest_plugins = ["tests.shell.fixtures"]


@pytest.fixture
def problem(data_dir):
    return Problem(data_dir=str(data_dir), model="mlp-tiny")


def test_the_task_of_a_problem_is_made_once(problem):
    same = replace(problem, training={}, validation_fraction=0.2)
    assert load_task(same) is load_task(problem)
    assert load_dataset(same) is load_dataset(problem)
    other = replace(problem, model_settings={"hidden": [8]})
    assert load_task(other) is not load_task(problem)
    shapes = load_shapes(other)
    params, model_state = load_task(other).init(jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, shapes.params) == jax.tree.map(lambda x: x.shape, params)
    assert shapes.model_state == model_state == {}


def test_a_model_that_does_not_fit_the_images_is_refused_before_it_is_made(problem):
    with pytest.raises(InputError, match="images for ViT are 8x8"):
        load_task(replace(problem, model="vit-ti"))


def test_batch_norm_averages_over_the_mapped_axis(problem):
    """The model must know the name of the axis."""
    problem = replace(problem, model="resnet-tiny")
    task, mapped = load_task(problem), load_task(problem, "devices")
    weights = jax.eval_shape(task.init, jax.random.key(0))
    assert weights == jax.eval_shape(mapped.init, jax.random.key(0))
    batch = {"image": jnp.zeros((2, 8, 8, 1)), "label": jnp.zeros(2, jnp.int32)}
    key = jax.random.key(0)
    jax.eval_shape(lambda *w: task.losses(*w, batch, key, True), *weights)
    with pytest.raises(NameError, match="devices"):
        jax.eval_shape(lambda *w: mapped.losses(*w, batch, key, True), *weights)


def test_the_splits_hang_on_problem_seed_and_request(problem):
    tenth = ForgetRequest(fraction=0.1)
    splits = load_splits(problem, 0, tenth)
    assert load_splits(problem, 0, ForgetRequest(fraction=0.1)) is splits
    others = [
        load_splits(problem, 1, tenth),
        load_splits(problem, 0, ForgetRequest(fraction=0.2)),
        load_splits(replace(problem, validation_fraction=0.2), 0, tenth),
    ]
    for other in others:
        assert not np.array_equal(other.forget.index, splits.forget.index)


def test_facts_on_the_machine():
    facts = hosts.machine()
    assert (facts["platform"], facts["devices"]) == ("cpu", 8)
    assert facts["jax"] == jax.__version__
