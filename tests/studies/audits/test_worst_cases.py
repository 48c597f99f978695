"""Worst-case requests: scores against brute force, and what the command writes."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxunlearn import data
from jaxunlearn.data import ForgetRequest
from jaxunlearn.studies.audits import worst_cases
from jaxunlearn.studies.audits.memorisation import memorisation
from jaxunlearn.studies.problem import load_dataset, load_splits, load_training
from jaxunlearn.studies.runs import folder
from jaxunlearn.types import InputError, Weights
from tests import toy
from tests.shell.commands import assert_refused, call, done

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]


def gradients(examples):
    """One by one, without any of the machinery."""
    params, state, _, _ = toy.problem()
    rows = []
    for i in range(len(examples["label"])):
        batch = toy.nth_batch(examples, i, 1)

        def loss(p, batch=batch):
            return toy.TASK.losses(p, state, batch, jax.random.key(3), False)[0][0]

        rows.append(np.asarray(ravel_pytree(jax.grad(loss)(params))[0], np.float64))
    return np.stack(rows)


def toy_weights():
    params, state, _, _ = toy.problem()
    return Weights(params, state)


def test_gradient_norms_and_influences_are_those_of_single_gradients():
    _, _, forget, retain = toy.problem()
    alone = gradients(forget)
    norms = worst_cases.gradient_norms(toy.TASK, toy_weights(), forget)
    np.testing.assert_allclose(norms, np.linalg.norm(alone, axis=1), rtol=1e-5)
    influences = worst_cases.influences(toy.TASK, toy_weights(), forget, retain)
    np.testing.assert_allclose(influences, alone @ gradients(retain).mean(axis=0), atol=1e-6)
    assert influences.min() < 0 < influences.max()


def test_a_step_on_an_example_lowers_the_unseen_loss_by_its_influence():
    _, state, forget, retain = toy.problem()
    weights, rate = toy_weights(), 1e-2
    influences = worst_cases.influences(toy.TASK, weights, forget, retain)
    flat, unravel = ravel_pytree(weights.params)
    unseen = toy.nth_batch(retain, 0, toy.NUM_RETAIN)

    def loss(params):
        return float(toy.TASK.losses(params, state, unseen, jax.random.key(0), False)[0].mean())

    for gradient, influence in zip(gradients(forget)[:4], influences, strict=False):
        moved = unravel(flat - rate * jnp.asarray(gradient, jnp.float32))
        assert loss(weights.params) - loss(moved) == pytest.approx(rate * influence, abs=4e-4)


@pytest.mark.parametrize("rows", [5, 512])
def test_nearest_cosines_are_those_of_all_pairs(monkeypatch, rows):
    monkeypatch.setattr(worst_cases, "_ROWS", rows)
    _, _, forget, _ = toy.problem()
    alone = gradients(forget)
    unit = alone / np.linalg.norm(alone, axis=1, keepdims=True)
    pairs = unit @ unit.T - 9 * np.eye(len(unit))
    cosines, neighbours = worst_cases.nearest_cosines(toy.TASK, toy_weights(), forget)
    np.testing.assert_allclose(cosines, pairs.max(axis=1), atol=1e-5)
    np.testing.assert_array_equal(neighbours, pairs.argmax(axis=1))


def test_sketches_keep_cosines(monkeypatch):
    _, _, forget, retain = toy.problem()
    both = {name: jnp.concatenate([forget[name], retain[name]]) for name in forget}
    alone = gradients(both)
    unit = alone / np.linalg.norm(alone, axis=1, keepdims=True)
    errors = []
    for size in (10, 40):
        worst_cases._sketches.clear_cache()
        monkeypatch.setattr(worst_cases, "_SKETCH", size)
        sketches = np.asarray(worst_cases._sketches(toy.TASK, toy_weights(), both))
        assert sketches.shape == (48, size)
        sketches = sketches / np.linalg.norm(sketches, axis=1, keepdims=True)
        errors.append(np.abs(sketches @ sketches.T - unit @ unit.T).mean())
    worst_cases._sketches.clear_cache()
    assert errors[1] < errors[0] and errors[1] < 0.2


def test_no_example_is_taken_together_with_its_nearest_neighbour():
    rng = np.random.default_rng(0)
    scores, neighbours = rng.random(60), (np.arange(60) + rng.integers(1, 60, 60)) % 60
    chosen = worst_cases._apart(scores, neighbours, 15)
    assert len(set(chosen)) == 15 and not set(neighbours[chosen]) & set(chosen)
    assert chosen[0] == scores.argmax()
    pair = worst_cases._apart(np.array([0.9, 0.9, 0.1]), np.array([1, 0, 0]), 1)
    assert pair.tolist() == [0]
    with pytest.raises(InputError, match="only 1 of 2"):
        worst_cases._apart(np.array([0.9, 0.9]), np.array([1, 0]), 2)


@pytest.mark.parametrize("by", worst_cases.SCORES)
def test_the_command_writes_a_file_that_requests_read(by, pretrained, tmp_path, monkeypatch):
    fewer = functools.partial(memorisation, num_models=2)
    monkeypatch.setattr(worst_cases, "memorisation", fewer)
    file = tmp_path / "worst.json"
    printed = done("select", file, "--pretrained", pretrained, "--by", by, "--fraction", 0.05)
    chosen = json.loads(file.read_text())
    config = folder.read_pretrained(pretrained)
    splits = load_splits(config.problem, config.seed, ForgetRequest(indices=str(file)))
    assert splits.forget.index.tolist() == chosen
    learned = load_training(config.problem, config.seed)
    assert len(chosen) == round(0.05 * len(learned))
    assert f"{len(chosen)} of {len(learned)} training examples" in printed
    layout = ["--chunk-steps", 7] if by == "memorisation" else []
    words = ["--by", by, "--fraction", 0.05, *layout]
    again = done("select", file, "--pretrained", pretrained, *words)
    assert again == printed
    other = call("select", file, "--pretrained", pretrained, "--by", by, "--fraction", 0.06)
    assert_refused(other, "holds something else")


def test_the_highest_scores_are_taken(pretrained, tmp_path):
    found = worst_cases.select(pretrained, "gradient_norm", 0.1, tmp_path / "worst.json")
    assert found.scores[found.chosen].min() >= found.scores[~found.chosen].max()
    config = folder.read_pretrained(pretrained)
    learned = load_training(config.problem, config.seed)
    np.testing.assert_array_equal(found.indices, learned.index[found.chosen])
    _, held_out = data.hold_out(load_dataset(config.problem), seed=config.seed)
    assert not set(found.indices) & set(held_out)


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["--by", "nearest", "--fraction", 1.0], ("between 0 and 1",)),
        (["--by", "nearest", "--fraction", 0.0001], ("takes 0 of", "one at least")),
        (["--by", "nearest", "--fraction", 0.9999], ("leave one at least",)),
        (["--by", "nearest", "--fraction", 0.9], ("smaller fraction",)),
        (["--by", "nearest", "--devices", 2], ("which trains nothing", "leave out devices")),
    ],
)
def test_what_cannot_be_chosen_is_refused(pretrained, tmp_path, words, fragments):
    file = tmp_path / "worst.json"
    assert_refused(call("select", file, "--pretrained", pretrained, *words), *fragments)
    assert not file.exists()


def test_an_unknown_score_is_answered_with_the_known_ones(pretrained, tmp_path):
    refused = call("select", tmp_path / "worst.json", "--pretrained", pretrained, "--by", "nearst")
    assert_refused(refused, "--by is 'nearst' (did you mean 'nearest'?), but must be one of")
    assert not list(tmp_path.iterdir())
