"""Teachers: models trained for a while on retain data alone.

They are trained as the original model was, in a share of its steps. `match_ranked` and
`track_ranked` read from them which forget examples are hard to a model that never saw them: their
teachers start from the weights of the original model and forget a part of its forget data, so their
order is used, and not their confidence. Those of `match_teachers` start from new weights, so that
they saw neither forget nor validation data, and their confidence is used. Their training is a part
of the run that needs them, and of its cost.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import methods, training
from jaxunlearn.methods import objectives
from jaxunlearn.studies.runs.unseen import losses
from jaxunlearn.training import programs
from jaxunlearn.training.devices import Placement
from jaxunlearn.training.loop import run_key
from jaxunlearn.training.rehearsal import Rehearsal, rehearse
from jaxunlearn.training.streaming import Stream
from jaxunlearn.types import Arrays, InputError, Task, Weights

_TEACHERS = 7  # child of a run's key
_DEFAULTS = methods.defaults_of(methods.ObjectiveSettings)


def with_taught(
    task: Task,
    settings: dict[str, Any],
    recipe: dict[str, Any],
    seed: int | jax.Array,
    original: Weights,
    forget: Arrays,
    unseen: Arrays,
    retain: Arrays | Stream,
    placement: Placement | None = None,
) -> Arrays:
    """Forget data with what new teachers tell of them.

    For `match_teachers` the mean of phi under the teachers: see `objectives.with_teachers`. For the
    others partners by ranks: see `objectives.with_ranked`. An example's rank is
    `w s + (1 - w) s_0`: s the mean of phi under the teachers, s_0 phi under the original model, w
    the teacher_weight.

    Args:
        task: the task.
        settings: settings of the run.
        recipe: settings of the training of the original model.
        seed: seed of the run, or its key.
        original: weights that unlearning starts from.
        forget: forget examples.
        unseen: validation examples that objectives may copy.
        retain: the data of the teachers.
        placement: the devices.

    Raises:
        InputError: a class of the forget data has no unseen examples, or the retain data contain a
            forget or an unseen example.
        Diverged: a teacher diverged.
    """
    for name, part in (("forget", forget), ("unseen", unseen)):
        _check_apart(name, part, retain)
    labels = np.asarray(forget["label"])
    if not _are_new(settings):
        objectives.check_partners(labels, np.asarray(unseen["label"]))
    start = None if _are_new(settings) else original
    teachers = _trained(task, settings, recipe, seed, start, retain, placement)
    ours, theirs = (
        np.array([_confidences(task, weights, part) for weights in (original, *teachers)])
        for part in (forget, unseen)
    )
    if _are_new(settings):
        taught, seen = ours[1:].mean(axis=0), theirs[1:].mean(axis=0)
        return objectives.with_teachers(forget, taught, seen, theirs[0])
    weight = (_DEFAULTS | settings)["teacher_weight"]
    ranks = weight * ours[1:].mean(axis=0) + (1 - weight) * ours[0]
    return objectives.with_ranked(forget, ranks, unseen, theirs[0])


def _are_new(settings: dict[str, Any]) -> bool:
    """Whether teachers start from new weights."""
    return settings.get("objective") == "match_teachers"


def _confidences(task: Task, weights: Weights, part: Arrays) -> np.ndarray:
    """Phi of each example, `[N]`."""
    return np.asarray(objectives.logit(jnp.asarray(losses(task, weights, part))))


def rehearsed(
    task: Task,
    settings: dict[str, Any],
    recipe: dict[str, Any],
    retain: Arrays | Stream,
    placement: Placement | None = None,
) -> Rehearsal:
    """The time and the memory of the training of all teachers, from a few of its steps."""
    learning = _learning(settings, recipe)
    program = programs.of_method(task, "retrain", learning, placement)
    start = Weights(*jax.jit(task.init)(jax.random.key(0)))
    found = rehearse(
        program, programs.arguments(learning), start, retain, retain, learning["num_steps"]
    )
    return found._replace(seconds=found.seconds * (_DEFAULTS | settings)["num_teachers"])


def _learning(settings: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings of a teacher's training."""
    chosen = _DEFAULTS | settings
    factor = settings.get("teacher_rate", 1.0 if _are_new(settings) else 2.0)
    return recipe | {
        "num_steps": max(1, round(chosen["teacher_share"] * recipe["num_steps"])),
        "learning_rate": factor * recipe["learning_rate"],
    }


def _trained(
    task: Task,
    settings: dict[str, Any],
    recipe: dict[str, Any],
    seed: int | jax.Array,
    start: Weights | None,
    retain: Arrays | Stream,
    placement: Placement | None,
) -> list[Weights]:
    """New teachers, from given or from new weights."""
    learning = _learning(settings, recipe)
    program = programs.of_method(task, "retrain", learning, placement)
    root, found = jax.random.fold_in(run_key(seed), _TEACHERS), []
    for key in jax.random.split(root, (_DEFAULTS | settings)["num_teachers"]):
        outcome = training.run(
            program,
            programs.arguments(learning),
            start or Weights(*jax.jit(task.init)(key)),
            retain,
            retain,
            num_steps=learning["num_steps"],
            seed=key,
            remedy="Lower the learning rate of the training of the problem",
        )
        found.append(methods.weights_of(outcome.state))
    return found


def _check_apart(name: str, part: Arrays, retain: Arrays | Stream) -> None:
    """Raises if teachers would see examples that they must not see."""
    theirs = retain.index if isinstance(retain, Stream) else retain["index"]
    both = np.intersect1d(np.asarray(part["index"]), np.asarray(theirs))
    if len(both):
        raise InputError(
            f"the retain data contain {len(both)} of the {name} examples (first: index {both[0]}), "
            "but teachers must see none of them; take them out of the retain data."
        )
