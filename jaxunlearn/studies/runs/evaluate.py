"""The stage that evaluates: predictions and metrics of a run, written to its folder.

`predictions.npz` holds the class probabilities on every split, `results.json` all metrics, what the
run cost, and how many examples each split has. Where requests came one after another, "drift" says
whether what was forgotten before still is, and what all of them together did to the original model.
"""

from pathlib import Path
from typing import Any

from jaxunlearn import evaluation
from jaxunlearn.data import ForgetRequest
from jaxunlearn.evaluation import SplitPredictions
from jaxunlearn.evaluation.predictions import predict_splits, predict_with
from jaxunlearn.evaluation.units import unit_of
from jaxunlearn.files import check_digests, file_digest, fingerprint, read_json, write_record
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.problem import load_dataset, load_splits, load_task
from jaxunlearn.studies.runs import deletions
from jaxunlearn.studies.runs.folder import (
    RunConfig,
    check,
    load_weights,
    read_config,
    read_done,
    read_pretrained,
)
from jaxunlearn.studies.runs.locks import locked
from jaxunlearn.studies.runs.request_file import load_request
from jaxunlearn.types import InputError, Task, Weights

RESULTS = {  # the form of results.json in a run folder, for who writes it and who reads it
    "metrics": {str: float},
    "counts": (None, {str: int}),
    "seconds": (None, float),
    "finished": (None, str),
    "guard": (None, {"start": float, "limit": float, "end": float, "rollbacks": float}),
}


def evaluate(
    run: Path,
    weights: Weights,
    problem: Problem,
    seed: int,
    request: ForgetRequest,
    *,
    method: str,
    cost: dict[str, Any] | None = None,
    retrained: Path | None = None,
    earlier: tuple[ForgetRequest, ...] = (),
    original: Weights | None = None,
) -> dict[str, float]:
    """Computes the predictions and all metrics of a model, and writes them to its run folder.

    Args:
        run: the run folder, which receives `predictions.npz` and `results.json`.
        weights: of the model.
        problem: what it learned.
        seed: the pretraining seed.
        request: what was forgotten.
        method: how the results name the model.
        cost: steps and seconds of the run, from `read_cost`, if it trained at all.
        retrained: the evaluated run folder of the retrained model, for all distances.
        earlier: the requests that were honoured before, the oldest first.
        original: the model before all of them, to be compared with.

    Returns:
        The metrics.

    Raises:
        InputError: `retrained` was not evaluated, or on other data.
    """
    splits, task = load_splits(problem, seed, request, earlier), load_task(problem)
    cost = cost or {}
    oracle, oracle_results = None, {}
    if retrained is not None:
        oracle_results = read_results(retrained)
        oracle = SplitPredictions.load(retrained / "predictions.npz")
    predictions = predict_splits(task, weights, splits)
    metrics = evaluation.evaluate(predictions, oracle, oracle_results.get("metrics"))
    results = {
        "method": method,
        "request": request.name,
        "seed": seed,
        "dataset": problem.data,
        "model": problem.model,
        "counts": {name: len(examples) for name, examples in splits._asdict().items()},
        "metrics": metrics,
        **with_share(cost, retrained),
    }
    if earlier or original:
        kept = {name: metrics[name] for name in ("retain_accuracy", "test_accuracy")}
        chain = (*earlier, request)
        results["drift"] = _drift(task, weights, original, problem, seed, chain, kept)
    with locked(run):
        predictions.save(run / "predictions.npz")
        write_results(run, results, weights, "predictions.npz")
    return metrics


def write_results(run: Path, results: dict[str, Any], weights: Weights, *files: str) -> None:
    """Writes the results of a run, with the fingerprint of its weights and the digests of files.

    Args:
        run: the run folder.
        results: what was found.
        weights: of the model.
        *files: what lies beside the results and belongs to them.

    Raises:
        InputError: they cannot be written.
    """
    digests = {name: file_digest(run / name) for name in files}
    evidence = {"weights": fingerprint(weights), "digests": digests}
    write_record(run / "results.json", results | evidence)


def read_results(run: Path) -> dict[str, Any]:
    """The results of an evaluated run, whose files must be those that they were written with.

    Raises:
        InputError: the run was not evaluated, or a file is damaged.
    """
    found = read_json(run / "results.json")
    check_digests(run, found)
    return found


def with_share(cost: dict[str, Any], retrained: Path | None) -> dict[str, Any]:
    """The cost of a run, also in percent of retraining if one machine did both.

    Args:
        cost: from `read_cost`, or empty.
        retrained: the run folder of the retrained model, if there is one.

    Raises:
        InputError: the record of the retrained model is damaged.
    """
    if not cost or retrained is None:
        return cost
    theirs = read_cost(retrained)
    share = evaluation.share_of_time(cost, theirs)
    if share is None:
        return cost
    return cost | {"retrain_seconds": theirs["seconds"], "share_of_retraining": share}


def _drift(
    task: Task,
    weights: Weights,
    original: Weights | None,
    problem: Problem,
    seed: int,
    chain: tuple[ForgetRequest, ...],
    kept: dict[str, float],
) -> dict[str, Any]:
    """What requests that came one after another did: to what each forgot, and to what is kept."""
    rows = []
    for place, each in enumerate(chain):
        splits = load_splits(problem, seed, each, chain[:place])
        row = {"request": each.name, "examples": len(splits.forget)}
        for name, model in {"accuracy": weights, "original_accuracy": original}.items():
            if model is not None:
                row[name] = evaluation.accuracy(predict_with(task, model, splits.forget.arrays()))
        rows.append(row)
    drift: dict[str, Any] = {"requests": rows, "kept": {"model": kept}}
    if original is not None:  # of the last request, whose splits these are
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


def render_drift(drift: dict[str, Any]) -> str:
    """What `results.json` says of drift as lines of text.

    Args:
        drift: its entry "drift".

    Returns:
        A table: what each request forgot, the oldest first, and what is kept.

    Example:
        >>> requests = [{"request": "class-3", "examples": 9, "accuracy": 4.0}]
        >>> print(render_drift({"requests": requests, "kept": {"model": {"test_accuracy": 97.5}}}))
        one after another                 model  original
        class-3 (9)                        4.00            %
        test_accuracy                     97.50            %
    """
    kept = drift["kept"]
    rows = [
        (f"{row['request']} ({row['examples']})", row["accuracy"], row.get("original_accuracy"))
        for row in drift["requests"]
    ]
    rows += [(name, v, kept.get("original", {}).get(name)) for name, v in kept["model"].items()]
    lines = [f"{'one after another':30}{'model':>9}{'original':>10}"]
    for name, model, original in rows:
        unit = "" if name == "frechet_retain" else "%"
        beside = " " * 10 if original is None else f"{original:10.2f}"
        lines.append(f"{name:30}{model:9.2f}{beside}  {unit}".rstrip())
    if "js_to_original" in drift:
        lines.append(f"{'js_to_original':30}{drift['js_to_original']:9.4f}{'':10}  nats")
    return "\n".join(lines)


def load_original(original: Path, run: Path, config: RunConfig) -> Weights:
    """The weights of the original model that a run goes back to.

    Args:
        original: the run folder of `pretrain`.
        run: that of `retrain` or `unlearn`.
        config: what the latter was for.

    Raises:
        InputError: it holds no original model, or another one.
    """
    theirs, start = read_pretrained(original), config.start
    if config.earlier and config.stage == "unlearn":
        start = deletions.read(run)[0]["start"]
    weights = read_done(original)["weights"]
    same = (theirs.problem, theirs.seed) == (config.problem, config.seed)
    if not same or start not in (None, weights):
        raise InputError(
            f"{original} is not the original model that {run} goes back to; give the folder of "
            "its jaxunlearn pretrain."
        )
    return load_weights(original, config.problem)


def evaluate_run(
    run: Path, retrained: Path | None = None, original: Path | None = None
) -> dict[str, float]:
    """Evaluates a finished run of `retrain` or `unlearn` by the records in its folder.

    Args:
        run: the run folder.
        retrained: the evaluated run folder of the retrained model, for all distances.
        original: the run folder of the original model, for what all requests did to it.

    Returns:
        The metrics.

    Raises:
        InputError: the folder holds no such run, an unfinished one, or one of other data; or
            `retrained` is not that of the same problem, seed and request, or was not evaluated.
    """
    config = read_config(run, "retrain", "unlearn")
    if not config.problem.classifies:
        raise InputError(
            f"{run} holds {config.problem.model}, which {config.problem.does}: give a classifier "
            "of the same data that judges them (--classifier)."
        )
    return evaluate(run, **told_by(run, config, retrained, original))


def told_by(
    run: Path, config: RunConfig, retrained: Path | None, original: Path | None
) -> dict[str, Any]:
    """Arguments for `evaluate`, read from the folder of a finished run.

    Args:
        run: the run folder of `retrain` or `unlearn`.
        config: what it was for.
        retrained: the evaluated run folder of the retrained model.
        original: the run folder of the original model.

    Returns:
        Arguments of `evaluate`, here or in `generating`, by name.

    Raises:
        InputError: the folders are not of one problem, seed and request, or of other data.
    """
    *earlier, request = deletions.requests(config)
    splits = load_splits(config.problem, config.seed, request, config.earlier)
    check(run, config, load_dataset(config.problem), splits)
    if retrained is not None:
        forgotten = splits.forget.index.tolist()
        check_retrained(retrained, run, config.problem, config.seed, forgotten, config.earlier)
    return {
        "weights": load_weights(run, config.problem),
        "problem": config.problem,
        "seed": config.seed,
        "request": request,
        "method": "retrain-again" if config.again else config.method,
        "cost": read_cost(run),
        "retrained": retrained,
        "earlier": tuple(earlier),
        "original": load_original(original, run, config) if original else None,
    }


def check_retrained(
    retrained: Path,
    run: Path,
    problem: Problem,
    seed: int,
    forgotten: list[int],
    earlier: tuple[ForgetRequest, ...] | None = None,
) -> None:
    """Raises unless a folder holds the evaluated retrained model that a run is compared with.

    Args:
        retrained: the run folder of the retrained model.
        run: what is compared with it, for the error.
        problem: of the run.
        seed: the pretraining seed of the run.
        forgotten: the positions of the run's forget examples.
        earlier: the requests that it honoured before.

    Raises:
        InputError: it holds another one, or one that is not evaluated.
    """
    oracle = read_config(retrained, "retrain")
    theirs = load_request(retrained / "forget_request.json", load_dataset(oracle.problem))
    same = (oracle.problem, oracle.seed, oracle.earlier) == (problem, seed, earlier)
    if not same or theirs.tolist() != forgotten:
        raise InputError(
            f"{retrained} is the retrained model of another problem, seed or forget request "
            f"than {run}, or of other requests before; retrain with the same ones."
        )
    if not (retrained / "results.json").exists():
        raise InputError(
            f"{retrained} is not evaluated yet; run jaxunlearn evaluate {retrained} first."
        )


def read_cost(run: Path) -> dict[str, Any]:
    """What a finished run cost, when and where: steps, seconds, machine; and its guard's record."""
    keys = ("steps", "seconds", "compile_seconds", "finished", "machine", "guard")
    done = read_done(run)
    return {key: done[key] for key in keys if key in done}


def read_metrics(run: Path) -> dict[str, float]:
    """All metrics of an evaluated run.

    Raises:
        InputError: the run was not evaluated.
    """
    return read_results(run)["metrics"]


def render(metrics: dict[str, float], retrained: dict[str, float]) -> str:
    """Metrics as lines of text, beside those of the retrained model where it has them.

    Args:
        metrics: of the model.
        retrained: of the retrained model, or an empty dictionary.

    Returns:
        One line a metric, below a heading if there are retrained ones.

    Example:
        >>> print(render({"forget_accuracy": 97.5, "tow": 0.9876}, {"forget_accuracy": 98.0}))
                                             model  retrained  difference
        forget_accuracy                      97.50      98.00       -0.50  %
        tow                                  0.988                         best at 1
    """
    lines = [f"{'':32}{'model':>10}{'retrained':>11}{'difference':>12}"] if retrained else []
    for name, value in metrics.items():
        unit = unit_of(name).name
        digits = 2 if unit in ("%", "percentage points") else 3
        line = f"{name:32}{value:10.{digits}f}"
        if name in retrained and unit != "best at 1":
            line += f"{retrained[name]:11.{digits}f}{value - retrained[name]:+12.{digits}f}"
        lines.append(f"{line:{len(lines[0]) if retrained else 0}}  {unit}".rstrip())
    return "\n".join(lines)


def render_judge(results: dict[str, Any]) -> str:
    """The judge of generated images, as a line of text.

    Args:
        results: of a model that generates.

    Returns:
        The line.

    Example:
        >>> features = {"name": "mlp", "dimension": 16}
        >>> judge = {"model": "mlp", "test_accuracy": 97.5}
        >>> counts = {"generated_retain": 900, "retain": 10800}
        >>> print(render_judge({"features": features, "judge": judge, "counts": counts}))
        judge: mlp, 97.50 % of the real test images; features: mlp, 16 dimensions, 900 generated
        images of the other classes against 10,800 real ones
    """
    features, judge, counts = (results[key] for key in ("features", "judge", "counts"))
    return (
        f"judge: {judge['model']}, {judge['test_accuracy']:.2f} % of the real test images; "
        f"features: {features['name']}, {features['dimension']:,} dimensions, "
        f"{counts['generated_retain']:,} generated\nimages of the other classes against "
        f"{counts['retain']:,} real ones"
    )
