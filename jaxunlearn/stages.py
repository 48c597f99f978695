"""The stages of a study: pretrain, retrain, unlearn, evaluate, each in a run folder of its own.

    dataset + request -> split;  task -> pretrain -> weights -> method -> weights -> evaluate -> report

A run folder holds `config.json`, `fingerprints.json`, `forget_request.json`, `metrics.jsonl`,
`checkpoints/` (to resume), `weights/` (the result), `done.json`, and after evaluation `results.json`
and `predictions.npz`. A stage that is done is not run again; one that was stopped goes on; one of
another configuration is refused.
"""

import functools
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import data, evaluation, methods, models, parallel, training
from jaxunlearn.checkpoints import Checkpointer, fingerprint
from jaxunlearn.config import Problem, from_dict
from jaxunlearn.console import show_progress
from jaxunlearn.data import Dataset, Examples, ForgetRequest, Splits
from jaxunlearn.evaluation import Predictions, SplitPredictions
from jaxunlearn.files import read_json, write_json
from jaxunlearn.tasks import classification
from jaxunlearn.training import Program
from jaxunlearn.types import Arrays, InputError, Method, ModelState, Params, Task

_CHUNK_STEPS = 100
_PREDICTION_BATCH = 500
_RETRAIN_SEEDS, _RETRAIN_AGAIN_SEEDS = 1_000_000, 2_000_000


class Weights(NamedTuple):
    """The result of a stage that trains."""

    params: Params
    model_state: ModelState


def pretrain(run: Path, problem: Problem, seed: int, devices: int = 1) -> Weights:
    """Trains the original model on all training data, validation data aside.

    Args:
        run: the run folder.
        problem: what is learned.
        seed: decides the validation data, the initial weights and the order of the data.
        devices: how many devices share each batch.

    Returns:
        The weights.

    Raises:
        InputError: anything wrong with the arguments, the data, or what the folder holds.
    """
    dataset, task = load_dataset(problem), load_task(problem)
    eligible, _ = data.hold_out(dataset, validation_fraction=problem.validation_fraction, seed=seed)
    everything = _arrays(dataset.train.take(eligible))
    return _train(
        run,
        {"stage": "pretrain", "problem": asdict(problem), "seed": seed},
        problem,
        ("retrain", problem.training_settings()),
        lambda: task.init(jax.random.key(seed)),
        (everything, everything),
        seed,
        devices,
    )


def retrain(
    run: Path,
    problem: Problem,
    seed: int,
    request: ForgetRequest,
    again: bool = False,
    devices: int = 1,
) -> Weights:
    """Trains the oracle: a new model, on the retain data alone.

    Args:
        run: the run folder.
        problem: what is learned.
        seed: the pretraining seed that it is paired with.
        request: what is left out.
        again: train the second retrained model, whose distance to the first is the floor.
        devices: how many devices share each batch.

    Returns:
        The weights.

    Raises:
        InputError: anything wrong with the arguments, the data, or what the folder holds.
    """
    task, splits = load_task(problem), _prepare_request(run, problem, seed, request)
    own_seed = seed + (_RETRAIN_AGAIN_SEEDS if again else _RETRAIN_SEEDS)
    return _train(
        run,
        {
            "stage": "retrain",
            "problem": asdict(problem),
            "seed": seed,
            "request": asdict(request),
            "again": again,
        },
        problem,
        ("retrain", problem.training_settings()),
        lambda: task.init(jax.random.key(own_seed)),
        (_arrays(splits.forget), _arrays(splits.retain)),
        own_seed,
        devices,
    )


def unlearn(
    run: Path,
    pretrained: Path,
    request: ForgetRequest,
    method: str,
    settings: dict[str, Any],
    devices: int = 1,
) -> Weights:
    """Makes the model of a pretraining run forget.

    Args:
        run: the run folder.
        pretrained: the run folder of `pretrain`.
        request: what is forgotten.
        method: the name of the method.
        settings: settings of the method that differ from its defaults.
        devices: how many devices share each batch.

    Returns:
        The weights.

    Raises:
        InputError: anything wrong with the arguments, the data, or what the folders hold.
    """
    problem, seed = read_pretrained(pretrained)
    chosen = methods.settings(method, settings)
    start = load_weights(pretrained, problem)
    splits = _prepare_request(run, problem, seed, request)
    return _train(
        run,
        {
            "stage": "unlearn",
            "problem": asdict(problem),
            "seed": seed,
            "request": asdict(request),
            "method": method,
            "settings": chosen,
            "start": fingerprint(start),
        },
        problem,
        (method, chosen),
        lambda: start,
        (_arrays(splits.forget), _arrays(splits.retain)),
        seed,
        devices,
    )


def evaluate(
    run: Path,
    weights: Weights,
    problem: Problem,
    seed: int,
    request: ForgetRequest,
    *,
    method: str,
    cost: dict[str, Any],
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
        cost: what `done.json` says of the run: steps and seconds.
        retrained: the evaluated run folder of the retrained model, for all distances.

    Returns:
        The metrics.

    Raises:
        InputError: `retrained` was not evaluated, or on other data.
    """
    splits = load_splits(problem, seed, request)
    task = load_task(problem)
    # A Partial over the weights: models of one task share the compiled program.
    predict_fn = jax.tree_util.Partial(task.predict, *weights)
    predictions = SplitPredictions(
        *(_predict(predict_fn, examples, task.num_classes) for examples in splits)
    )
    oracle = oracle_results = None
    if retrained is not None:
        oracle_results = read_json(retrained / "results.json")
        oracle = SplitPredictions.load(retrained / "predictions.npz")
    metrics = evaluation.evaluate(predictions, oracle, oracle_results and oracle_results["metrics"])
    run.mkdir(parents=True, exist_ok=True)
    predictions.save(run / "predictions.npz")
    results = {
        "method": method,
        "request": request.name,
        "seed": seed,
        "dataset": problem.data,
        "model": problem.model,
        "counts": {name: len(examples) for name, examples in splits._asdict().items()},
        "metrics": metrics,
        **cost,
    }
    if oracle_results and oracle_results.get("seconds") and "seconds" in cost:
        results["retrain_seconds"] = oracle_results["seconds"]
        results["share_of_retraining"] = cost["seconds"] / oracle_results["seconds"]
    write_json(run / "results.json", results)
    return metrics


def evaluate_run(run: Path, retrained: Path | None = None) -> dict[str, float]:
    """Evaluates a finished run of `retrain` or `unlearn` by what its folder says of itself.

    Args:
        run: the run folder.
        retrained: the evaluated run folder of the retrained model, for all distances.

    Returns:
        The metrics.

    Raises:
        InputError: the folder holds no such run, or an unfinished one.
    """
    config = read_json(run / "config.json")
    if not isinstance(config, dict) or config.get("stage") not in ("retrain", "unlearn"):
        raise InputError(
            f"{run} is not the folder of a retrain or unlearn run; evaluate one of those."
        )
    if not (run / "done.json").exists():
        raise InputError(f"the run in {run} is not finished; run the same command again.")
    problem = from_dict(Problem, config["problem"], f"{run}/config.json")
    request = from_dict(ForgetRequest, config["request"], f"{run}/config.json")
    data.load_request(run / "forget_request.json", load_dataset(problem))
    return evaluate(
        run,
        load_weights(run, problem),
        problem,
        config["seed"],
        request,
        method=config.get("method", "retrain"),
        cost=read_cost(run),
        retrained=retrained,
    )


def read_cost(run: Path) -> dict[str, Any]:
    """What a finished run cost: steps and seconds."""
    done = read_json(run / "done.json")
    return {key: done[key] for key in ("steps", "seconds", "compile_seconds")}


def read_pretrained(run: Path) -> tuple[Problem, int]:
    """The problem and the seed of a pretraining run, whose data is checked to be the same still.

    Raises:
        InputError: the folder holds no finished pretraining run, or one of other data.
    """
    config = read_json(run / "config.json")
    if not isinstance(config, dict) or config.get("stage") != "pretrain":
        raise InputError(
            f"{run} is not the folder of a pretraining run; run jaxunlearn pretrain first."
        )
    if not (run / "done.json").exists():
        raise InputError(
            f"the pretraining run in {run} is not finished; run the same command again."
        )
    problem = from_dict(Problem, config["problem"], f"{run}/config.json")
    saved = read_json(run / "fingerprints.json")["data"]
    present = load_dataset(problem).fingerprint
    if saved != present:
        raise InputError(
            f"the checkpoint in {run} was trained on other data: {problem.data} had the fingerprint "
            f"{saved[:12]}, but now has {present[:12]}; restore the data or pretrain anew."
        )
    return problem, config["seed"]


def load_weights(run: Path, problem: Problem) -> Weights:
    """The final weights of a finished run, checked against the model of the problem.

    Raises:
        InputError: no weights, damaged ones, or those of another model.
    """
    target = jax.eval_shape(lambda: Weights(*load_task(problem).init(jax.random.key(0))))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), target
    )
    return Checkpointer(run / "weights").restore(target)[0]


@functools.lru_cache
def _dataset(name: str, data_dir: str | None, folder: str | None) -> Dataset:
    return data.load(name, data_dir=data_dir, folder=folder)


def load_dataset(problem: Problem) -> Dataset:
    """The data set of a problem, loaded once."""
    return _dataset(problem.data, problem.data_dir, problem.folder)


@functools.lru_cache
def _task(data_key: tuple[str, str | None, str | None], model: str, model_settings: str) -> Task:
    dataset = _dataset(*data_key)
    module = models.create(model, dataset.num_classes, **json.loads(model_settings))
    return classification(
        module,
        image_shape=dataset.train.image.shape[1:],
        num_classes=dataset.num_classes,
        mean=dataset.mean,
        std=dataset.std,
        augmentation=dataset.augmentation,
    )


def load_task(problem: Problem) -> Task:
    """The task of a problem, made once, so that its compiled programs are shared."""
    key = (problem.data, problem.data_dir, problem.folder)
    return _task(key, problem.model, json.dumps(problem.model_settings, sort_keys=True))


def load_splits(problem: Problem, seed: int, request: ForgetRequest) -> Splits:
    """The five sets of examples of a request."""
    return data.split(
        load_dataset(problem),
        request,
        validation_fraction=problem.validation_fraction,
        seed=seed,
    )


def machine() -> dict[str, Any]:
    """Facts on the machine, for the record."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": len(jax.devices()),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _train(
    run: Path,
    config: dict[str, Any],
    problem: Problem,
    method: tuple[str, dict[str, Any]],
    start: Callable[[], tuple[Params, ModelState]],
    examples: tuple[Arrays, Arrays],
    seed: int,
    devices: int,
) -> Weights:
    """Runs a method in a run folder: from scratch, from where it stopped, or not at all if done."""
    name, settings = method
    program = _program(load_task(problem), name, _static(settings), devices)
    _claim(run, config)
    weights_folder = Checkpointer(run / "weights")
    if (run / "done.json").exists():
        return load_weights(run, problem)
    write_json(run / "fingerprints.json", {"data": load_dataset(problem).fingerprint})
    label = "  ".join(run.parts[-3:])
    with show_progress(label) as on_progress:
        outcome = training.run(
            program,
            {key: value for key, value in settings.items() if isinstance(value, float)},
            start(),
            *examples,
            num_steps=settings["num_steps"],
            seed=seed,
            checkpointer=Checkpointer(run / "checkpoints"),
            metrics_file=run / "metrics.jsonl",
            on_progress=on_progress,
        )
    weights = Weights(outcome.state.params, outcome.state.model_state)
    weights_folder.save(settings["num_steps"], weights, {})
    done = {
        "steps": settings["num_steps"],
        "seconds": outcome.seconds,
        "compile_seconds": outcome.compile_seconds,
        "weights": fingerprint(weights),
        "machine": machine(),
    }
    write_json(run / "done.json", done)
    return load_weights(run, problem)


def _claim(run: Path, config: dict[str, Any]) -> None:
    """Writes the configuration of a run, or checks that the folder has the same one already."""
    path = run / "config.json"
    config = json.loads(json.dumps(config))
    if not path.exists():
        if run.exists() and any(entry.name != "forget_request.json" for entry in run.iterdir()):
            raise InputError(
                f"{run} is not empty and holds no run; name a new folder, or empty this one."
            )
        write_json(path, config)
        return
    present = read_json(path)
    for key in sorted(config.keys() | present.keys()):
        if config.get(key) != present.get(key):
            raise InputError(
                f"{run} was written by another configuration: {key} is {present.get(key)!r} there, "
                f"but {config.get(key)!r} now; name a new folder, or delete this one."
            )


def _prepare_request(run: Path, problem: Problem, seed: int, request: ForgetRequest) -> Splits:
    """The splits of a request, which is saved in the run folder or checked against what is there."""
    splits, path = load_splits(problem, seed, request), run / "forget_request.json"
    dataset = load_dataset(problem)
    if not path.exists():
        data.save_request(path, request, dataset, splits)
    elif data.load_request(path, dataset).tolist() != splits.forget.index.tolist():
        raise InputError(
            f"{path} names other examples than {request.name}; name a new folder, or delete this one."
        )
    return splits


def _static(settings: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The settings that are part of the program; floating-point ones are its arguments."""
    return tuple((key, value) for key, value in settings.items() if not isinstance(value, float))


@functools.lru_cache
def _program(
    task: Task, method: str, static_settings: tuple[tuple[str, Any], ...], devices: int
) -> Program:
    fixed = dict(static_settings)

    def build(numbers: dict[str, Any]) -> Method:
        return methods.build(task, method, fixed | numbers)

    build({key: value for key, value in methods.settings(method).items() if key not in fixed})
    return training.compile_program(
        build,
        forget_batch_size=fixed["forget_batch_size"],
        retain_batch_size=fixed["retain_batch_size"],
        chunk_steps=min(_CHUNK_STEPS, fixed["num_steps"]),
        mesh=parallel.make_mesh(devices),
    )


def _arrays(examples: Examples) -> Arrays:
    return {name: jnp.asarray(values) for name, values in examples.arrays().items()}


def _predict(predict_fn: Any, examples: Examples, num_classes: int) -> Predictions:
    if len(examples) == 0:
        return Predictions(np.zeros((0, num_classes), np.float32), np.zeros(0, np.int32))
    return evaluation.predict(predict_fn, examples.arrays(), _PREDICTION_BATCH)
