"""Ctrl-C, SIGTERM and SIGKILL: the same command continues, and ends with the very same bits."""

import json
import signal
import time
from pathlib import Path

import pytest

from jaxunlearn.studies import console
from jaxunlearn.training.checkpoints import Checkpointer
from tests.shell.commands import (
    QUICK,
    assert_same_run,
    call,
    done,
    problem_words,
    snapshot,
    start,
    wait,
)

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]

LONG = 10000  # steps: a second or more of work, with a checkpoint at every thousand


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Where the processes of this module share their compiled programs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir) -> Path:
    """A long pretraining run that nobody stopped."""
    run = tmp_path_factory.mktemp("long") / "run"
    done("pretrain", run, *problem_words(data_dir, num_steps=LONG))
    return run


def wait_for_checkpoint(run: Path, step: int) -> None:
    """Until a process has saved that step or a later one."""
    for _ in range(6000):
        saved = [int(path.parent.name) for path in run.glob("checkpoints/*/contents.json")]
        if max(saved, default=0) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint of step {step} in {run}")


def test_ctrl_c_and_terminate(undisturbed, data_dir, cache, tmp_path):
    run = tmp_path / "run"
    words = ["pretrain", run, *problem_words(data_dir, num_steps=LONG)]
    for number, step in ((signal.SIGINT, 1000), (signal.SIGTERM, 4000)):
        process = start(*words, cache=cache)
        wait_for_checkpoint(run, step)
        process.send_signal(number)
        ended = wait(process)
        assert ended.status == 130, ended
        stopped = Checkpointer(run / "checkpoints").newest_step()
        assert stopped is not None and step <= stopped < LONG
        assert ended.err == (
            f"jaxunlearn: stopped at step {stopped} of {LONG}; the same command continues from "
            f"step {stopped}.\n"
        )
        assert all(": step " in line for line in ended.out.splitlines())  # progress, if slow
        assert not (run / "done.json").exists()
    assert f"{LONG} steps" in done(*words)
    assert_same_run(run, undisturbed)


def test_kill_at_any_moment(undisturbed, data_dir, cache, tmp_path):
    """Soon after a checkpoint; the moment itself is the scheduler's."""
    run = tmp_path / "run"
    words = ["pretrain", run, *problem_words(data_dir, num_steps=LONG)]
    process = start(*words, cache=cache)
    wait_for_checkpoint(run, 4000)
    process.kill()
    assert wait(process).status == -signal.SIGKILL
    unfinished = not (run / "done.json").exists()
    ended = call(*words)
    assert ended.status == 0, ended
    assert (f"{LONG} steps" in ended.out) == unfinished
    assert_same_run(run, undisturbed)


# The command, killed while it writes the part of a checkpoint that comes last, the third time.
KILLED_WHILE_SAVING = """
import os, signal, sys
import orbax.checkpoint as ocp
from jaxunlearn.__main__ import main

saves, save = [], ocp.JsonCheckpointHandler.async_save

def killed_save(*args, **kwargs):
    saves.append(args)
    if len(saves) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return save(*args, **kwargs)

ocp.JsonCheckpointHandler.async_save = killed_save
main()
"""


def test_kill_inside_the_writing_of_a_checkpoint(undisturbed, data_dir, cache, tmp_path):
    run = tmp_path / "run"
    words = ["pretrain", run, *problem_words(data_dir, num_steps=LONG)]
    ended = wait(start(*words, cache=cache, program=("-c", KILLED_WHILE_SAVING)))
    assert ended.status == -signal.SIGKILL, ended
    (half,) = [path for path in (run / "checkpoints").iterdir() if not path.name.isdigit()]
    assert any(path.is_file() for path in half.rglob("*"))
    assert Checkpointer(run / "checkpoints").steps() == [1000, 2000]
    done(*words)
    assert not half.exists()
    assert_same_run(run, undisturbed)


# The command, interrupted when it begins to import a package.
INTERRUPTED_WHILE_IMPORTING = """
import importlib.abc, os, signal, sys
from jaxunlearn.__main__ import main

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {package!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
main()
"""


@pytest.mark.parametrize("package", ["jax", "orbax.checkpoint"])
def test_ctrl_c_while_it_imports(data_dir, cache, tmp_path, package):
    words = problem_words(data_dir, num_steps=LONG)
    program = ("-c", INTERRUPTED_WHILE_IMPORTING.format(package=package))
    ended = wait(start("pretrain", tmp_path / "run", *words, cache=cache, program=program))
    assert ended.status == 130, ended
    assert ended.err.startswith("jaxunlearn: stopped") and ended.err.count("\n") == 1
    assert "the same command continues" in ended.err


def test_killed_between_the_weights_and_the_end(pretrained, data_dir, tmp_path):
    """All that is missing is the last file; what is there is not computed again."""
    run = tmp_path / "run"
    words = ["pretrain", run, *problem_words(data_dir)]
    done(*words)
    record = json.loads((run / "done.json").read_text())
    (run / "done.json").unlink()
    assert "200 steps" in done(*words)
    again = json.loads((run / "done.json").read_text())
    assert (again["weights"], again["seconds"]) == (record["weights"], record["seconds"])
    assert_same_run(run, pretrained)


def test_killed_while_the_folder_was_claimed(pretrained, tmp_path):
    words = ["retrain", "", "--pretrained", pretrained, "--fraction", 0.1]
    words[1] = run = tmp_path / "run"
    done(*words)
    whole = snapshot(run)
    for lost in (["forget_request.json"], ["fingerprints.json", "forget_request.json"]):
        for name in lost:
            (run / name).unlink()
        (run / ".config.json.123").write_text("{")  # half of a file that was never finished
        (run / "done.json").unlink()
        done(*words)
        for name in ("config.json", "fingerprints.json", "forget_request.json"):
            assert (run / name).read_bytes() == whole[name]


def test_a_study_stops_at_once_and_continues(finished, study_text, tmp_path, monkeypatch):
    """Ctrl-C in the last chunk of a run stops the study too, not just the run."""
    config, folder = tmp_path / "study.toml", tmp_path / "study"
    config.write_text(study_text.replace("seeds = [0, 1]", "seeds = [0]"))
    reports = []

    def interrupt(reporter: console.Reporter, progress: object) -> None:
        reports.append((reporter.label, progress))
        if len(reports) == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(console.Reporter, "__call__", interrupt)
    stopped = call("compare", folder, "--config", config)
    assert stopped.status == 130
    assert "the same command continues" in stopped.err
    assert reports[-1][0].endswith("seed-0/random-0.1/retrain")
    assert len(reports) == 4  # two chunks of the original model, two of the retrained one
    assert not (folder / "seed-0" / "random-0.1" / "retrain" / "results.json").exists()

    done("compare", folder, "--config", config)
    for path in sorted((folder / "seed-0").rglob("predictions.npz")):
        theirs = finished.folder / path.relative_to(folder)
        assert path.read_bytes() == theirs.read_bytes()


def test_a_run_that_was_stopped_is_not_evaluated(pretrained, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def interrupt(reporter: console.Reporter, progress: object) -> None:
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(console.Reporter, "__call__", interrupt)
        words = ["--pretrained", pretrained, "--fraction", 0.1, "finetune"]
        stopped = call("unlearn", run, *words, *QUICK)
    assert stopped.status == 130
    assert "stopped at step 4 of 4" in stopped.err
    assert call("evaluate", run).status == 2
    done("unlearn", run, *words, *QUICK)
    done("evaluate", run)
