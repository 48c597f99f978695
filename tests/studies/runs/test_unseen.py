"""Forgetting that ends where validation data stand: what the pipeline tells forget examples."""

import time
from contextlib import nullcontext
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.data import ForgetRequest
from jaxunlearn.data.examples import to_device
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.problem import load_splits, load_task
from jaxunlearn.studies.runs import folder, prepare, run_config, train
from jaxunlearn.studies.runs.unseen import with_unseen
from jaxunlearn.types import InputError
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


def test_forget_examples_bring_validation_examples_along(problem, pretrained):
    splits = load_splits(problem, 0, TENTH)
    original = folder.load_weights(pretrained, problem)
    forget = {name: jnp.asarray(leaf) for name, leaf in splits.forget.arrays().items()}
    unseen = to_device(splits.copied)
    forget = with_unseen(load_task(problem), original, unseen, forget)
    names = {"image", "label", "index"}
    brought = {f"unseen_{name}" for name in (*names, "loss")}
    assert set(forget) == names | brought | {"class_mean"}
    p = np.asarray(load_task(problem).predict(*original, splits.copied.arrays()))
    mean = p[splits.copied.label == splits.forget.label[0]].mean(axis=0)
    np.testing.assert_allclose(forget["class_mean"][0], mean, rtol=1e-3, atol=1e-6)
    assert np.all(np.isin(forget["unseen_index"], splits.copied.index))
    brought = np.searchsorted(splits.copied.index, forget["unseen_index"])
    assert np.array_equal(forget["unseen_label"], splits.copied.label[brought])
    told = np.asarray(forget["unseen_loss"])
    np.testing.assert_allclose(
        told, losses(problem, original, splits.copied)[brought], rtol=1e-3, atol=1e-5
    )
    order = np.argsort(losses(problem, original, splits.forget), kind="stable")
    validation = np.sort(losses(problem, original, splits.copied))
    places = (2 * np.arange(len(told)) + 1) * len(validation) // (2 * len(told))
    np.testing.assert_allclose(told[order], validation[places], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("objective", ["match_unseen", "track_unseen"])
def test_unlearning_ends_nearer_to_them(problem, pretrained, tmp_path, objective):
    """The distance between the mean log-losses shrinks."""
    splits = load_splits(problem, 0, TENTH)
    original = folder.load_weights(pretrained, problem)

    def distance(weights):
        unseen_by = original if objective == "match_unseen" else weights
        pairs = ((weights, splits.forget), (unseen_by, splits.copied))
        logs = [np.log(losses(problem, *pair)).clip(-8.0) for pair in pairs]
        return abs(np.subtract(*map(np.mean, logs)))

    settings = SETTINGS | {"objective": objective}
    after = train.unlearn(tmp_path / "run", pretrained, TENTH, "scalarization", settings)
    assert distance(after) < 0.7 * distance(original)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(after))


def test_looking_them_up_counts_without_its_compilation(problem, pretrained, tmp_path, monkeypatch):
    """Of a look-up of 1,000.5 s, of which 1,000 are compilation, the run's seconds hold 0.5."""
    late, compiled = [0.0], []
    clock = time.perf_counter

    def slow(*args):
        late[0] += 1000.5
        compiled.append(1000.0)
        return with_unseen(*args)

    monkeypatch.setattr(time, "perf_counter", lambda: clock() + late[0])
    monkeypatch.setattr(prepare, "compilation_seconds", lambda: nullcontext(compiled))
    monkeypatch.setattr(prepare, "with_unseen", slow)
    settings = SETTINGS | {"num_steps": 1}
    train.unlearn(tmp_path / "run", pretrained, TENTH, "scalarization", settings)
    seconds = folder.read_done(tmp_path / "run")
    assert 0.5 < seconds["seconds"] < 1000.0 < seconds["compile_seconds"]


def test_it_needs_validation_data_of_the_same_kind(problem, tmp_path):
    whole = ForgetRequest(classes=(3,))
    config = run_config.unlearning(problem, 0, whole, "eupmu", SETTINGS)
    with pytest.raises(InputError, match="whole classes are forgotten"):
        train.check_run(tmp_path / "run", config)
    without = replace(problem, validation_fraction=0.0)
    config = run_config.unlearning(without, 0, TENTH, "eupmu", SETTINGS)
    with pytest.raises(InputError, match="raise validation_fraction"):
        train.check_run(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
