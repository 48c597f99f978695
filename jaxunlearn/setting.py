"""What a problem stands on: its data set, its task and its splits, each made once.

Runs of one problem share them, and so share the compiled programs too.
"""

import functools
import json
import os
import platform
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from jaxunlearn import data, models
from jaxunlearn.config import Diffusion, Problem
from jaxunlearn.data import Dataset, Examples, ForgetRequest, Splits
from jaxunlearn.diffusion import Denoiser
from jaxunlearn.models import denoisers
from jaxunlearn.tasks import classification, diffusion
from jaxunlearn.types import InputError, ModelState, Params, Task

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
        _data_key(problem),
        problem.augmentation,
        problem.model,
        _text(problem.model_settings),
        problem.diffusion,
    )


def check_classifies(problem: Problem, what: str) -> None:
    """Raises unless the model of a problem classifies.

    Args:
        problem: what is learned.
        what: what needs a classifier, for the error.

    Raises:
        InputError: the model generates images.
    """
    if problem.generates:
        raise InputError(
            f"{what} looks at class probabilities, but the model {problem.model!r} generates "
            "images; use the commands pretrain, retrain, unlearn, sample, evaluate and compare."
        )


def load_denoiser(problem: Problem, weights: "Weights") -> Denoiser:
    """The model of a problem that generates, as a denoiser: see `jaxunlearn.diffusion`."""
    module = _module(_data_key(problem), problem.model, _text(problem.model_settings))
    variables = {"params": weights.params, **weights.model_state}
    return jax.tree_util.Partial(module.apply, variables)


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


def load_splits(
    problem: Problem,
    seed: int,
    request: ForgetRequest,
    earlier: tuple[ForgetRequest, ...] | None = None,
) -> Splits:
    """The five sets of examples of a request, after earlier ones if there were any.

    Raises:
        InputError: the request does not fit the data, or what earlier ones left of it.
    """
    return _splits(
        _data_key(problem),
        problem.validation_fraction,
        problem.train_size,
        seed,
        request,
        earlier or (),
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
        "hosts": jax.process_count(),
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
def _module(key: _DataKey, model: str, settings: str) -> nn.Module:
    dataset, fields = _dataset(key), json.loads(settings)
    if model in denoisers.available():
        shape = dataset.train.image.shape[1:]
        return denoisers.create(model, shape, dataset.num_classes, **fields)
    return models.create(model, dataset.num_classes, **fields)


@functools.lru_cache
def _task(
    key: _DataKey,
    augmentation: str | None,
    model: str,
    settings: str,
    generation: Diffusion | None,
) -> Task:
    dataset, module = _dataset(key), _module(key, model, settings)
    if generation is not None:
        return _generating(dataset, module, generation)
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


def _generating(dataset: Dataset, module: nn.Module, generation: Diffusion) -> Task:
    task = diffusion(
        module,
        generation.process(),
        image_shape=dataset.train.image.shape[1:],
        num_classes=dataset.num_classes,
        reduction=generation.reduction,
        label_drop=generation.label_drop,
        fisher_guidance=generation.fisher_guidance,
    )
    _shapes(task)
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
    earlier: tuple[ForgetRequest, ...],
) -> Splits:
    return data.split(
        _dataset(key),
        request,
        validation_fraction=validation_fraction,
        train_size=train_size,
        seed=seed,
        earlier=earlier,
    )
