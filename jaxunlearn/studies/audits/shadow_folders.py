"""Groups of shadow models in a folder, each trained once, with their answers in files.

    FOLDER/config.json               the record of the shadow models
    FOLDER/group-000/original/       the weights of the group's original models
    FOLDER/group-000/NAME.npz        the answers of the models of that name: original, retrain, or
                                     one of the study's methods

Nothing in the folder is computed again. `shadow_models.py` trains a group.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.evaluation.ulira import logit_confidence
from jaxunlearn.files import read_arrays, write_arrays
from jaxunlearn.studies.audits import shadow_models as shadows
from jaxunlearn.studies.audits.shadow_models import Plan
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.console import say
from jaxunlearn.studies.runs.prepare import check_original
from jaxunlearn.training import Diverged
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.training.devices import Placement
from jaxunlearn.types import Arrays, InputError, Task, Weights

_ORIGINAL, _RETRAINED, _UNLEARNED = range(3)  # children of a shadow model's key
KEYS = ("confidence", "correct", "retain_accuracy", "test_accuracy")
Answers = dict[str, np.ndarray]


class ShadowSetup(NamedTuple):
    """The setup of all groups; models learn parts of the pool, as planned.

    No model learns the unseen examples, which are for guards and objectives that end at unseen
    data. The seed is for the keys of the models.
    """

    folder: Path
    problem: Problem
    task: Task
    pool: Arrays
    unseen: Arrays
    test: Arrays
    plan: Plan
    seed: int
    placement: Placement | None = None


def identity(
    setup: ShadowSetup, fingerprint: str, fraction: float, group_size: int
) -> dict[str, Any]:
    """The record of a folder of shadow models."""
    return {
        "problem": setup.problem.identity(),
        "data": fingerprint,
        "shadows": len(setup.plan.forgotten),
        "group_size": group_size,
        "fraction": fraction,
        "seed": setup.seed,
    }


class ShadowGroup:
    """Shadow models that are trained at once; `members` are their numbers."""

    def __init__(self, setup: ShadowSetup, members: slice) -> None:
        self.setup, self.members = setup, members
        self.folder = setup.folder / f"group-{members.start:03d}"
        last = members.stop - 1
        many = f"shadow models {members.start} to {last}"
        self.label = many if last > members.start else f"shadow model {last}"

    def original(self) -> Answers:
        """The answers of the original models; their weights are kept for unlearning."""
        retain = self.setup.plan.retain

        def train() -> list[Weights | None]:
            learned = [np.concatenate([retain, forget]) for forget in self._forget()]
            weights = self._from_scratch(_ORIGINAL, learned)
            if None not in weights:
                stacked = jax.tree.map(lambda *x: jnp.stack(x), *weights)
                Checkpointer(self.folder / "original").save(0, stacked, {})
            return weights

        return self._answers("original", self.setup.problem.training_settings(), train)

    def retrained(self) -> Answers:
        """The answers of the retrained models."""
        settings = self.setup.problem.training_settings()
        retain = [self.setup.plan.retain] * len(self._forget())
        return self._answers("retrain", settings, lambda: self._from_scratch(_RETRAINED, retain))

    def unlearned(self, name: str, method: str, settings: dict[str, Any]) -> Answers:
        """The answers of the original models after unlearning by a method."""
        plan, task = self.setup.plan, self.setup.task

        def train() -> list[Weights | None]:
            keys = self.keys(_UNLEARNED)
            shapes = jax.eval_shape(lambda k: jax.vmap(task.init)(k), keys)
            here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            target = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
                Weights(*shapes),
            )
            start, _ = Checkpointer(self.folder / "original").restore(target)
            kept = jax.tree.map(lambda leaf: leaf[plan.retain], self.setup.pool)
            originals = [jax.tree.map(itemgetter(i), start) for i in range(len(keys))]
            for original in originals:
                check_original(task, method, original, kept, settings)
            return self._run(method, settings, keys, originals, [plan.retain] * len(keys))

        return self._answers(name, {"method": method} | settings, train)

    def _from_scratch(self, child: int, retain: Sequence[np.ndarray]) -> list[Weights | None]:
        keys, task = self.keys(child), self.setup.task
        settings = self.setup.problem.training_settings()
        starts = (shadows.new_weights(task, key) for key in keys)
        return self._run("retrain", settings, keys, starts, retain)

    def _run(
        self,
        method: str,
        settings: dict[str, Any],
        keys: jax.Array,
        starts: Iterable[Weights],
        retain: Sequence[np.ndarray],
    ) -> list[Weights | None]:
        task, pool, forget = self.setup.task, self.setup.pool, self._forget()
        rest = self.setup.unseen, self.setup.placement
        return shadows.train(task, method, settings, keys, starts, pool, forget, retain, *rest)

    def _forget(self) -> list[np.ndarray]:
        return list(self.setup.plan.forget(self.members))

    def keys(self, child: int) -> jax.Array:
        """One key for each model `[G]`, for the run `child`; the same in groups of any size."""
        root = jax.random.key(self.setup.seed)
        numbers = jnp.arange(self.members.start, self.members.stop)
        return jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(root, k), child))(numbers)

    def _answers(
        self, name: str, settings: dict[str, Any], train: Callable[[], list[Weights | None]]
    ) -> Answers:
        """The answers of the models of one name, from their file or by training the models."""
        path, wanted = self.folder / f"{name}.npz", json.dumps(settings, sort_keys=True)
        kept = _load(path)
        if kept is not None:
            if str(kept.pop("settings")) != wanted:
                raise InputError(
                    f"{path} was computed with other settings than {name} has now; delete the "
                    f"files {name}.npz of all groups, or name a new folder."
                )
            return kept
        clock = time.perf_counter()
        answers = self._judge(name, train())
        write_arrays(path, answers | {"settings": np.array(wanted)})
        say(f"{self.label}: {name} in {time.perf_counter() - clock:.1f} s")
        return answers

    def _judge(self, name: str, ends: list[Weights | None]) -> Answers:
        lost = [self.members.start + i for i, weights in enumerate(ends) if weights is None]
        if lost:
            raise Diverged(
                f"{name}: {len(lost)} of {self.label} have a loss or a weight that is NaN or "
                f"infinite, the first of them model {lost[0]}."
            )
        pool, plan = self.setup.pool, self.setup.plan
        parts = {
            part: {key: values[positions] for key, values in pool.items()}
            for part, positions in (("targets", plan.targets), ("retain", plan.retain))
        } | {"test": self.setup.test}
        rows = []
        for weights in ends:
            assert weights is not None
            found = {
                part: predict_with(self.setup.task, weights, arrays)
                for part, arrays in parts.items()
            }
            correct = {
                part: x.probabilities.argmax(axis=1) == x.labels for part, x in found.items()
            }
            rows.append(
                {
                    "confidence": logit_confidence(found["targets"]),
                    "correct": correct["targets"],
                    "retain_accuracy": 100.0 * correct["retain"].mean(),
                    "test_accuracy": 100.0 * correct["test"].mean(),
                }
            )
        return {key: np.stack([row[key] for row in rows]) for key in KEYS}


def _load(path: Path) -> Answers | None:
    return read_arrays(path, *KEYS, "settings") if path.exists() else None
