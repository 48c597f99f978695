"""Teachers: models trained for a while on retain data alone.

They are trained as the original model was, for a share of its steps. The objective `track_ranked`
takes from them which forget examples are hard for a model that never saw them. Teachers that start
from the original model's weights have half forgotten the forget data, so that only the order of
their confidences is used; those that start from new weights saw neither forget nor validation data.
Their training is a part of the run that needs them, and of its cost.
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


def with_ranked(
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
    """Forget data with partners by the ranks of new teachers: see `objectives.with_ranked`.

    An example's rank is `w s + (1 - w) s_0`: s is the mean over the teachers of the normal score of
    phi within its class, s_0 the same under the original model, and w the teacher_weight.

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
    objectives.check_partners(labels, np.asarray(unseen["label"]))
    chosen = _DEFAULTS | settings
    start = original if chosen["teacher_start"] == "original" else None
    teachers = _trained(task, settings, recipe, seed, start, retain, placement)
    ours, theirs = (
        np.array([_confidences(task, weights, part) for weights in (original, *teachers)])
        for part in (forget, unseen)
    )
    before, *after = (_normal_scores(each, labels) for each in ours)
    weight, taught = chosen["teacher_weight"], np.mean(after, axis=0)
    ranks = weight * taught + (1 - weight) * before
    ranks += 1e-6 * taught  # two examples that swap places tie: teachers decide
    alike = None if start else (ours[1:].mean(axis=0), theirs[1:].mean(axis=0))
    return objectives.with_ranked(forget, ranks, unseen, theirs[0], alike)


def _confidences(task: Task, weights: Weights, part: Arrays) -> np.ndarray:
    """Phi of each example, `[N]`."""
    return np.asarray(objectives.logit(jnp.asarray(losses(task, weights, part))))


def _normal_scores(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The normal quantile of each value's place within its class.

    Example:
        >>> _normal_scores(np.array([5.0, 3.0, 9.0]), np.zeros(3)).round(2).tolist()
        [0.0, -0.97, 0.97]
    """
    found = np.empty(len(values))
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        places = (np.arange(len(own)) + 0.5) / len(own)
        found[own[np.argsort(values[own], kind="stable")]] = jax.scipy.special.ndtri(places)
    return found


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
    restarts = chosen["teacher_start"] == "original"
    factor = settings.get("teacher_rate", 2.0 if restarts else 1.0)
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
