"""Evidence of forgetting, for every run of a finished study.

    relearning        accuracy on the forget data after 0, 1, ... 5 epochs of training on them
    linear probe      accuracy of a logistic regression on the features
    calibration       ECE and Brier score on forget and test data
    class damage      loss of test accuracy against the retrained model, per class
    disagreement      counts of predicted classes against the retrained model's
    residual          accuracy on perturbed forget data minus the retrained model's
    exposure          AUC of the confidence in telling retain from test data
    discrepancy       total variation to the retrained model, by the distance to the forget data

The findings on each run are kept in its folder as `evidence.json`, so a study that has grown
computes only new ones. The study's folder receives `evidence.json`, `evidence.md` and pictures.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.data import ForgetRequest
from jaxunlearn.data.examples import to_device
from jaxunlearn.evaluation import Predictions, SplitPredictions, exposure_auc
from jaxunlearn.evaluation.by_distance import discrepancy_by_distance, distance_to_forget
from jaxunlearn.evaluation.calibration import brier_score, calibration_error
from jaxunlearn.evaluation.features import last_features
from jaxunlearn.evaluation.per_class import class_damage, disagreement_map
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.files import read_json, write_record
from jaxunlearn.studies.audits.perturbing import RADII, perturbed_accuracy
from jaxunlearn.studies.audits.probing import probe_accuracy
from jaxunlearn.studies.audits.relearning import EPOCHS, SETTINGS, relearning_curve
from jaxunlearn.studies.console import run_label, say
from jaxunlearn.studies.problem import check_classifies, load_dataset, load_splits, load_task
from jaxunlearn.studies.report.evidence import write_evidence_report
from jaxunlearn.studies.report.study import Run, Study, read_study, trained_in
from jaxunlearn.studies.runs.folder import load_weights, read_config, read_done
from jaxunlearn.studies.runs.request_file import load_request
from jaxunlearn.studies.runs.schema import EvidenceRecord, check_record
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.types import Arrays, InputError, Task, Weights

_FORMAT = 2
_EXAMPLES = 2000  # of retain and of test data, whose distance to the forget data is measured


def gather(folder: Path) -> dict[str, Any]:
    """Computes the evidence on every run that has an evaluated retrained model beside it.

    Returns:
        The content of `evidence.json`: the protocol, and one entry for each run.
    """
    study = read_study(folder)
    cells = {(run.seed, run.request): Oracle(run) for run in study.runs if run.name == "retrain"}
    for oracle in cells.values():
        check_classifies(oracle.problem, "evidence")
    with Workspace(folder, "study", "study.json").locked():
        return _gather(study, cells)


class Oracle:
    """The retrained model of a seed and a request; everything derived from it is computed once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.problem = read_config(run.folder, "retrain").problem

    @cached_property
    def task(self) -> Task:
        """The task of the problem."""
        return load_task(self.problem)

    @cached_property
    def weights(self) -> Weights:
        """The weights of the retrained model."""
        return load_weights(self.run.folder, self.problem)

    @cached_property
    def parts(self) -> dict[str, Arrays]:
        """All forget and retain examples, and all test examples, of forgotten classes too."""
        chosen = load_request(self.run.folder / "forget_request.json", load_dataset(self.problem))
        request = ForgetRequest(indices=tuple(chosen.tolist()))
        splits = load_splits(self.problem, self.run.seed, request)
        parts = {"forget": splits.forget, "retain": splits.retain, "test": splits.test}
        return {part: to_device(examples) for part, examples in parts.items()}

    @cached_property
    def perturbed_accuracy(self) -> list[float]:
        """The accuracy of the retrained model on perturbed forget examples."""
        return perturbed_accuracy(self.task, self.weights, self.parts["forget"])

    @cached_property
    def some(self) -> dict[str, Arrays]:
        """Some retain and test examples, always the same."""
        rng, found = np.random.default_rng(0), {}
        for part in ("retain", "test"):
            arrays = self.parts[part]
            chosen = np.sort(rng.permutation(len(arrays["label"]))[:_EXAMPLES])
            found[part] = {name: values[chosen] for name, values in arrays.items()}
        return found

    @cached_property
    def predictions(self) -> dict[str, Predictions]:
        """The predictions of the retrained model for these examples."""
        return {part: predict_with(self.task, self.weights, x) for part, x in self.some.items()}

    @cached_property
    def distances(self) -> dict[str, np.ndarray]:
        """The distances of these examples to the forget data, in features of this model."""
        forget = last_features(self.task, self.weights, self.parts["forget"])
        return {
            part: distance_to_forget(last_features(self.task, self.weights, arrays), forget)
            for part, arrays in self.some.items()
        }


def _gather(study: Study, cells: dict[tuple[int, str], Oracle]) -> dict[str, Any]:
    folder, entries = study.folder, []
    for run in study.runs:
        oracle = cells.get((run.seed, run.request))
        if oracle is not None:
            entries.append(_of_run(run, oracle))
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
        "radii": list(RADII),
        "runs": entries,
    }
    check_record(folder / "evidence.json", report, EvidenceRecord)
    write_record(folder / "evidence.json", report)
    write_evidence_report(folder, report)
    return report


def _of_run(run: Run, oracle: Oracle) -> dict[str, Any]:
    """The entry of one run, read from its folder or computed."""
    trained = trained_in(run.folder)
    stamp = {
        "format": _FORMAT,
        "weights": read_done(trained)["weights"],
        "retrained": read_done(oracle.run.folder)["weights"],
    }
    path = run.folder / "evidence.json"
    if path.exists():
        kept = read_json(path)
        if {key: kept.get(key) for key in stamp} == stamp:
            return kept
    found = stamp | {"seed": run.seed, "request": run.request, "name": run.name}
    found |= from_predictions(_predictions(run), _predictions(oracle.run))
    found |= _from_weights(load_weights(trained, oracle.problem), oracle)
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
        "exposure_auc": exposure_auc(model.retain, model.test),
    }


def _all_test(*models: SplitPredictions) -> tuple[Predictions, ...]:
    return tuple(
        Predictions(
            np.concatenate([model.test.probabilities, model.test_forget.probabilities]),
            np.concatenate([model.test.labels, model.test_forget.labels]),
        )
        for model in models
    )


def _from_weights(weights: Weights, oracle: Oracle) -> dict[str, Any]:
    """The evidence that needs the model itself."""
    task, parts = oracle.task, oracle.parts
    perturbed = perturbed_accuracy(task, weights, parts["forget"])
    discrepancy = {
        part: discrepancy_by_distance(
            predict_with(task, weights, arrays).probabilities,
            oracle.predictions[part].probabilities,
            oracle.distances[part],
        )
        for part, arrays in oracle.some.items()
    }
    return {
        "relearning_curve": relearning_curve(task, weights, parts["forget"]),
        "probe_accuracy": probe_accuracy(task, weights, parts["forget"], parts["retain"]),
        "perturbed_accuracy": perturbed,
        "residual_knowledge": float(np.mean(np.subtract(perturbed, oracle.perturbed_accuracy))),
        "discrepancy": discrepancy,
    }
