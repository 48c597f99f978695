"""Weights of earlier steps of a pretraining, from which runs with the setting `rewind` start.

    RUN/kept/STEP/      the weights after STEP steps

They are written while the pretraining is at that step. A pretraining that is past it is trained
again up to there, which gives the same bits. Their cost counts as the pretraining's.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxunlearn import methods
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.console import run_label, say
from jaxunlearn.studies.runs.folder import load_weights, restored
from jaxunlearn.studies.runs.run_config import ADOPT, RunConfig
from jaxunlearn.training import Outcome
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.types import InputError, Weights


def shares(runs: Iterable[Mapping[str, Any]]) -> set[float]:
    """The shares of the pretraining's steps that runs with these settings start from."""
    return {settings["rewind"] for settings in runs if "rewind" in settings}


def step_of(share: float, num_steps: int) -> int:
    """The step whose weights are kept for a share of `num_steps` steps.

    Example:
        >>> step_of(0.8, 500)
        400
    """
    return round(share * num_steps)


def missing(run: Path, config: RunConfig, keep: Collection[float]) -> list[int]:
    """The steps among the shares `keep` whose weights a pretraining has not kept, in order.

    Raises:
        InputError: a share that is not from 0 to 1, or an adopted model.
    """
    for share in keep:
        if not 0.0 <= share <= 1.0:
            raise InputError(
                f"keep is {share:g}, but must be a share of the steps, in [0, 1]; 0.8 is usual."
            )
        if config.method == ADOPT:
            raise _not_trained(run)
    steps = {step_of(share, config.settings["num_steps"]) for share in keep}
    return sorted(step for step in steps if _kept(run, step).newest_step() is None)


def keep_steps(run: Path, steps: Iterable[int], train_to: Callable[[int, bool], Outcome]) -> None:
    """Keeps the weights of some steps of a pretraining.

    `train_to(step, again)` trains it up to a step, or if it is past that, again from the beginning.
    """
    for step in steps:
        latest = Checkpointer(run / "checkpoints").newest_step() or 0
        state = train_to(step, latest > step).state
        _kept(run, step).save(step, methods.weights_of(state), {})
        say(f"{run_label(run)}: the weights of step {step} are kept")


def check_start(run: Path, config: RunConfig, settings: Mapping[str, Any]) -> None:
    """Raises unless unlearning with these settings can start from a run.

    Raises:
        InputError: rewind is set, and the run is no pretraining or has not kept those weights.
    """
    if "rewind" not in settings:
        return
    if config.stage != "pretrain":
        raise InputError(
            f"rewind is {settings['rewind']:g}, but must be left out, since {run} is a run of "
            f"{config.stage}, not of pretrain, whose earlier steps know its forget data."
        )
    if config.method == ADOPT:
        raise _not_trained(run)
    step = step_of(settings["rewind"], config.settings["num_steps"])
    if _kept(run, step).newest_step() is None:
        raise InputError(
            f"{run} has not kept the weights of step {step}, where a run with rewind = "
            f"{settings['rewind']:g} starts; give its pretrain command again with --keep "
            f"{settings['rewind']:g}, which trains up to that step once more."
        )


def load_start(run: Path, problem: Problem, settings: Mapping[str, Any]) -> Weights:
    """The weights that unlearning with these settings starts from: the last ones, or earlier ones.

    Raises:
        InputError: the weights were not kept, or are damaged.
    """
    if "rewind" not in settings:
        return load_weights(run, problem)
    step = step_of(settings["rewind"], problem.training_settings()["num_steps"])
    return restored(_kept(run, step), problem)[0]


def _kept(run: Path, step: int) -> Checkpointer:
    return Checkpointer(run / "kept" / str(step))


def _not_trained(run: Path) -> InputError:
    return InputError(
        f"{run} is an adopted model, so no step of its training was kept; leave out rewind and "
        "keep, or pretrain a model."
    )
