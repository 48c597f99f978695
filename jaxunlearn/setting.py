"""What a problem stands on: its data set, its task and its splits, each made once.

Runs of one problem share them, and so share the compiled programs too.
"""

import functools
import json
import os
import platform
from typing import Any, NamedTuple

import jax

from jaxunlearn import data, models
from jaxunlearn.config import Problem
from jaxunlearn.data import Dataset, Examples, ForgetRequest, Splits
from jaxunlearn.tasks import classification
from jaxunlearn.types import ModelState, Params, Task

_DataKey = tuple[str, str | None, str | None]


class Weights(NamedTuple):
    """The result of a stage that trains."""

    params: Params
    model_state: ModelState


def load_dataset(problem: Problem) -> Dataset:
    """The data set of a problem.

    Raises:
        InputError: it is unknown, cannot be had, or is damaged.
    """
    return _dataset(_data_key(problem))


def load_task(problem: Problem) -> Task:
    """The task of a problem.

    Raises:
        InputError: the model or augmentation is unknown, or the model has no such field or does
            not fit the images.
    """
    return _task(
        _data_key(problem), problem.augmentation, problem.model, _text(problem.model_settings)
    )


def load_training(problem: Problem, seed: int) -> Examples:
    """All examples that the original model learns from.

    Raises:
        InputError: the share held out, or the size, does not fit the data.
    """
    dataset = load_dataset(problem)
    learned, _ = data.hold_out(
        dataset,
        validation_fraction=problem.validation_fraction,
        train_size=problem.train_size,
        seed=seed,
    )
    return dataset.train.take(learned)


def load_splits(problem: Problem, seed: int, request: ForgetRequest) -> Splits:
    """The five sets of examples of a request.

    Raises:
        InputError: the request does not fit the data.
    """
    return _splits(
        _data_key(problem), problem.validation_fraction, problem.train_size, seed, request
    )


def load_shapes(problem: Problem) -> Weights:
    """The shapes and types of the weights of a problem, as `jax.ShapeDtypeStruct`."""
    return _shapes(load_task(problem))


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


def _data_key(problem: Problem) -> _DataKey:
    return problem.data, problem.data_dir, problem.folder


def _text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


@functools.lru_cache
def _dataset(key: _DataKey) -> Dataset:
    name, data_dir, folder = key
    return data.load(name, data_dir=data_dir, folder=folder)


@functools.lru_cache
def _task(key: _DataKey, augmentation: str | None, model: str, settings: str) -> Task:
    dataset = _dataset(key)
    module = models.create(model, dataset.num_classes, **json.loads(settings))
    task = classification(
        module,
        image_shape=dataset.train.image.shape[1:],
        num_classes=dataset.num_classes,
        mean=dataset.mean,
        std=dataset.std,
        augmentation=dataset.augmentation if augmentation is None else augmentation,
    )
    _shapes(task)  # a model that does not fit the images is refused here
    return task


@functools.lru_cache
def _shapes(task: Task) -> Weights:
    return jax.eval_shape(lambda: Weights(*task.init(jax.random.key(0))))


@functools.lru_cache(maxsize=1)  # the images are copies: runs ask request by request
def _splits(
    key: _DataKey,
    validation_fraction: float,
    train_size: int | None,
    seed: int,
    request: ForgetRequest,
) -> Splits:
    return data.split(
        _dataset(key),
        request,
        validation_fraction=validation_fraction,
        train_size=train_size,
        seed=seed,
    )
