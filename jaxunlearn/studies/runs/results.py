"""The results and the cost of an evaluated run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxunlearn import evaluation
from jaxunlearn.data import Examples, ForgetRequest
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.files import check_digests, file_digest, fingerprint, read_record, write_record
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.problem import load_task
from jaxunlearn.studies.runs.folder import read_done
from jaxunlearn.studies.runs.schema import Results, check_record
from jaxunlearn.types import Weights


class Subject(NamedTuple):
    """A model that is evaluated, and the run folder that receives the results.

    Attributes:
        method: the name of the model in the results.
        cost: the steps and seconds of the run, from `read_cost`; empty without any training.
        retrained: the evaluated run folder of the retrained model, for all distances.
        earlier: the requests that were honoured before, the oldest first.
        original: the weights before all requests, for a comparison with them.
        at_once: the number of examples that are computed at once; 0 chooses it.
    """

    run: Path
    weights: Weights
    problem: Problem
    seed: int
    request: ForgetRequest
    method: str
    cost: dict[str, Any] = {}  # noqa: RUF012
    retrained: Path | None = None
    earlier: tuple[ForgetRequest, ...] = ()
    original: Weights | None = None
    at_once: int = 0


def accuracies_on(
    problem: Problem, weights: Weights, parts: Mapping[str, Examples], at_once: int = 0
) -> dict[str, float]:
    """The accuracy of a classifier on each part of its data that is not empty, in percent."""
    task = load_task(problem)
    return {
        name: evaluation.accuracy(predict_with(task, weights, examples.arrays(), at_once))
        for name, examples in parts.items()
        if len(examples)
    }


def write_results(subject: Subject, found: dict[str, Any], *files: str) -> None:
    """Writes `results.json`: the findings, the costs, and the digests of what belongs to them."""
    results = {
        "method": subject.method,
        "request": subject.request.name,
        "seed": subject.seed,
        "dataset": subject.problem.data_name,
        "model": subject.problem.model,
        **found,
        **subject.cost,
    }
    if subject.cost and subject.retrained is not None:
        theirs = read_cost(subject.retrained)
        share = evaluation.share_of_time(subject.cost, theirs)
        if share is not None:
            results |= {"retrain_seconds": theirs["seconds"], "share_of_retraining": share}
    results["weights"] = fingerprint(subject.weights)
    results["digests"] = {name: file_digest(subject.run / name) for name in files}
    check_record(subject.run / "results.json", results, Results)
    write_record(subject.run / "results.json", results)


def read_results(run: Path) -> dict[str, Any]:
    """The results of an evaluated run, after a check of the digests of its files."""
    found = read_record(run / "results.json")
    check_digests(run, found)
    return found


def read_cost(run: Path) -> dict[str, Any]:
    """Cost, time and machine of a finished run, its guard's record, and its weights' movement."""
    keys = ("steps", "seconds", "compile_seconds", "finished", "machine", "guard", "weights_moved")
    done = read_done(run)
    return {key: done[key] for key in keys if key in done}
