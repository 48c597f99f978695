"""Bad input to the commands: one clear sentence, status 2, nothing written, nothing lost."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxunlearn import data
from tests.data.toys import idx_bytes, make_builder, toy_arrays, write_fashion_mnist
from tests.shell.commands import (
    QUICK,
    TRAINING,
    assert_refused,
    assert_same_run,
    call,
    copy,
    done,
    problem_words,
    snapshot,
    start,
    wait,
)

pytest_plugins = ["tests.shell.fixtures"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory with a few files in it, compared before and after."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("text")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("text")
    for name, text in {
        "empty.txt": "",
        "twice.json": "[3, 4, 3]",
        "words.txt": "3\nfour\n",
        "far.txt": "7\n1442\n",
    }.items():
        (tmp_path / name).write_text(text)
    before = snapshot(tmp_path)
    yield tmp_path
    assert snapshot(tmp_path) == before


PRETRAIN = {
    "data": ("--data digit", "unknown data set 'digit' (did you mean 'digits'?)", "fashion_mnist"),
    "data folder": ("--data fashion_mnist --folder none", "needs train-images", "/none"),
    "folder of digits": ("--folder x", "folder= belongs to fashion_mnist", "'digits'"),
    "model": ("--model mlp-tny", "unknown model 'mlp-tny' (did you mean 'mlp-tiny'?)", "vit-s"),
    "model field": ("--model-settings hiden=[3]", "no field 'hiden' (did you mean 'hidden'?)"),
    "model value": ("--model-settings hidden=[-3]", "hidden is (-3,)", "at least 1"),
    "model choice": ("--model-settings activation=wave", "'wave'", "'relu', 'gelu'"),
    "model classes": ("--model-settings num_classes=3", "give num_classes", "leave it out"),
    "model axis": ("--model-settings axis_name=data", "give axis_name", "leave it out"),
    "model too large": ("--model vit-ti", "patch_size 16 cannot cut 8x8 images"),
    "no pair": ("--model-settings hidden", "--model-settings got 'hidden'", "name=value"),
    "setting": ("--training steps=3", "no setting 'steps', only num_steps", "learning_rate"),
    "setting twice": ("--training num_steps=3 num_steps=4", "--training got 'num_steps=4'", "once"),
    "steps negative": ("--training num_steps=-5", "num_steps", "is -5, but must be positive"),
    "steps zero": ("--training num_steps=0", "is 0, but must be positive"),
    "steps not whole": ("--training num_steps=2.5", "is 2.5", "of type int"),
    "rate negative": ("--training learning_rate=-0.1", "is -0.1, but must be 0 or more", "0.01"),
    "rate NaN": ("--training learning_rate=NaN", "learning_rate", "not a number"),
    "rate infinite": ("--training learning_rate=Infinity", "learning_rate", "is inf"),
    "rate in words": ("--training learning_rate=high", "'high', but must be of type float"),
    "momentum": ("--training momentum=2", "is 2.0, but must be in [0, 1]"),
    "optimizer": ("--training optimizer=adam", "optimizer is 'adam'", "sgd, adamw"),
    "schedule": ("--training learning_rate_schedule=cos", "'cos'", "constant, cosine"),
    "batch zero": ("--training retain_batch_size=0", "is 0, but must be positive"),
    "validation all": ("--validation-fraction 1", "below 1, got 1.0"),
    "validation negative": ("--validation-fraction -0.1", "at least 0", "got -0.1"),
    "validation NaN": ("--validation-fraction nan", "got nan"),
    "seed": ("--seed -1", "seed must be an integer of at least 0, got -1"),
    "devices too many": ("--devices 9", "devices is 9, but this machine has 8 (cpu)", "1 to 8"),
    "devices none": ("--devices 0", "devices is 0"),
    "batch over devices": (
        *["--devices 4 --training retain_batch_size=66", "retain_batch_size is 66"],
        *["multiple of the 4 devices", "the nearest is 64"],
    ),
}


@pytest.mark.parametrize("case", PRETRAIN)
def test_pretrain(here, data_dir, case):
    words, *fragments = PRETRAIN[case]
    given = words.split()
    if "--data" not in given:
        given += ["--data-dir", str(data_dir)]
    assert_refused(call("pretrain", "run", *given), *fragments)


REQUESTS = {
    "none": ("", "exactly one of fraction, classes, subclass, indices and file", "got none"),
    "two": ("--fraction 0.1 --classes 3", "exactly one", "got fraction and classes"),
    "fraction 0": ("--fraction 0", "between 0 and 1, both excluded, got 0.0", "0.1 forgets"),
    "fraction 1": ("--fraction 1", "between 0 and 1, both excluded, got 1.0"),
    "fraction 1.5": ("--fraction 1.5", "got 1.5"),
    "fraction negative": ("--fraction -0.1", "got -0.1"),
    "fraction NaN": ("--fraction nan", "got nan"),
    "fraction all": ("--fraction 0.9999", "would forget all 1298", "leave some to retain"),
    "fraction nothing": ("--fraction 0.0001", "less than one example", "ask for more"),
    "class": ("--classes 10", "class 10 does not exist", "classes 0 to 9"),
    "class negative": ("--classes -1", "at least 0, got -1"),
    "class twice": ("--classes 3 3", "each number once, got 3"),
    "classes all": ("--classes 0 1 2 3 4 5 6 7 8 9", "would forget all 1298"),
    "subclass": ("--subclass 3", "needs a data set with coarse classes", "'digits' has none"),
    "index far": ("--indices 5 1442", "index 1442 is out of range", "positions 0 to 1441"),
    "index negative": ("--indices -1", "at least 0, got -1"),
    "index twice": ("--indices 5 5", "each number once, got 5"),
    "indices empty": ("--indices", "got none"),
    "file absent": ("--file none.txt", "'none.txt' cannot be read", "one number a line"),
    "file empty": ("--file empty.txt", "'empty.txt' is empty", "at least one position"),
    "file twice": ("--file twice.json", "each number once, got 3"),
    "file of words": ("--file words.txt", "line 2 of", "got 'four'"),
    "file far": ("--file far.txt", "index 1442 is out of range"),
    "file folder": ("--file full", "'full' cannot be read"),
}


@pytest.mark.parametrize("case", REQUESTS)
@pytest.mark.parametrize("command", ["retrain", "unlearn"])
def test_forget_request(here, pretrained, command, case):
    words, *fragments = REQUESTS[case]
    method = ["--method", "finetune"] if command == "unlearn" else []
    given = ["--pretrained", pretrained, *method, *words.split()]
    assert_refused(call(command, "run", *given), *fragments)


def test_indices_that_are_everything_or_held_out(here, pretrained, data_dir):
    eligible, held_out = data.hold_out(data.load("digits", data_dir=data_dir), seed=0)
    words = ["retrain", "run", "--pretrained", pretrained, "--indices"]
    assert_refused(call(*words, *eligible), "would forget all 1298", "leave some to retain")
    assert_refused(call(*words, eligible[0], held_out[0]), "1 of the 2 indices are validation data")


SETTINGS = {
    "method": ("eupm", "", "method is 'eupm'", "salun", "did you mean eupmu?"),
    "retrain": ("retrain", "", "begins with new weights", "finetune"),
    "setting": ("eupmu", "tolerence=1", "no setting 'tolerence'", "did you mean tolerance?"),
    "of another": ("finetune", "tolerance=1", "method finetune has no setting 'tolerance'"),
    "no pair": ("eupmu", "tolerance:1", "--settings got 'tolerance:1'", "name=value"),
    "no name": ("eupmu", "=1", "--settings got '=1'"),
    "multiplier": ("eupmu", "multiplier=dual", "'dual'", "same_batch, next_batch, exact"),
    "chained": ("eupmu_sfron", "multiplier=exact", "'exact'", "same_batch, next_batch"),
    "objective": ("eupmu", "objective=up", "objective is 'up'", "ascent, adaptive_ascent"),
    "scalar objective": ("scalarization", "objective=up", "objective is 'up'"),
    "optimizer": ("sfron", "optimizer=adam", "optimizer is 'adam'", "sgd, adamw"),
    "schedule": ("sfron", "learning_rate_schedule=cos", "'cos'", "constant, cosine"),
    "alpha": ("sfron", "alpha_schedule=cos", "method sfron", "'cos'", "constant, cosine"),
    "variant": ("sfron", "variant=S", "variant is 'S'", "SFR-on, FR-on, R-on, R"),
    "redraw": ("random_labels", "redraw=never", "redraw is 'never'", "'every_epoch' or 'once'"),
    "mask": ("salun", "fraction=1.5", "fraction of method salun is 1.5", "in [0, 1]"),
    "switch": ("eupmu", "log_loss=1", "log_loss of method eupmu is 1", "of type bool"),
    "fast steps": ("sfron", "num_fast_steps=0", "num_fast_steps", "is 0, but must be positive"),
    "decay": ("sfron", "weight_decay=-1", "weight_decay", "is -1.0, but must be 0 or more"),
    "batch": ("eupmu", "forget_batch_size=-1", "is -1, but must be positive"),
    "batch over devices": (
        *["eupmu", "forget_batch_size=65", "forget_batch_size is 65"],
        *["positive multiple of the 2 devices", "the nearest is 64"],
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_method_and_settings(here, pretrained, case):
    method, setting, *fragments = SETTINGS[case]
    words = ["--pretrained", pretrained, "--method", method, "--fraction", 0.1, "--devices", 2]
    settings = ["--settings", setting] if setting else []
    assert_refused(call("unlearn", "run", *words, *settings), *fragments)


def test_folders_that_cannot_be_a_run(here, pretrained, unwritable):
    words = ["--pretrained", pretrained, "--fraction", 0.1]
    for folder, reason in {
        "a-file": "a-file is a file, but a run needs a folder",
        "a-file/run": "cannot be written (Not a directory); choose a folder",
        "full": "full is not empty and holds no run",
        unwritable / "run": f"{unwritable / 'run'}/config.json cannot be written (",
    }.items():
        assert_refused(call("retrain", folder, *words), reason)


@pytest.fixture
def unwritable(tmp_path_factory):
    """A folder in which nothing can be made, not even by root."""
    folder = tmp_path_factory.mktemp("unwritable")
    folder.chmod(0o500)
    return Path("/proc/self") if os.access(folder, os.W_OK) else folder


def test_a_pretraining_run_that_is_none(here, pretrained, retrained, tmp_path_factory):
    words = ["retrain", "run", "--fraction", 0.1, "--pretrained"]
    assert_refused(
        call(*words, "none"), "none holds no run; give the folder of a finished pretrain"
    )
    assert_refused(call(*words, "full"), "full holds no run")
    assert_refused(call(*words, "a-file"), "a-file holds no run")
    assert_refused(call(*words, retrained), "run of retrain", "pretrain is needed here")

    begun = copy(pretrained, tmp_path_factory.mktemp("begun") / "run")
    (begun / "done.json").unlink()
    assert_refused(call(*words, begun), "is not finished; run the command that started it again")
    for content, reason in {
        "[1]": "must hold a JSON object",
        "{": "is not readable JSON",
        "{}": "has no stage, but needs one",
        '{"stage": "pretrain", "colour": 1}': "has no field 'colour'",
        '{"stage": 3, "problem": {}, "seed": 0, "method": ""}': "stage is 3, but must be text",
    }.items():
        (begun / "config.json").write_text(content)
        assert_refused(call(*words, begun), "config.json", reason)


def test_a_run_folder_of_another_configuration(pretrained, retrained, unlearned, data_dir):
    folders = [pretrained, retrained, unlearned]
    before = [snapshot(folder) for folder in folders]
    words = problem_words(data_dir)
    assert_refused(
        call("pretrain", pretrained, *problem_words(data_dir, num_steps=300)),
        "another configuration: problem.training.num_steps is 200 there, but 300 now",
        "name a new folder, or delete this one",
    )
    assert_refused(call("pretrain", pretrained, *words, "--seed", 1), "seed is 0 there, but 1 now")
    assert_refused(
        call("pretrain", pretrained, *words, "--model-settings", "hidden=[16]"),
        "problem.model_settings.hidden is 'not given' there, but [16] now",
    )
    theirs = ["--pretrained", pretrained]
    assert_refused(call("retrain", pretrained, *theirs, "--fraction", 0.1), "configuration")
    assert_refused(
        call("retrain", retrained, *theirs, "--fraction", 0.2),
        "request.fraction is 0.1 there, but 0.2 now",
    )
    unlearn = ["unlearn", unlearned, *theirs, "--fraction", 0.1, "--method"]
    assert_refused(call(*unlearn, "salun"), "method is 'finetune' there, but 'salun' now")
    assert_refused(
        call(*unlearn, "finetune", "--settings", *QUICK, "learning_rate=0.5"),
        "settings.learning_rate is 0.01 there, but 0.5 now",
    )
    assert [snapshot(folder) for folder in folders] == before


def test_weights_of_another_pretraining_run(pretrained, unlearned, data_dir, tmp_path):
    """The same problem, but the original model is not the one that this run began with."""
    other = copy(pretrained, tmp_path / "other")
    record = json.loads((other / "done.json").read_text())
    (other / "done.json").write_text(json.dumps(record | {"weights": "0" * 64}))
    words = ["--fraction", 0.1, "--method", "finetune", "--settings", *QUICK, "--pretrained", other]
    assert_refused(call("unlearn", unlearned, *words), "another configuration: start is")
    assert_refused(call("unlearn", tmp_path / "run", *words), "weights are those of another run")
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
    words = ["--pretrained", run, "--fraction", 0.1, "--method", "finetune", "--settings", *QUICK]
    reason = "is missing" if spoilt is None else "was cut short or altered"
    result = call("unlearn", tmp_path / "run", *words)
    assert_refused(result, "checkpoint of step 200", "damaged", file.name, reason)
    assert not (tmp_path / "run").exists()
    assert f"delete the folder {step}" in result.err

    # And the mend that it names works: nothing was lost.
    shutil.rmtree(step)
    assert_refused(call("unlearn", tmp_path / "run", *words), "is not finished")
    problem = json.loads((run / "config.json").read_text())["problem"]
    assert "200 steps" in done("pretrain", run, *problem_words(problem["data_dir"]))
    assert_same_run(run, pretrained)


def test_a_checkpoint_of_another_model(pretrained, tmp_path, data_dir):
    run = copy(pretrained, tmp_path / "pretrained")
    config = json.loads((run / "config.json").read_text())
    config["problem"]["model_settings"] = {"hidden": [33]}
    (run / "config.json").write_text(json.dumps(config))
    words = ["retrain", tmp_path / "retrain", "--pretrained", run, "--fraction", 0.1]
    result = call("unlearn", tmp_path / "run", *words[2:], "--method", "finetune")
    assert_refused(
        result, "is of another model or method", "is float32[32, 10] there, but float32[33, 10]"
    )
    assert not (tmp_path / "run").exists()


@pytest.fixture
def pictures(tmp_path):
    """A prepared fashion_mnist of 20 random pictures, and the folder of its files."""
    write_fashion_mnist(tmp_path / "files")
    return tmp_path / "prepared", tmp_path / "files"


def test_a_checkpoint_of_another_data_set(pictures, tmp_path):
    prepared, files = pictures
    run = tmp_path / "pretrained"
    words = ["--data", "fashion_mnist", "--data-dir", prepared, "--model", "mlp-tiny"]
    pretrain = ["pretrain", run, *words, "--training", "num_steps=2"]
    done(*pretrain, "--folder", files)
    config = json.loads((run / "config.json").read_text())
    config["problem"]["folder"] = None  # or the files would be asked for
    config["problem"]["data_dir"] = str(tmp_path / "others")
    (run / "config.json").write_text(json.dumps(config))
    shutil.rmtree(files)
    write_fashion_mnist(files, train=24)
    data.load("fashion_mnist", data_dir=tmp_path / "others", folder=files)

    before = snapshot(run)
    request = ["--pretrained", run, "--fraction", 0.2]
    for command in (
        ["retrain", "new", *request],
        ["unlearn", "new", *request, "--method", "salun"],
    ):
        result = call(command[0], tmp_path / "new", *command[2:])
        assert_refused(result, f"{run} was trained on other data", "restore the data")
        assert not (tmp_path / "new").exists()
    words = ["--data", "fashion_mnist", "--data-dir", tmp_path / "others", "--model", "mlp-tiny"]
    result = call("pretrain", run, *words, "--training", "num_steps=2")
    assert_refused(result, "was trained on other data: fashion_mnist had the fingerprint")
    assert snapshot(run) == before


def test_labels_out_of_range(pictures, tmp_path):
    prepared, files = pictures
    labels = np.arange(20)  # but there are ten classes
    (files / "train-labels-idx1-ubyte.gz").unlink()
    (files / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    words = ["--data", "fashion_mnist", "--data-dir", prepared, "--folder", files]
    result = call("pretrain", tmp_path / "run", *words)
    assert_refused(result, "label", "0 to 9")
    assert not (tmp_path / "run").exists()
    assert not prepared.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_is_not_finite(tmp_path, value):
    images, labels = toy_arrays(12, classes=3)
    records = [
        {"image": image.astype(np.float32), "label": int(label)}
        for image, label in zip(images, labels, strict=True)
    ]
    records[7]["image"][0, 0, 0] = value
    features = {
        "image": tfds.features.Tensor(shape=(4, 4, 1), dtype=np.float32),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    name = f"shell_{value}"
    builder = make_builder(name, features, {"train": records, "test": records[:6]})
    builder(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    result = call("pretrain", tmp_path / "run", "--data", name, "--data-dir", tmp_path)
    assert_refused(result, "images must be finite, but 1 of 12", "the first at position 7")
    assert not (tmp_path / "run").exists()


def test_evaluate(here, pretrained, retrained, unlearned, tmp_path_factory):
    before = snapshot(unlearned)
    assert_refused(call("evaluate", "none"), "none holds no run", "retrain or unlearn")
    assert_refused(call("evaluate", "a-file"), "a-file holds no run")
    assert_refused(call("evaluate", pretrained), "run of pretrain", "one of retrain or unlearn")
    words = ["evaluate", unlearned, "--retrained"]
    assert_refused(call(*words, "none"), "none holds no run", "finished retrain")
    assert_refused(call(*words, unlearned), "run of unlearn", "retrain is needed")

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
    assert_refused(call("evaluate", moved), "forget_request.json", "malformed")
    assert snapshot(unlearned) == before


def test_report_and_list(here):
    assert_refused(call("report", "none"), "none/study.json does not exist", "folder of a study")
    assert_refused(call("report", "full"), "full/study.json does not exist")
    assert_refused(call("report", "a-file"), "a-file")
    assert_refused(
        call("list", "method"), "no list of 'method'", "list methods, models, data", "eupmu"
    )


STUDIES = {
    "absent": (None, "cannot be read (No such file or directory)", "give a TOML file"),
    "no TOML": ("seeds = [0", "is no TOML", "mend the file"),
    "empty": ("", "names no methods", "needs at least one of", "eupmu"),
    "field": ("seed = [0]", "no field 'seed', only title, problem", "did you mean seeds?"),
    "type": ("seeds = 3", "seeds is 3, but must be a list"),
    "entry": ('seeds = [0, "1"]', "seeds[1] is '1', but must be a whole number"),
    "seed": ("seeds = [-1]\n[methods.salun]", "(-1,), but must be different and not negative"),
    "seeds twice": ("seeds = [1, 1]\n[methods.salun]", "must be different"),
    "no seeds": ("seeds = []\n[methods.salun]", "has no seeds"),
    "problem": ("[problem]\nmodle = 'mlp'", "problem has no field 'modle'", "mean model?"),
    "problem type": ("[problem]\nmodel = 3", "model is 3, but must be text"),
    "data": ("[problem]\ndata = 'digit'\n[methods.salun]", "unknown data set 'digit'"),
    "model": ("[problem]\nmodel = 'mpl'\n[methods.salun]", "unknown model 'mpl'"),
    "training": ("[problem.training]\nsteps = 3\n[methods.salun]", "no setting 'steps'"),
    "request": ("[[requests]]\nfraction = 2.0\n[methods.salun]", "got 2.0"),
    "requests": ("[[requests]]\nclass = 3\n[methods.salun]", "no field 'class'", "mean classes?"),
    "requests twice": (
        *["[[requests]]\nclasses = [1]\n[[requests]]\nclasses = [1]\n[methods.salun]"],
        *["class-1, class-1 are not all different"],
    ),
    "class": ("[[requests]]\nclasses = [11]\n[methods.salun]", "class 11 does not exist"),
    "method": ("[methods.salum]", "method is 'salum'", "did you mean salun?"),
    "methods": ("[methods]\nsalun = 3", "methods.salun is 3, but must be a table"),
    "retrain": ("[methods.mine]\nmethod = 'retrain'", "method of run mine is 'retrain'"),
    "method type": ("[methods.mine]\nmethod = ['salun']", "run mine is ['salun']"),
    "name": ("[methods.original]\nmethod = 'salun'", "cannot be named 'original'"),
    "path": ("[methods.'../x']\nmethod = 'salun'", "cannot be named '../x'"),
    "setting": ("[methods.salun]\nnum_steps = -1", "num_steps of method salun is -1"),
    "choice": ("[methods.salun]\noptimizer = 'adam'", "method salun, optimizer is 'adam'"),
    "override": ("[methods.salun]\n[overrides.x.salun]", "name the request 'x'", "in quotes"),
    "override run": (
        *['[methods.salun]\n[overrides."random-0.1".sfron]', "name the run 'sfron'"],
        *["the study has salun"],
    ),
    "override setting": (
        *['[methods.salun]\n[overrides."random-0.1".salun]\nfraction = 3.0'],
        *["fraction of method salun is 3.0"],
    ),
}


@pytest.mark.parametrize("case", STUDIES)
def test_compare(here, data_dir, tmp_path_factory, monkeypatch, case):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    text, *fragments = STUDIES[case]
    config = tmp_path_factory.mktemp("config") / "study.toml"
    if text is not None:
        config.write_text(text)
    assert_refused(call("compare", "study", "--config", config), *fragments)


def test_folders_and_devices_of_compare(here, finished, pretrained, unwritable):
    words = ["--config", finished.config]
    assert_refused(call("compare", "full", *words), "full is not empty and holds no study")
    assert_refused(call("compare", "a-file", *words), "a-file is a file")
    assert_refused(call("compare", pretrained, *words), "holds no study")
    assert_refused(call("compare", unwritable / "study", *words), "study.json cannot be written")
    assert_refused(call("compare", "study", *words, "--devices", 9), "devices is 9")
    assert_refused(call("compare", "study", *words, "--devices", 5), "multiple of the 5 devices")
    assert_refused(call("compare", "study", *words, "--seeds", -1), "not negative")


def test_a_study_folder_of_another_configuration(finished, study_text, tmp_path):
    before = snapshot(finished.folder)
    config = tmp_path / "study.toml"
    for old, new, reason in (
        ("num_steps = 200", "num_steps = 201", "problem.training.num_steps is 200 there"),
        ("tolerance = -0.1", "tolerance = -0.2", "settings.tolerance is -0.1 there, but -0.2 now"),
        ("learning_rate = 0.02", "learning_rate = 0.03", "learning_rate is 0.02 there"),
        ('method = "eupmu"', 'method = "sfron"', "no setting 'multiplier'"),
    ):
        assert old in study_text
        config.write_text(study_text.replace(old, new))
        assert_refused(call("compare", finished.folder, "--config", config), reason)
    assert snapshot(finished.folder) == before


def test_a_loss_that_is_not_finite_stops_the_run(pretrained, tmp_path):
    run = tmp_path / "run"
    words = ["unlearn", run, "--pretrained", pretrained, "--fraction", 0.1, "--method", "finetune"]
    result = call(*words, "--settings", *QUICK, "learning_rate=1e30")
    assert result.status == 1
    assert result.err.count("\n") == 1 and "Traceback" not in result.err
    assert "became NaN or infinite at step " in result.err and " of 4" in result.err
    assert "none was saved" in result.err and "Lower the learning rate" in result.err
    assert not (run / "done.json").exists() and not (run / "weights").exists()
    assert not (run / "checkpoints").exists()


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(data_dir, tmp_path):
    """Weights grow without bound once rate times decay exceeds 2, which is after 1063 steps."""
    run = tmp_path / "run"
    decay = {"learning_rate": 10.0, "weight_decay": 1.0, "momentum": 0.0}
    words = problem_words(data_dir, num_steps=24000, **decay)
    result = call("pretrain", run, *words)
    assert result.status == 1, result
    assert "the last good checkpoint is of step 1000" in result.err
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["1000"]
    assert not (run / "done.json").exists()
    assert_refused(
        call("retrain", tmp_path / "r", "--pretrained", run, "--fraction", 0.1), "not finished"
    )
    again = call("pretrain", run, *words)
    assert (again.status, again.err) == (1, result.err)


def test_in_processes_of_their_own(here, pretrained, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    processes = {
        "unknown model 'nope'": start("pretrain", "run", "--model", "nope", cache=cache),
        "got 1.5": start(
            *["retrain", "run", "--pretrained", pretrained, "--fraction", 1.5], cache=cache
        ),
        "cannot be read": start("compare", "run", "--config", "none.toml", cache=cache),
    }
    for fragment, process in processes.items():
        result = wait(process)
        assert_refused(result, fragment)
        assert not result.out
    assert wait(start("pretrain", cache=cache)).status == 2
    assert TRAINING["num_steps"] == 200  # what the messages above speak of
