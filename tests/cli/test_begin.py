"""Dry runs, which leave no trace, and folders that are overwritten only after all checks."""

import json

from jaxunlearn.studies.workspace import Workspace
from tests.shell.commands import QUICK, assert_refused, call, copy, done, problem_words, snapshot

pytest_plugins = ["tests.shell.fixtures"]


def test_a_dry_run_lists_the_runs_of_a_study_and_writes_nothing(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = json.loads(done("compare", "new", "--config", finished.config, "--dry-run", "--json"))
    assert len(found["runs"]) == 2 * (1 + 2 * (2 + 2)) and found["seconds"] > 0
    row = next(row for row in found["runs"] if row["run"] == "new/seed-1/class-8/finetune")
    assert (row["method"], row["steps"]) == ("finetune", 4)
    assert row["seconds"] > 0 and row["memory"] > 10_000
    printed = done("compare", finished.folder, "--config", finished.config, "--dry-run")
    assert printed.splitlines()[-1].startswith("0 runs would train for 0 s, ")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_one_run_starts_from_its_weights(pretrained, tmp_path):
    words = ["unlearn", tmp_path / "run", "eupmu", "--pretrained", pretrained, "--fraction", 0.1]
    printed = done(*words, *QUICK, "--dry-run")
    assert "1 run would train for " in printed and "nothing was written" in printed
    assert_refused(
        call(*words, "--step-size=0", "--dry-run"), "setting step_size of method eupmu is 0.0"
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_is_overwritten_only_after_all_checks(unlearned, pretrained, tmp_path):
    run = copy(unlearned, tmp_path / "run")
    words = ["unlearn", run, "finetune", "--pretrained", pretrained, *QUICK, "--overwrite"]
    before = snapshot(run)
    assert_refused(call(*words, "--classes", 99), "class 99 does not exist")
    with Workspace(run).locked():
        assert_refused(call(*words, "--classes", 3), "another process is at work in")
    assert snapshot(run) == before
    done(*words, "--classes", 3, "--dry-run")
    assert snapshot(run) == before
    done(*words, "--classes", 3)
    assert json.loads((run / "forget_request.json").read_text())["name"] == "class-3"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_only_runs_are_overwritten_and_never_the_start(pretrained, data_dir, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("text")
    words = ["pretrain", tmp_path / "thesis", *problem_words(data_dir), "--overwrite"]
    assert_refused(call(*words), "is not empty and holds no run")
    run = copy(pretrained, tmp_path / "run")
    words = ["unlearn", run, "finetune", "--pretrained", run, "--fraction", 0.1, "--overwrite"]
    assert_refused(call(*words), "which the command needs, so it cannot be overwritten")
    assert (run / "done.json").exists() and (tmp_path / "thesis" / "thesis.tex").exists()
