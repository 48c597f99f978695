"""Functions that give one case to the code that a command would give it to."""

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from jaxunlearn import studies
from jaxunlearn.cli import main as cli
from jaxunlearn.data import ForgetRequest
from jaxunlearn.data.fashion_mnist import read_idx
from jaxunlearn.evaluation import SplitPredictions
from jaxunlearn.evaluation.predictions import check_predictions
from jaxunlearn.files import read_json, sealed, write_json
from jaxunlearn.models.pretrained import tensors
from jaxunlearn.studies import config, report
from jaxunlearn.studies.fields import from_dict, parse_settings
from jaxunlearn.studies.problem import load_dataset, load_splits
from jaxunlearn.studies.report.extras import read_extras
from jaxunlearn.studies.report.sweep import write_sweep_report
from jaxunlearn.studies.report.tuning import render_tuning
from jaxunlearn.studies.runs import folder as runs
from jaxunlearn.studies.runs import run_config, train
from jaxunlearn.studies.runs.request_file import load_request
from jaxunlearn.studies.search import sweep, tuning
from jaxunlearn.studies.search.space import parse_space
from jaxunlearn.studies.study import load_study
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.types import InputError
from tests.fuzzing.damage import as_toml
from tests.fuzzing.sound import (
    DATA_DIR,
    PRETRAINED,
    REPORTED,
    SCRATCH,
    STUDY,
    SWEPT,
    problem_fields,
)


def prepare(folder: Path, data_dir: Path) -> None:
    """Sets the folders of cases and of prepared digits, and writes the study of command lines."""
    SCRATCH[0], DATA_DIR[0], PRETRAINED[0] = map(str, (folder, data_dir, folder / "pretrained"))
    os.environ["TFDS_DATA_DIR"] = DATA_DIR[0]
    (folder / "study.toml").write_text(as_toml(STUDY), "utf-8")


class Accepted(BaseException):
    """Work would begin now."""


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Stops where the first run folder would be written, or the first program compiled."""

    def stop(*args: Any, **keywords: Any) -> None:
        raise Accepted

    with (
        mock.patch.object(runs, "claim_folder", stop),
        mock.patch.object(runs, "load_weights", stop),
        mock.patch.object(train.training, "run", stop),
        mock.patch.object(Workspace, "claim", stop),
    ):
        yield


def give_study(tree: dict[str, Any]) -> None:
    """A study file of this content; the study's folder stays empty."""
    path = Path(tempfile.mkdtemp(dir=SCRATCH[0])) / "study.toml"
    path.write_text(as_toml(tree), "utf-8")
    with stopping():
        studies.compare(Path("study"), load_study(path))


def give_study_text(text: bytes) -> None:
    """A study file of these bytes."""
    path = Path(tempfile.mkdtemp(dir=SCRATCH[0])) / "study.toml"
    path.write_bytes(text)
    load_study(path)


def give_search(tree: dict[str, Any]) -> None:
    """A search file of this content."""
    path = Path(tempfile.mkdtemp(dir=SCRATCH[0])) / "search.toml"
    path.write_text(as_toml(tree), "utf-8")
    with stopping():
        tuning.tune(Path("search"), tuning.load_search(path))


def give_settings(case: tuple[str, list[str]]) -> None:
    """A method and its settings, as after `--settings`."""
    method, words = case
    problem = from_dict(config.Problem, problem_fields(), "the problem")
    given = parse_settings(tuple(words), "--settings")
    request = ForgetRequest(fraction=0.1)
    train.check_run(Path("run"), run_config.unlearning(problem, 0, request, method, given))


def give_request(fields: dict[str, Any]) -> None:
    """A forget request of these fields, for digits."""
    request = ForgetRequest(**fields)
    problem = from_dict(config.Problem, problem_fields(), "the problem")
    load_splits(problem, 0, request)
    assert Path(request.name).name == request.name


def give_request_file(text: bytes) -> None:
    """A forget request by a file of these bytes."""
    path = Path(tempfile.mkdtemp(dir=SCRATCH[0])) / "request"
    path.write_bytes(text)
    give_request({"file": str(path)})


def _in_scratch(name: str, content: bytes) -> Path:
    path = Path(tempfile.mkdtemp(dir=SCRATCH[0])) / name
    path.write_bytes(content)
    return path


def give_saved_request(tree: Any) -> None:
    """The forget request in a run folder."""
    problem = from_dict(config.Problem, problem_fields(), "the problem")
    dataset = load_dataset(problem)
    content = {"fingerprint": dataset.fingerprint} | tree
    load_request(_in_scratch("forget_request.json", json.dumps(sealed(content)).encode()), dataset)


def give_vary(case: tuple[str, list[str], dict[str, Any]]) -> None:
    """A method and what a sweep varies, as after `--vary`."""
    method, words, others = case
    plan = sweep.Sweep(
        Path(PRETRAINED[0]),
        ForgetRequest(fraction=0.1),
        method,
        parse_space(tuple(words), "--vary"),
        {},
        others.get("trials"),
        tuple(others.get("seeds", ())),
    )
    plan.points()


def give_predictions(content: bytes) -> None:
    """A file of predictions of these bytes."""
    found = SplitPredictions.load(_in_scratch("predictions.npz", content))
    for name, part in found._asdict().items():
        if len(part.labels):
            check_predictions(part, name)


def give_idx(content: bytes) -> None:
    """An IDX file of these bytes, packed where they begin with gz."""
    packed = content[:2] == b"gz"
    read_idx(_in_scratch("x.gz", content[2:]) if packed else _in_scratch("x", content), 3)


def give_tensors(content: bytes) -> None:
    """A safetensors file of these bytes."""
    path = _in_scratch("model.safetensors", content)
    tensors.read(path, {"dense": np.zeros((3, 2), np.float32)}, lambda p: "dense")


def give_run(case: tuple[str, Any]) -> None:
    """The folder of a finished run with one of its records damaged."""
    name, tree = case
    content = sealed(tree) if isinstance(tree, dict) else tree
    path = _in_scratch(name, json.dumps(content).encode())
    for entry in Path(PRETRAINED[0]).iterdir():
        if entry.name != name:
            (path.parent / entry.name).symlink_to(entry)
    found = runs.read_pretrained(path.parent)
    runs.load_weights(path.parent, found.problem)


def give_json(content: bytes) -> None:
    """A JSON file of these bytes."""
    read_json(_in_scratch("results.json", content))


def give_report(case: tuple[str, Any]) -> None:
    """A study of one seed with one file of it damaged; the report goes to its folder."""
    name, tree = case
    folder = Path(tempfile.mkdtemp(dir=SCRATCH[0])) / "study"
    for other, content in REPORTED.items():
        path = folder / other
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tree if other == name else content))
    before = files_in(folder)
    try:
        study = report.read_study(folder)
        read_extras(study)
        report.write_report(folder)
    except InputError:
        assert files_in(folder) == before, "a report was begun"
        raise


def give_sweep(case: tuple[str, Any]) -> None:
    """The folder of a sweep with one file of it damaged; its report is written."""
    name, tree = case
    folder = Path(tempfile.mkdtemp(dir=SCRATCH[0])) / "sweep"
    for other, content in SWEPT.items():
        write_json(folder / other, tree if other == name else content)
    write_sweep_report(folder)


def give_tuning(tree: Any) -> None:
    """The record of a search, for its table and its settings."""
    folder = _in_scratch("tuning.json", json.dumps(tree).encode()).parent
    render_tuning(folder)
    tuning.chosen_toml(tuning.read_tuning(folder))


def give_words(words: list[str]) -> None:
    """A whole command line; its one sentence and its status are what a user sees."""
    error = io.StringIO()
    with (
        stopping(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(error),
    ):
        try:
            known = {"PRETRAINED": PRETRAINED[0], "STUDY": f"{SCRATCH[0]}/study.toml"}
            cli.main([known.get(word, word) for word in words])
        except SystemExit as end:
            told = error.getvalue()
            if end.code in (0, None):
                return
            if end.code != 2:
                raise AssertionError(f"status {end.code}: {told}") from end
            if told.startswith("jaxunlearn: "):
                raise InputError(told.removeprefix("jaxunlearn: ").removesuffix("\n")) from end
            raise InputError("a word that the parser of the command line refuses") from end


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
