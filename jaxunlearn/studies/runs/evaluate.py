"""The evaluation of a run: predictions and metrics, written to its folder.

`predictions.npz` holds the class probabilities on every split, `results.json` all metrics, the cost
of the run, and the number of examples in each split. After several requests, one after another,
"drift" compares the model with the original one on the data of each request and on what is kept.
An original model without a request has accuracies on its training, validation and test data.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxunlearn import evaluation
from jaxunlearn.data import ForgetRequest
from jaxunlearn.evaluation import SplitPredictions, custom
from jaxunlearn.evaluation.features import of_inception
from jaxunlearn.evaluation.predictions import predict_splits, predict_with
from jaxunlearn.files import write_record
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.problem import (
    load_dataset,
    load_judged,
    load_splits,
    load_task,
    load_training,
)
from jaxunlearn.studies.runs import deletions, folder
from jaxunlearn.studies.runs.evaluate_images import evaluate_generated, load_judge
from jaxunlearn.studies.runs.folder import load_weights, read_config, read_done
from jaxunlearn.studies.runs.request_file import load_request
from jaxunlearn.studies.runs.results import (
    Subject,
    accuracies_on,
    read_cost,
    read_results,
    write_results,
)
from jaxunlearn.studies.runs.run_config import RunConfig
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.training.devices import placement_of
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import InputError, Weights


def evaluate(
    run: Path,
    retrained: Path | None = None,
    original: Path | None = None,
    classifier: Path | None = None,
    inception: Path | None = None,
    layout: Layout = Layout(),
) -> dict[str, float]:
    """Evaluates a finished run, and writes the results to its folder.

    Args:
        run: the run folder.
        retrained: the evaluated run folder of the retrained model, for all distances; an original
            model is evaluated on its request.
        original: the run folder of the original model, for the drift over all requests.
        classifier: the run folder of the classifier that judges generated images; models that
            generate need one.
        inception: a file with the network of the Frechet distance, whose features take the place
            of the classifier's.
        layout: the number of examples that are computed at once, `micro_batch`.

    Returns:
        The metrics: see `jaxunlearn.evaluation`.

    Raises:
        InputError: a folder holds no finished run of this kind and data; or the retrained model is
            of another problem, seed or request, or is not evaluated.
    """
    config = read_config(run, "pretrain", "retrain", "unlearn")
    at_once = placement_of(layout).micro_batch
    if classifier is None and not config.problem.classifies:
        raise InputError(
            f"{run} holds {config.problem.model}, which {config.problem.does}; give a classifier "
            "of the same data that judges them (--classifier)."
        )
    if classifier is not None and config.problem.classifies:
        raise InputError(
            f"{run} holds {config.problem.model}, which classifies, but a classifier judges models "
            "that generate; leave --classifier out."
        )
    if config.stage == "pretrain":
        if retrained is None:
            return _evaluate_accuracies(run, config, at_once)
        config = replace(config, request=read_config(retrained, "retrain").request)
    *earlier, request = deletions.requests(config)
    splits = load_splits(config.problem, config.seed, request, config.earlier)
    folder.check_data(run, load_dataset(config.problem))
    if config.stage != "pretrain":
        folder.check_folder(run, config, load_dataset(config.problem), splits)
    if retrained is not None:
        forgotten = splits.forget.index.tolist()
        check_retrained(retrained, run, config.problem, config.seed, forgotten, config.earlier)
    subject = Subject(
        run,
        load_weights(run, config.problem),
        config.problem,
        config.seed,
        request,
        _name(config),
        read_cost(run),
        retrained,
        tuple(earlier),
        _load_original(original, run, config) if original else None,
        at_once,
    )
    if classifier is None:
        return evaluate_classifier(subject)
    features = of_inception(inception) if inception else None
    return evaluate_generated(subject, load_judge(classifier, config.problem, features))


def _name(config: RunConfig) -> str:
    """The name of a model in the results."""
    if config.stage == "pretrain":
        return "original"
    return "retrain-again" if config.again else config.method


def _evaluate_accuracies(run: Path, config: RunConfig, at_once: int) -> dict[str, float]:
    """The accuracies of an original model on all its data, without a request."""
    problem, seed = config.problem, config.seed
    if not problem.classifies:
        raise InputError(
            f"{run} holds an original model that {problem.does}, so a request determines the "
            "classes that it is judged by; give the retrained model of one (--retrained)."
        )
    dataset, weights = load_dataset(problem), load_weights(run, problem)
    folder.check_data(run, dataset)
    parts = {
        "train": load_training(problem, seed),
        "validation": load_judged(problem, seed),
        "test": dataset.test,
    }
    found = accuracies_on(problem, weights, parts, at_once)
    metrics = {f"{name}_accuracy": value for name, value in found.items()}
    results = {
        "method": "original",
        "seed": seed,
        "dataset": problem.data_name,
        "model": problem.model,
        "counts": {name: len(part) for name, part in parts.items()},
        "metrics": metrics,
        **read_cost(run),
        "weights": read_done(run)["weights"],
    }
    with Workspace(run).locked():
        write_record(run / "results.json", results)
    return metrics


def evaluate_classifier(subject: Subject) -> dict[str, float]:
    """Computes the predictions and metrics of a classifier, and writes them to its run folder."""
    _, weights, problem, seed, request, *_ = subject
    splits = load_splits(problem, seed, request, subject.earlier)
    oracle, oracle_metrics = None, None
    if subject.retrained is not None:
        oracle_metrics = read_results(subject.retrained).get("metrics")
        oracle = SplitPredictions.load(subject.retrained / "predictions.npz")
    predictions = predict_splits(load_task(problem), weights, splits, subject.at_once)
    metrics = evaluation.evaluate(predictions, oracle, oracle_metrics)
    counts = {name: len(examples) for name, examples in splits._asdict().items()}
    found: dict[str, Any] = {"counts": counts, "metrics": metrics}
    if own := custom.records():
        found["own_metrics"] = own
    if subject.earlier or subject.original:
        found["drift"] = _drift(subject, metrics)
    with Workspace(subject.run).locked():
        predictions.save(subject.run / "predictions.npz")
        write_results(subject, found, "predictions.npz")
    return metrics


def _drift(subject: Subject, metrics: dict[str, float]) -> dict[str, Any]:
    """The effect of several requests, one after another, on the data of each and on the rest."""
    _, weights, problem, seed, request, *_ = subject
    original, task, rows = subject.original, load_task(problem), []
    kept = {name: metrics[name] for name in ("retain_accuracy", "test_accuracy")}
    chain = (*subject.earlier, request)
    for place, each in enumerate(chain):
        splits = load_splits(problem, seed, each, chain[:place])
        row = {"request": each.name, "examples": len(splits.forget)}
        for name, model in {"accuracy": weights, "original_accuracy": original}.items():
            if model is not None:
                row[name] = evaluation.accuracy(predict_with(task, model, splits.forget.arrays()))
        rows.append(row)
    drift: dict[str, Any] = {"requests": rows, "kept": {"model": kept}}
    if original is not None:  # here `splits` belong to the last request
        before, now = (
            [predict_with(task, model, part.arrays()) for part in (splits.retain, splits.test)]
            for model in (original, weights)
        )
        accuracies = map(evaluation.accuracy, before)
        drift["kept"]["original"] = dict(zip(kept, accuracies, strict=True))
        drift["js_to_original"] = evaluation.js_divergence(
            before[1].probabilities, now[1].probabilities
        )
    return drift


def check_is_original(original: Path, run: Path, config: RunConfig) -> None:
    """Raises unless a folder holds the original model of a run."""
    theirs, start = folder.read_pretrained(original), config.start
    if config.earlier and config.stage == "unlearn":
        start = deletions.read(run)[0]["start"]
    same = (theirs.problem, theirs.seed) == (config.problem, config.seed)
    if not same or start not in (None, read_done(original)["weights"]):
        raise InputError(
            f"{original} is not the original model of {run}; give the folder of its jaxunlearn "
            "pretrain."
        )


def _load_original(original: Path, run: Path, config: RunConfig) -> Weights:
    """The weights of the original model of a run; any other model is refused."""
    check_is_original(original, run, config)
    return load_weights(original, config.problem)


def check_retrained(
    retrained: Path,
    run: Path,
    problem: Problem,
    seed: int,
    forgotten: list[int],
    earlier: tuple[ForgetRequest, ...] | None = None,
) -> None:
    """Raises unless a folder holds the evaluated retrained model that a run is compared with."""
    oracle = read_config(retrained, "retrain")
    theirs = load_request(retrained / "forget_request.json", load_dataset(oracle.problem))
    same = (oracle.problem, oracle.seed, oracle.earlier) == (problem, seed, earlier)
    if not same or theirs.tolist() != forgotten:
        raise InputError(
            f"{retrained} is the retrained model of another problem, seed or forget request "
            f"than {run}, or of other earlier requests; retrain with the same ones."
        )
    if not (retrained / "results.json").exists():
        raise InputError(
            f"{retrained} is not evaluated yet; run jaxunlearn evaluate {retrained} first."
        )
