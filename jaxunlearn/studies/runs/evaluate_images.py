"""Images that a model generates, and the stage that evaluates them: `samples.npz`, `results.json`.

Every model of a study answers the same noise: the i-th image of class c always begins alike. A
classifier of the same data, the *judge*, says which classes it sees. Its last features, or those of
an Inception-v3 where its weights are given, measure how far the images of the remaining classes are
from real ones.
"""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import evaluation
from jaxunlearn.data import Dataset, ForgetRequest
from jaxunlearn.evaluation import Predictions
from jaxunlearn.evaluation.features import Features, of_classifier, of_inception
from jaxunlearn.evaluation.generation import classify_generated, compare_generated
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.files import write_arrays
from jaxunlearn.models.convolutions import fast_in_loops
from jaxunlearn.models.diffusion_process import Denoiser, guided, sample
from jaxunlearn.studies.config import Diffusion, Problem
from jaxunlearn.studies.problem import (
    Decoder,
    load_dataset,
    load_decoder,
    load_denoiser,
    load_splits,
    load_task,
)
from jaxunlearn.studies.runs import folder as runs
from jaxunlearn.studies.runs.cache import real_images
from jaxunlearn.studies.runs.evaluate import read_results, told_by, with_share, write_results
from jaxunlearn.studies.runs.locks import locked
from jaxunlearn.tasks.diffusion import as_signal
from jaxunlearn.types import InputError, Task, Weights

_CHUNK = 100  # images at a time


class Judge(NamedTuple):
    """A classifier that is asked what it sees.

    Attributes:
        name: of its model.
        task: of classification.
        weights: its weights.
        accuracy: on the real test images, in percent.
        features: by which images are compared, its own or those of Inception-v3.
        folder: its run folder, which keeps what was found of real images.
    """

    name: str
    task: Task
    weights: Weights
    accuracy: float
    features: Features
    folder: Path


def load_judge(run: Path, problem: Problem, inception: Features | None = None) -> Judge:
    """The classifier that a folder of `jaxunlearn pretrain` holds.

    Args:
        run: the folder.
        problem: of the images that it shall judge.
        inception: features to compare images by, in place of its own.

    Returns:
        A `Judge`.

    Raises:
        InputError: the folder holds no finished classifier, or one of other data.
    """
    config = runs.read_pretrained(run)
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
    weights, task = runs.load_weights(run, config.problem), load_task(config.problem)
    arrays = load_dataset(problem).test.arrays()
    accuracy = evaluation.accuracy(predict_with(task, weights, arrays))
    name = config.problem.model
    features = inception or of_classifier(name, task, weights, arrays["image"])
    return Judge(name, task, weights, accuracy, features, run)


def generate(problem: Problem, weights: Weights, labels: np.ndarray, numbers: np.ndarray) -> Any:
    """Images of the classes asked for.

    Args:
        problem: what the model learned.
        weights: of the model.
        labels: the classes, `[N]`.
        numbers: which image of its class each is, `[N]`: the number and the class alone decide the
            noise it begins with.

    Returns:
        uint8 `[N, H, W, C]`.

    Raises:
        InputError: a class that the data set does not have.
    """
    dataset, generation = load_dataset(problem), problem.diffusion
    assert generation is not None
    for label in labels:
        if not 0 <= label < dataset.num_classes:
            raise InputError(
                f"class {label} was asked for, but {dataset.name!r} has the classes 0 to "
                f"{dataset.num_classes - 1}."
            )
    decoder, shape = load_decoder(problem, weights)
    guidance = jnp.float32(generation.guidance) if generation.guidance else None
    return np.asarray(
        sample_images(
            load_denoiser(problem, weights),
            decoder,
            jnp.asarray(labels, jnp.int32),
            jnp.asarray(numbers, jnp.int32),
            guidance,
            replace(generation, guidance=0.0),  # one program, however strong it is
            shape,
            dataset.num_classes,
            clip=problem.first_stage() is None,
        )
    )


@functools.partial(jax.jit, static_argnames=("generation", "shape", "null_label", "clip"))
def sample_images(
    denoiser: Denoiser,
    decoder: Decoder,
    labels: jax.Array,
    numbers: jax.Array,
    guidance: jax.Array | None,
    generation: Diffusion,
    shape: tuple[int, ...],
    null_label: int,
    *,
    clip: bool,
) -> jax.Array:
    """One program that draws all images, a chunk at a time.

    Args:
        denoiser: predicts noise or velocity, from `load_denoiser`.
        decoder: from samples to images in [-1, 1], from `load_decoder`.
        labels: the classes, `[N]`.
        numbers: which image of its class each is, `[N]`.
        guidance: how strongly the class guides, if it does; that of `generation` is not looked at.
        generation: the process and the sampler.
        shape: of one sample.
        null_label: the label that stands for none.
        clip: whether samples lie in [-1, 1]: pixels do, latents do not.

    Returns:
        uint8 `[N, H, W, C]`.
    """
    process = generation.process()
    if guidance is not None:
        denoiser = guided(process, denoiser, guidance, null_label)

    @fast_in_loops
    def some(asked: tuple[jax.Array, jax.Array]) -> jax.Array:
        keys = jax.vmap(
            lambda label, number: jax.random.fold_in(
                jax.random.fold_in(jax.random.key(0), label), number
            )
        )(*asked)
        samples = sample(
            process,
            denoiser,
            keys,
            asked[0],
            shape,
            sampler=generation.sampler,
            num_steps=generation.sampling_steps,
            eta=generation.eta,
            clip=clip,
        )
        return jnp.round((jnp.clip(decoder(samples), -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)

    size = labels.shape[0]
    chunk = min(_CHUNK, size)
    places = jnp.minimum(jnp.arange(-(-size // chunk) * chunk), size - 1).reshape(-1, chunk)
    images = jax.lax.map(some, (labels[places], numbers[places]))
    return images.reshape(-1, *images.shape[2:])[:size]


def on_scale_of(dataset: Dataset, images: np.ndarray) -> np.ndarray:
    """Generated images, uint8, on the scale of those that the judge learned from."""
    if dataset.train.image.dtype == np.uint8:
        return images
    return np.asarray(as_signal(jnp.asarray(images)))


def evaluate(
    run: Path,
    weights: Weights,
    problem: Problem,
    seed: int,
    request: ForgetRequest,
    *,
    judge: Judge,
    method: str,
    cost: dict[str, Any] | None = None,
    retrained: Path | None = None,
    earlier: tuple[ForgetRequest, ...] = (),
    original: Weights | None = None,
) -> dict[str, float]:
    """Generates images with a model, judges them, and writes both to its run folder.

    Args:
        run: the run folder, which receives `samples.npz` and `results.json`.
        weights: of the model.
        problem: what it learned.
        seed: the pretraining seed.
        request: the classes that were forgotten.
        judge: the classifier.
        method: how the results name the model.
        cost: steps and seconds of the run, if it trained at all.
        retrained: the evaluated run folder of the retrained model, for the share of its time.
        earlier: the requests that were honoured before, the oldest first.
        original: the model before all of them, to be compared with.

    Returns:
        The metrics: see `evaluation.generation`.

    Raises:
        InputError: the request names no classes, there are fewer images than features, or the
            retrained model was evaluated by others.
    """
    check_images(judge.features, problem, seed, request, earlier)
    oracle = read_results(retrained) if retrained else {}
    described = {"name": judge.features.name, "dimension": judge.features.dimension}
    if oracle and oracle.get("features") != described:
        raise InputError(
            f"{retrained} was evaluated by other features ({oracle.get('features')}) than are "
            f"given now ({described}), and their distances cannot be compared; evaluate it anew."
        )
    splits, dataset = load_splits(problem, seed, request, earlier), load_dataset(problem)
    generation, cost = problem.diffusion, cost or {}
    assert generation is not None
    labels = np.repeat(np.arange(dataset.num_classes, dtype=np.int32), generation.samples)
    numbers = np.tile(np.arange(generation.samples, dtype=np.int32), dataset.num_classes)
    asked = {each: np.isin(labels, each.labels(dataset)) for each in (*earlier, request)}
    kept = ~np.any(list(asked.values()), axis=0)
    real = real_images(judge.folder, judge.features, splits.retain.image)

    def seen(images: np.ndarray, chosen: np.ndarray) -> Predictions:
        arrays = {"image": images[chosen], "label": labels[chosen]}
        return predict_with(judge.task, judge.weights, arrays)

    def judged(images: np.ndarray) -> dict[str, float]:
        images = on_scale_of(dataset, images)
        found = classify_generated(seen(images, asked[request]), seen(images, kept))
        return found | compare_generated(real, judge.features.describe(images[kept]))

    images = generate(problem, weights, labels, numbers)
    metrics = judged(images)
    results = {
        "method": method,
        "request": request.name,
        "seed": seed,
        "dataset": problem.data,
        "model": problem.model,
        "counts": {
            "forget": len(splits.forget),
            "retain": len(splits.retain),
            "generated_forget": int(asked[request].sum()),
            "generated_retain": int(kept.sum()),
        },
        "class_names": list(dataset.class_names),
        "forgotten": list(request.labels(dataset)),
        "features": described,
        "judge": {"model": judge.name, "test_accuracy": judge.accuracy},
        "metrics": metrics,
        **with_share(cost, retrained),
    }
    if earlier or original:
        drawn, found = {"accuracy": images}, {"model": metrics}
        if original:
            drawn["original_accuracy"] = generate(problem, original, labels, numbers)
            found["original"] = judged(drawn["original_accuracy"])
        results["drift"] = {
            "requests": [
                {"request": each.name, "examples": int(chosen.sum())}
                | {name: evaluation.accuracy(seen(some, chosen)) for name, some in drawn.items()}
                for each, chosen in asked.items()
            ],
            "kept": {
                name: {key: each[key] for key in ("generated_retain_accuracy", "frechet_retain")}
                for name, each in found.items()
            },
        }
    with locked(run):
        write_arrays(run / "samples.npz", {"image": images, "label": labels})
        write_results(run, results, weights, "samples.npz")
    return metrics


def evaluate_run(
    run: Path,
    classifier: Path,
    retrained: Path | None = None,
    inception: Path | None = None,
    original: Path | None = None,
) -> dict[str, float]:
    """Evaluates a finished run of a model that generates, by what its folder says of itself.

    Args:
        run: the run folder of `retrain` or `unlearn`.
        classifier: the run folder of the classifier that judges its images.
        retrained: the evaluated run folder of the retrained model.
        inception: a file with the network of the Frechet distance, whose features are then used.
        original: the run folder of the original model, for what all requests did to it.

    Returns:
        The metrics.

    Raises:
        InputError: the file holds no such network, or the folders hold no such runs, unfinished
            ones, or those of other data.
    """
    config = runs.read_config(run, "retrain", "unlearn")
    told = told_by(run, config, retrained, original)
    features = of_inception(inception) if inception else None
    return evaluate(run, judge=load_judge(classifier, config.problem, features), **told)


def check_images(
    features: Features,
    problem: Problem,
    seed: int,
    request: ForgetRequest,
    earlier: tuple[ForgetRequest, ...] = (),
) -> None:
    """Raises unless there are enough images of the remaining classes for a Frechet distance.

    Args:
        features: by which they are compared.
        problem: what the model learns.
        seed: the pretraining seed.
        request: the classes that are forgotten.
        earlier: the requests that were honoured before.

    Raises:
        InputError: no more images than features, or a request that names no classes.
    """
    for each in (*earlier, request):
        check_request(each)
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
            f"{request.name} leaves {real} real images of {problem.data}, but two halves of them "
            f"must each have more than the {features.dimension} features called {features.name}, "
            f"so {needed} are needed; choose features of fewer dimensions, or more data."
        )


def check_request(request: ForgetRequest) -> None:
    """Raises unless a request names whole classes, which is what a generated image can be of.

    Raises:
        InputError: it does not.
    """
    if not request.names_classes:
        raise InputError(
            f"the request {request.name} forgets single examples, but whether a model that "
            "generates images forgot is seen by classes; forget classes, such as --classes 3."
        )
