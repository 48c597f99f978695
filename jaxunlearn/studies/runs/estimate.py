"""The time and the memory of a run before it begins, from a few steps that leave no trace."""

from dataclasses import replace
from pathlib import Path

import jax

from jaxunlearn.methods.eupmu_budget import BrokenBudget
from jaxunlearn.methods.objectives import needs_teachers
from jaxunlearn.studies.problem import load_task
from jaxunlearn.studies.runs import folder
from jaxunlearn.studies.runs.prepare import prepared_data, run_splits, trainable_part
from jaxunlearn.studies.runs.run_config import RunConfig
from jaxunlearn.studies.runs.teachers import rehearsed
from jaxunlearn.training import programs
from jaxunlearn.training.devices import Placement
from jaxunlearn.training.rehearsal import Rehearsal, rehearse
from jaxunlearn.types import Weights


def estimate(
    config: RunConfig, placement: Placement, pretrained: Path | None = None
) -> Rehearsal | None:
    """The time and the memory of the training of a run that `check_run` accepts.

    It starts from the original model in `pretrained` if that is finished, else from new weights.
    None for an adopted model, which is not trained, for models with an autoencoder, and for a
    budget that the weights break.
    """
    problem, settings = config.problem, config.settings
    if problem.first_stage() is not None or config.method == "adopt":
        return None
    task, splits = load_task(problem, placement.axis_name), run_splits(config)
    if config.stage == "unlearn" and pretrained is not None and folder.is_finished(pretrained):
        start = folder.load_weights(pretrained, problem)
    else:
        start = Weights(*jax.jit(load_task(problem).init)(jax.random.key(0)))
    quick = config
    if needs_teachers(settings):  # a teacher of one step here, and a rehearsal of all its steps
        one_step = 1 / problem.training_settings()["num_steps"]
        quick = replace(config, settings=settings | {"teacher_share": one_step, "num_teachers": 1})
    try:
        forget, retain, seconds, compiling = prepared_data(
            quick, load_task(problem), start, None, placement
        )
    except BrokenBudget:
        return None
    task, part = trainable_part(task, config.aim)
    if part is not None:
        start = Weights(*part.split(*start, jax.random.key(0)))
    found = rehearse(
        programs.of_method(task, config.method, settings, placement),
        programs.arguments(settings, splits and splits.judged.arrays()),
        start,
        forget,
        retain,
        settings["num_steps"],
    )
    if needs_teachers(settings):
        recipe = problem.training_settings()
        taught = rehearsed(
            load_task(problem, placement.axis_name), settings, recipe, retain, placement
        )
        seconds, compiling = seconds + taught.seconds, compiling + taught.compile_seconds
    return Rehearsal(found.seconds + seconds, found.compile_seconds + compiling, found.memory)
