"""Groups of shadow models in a folder: trained once, what they say kept in files.

    FOLDER/config.json               what the shadow models are of
    FOLDER/group-000/original/       weights of the group's original models
    FOLDER/group-000/NAME.npz        what the models of that name say, NAME one of original,
                                     retrain and the study's methods

What is there is not computed again. `models.py` has the program that trains a group.
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
from jaxunlearn.files import read_arrays, write_arrays, write_record
from jaxunlearn.studies.audits import shadow_models as shadows
from jaxunlearn.studies.audits.shadow_models import Plan
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.console import say
from jaxunlearn.studies.runs.prepare import check_original
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.training import Diverged
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.types import Arrays, InputError, Task, Weights

_ORIGINAL, _RETRAINED, _UNLEARNED = range(3)  # children of a shadow model's key
KEYS = ("confidence", "correct", "retain_accuracy", "test_accuracy")
Said = dict[str, np.ndarray]


class Setting(NamedTuple):
    """What all groups share.

    Attributes:
        folder: of the results.
        problem: what is learned.
        task: the task.
        pool: the examples to learn from.
        unseen: examples that no model learns, for guards and objectives that end at unseen data.
        test: the test examples.
        plan: who sees what.
        seed: of the shadow models' keys.
    """

    folder: Path
    problem: Problem
    task: Task
    pool: Arrays
    unseen: Arrays
    test: Arrays
    plan: Plan
    seed: int


def check(setting: Setting, fingerprint: str, fraction: float, group_size: int) -> dict[str, Any]:
    """Raises unless a folder is free for these shadow models, or theirs already.

    Args:
        setting: what all groups share.
        fingerprint: of the data set.
        fraction: of what a model learns, to be forgotten.
        group_size: how many models are trained at once.

    Returns:
        What the record of the folder says.

    Raises:
        InputError: the folder holds something else.
    """
    place = Workspace(setting.folder, "set of shadow models")
    wanted = {
        "problem": setting.problem.identity(),
        "data": fingerprint,
        "shadows": len(setting.plan.forgotten),
        "group_size": group_size,
        "fraction": fraction,
        "seed": setting.seed,
    }
    there = place.read()
    if there is not None:
        place.check_same(there, wanted)
    return wanted


def claim(setting: Setting, fingerprint: str, fraction: float, group_size: int) -> None:
    """Makes a folder that of these shadow models; call it when the folder is locked.

    Raises:
        InputError: it holds something else, or cannot be written.
    """
    wanted = check(setting, fingerprint, fraction, group_size)
    if not (setting.folder / "config.json").exists():
        write_record(setting.folder / "config.json", wanted)


class Group:
    """Some shadow models that are trained at once.

    Args:
        setting: what all groups share.
        members: which shadow models.
    """

    def __init__(self, setting: Setting, members: slice) -> None:
        self.setting, self.members = setting, members
        self.folder = setting.folder / f"group-{members.start:03d}"
        last = members.stop - 1
        many = f"shadow models {members.start} to {last}"
        self.label = many if last > members.start else f"shadow model {last}"

    def original(self) -> Said:
        """What the original models say; their weights are kept for unlearning."""
        retain = self.setting.plan.retain

        def train() -> list[Weights | None]:
            learned = [np.concatenate([retain, forget]) for forget in self._forget()]
            weights = self._from_scratch(_ORIGINAL, learned)
            if None not in weights:
                stacked = jax.tree.map(lambda *x: jnp.stack(x), *weights)
                Checkpointer(self.folder / "original").save(0, stacked, {})
            return weights

        return self._say("original", self.setting.problem.training_settings(), train)

    def retrained(self) -> Said:
        """What the retrained models say."""
        settings = self.setting.problem.training_settings()
        retain = [self.setting.plan.retain] * len(self._forget())
        return self._say("retrain", settings, lambda: self._from_scratch(_RETRAINED, retain))

    def unlearned(self, name: str, method: str, settings: dict[str, Any]) -> Said:
        """What the original models say after unlearning by a method."""
        plan, task = self.setting.plan, self.setting.task

        def train() -> list[Weights | None]:
            keys = self.keys(_UNLEARNED)
            shapes = jax.eval_shape(lambda k: jax.vmap(task.init)(k), keys)
            here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            target = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
                Weights(*shapes),
            )
            start, _ = Checkpointer(self.folder / "original").restore(target)
            kept = jax.tree.map(lambda leaf: leaf[plan.retain], self.setting.pool)
            originals = [jax.tree.map(itemgetter(i), start) for i in range(len(keys))]
            for original in originals:
                check_original(task, method, original, kept, settings)
            return self._run(method, settings, keys, originals, [plan.retain] * len(keys))

        return self._say(name, {"method": method} | settings, train)

    def _from_scratch(self, child: int, retain: Sequence[np.ndarray]) -> list[Weights | None]:
        keys, task = self.keys(child), self.setting.task
        settings = self.setting.problem.training_settings()
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
        task, pool, forget = self.setting.task, self.setting.pool, self._forget()
        unseen = self.setting.unseen
        return shadows.train(task, method, settings, keys, starts, pool, forget, retain, unseen)

    def _forget(self) -> list[np.ndarray]:
        return list(self.setting.plan.forget(self.members))

    def keys(self, child: int) -> jax.Array:
        """One key a model `[G]`, the same in groups of any size; `child` tells its runs apart."""
        root = jax.random.key(self.setting.seed)
        numbers = jnp.arange(self.members.start, self.members.stop)
        return jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(root, k), child))(numbers)

    def _say(
        self, name: str, settings: dict[str, Any], train: Callable[[], list[Weights | None]]
    ) -> Said:
        """What the group's models of a name say, from its file or by training them."""
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
        said = self._judge(name, train())
        write_arrays(path, said | {"settings": np.array(wanted)})
        say(f"{self.label}: {name} in {time.perf_counter() - clock:.1f} s")
        return said

    def _judge(self, name: str, ends: list[Weights | None]) -> Said:
        lost = [self.members.start + i for i, weights in enumerate(ends) if weights is None]
        if lost:
            raise Diverged(
                f"{name}: {len(lost)} of {self.label} have a loss or a weight that is NaN or "
                f"infinite, the first of them model {lost[0]}."
            )
        pool, plan = self.setting.pool, self.setting.plan
        parts = {
            part: {key: values[positions] for key, values in pool.items()}
            for part, positions in (("targets", plan.targets), ("retain", plan.retain))
        } | {"test": self.setting.test}
        rows = []
        for weights in ends:
            assert weights is not None
            says = {
                part: predict_with(self.setting.task, weights, arrays)
                for part, arrays in parts.items()
            }
            correct = {part: x.probabilities.argmax(axis=1) == x.labels for part, x in says.items()}
            rows.append(
                {
                    "confidence": logit_confidence(says["targets"]),
                    "correct": correct["targets"],
                    "retain_accuracy": 100.0 * correct["retain"].mean(),
                    "test_accuracy": 100.0 * correct["test"].mean(),
                }
            )
        return {key: np.stack([row[key] for row in rows]) for key in KEYS}


def _load(path: Path) -> Said | None:
    return read_arrays(path, *KEYS, "settings") if path.exists() else None
