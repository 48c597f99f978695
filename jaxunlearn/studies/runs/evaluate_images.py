"""The evaluation of models that generate images: `samples.npz` and `results.json`.

Every model of a study begins with the same noise for the i-th image of class c. A classifier of the
same data, the *judge*, classifies the images. Its last features, or the features of an Inception-v3
if its weights are given, measure the distance of the images of the remaining classes to real ones.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxunlearn import evaluation
from jaxunlearn.data import Dataset, ForgetRequest
from jaxunlearn.data.anchors import most_similar
from jaxunlearn.data.captions import grid_of
from jaxunlearn.evaluation import Predictions
from jaxunlearn.evaluation.features import Features, of_classifier
from jaxunlearn.evaluation.generation import (
    classify_generated,
    compare_generated,
    keep_of_prompts,
)
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.files import write_arrays
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.problem import load_dataset, load_splits, load_task
from jaxunlearn.studies.runs.cache import real_images
from jaxunlearn.studies.runs.folder import load_weights, read_pretrained
from jaxunlearn.studies.runs.generate import generate
from jaxunlearn.studies.runs.results import Subject, read_results, write_results
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.tasks.diffusion import as_signal
from jaxunlearn.types import InputError, Task, Weights


class Judge(NamedTuple):
    """A classifier that judges generated images, with its accuracy in percent on real ones.

    Images are compared by its own features or Inception-v3's. Statistics of real images are cached
    in its run folder.
    """

    name: str
    task: Task
    weights: Weights
    accuracy: float
    features: Features
    folder: Path


def load_judge(run: Path, problem: Problem, inception: Features | None = None) -> Judge:
    """The classifier in a pretraining folder as a judge; `inception` replaces its own features."""
    config = read_pretrained(run)
    if not config.problem.classifies:
        raise InputError(
            f"{run} holds {config.problem.model}, which {config.problem.does}, but generated "
            "images are judged by a classifier; pretrain one on the same data, such as with "
            "--model mlp."
        )
    if load_dataset(config.problem).fingerprint != load_dataset(problem).fingerprint:
        raise InputError(
            f"the classifier in {run} learned {config.problem.data}, but the images are like those "
            f"of {problem.data}; pretrain one on the same data."
        )
    weights, task = load_weights(run, config.problem), load_task(config.problem)
    arrays = load_dataset(problem).test.arrays()
    accuracy = evaluation.accuracy(predict_with(task, weights, arrays))
    name = config.problem.model
    features = inception or of_classifier(name, task, weights, arrays["image"])
    return Judge(name, task, weights, accuracy, features, run)


def on_scale_of(dataset: Dataset, images: np.ndarray) -> np.ndarray:
    """Generated images, uint8, on the scale of the judge's training images."""
    if dataset.train.image.dtype == np.uint8:
        return images
    return np.asarray(as_signal(jnp.asarray(images)))


def evaluate_generated(subject: Subject, judge: Judge) -> dict[str, float]:
    """Generates images with a model, judges them, and writes both to its run folder."""
    run, weights, problem, seed, request, *_ = subject
    earlier, original, retrained = subject.earlier, subject.original, subject.retrained
    check_images(judge.features, problem, seed, request, earlier)
    oracle = read_results(retrained) if retrained else {}
    described = {"name": judge.features.name, "dimension": judge.features.dimension}
    if oracle and oracle.get("features") != described:
        raise InputError(
            f"{retrained} was evaluated with the features {oracle.get('features')}, but must be "
            f"evaluated with {described}; evaluate it again."
        )
    splits, dataset = load_splits(problem, seed, request, earlier), load_dataset(problem)
    assert problem.diffusion is not None
    each_class, samples = np.arange(dataset.num_classes, dtype=np.int32), problem.diffusion.samples
    labels = np.repeat(each_class, samples)
    numbers = np.tile(np.arange(samples, dtype=np.int32), dataset.num_classes)
    asked = {each: np.isin(labels, each.labels(dataset)) for each in (*earlier, request)}
    kept = ~np.any(list(asked.values()), axis=0)
    grid, forgotten = grid_of(dataset.class_names), request.labels(dataset)
    still = ~np.isin(each_class, labels[~kept])
    nearest = [most_similar(label, dataset.class_names, still) for label in forgotten]
    real = real_images(judge.folder, judge.features, splits.retain.image)

    def seen(images: np.ndarray, chosen: np.ndarray) -> Predictions:
        arrays = {"image": images[chosen], "label": labels[chosen]}
        return predict_with(judge.task, judge.weights, arrays)

    def judged(images: np.ndarray) -> dict[str, float]:
        images = on_scale_of(dataset, images)
        of_kept = seen(images, kept)
        found = classify_generated(seen(images, asked[request]), of_kept)
        if grid is not None:
            found |= keep_of_prompts(of_kept, grid, forgotten, nearest)
        return found | compare_generated(real, judge.features.describe(images[kept]))

    images = generate(problem, weights, labels, numbers, at_once=subject.at_once)
    metrics = judged(images)
    found: dict[str, Any] = {
        "counts": {
            "forget": len(splits.forget),
            "retain": len(splits.retain),
            "generated_forget": int(asked[request].sum()),
            "generated_retain": int(kept.sum()),
        },
        "class_names": list(dataset.class_names),
        "forgotten": list(forgotten),
        "features": described,
        "judge": {"model": judge.name, "test_accuracy": judge.accuracy},
        "metrics": metrics,
    }
    if earlier or original:
        drawn, by_model = {"accuracy": images}, {"model": metrics}
        if original:
            drawn["original_accuracy"] = generate(
                problem, original, labels, numbers, at_once=subject.at_once
            )
            by_model["original"] = judged(drawn["original_accuracy"])
        found["drift"] = {
            "requests": [
                {"request": each.name, "examples": int(chosen.sum())}
                | {name: evaluation.accuracy(seen(some, chosen)) for name, some in drawn.items()}
                for each, chosen in asked.items()
            ],
            "kept": {
                name: {key: each[key] for key in ("generated_retain_accuracy", "frechet_retain")}
                for name, each in by_model.items()
            },
        }
    with Workspace(run).locked():
        write_arrays(run / "samples.npz", {"image": images, "label": labels})
        write_results(subject, found, "samples.npz")
    return metrics


def check_images(
    features: Features,
    problem: Problem,
    seed: int,
    request: ForgetRequest,
    earlier: tuple[ForgetRequest, ...] = (),
) -> None:
    """Raises unless there are enough images of the remaining classes for a Frechet distance."""
    for each in (*earlier, request):
        check_request(each)
    if not load_task(problem).conditional:
        raise InputError(
            f"the model {problem.model!r} has no classes, so nothing can be asked of it that a "
            "classifier could recognise; look at its images (jaxunlearn sample)."
        )
    assert problem.diffusion is not None
    dataset = load_dataset(problem)
    splits = load_splits(problem, seed, request, earlier)
    gone = {label for each in (*earlier, request) for label in each.labels(dataset)}
    left = dataset.num_classes - len(gone)
    if left * problem.diffusion.samples <= features.dimension:
        raise InputError(
            f"samples is {problem.diffusion.samples} for each of {left} remaining classes, but the "
            f"Frechet distance needs more images than the {features.dimension} features called "
            f"{features.name}; draw {features.dimension // left + 1} or more."
        )
    real, needed = len(splits.retain), 2 * features.dimension + 2
    if real < needed:
        raise InputError(
            f"{request.name} leaves {real} real images of {problem.data}, but each half of them "
            f"must have more images than the {features.dimension} features called {features.name}, "
            f"so {needed} are needed; choose features of fewer dimensions, or more data."
        )


def check_request(request: ForgetRequest) -> None:
    """Raises unless a request names whole classes, as generated images have no examples."""
    if not request.names_classes:
        raise InputError(
            f"the request {request.name} forgets single examples, but must forget whole classes if "
            "the model generates images; name classes, such as --classes 3."
        )
