"""Runs, studies and data that were moved or copied: what they are follows from what they hold."""

import json
import os
import shutil

import pytest

from jaxunlearn.data import ForgetRequest, fashion_mnist
from jaxunlearn.files import write_record
from jaxunlearn.studies.problem import _data_key, load_training
from jaxunlearn.studies.runs.folder import read_started
from tests.data.toys import write_fashion_mnist
from tests.shell.commands import (
    QUICK,
    assert_refused,
    assert_same_run,
    call,
    copy,
    done,
    problem_words,
    snapshot,
)

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]


@pytest.fixture
def elsewhere(tmp_path, data_dir):
    """The same data in another folder."""
    return copy(data_dir, tmp_path / "elsewhere")


@pytest.fixture
def moved(tmp_path, data_dir, pretrained, retrained, unlearned, monkeypatch):
    """Copies of three runs on a machine where their data is in `tmp_path / "here"`."""
    here = copy(data_dir, tmp_path / "here")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    names = ("pretrained", "retrained", "unlearned")
    folders = (pretrained, retrained, unlearned)
    copies = [copy(run, tmp_path / "runs" / name) for name, run in zip(names, folders, strict=True)]
    for run in copies:
        record = json.loads((run / "fingerprints.json").read_text())
        assert record["data_dir"] == str(data_dir)
        # The folder of the first machine is not there.
        changed = {"data": record["data"], "data_dir": str(tmp_path / "gone")}
        write_record(run / "fingerprints.json", changed)
    yield here, *copies
    assert not (tmp_path / "gone").exists() and not (tmp_path / "nothing").exists()


def test_a_run_does_not_say_where_its_data_is(pretrained):
    problem = json.loads((pretrained / "config.json").read_text())["problem"]
    assert {"data_dir", "folder"} & problem.keys() == set()


def test_the_place_of_the_data_and_its_spelling_do_not_count(
    pretrained, data_dir, elsewhere, monkeypatch
):
    before = snapshot(pretrained)
    monkeypatch.chdir(data_dir.parent)
    for place in (data_dir.name, f"./{data_dir.name}/", data_dir / ".." / data_dir.name, elsewhere):
        printed = done("pretrain", pretrained, *problem_words(place))
        assert "is already finished; nothing to do" in printed
    monkeypatch.setenv("TFDS_DATA_DIR", str(elsewhere))
    words = [word for word in problem_words(data_dir) if word not in ("--data-dir", data_dir)]
    assert "nothing to do" in done("pretrain", pretrained, *words)
    assert snapshot(pretrained) == before


def test_a_run_that_began_at_a_relative_path_continues_from_anywhere(
    data_dir, tmp_path, monkeypatch
):
    monkeypatch.chdir(data_dir.parent)
    done("pretrain", tmp_path / "run", *problem_words(data_dir.name, num_steps=3))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    assert "matches" in done("verify", "run") and not (tmp_path / "nothing").exists()


def test_runs_on_another_machine_are_evaluated_and_gone_on_from(
    moved, pretrained, retrained, unlearned, tmp_path
):
    here, *copies = moved
    place, request = ["--data-dir", here], ["--pretrained", copies[0], "--fraction", 0.1]
    done("evaluate", copies[1], *place)
    found, theirs = (json.loads((f / "results.json").read_text()) for f in (copies[1], retrained))
    assert found["metrics"] == theirs["metrics"]
    done("evaluate", copies[2], "--retrained", copies[1], "--original", copies[0], *place)
    settings = ["finetune", *QUICK]
    done("unlearn", tmp_path / "again", *request, *settings, *place)
    assert_same_run(tmp_path / "again", unlearned)
    done("unlearn", copies[2], *request, *settings, *place)  # finished already
    done("retrain", copies[1], *request, *place)
    done("pretrain", copies[0], *problem_words(here))
    more = ["--pretrained", copies[2], "--fraction", 0.2, *settings, *place]
    done("unlearn", tmp_path / "more", *more)
    for run in (*copies, tmp_path / "more"):
        done("verify", run, *place)
    for name in ("gradient_norm", "nearest"):
        done("select", tmp_path / name, "--pretrained", copies[0], "--by", name, *place)


def test_where_a_command_found_its_data_is_not_kept(moved, data_dir):
    here, run, *_ = moved
    done("verify", run, "--data-dir", here)
    problem = read_started(run).problem
    assert problem.data_dir is None
    assert _data_key(problem)[:3] == ("digits", None, None)


def test_data_that_moved_is_found_and_other_data_refused(pictures, tmp_path, monkeypatch):
    """Files of fashion_mnist: they, not the place where they are, make a run what it is."""
    _, files = pictures
    run, words = tmp_path / "run", ["--data", "fashion_mnist", "--model", "mlp-tiny"]
    words += ["--training.num-steps=2"]
    done("pretrain", run, *words, "--folder", files)
    shutil.move(files, tmp_path / "moved" / "fashion-mnist")
    write_fashion_mnist(tmp_path / "other" / "fashion-mnist", train=24)
    request = ["--pretrained", run, "--fraction", 0.2]
    moved, other = (["--data-dir", tmp_path / name] for name in ("moved", "other"))
    reason = "was trained on other data: fashion_mnist had the fingerprint"
    assert_refused(call("retrain", tmp_path / "new", *request, *other), reason, "give its folder")
    assert_refused(call("pretrain", run, *words, *other), reason)
    assert call("verify", run, *other).status == 2
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "nothing")
    assert_refused(call("retrain", tmp_path / "new", *request), "which fashion_mnist needs")
    assert not (tmp_path / "new").exists()
    done("retrain", tmp_path / "new", *request, *moved)
    assert "nothing to do" in done("pretrain", run, *words, *moved)
    done("evaluate", tmp_path / "new")  # this one remembers where its data was found
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "moved"))  # the default place
    done("verify", run)


def test_a_file_is_the_examples_it_holds(pretrained, tmp_path, monkeypatch):
    """Another path, another order or another form of the same positions is the same run."""
    monkeypatch.chdir(tmp_path)
    indices = load_training(read_started(pretrained).problem, 0).index[:40].tolist()
    (tmp_path / "a.json").write_text(json.dumps(indices))
    (tmp_path / "b.txt").write_text("\n".join(map(str, reversed(indices))))
    words = ["unlearn", tmp_path / "run", "--pretrained", pretrained, "finetune"]
    words += [*QUICK]
    done(*words, "--indices", "a.json")
    for same in (
        ["--indices", tmp_path / "b.txt"],
        ["--indices", "./b.txt"],
        ["--indices", *indices],
    ):
        assert "nothing to do" in done(*words, *same)
    (tmp_path / "a.json").write_text(json.dumps(indices[1:]))
    assert_refused(call(*words, "--indices", "a.json"), "holds another run: request.indices is")


def test_a_copied_study_continues_where_it_is(finished, elsewhere, tmp_path, monkeypatch):
    folder = copy(finished.folder, tmp_path / "moved" / "study")
    config = tmp_path / "moved" / "study.toml"
    config.write_text(finished.config.read_text().replace('data_dir = "', 'data_dir = "/gone'))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    shutil.rmtree(folder / "seed-1" / "class-8" / "tight")
    done("compare", folder, "--config", config, "--data-dir", elsewhere)
    run = os.path.join("seed-1", "class-8", "tight")
    assert_same_run(folder / run, finished.folder / run)
    done("verify", folder, "--data-dir", elsewhere)
    ours, theirs = (json.loads((f / "results.json").read_text()) for f in (folder, finished.folder))
    assert ours["requests"].keys() == theirs["requests"].keys()
    assert ForgetRequest(classes=(8,)).name in ours["requests"]
    assert not (tmp_path / "nothing").exists()
