"""The data set, the task and the splits of a problem, each made once.

Runs of one problem share them, and so share the compiled programs too.
"""

import functools
import json
import os
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import data, models
from jaxunlearn.data import Dataset, Examples, ForgetRequest, Reading, Splits
from jaxunlearn.data.own import own_kind
from jaxunlearn.data.splits import halves
from jaxunlearn.home import expanded
from jaxunlearn.models import denoisers, latent
from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.diffusion_process import Denoiser
from jaxunlearn.models.frameworks import as_model
from jaxunlearn.models.presets import file_of
from jaxunlearn.models.text_encoder import TextEncoder
from jaxunlearn.objects import errors_of
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.diffusion import Diffusion
from jaxunlearn.studies.plans import PLACES
from jaxunlearn.studies.prompts import Tokenizer, find_tokenizer, prompted, token_ids
from jaxunlearn.tasks import autoencoding, classification, diffusion, latent_diffusion
from jaxunlearn.tasks.latent_diffusion import FIRST_STAGE, Prompted, with_autoencoder
from jaxunlearn.tasks.microbatched import statistics_of
from jaxunlearn.types import Batch, InputError, Model, Task, Weights

Decoder = Callable[[jax.Array], jax.Array]  # samples [B, h, w, c] to images [B, H, W, C]
_DataKey = tuple[str, str | None, str | None, Reading]
_Stage = tuple[str, str]
_Pixels = tuple[tuple[float, ...] | None, tuple[float, ...] | None]  # their mean and deviation
_found_in: ContextVar[str | None] = ContextVar("found_in", default=None)


def find_data_in(data_dir: str | os.PathLike[str] | None) -> None:
    """Sets the folder of the data, in place of the folders on record in problems and runs.

    It is the DIR or FILE of the user's own data, and the folder of prepared data of other sets. A
    run on another machine then finds its data, whose fingerprint is checked. None restores the
    folders on record.
    """
    _found_in.set(None if data_dir is None else os.fspath(data_dir))


def load_dataset(problem: Problem) -> Dataset:
    """The data set of a problem."""
    return _dataset(_data_key(problem))


def load_task(problem: Problem, axis_name: str | None = None) -> Task:
    """The task of a problem, the same object each time; BatchNorm averages over `axis_name`."""
    with errors_of(problem.model, "the model", file_of(problem.model)):
        return _task(
            _data_key(problem),
            problem.augmentation,
            problem.model,
            _model_settings(problem),
            _first_stage(problem),
            problem.diffusion,
            axis_name,
            (problem.mean, problem.std),
        )


def check_classifies(problem: Problem, what: str) -> None:
    """Raises unless the model of a problem classifies; `what` names the command in the error."""
    if not problem.classifies:
        raise InputError(
            f"{what} needs class probabilities, but the model {problem.model!r} {problem.does}; "
            "use the commands pretrain, retrain, unlearn, sample, evaluate and compare."
        )


def load_denoiser(
    problem: Problem, weights: Weights, prompts: tuple[str, ...] | None = None
) -> Denoiser:
    """The denoiser of a problem that generates: see `jaxunlearn.models.diffusion_process`.

    Its conditions are the classes, or these prompts of a text-to-image model; one more is none.
    """
    module = _load_module(problem)
    if prompts is not None:
        module = module.clone(ids=token_ids(load_tokenizer(problem), prompts))
    return denoiser_of(module, weights)


def denoiser_of(module: Any, weights: Weights) -> Denoiser:
    """The denoiser that a module and its weights make."""
    return jax.tree_util.Partial(_denoiser(as_model(module)), weights)


def decoder_of(autoencoder: AutoencoderKL, weights: Weights) -> Decoder:
    """The decoder of the autoencoder in the model state of a model of latents."""
    return jax.tree_util.Partial(_decoder(autoencoder), weights.model_state[FIRST_STAGE])


def load_text_encoder(problem: Problem) -> tuple[TextEncoder, np.ndarray] | None:
    """The encoder of a text-to-image model, and the token ids of its prompts; None for others."""
    module = _load_module(problem)
    return (module.text_encoder, np.array(module.ids)) if isinstance(module, Prompted) else None


def load_tokenizer(problem: Problem) -> Tokenizer:
    """The tokenizer of a text-to-image model."""
    return find_tokenizer(load_dataset(problem).class_names, problem.tokenizer)


def load_autoencoder(problem: Problem) -> AutoencoderKL | None:
    """The autoencoder of a model of latents, which it does not scale; None for other models."""
    stage = _first_stage(problem)
    return _autoencoder(_data_key(problem), *stage) if stage else None


def load_decoder(problem: Problem, weights: Weights) -> tuple[Decoder, tuple[int, ...]]:
    """The decoder of a generating model, from samples to images, and the shape of a sample."""
    autoencoder, shape = load_autoencoder(problem), load_dataset(problem).train.image.shape[1:]
    if autoencoder is None:
        return jax.tree_util.Partial(_identity), shape
    return decoder_of(autoencoder, weights), latent_shape(autoencoder, shape)


def load_training(problem: Problem, seed: int) -> Examples:
    """All training examples of the original model."""
    return _halves(problem, seed)[0]


def load_validation(problem: Problem, seed: int) -> Examples:
    """The validation examples, before any request; there may be none."""
    return _halves(problem, seed)[1]


def load_judged(problem: Problem, seed: int) -> Examples:
    """The validation examples that judge models."""
    return halves(load_validation(problem, seed))[1]


def _halves(problem: Problem, seed: int) -> tuple[Examples, Examples]:
    dataset = load_dataset(problem)
    learned, held_out = data.hold_out(
        dataset,
        validation_fraction=problem.validation_fraction,
        train_size=problem.train_size,
        seed=seed,
        validation_names=_names(problem),
    )
    return dataset.train.take(learned), dataset.train.take(held_out)


def _names(problem: Problem) -> tuple[str, ...] | None:
    """The names of the user's own validation data, which a problem has read from their file."""
    assert not isinstance(problem.validation_names, str)
    return problem.validation_names


def load_splits(
    problem: Problem,
    seed: int,
    request: ForgetRequest,
    earlier: tuple[ForgetRequest, ...] | None = None,
) -> Splits:
    """The five splits of a request, after earlier requests if there are any."""
    return _splits(
        _data_key(problem),
        problem.validation_fraction,
        _names(problem),
        problem.train_size,
        seed,
        request.resolved(),
        earlier or (),
    )


def load_shapes(problem: Problem) -> Weights:
    """The shapes and types of the weights of a problem, as `jax.ShapeDtypeStruct`."""
    return _shapes(load_task(problem))


def data_places(problem: Problem) -> dict[str, str | None]:
    """The places of the data of a problem, absolute or None: see `PLACES`."""
    given = _found_in.get()
    places = {name: getattr(problem, name) for name in PLACES}
    kept = problem.data_dir and expanded(problem.data_dir)
    if given is not None and expanded(given) != kept:
        moved, before = "folder" if own_kind(problem.data) else "data_dir", problem.folder
        places = {"data_dir": problem.data_dir, "folder": None, "captions": problem.captions}
        places[moved] = given
        if before and problem.captions and Path(problem.captions).is_relative_to(before):
            places["captions"] = str(given / Path(problem.captions).relative_to(before))
    return {name: str(expanded(place)) if place else None for name, place in places.items()}


def _data_key(problem: Problem) -> _DataKey:
    places = data_places(problem)
    reading = replace(problem.reading(), captions=places["captions"])
    return problem.data, places["data_dir"], places["folder"], reading


def _model_settings(problem: Problem) -> str:
    """The settings of the model, and the place of its tokenizer, as JSON."""
    tokenizer = {"tokenizer": problem.tokenizer} if problem.tokenizer else {}
    return _text(problem.model_settings | tokenizer)


def _text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


@functools.lru_cache
def _dataset(key: _DataKey) -> Dataset:
    name, data_dir, folder, reading = key
    return data.load(name, data_dir=data_dir, folder=folder, reading=reading)


def _first_stage(problem: Problem) -> _Stage | None:
    """The model of the autoencoder and its settings, if there is one."""
    first = problem.first_stage()
    return (first.model, _text(first.model_settings)) if first else None


@functools.lru_cache
def _denoiser(model: Model) -> Callable[..., jax.Array]:
    def denoise(weights: Weights, *inputs: jax.Array) -> jax.Array:
        noise: jax.Array = model.apply(*weights, *inputs)[0]
        return noise

    return denoise


def _load_module(problem: Problem) -> Any:
    return _module(
        _data_key(problem),
        problem.model,
        _model_settings(problem),
        _first_stage(problem),
        problem.generates,
    )


@functools.lru_cache
def _module(
    key: _DataKey, model: str, settings: str, stage: _Stage | None = None, generates: bool = False
) -> Any:
    dataset, fields = _dataset(key), json.loads(settings)
    if stage is not None:
        return _of_latents(dataset, model, fields, _autoencoder(key, *stage))
    if generates:
        shape = dataset.train.image.shape[1:]
        return denoisers.create(model, shape, dataset.num_classes, **fields)
    if model in latent.AUTOENCODERS:
        return _autoencoder(key, model, settings)
    return models.create(model, dataset.num_classes, **fields)


@functools.lru_cache
def _autoencoder(key: _DataKey, model: str, settings: str) -> AutoencoderKL:
    """An autoencoder with unscaled latents: their scale is measured on the training data."""
    size, channels = model.partition("-")[2], _dataset(key).train.image.shape[-1]
    fields = {"scaling_factor": 1.0, **json.loads(settings)}
    return latent.create_autoencoder(size, channels, **fields)


def _of_latents(
    dataset: Dataset, model: str, fields: dict[str, Any], autoencoder: AutoencoderKL
) -> Any:
    """A model of the latents of an autoencoder."""
    if model not in latent.DENOISERS:
        return prompted(dataset.class_names, model, fields, autoencoder)
    shape = latent_shape(autoencoder, dataset.train.image.shape[1:])
    name = model.removeprefix(latent.LATENT)
    return latent.create_denoiser(name, shape, dataset.num_classes, **fields)


def latent_shape(autoencoder: AutoencoderKL, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape of the latents of an image of a shape."""
    height, width = (side // autoencoder.factor for side in shape[:2])
    return height, width, autoencoder.latent_channels


def _identity(samples: jax.Array) -> jax.Array:
    return samples


@functools.lru_cache
def _decoder(autoencoder: AutoencoderKL) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    def decode(stage: dict[str, Any], latents: jax.Array) -> jax.Array:
        scaled = latents / stage["scaling_factor"]
        images: Any = autoencoder.apply({"params": stage["params"]}, scaled, method="decode")
        return images

    return decode


@functools.lru_cache
def _task(
    key: _DataKey,
    augmentation: str | None,
    model: str,
    settings: str,
    stage: _Stage | None,
    generation: Diffusion | None,
    axis_name: str | None,
    pixels: _Pixels,
) -> Task:
    dataset = _dataset(key)
    module = _module(key, model, settings, stage, generation is not None)
    if hasattr(module, "axis_name"):
        module = module.clone(axis_name=axis_name)
    shape = dataset.train.image.shape[1:]
    if stage is not None and generation is not None:
        return _latent_task(dataset, module, _autoencoder(key, *stage), generation)
    if generation is not None:
        task = _diffusion_task(dataset, module, generation)
        _check_statistics(task, module, axis_name)
        return task
    if isinstance(module, AutoencoderKL):
        task = autoencoding(module, image_shape=shape, num_classes=dataset.num_classes)
        _shapes(task)
        return task
    task = classification(
        module,
        image_shape=shape,
        num_classes=dataset.num_classes,
        mean=dataset.mean if pixels[0] is None else pixels[0],
        std=dataset.std if pixels[1] is None else pixels[1],
        augmentation=dataset.augmentation if augmentation is None else augmentation,
    )
    _shapes(task)  # raises if the model does not fit the images
    _check_statistics(task, module, axis_name)
    return task


def _diffusion_task(dataset: Dataset, module: Any, generation: Diffusion) -> Task:
    shape = dataset.train.image.shape[1:]
    task = diffusion(
        module,
        image_shape=shape,
        num_classes=dataset.num_classes,
        **_options(generation),
    )
    _check_images(dataset)
    _check_output(task, shape)
    return task


def _latent_task(
    dataset: Dataset, module: Any, autoencoder: AutoencoderKL, generation: Diffusion
) -> Task:
    shape, options = dataset.train.image.shape[1:], _options(generation)
    options |= {"sampled": generation.latents == "sampled"}
    of_latents = latent_shape(autoencoder, shape)
    if isinstance(module, Prompted):
        task = latent_diffusion(
            module.text_encoder,
            module.unet,
            ids=np.array(module.ids),
            latent_shape=of_latents,
            **options,
        )
    else:
        classes = dataset.num_classes
        task = diffusion(module, image_shape=of_latents, num_classes=classes, **options)
    task = with_autoencoder(task, autoencoder, shape)
    _check_images(dataset)
    _check_output(task, of_latents)
    return task


def _options(generation: Diffusion) -> dict[str, Any]:
    """The options of a diffusion task."""
    names = ("reduction", "label_drop", "fisher_guidance", "guided_channels", "flip")
    return {"process": generation.process()} | {name: getattr(generation, name) for name in names}


def _check_statistics(task: Task, module: Any, axis_name: str | None) -> None:
    """Raises if the parts of a batch on several devices would have statistics of their own."""
    if axis_name is not None and not hasattr(module, "axis_name") and statistics_of(task):
        raise InputError(
            "parallel is 'pmap', but must be 'jit' for a model of your own with statistics of "
            "whole batches, such as BatchNorm's; leave out --parallel."
        )


def _check_images(dataset: Dataset) -> None:
    """Raises unless the images have a range that generating models can learn."""
    images = dataset.train.image
    if images.dtype == np.uint8:
        return
    low, high = images.min(), images.max()
    if not -1.0 <= low < 0.0 < high <= 1.0:
        raise InputError(
            f"the images of {dataset.name!r} are {images.dtype} from {low:g} to {high:g}, but a "
            "model that generates needs uint8, or numbers from -1 to 1; scale them, such as by "
            f"{'2 x' if 0.0 <= low <= high <= 1.0 else 'x / 127.5'} - 1."
        )


def _check_output(task: Task, shape: tuple[int, ...]) -> None:
    """Raises unless the output of the model fits its process, before anything is compiled."""
    one = jax.ShapeDtypeStruct((1,), jnp.int32)
    batch = {name: one for name in ("label", "index", "epoch")}
    batch["image"] = jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    def output(weights: Weights, batch: Batch) -> Any:
        assert task.outputs is not None
        return task.outputs(*weights, batch, jax.random.key(0), False)

    jax.eval_shape(output, _shapes(task), batch)


@functools.lru_cache
def _shapes(task: Task) -> Weights:
    return jax.eval_shape(lambda: Weights(*task.init(jax.random.key(0))))


@functools.lru_cache(maxsize=1)  # images are copied, and runs need one request at a time
def _splits(
    key: _DataKey,
    validation_fraction: float,
    validation_names: tuple[str, ...] | None,
    train_size: int | None,
    seed: int,
    request: ForgetRequest,
    earlier: tuple[ForgetRequest, ...],
) -> Splits:
    return data.split(
        _dataset(key),
        request,
        validation_fraction=validation_fraction,
        validation_names=validation_names,
        train_size=train_size,
        seed=seed,
        earlier=earlier,
    )
