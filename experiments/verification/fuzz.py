"""Damaged input of every kind: always the documented error, never a traceback or a half-result.

    python -m experiments.verification.fuzz --cases 300

Hypothesis draws, for each kind of input below, that many cases from a sound one: values of another
type, size or sign, fields that are missing, unknown or in the wrong place, bytes flipped, cut off
or put in. Each is given to the code that a command hands it to, in an empty folder. It may be

    refused     by an `InputError` of one sentence (the commands print it and end with status 2),
                with the folder as it was before
    accepted    because what was drawn is sound; work stops before anything is trained

Anything else is a failure: any other exception, an error of several lines or without end, or a file
left behind by what was refused. `tests/test_fuzz.py` draws a few of each kind, always the same.

Writes `experiments/results/fuzz.json` and `fuzz.md`: counts by kind, the seed, and each failure.
"""

import argparse
import contextlib
import gzip
import io
import json
import math
import os
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import safetensors.numpy
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from jaxunlearn.data.idx import read_idx

from jaxunlearn import methods, studies
from jaxunlearn.cli import commands as cli
from jaxunlearn.data import ForgetRequest
from jaxunlearn.evaluation import SplitPredictions
from jaxunlearn.evaluation.predictions import check_predictions
from jaxunlearn.files import read_json, write_json
from jaxunlearn.models.pretrained import tensors
from jaxunlearn.studies import config, report
from jaxunlearn.studies.audits import ulira
from jaxunlearn.studies.fields import from_dict, parse_settings
from jaxunlearn.studies.problem import load_dataset, load_splits
from jaxunlearn.studies.report.extras import read_extras
from jaxunlearn.studies.report.markdown_text import table as markdown_table
from jaxunlearn.studies.report.sweep import cell_file, write_sweep_report
from jaxunlearn.studies.report.tuning import render_tuning
from jaxunlearn.studies.runs import folder as runs
from jaxunlearn.studies.runs import run_config, train
from jaxunlearn.studies.runs.request_file import load_request
from jaxunlearn.studies.search import sweep, tuning
from jaxunlearn.studies.search.space import parse_space
from jaxunlearn.training.hosts import machine
from jaxunlearn.types import InputError

RESULTS = Path(__file__).parents[1] / "results"
_LONGEST = 1000


class Accepted(BaseException):
    """Work would begin now."""


class Kind(NamedTuple):
    """A kind of input.

    Attributes:
        cases: what is drawn.
        give: `give(case)` hands it to the code it is for, in an empty current folder.
    """

    cases: st.SearchStrategy[Any]
    give: Callable[[Any], object]


# What is drawn

_NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0.5, -0.0, 1e-320, 1e308, math.inf, -math.inf, math.nan, 2**31, 2**63]),
)
_WORDS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", "..", "../x", "/", "a/b", "nan", "1e400", "\0", "\n", "$HOME", "é" * 300]),
)
_JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, _WORDS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(_WORDS, inner, max_size=3)
    ),
    max_leaves=4,
)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = [path] if path else []
    if isinstance(tree, dict | list):
        for key, value in inner:
            found += (
                _places(value, (*path, key)) if isinstance(value, dict | list) else [(*path, key)]
            )
    return found


@st.composite
def trees(draw: Any, sound: Any, choices: tuple[Any, ...] = ()) -> Any:
    """A tree of plain values, damaged in one to three places."""
    tree = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, 3))):
        places = _places(tree)
        if not places:
            break
        *path, last = draw(st.sampled_from(places))
        parent = tree
        for key in path:
            parent = parent[key]
        how = draw(st.sampled_from(["value", "value", "near", "drop", "rename", "wrap", "add"]))
        if how == "drop":
            del parent[last]
        elif how == "rename" and isinstance(parent, dict):
            parent[draw(st.one_of(_WORDS, st.sampled_from(["seeds", "method", last + "x"])))] = (
                parent.pop(last)
            )
        elif how == "wrap":
            parent[last] = draw(st.sampled_from([[parent[last]], {"x": parent[last]}]))
        elif how == "add" and isinstance(parent, dict):
            parent[draw(_WORDS)] = draw(_JUNK)
        elif how == "near" and isinstance(parent[last], int | float):
            parent[last] = draw(
                st.sampled_from([-parent[last], parent[last] * 2**40, float(parent[last]), 0])
            )
        elif choices and draw(st.booleans()):
            parent[last] = draw(st.sampled_from(choices))
        else:
            parent[last] = draw(_JUNK)
    return tree


@st.composite
def one_of_files(draw: Any, sound: dict[str, Any]) -> tuple[str, Any]:
    """The name of one file of a folder, and its content, damaged."""
    name = draw(st.sampled_from(sorted(sound)))
    return name, draw(trees(sound[name]))


@st.composite
def damaged(draw: Any, sound: bytes) -> bytes:
    """Bytes with a few of them changed, cut off, doubled or put in."""
    found = bytearray(sound)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(found) - 1, 0)))
        how = draw(st.sampled_from(["flip", "cut", "drop", "insert", "head"]))
        if how == "flip" and found:
            found[at] ^= draw(st.integers(1, 255))
        elif how == "cut":
            del found[at:]
        elif how == "drop":
            del found[at : at + draw(st.integers(1, 20))]
        elif how == "head" and found:
            found[min(at, 15) % len(found)] = draw(st.integers(0, 255))
        else:
            found[at:at] = draw(st.binary(min_size=1, max_size=9))
    return bytes(found)


def as_toml(value: dict[str, Any]) -> str:
    """A TOML file of a table; what TOML cannot say is said wrongly."""
    return "".join(f"{json.dumps(key)} = {_inline(entry)}\n" for key, entry in value.items())


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, float):
        return {"inf": "inf", "-inf": "-inf", "nan": "nan"}.get(str(value), repr(value))
    return json.dumps(value)


# What it is given to

_DATA_DIR, _PRETRAINED, _SCRATCH = [""], [""], [""]


def _problem() -> dict[str, Any]:
    training = {"num_steps": 2, "retain_batch_size": 32, "learning_rate": 0.1}
    fields = {"data": "digits", "data_dir": _DATA_DIR[0], "validation_fraction": 0.1}
    return fields | {"model": "mlp-tiny", "model_settings": {"hidden": [8]}, "training": training}


_SETTINGS = {"num_steps": 4, "learning_rate": 0.02, "optimizer": "sgd", "forget_batch_size": 16}
_STUDY: dict[str, Any] = {
    "title": "A study",
    "seeds": [0, 1],
    "problem": {
        "data": "digits",
        "validation_fraction": 0.1,
        "train_size": 600,
        "model": "mlp-tiny",
        "model_settings": {"hidden": [8], "activation": "relu"},
        "training": {"num_steps": 2, "retain_batch_size": 32, "learning_rate": 0.1},
    },
    "requests": [{"fraction": 0.1}, {"classes": [3]}, {"indices": [1, 8]}],
    "methods": {
        "finetune": _SETTINGS,
        "mine": {"method": "eupmu", "tolerance": 0.1, "estimator": "exact", "trainable": "head"},
        "guarded": {"method": "gradient_ascent", "guard_budget": 0.1, "guard_every": 5},
    },
    "overrides": {"random-0.1": {"mine": {"tolerance": 0.2}}},
}
_SEARCH = {key: _STUDY[key] for key in ("problem", "seeds")} | {
    "requests": [{"fraction": 0.1}, {"indices": [1, 8]}],
    "trials": 3,
    "search": {
        "finetune": {"learning_rate": [0.01, 0.1], "num_steps": 4},
        "mine": {"method": "eupmu", "tolerance": [0.1, 1.0], "objective": "match_unseen"},
    },
    "oracle": True,
}
_CHOICES = (*methods.available(), "digits", "cifar10", "mlp", "ddpm-tiny", "vit-s", "sgd", "exact")


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Stops where the first run folder would be written, or the first program compiled."""

    def stop(*args: Any, **keywords: Any) -> None:
        raise Accepted

    with (
        mock.patch.object(runs, "claim", stop),
        mock.patch.object(runs, "load_weights", stop),
        mock.patch.object(train.training, "run", stop),
        mock.patch.object(ulira, "claim", stop),
    ):
        yield


def give_study(tree: dict[str, Any]) -> None:
    """A study file that says this; its folder stays empty."""
    path = Path(tempfile.mkdtemp(dir=_SCRATCH[0])) / "study.toml"
    path.write_text(as_toml(tree), "utf-8")
    with stopping():
        studies.compare(Path("study"), config.load_study(path))


def give_study_text(text: bytes) -> None:
    """A study file of these bytes."""
    path = Path(tempfile.mkdtemp(dir=_SCRATCH[0])) / "study.toml"
    path.write_bytes(text)
    config.load_study(path)


def give_search(tree: dict[str, Any]) -> None:
    """A search file that says this."""
    path = Path(tempfile.mkdtemp(dir=_SCRATCH[0])) / "search.toml"
    path.write_text(as_toml(tree), "utf-8")
    with stopping():
        tuning.tune(Path("search"), tuning.load_search(path))


def give_settings(case: tuple[str, list[str]]) -> None:
    """A method and its settings, as after `--settings`."""
    method, words = case
    problem = from_dict(config.Problem, _problem(), "the problem")
    given = parse_settings(tuple(words), "--settings")
    request = ForgetRequest(fraction=0.1)
    train.check_run(Path("run"), run_config.unlearning(problem, 0, request, method, given))


def give_request(fields: dict[str, Any]) -> None:
    """A forget request of these fields, for digits."""
    request = ForgetRequest(**fields)
    problem = from_dict(config.Problem, _problem(), "the problem")
    load_splits(problem, 0, request)
    assert Path(request.name).name == request.name


def give_request_file(text: bytes) -> None:
    """A forget request by a file of these bytes."""
    path = Path(tempfile.mkdtemp(dir=_SCRATCH[0])) / "request"
    path.write_bytes(text)
    give_request({"file": str(path)})


def _in_scratch(name: str, content: bytes) -> Path:
    path = Path(tempfile.mkdtemp(dir=_SCRATCH[0])) / name
    path.write_bytes(content)
    return path


def give_saved_request(tree: Any) -> None:
    """The forget request in a run folder."""
    problem = from_dict(config.Problem, _problem(), "the problem")
    dataset = load_dataset(problem)
    content = {"fingerprint": dataset.fingerprint} | tree
    load_request(_in_scratch("forget_request.json", json.dumps(content).encode()), dataset)


def give_vary(case: tuple[str, list[str], dict[str, Any]]) -> None:
    """A method and what a sweep varies, as after `--vary`."""
    method, words, others = case
    plan = sweep.Sweep(
        Path(_PRETRAINED[0]),
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
    tensors.read(path, {"dense": np.zeros((3, 2), np.float32)}, lambda p: tensors.Tensor("dense"))


def give_run(case: tuple[str, Any]) -> None:
    """The folder of a finished run with one of its records damaged."""
    name, tree = case
    path = _in_scratch(name, json.dumps(tree).encode())
    for entry in Path(_PRETRAINED[0]).iterdir():
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
    folder = Path(tempfile.mkdtemp(dir=_SCRATCH[0])) / "study"
    for other, content in _REPORTED.items():
        path = folder / other
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tree if other == name else content))
    before = _files(folder)
    try:
        study = report.read_study(folder)
        read_extras(study)
        report.write_report(folder)
    except InputError:
        assert _files(folder) == before, "a report was begun"
        raise


def give_sweep(case: tuple[str, Any]) -> None:
    """The folder of a sweep with one file of it damaged; its report is written."""
    name, tree = case
    folder = Path(tempfile.mkdtemp(dir=_SCRATCH[0])) / "sweep"
    for other, content in _SWEPT.items():
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
            known = {"PRETRAINED": _PRETRAINED[0], "STUDY": f"{_SCRATCH[0]}/study.toml"}
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


def _metrics(shift: float) -> dict[str, float]:
    names = "forget_accuracy retain_accuracy test_accuracy validation_accuracy".split()
    names += ["svc_non_member_rate", "entropy_member_rate"]
    return {name: 90.0 + shift + i for i, name in enumerate(names)}


def _results(name: str) -> dict[str, Any]:
    found = {"method": name, "request": "random-0.1", "seed": 0, "steps": 4, "seconds": 1.5}
    guard = {"start": 0.2, "limit": 0.3, "end": 0.25, "rollbacks": 1}
    counts = {"forget": 10, "retain": 90, "validation": 9, "test": 30, "test_forget": 0}
    return found | {"metrics": _metrics(len(name) / 10), "counts": counts, "guard": guard}


_REPORTED: dict[str, Any] = {
    "study.json": {
        "title": "A study",
        "dataset": "digits",
        "model": "mlp",
        "requests": ["random-0.1"],
        "seeds": [0],
        "methods": ["eupmu"],
        "machine": {"platform": "cpu", "devices": 1},
    },
    "seed-0/random-0.1/retrain/results.json": _results("retrain"),
    "seed-0/random-0.1/eupmu/results.json": _results("eupmu"),
    "seed-0/random-0.1/eupmu/metrics.jsonl": {"step": 1, "forget_loss": 1.0, "retain_loss": 0.5},
    "seed-0/random-0.1/eupmu/config.json": {
        "stage": "unlearn",
        "problem": {"data": "digits", "model": "mlp"},
        "method": "eupmu",
        "settings": {"estimator": "exact", "tolerance": 0.1},
    },
    "evidence.json": {
        "title": "A study",
        "dataset": "digits",
        "model": "mlp",
        "relearning": {"epochs": 2},
        "runs": [
            {
                "seed": 0,
                "request": "random-0.1",
                "name": name,
                "weights": "00",
                "retrained": "00",
                "relearning_curve": [90.0, 91.0, 92.0],
                "probe_accuracy": 55.0,
                "calibration_error": {"forget": 2.0, "test": 3.0},
                "brier_score": {"forget": 0.1, "test": 0.2},
                "class_damage": [0.5, None, -0.5],
                "disagreement_map": {"forget": [[3, 1]], "test": [[4, 0]]},
                "disagreement": {"forget": 2.0, "test": 3.0},
            }
            for name in ("retrain", "eupmu")
        ],
    },
    "ulira/ulira.json": {
        "title": "A study",
        "dataset": "digits",
        "model": "mlp",
        "shadows": 6,
        "targets": 20,
        "fraction": 0.1,
        "seed": 0,
        "variance": "shared",
        "methods": {
            "eupmu": {"method": "eupmu", "settings": {"estimator": "exact", "tolerance": 0.1}}
        },
        "models": {
            name: {
                "auc": {"value": 55.0, "low": 50.0, "high": 60.0},
                "tpr": {"0.01": {"value": 1.0, "low": 0.5, "high": 2.0}},
                "roc_curve": {"fpr": [1.0, 100.0], "tpr": [2.0, 100.0]},
                "forget_accuracy": 90.0,
                "retain_accuracy": 99.0,
                "test_accuracy": 91.0,
            }
            for name in ("original", "retrain", "eupmu")
        },
    },
}
_SWEPT: dict[str, Any] = {
    "sweep.json": {
        "identity": {
            "problem": {"data": "digits", "model": "mlp"},
            "method": "eupmu",
            "varied": {"tolerance": [0.1, 0.2]},
            "search": "grid",
        },
        "request": "random-0.1",
        "unseen_accuracy": 95.0,
        "original": _metrics(0.0),
        "retrained": None,
        "counts": {"forget": 10},
        "cells": [cell_file({"tolerance": value}, 0) for value in (0.1, 0.2)],
        "machine": {},
    },
    f"cells/{cell_file({'tolerance': 0.1}, 0)}": {
        "settings": {"tolerance": 0.1},
        "seed": 0,
        "seconds": 0.1,
        "group_size": 2,
        "metrics": _metrics(0.1),
    },
    f"cells/{cell_file({'tolerance': 0.2}, 0)}": {
        "settings": {"tolerance": 0.2},
        "seed": 0,
        "seconds": 0.1,
        "group_size": 2,
        "diverged": 3,
    },
}
_TUNED = {
    "machine": {},
    "protocol": {"seeds": [0], "trials": 2, "oracle": True},
    "found": {
        "random-0.1": {
            "eupmu": {
                "ranges": {"tolerance": [0.1, 1.0]},
                "trials": [
                    {"target": 3.0, "five_part_gap": 2.0, "settings": {"tolerance": 0.1}}
                    | _metrics(0.0),
                    {"target": 5.0, "five_part_gap": 1.0, "settings": {"tolerance": 0.2}}
                    | _metrics(1.0),
                ],
            }
        }
    },
}
_RUN = {
    "config.json": {
        "stage": "pretrain",
        "problem": _problem(),
        "seed": 0,
        "method": "retrain",
        "settings": {"num_steps": 4, "learning_rate": 0.1},
        "request": None,
        "again": False,
        "start": None,
        "aim": None,
    },
    "done.json": {"steps": 2, "seconds": 0.1, "compile_seconds": 0.1, "weights": "00ff"},
    "fingerprints.json": {"data": "00ff"},
}
_SAVED = {"format": 1, "dataset": "digits", "request": {"fraction": 0.1}, "forget": [4, 5]}


def _npz() -> bytes:
    rows = np.full((4, 3), 1 / 3, np.float32)
    arrays = {}
    for name in SplitPredictions._fields:
        arrays |= {f"{name}_probabilities": rows, f"{name}_labels": np.zeros(4, np.int32)}
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


_IDX = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3]) + bytes(18)
_TENSORS = safetensors.numpy.save({"dense": np.ones((3, 2), np.float32)})
_TEXT = as_toml(_STUDY).encode()
_VALUES = st.one_of(_JUNK.map(lambda v: json.dumps(v, default=str)), _WORDS, _NUMBERS.map(str))


@st.composite
def pairs(draw: Any) -> tuple[str, list[str]]:
    """A method and name=value words, most of which name settings that it has."""
    method = draw(st.one_of(st.sampled_from([*methods.available(), "retrain"]), _WORDS))
    known = ["num_steps"]
    if method in methods.available():
        known = [*methods.settings(method), *methods.GUARD_SETTINGS]
    names = st.one_of(st.sampled_from(known), st.sampled_from(known), _WORDS)
    words = [f"{draw(names)}={draw(_VALUES)}" for _ in range(draw(st.integers(1, 3)))]
    return method, [*words, *draw(st.lists(_WORDS, max_size=1))]


@st.composite
def ranges(draw: Any) -> tuple[str, list[str], dict[str, Any]]:
    """A method, name=values words, and the number of trials and the seeds of a sweep."""
    method, words = draw(pairs())
    ends = st.one_of(_NUMBERS.map(str), st.sampled_from(["0.1", "1", "nan", "", "x"]))
    name = draw(st.sampled_from(["learning_rate", "momentum", "num_steps", "guard_budget", "x"]))
    joined = draw(st.sampled_from([",", ":", "::", " "])).join(
        draw(st.lists(ends, min_size=0, max_size=3))
    )
    trials = draw(st.one_of(st.none(), st.integers(-2, 5)))
    seeds = draw(st.lists(st.integers(-2, 2**40), max_size=3))
    chosen = draw(st.sampled_from([[f"{name}={joined}"], [f"{name}={joined}"], words]))
    return method, chosen, {"trials": trials, "seeds": seeds}


_LISTS = st.one_of(_JUNK, st.lists(_JUNK, max_size=4), st.lists(st.integers(-2, 2000), max_size=4))
_REQUESTS = st.dictionaries(
    st.sampled_from(["fraction", "classes", "words", "subclass", "indices", "file"]),
    st.one_of(_LISTS, _LISTS.map(lambda v: tuple(v) if isinstance(v, list) else v)),
    max_size=2,
)
_FILES = st.one_of(
    damaged(b"[4, 5, 77, 1300]"),
    damaged(b"4\n5\n77\n1300\n"),
    st.binary(max_size=40),
    st.lists(_JUNK, max_size=3).map(lambda v: json.dumps(v).encode()),
    st.integers(1, 200_000).map(lambda n: b"[" * n),
    st.integers(1, 6000).map(lambda n: b"9" * n),
    _NUMBERS.map(lambda n: f"3\n{n}".encode()),
    trees({"indices": [4, 5]}).map(lambda v: json.dumps(v).encode()),
)
_UNLEARN = "unlearn run --pretrained PRETRAINED --method eupmu --fraction 0.1".split()
_COMMANDS = (
    [*_UNLEARN, "--settings", "num_steps=4", "tolerance=0.1", "guard_budget=0.1"],
    [*_UNLEARN, "--trainable", "head", "--adapter-rank", "2", "--devices", "1"],
    "retrain run --pretrained PRETRAINED --indices 1 8".split(),
    "pretrain run --model mlp-tiny --training num_steps=4 --validation-fraction 0.2".split(),
    "pretrain run --model ddpm-tiny --diffusion num_timesteps=60 samples=3 --seed 3".split(),
    "sweep run --pretrained PRETRAINED --method salun --classes 3 --vary fraction=0.1,0.2".split(),
    "sweep run --pretrained PRETRAINED --method eupmu --classes 3 --vary tolerance=1:2 --trials 3 "
    "--seeds 0 1 --group-size 4 --shard 1/2".split(),
    "evaluate PRETRAINED --retrained PRETRAINED".split(),
    "select run --pretrained PRETRAINED --by gradient_norm --fraction 0.1".split(),
    "ulira run --config STUDY --shadows 6 --group-size 2 --fpr 0.1".split(),
    "compare run --config STUDY --seeds 3".split(),
    "sample picture.png --run PRETRAINED --labels 1 --count 2".split(),
    "report PRETRAINED --rank-by five_part_gap".split(),
    "evidence PRETRAINED".split(),
    "list eupmu".split(),
)
_WORD = st.one_of(
    _WORDS,
    _NUMBERS.map(str),
    st.sampled_from([word for command in _COMMANDS for word in command]),
    _VALUES,
)


@st.composite
def commands(draw: Any) -> list[str]:
    """The words of a command, one or two of them replaced, left out or put in."""
    words = list(draw(st.sampled_from(_COMMANDS)))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(words) - 1))
        how = draw(st.sampled_from(["replace", "replace", "drop", "insert"]))
        words[at : at + (how != "insert")] = [] if how == "drop" else [draw(_WORD)]
    return [word.replace("\0", "") for word in words]


FOLDERS = ("run folders", "command lines")  # these need a pretraining run
KINDS: dict[str, Kind] = {
    "studies": Kind(trees(_STUDY, _CHOICES), give_study),
    "study files": Kind(damaged(_TEXT), give_study_text),
    "searches": Kind(trees(_SEARCH, _CHOICES), give_search),
    "settings": Kind(pairs(), give_settings),
    "what sweeps vary": Kind(ranges(), give_vary),
    "forget requests": Kind(_REQUESTS, give_request),
    "request files": Kind(_FILES, give_request_file),
    "saved requests": Kind(trees(_SAVED), give_saved_request),
    "idx files": Kind(
        st.one_of(damaged(_IDX), damaged(gzip.compress(_IDX)).map(lambda b: b"gz" + b)), give_idx
    ),
    "safetensors": Kind(damaged(_TENSORS), give_tensors),
    "predictions": Kind(damaged(_npz()), give_predictions),
    "JSON files": Kind(damaged(json.dumps(_REPORTED).encode()), give_json),
    "run folders": Kind(one_of_files(_RUN), give_run),
    "study folders": Kind(one_of_files(_REPORTED), give_report),
    "sweep folders": Kind(one_of_files(_SWEPT), give_sweep),
    "search folders": Kind(trees(_TUNED), give_tuning),
    "command lines": Kind(commands(), give_words),
}


# Drawing and judging


class Found(NamedTuple):
    """What came of the cases of one kind: how many of each outcome, and the failures by place."""

    counts: Counter[str]
    failures: dict[str, str]


def fuzz(name: str, count: int, number: int) -> Found:
    """Draws cases of one kind, always the same for one seed.

    Args:
        name: of the kind.
        count: how many cases.
        number: the seed.

    Returns:
        What came of them.
    """
    counts: Counter[str] = Counter()
    failures: dict[str, str] = {}

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[name].cases)
    def one(case: Any) -> None:
        outcome, why = judge(KINDS[name].give, case)
        counts[outcome] += 1
        if outcome == "failed":
            failures.setdefault(why, repr(case)[:500])

    one()
    return Found(counts, failures)


def judge(give: Callable[[Any], object], case: Any) -> tuple[str, str]:
    """Gives one case: "refused", "accepted", or "failed" and why."""
    here, empty = Path.cwd(), Path(tempfile.mkdtemp(dir=_SCRATCH[0]))
    os.chdir(empty)
    try:
        give(case)
    except Accepted:
        return "accepted", ""
    except InputError as error:
        said = str(error)
        if "\n" in said or not 10 < len(said) < _LONGEST:
            return "failed", f"an error that is no sentence: {said[:200]!r}"
        if left := _files(empty):
            return "failed", f"refused, but left {sorted(left)}"
        return "refused", ""
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "jaxunlearn/" in f.filename] or frames
        place = f"{Path(ours[-1].filename).name}:{ours[-1].name}"
        return "failed", f"{type(error).__name__} in {place}: {str(error)[:200]}"
    finally:
        os.chdir(here)
    return "accepted", ""


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def main() -> None:
    """Draws cases of every kind, or of some, and writes the counts of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=300, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(KINDS), nargs="*", default=list(KINDS))
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), Path(folder) / "data")
        problem = from_dict(config.Problem, _problem(), "the problem")
        train.pretrain(Path(_PRETRAINED[0]), problem, 0)
        rows = {}
        for name in words.only:
            clock = time.perf_counter()
            found = fuzz(name, words.cases, words.seed)
            rows[name] = dict(found.counts) | {"failures": found.failures}
            print(f"{name}: {dict(found.counts)}, {time.perf_counter() - clock:.0f} s", flush=True)
            for why, case in found.failures.items():
                print(f"    {why}\n        {case}", flush=True)
    if words.only == list(KINDS):
        write(rows, words.seed)


def prepare(folder: Path, data_dir: Path) -> None:
    """Says where cases lie and where prepared digits do, and writes the study of command lines."""
    _SCRATCH[0], _DATA_DIR[0], _PRETRAINED[0] = map(str, (folder, data_dir, folder / "pretrained"))
    os.environ["TFDS_DATA_DIR"] = _DATA_DIR[0]
    (folder / "study.toml").write_text(as_toml(_STUDY), "utf-8")


def write(rows: dict[str, dict[str, Any]], number: int) -> None:
    """Writes the counts as JSON and as a table."""
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / "fuzz.json", {"seed": number, "machine": machine(), "kinds": rows})
    outcomes, cells = ("refused", "accepted", "failed"), []
    rows |= {"all": {key: sum(row.get(key, 0) for row in rows.values()) for key in outcomes}}
    for name, row in rows.items():
        counts = [row.get(key, 0) for key in outcomes]
        cells.append([name, *(f"{count:,}" for count in (sum(counts), *counts))])
    lines = markdown_table(["input", "cases", *outcomes], cells)
    (RESULTS / "fuzz.md").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
