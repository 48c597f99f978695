"""Forgetting that ends where validation data stand: what the pipeline tells forget examples."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxunlearn import runs, stages
from jaxunlearn.config import Problem
from jaxunlearn.data import ForgetRequest
from jaxunlearn.setting import load_splits, load_task
from jaxunlearn.types import InputError
from jaxunlearn.unseen import unseen_losses
from tests.shell.commands import TRAINING

pytest_plugins = ["tests.shell.fixtures"]

TENTH = ForgetRequest(fraction=0.1)
SETTINGS = {
    "num_steps": 40,
    "forget_batch_size": 32,
    "retain_batch_size": 32,
    "objective": "match_unseen",
    "weight_decay": 0.0,
}


@pytest.fixture(scope="module")
def problem(data_dir):
    return Problem(data_dir=str(data_dir), model="mlp-tiny", training=TRAINING)


def losses(problem, weights, examples):
    probabilities = load_task(problem).predict(*weights, examples.arrays())
    confidence = np.asarray(probabilities)[np.arange(len(examples)), examples.label]
    return -np.log(np.minimum(confidence, 1.0 - 1e-6))


def test_forget_examples_are_told_the_losses_of_validation_data(problem, pretrained):
    splits = load_splits(problem, 0, TENTH)
    original = runs.load_weights(pretrained, problem)
    told = np.asarray(unseen_losses(load_task(problem), original, splits))
    order = np.argsort(losses(problem, original, splits.forget), kind="stable")
    validation = np.sort(losses(problem, original, splits.validation))
    places = (2 * np.arange(len(told)) + 1) * len(validation) // (2 * len(told))
    np.testing.assert_allclose(told[order], validation[places], rtol=1e-3, atol=1e-5)


def test_unlearning_ends_nearer_to_them(problem, pretrained, tmp_path):
    """The distance between the distributions of log-losses shrinks."""
    splits = load_splits(problem, 0, TENTH)
    original = runs.load_weights(pretrained, problem)
    told = np.sort(np.log(losses(problem, original, splits.validation)).clip(-8.0))

    def distance(weights):
        forget = np.sort(np.log(losses(problem, weights, splits.forget)).clip(-8.0))
        return np.abs(
            np.interp(np.linspace(0, 1, 99), np.linspace(0, 1, len(forget)), forget)
            - np.interp(np.linspace(0, 1, 99), np.linspace(0, 1, len(told)), told)
        ).mean()

    after = stages.unlearn(tmp_path / "run", pretrained, TENTH, "scalarization", SETTINGS)
    assert distance(after) < 0.7 * distance(original)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(after))


def test_it_needs_validation_data_of_the_same_kind(problem, tmp_path):
    whole = ForgetRequest(classes=(3,))
    config = stages.unlearning(problem, 0, whole, "eupmu", SETTINGS)
    with pytest.raises(InputError, match="whole classes are forgotten"):
        stages.check(tmp_path / "run", config)
    without = replace(problem, validation_fraction=0.0)
    config = stages.unlearning(without, 0, TENTH, "eupmu", SETTINGS)
    with pytest.raises(InputError, match="raise validation_fraction"):
        stages.check(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
