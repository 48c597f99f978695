"""The data and the weights of a run, prepared for its method."""

import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.data import Dataset, Examples, Splits
from jaxunlearn.data.anchors import anchors
from jaxunlearn.data.examples import to_device
from jaxunlearn.methods.eupmu_budget import check_budget
from jaxunlearn.methods.objectives import needs_teachers, needs_unseen
from jaxunlearn.studies.config import Aim, Problem
from jaxunlearn.studies.problem import (
    load_dataset,
    load_shapes,
    load_splits,
    load_task,
    load_text_encoder,
    load_training,
)
from jaxunlearn.studies.runs.cache import cached_prompt_states
from jaxunlearn.studies.runs.run_config import RunConfig
from jaxunlearn.studies.runs.teachers import with_taught
from jaxunlearn.studies.runs.unseen import with_confidences, with_unseen
from jaxunlearn.tasks.latent_diffusion import PROMPT_STATES
from jaxunlearn.tasks.trainable_subset import TrainableSubset, trainable_subset
from jaxunlearn.training import programs
from jaxunlearn.training.compilation import compilation_seconds
from jaxunlearn.training.devices import Placement
from jaxunlearn.training.streaming import Columns, Stream
from jaxunlearn.types import Arrays, InputError, Task, Weights


def check_original(
    task: Task, method: str, original: Weights, retain: Arrays, *settings: dict[str, Any]
) -> None:
    """Raises if the original model breaks the budget of a method that has one."""
    if method == "eupmu_budget":
        check_budget(task, *original, retain, min(each["budget"] for each in settings))


def trainable_part(task: Task, aim: Aim | None) -> tuple[Task, TrainableSubset | None]:
    """The task on the parameters that may move, and their part in the whole model."""
    if aim is None or not (aim.trainable or aim.adapter_rank):
        return task, None
    part = _subset_task(task, aim.trainable, aim.adapter_rank)
    return part.task, part


_subset_task = functools.lru_cache(trainable_subset)  # one task, and so one compiled program


def moving_weights(
    problem: Problem, pretrained: Path, start: Weights, part: TrainableSubset, seed: int
) -> Weights:
    """The weights that may move; the prompts of a frozen text encoder are encoded once."""
    params, model_state = part.split(*start, jax.random.key(seed))
    text = load_text_encoder(problem)
    if text is not None and "text_encoder" not in params:
        encoder, ids = text
        states = cached_prompt_states(
            pretrained / "prompt_states.npz", encoder, start.params["text_encoder"], ids
        )
        model_state = {**model_state, PROMPT_STATES: {"states": jnp.asarray(states)}}
    return Weights(params, model_state)


def run_splits(config: RunConfig) -> Splits | None:
    """The splits of the request of a run; None without one."""
    if config.request is None:
        return None
    return load_splits(config.problem, config.seed, config.request, config.earlier)


Data = Arrays | Stream


def _examples(config: RunConfig, latents: Examples | None, stream: bool) -> tuple[Data, Data]:
    """Forget and retain data on the device; in pretraining, all training data for both.

    Retain data, and all data in pretraining, may be streamed; latents are in memory already.
    """
    splits, stream = run_splits(config), stream and latents is None
    if splits is None:
        learned = latents or load_training(config.problem, config.seed)
        everything = _streamed(config.problem, learned) if stream else to_device(learned)
        return everything, everything
    forget, retain = splits.forget, splits.retain
    if latents is not None:
        forget, retain = (
            latents.take(np.isin(latents.index, part.index)) for part in (forget, retain)
        )
    return to_device(forget), _streamed(config.problem, retain) if stream else to_device(retain)


def _streamed(problem: Problem, examples: Examples) -> Stream:
    """Examples of the training split as a stream."""
    train = load_dataset(problem).train
    return Stream(Columns(train.image, train.label), examples.index)


def check_streamed(
    config: RunConfig, program: programs.Program, part: TrainableSubset | None
) -> None:
    """Raises if the method of a streamed run needs all retain data before its first step."""
    splits = run_splits(config)
    if "keep_weight" in config.settings:
        raise InputError(
            "keep_weight compares all retain data with the original model, but they are streamed; "
            "hold them in memory (leave --stream out), or leave keep_weight out."
        )
    if splits is None or needs_unseen(config.settings):  # forget data get unseen examples later
        return
    key, weights = jax.random.key(0), load_shapes(config.problem)
    if part is not None:
        weights = Weights(*jax.eval_shape(part.split, *weights, key))
    forget = splits.forget.take([0]).arrays()
    shapes = {
        k: jax.ShapeDtypeStruct((len(splits.forget), *v.shape[1:]), v.dtype)
        for k, v in forget.items()
    }
    numbers = programs.arguments(config.settings, splits.judged.arrays())
    jax.eval_shape(program.init, numbers, key, *weights, shapes, {})


def prepared_data(
    config: RunConfig,
    task: Task,
    start: Weights,
    latents: Examples | None,
    placement: Placement,
) -> tuple[Data, Data, float, float]:
    """Forget and retain data as the method needs them; seconds of preparation and compilation."""
    forget, retain = _examples(config, latents, placement.stream)
    splits, unlearned = run_splits(config), config.request if config.stage == "unlearn" else None
    keeps = "keep_weight" in config.settings
    if isinstance(forget, Stream):
        return forget, retain, 0.0, 0.0
    if not isinstance(retain, Stream):
        check_original(task, config.method, start, retain, config.settings)
    choice = config.aim and config.aim.anchor
    named = choice is not None or (unlearned and unlearned.names_classes)
    if unlearned and config.problem.generates and named:
        forget["anchor"] = jnp.asarray(anchors_of(config))[forget["label"]]
    if splits is None or not (needs_unseen(config.settings) or keeps):
        return forget, retain, 0.0, 0.0
    with compilation_seconds() as compiling:
        clock = time.perf_counter()
        unseen = to_device(splits.copied)
        if needs_teachers(config.settings):
            forget = with_taught(
                load_task(config.problem, placement.axis_name),
                config.settings,
                config.problem.training_settings(),
                config.seed,
                start,
                forget,
                unseen,
                retain,
                placement,
            )
        elif needs_unseen(config.settings):
            forget = with_unseen(task, start, unseen, forget)
        if keeps and not isinstance(retain, Stream):
            retain = with_confidences(task, start, retain)
        jax.block_until_ready((forget, retain))
        seconds = time.perf_counter() - clock
    return forget, retain, seconds - sum(compiling), sum(compiling)


def anchors_of(config: RunConfig) -> np.ndarray:
    """The anchors of all classes in a run: see `jaxunlearn.data.anchors`."""
    dataset = load_dataset(config.problem)
    forgotten = forgotten_classes(config, dataset)
    choice = config.aim.anchor if config.aim else None
    learned = load_training(config.problem, config.seed) if choice == "nearest" else None
    return anchors(choice, dataset.class_names, forgotten, learned)


def forgotten_classes(config: RunConfig, dataset: Dataset) -> set[int]:
    """The classes that are forgotten by the request of a run or by earlier ones."""
    requests = (*(config.earlier or ()), *([config.request] if config.request else ()))
    return {label for each in requests if each.names_classes for label in each.labels(dataset)}
