"""Data of the user's own through the commands and studies: the page on it, moved data, streams."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from jaxunlearn.files import read_json
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.problem import _dataset, load_dataset, load_splits
from jaxunlearn.studies.runs.folder import read_config
from jaxunlearn.studies.study import load_study
from tests.data.pictures import write_pictures
from tests.shell.commands import assert_refused, assert_same_run, call, done
from tests.test_docs import blocks

PAGE = Path(__file__).parents[2] / "docs" / "your-own-data.md"
TRAINING = ["--training.num-steps", 6, "--training.retain-batch-size", 16]
QUICK = ["--num-steps", 3, "--forget-batch-size", 4, "--retain-batch-size", 16]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    return write_pictures(tmp_path / "photos", count=12)


@pytest.mark.long
def test_the_page(photos, capsys):
    """Its commands in their order, with few steps, and its code."""
    Path("forget.txt").write_text("cat/cat 3.png\ntrain/dog/dog 5.png\n")
    flags = {"pretrain": TRAINING, "unlearn": QUICK}
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    for line in commands.splitlines():
        _, command, *words = shlex.split(line)
        held_out = ["--drop-held-out"] if "--names" in words else []
        done(command, *words, *held_out, *flags.get(command, []))
    metrics = read_json(Path("runs/forgot/results.json"))
    assert metrics["counts"]["forget"] + metrics["counts"]["retain"] == 22
    names: dict = {}
    for block in blocks(PAGE):
        exec(block, names)
    assert capsys.readouterr().out == (
        "Dataset('npz:mine.npz', 30 training and 10 test examples with 5 features, 2 classes)\n"
    )
    assert repr(names["load"]()).startswith("Dataset('mine', 8 training and 8 test images of 4x4x1")


def test_records_do_not_depend_on_the_place(photos, tmp_path):
    words = ["--model", "mlp-tiny", *TRAINING]
    done("pretrain", "run", "--data", "folder:photos", "--data-dir", "cache", *words)
    assert "matches" in done("verify", "run", "--data-dir", "cache")  # has not moved
    problem = read_json(Path("run/config.json"))["problem"]
    assert problem["data"] == "folder" and str(tmp_path) not in str(problem)
    photos.rename(tmp_path / "moved")
    _dataset.cache_clear()  # of this process
    assert "matches" in done("verify", "run", "--data-dir", "moved")
    assert_refused(
        call("unlearn", "u", "finetune", "--pretrained", "run", "--fraction", 0.2),
        "photos is not a folder, but must",
        "--data-dir",
    )
    assert not Path("u").exists()
    done("pretrain", "run", "--data", "folder:moved", *words)  # finished already
    (tmp_path / "moved" / "train" / "cat" / "cat 1.png").unlink()
    _dataset.cache_clear()
    result = call("pretrain", "run", "--data", "folder:moved", *words)
    assert result.status == 2 and "run was trained on other data" in result.err


@pytest.mark.long
def test_streamed_runs_have_the_bits_of_runs_in_memory(photos):
    words = ["--data", "folder:photos", "--model", "mlp-tiny", *TRAINING, "--chunk-steps", 4]
    request = ["--names", "forget.txt", "--drop-held-out"]
    Path("forget.txt").write_text(
        "\n".join(f"cat/cat {i}.png" for i in range(5)) + "\ntrain/dog/dog 1.png"
    )
    for stream in ([], ["--stream"]):
        place = "streamed" if stream else "memory"
        done("pretrain", f"{place}/o", *words, *stream)
        start = ["--pretrained", "memory/o", *request]
        done("unlearn", f"{place}/u", "finetune", *start, *QUICK, *stream)
    assert_same_run(Path("memory/o"), Path("streamed/o"))
    assert_same_run(Path("memory/u"), Path("streamed/u"))
    for method, advice in (("sfron", "variant = 'FR-on'"), ("ssd", "keep them in memory")):
        result = call("unlearn", "new", method, *start, *QUICK, "--stream")
        assert_refused(result, "needs all examples before its first step", advice)
        assert not Path("new").exists()
    result = call(
        "unlearn", "new", "scalarization", *start, *QUICK, "--keep-weight", 0.1, "--stream"
    )
    assert_refused(result, "keep_weight compares all retain data", "leave --stream out")


STUDY = """
[problem]
data = "folder:photos"
model = "mlp-tiny"
validation_names = "lists/validation.txt"
[problem.training]
num_steps = 6
retain_batch_size = 16
[[requests]]
names = "lists/forget.txt"
[[requests]]
classes = ["dog"]
[methods.finetune]
num_steps = 3
"""


def test_a_study_finds_its_files_from_its_own_folder(photos, tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "forget.txt").write_text("cat/cat 3.png\n/photos/train/dog/dog 5.png\n")
    (tmp_path / "lists" / "validation.txt").write_text("train/dog/dog 0.png\ntrain/cat/cat 1.png\n")
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    study = load_study(tmp_path / "study.toml")
    assert study.problem.validation_names == ("train/cat/cat 1.png", "train/dog/dog 0.png")
    for seed in range(2):
        by_name, by_class = (load_splits(study.problem, seed, each) for each in study.requests)
        names = load_dataset(study.problem).names
        assert [names[i] for i in by_name.forget.index] == [
            "train/cat/cat 3.png",
            "train/dog/dog 5.png",
        ]
        np.testing.assert_array_equal(by_name.validation.index, [1, 12])
        assert by_class.forget.label.tolist() == [1] * 11


@pytest.mark.long
def test_a_study_of_features(tmp_path, monkeypatch):
    """Fifteen features, from a table to the report."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 15))
    rows = [f"{'up' if row[0] > 0 else 'down'},{','.join(map(str, row))}" for row in x]
    header = ",".join(["kind", *(f"x{i}" for i in range(15))])
    Path("table.csv").write_text("\n".join([header, *rows]))
    Path("study.toml").write_text(
        STUDY.replace("folder:photos", "csv:table.csv")
        .replace("dog", "up")
        .replace(
            'validation_names = "lists/validation.txt"', 'label = "kind"\ntest_fraction = 0.25'
        )
        .replace('names = "lists/forget.txt"', "fraction = 0.2")
    )
    done("compare", "study", "--config", "study.toml")
    assert Path("study/report.html").exists()
    config = read_config(Path("study/seed-0/pretrain"), "pretrain")
    assert load_dataset(config.problem).train.image.shape == (90, 15)


def test_old_problems_keep_their_identity():
    assert (
        Problem()
        .identity()
        .keys()
        .isdisjoint(
            {
                "image_size",
                "test_fraction",
                "label",
                "broken",
                "validation_names",
                "data_dir",
                "folder",
            }
        )
    )
    own = Problem(data="folder:a/b", image_size=8)
    assert own == Problem(data="folder:c", image_size=8) != Problem(data="folder:c")
    assert own.identity()["image_size"] == 8 and own.folder == "a/b"
