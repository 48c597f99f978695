"""Training runs: pretrain, retrain and unlearn, each in its own folder.

    dataset + request -> split
    task -> pretrain -> weights -> method -> weights -> evaluate -> report

A finished run is not repeated, a stopped one continues where it stopped, and a folder of another
configuration is refused. Every error is found before anything is compiled or written.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import evaluation, methods, training
from jaxunlearn.data import Dataset, Examples, ForgetRequest
from jaxunlearn.files import file_digest, fingerprint, write_record
from jaxunlearn.studies.config import Aim, Problem
from jaxunlearn.studies.console import detail, run_label, say, show_progress
from jaxunlearn.studies.problem import (
    load_autoencoder,
    load_dataset,
    load_task,
    load_training,
)
from jaxunlearn.studies.runs import adopt, deletions, folder, rewind
from jaxunlearn.studies.runs.cache import cached_latents
from jaxunlearn.studies.runs.logs import check_validation, logged
from jaxunlearn.studies.runs.prepare import (
    anchors_of,
    check_streamed,
    forgotten_classes,
    moving_weights,
    prepared_data,
    run_splits,
    trainable_part,
)
from jaxunlearn.studies.runs.run_config import (
    ADOPT,
    RunConfig,
    own_seed,
    pretraining,
    retraining,
    unlearning,
)
from jaxunlearn.studies.runs.unseen import check_unseen
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.tasks.latent_diffusion import FIRST_STAGE, PROMPT_STATES
from jaxunlearn.training import devices, hosts, programs
from jaxunlearn.training.checkpoints import Checkpointer, masks_of
from jaxunlearn.training.compilation import programs_read
from jaxunlearn.training.devices import Placement, placement_of
from jaxunlearn.training.hosts import machine
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import InputError, Params, Weights

AUTOENCODER = "autoencoder"  # where a pretraining keeps the run of its autoencoder


def pretrain(
    run: Path,
    problem: Problem,
    seed: int,
    layout: Layout = Layout(),
    keep: Collection[float] = (),
) -> Weights:
    """Trains the original model on all training data, validation data aside.

    The model of a problem with a checkpoint is adopted instead.

    Args:
        run: the run folder.
        problem: the problem.
        seed: the seed of the validation data, the initial weights and the order of the data.
        layout: the devices, and the share of a batch that is computed at once.
        keep: the shares of the steps whose weights are kept, for the setting `rewind`.

    Returns:
        The weights.

    Raises:
        InputError: an argument, the data or the content of the folder is invalid.
        Diverged: a loss or a weight became NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM arrived; the state was saved.
    """
    return train_run(run, pretraining(problem, seed), placement_of(layout), keep=keep)


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
        InputError: an argument, the data or the content of the folder is invalid.
        Diverged: a loss or a weight became NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM arrived; the state was saved.
    """
    config = planned_retraining(pretrained, request, again)
    return train_run(run, config, placement_of(layout), pretrained)


def planned_retraining(pretrained: Path, request: ForgetRequest, again: bool = False) -> RunConfig:
    """The configuration of `retrain`."""
    start, earlier = deletions.read_start(pretrained)
    return retraining(start.problem, start.seed, request, again, earlier)


def unlearn(
    run: Path,
    pretrained: Path,
    request: ForgetRequest,
    method: str,
    settings: dict[str, Any],
    layout: Layout = Layout(),
    aim: Aim | None = None,
) -> Weights:
    """Unlearns a request, from the model of a pretraining run or of an earlier unlearning run.

    Args:
        run: the run folder.
        pretrained: the run folder of `pretrain`; or of `unlearn`, whose requests stay out of all
            data and whose record of deletions is continued.
        request: the request that is forgotten.
        method: the name of the method.
        settings: the settings of the method that differ from its defaults.
        layout: the devices, and the share of a batch that is computed at once.
        aim: the parameters that may change, and the class that forgotten classes turn into.

    Returns:
        The weights.

    Raises:
        InputError: an argument, the data or the content of a folder is invalid.
        Diverged: a loss or a weight became NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM arrived; the state was saved.
    """
    config = planned_unlearning(pretrained, request, method, settings, aim)
    return train_run(run, config, placement_of(layout), pretrained)


def planned_unlearning(
    pretrained: Path,
    request: ForgetRequest,
    method: str,
    settings: dict[str, Any],
    aim: Aim | None = None,
) -> RunConfig:
    """The configuration of `unlearn`."""
    before, earlier = deletions.read_start(pretrained)
    rewind.check_start(pretrained, before, settings)
    start = folder.read_done(pretrained)["weights"]
    return unlearning(before.problem, before.seed, request, method, settings, start, aim, earlier)


def check_run(run: Path, config: RunConfig, placement: Placement | None = None) -> None:
    """Validates a run and its folder before anything is compiled or written."""
    placement, problem = placement or placement_of(), config.problem
    if not (problem.classifies or problem.generates or config.stage == "pretrain"):
        raise InputError(
            f"the model {problem.model!r} encodes images and has no classes to forget; choose a "
            "model that classifies or generates."
        )
    first = problem.first_stage()
    if first is not None and config.stage == "pretrain":
        check_run(run / AUTOENCODER, pretraining(first, config.seed), placement)
    dataset = load_dataset(problem)
    load_training(problem, config.seed)
    if config.method == ADOPT:
        return adopt.check(run, config)
    if config.method == "ssd" and config.aim and config.aim.adapter_rank:
        raise InputError(
            "the method ssd shrinks weights, but adapters begin at zero and cannot shrink; "
            "leave out --adapter-rank, or choose another method."
        )
    task, part = trainable_part(load_task(problem, placement.axis_name), config.aim)
    program = programs.of_method(task, config.method, config.settings, placement)
    _check_anchor(config, dataset)
    compared = {
        "the method esd": config.method == "esd",
        "the objective esd": config.settings.get("objective") == "esd",
        "the setting anchor_guidance": "anchor_guidance" in config.settings,
    }
    what = next((what for what, given in compared.items() if given), None)
    if what and problem.diffusion and problem.diffusion.label_drop == 0.0:
        raise InputError(
            f"{what} compares with the prediction for no label, which the model never "
            "learned with label_drop = 0; pretrain with some labels dropped, or choose another "
            "method."
        )
    splits = run_splits(config)
    if splits is not None:
        check_unseen(config.settings, splits)
    if placement.stream:
        check_streamed(config, program, part)
    programs.arguments(config.settings, splits and splits.judged.arrays())
    if placement.validate_every:
        check_validation(config)
    folder.check_folder(run, config, dataset, splits)


def _check_anchor(config: RunConfig, dataset: Dataset) -> None:
    """Raises if the anchor is not a class, is forgotten itself, or is not used by the objective."""
    anchor, count = config.aim.anchor if config.aim else None, dataset.num_classes
    if anchor is None:
        return
    if isinstance(anchor, int) and not 0 <= anchor < count:
        raise InputError(
            f"anchor is {anchor}, but must be a class of {dataset.name!r}, from 0 to {count - 1}."
        )
    forgotten = forgotten_classes(config, dataset)
    if isinstance(anchor, int) or anchor.startswith("class+"):
        chosen = anchors_of(config)
        if any(chosen[label] in forgotten | {label} for label in forgotten or range(count)):
            raise InputError(
                f"anchor is {anchor}, but must be a class that no request forgets; name one that "
                "is kept, or leave it out."
            )
    if config.settings.get("objective") not in ("match_anchor", "spm"):
        raise InputError(
            f"anchor is {anchor}, but must be left out unless the objective is match_anchor or "
            "spm; set objective=match_anchor, or leave it out."
        )


def train_run(
    run: Path,
    config: RunConfig,
    placement: Placement | None = None,
    pretrained: Path | None = None,
    keep: Collection[float] = (),
) -> Weights:
    """Trains a run from the start or from its newest checkpoint, unless it is done.

    `pretrained` is the run folder of the weights that unlearning starts from, and of the
    autoencoder of a retrained text-to-image model; a pretraining keeps the weights at the shares
    `keep` of its steps. Everything is checked first by `check_run`.
    """
    placement = placement or placement_of()
    check_run(run, config, placement)
    problem, settings, splits = config.problem, config.settings, run_splits(config)
    finished, missing = folder.is_finished(run), rewind.missing(run, config, keep)
    if finished and not missing:
        return folder.load_weights(run, problem)
    if config.method == ADOPT:
        return adopt.adopt_run(run, config)
    seed, task, earlier = own_seed(config), load_task(problem), []
    if config.stage == "unlearn":
        if pretrained is None:
            raise InputError(
                f"unlearning in {run} has no weights to start from; give pretrained, the run "
                "folder of the weights."
            )
        earlier = deletions.read(pretrained)
        start = rewind.load_start(pretrained, problem, settings)
    else:
        start = Weights(*jax.jit(task.init)(jax.random.key(seed)))
    start, latents = _first_stage(run, config, start, placement, pretrained)
    held_out = splits.judged if splits and programs.is_guarded(settings) else None
    if held_out is not None and latents is not None:
        assert pretrained is not None
        place, stage = pretrained / AUTOENCODER, start.model_state[FIRST_STAGE]
        held_out, _ = encoded(place, problem, stage, held_out, "validation-")
    forget, retain, preparation, compiling = prepared_data(config, task, start, latents, placement)
    task, part = trainable_part(load_task(problem, placement.axis_name), config.aim)
    if part is not None:
        assert pretrained is not None
        start = moving_weights(problem, pretrained, start, part, seed)
    _report_replicated(start.params, placement)
    detail(
        f"{run_label(run)}: {config.method} {json.dumps(settings)}, on {placement.mesh.size} of "
        f"{machine()['devices']} devices ({machine()['device']})"
    )
    with Workspace(run).locked(), show_progress(run) as on_progress, programs_read() as read:
        folder.claim_folder(run, config, load_dataset(problem), splits)
        adopt.inherit(pretrained, run)
        with (
            _recording_the_end(run),
            logged(run, config, placement) as (log, validate),
        ):

            def train_to(step: int, again: bool = False) -> training.Outcome:
                return training.run(
                    programs.of_method(task, config.method, settings, placement),
                    programs.arguments(settings, None if held_out is None else held_out.arrays()),
                    start,
                    forget,
                    retain,
                    num_steps=step,
                    seed=seed,
                    checkpointer=None if again else Checkpointer(run / "checkpoints", say),
                    checkpoint_every=placement.checkpoint_every,
                    metrics_file=None if again else run / "metrics.jsonl",
                    on_progress=on_progress,
                    remedy=methods.remedy(config.method),
                    log=None if again else log,
                    validate=None if again else validate,
                    validate_every=placement.validate_every,
                )

            rewind.keep_steps(run, missing, train_to)
            if finished:
                return folder.load_weights(run, problem)
            outcome = train_to(settings["num_steps"])
        weights = methods.weights_of(outcome.state)
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
            assert pretrained is not None
            before = folder.load_weights(pretrained, problem)
            done["weights_moved"] = evaluation.weights_moved(before.params, weights.params)
            deletions.write(run, earlier, config, done["weights"])
        write_record(run / "done.json", done)
        hosts.barrier(f"{run} is done")
    return folder.load_weights(run, problem)


@contextmanager
def _recording_the_end(run: Path) -> Iterator[None]:
    """Leaves a record in the folder of a run that diverges, or that an unforeseen error ends."""
    try:
        yield
    except training.Diverged as error:
        write_record(run / folder.DIVERGED, {"reason": str(error)})
        raise
    except (InputError, training.Interrupted):
        raise
    except Exception as error:
        folder.note_failure(run, error)
        raise
    (run / folder.FAILED).unlink(missing_ok=True)


def _report_replicated(params: Params, placement: Placement) -> None:
    """Prints the parameters that cannot be sharded, if there are any."""
    count = placement.mesh.shape["fsdp"]
    names = devices.unsplit(params, count) if count > 1 else []
    if names:
        shown = ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
        say(
            f"{len(names)} parameters are replicated on all devices, since none of their axes is "
            f"divisible by {count}: {shown}"
        )


def encoded(
    folder: Path, problem: Problem, stage: dict[str, Any], examples: Examples, split: str = ""
) -> tuple[Examples, dict[str, Any]]:
    """Examples as latents, as their task takes them; the autoencoder with the scale of latents.

    The inverse of their standard deviation becomes the scale, if it is not known yet. The names of
    the cached files begin with the split, which is empty for training data.
    """
    autoencoder, generation = load_autoencoder(problem), problem.diffusion
    assert autoencoder is not None and generation is not None
    sampled, images = generation.latents == "sampled", examples.image
    shown = {"": images} | ({"-mirrored": images[:, :, ::-1]} if generation.flip else {})
    kind = f"{split}latents{'-sampled' * sampled}"
    parts = [
        cached_latents(
            *(folder / f"{kind}{name}.npz", autoencoder, stage["params"], some),
            deviations=sampled,
        )
        for name, some in shown.items()
    ]
    if "scaling_factor" not in stage:
        deviation = parts[0].std()
        if sampled:
            mean, spread = np.split(parts[0], 2, axis=-1)
            deviation = np.sqrt(mean.var() + np.square(spread).mean())
        stage = {"scaling_factor": jnp.float32(1.0 / deviation), **stage}
    scaled = np.asarray(stage["scaling_factor"]) * np.concatenate(parts, axis=-1)
    return Examples(scaled, examples.label, examples.index), stage


def _first_stage(
    run: Path, config: RunConfig, start: Weights, placement: Placement, pretrained: Path | None
) -> tuple[Weights, Examples | None]:
    """The weights with their autoencoder, and all training data as its latents.

    The autoencoder is trained first, on all training data, and stays as it is: retrained and
    unlearned models share the original model's. Models of pixels have none.
    """
    problem, first = config.problem, config.problem.first_stage()
    if first is None:
        return start, None
    place = run if config.stage == "pretrain" else pretrained
    assert place is not None
    examples, stage = load_training(problem, config.seed), start.model_state[FIRST_STAGE]
    if config.stage == "pretrain":
        with Workspace(run).locked():
            folder.claim_folder(run, config, load_dataset(problem), None)
        stage = {
            "params": train_run(
                run / AUTOENCODER, pretraining(first, config.seed), placement
            ).params
        }
    elif config.stage == "retrain":
        stage = folder.load_weights(place, problem).model_state[FIRST_STAGE]
    latents, stage = encoded(place / AUTOENCODER, problem, stage, examples)
    return start._replace(model_state={**start.model_state, FIRST_STAGE: stage}), latents
