"""Runs that start at an earlier step of the pretraining: kept weights, their starts, refusals."""

import jax
import numpy as np
import pytest

from jaxunlearn.data import ForgetRequest
from jaxunlearn.files import read_json
from jaxunlearn.studies.problem import load_task
from jaxunlearn.studies.runs import rewind
from jaxunlearn.studies.runs.folder import read_config, restored
from jaxunlearn.studies.search import cases
from jaxunlearn.studies.search.cases import load_case, member
from jaxunlearn.training.checkpoints import Checkpointer
from tests.shell.commands import (
    QUICK,
    assert_refused,
    assert_same_run,
    call,
    copy,
    done,
    problem_words,
    weights,
)

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]

HALF = ["--fraction", 0.1, "finetune", *QUICK, "--rewind", 0.5]


def kept(run, step):
    """The kept weights of a pretraining."""
    problem = read_config(run, "pretrain").problem
    found, _ = restored(Checkpointer(run / "kept" / str(step)), problem)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(found)]


@pytest.fixture(scope="module")
def keeping(tmp_path_factory, data_dir):
    """The usual pretraining, which keeps the weights of half of its steps."""
    run = tmp_path_factory.mktemp("keeping") / "run"
    done("pretrain", run, *problem_words(data_dir), "--keep", 0.5)
    return run


def test_keeping_changes_nothing_and_can_be_done_later(keeping, pretrained, tmp_path, data_dir):
    """Also where the pretraining is finished, and trains again up to that step."""
    assert_same_run(keeping, pretrained)
    later = copy(pretrained, tmp_path / "later")
    printed = done("pretrain", later, *problem_words(data_dir), "--keep", 0.5)
    assert "the weights of step 100 are kept" in printed
    assert_same_run(later, pretrained)
    assert read_json(later / "done.json") == read_json(pretrained / "done.json")
    for ours, theirs, last in zip(
        kept(later, 100), kept(keeping, 100), weights(later), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
        assert not np.array_equal(ours, last)


def test_a_run_starts_from_the_kept_weights(keeping, tmp_path):
    """With a learning rate of 0 it ends there; so does a member of a search."""
    run = tmp_path / "run"
    done("unlearn", run, "--pretrained", keeping, *HALF, "--learning-rate", 0)
    for ours, theirs in zip(weights(run), kept(keeping, 100), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    config = read_config(run, "unlearn")
    assert config.start == read_json(keeping / "done.json")["weights"]
    case = load_case(config.problem, 0, config.request, keeping)
    found = member(case, config.settings)
    for ours, theirs in zip(jax.tree.leaves(found.start), kept(keeping, 100), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    found = member(case, config.settings | {"objective": "match_unseen"})
    losses = load_task(config.problem).losses
    batch = {name: leaf[:8] for name, leaf in found.forget.items()}
    unseen = {n.removeprefix("unseen_"): x for n, x in batch.items() if n.startswith("unseen_")}
    visited = unseen | {"epoch": unseen["index"] * 0}
    again, _ = losses(*found.start, visited, jax.random.key(0), False)
    np.testing.assert_allclose(unseen["loss"], again, rtol=1e-5)


def test_a_budget_is_checked_where_the_run_starts(keeping, monkeypatch):
    """Each of several settings at its own weights."""
    config = read_config(keeping, "pretrain")
    case, seen = load_case(config.problem, 0, ForgetRequest(fraction=0.1), keeping), []
    monkeypatch.setattr(cases, "check_original", lambda *given: seen.append(given))
    early, late = {"budget": 1.0, "rewind": 0.5}, {"budget": 2.0}
    cases.check_starts(case, "eupmu_budget", early, late, early)
    assert [given[4:] for given in seen] == [(early, early), (late,)]
    starts = [kept(keeping, 100), weights(keeping)]
    for (_, _, start, *_), expected in zip(seen, starts, strict=True):
        for ours, theirs in zip(jax.tree.leaves(start), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_what_was_not_kept_is_refused(pretrained, unlearned, tmp_path, data_dir):
    run = tmp_path / "run"
    words = ["has not kept the weights of step 100", "--keep 0.5"]
    assert_refused(call("unlearn", run, "--pretrained", pretrained, *HALF), *words)
    sweep = ["sweep", run, "--pretrained", pretrained, *HALF, "--vary", "learning_rate=0.1"]
    assert_refused(call(*sweep), *words)
    second = ["--indices", 0, 1, *HALF[2:]]
    result = call("unlearn", run, "--pretrained", unlearned, *second)
    assert_refused(result, "rewind is 0.5", "a run of unlearn, not of pretrain")
    result = call("pretrain", run, *problem_words(data_dir), "--keep", 1.5)
    assert_refused(result, "keep is 1.5, but must be a share")
    assert not run.exists()


def test_steps_are_whole():
    assert rewind.step_of(0.8, 1880) == 1504 and rewind.step_of(0.001, 100) == 0
