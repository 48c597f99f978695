"""Teachers: models that learn a while from retain data alone, and so have seen no forget example.

They are trained as the original model was, in a share of its steps, from weights of their own. The
objective `track_ranked` reads from them which forget examples are hard to a model that never saw
them. Their training is a part of the run that needs them, and of its cost.
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
_SHARE, _COUNT = 0.1, 1


def with_ranked(
    task: Task,
    settings: dict[str, Any],
    recipe: dict[str, Any],
    seed: int | jax.Array,
    forget: Arrays,
    unseen: Arrays,
    retain: Arrays | Stream,
    placement: Placement | None = None,
) -> Arrays:
    """Forget data with partners by the mean phi of new teachers: see `objectives.with_ranked`.

    Args:
        task: the task.
        settings: settings of the run.
        recipe: settings of the training of the original model.
        seed: seed of the run, or its key.
        forget: forget examples.
        unseen: validation examples that objectives may copy.
        retain: the data of the teachers.
        placement: the devices.

    Raises:
        InputError: a class of the forget data without unseen examples, or retain data that contain
            a forget or an unseen example.
        Diverged: a teacher diverged.
    """
    for name, part in (("forget", forget), ("unseen", unseen)):
        _check_apart(name, part, retain)
    objectives.check_partners(np.asarray(forget["label"]), np.asarray(unseen["label"]))
    scores = [
        [
            np.asarray(objectives.logit(jnp.asarray(losses(task, weights, part))))
            for part in (forget, unseen)
        ]
        for weights in _trained(task, settings, recipe, seed, retain, placement)
    ]
    ours, theirs = (np.mean(each, axis=0) for each in zip(*scores, strict=True))
    return objectives.with_ranked(forget, ours, unseen, theirs)


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
    return found._replace(seconds=found.seconds * settings.get("num_teachers", _COUNT))


def _learning(settings: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings of a teacher's training."""
    steps = round(settings.get("teacher_share", _SHARE) * recipe["num_steps"])
    return recipe | {"num_steps": max(1, steps)}


def _trained(
    task: Task,
    settings: dict[str, Any],
    recipe: dict[str, Any],
    seed: int | jax.Array,
    retain: Arrays | Stream,
    placement: Placement | None,
) -> list[Weights]:
    learning = _learning(settings, recipe)
    program = programs.of_method(task, "retrain", learning, placement)
    root, found = jax.random.fold_in(run_key(seed), _TEACHERS), []
    for key in jax.random.split(root, settings.get("num_teachers", _COUNT)):
        outcome = training.run(
            program,
            programs.arguments(learning),
            Weights(*jax.jit(task.init)(key)),
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
