"""Folders that are not what a command needs: one clear sentence, status 2, and nothing lost."""

import json
import shutil

import pytest

from jaxunlearn.files import write_record
from jaxunlearn.studies.workspace import Workspace
from tests.data.toys import write_fashion_mnist
from tests.shell.commands import (
    QUICK,
    assert_refused,
    assert_same_run,
    call,
    copy,
    done,
    problem_words,
    rewrite,
    snapshot,
)

pytestmark = pytest.mark.long

pytest_plugins = ["tests.shell.fixtures"]


def test_folders_that_cannot_be_a_run(here, pretrained, unwritable):
    words = ["--pretrained", pretrained, "--fraction", 0.1]
    for folder, reason in {
        "a-file": "a-file is a file, but must be a folder for a run",
        "a-file/run": "cannot be written (Not a directory); choose a folder",
        "full": "full is not empty and holds no run",
        unwritable / "run": f"{unwritable / 'run'} cannot be written (",
    }.items():
        assert_refused(call("retrain", folder, *words), reason)


def test_folders_that_another_process_works_in(retrained, data_dir, tmp_path):
    with Workspace(tmp_path / "run").locked():
        result = call("pretrain", tmp_path / "run", *problem_words(data_dir))
    assert_refused(result, f"another process is at work in {tmp_path / 'run'}; wait until")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    before = snapshot(retrained)
    with Workspace(retrained).locked():
        assert_refused(call("evaluate", retrained), "another process is at work")
    assert snapshot(retrained) == before


def test_a_pretraining_run_that_is_none(here, pretrained, retrained, tmp_path_factory):
    words = ["retrain", "run", "--fraction", 0.1, "--pretrained"]
    assert_refused(
        call(*words, "none"), "none holds no run; give the folder of a finished pretrain"
    )
    assert_refused(call(*words, "full"), "full holds no run")
    assert_refused(call(*words, "a-file"), "a-file holds no run")
    assert_refused(
        call(*words, retrained), "is a run of retrain, but must be a run of pretrain or unlearn"
    )

    begun = copy(pretrained, tmp_path_factory.mktemp("begun") / "run")
    (begun / "done.json").unlink()
    assert_refused(call(*words, begun), "is not finished; run the command that started it again")
    for content, reason in {
        "[1]": "must hold a JSON object",
        "{": "is not readable JSON",
        "{}": "was altered after it was written",
    }.items():
        (begun / "config.json").write_text(content)
        assert_refused(call(*words, begun), "config.json", reason)
    wrong_kind = {"stage": 3, "problem": {}, "seed": 0, "method": ""}
    for record, reason in (
        ({}, "has no stage, but needs one"),
        ({"stage": "pretrain", "colour": 1}, "has no field 'colour'"),
        (wrong_kind, "stage is 3, but must be text"),
    ):
        write_record(begun / "config.json", record)
        assert_refused(call(*words, begun), "config.json", reason)


def test_a_run_folder_of_another_configuration(pretrained, retrained, unlearned, data_dir):
    folders = [pretrained, retrained, unlearned]
    before = [snapshot(folder) for folder in folders]
    words = problem_words(data_dir)
    assert_refused(
        call("pretrain", pretrained, *problem_words(data_dir, num_steps=300)),
        "holds another run: problem.training.num_steps is 200 there, but 300 now",
        "name a new folder, or delete this one",
    )
    assert_refused(call("pretrain", pretrained, *words, "--seed", 1), "seed is 0 there, but 1 now")
    assert_refused(
        call("pretrain", pretrained, *words, "--model-settings", "hidden=[16]"),
        "problem.model_settings.hidden is 'not given' there, but [16] now",
    )
    theirs = ["--pretrained", pretrained]
    assert_refused(call("retrain", pretrained, *theirs, "--fraction", 0.1), "holds another run")
    assert_refused(
        call("retrain", retrained, *theirs, "--fraction", 0.2),
        "request.fraction is 0.1 there, but 0.2 now",
    )
    unlearn = ["unlearn", unlearned, *theirs, "--fraction", 0.1]
    assert_refused(call(*unlearn, "salun"), "method is 'finetune' there, but 'salun' now")
    assert_refused(
        call(*unlearn, "finetune", *QUICK, "--learning-rate=0.5"),
        "settings.learning_rate is 0.01 there, but 0.5 now",
    )
    assert [snapshot(folder) for folder in folders] == before


def test_weights_of_another_pretraining_run(pretrained, unlearned, data_dir, tmp_path):
    """The same problem, but the original model is not the one that this run began with."""
    other = copy(pretrained, tmp_path / "other")
    rewrite(other / "done.json", lambda record: record.update(weights="0" * 64))
    words = ["--fraction", 0.1, "finetune", *QUICK, "--pretrained", other]
    assert_refused(call("unlearn", unlearned, *words), "holds another run: start is")
    assert_refused(call("unlearn", tmp_path / "run", *words), "weights belong to another run")
    assert not (tmp_path / "run").exists()


DAMAGE = {
    "absent": lambda content: None,
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
    "one bit": lambda content: content[:9] + bytes([content[9] ^ 1]) + content[10:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_of_the_original_model(pretrained, tmp_path, damage):
    run = copy(pretrained, tmp_path / "pretrained")
    step = run / "weights" / "200"
    file = max((path for path in step.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    spoilt = DAMAGE[damage](file.read_bytes())
    file.unlink()
    if spoilt is not None:
        file.write_bytes(spoilt)
    words = ["--pretrained", run, "--fraction", 0.1, "finetune", *QUICK]
    reason = "is missing" if spoilt is None else "was cut short or altered"
    result = call("unlearn", tmp_path / "run", *words)
    assert_refused(result, "checkpoint of step 200", "damaged", file.name, reason)
    assert not (tmp_path / "run").exists()
    assert f"delete the folder {step}" in result.err

    # The fix that it names works: nothing was lost.
    shutil.rmtree(step)
    assert_refused(call("unlearn", tmp_path / "run", *words), "is not finished")
    place = json.loads((run / "fingerprints.json").read_text())["data_dir"]
    assert "200 steps" in done("pretrain", run, *problem_words(place))
    assert_same_run(run, pretrained)


def test_a_checkpoint_of_another_model(pretrained, tmp_path, data_dir):
    run = copy(pretrained, tmp_path / "pretrained")
    other = {"hidden": [33]}
    rewrite(run / "config.json", lambda config: config["problem"].update(model_settings=other))
    words = ["retrain", tmp_path / "retrain", "--pretrained", run, "--fraction", 0.1]
    result = call("unlearn", tmp_path / "run", *words[2:], "finetune")
    assert_refused(
        result,
        "is of another model or method",
        "is float32[32, 10] there, but must be float32[33, 10]",
    )
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_data_set(pictures, tmp_path):
    prepared, files = pictures
    run = tmp_path / "pretrained"
    words = ["--data", "fashion_mnist", "--data-dir", prepared, "--model", "mlp-tiny"]
    pretrain = ["pretrain", run, *words, "--training.num-steps=2"]
    done(*pretrain, "--folder", files)
    moved = {"folder": None, "data_dir": str(tmp_path / "others")}  # the files are not asked for
    rewrite(run / "fingerprints.json", lambda record: record.update(moved))
    write_fashion_mnist(tmp_path / "others" / "fashion-mnist", train=24)

    before = snapshot(run)
    request = ["--pretrained", run, "--fraction", 0.2]
    for command in (
        ["retrain", "new", *request],
        ["unlearn", "new", *request, "salun"],
    ):
        result = call(command[0], tmp_path / "new", *command[2:])
        assert_refused(result, f"{run} was trained on other data", "restore the data")
        assert not (tmp_path / "new").exists()
    words = ["--data", "fashion_mnist", "--data-dir", tmp_path / "others", "--model", "mlp-tiny"]
    result = call("pretrain", run, *words, "--training.num-steps=2")
    assert_refused(result, "was trained on other data: fashion_mnist had the fingerprint")
    assert snapshot(run) == before


def test_evaluate(here, pretrained, retrained, unlearned, tmp_path_factory):
    before = snapshot(unlearned)
    assert_refused(call("evaluate", "none"), "none holds no run", "retrain or unlearn")
    assert_refused(call("evaluate", "a-file"), "a-file holds no run")
    words = ["evaluate", unlearned, "--retrained"]
    assert_refused(call(*words, "none"), "none holds no run", "finished retrain")
    assert_refused(call(*words, unlearned), "run of unlearn", "must be a run of retrain")

    place = tmp_path_factory.mktemp("runs")
    raw = copy(retrained, place / "raw")
    (raw / "results.json").unlink()
    assert_refused(call(*words, raw), f"run jaxunlearn evaluate {raw} first")
    (raw / "done.json").unlink()
    assert_refused(call("evaluate", raw), "is not finished")
    other = place / "other"
    done("retrain", other, "--pretrained", pretrained, "--indices", *range(3))
    assert_refused(call(*words, other), "another problem, seed or forget request")

    moved = copy(retrained, place / "moved")
    shutil.copy(other / "forget_request.json", moved / "forget_request.json")
    assert_refused(call("evaluate", moved), "names other examples than the request")
    (moved / "forget_request.json").write_text("{}")
    assert_refused(call("evaluate", moved), "forget_request.json", "was altered")
    assert snapshot(unlearned) == before


def test_report_and_list(here):
    assert_refused(
        call("report", "none"), "none holds no study; give the folder of jaxunlearn compare"
    )
    assert_refused(call("report", "full"), "full holds no study")
    assert_refused(call("report", "a-file"), "a-file")
    assert_refused(
        call("list", "method"),
        "the list is 'method'",
        "must be methods, recipes, models, data",
        "jaxunlearn list prints the methods",
    )
