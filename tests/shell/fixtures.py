"""A few tiny runs, made once, for all tests of the command line.

A test module that uses them says `pytest_plugins = ["tests.shell.fixtures"]`. They are not to be
written to: take a `copy` first.
"""

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.data.toys import write_fashion_mnist
from tests.once import made_once
from tests.shell.commands import QUICK, done, problem_words, snapshot


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """A folder for prepared data, of which digits need none."""
    return made_once(tmp_path_factory, "data", lambda place: None)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, data_dir) -> Path:
    """A pretraining run."""

    def make(folder: Path) -> None:
        done("pretrain", folder / "run", *problem_words(data_dir))

    return made_once(tmp_path_factory, "pretrained", make) / "run"


@pytest.fixture(scope="session")
def retrained(tmp_path_factory, pretrained) -> Path:
    """The retrained model without a random tenth, evaluated."""

    def make(folder: Path) -> None:
        done("retrain", folder / "run", "--pretrained", pretrained, "--fraction", 0.1)
        done("evaluate", folder / "run")

    return made_once(tmp_path_factory, "retrained", make) / "run"


@pytest.fixture(scope="session")
def unlearned(tmp_path_factory, pretrained) -> Path:
    """The original model, made to forget that tenth by a few steps of fine-tuning."""
    words = ["--pretrained", pretrained, "--fraction", 0.1, "finetune"]

    def make(folder: Path) -> None:
        done("unlearn", folder / "run", *words, *QUICK)

    return made_once(tmp_path_factory, "unlearned", make) / "run"


STUDY = """
title = "Tiny study"
seeds = [0, 1]

[problem]
data_dir = "{data_dir}"
model = "mlp-tiny"
[problem.training]
num_steps = 200
retain_batch_size = 64

[[requests]]
fraction = 0.1
[[requests]]
classes = [8]

[methods.finetune]
num_steps = 4
forget_batch_size = 32
retain_batch_size = 32
[methods.tight]
method = "eupmu"
num_steps = 4
forget_batch_size = 32
retain_batch_size = 32
estimator = "next_batch"
tolerance = -0.1

[overrides."random-0.1".finetune]
learning_rate = 0.02
"""


@pytest.fixture(scope="session")
def study_text(data_dir) -> str:
    """The configuration of a study of two requests, two seeds and two methods."""
    return STUDY.format(data_dir=data_dir)


class Finished(NamedTuple):
    """A study that ran to its end: its folder, its configuration, and what was printed."""

    folder: Path
    config: Path
    printed: str


@pytest.fixture(scope="session")
def finished(tmp_path_factory, study_text) -> Finished:
    """The study, run."""

    def make(folder: Path) -> None:
        config = folder / "study.toml"
        config.write_text(study_text)
        printed = done("compare", folder / "study", "--config", config)
        (folder / "printed.txt").write_text(printed)

    folder = made_once(tmp_path_factory, "finished", make)
    return Finished(folder / "study", folder / "study.toml", (folder / "printed.txt").read_text())


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


@pytest.fixture
def unwritable(tmp_path_factory):
    """A folder in which nothing can be made, not even by root."""
    folder = tmp_path_factory.mktemp("unwritable")
    folder.chmod(0o500)
    return Path("/proc/self") if os.access(folder, os.W_OK) else folder


@pytest.fixture
def pictures(tmp_path):
    """A folder for prepared data, and one with the files of a fashion_mnist of 20 pictures."""
    write_fashion_mnist(tmp_path / "files")
    return tmp_path / "prepared", tmp_path / "files"
