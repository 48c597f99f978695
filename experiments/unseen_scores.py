"""Which score of a forget example tells how sure a model would be that never saw it?

    python experiments/unseen_scores.py digits fashion12k        (resumes where it stopped)

The shadow models of `jaxunlearn ulira` know the answer: the mean logit-scaled confidence phi of the
retrained ones. Each score is computed for the forget examples of some of the original ones, and

    R2, Spearman    compare it with that mean, over forget examples
    AUC             is the attack on ideal unlearning: each forget example gets exactly the phi of
                    the validation example of its class that has the same rank, in the order of the
                    score; in its own order for "original", which is the best `track_unseen` can do

The rows "oracle" are the ceiling of all targets: the original model after it has matched the logits
of one retrained model, or the mean logits of ten,

    min mean_x |z(x) - z*(x)|^2    over the forget data and three times as many retain examples

in a fifth of the steps of retraining. Their AUC is the attack on these models. No target comes from
a retrained model that the attacker has.

Writes `experiments/results/unseen_scores.json`, `.md` and `.png`. Needs the folders of `RUNS`.
"""

import functools
import sys
from collections.abc import Callable
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm, rankdata, spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict

from jaxunlearn import methods, training
from jaxunlearn.data.batches import in_batches
from jaxunlearn.data.examples import to_device
from jaxunlearn.evaluation.features import last_features
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.evaluation.ulira import attack, logit_confidence, ulira_scores
from jaxunlearn.files import read_arrays, read_json, write_arrays, write_json, write_text
from jaxunlearn.studies.audits.shadow_models import plan_shadows
from jaxunlearn.studies.problem import load_splits, load_task, load_training
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.studies.study import load_study
from jaxunlearn.training import programs
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.types import Arrays, Batch, ModelState, Params, Task, Weights

HERE = Path(__file__).parent
RUNS = {"digits": Path("runs/digits-ulira"), "fashion12k": Path("runs/fashion12k-ulira")}
SCORED = {"digits": 8, "fashion12k": 6}  # original models, in pairs
TITLES = {"digits": "Digits, MLP", "fashion12k": "Fashion-MNIST, ResNet"}
NEIGHBOURS, CHECKPOINTS = 10, (0.2, 0.5, 0.8)
ORACLES, RETAINED, SHARE = (1, 10), 3, 0.2
ORACLE_RATES = {"digits": 0.003, "fashion12k": 0.01}
ORIGINAL = "original (track_unseen)"
SHIFTED = "original, images shifted by a pixel"
TWICE = "restarted original at twice the rate, 10%"  # its mean with the original: match_ranked
COLUMNS = ("score", "share of the steps", "R2", "Spearman", "AUC")


class Shadows:
    """The shadow models of a folder, and the data they learned."""

    def __init__(self, name: str) -> None:
        study = load_study(HERE / "configs" / f"{name}_ulira.toml")
        self.name, self.folder, self.problem, seed = name, RUNS[name], study.problem, study.seeds[0]
        record = read_json(self.folder / "config.json")
        pool = load_training(self.problem, seed)
        self.plan = plan_shadows(len(pool), record["shadows"], record["fraction"], seed)
        self.pool, self.task = to_device(pool), load_task(self.problem)
        self.unseen = to_device(load_splits(self.problem, seed, study.requests[0]).copied)
        self.size, self.count = record["group_size"], len(self.answers("retrain"))
        self.recipe = self.problem.training_settings()
        self.labels = np.asarray(self.pool["label"])

    def answers(self, name: str) -> np.ndarray:
        """The phi of all models of one name for all targets, `[K, T]`."""
        files = sorted(self.folder.glob(f"group-*/{name}.npz"))
        return np.concatenate([read_arrays(file, "confidence")["confidence"] for file in files])

    def original(self, k: int) -> Weights:
        """The weights of an original model."""
        return self._weights(k, "original")

    def retrained(self, k: int) -> Weights:
        """The weights of a retrained model."""
        return self._weights(k, "retrained")

    def _weights(self, k: int, name: str) -> Weights:
        first = k // self.size * self.size
        keys = jax.random.split(jax.random.key(0), self.size)
        shapes = Weights(*jax.eval_shape(jax.vmap(self.task.init), keys))
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(lambda leaf: leaf.update(sharding=here), shapes)
        stacked, _ = Checkpointer(self.folder / f"group-{first:03d}" / name).restore(target)
        found: Weights = jax.tree.map(itemgetter(k - first), stacked)
        return found

    def logits(self, weights: Weights, data: dict[str, jax.Array]) -> jax.Array:
        """The logits of a model for some examples, `[N, C]`."""
        return jnp.asarray(in_batches(functools.partial(_logits, self.task, weights), data))

    def data(self, positions: np.ndarray) -> dict[str, jax.Array]:
        """Some examples of the pool."""
        return {name: leaf[positions] for name, leaf in self.pool.items()}


@functools.partial(jax.jit, static_argnums=0)
def _logits(task: Task, weights: Weights, batch: Arrays) -> jax.Array:
    assert task.outputs is not None
    return task.outputs(*weights, batch, jax.random.key(0), False)[0]


@functools.cache
def matching(task: Task) -> Task:
    """The task whose losses are the squared distances of the logits from given targets."""

    def losses(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, ModelState]:
        assert task.outputs is not None
        logits, model_state = task.outputs(params, model_state, batch, key, train)
        return jnp.sum((logits - batch["target"]) ** 2, axis=1), model_state

    return task._replace(losses=losses)


class Scores:
    """Scores of the forget examples of one original model, each computed once."""

    def __init__(self, shadows: Shadows, k: int) -> None:
        self.shadows, self.k = shadows, k
        self.forget = shadows.plan.forget(slice(k, k + 1))[0]
        self.labels = shadows.labels[self.forget]

    def learned(
        self, share: float, start: Weights | None, seed: int = 0, factor: float = 1.0
    ) -> Weights:
        """Weights after a share of the steps of the pretraining, on retain data alone."""
        recipe = self.shadows.recipe
        steps, rate = max(1, round(share * recipe["num_steps"])), factor * recipe["learning_rate"]
        recipe = recipe | {"num_steps": steps, "learning_rate": rate}
        return self._run(recipe, steps, start, self.shadows.data(self.shadows.plan.retain), seed)

    def _run(
        self,
        recipe: Any,
        stop: int,
        start: Weights | None,
        data: Any,
        seed: int,
        task: Task | None = None,
    ) -> Weights:
        task, key = task or self.shadows.task, jax.random.key(1000 * self.k + seed)
        program = programs.of_method(task, "retrain", recipe)
        begin = start or Weights(*jax.jit(task.init)(key))
        numbers = programs.arguments(recipe)
        outcome = training.run(program, numbers, begin, data, data, num_steps=stop, seed=key)
        return methods.weights_of(outcome.state)

    def phi(self, weights: Weights, data: Any = None) -> np.ndarray:
        """Logit-scaled confidences in the forget examples, or in other data."""
        data = self.shadows.data(self.forget) if data is None else data
        return logit_confidence(predict_with(self.shadows.task, weights, data))

    @cached_property
    def original(self) -> Weights:
        """The weights of the original model."""
        return self.shadows.original(self.k)

    def teacher(self, share: float, count: int = 1) -> np.ndarray:
        """Models of their own that learn a while from retain data alone."""
        found = [self.phi(self.learned(share, None, 1 + i)) for i in range(count)]
        return np.mean(found, axis=0)

    def restarted(self, share: float, factor: float = 1.0) -> np.ndarray:
        """The original model, trained a while longer on retain data, from the full rate again."""
        return self.phi(self.learned(share, self.original, 11, factor))

    def oracle(self, count: int) -> np.ndarray:
        """The original model after it has matched the mean logits of some retrained models."""
        shadows, name = self.shadows, self.shadows.name
        others = [(self.k + i) % (shadows.count - SCORED[name]) for i in range(count)]
        rng = np.random.default_rng(1000 * self.k + 41)
        some = rng.choice(shadows.plan.retain, RETAINED * len(self.forget), replace=False)
        data = shadows.data(np.concatenate([self.forget, some]))
        logits = [shadows.logits(shadows.retrained(SCORED[name] + each), data) for each in others]
        data |= {"target": jnp.mean(jnp.stack(logits), axis=0)}
        steps = round(SHARE * shadows.recipe["num_steps"])
        recipe = shadows.recipe | {"num_steps": steps, "learning_rate": ORACLE_RATES[name]}
        task = matching(shadows.task)
        return self.phi(self._run(recipe, steps, self.original, data, 41, task))

    @cached_property
    def checkpoints(self) -> list[np.ndarray]:
        """The phi at earlier steps of the pretraining (of another seed, on the same data)."""
        recipe, found = self.shadows.recipe, []
        data = self.shadows.data(np.concatenate([self.shadows.plan.retain, self.forget]))
        for share in CHECKPOINTS:  # each from the beginning: a stop is no setting of the schedule
            stop = round(share * recipe["num_steps"])
            found.append(self.phi(self._run(recipe, stop, None, data, 21)))
        return found

    def holdout(self) -> np.ndarray:
        """Minus the symmetric KL to the original model after a while on validation data."""
        steps = round(0.05 * self.shadows.recipe["num_steps"])
        recipe = self.shadows.recipe | {"num_steps": steps}
        after = self._run(recipe, steps, self.original, self.shadows.unseen, 31)
        data = self.shadows.data(self.forget)
        p, q = (
            np.maximum(predict_with(self.shadows.task, weights, data).probabilities, 1e-20)
            for weights in (self.original, after)
        )
        distance: np.ndarray = ((p - q) * (np.log(p) - np.log(q))).sum(axis=1)
        return -distance

    def features(self, positions: np.ndarray) -> np.ndarray:
        """Inputs of the last layer."""
        return last_features(self.shadows.task, self.original, self.shadows.data(positions))

    def shifted(self) -> np.ndarray:
        """The mean phi over copies shifted by one pixel: no model has learned these."""
        data = self.shadows.data(self.forget)
        moves = ((1, 0), (-1, 0), (0, 1), (0, -1))
        copies = (data | {"image": jnp.roll(data["image"], move, (1, 2))} for move in moves)
        return np.mean([self.phi(self.original, copy) for copy in copies], axis=0)

    def neighbours(self) -> np.ndarray:
        """The share of the nearest retain examples with the same label, by the last features."""
        retain = self.shadows.plan.retain
        ours, theirs = self.features(self.forget), self.features(retain)
        distances = (theirs**2).sum(axis=1) - 2 * ours @ theirs.T
        nearest = np.argpartition(distances, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        return (self.shadows.labels[retain][nearest] == self.labels[:, None]).mean(axis=1)

    def left_out(self) -> np.ndarray:
        """The phi after the last layer's leave-one-out formula: z + h / (1 - h) (p - y)."""
        both = np.concatenate([self.shadows.plan.retain, self.forget])
        x, ours = self.features(both), self.features(self.forget)
        inverse = np.linalg.inv(
            x.T @ x + 1e-3 * np.trace(x.T @ x) / x.shape[1] * np.eye(x.shape[1])
        )
        h = np.einsum("nd,de,ne->n", ours, inverse, ours)
        found = predict_with(self.shadows.task, self.original, self.shadows.data(self.forget))
        z = np.log(np.maximum(found.probabilities, 1e-20))
        change = (h / (1 - h))[:, None] * (found.probabilities - np.eye(z.shape[1])[self.labels])
        p = jax.nn.softmax(jnp.asarray(z + change), axis=1)
        return logit_confidence(found._replace(probabilities=np.asarray(p, np.float64)))

    def all(self) -> dict[str, tuple[float, Callable[[], np.ndarray]]]:
        """All scores by name: the share of the pretraining's steps, and a function."""
        found: dict[str, tuple[float, Callable[[], np.ndarray]]] = {
            ORIGINAL: (0.0, lambda: self.phi(self.original)),
            "three new teachers, 5% each": (0.15, lambda: self.teacher(0.05, 3)),
            "learning events: mean of checkpoints": (
                0.0,
                lambda: np.mean(self.checkpoints, axis=0),
            ),
            SHIFTED: (0.0, self.shifted),
            "holdout retraining, 5%": (0.05, self.holdout),
            "label agreement of 10 neighbours": (0.01, self.neighbours),
            "last layer, left out": (0.01, self.left_out),
        }
        for share in (0.05, 0.1, 0.2, 0.4):
            found[f"new teacher, {share:.0%}"] = share, functools.partial(self.teacher, share)
        for share in (0.05, 0.1, 0.2):
            found[f"restarted original, {share:.0%}"] = (
                share,
                functools.partial(self.restarted, share),
            )
        found[TWICE] = 0.1, functools.partial(self.restarted, 0.1, 2.0)
        for count in ORACLES:
            found[oracle_row(count)] = SHARE, functools.partial(self.oracle, count)
        for i, share in enumerate(CHECKPOINTS):
            found[f"checkpoint at {share:.0%}"] = 0.0, lambda i=i: self.checkpoints[i]
        return found


def oracle_row(count: int) -> str:
    """The name of the row of an oracle."""
    return f"oracle: logits of {count} retrained"


def computed(shadows: Shadows, k: int) -> dict[str, np.ndarray]:
    """All scores of an original model, from their file or computed."""
    scores, path = Scores(shadows, k), shadows.folder / "scores" / f"{k:03d}.npz"
    found = read_arrays(path) if path.exists() else {}
    found["unseen"] = scores.phi(scores.original, shadows.unseen)
    for name, (_, score) in scores.all().items():
        if name not in found:
            found[name] = score()
            write_arrays(path, found)
            print(f"{shadows.folder}: model {k}, {name}", flush=True)
    for share in (0.05, 0.1, 0.2):
        both = found[ORIGINAL], found[f"restarted original, {share:.0%}"]
        found[f"mean of original and restarted, {share:.0%}"] = np.mean(both, axis=0)
    for name, other in (("shifted, 0%", SHIFTED), ("restarted at twice the rate, 10%", TWICE)):
        found[f"mean of original and {name}"] = (found[ORIGINAL] + found[other]) / 2
    return found


def normal(score: np.ndarray) -> np.ndarray:
    """The score's ranks as quantiles of a normal distribution."""
    scored: np.ndarray = norm.ppf((rankdata(score) - 0.5) / len(score))
    return scored


def ideal(
    score: np.ndarray, labels: np.ndarray, phi: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """The phi of the unseen example of the same rank in the same class."""
    found = np.empty(len(score))
    for label in np.unique(labels):
        own = labels == label
        places = (rankdata(score[own], method="ordinal") - 0.5) / own.sum()
        found[own] = np.quantile(phi[classes == label], places)
    return found


def evaluated(name: str) -> list[dict[str, Any]]:
    """A row for each score."""
    shadows = Shadows(name)
    retrained, plan = shadows.answers("retrain"), shadows.plan
    mean, count = retrained.mean(axis=0), SCORED[name]
    found = [computed(shadows, k) for k in range(count)]
    masks = plan.forgotten[:count]
    costs = {key: cost for key, (cost, _) in Scores(shadows, 0).all().items()}
    truth = [mean[mask] for mask in masks]
    oracles = [*map(oracle_row, ORACLES)]
    usual = [key for key in found[0] if key not in ("unseen", *oracles)]
    own = [normal_of(usual, each) for each in found]
    for each, x, y in zip(found, own, truth, strict=True):
        each["ridge of all (with the answers, left out)"] = cross_val_predict(
            RidgeCV(np.logspace(-2, 4, 13)), x, y, cv=5
        )
    rows = []
    for key in [*usual, *oracles, "ridge of all (with the answers, left out)"]:
        pairs = [(each[key], y) for each, y in zip(found, truth, strict=True)]
        varied = [(x, y) for x, y in pairs if np.ptp(x)]  # constant scores say nothing
        fits = [np.corrcoef(x, y)[0, 1] ** 2 for x, y in varied] or [0.0]
        orders = [spearmanr(x, y)[0] for x, y in varied] or [0.0]
        values = np.zeros((count, len(mean)))
        for row, each, mask in zip(values, found, masks, strict=True):
            labels = shadows.labels[plan.targets[mask]]
            classes = np.asarray(shadows.unseen["label"])
            given = each[key], labels, each["unseen"], classes
            row[mask] = each[key] if key in oracles else ideal(*given)
        unlearned = np.where(masks[0::2], values[0::2], values[1::2])
        scores = ulira_scores(unlearned, retrained[: count // 2], "shared")
        share = float(key[:-1].rpartition(" ")[2]) / 100 if key.startswith("mean") else None
        rows.append(
            {
                "score": key,
                "share": costs.get(key, share),
                "r2": float(np.mean(fits)),
                "spearman": float(np.mean(orders)),
                "auc": attack(scores, (), 0).auc.value,
            }
        )
    return sorted(rows, key=lambda row: row["auc"])


def normal_of(names: list[str], scores: dict[str, np.ndarray]) -> np.ndarray:
    """Normal scores of many scores side by side, `[F, S]`."""
    return np.stack([normal(scores[name]) for name in names], axis=1)


def draw(results: dict[str, Any]) -> None:
    """The AUC of every score, a panel for each problem."""
    figure, axes = plt.subplots(1, len(results), figsize=(6.4 * len(results), 6), squeeze=False)
    for axis, (name, rows) in zip(axes[0], results.items(), strict=True):
        places = np.arange(len(rows))[::-1]
        axis.barh(places, [row["auc"] - 50 for row in rows], left=50, color="tab:blue")
        axis.set_yticks(places, [row["score"] for row in rows], fontsize=8)
        axis.axvline(57, color="gray", linestyle="--", linewidth=1)
        axis.set(title=TITLES[name], xlabel="AUC of the attack on ideal unlearning (50: a coin)")
    figure.tight_layout()
    figure.savefig(HERE / "results" / "unseen_scores.png", dpi=120)


def main(names: list[str]) -> None:
    """Computes, and writes the table and the picture of all problems so far."""
    path = HERE / "results" / "unseen_scores.json"
    results = read_json(path) if path.exists() else {}
    results |= {name: evaluated(name) for name in names}
    write_json(path, results)
    text = "# Scores of forget examples and the confidence of models that never saw them\n"
    for name, rows in results.items():
        table = [
            (
                row["score"],
                "" if row["share"] is None else f"{100 * row['share']:.0f}%",
                *(f"{row[key]:.3f}" for key in ("r2", "spearman")),
                f"{row['auc']:.1f}",
            )
            for row in rows
        ]
        text += f"\n## {TITLES[name]}\n\n" + "\n".join(markdown_table(COLUMNS, table)) + "\n"
    write_text(path.with_suffix(".md"), text)
    draw(results)


if __name__ == "__main__":
    main(sys.argv[1:] or list(RUNS))
