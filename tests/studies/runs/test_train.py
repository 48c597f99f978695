"""The stages that train, as functions: what they check, skip, share and leave behind."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import methods, training
from jaxunlearn.data import ForgetRequest
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.files import read_json
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.fields import from_dict
from jaxunlearn.studies.problem import load_splits, load_task
from jaxunlearn.studies.runs import folder, run_config, train
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.training.devices import placement_of
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import InputError
from tests.shell.commands import (
    QUICK,
    TRAINING,
    assert_same_run,
    copy,
    done,
    snapshot,
    weights,
)

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]

TENTH = ForgetRequest(fraction=0.1)
FEW_STEPS = {"num_steps": 4, "forget_batch_size": 32, "retain_batch_size": 32}


@pytest.fixture(scope="module")
def problem(data_dir):
    return Problem(data_dir=str(data_dir), model="mlp-tiny", training=TRAINING)


@pytest.fixture
def untrained(monkeypatch):
    """Fails the test if anything is trained."""

    def refuse(*args, **keywords):
        raise AssertionError("something is trained")

    monkeypatch.setattr(training, "run", refuse)


def test_the_commands_are_these_functions(problem, pretrained, tmp_path, untrained):
    """A run that a command has made is finished for the function, and the weights are those."""
    before = snapshot(pretrained)
    result = train.pretrain(pretrained, problem, 0)
    assert snapshot(pretrained) == before
    for ours, theirs in zip(jax.tree.leaves(result), weights(pretrained), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_check_writes_nothing(problem, pretrained, retrained, unlearned, tmp_path, untrained):
    config = run_config.pretraining(problem, 0)
    for run in (tmp_path / "new", pretrained):
        train.check_run(run, config)
    assert not (tmp_path / "new").exists()
    train.check_run(retrained, run_config.retraining(problem, 0, TENTH))
    config = run_config.unlearning(problem, 0, TENTH, "finetune", FEW_STEPS)
    train.check_run(unlearned, config)  # the original weights may not be known yet,
    start = folder.read_done(pretrained)["weights"]
    train.check_run(unlearned, replace(config, start=start))
    with pytest.raises(InputError, match="start is .* there"):  # but they matter once they are
        train.check_run(unlearned, replace(config, start=start[::-1]))
    with pytest.raises(InputError, match="again is False there, but True now"):
        train.check_run(retrained, run_config.retraining(problem, 0, TENTH, again=True))


def test_weights_that_were_deleted_are_made_again_from_the_checkpoint(
    pretrained, unlearned, tmp_path
):
    run = copy(unlearned, tmp_path / "run")
    cost = json.loads((run / "done.json").read_text())
    shutil.rmtree(run / "weights")
    assert not folder.is_finished(run)
    train.train_run(run, runs_config(run), pretrained=pretrained)
    assert_same_run(run, unlearned)
    again = json.loads((run / "done.json").read_text())
    assert again["seconds"] == cost["seconds"]  # no step was taken


def runs_config(run):
    """What a run is for, finished or not."""
    return from_dict(folder.RunConfig, read_json(run / "config.json"), "the run")


def test_original_and_retrained_models_begin_with_weights_of_their_own(problem, tmp_path):
    """With one step of rate 0, the weights are those of the beginning."""
    frozen = {"num_steps": 1, "learning_rate": 0.0, "weight_decay": 0.0, "retain_batch_size": 64}
    problem = replace(problem, training=frozen)
    made = [
        train.pretrain(tmp_path / "pretrain", problem, 0),
        train.pretrain(tmp_path / "other", problem, 1),
        train.retrain(tmp_path / "retrain", tmp_path / "pretrain", TENTH),
        train.retrain(tmp_path / "again", tmp_path / "pretrain", TENTH, again=True),
    ]
    kernels = [max(map(np.asarray, jax.tree.leaves(tree)), key=np.size) for tree in made]
    for i, kernel in enumerate(kernels):
        assert all((kernel != other).any() for other in kernels[:i])
    train.unlearn(tmp_path / "same", tmp_path / "pretrain", TENTH, "finetune", frozen)
    for ours, theirs in zip(
        weights(tmp_path / "same"), weights(tmp_path / "pretrain"), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_unlearning_from_nothing_is_refused(problem, tmp_path):
    config = run_config.unlearning(problem, 0, TENTH, "finetune", FEW_STEPS)
    with pytest.raises(InputError, match="run has no weights to start from; give pretrained"):
        train.train_run(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_unlearning_twice_gives_the_same_bits_and_leaves_the_original_alone(
    pretrained, unlearned, tmp_path
):
    before = snapshot(pretrained)
    train.unlearn(tmp_path / "run", pretrained, TENTH, "finetune", FEW_STEPS)
    assert_same_run(tmp_path / "run", unlearned)
    assert snapshot(pretrained) == before
    moved = [
        (ours != theirs).any()
        for ours, theirs in zip(weights(unlearned), weights(pretrained), strict=True)
    ]
    assert all(moved)


def test_other_numbers_compile_nothing(pretrained, unlearned, tmp_path):
    settings = FEW_STEPS | {"learning_rate": 0.07, "momentum": 0.5}
    train.unlearn(tmp_path / "run", pretrained, TENTH, "finetune", settings)
    assert folder.read_done(tmp_path / "run")["compile_seconds"] == 0.0
    assert (weights(tmp_path / "run")[0] != weights(unlearned)[0]).any()


def test_two_devices_give_the_same_numbers(pretrained, unlearned, tmp_path, capsys):
    """With half of the parameters on each of them."""
    layout = Layout(devices=2, parameters="sharded")
    train.unlearn(tmp_path / "run", pretrained, TENTH, "finetune", FEW_STEPS, layout)
    assert "replicated" not in capsys.readouterr().out
    for ours, theirs in zip(weights(tmp_path / "run"), weights(unlearned), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    # It is still the same run: a study may continue on other devices.
    train.unlearn(tmp_path / "run", pretrained, TENTH, "finetune", FEW_STEPS, Layout())


def test_parameters_that_cannot_be_split_are_named(capsys):
    sharded = placement_of(Layout(devices=4, parameters="sharded"))
    params = {name: jnp.ones((3, 5)) for name in "abcd"} | {"e": jnp.ones((3, 8))}
    train._report_replicated(params, sharded)
    assert capsys.readouterr().out == (
        "4 parameters are replicated on all devices, since none of their axes is divisible by 4: "
        "a, b, c and others\n"
    )
    train._report_replicated(params, placement_of(Layout(devices=4)))
    assert not capsys.readouterr().out


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_micro_batches_give_the_same_numbers(pretrained, unlearned, tmp_path, parallel):
    run, layout = tmp_path / "run", Layout(devices=2, micro_batch=8, parallel=parallel)
    train.unlearn(run, pretrained, TENTH, "finetune", FEW_STEPS, layout)
    for ours, theirs in zip(weights(run), weights(unlearned), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert (run / "config.json").read_bytes() == (unlearned / "config.json").read_bytes()


def test_chunks_and_checkpoints_come_as_often_as_the_layout_asks(
    pretrained, unlearned, tmp_path, monkeypatch
):
    """The numbers are the same, and so is what the run is."""
    saved, save = [], Checkpointer.save

    def noting(self, step, *rest):
        saved.append((self.folder.name, step))
        return save(self, step, *rest)

    monkeypatch.setattr(Checkpointer, "save", noting)
    run, layout = tmp_path / "run", Layout(chunk_steps=1, checkpoint_every=2)
    train.unlearn(run, pretrained, TENTH, "finetune", FEW_STEPS, layout)
    assert saved == [("checkpoints", 2), ("checkpoints", 4), ("weights", 4)]
    for ours, theirs in zip(weights(run), weights(unlearned), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (run / "config.json").read_bytes() == (unlearned / "config.json").read_bytes()


@pytest.mark.parametrize("name", ["lr=[0.1]", "a\\b", "gs:"])
def test_a_folder_that_keeps_no_checkpoints_is_refused_first(problem, tmp_path, untrained, name):
    with pytest.raises(
        InputError, match="checkpoints cannot be written there; name a folder without"
    ):
        train.pretrain(tmp_path / name / "run", problem, 0)
    assert not list(tmp_path.iterdir())


def test_an_own_method_runs_like_any_other(pretrained, tmp_path):
    def reversed_ascent(task, optimizer, *, factor: float = 2.0):
        """Moves `factor` times as far as fine-tuning.

        Args:
            task: what is unlearned.
            optimizer: any optax optimizer.
            factor: how many times.
        """
        return methods.finetune(task, optax.chain(optimizer, optax.scale(factor)))

    methods.register(reversed_ascent)
    try:
        assert "factor = 2.0" in done("list", "reversed_ascent")
        assert "how many times." in done("list", "reversed_ascent")
        words = ["--pretrained", pretrained, "--fraction", 0.1, "reversed_ascent"]
        done("unlearn", tmp_path / "run", *words, *QUICK, "--factor=0")
        for ours, theirs in zip(weights(tmp_path / "run"), weights(pretrained), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    finally:
        del methods._METHODS["reversed_ascent"]


def test_a_budget_that_the_original_model_breaks_leaves_nothing_behind(
    pretrained, tmp_path, untrained
):
    with pytest.raises(InputError, match="budget is 1e-06 points .* for the original model"):
        train.unlearn(tmp_path / "run", pretrained, TENTH, "eupmu_budget", {"budget": 1e-6})
    assert not (tmp_path / "run").exists()


def test_a_guarded_run_keeps_its_budget_and_records_it(pretrained, problem, tmp_path):
    """The same steps without the guard more than double the held-out loss."""
    words = ["--pretrained", pretrained, "--fraction", 0.1, "gradient_ascent"]
    steep = ["--num-steps=12", "--learning-rate=0.3", "--guard-every=2"]
    printed = done("unlearn", tmp_path / "run", *words, *steep, "--guard-budget=0.05")
    done("unlearn", tmp_path / "alone", *words, *steep, "--guard-budget=1e9")
    done("evaluate", tmp_path / "run")
    guard = json.loads((tmp_path / "run" / "results.json").read_text())["guard"]
    alone = folder.read_done(tmp_path / "alone")["guard"]
    splits = load_splits(problem, 0, TENTH)

    def held_out_loss(run):
        rows, labels = predict_with(
            load_task(problem), folder.load_weights(run, problem), splits.judged.arrays()
        )
        return float(np.mean(-np.log(rows[np.arange(len(labels)), labels])))

    assert guard["limit"] == pytest.approx(held_out_loss(pretrained) + 0.05, abs=1e-4)
    assert guard["end"] == pytest.approx(held_out_loss(tmp_path / "run"), abs=1e-4)
    assert guard["start"] < guard["end"] <= guard["limit"] and guard["rollbacks"] > 0
    assert alone["rollbacks"] == 0 and alone["end"] > 2 * guard["limit"]
    assert f"limit {guard['limit']:.4g}, {guard['rollbacks']} rollbacks" in printed
    without = Problem(data_dir=problem.data_dir, model="mlp-tiny", validation_fraction=0.0)
    guarded = run_config.unlearning(without, 0, TENTH, "finetune", {"guard_budget": 0.1})
    with pytest.raises(InputError, match="guard_budget needs validation data"):
        train.check_run(tmp_path / "other", guarded)


def test_the_result_of_a_run_is_the_average_of_its_weights_if_it_has_one(problem, tmp_path):
    def result(name, **training):
        training = TRAINING | {"learning_rate_schedule": "constant", **training}
        return train.pretrain(tmp_path / name, replace(problem, training=training), 0).params

    first, second = result("one", num_steps=1), result("two", num_steps=2)
    average = result("average", num_steps=2, ema=0.5)
    for a, b, found in zip(*map(jax.tree.leaves, (first, second, average)), strict=True):
        np.testing.assert_allclose(found, (0.5 * a + b) / 1.5, rtol=1e-5, atol=1e-7)
    kept = Checkpointer(tmp_path / "average" / "checkpoints").stored()["params"]
    for last, b in zip(*map(jax.tree.leaves, (kept, second)), strict=True):
        np.testing.assert_array_equal(last, b)  # the last weights are kept too
    assert (tmp_path / "average" / "metrics.jsonl").read_text() == (
        tmp_path / "two" / "metrics.jsonl"
    ).read_text()
