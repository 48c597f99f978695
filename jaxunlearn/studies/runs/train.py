"""The stages of a study that train: pretrain, retrain and unlearn, each in a folder of its own.

    dataset + request -> split
    task -> pretrain -> weights -> method -> weights -> evaluate -> report

A stage that is done is not run again, one that was stopped goes on where it stopped, and one of
another configuration is refused. Everything that can be wrong is found out before anything is
compiled or written. `results.py` has the stage that evaluates, `runs.py` the folders.
"""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import methods, training
from jaxunlearn.data import Dataset, Examples, ForgetRequest, Splits
from jaxunlearn.data.anchors import anchors
from jaxunlearn.data.examples import to_device
from jaxunlearn.files import file_digest, fingerprint, write_record
from jaxunlearn.methods.eupmu_budget import check_budget
from jaxunlearn.methods.objectives import needs_unseen
from jaxunlearn.studies.config import Aim, Problem
from jaxunlearn.studies.console import say, show_progress
from jaxunlearn.studies.problem import (
    load_autoencoder,
    load_dataset,
    load_splits,
    load_task,
    load_text_encoder,
    load_training,
)
from jaxunlearn.studies.runs import deletions, folder
from jaxunlearn.studies.runs.cache import cached_latents, cached_prompt_states
from jaxunlearn.studies.runs.folder import RunConfig
from jaxunlearn.studies.runs.unseen import check_unseen, with_unseen
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.tasks.latent_diffusion import FIRST_STAGE, PROMPT_STATES
from jaxunlearn.tasks.trainable_subset import TrainableSubset, trainable_subset
from jaxunlearn.training import devices, hosts, programs
from jaxunlearn.training.checkpoints import Checkpointer, masks_of
from jaxunlearn.training.compilation import compilation_seconds, programs_read
from jaxunlearn.training.devices import Placement, placement_of
from jaxunlearn.training.hosts import machine
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import Arrays, InputError, Params, Task, Weights

AUTOENCODER = "autoencoder"  # where a pretraining keeps the run of its autoencoder
_RETRAIN_SEEDS, _RETRAIN_AGAIN_SEEDS = 1_000_000, 2_000_000


def pretrain(run: Path, problem: Problem, seed: int, layout: Layout = Layout()) -> Weights:
    """Trains the original model on all training data, validation data aside.

    Args:
        run: the run folder.
        problem: what is learned.
        seed: decides the validation data, the initial weights and the order of the data.
        layout: the devices it may use, and how much of a batch at once.

    Returns:
        The weights.

    Raises:
        InputError: anything wrong with the arguments, the data, or what the folder holds.
        Diverged: a loss or a weight became NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM arrived; the state was saved.
    """
    return train(run, pretraining(problem, seed), placement_of(layout))


def retrain(
    run: Path,
    pretrained: Path,
    request: ForgetRequest,
    again: bool = False,
    layout: Layout = Layout(),
) -> Weights:
    """Trains the oracle: a new model, on the retain data alone.

    Args:
        run: the run folder.
        pretrained: the run folder of the original model, or of an unlearned one, whose requests are
            left out as well; a text-to-image model keeps its autoencoder.
        request: the request that is left out.
        again: whether this is the second retrained model, whose distance to the first is the floor.
        layout: the devices, and the share of a batch that is computed at once.

    Returns:
        The weights.

    Raises:
        InputError: anything wrong with the arguments, the data, or what the folder holds.
        Diverged: a loss or a weight became NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM arrived; the state was saved.
    """
    start, earlier = deletions.read_start(pretrained)
    config = retraining(start.problem, start.seed, request, again, earlier)
    return train(run, config, placement_of(layout), pretrained)


def unlearn(
    run: Path,
    pretrained: Path,
    request: ForgetRequest,
    method: str,
    settings: dict[str, Any],
    layout: Layout = Layout(),
    aim: Aim | None = None,
) -> Weights:
    """Makes the model of a pretraining run forget, or one that has forgotten before.

    Args:
        run: the run folder.
        pretrained: the run folder of `pretrain`, or of `unlearn`: what that one forgot is in no
            data of this one, and its record of deletions goes on here.
        request: what is forgotten.
        method: the name of the method.
        settings: settings of the method that differ from its defaults.
        layout: the devices it may use, and how much of a batch at once.
        aim: which parameters may move, and what the forgotten classes turn into.

    Returns:
        The weights.

    Raises:
        InputError: anything wrong with the arguments, the data, or what the folders hold.
        Diverged: a loss or a weight became NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM arrived; the state was saved.
    """
    before, earlier = deletions.read_start(pretrained)
    start = folder.read_done(pretrained)["weights"]
    config = unlearning(before.problem, before.seed, request, method, settings, start, aim, earlier)
    return train(run, config, placement_of(layout), pretrained)


def pretraining(problem: Problem, seed: int) -> RunConfig:
    """The configuration of a pretraining run."""
    return RunConfig("pretrain", problem, seed, "retrain", problem.training_settings())


def retraining(
    problem: Problem,
    seed: int,
    request: ForgetRequest,
    again: bool = False,
    earlier: tuple[ForgetRequest, ...] = (),
) -> RunConfig:
    """The configuration of a retraining run."""
    settings = problem.training_settings()
    return RunConfig(
        "retrain", problem, seed, "retrain", settings, request, again, earlier=earlier or None
    )


def unlearning(
    problem: Problem,
    seed: int,
    request: ForgetRequest,
    method: str,
    settings: dict[str, Any],
    start: str | None = None,
    aim: Aim | None = None,
    earlier: tuple[ForgetRequest, ...] = (),
) -> RunConfig:
    """The configuration of an unlearning run; `start` is the fingerprint of its first weights."""
    chosen = methods.settings(method, settings, generates=problem.generates)
    if method == "retrain":
        raise InputError(
            "the method retrain begins with new weights, so there is nothing to unlearn; use "
            "jaxunlearn retrain, or the method finetune to go on from the original model."
        )
    return RunConfig(
        *("unlearn", problem, seed, method, chosen, request),
        start=start,
        aim=aim,
        earlier=earlier or None,
    )


def check(run: Path, config: RunConfig, placement: Placement | None = None) -> None:
    """Raises if anything is wrong with a run, before anything is compiled or written.

    Args:
        run: the run folder.
        config: configuration of the run.
        placement: devices of the run, and how they share a batch; None is one device.

    Raises:
        InputError: an unknown or unfit data set, model, request, method or setting, a batch that
            does not divide over the devices or into micro-batches, or a folder that belongs to
            something else.
    """
    placement, problem = placement or placement_of(), config.problem
    if not (problem.classifies or problem.generates or config.stage == "pretrain"):
        raise InputError(
            f"the model {problem.model!r} encodes images, and is told no classes that it could "
            "forget; choose one that classifies or generates."
        )
    first = problem.first_stage()
    if first is not None and config.stage == "pretrain":
        check(run / AUTOENCODER, pretraining(first, config.seed), placement)
    dataset = load_dataset(problem)
    load_training(problem, config.seed)
    if config.method == "ssd" and config.aim and config.aim.adapter_rank:
        raise InputError(
            "the method ssd shrinks weights, but adapters begin at zero, where nothing can shrink; "
            "leave out --adapter-rank, or choose another method."
        )
    task, _ = _subset_of(load_task(problem, placement.axis_name), config.aim)
    programs.of_method(task, config.method, config.settings, placement)
    _check_anchor(config, dataset)
    if config.method == "esd" and problem.diffusion and problem.diffusion.label_drop == 0.0:
        raise InputError(
            "the method esd compares with the prediction for no label, which the model never "
            "learned with label_drop = 0; pretrain with some labels dropped, or choose another "
            "method."
        )
    splits = _splits(config)
    if splits is not None:
        check_unseen(config.settings, splits)
    programs.arguments(config.settings, splits and splits.validation.arrays())
    folder.check(run, config, dataset, splits)


def _check_anchor(config: RunConfig, dataset: Dataset) -> None:
    """Raises if the class to turn forgotten ones into is none, a forgotten one, or not needed."""
    anchor = config.aim.anchor if config.aim else None
    if anchor is None:
        return
    if not 0 <= anchor < dataset.num_classes:
        raise InputError(
            f"anchor is {anchor}, but {dataset.name!r} has the classes 0 to "
            f"{dataset.num_classes - 1}."
        )
    if anchor in _gone(config, dataset):
        raise InputError(
            f"anchor is {anchor}, a class that is forgotten itself, by this request or an earlier "
            "one; name a class that is kept, or leave it out."
        )
    if config.settings.get("objective") != "match_anchor":
        raise InputError(
            f"anchor is {anchor}, but only the objective match_anchor turns a class into another; "
            "set objective=match_anchor, or leave it out."
        )


def _gone(config: RunConfig, dataset: Dataset) -> set[int]:
    """The classes that the request of a run forgets, and those that earlier ones did."""
    requests = (*(config.earlier or ()), *([config.request] if config.request else ()))
    return {label for each in requests if each.names_classes for label in each.labels(dataset)}


def train(
    run: Path,
    config: RunConfig,
    placement: Placement | None = None,
    pretrained: Path | None = None,
) -> Weights:
    """Runs a stage in its folder: from the start, from where it stopped, or not at all if done.

    Args:
        run: the run folder.
        config: configuration of the run.
        placement: devices of the run, and how they share a batch; None is one device.
        pretrained: the run folder of the weights that unlearning starts from; when a text-to-image
            model is retrained, it gives the autoencoder.

    Returns:
        The weights.

    Raises:
        InputError: anything that `check` refuses, or damaged weights or checkpoints.
        Diverged: a loss or a weight became NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM arrived; the state was saved.
    """
    placement = placement or placement_of()
    check(run, config, placement)
    problem, settings, splits = config.problem, config.settings, _splits(config)
    if folder.is_finished(run):
        return folder.load_weights(run, problem)
    seed, task, earlier = _own_seed(config), load_task(problem), []
    if config.stage == "unlearn":
        if pretrained is None:
            raise InputError(
                f"{run} is to unlearn, but from what? Give pretrained, the run folder of the "
                "weights to start from."
            )
        earlier = deletions.read(pretrained)
        start = folder.load_weights(pretrained, problem)
    else:
        start = Weights(*jax.jit(task.init)(jax.random.key(seed)))
    start, latents = _first_stage(run, config, start, placement, pretrained)
    forget, retain, preparation, compiling = _prepared(config, task, start, latents)
    task, part = _subset_of(load_task(problem, placement.axis_name), config.aim)
    if part is not None:
        assert pretrained is not None
        start = _moving(problem, pretrained, start, part, seed)
    _say_what_stays_whole(start.params, placement)
    with Workspace(run).locked(), show_progress(run) as on_progress, programs_read() as read:
        folder.claim(run, config, load_dataset(problem), splits)
        with _recording_divergence(run):
            outcome = training.run(
                programs.of_method(task, config.method, settings, placement),
                programs.arguments(settings, splits and splits.validation.arrays()),
                start,
                forget,
                retain,
                num_steps=settings["num_steps"],
                seed=seed,
                checkpointer=Checkpointer(run / "checkpoints", say),
                checkpoint_every=placement.checkpoint_every,
                metrics_file=run / "metrics.jsonl",
                on_progress=on_progress,
                remedy=methods.remedy(config.method),
            )
        weights = Weights(outcome.state.params, outcome.state.model_state)
        if part is not None:
            weights = Weights(*part.merge(*weights))
            weights.model_state.pop(PROMPT_STATES, None)
        result = Checkpointer(run / "weights").save(settings["num_steps"], weights, {})
        done = {
            "steps": settings["num_steps"],
            "seconds": outcome.seconds + preparation,
            "compile_seconds": outcome.compile_seconds + compiling,
            "programs_read": len(read),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights": result,
            "machine": machine(),
            "digests": {"metrics.jsonl": file_digest(run / "metrics.jsonl")},
        }
        masks = masks_of(outcome.state)
        if masks:
            done["masks"] = fingerprint(masks)
        if programs.is_guarded(settings):
            done["guard"] = methods.guard_records(outcome.state)[0]
        if config.stage == "unlearn":
            deletions.write(run, earlier, config, done["weights"])
        write_record(run / "done.json", done)
        hosts.barrier(f"{run} is done")
    return folder.load_weights(run, problem)


@contextmanager
def _recording_divergence(run: Path) -> Iterator[None]:
    """Leaves a record in the folder of a run that diverges, for whoever reads it later."""
    try:
        yield
    except training.Diverged as error:
        write_record(run / folder.DIVERGED, {"reason": str(error)})
        raise


def _subset_of(task: Task, aim: Aim | None) -> tuple[Task, TrainableSubset | None]:
    """The task on the parameters that may move, and how they are taken from the whole model."""
    if aim is None or not (aim.trainable or aim.adapter_rank):
        return task, None
    part = _subset_task(task, aim.trainable, aim.adapter_rank)
    return part.task, part


_subset_task = functools.lru_cache(trainable_subset)  # one task, and so one compiled program


def _moving(
    problem: Problem, pretrained: Path, start: Weights, part: TrainableSubset, seed: int
) -> Weights:
    """What may move of the weights; a text encoder that rests has encoded the prompts before."""
    params, model_state = part.split(*start, jax.random.key(seed))
    text = load_text_encoder(problem)
    if text is not None and "text_encoder" not in params:
        encoder, ids = text
        states = cached_prompt_states(
            pretrained / "prompt_states.npz", encoder, start.params["text_encoder"], ids
        )
        model_state = {**model_state, PROMPT_STATES: {"states": jnp.asarray(states)}}
    return Weights(params, model_state)


def _say_what_stays_whole(params: Params, placement: Placement) -> None:
    """Names the sharded parameters that cannot be split, if there are any."""
    count = placement.mesh.shape["fsdp"]
    names = devices.unsplit(params, count) if count > 1 else []
    if names:
        shown = ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
        say(
            f"{len(names)} of the parameters stay whole on each device, since no axis of theirs "
            f"divides by {count}: {shown}"
        )


def _own_seed(config: RunConfig) -> int:
    """The seed of the initial weights and the data order: retrained models have their own."""
    if config.stage != "retrain":
        return config.seed
    return config.seed + (_RETRAIN_AGAIN_SEEDS if config.again else _RETRAIN_SEEDS)


def _splits(config: RunConfig) -> Splits | None:
    if config.request is None:
        return None
    return load_splits(config.problem, config.seed, config.request, config.earlier)


def _first_stage(
    run: Path, config: RunConfig, start: Weights, placement: Placement, pretrained: Path | None
) -> tuple[Weights, Examples | None]:
    """The weights with their autoencoder, and all training data as its latents.

    The autoencoder is trained before the model itself is, on all training data, and stays as it
    is: retrained and unlearned models have that of the original one. Of a model of pixels there
    is none.
    """
    problem, first = config.problem, config.problem.first_stage()
    if first is None:
        return start, None
    place = run if config.stage == "pretrain" else pretrained
    if place is None:
        raise InputError(
            f"the model {problem.model!r} is retrained with the autoencoder of its pretraining; "
            "give the folder of that as well."
        )
    examples, stage = load_training(problem, config.seed), start.model_state[FIRST_STAGE]
    if config.stage == "pretrain":
        with Workspace(run).locked():
            folder.claim(run, config, load_dataset(problem), None)
        stage = {
            "params": train(run / AUTOENCODER, pretraining(first, config.seed), placement).params
        }
    elif config.stage == "retrain":
        stage = folder.load_weights(place, problem).model_state[FIRST_STAGE]
    autoencoder = load_autoencoder(problem)
    assert autoencoder is not None
    latents = cached_latents(
        place / AUTOENCODER / "latents.npz", autoencoder, stage["params"], examples.image
    )
    stage = {"scaling_factor": jnp.float32(1.0 / latents.std()), **stage}
    scaled = np.asarray(stage["scaling_factor"]) * latents
    start = start._replace(model_state={**start.model_state, FIRST_STAGE: stage})
    return start, Examples(scaled, examples.label, examples.index)


def _examples(config: RunConfig, latents: Examples | None) -> tuple[Arrays, Arrays]:
    """Forget and retain data on the device; in pretraining, all training data for both."""
    splits = _splits(config)
    if splits is None:
        everything = to_device(latents or load_training(config.problem, config.seed))
        return everything, everything
    forget, retain = splits.forget, splits.retain
    if latents is not None:
        forget, retain = (
            latents.take(np.isin(latents.index, part.index)) for part in (forget, retain)
        )
    return to_device(forget), to_device(retain)


def _prepared(
    config: RunConfig, task: Task, start: Weights, latents: Examples | None
) -> tuple[Arrays, Arrays, float, float]:
    """Forget and retain data as the method needs them; the seconds that took, and compilation."""
    forget, retain = _examples(config, latents)
    splits, unlearned = _splits(config), config.request if config.stage == "unlearn" else None
    check_original(task, config.method, start, retain, config.settings)
    if config.aim and config.aim.anchor is not None:
        forget["anchor"] = jnp.full_like(forget["label"], config.aim.anchor)
    elif unlearned and config.problem.generates and unlearned.names_classes:
        dataset = load_dataset(config.problem)
        others = anchors(dataset.class_names, _gone(config, dataset))
        forget["anchor"] = jnp.asarray(others)[forget["label"]]
    if splits is None or not needs_unseen(config.settings):
        return forget, retain, 0.0, 0.0
    with compilation_seconds() as compiling:
        clock = time.perf_counter()
        unseen = to_device(splits.validation)
        forget = jax.block_until_ready(with_unseen(task, start, unseen, forget))
        seconds = time.perf_counter() - clock
    return forget, retain, seconds - sum(compiling), sum(compiling)


def check_original(
    task: Task, method: str, original: Weights, retain: Arrays, *settings: dict[str, Any]
) -> None:
    """Raises if the original model breaks the budget of a method that has one.

    Args:
        task: what is unlearned.
        method: the name of the method.
        original: the original model.
        retain: all retain examples.
        *settings: all settings of the method, one dictionary for each run.

    Raises:
        BrokenBudget: it breaks the budget of a run before anything is forgotten.
    """
    if method == "eupmu_budget":
        check_budget(task, *original, retain, min(each["budget"] for each in settings))
