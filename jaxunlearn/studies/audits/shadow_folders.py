"""Groups of shadow models in a folder, each trained once, with their answers in files.

    FOLDER/config.json               the record of the shadow models
    FOLDER/group-000/original/       the weights of the group's original models
    FOLDER/group-000/retrained/      the weights of its retrained models
    FOLDER/group-000/kept/STEP/      the weights of the original models after that many steps
    FOLDER/group-000/NAME.npz        the answers of the models of that name: original, retrain, or
                                     one of the study's methods

No model in the folder is trained again while its answers or its weights are there: answers of an
older version that lack some arrays are computed from the weights, and methods start from them.
`shadow_models.py` trains a group.
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

from jaxunlearn import methods
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.evaluation.ulira import logit_confidence
from jaxunlearn.files import read_arrays, write_arrays
from jaxunlearn.studies.audits import shadow_models as shadows
from jaxunlearn.studies.audits.shadow_models import Plan
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.console import say
from jaxunlearn.studies.runs.folder import needed_plugins
from jaxunlearn.studies.runs.prepare import check_original
from jaxunlearn.studies.runs.rewind import step_of
from jaxunlearn.training import Diverged
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.training.devices import Placement
from jaxunlearn.types import Arrays, InputError, Task, Weights

_ORIGINAL, _RETRAINED, _UNLEARNED = range(3)  # children of a shadow model's key
_KEPT = {"original": "original", "retrain": "retrained"}  # folders of weights
KEYS = (
    *("confidence", "correct", "retain_accuracy", "test_accuracy"),
    *("retain_confidence", "test_confidence"),
)
Answers = dict[str, np.ndarray]


class ShadowSetup(NamedTuple):
    """The setup of all groups; models learn parts of the pool, as planned.

    No model learns the validation examples: objectives that end at unseen data use those that are
    copied, guards those that judge. The seed is for the keys of the models.
    """

    folder: Path
    problem: Problem
    task: Task
    pool: Arrays
    copied: Arrays
    judged: Arrays
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
        return self._from_scratch("original", _ORIGINAL, self._learned())

    def retrained(self) -> Answers:
        """The answers of the retrained models, whose weights are kept too."""
        retain = [self.setup.plan.retain] * len(self._forget())
        return self._from_scratch("retrain", _RETRAINED, retain)

    def unlearned(self, name: str, method: str, settings: dict[str, Any]) -> Answers:
        """The answers of the original models after unlearning by a method."""
        plan, task = self.setup.plan, self.setup.task

        def train() -> list[Weights | None]:
            keys, originals = self.keys(_UNLEARNED), self._starts(settings)
            kept = jax.tree.map(lambda leaf: leaf[plan.retain], self.setup.pool)
            for original in originals:
                check_original(task, method, original, kept, settings)
            return self._run(method, settings, keys, originals, [plan.retain] * len(keys))

        return self._answers(name, {"method": method} | settings, train)

    def _from_scratch(self, name: str, child: int, retain: Sequence[np.ndarray]) -> Answers:
        """The answers of models that learn the examples at these positions, each its own."""
        settings, place = self.setup.problem.training_settings(), self._weights(name)

        def train() -> list[Weights | None]:
            if place.steps():
                return [*self._restored(place)]
            path = self.folder / f"{name}.npz"
            if path.exists():
                raise InputError(
                    f"{path} has no confidences in retain and test examples, and the weights of "
                    f"its models were not kept; delete the files {name}.npz of all groups, which "
                    "trains these models again, or name a new folder."
                )
            return self._trained(place, child, retain, settings["num_steps"])

        return self._answers(name, settings, train)

    def _trained(
        self, place: Checkpointer, child: int, retain: Sequence[np.ndarray], num_steps: int
    ) -> list[Weights | None]:
        """The weights of new models after some steps of their training, which are kept."""
        keys, settings = self.keys(child), self.setup.problem.training_settings()
        starts = (shadows.new_weights(self.setup.task, key) for key in keys)
        weights = self._run("retrain", settings, keys, starts, retain, num_steps)
        if None not in weights:
            place.save(0, jax.tree.map(lambda *x: jnp.stack(x), *weights), {})
        return weights

    def _starts(self, settings: dict[str, Any]) -> list[Weights]:
        """The weights that unlearning with these settings starts from: see `runs/rewind.py`.

        Those of an earlier step are trained again up to there.
        """
        place = self._weights("original")
        if "rewind" in settings:
            num_steps = self.setup.problem.training_settings()["num_steps"]
            step = step_of(settings["rewind"], num_steps)
            place = Checkpointer(self.folder / "kept" / str(step))
            if not place.steps():
                self._trained(place, _ORIGINAL, self._learned(), step)
        return self._restored(place)

    def _weights(self, name: str) -> Checkpointer:
        return Checkpointer(self.folder / _KEPT[name])

    def _restored(self, place: Checkpointer) -> list[Weights]:
        """The weights of all models of the group that are kept in one place."""
        keys = self.keys(_ORIGINAL)
        shapes = jax.eval_shape(lambda k: jax.vmap(self.setup.task.init)(k), keys)
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            Weights(*shapes),
        )
        stacked, _ = place.restore(target)
        return [jax.tree.map(itemgetter(i), stacked) for i in range(len(keys))]

    def _run(
        self,
        method: str,
        settings: dict[str, Any],
        keys: jax.Array,
        starts: Iterable[Weights],
        retain: Sequence[np.ndarray],
        num_steps: int | None = None,
    ) -> list[Weights | None]:
        task, pool, forget = self.setup.task, self.setup.pool, self._forget()
        return shadows.train(
            task,
            method,
            settings,
            keys,
            starts,
            pool,
            forget,
            retain,
            self.setup.copied,
            self.setup.judged,
            self.setup.placement,
            self.setup.problem.training_settings(),
            num_steps,
        )

    def _learned(self) -> list[np.ndarray]:
        """The examples that the original models learn."""
        retain = self.setup.plan.retain
        return [np.concatenate([retain, forget]) for forget in self._forget()]

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
        path = self.folder / f"{name}.npz"
        kept = read_arrays(path) if path.exists() else {}
        needed = needed_plugins(self.setup.problem, settings.get("method", "retrain"))
        recorded = json.loads(str(kept.pop("plugins", "{}")))
        for what in recorded.keys() & needed.keys():
            if recorded[what] != needed[what]:
                raise InputError(
                    f"{path} was computed with another version of the plug-in "
                    f"{recorded[what]['plugin']}, which has the {what}; restore that version, or "
                    f"delete the files {name}.npz of all groups."
                )
        if kept and _completed(json.loads(str(kept.pop("settings", "{}")))) != _completed(settings):
            raise InputError(
                f"{path} was computed with other settings than {name} has now; delete the "
                f"files {name}.npz of all groups, or name a new folder."
            )
        if kept.keys() >= {*KEYS}:
            return kept
        clock = time.perf_counter()
        answers = self._judge(name, train())
        wanted = json.dumps(settings, sort_keys=True)
        texts = {"settings": wanted} | ({"plugins": json.dumps(needed)} if needed else {})
        write_arrays(path, answers | {key: np.array(text) for key, text in texts.items()})
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
            confidence = {part: logit_confidence(x) for part, x in found.items()}
            rows.append(
                {
                    "confidence": confidence["targets"],
                    "correct": correct["targets"],
                    "retain_accuracy": 100.0 * correct["retain"].mean(),
                    "test_accuracy": 100.0 * correct["test"].mean(),
                    "retain_confidence": confidence["retain"].astype(np.float32),
                    "test_confidence": confidence["test"].astype(np.float32),
                }
            )
        return {key: np.stack([row[key] for row in rows]) for key in KEYS}


def _completed(settings: dict[str, Any]) -> dict[str, Any]:
    """The method and all its settings; files of older versions lack those that came later."""
    method = settings.get("method", "retrain")
    others = {name: value for name, value in settings.items() if name != "method"}
    return methods.completed({"method": method, "settings": others})
