"""Images that the model of a run generates, drawn side by side."""

from pathlib import Path

import numpy as np

from jaxunlearn.data import Dataset
from jaxunlearn.names import closest
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.problem import load_dataset, load_task, load_tokenizer
from jaxunlearn.studies.report.grids import check_picture, sample_grid
from jaxunlearn.studies.runs.folder import load_weights, read_config
from jaxunlearn.studies.runs.generate import generate
from jaxunlearn.training.devices import placement_of
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import InputError


def sample(
    file: Path,
    run: Path,
    labels: tuple[int, ...] = (),
    count: int = 8,
    prompts: tuple[str, ...] = (),
    layout: Layout = Layout(),
) -> None:
    """Generates images with the model of a run, and draws them side by side.

    Args:
        file: the picture to write, ending in ".png".
        run: the run folder.
        labels: the classes to generate; all classes if neither labels nor prompts are given.
        count: the number of images of each class.
        prompts: names of classes to generate; any text for an adopted text-to-image model.
        layout: the number of images that are drawn at once, `micro_batch`.

    Raises:
        InputError: the folder holds no finished run of a model that generates, the data has no such
            class, the count is below 1, or the file cannot be written.
    """
    at_once = placement_of(layout).micro_batch
    config = read_config(run, "pretrain", "retrain", "unlearn")
    if not config.problem.generates:
        raise InputError(
            f"{run} holds {config.problem.model}, which {config.problem.does}; sample from a model "
            "that generates, such as ddpm-small."
        )
    if count < 1:
        raise InputError(f"count is {count}, but must be 1 or more.")
    check_picture(file)
    problem = config.problem
    names, asked, free = _asked(problem, labels, prompts)
    weights = load_weights(run, problem)
    every, numbers = np.repeat(asked, count), np.tile(np.arange(count), len(asked))
    images = generate(problem, weights, every, numbers, names if free else None, at_once)
    rows = images.reshape(len(asked), count, *images.shape[1:])
    picture = {str(number): rows[:, number] for number in range(count)}
    file.parent.mkdir(parents=True, exist_ok=True)
    sample_grid(file, picture, names, f"{problem.model}, {load_dataset(problem).name}")


def _asked(
    problem: Problem, labels: tuple[int, ...], prompts: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray, bool]:
    """The names of the columns, their labels, and whether these number the names.

    The tokenizer of an adopted text-to-image model reads any prompt.
    """
    dataset = load_dataset(problem)
    if not load_task(problem).conditional:
        if labels or prompts:
            raise InputError(
                f"the model {problem.model!r} has no classes, but labels or prompts are given; "
                "leave them out."
            )
        return ("no class",), np.zeros(1, np.int32), False
    for label in labels:
        if not 0 <= label < dataset.num_classes:
            raise InputError(
                f"the class is {label}, but must be a class of {dataset.name!r}, from 0 to "
                f"{dataset.num_classes - 1}; choose another."
            )
    known = {name.lower(): label for label, name in enumerate(dataset.class_names)}
    new = [prompt for prompt in prompts if prompt.lower() not in known]
    if new and problem.tokenizer is None:
        raise _unknown(problem, new[0], dataset)
    if new:
        names = (*(dataset.class_names[label] for label in labels), *prompts)
        return names, np.arange(len(names), dtype=np.int32), True
    chosen = (*labels, *(known[prompt.lower()] for prompt in prompts))
    asked = np.array(chosen or range(dataset.num_classes), np.int32)
    return tuple(dataset.class_names[label] for label in asked), asked, False


def _unknown(problem: Problem, prompt: str, dataset: Dataset) -> InputError:
    load_tokenizer(problem).encode([prompt])  # an unknown word raises here
    return InputError(
        f"the prompt is {prompt!r}, but must be the name of a class of {dataset.name!r}, such "
        f"as {dataset.class_names[0]!r}{closest(prompt.lower(), dataset.class_names)}."
    )
