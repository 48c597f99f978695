"""Adoption: the weights of a checkpoint as a finished pretraining run.

The run holds a copy of the weights, and `adopted.json`: the place and the layout of the checkpoint,
and the path of each array in it. Every run that starts from it has that record too, so that its
weights can be exported as the checkpoint came.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxunlearn.files import read_record, write_record
from jaxunlearn.models import checkpoints, matching
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.fields import from_dict
from jaxunlearn.studies.plans import for_checkpoint, published
from jaxunlearn.studies.problem import load_dataset, load_shapes, load_task, load_training
from jaxunlearn.studies.runs import drawn, folder, results, source
from jaxunlearn.studies.runs.run_config import RunConfig
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.training import hosts
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.training.hosts import machine
from jaxunlearn.types import InputError, Weights

FILE = "adopted.json"


def adopting(fields: dict[str, Any]) -> Problem:
    """The problem of weights that someone trained.

    Args:
        fields: the fields of `Problem`, as in a study file; "checkpoint" is needed. Without
            "validation_fraction" no training data count as unseen.

    Raises:
        InputError: a field is missing or invalid.
    """
    if not fields.get("checkpoint"):
        raise InputError(
            "the checkpoint is not given, but must be the file or folder of the weights; give it "
            "(--checkpoint)."
        )
    if str(fields.get("data")).startswith(drawn.PREFIX):
        fields = drawn.drawn(fields)
    return from_dict(Problem, for_checkpoint(fields), "adopt")


def read(problem: Problem) -> tuple[Weights, dict[str, Any]]:
    """The weights in the checkpoint of a problem, and the record of their place in it."""
    assert problem.checkpoint is not None
    path, dataset = Path(problem.checkpoint).expanduser().absolute(), load_dataset(problem)
    found = published(str(path), vars(problem), dataset.num_classes)
    if found is not None:
        return _published(path, problem, found)
    stored = checkpoints.read(path, problem.step)
    fitted = matching.fit(stored, load_shapes(problem), problem.params_key, str(path))
    weights, given = fitted.weights, flatten_dict(fitted.weights.model_state)
    wanted = flatten_dict(load_shapes(problem).model_state)
    if given.keys() != wanted.keys():  # random keys, for example
        first = flatten_dict(jax.jit(load_task(problem).init)(jax.random.key(0))[1])
        weights = weights._replace(model_state=unflatten_dict(first | given))
    return weights, {
        "checkpoint": str(path),
        "step": stored.step,
        **stored.form,
        "arrays": len(fitted.keys),
        "params": ".".join(fitted.place),
        "other_params": [".".join(place) for place in fitted.others],
        "keys": [[list(ours), list(theirs)] for ours, theirs in fitted.keys.items()],
    }


def _published(path: Path, problem: Problem, found: Any) -> tuple[Weights, dict[str, Any]]:
    """The weights of a model of another library, and all else that `export` writes back."""
    shapes, leaves = (
        flatten_dict(tree._asdict()) for tree in (load_shapes(problem), found.weights)
    )
    for key, shape in shapes.items():
        there = leaves[key].shape if key in leaves else None
        if there != shape.shape:
            name, classes = "/".join(key), load_dataset(problem).num_classes
            raise InputError(
                f"{name} of the {found.model!r} in {path} is {there and list(there)}, but must be "
                f"{list(shape.shape)} for these data, which have {classes} classes; give a model "
                "for such data."
            )
    record = found._replace(weights=None)._asdict()
    record["config"] = {n: v for n, v in found.config.items() if n != "tokenizer"}  # a file
    return found.weights, {
        "checkpoint": str(path),
        "step": None,
        "layout": found.layout,
        "arrays": len(leaves),
        "params": "",
        "other_params": [],
        "notes": list(found.notes),
        "found": {
            name: value for name, value in record.items() if name not in ("weights", "notes")
        },
    }


def check(run: Path, config: RunConfig) -> None:
    """Raises unless the checkpoint fits the problem, and the folder is free or holds this run."""
    if not folder.is_finished(run):
        read(config.problem)
    folder.check_folder(run, config, load_dataset(config.problem), None)


def adopt_run(run: Path, config: RunConfig) -> Weights:
    """Makes a finished run of a checkpoint that `check` accepted."""
    weights, record = read(config.problem)
    with Workspace(run).locked():
        folder.claim_folder(run, config, load_dataset(config.problem), None)
        write_record(run / FILE, record | {"digests": source.copy(run, config.problem)})
        done = {
            "steps": 0,
            "seconds": 0.0,
            "compile_seconds": 0.0,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights": Checkpointer(run / "weights").save(0, weights, {}),
            "machine": machine(),
        }
        write_record(run / "done.json", done)
        hosts.barrier(f"{run} is done")
    return folder.load_weights(run, config.problem)


def inherit(pretrained: Path | None, run: Path) -> None:
    """Copies the record of an adoption to a run that starts from it, or that retrains its model."""
    if pretrained is not None and (pretrained / FILE).exists():
        write_record(run / FILE, read_record(pretrained / FILE))
        source.inherit(pretrained, run)


def accuracies(run: Path) -> dict[str, float]:
    """The accuracy of a classifier on "training" and "test" data, in percent."""
    config = folder.read_config(run, "pretrain")
    weights = folder.load_weights(run, config.problem)
    parts = {
        "training": load_training(config.problem, config.seed),
        "test": load_dataset(config.problem).test,
    }
    return results.accuracies_on(config.problem, weights, parts)
