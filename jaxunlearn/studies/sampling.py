"""Images that the model of a run generates, drawn side by side."""

from pathlib import Path

import numpy as np

from jaxunlearn.data import Dataset
from jaxunlearn.names import closest
from jaxunlearn.studies.problem import load_dataset, load_tokenizer
from jaxunlearn.studies.report.grids import check_picture, sample_grid
from jaxunlearn.studies.runs.folder import load_weights, read_config
from jaxunlearn.studies.runs.generate import generate
from jaxunlearn.types import InputError


def sample(
    file: Path,
    run: Path,
    labels: tuple[int, ...] = (),
    count: int = 8,
    prompts: tuple[str, ...] = (),
) -> None:
    """Generates images with the model of a run, and draws them side by side.

    Args:
        file: the picture to write, ending in ".png".
        run: the run folder.
        labels: the classes to generate; all classes if neither labels nor prompts are given.
        count: the number of images of each class.
        prompts: names of classes to generate.

    Raises:
        InputError: the folder holds no finished run of a model that generates, the data has no such
            class, the count is below 1, or the file cannot be written.
    """
    config = read_config(run, "pretrain", "retrain", "unlearn")
    if not config.problem.generates:
        raise InputError(
            f"{run} holds {config.problem.model}, which {config.problem.does}; sample from a model "
            "that generates, such as ddpm-small."
        )
    if count < 1:
        raise InputError(f"count is {count}, but must be 1 or more.")
    check_picture(file)
    dataset = load_dataset(config.problem)
    labels = (*labels, *(_prompted(dataset, prompt) for prompt in prompts))
    asked = np.array(labels or range(dataset.num_classes), np.int32)
    weights = load_weights(run, config.problem)
    every, numbers = np.repeat(asked, count), np.tile(np.arange(count), len(asked))
    images = generate(config.problem, weights, every, numbers)
    rows = images.reshape(len(asked), count, *images.shape[1:])
    picture = {str(number): rows[:, number] for number in range(count)}
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = [dataset.class_names[label] for label in asked]
    sample_grid(file, picture, columns, f"{config.problem.model}, {dataset.name}")


def _prompted(dataset: Dataset, prompt: str) -> int:
    """The class that a prompt names; case does not matter."""
    names = [name.lower() for name in dataset.class_names]
    if prompt.lower() not in names:
        load_tokenizer(dataset).encode([prompt])  # an unknown word raises here
        raise InputError(
            f"the prompt is {prompt!r}, but must be the name of a class of {dataset.name!r}, such "
            f"as {dataset.class_names[0]!r}{closest(prompt.lower(), names)}."
        )
    return names.index(prompt.lower())
