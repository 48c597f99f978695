"""Evidence of forgetting, for every run of a finished study.

    relearning        accuracy on the forget data after 0, 1, ... 5 epochs of training on them
    linear probe      accuracy of a logistic regression on the features
    calibration       ECE and Brier score on forget and test data
    class damage      loss of test accuracy against the retrained model, per class
    disagreement      counts of predicted classes against the retrained model's

The findings on each run are kept in its folder as `evidence.json`, so a study that has grown
computes only new ones. The study's folder receives `evidence.json`, `evidence.md` and pictures.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.data import ForgetRequest
from jaxunlearn.data.examples import to_device
from jaxunlearn.evaluation import Predictions, SplitPredictions
from jaxunlearn.evaluation.calibration import brier_score, calibration_error
from jaxunlearn.evaluation.per_class import class_damage, disagreement_map
from jaxunlearn.files import read_json, write_record
from jaxunlearn.studies.audits.probing import probe_accuracy
from jaxunlearn.studies.audits.relearning import EPOCHS, SETTINGS, relearning_curve
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.console import run_label, say
from jaxunlearn.studies.problem import check_classifies, load_dataset, load_splits, load_task
from jaxunlearn.studies.report.evidence import write_evidence_report
from jaxunlearn.studies.report.study import Run, Study, read_study
from jaxunlearn.studies.runs.folder import load_weights, read_config, read_done
from jaxunlearn.studies.runs.request_file import load_request
from jaxunlearn.studies.runs.schema import EvidenceRecord, check_record
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.types import InputError, Weights

_FORMAT = 1


def gather(folder: Path) -> dict[str, Any]:
    """Computes the evidence on every run that has an evaluated retrained model beside it.

    Returns:
        The content of `evidence.json`: the protocol, and one entry for each run.
    """
    study = read_study(folder)
    cells = {(run.seed, run.request): run for run in study.runs if run.name == "retrain"}
    for retrained in cells.values():
        check_classifies(read_config(retrained.folder, "retrain").problem, "evidence")
    with Workspace(folder, "study", "study.json").locked():
        return _gather(study, cells)


def _gather(study: Study, cells: dict[tuple[int, str], Run]) -> dict[str, Any]:
    folder, entries = study.folder, []
    for run in study.runs:
        oracle = cells.get((run.seed, run.request))
        if oracle is not None:
            entries.append(_of_run(folder, run, oracle))
    if not entries:
        raise InputError(
            f"{folder} has no evaluated retrained model to compare with; finish it with jaxunlearn "
            "compare first."
        )
    report = {
        "title": study.title,
        "dataset": study.dataset,
        "model": study.model,
        "relearning": SETTINGS | {"epochs": EPOCHS},
        "runs": entries,
    }
    check_record(folder / "evidence.json", report, EvidenceRecord)
    write_record(folder / "evidence.json", report)
    write_evidence_report(folder, report)
    return report


def _of_run(folder: Path, run: Run, oracle: Run) -> dict[str, Any]:
    """The entry of one run, read from its folder or computed."""
    trained = run.folder if run.name != "original" else folder / f"seed-{run.seed}" / "pretrain"
    stamp = {
        "format": _FORMAT,
        "weights": read_done(trained)["weights"],
        "retrained": read_done(oracle.folder)["weights"],
    }
    path = run.folder / "evidence.json"
    if path.exists():
        kept = read_json(path)
        if {key: kept.get(key) for key in stamp} == stamp:
            return kept
    found = stamp | {"seed": run.seed, "request": run.request, "name": run.name}
    found |= from_predictions(_predictions(run), _predictions(oracle))
    problem = read_config(oracle.folder, "retrain").problem
    found |= _from_weights(load_weights(trained, problem), problem, oracle)
    write_record(path, found)
    say(f"{run_label(run.folder)}: evidence gathered")
    return found


def _predictions(run: Run) -> SplitPredictions:
    predictions = run.predictions()
    if predictions is None:
        raise InputError(
            f"{run.folder} has no predictions.npz; delete its results.json and run jaxunlearn "
            "compare again, which evaluates it again."
        )
    return predictions


def from_predictions(model: SplitPredictions, retrained: SplitPredictions) -> dict[str, Any]:
    """The evidence in saved predictions, by split where it is a dictionary.

    "class_damage" `[C]` covers all test examples, forgotten classes included, and is None for a
    class without any; "disagreement_map" is `[C, C]`, and "disagreement" in percent.
    """
    parts = {"forget": (model.forget, retrained.forget), "test": _all_test(model, retrained)}
    maps = {part: disagreement_map(*pair) for part, pair in parts.items()}
    damage = class_damage(*parts["test"])
    return {
        "calibration_error": {part: calibration_error(pair[0]) for part, pair in parts.items()},
        "brier_score": {part: brier_score(pair[0]) for part, pair in parts.items()},
        "class_damage": [None if np.isnan(value) else float(value) for value in damage],
        "disagreement_map": {part: counts.tolist() for part, counts in maps.items()},
        "disagreement": {
            part: 100.0 * float(1 - np.trace(counts) / counts.sum())
            for part, counts in maps.items()
        },
    }


def _all_test(*models: SplitPredictions) -> tuple[Predictions, ...]:
    return tuple(
        Predictions(
            np.concatenate([model.test.probabilities, model.test_forget.probabilities]),
            np.concatenate([model.test.labels, model.test_forget.labels]),
        )
        for model in models
    )


def _from_weights(weights: Weights, problem: Problem, oracle: Run) -> dict[str, Any]:
    """The evidence that needs the model itself: the relearning curve and the linear probe."""
    chosen = load_request(oracle.folder / "forget_request.json", load_dataset(problem))
    request = ForgetRequest(indices=tuple(chosen.tolist()))
    splits, task = load_splits(problem, oracle.seed, request), load_task(problem)
    forget, retain = to_device(splits.forget), to_device(splits.retain)
    return {
        "relearning_curve": relearning_curve(task, weights, forget),
        "probe_accuracy": probe_accuracy(task, weights, forget, retain),
    }
