"""The stage that evaluates: predictions and metrics of a run, written to its folder.

`predictions.npz` holds the class probabilities on every split, `results.json` all metrics, what the
run cost, and how many examples each split has.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxunlearn import data, evaluation
from jaxunlearn.checkpoints import fingerprint
from jaxunlearn.config import Problem
from jaxunlearn.data import ForgetRequest, Splits
from jaxunlearn.evaluation import Predictions, SplitPredictions
from jaxunlearn.files import check_digests, file_digest, read_json, write_record
from jaxunlearn.folders import locked
from jaxunlearn.runs import check, load_weights, read_config, read_done
from jaxunlearn.setting import Weights, load_dataset, load_splits, load_task
from jaxunlearn.types import InputError, Task

_PREDICTION_BATCH = 500
# All other metrics are in percent.
_UNITS = {
    "kl_to_retrained": "nats",
    "js_to_retrained": "nats",
    "average_gap_svc_non_member_rate": "percentage points",
    "average_gap_entropy_member_rate": "percentage points",
    "five_part_gap": "percentage points",
    "tow": "best at 1",
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

    Returns:
        The metrics.

    Raises:
        InputError: `retrained` was not evaluated, or on other data.
    """
    splits, task, cost = load_splits(problem, seed, request), load_task(problem), cost or {}
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
        **with_share(cost, oracle_results),
    }
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


def with_share(cost: dict[str, Any], oracle: dict[str, Any]) -> dict[str, Any]:
    """What a run cost, and what share that is of its retrained model's time, where both are known.

    Args:
        cost: from `read_cost`, or empty.
        oracle: the results of the retrained model, or empty.
    """
    if not (cost and oracle.get("seconds")):
        return cost
    share = cost["seconds"] / oracle["seconds"]
    return cost | {"retrain_seconds": oracle["seconds"], "share_of_retraining": share}


def predict_splits(task: Task, weights: Weights, splits: Splits) -> SplitPredictions:
    """The predictions of a model on every split."""
    return SplitPredictions(*(predict(task, weights, part.arrays()) for part in splits))


def predict(task: Task, weights: Weights, arrays: Mapping[str, Any]) -> Predictions:
    """The predictions of a model on some examples, of which there may be none."""
    # A Partial over the weights: models of one task share the compiled program.
    predict_fn = jax.tree_util.Partial(task.predict, *weights)
    return evaluation.predict(predict_fn, arrays, _PREDICTION_BATCH)


def evaluate_run(run: Path, retrained: Path | None = None) -> dict[str, float]:
    """Evaluates a finished run of `retrain` or `unlearn` by what its folder says of itself.

    Args:
        run: the run folder.
        retrained: the evaluated run folder of the retrained model, for all distances.

    Returns:
        The metrics.

    Raises:
        InputError: the folder holds no such run, an unfinished one, or one of other data; or
            `retrained` is not that of the same problem, seed and request, or was not evaluated.
    """
    config = read_config(run, "retrain", "unlearn")
    if config.problem.generates:
        raise InputError(
            f"{run} holds {config.problem.model}, which generates images: give a classifier of the "
            "same data that judges them (--classifier)."
        )
    dataset = load_dataset(config.problem)
    forgotten = data.load_request(run / "forget_request.json", dataset)
    request = config.request
    if request is None or request.file is not None:  # the file may have gone since
        request = ForgetRequest(indices=tuple(forgotten.tolist()))
    check(run, config, dataset, load_splits(config.problem, config.seed, request))
    if retrained is not None:
        check_retrained(retrained, run, config.problem, config.seed, forgotten.tolist())
    return evaluate(
        run,
        load_weights(run, config.problem),
        config.problem,
        config.seed,
        request,
        method="retrain-again" if config.again else config.method,
        cost=read_cost(run),
        retrained=retrained,
    )


def check_retrained(
    retrained: Path, run: Path, problem: Problem, seed: int, forgotten: list[int]
) -> None:
    """Raises unless a folder holds the evaluated retrained model that a run is compared with.

    Args:
        retrained: the run folder of the retrained model.
        run: what is compared with it, for the error.
        problem: of the run.
        seed: the pretraining seed of the run.
        forgotten: the positions of the run's forget examples.

    Raises:
        InputError: it holds another one, or one that is not evaluated.
    """
    oracle = read_config(retrained, "retrain")
    theirs = data.load_request(retrained / "forget_request.json", load_dataset(oracle.problem))
    if (oracle.problem, oracle.seed) != (problem, seed) or theirs.tolist() != forgotten:
        raise InputError(
            f"{retrained} is the retrained model of another problem, seed or forget request "
            f"than {run}; retrain with the same ones."
        )
    if not (retrained / "results.json").exists():
        raise InputError(
            f"{retrained} is not evaluated yet; run jaxunlearn evaluate {retrained} first."
        )


def read_cost(run: Path) -> dict[str, Any]:
    """What a finished run cost: steps and seconds; and what its guard found, if it had one."""
    done = read_done(run)
    return {
        key: done[key] for key in ("steps", "seconds", "compile_seconds", "guard") if key in done
    }


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
        unit = _UNITS.get(name, "%")
        digits = 3 if unit in ("nats", "best at 1") else 2
        line = f"{name:32}{value:10.{digits}f}"
        if name in retrained and unit == "%":
            line += f"{retrained[name]:11.{digits}f}{value - retrained[name]:+12.{digits}f}"
        lines.append(f"{line:{len(lines[0]) if retrained else 0}}  {unit}")
    return "\n".join(lines)
