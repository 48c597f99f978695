"""Attacks that bring a forgotten class back to a model that generates images.

| attack | trained | on |
| --- | --- | --- |
| revival | all weights | retain data alone |
| relearning_1, _10, _100 | all weights | 1, 10 or 100 forget images |
| inversion | embeddings of classes, or hidden states of prompts | forget images |
| token_inversion | embeddings of the tokens that only forgotten prompts have | forget images |
| old_embeddings | nothing: the original model's embeddings or states are put back | |
| revival_old_embeddings | the other weights, after old_embeddings | retain data alone |
| paraphrases | nothing: the forgotten prompts are given with their words in two other orders | |

Before and after each attack the model draws images of the forgotten classes from the noise of the
evaluation, and the judge reports the share in which it sees a forgotten class. The retrained model,
which never saw the class, is the floor under the same attack.

The results of a model are kept in its folder as `revival.json`, attack by attack.

Source: revival: DiMRA (arXiv 2512.03564); inversion: `jaxunlearn.tasks.inversion`.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import methods, training
from jaxunlearn.data.examples import Examples, to_device
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.files import read_json, write_record
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.console import run_label, say
from jaxunlearn.studies.problem import (
    load_dataset,
    load_splits,
    load_task,
    load_text_encoder,
    load_training,
)
from jaxunlearn.studies.report import write_report
from jaxunlearn.studies.report.revival import draw_revival, write_revival_report
from jaxunlearn.studies.report.study import read_study
from jaxunlearn.studies.runs import deletions
from jaxunlearn.studies.runs.evaluate import check_is_original
from jaxunlearn.studies.runs.evaluate_images import Judge, check_request, load_judge, on_scale_of
from jaxunlearn.studies.runs.folder import load_weights, read_config, read_done
from jaxunlearn.studies.runs.generate import generate
from jaxunlearn.studies.runs.run_config import RunConfig
from jaxunlearn.studies.runs.schema import REVIVAL, RevivalRecord, check_record
from jaxunlearn.studies.runs.train import AUTOENCODER, encoded
from jaxunlearn.studies.study import CLASSIFIER
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.tasks.inversion import inversion, token_inversion
from jaxunlearn.tasks.latent_diffusion import FIRST_STAGE
from jaxunlearn.tasks.trainable_subset import TrainableSubset
from jaxunlearn.training import Diverged, programs
from jaxunlearn.training.devices import placement_of
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import InputError, Task, Weights

_FORMAT, _BATCH_SIZE = 1, 64
_RELEARNING = (1, 10, 100)
_FROM_ORIGINAL = ("old_embeddings", "revival_old_embeddings")
_INVERSION_RATE = 0.1  # learning rate of embeddings, in units of their root mean square


@dataclass(frozen=True)
class Attacker:
    """The settings of an attacker.

    Attributes:
        steps: number of steps of each attack.
        learning_rate: first learning rate of the attacks that train all weights, which decays along
            a cosine; None for the rate of the pretraining.

    Raises:
        InputError: no steps, or a learning rate that is not above 0.
    """

    steps: int = 100
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}, but must be 1 or more; 100 is the default.")
        if self.learning_rate is not None and not self.learning_rate > 0.0:
            raise InputError(
                f"learning_rate is {self.learning_rate}, but must be above 0; leave it out for the "
                "rate of the pretraining."
            )

    def rate(self, problem: Problem) -> float:
        """The learning rate of the attacks that train all weights."""
        found: float = self.learning_rate or problem.training_settings()["learning_rate"]
        return found

    def protocol(self, problem: Problem, judge: Judge) -> dict[str, Any]:
        """All settings that the results depend on."""
        return {
            "format": _FORMAT,
            "steps": self.steps,
            "learning_rate": self.rate(problem),
            "inversion_rate": _INVERSION_RATE,
            "batch_size": _BATCH_SIZE,
            "judge": read_done(judge.folder)["weights"],
            "judge_accuracy": judge.accuracy,
        }


class Target(NamedTuple):
    """A model under attack.

    Attributes:
        folder: the folder of its record.
        trained: the run folder of its weights.
        config: its configuration, with the request.
        original: the run folder of the original model, if it is known.
    """

    folder: Path
    trained: Path
    config: RunConfig
    original: Path | None


def revive(
    run: Path,
    classifier: Path | None,
    retrained: Path | None = None,
    original: Path | None = None,
    attacker: Attacker = Attacker(),
    layout: Layout = Layout(),
) -> dict[str, dict[str, Any]]:
    """Attacks a finished run, and the retrained and the original model beside it.

    Args:
        run: the run folder of a model that generates.
        classifier: the run folder of the classifier that judges generated images.
        retrained: the run folder of the retrained model.
        original: the run folder of the original model.
        attacker: the settings of the attacker.
        layout: the number of images that are drawn at once, `micro_batch`.

    Returns:
        The records of the models by name: "original", "retrain" and the name of the method.

    Raises:
        InputError: a folder holds no finished run of this kind and data, the model does not
            generate, nothing was forgotten, or there is no judge.
    """
    config = _attackable(run)
    if classifier is None:
        raise InputError(
            f"the images of {run} need a judge, but no classifier is given; give the folder of a "
            "classifier pretrained on the same data (--classifier)."
        )
    if config.request is None:
        raise InputError(
            f"{run} holds an original model, which has forgotten no class that an attack could "
            "bring back; attack a run of jaxunlearn unlearn, and name this one as --original."
        )
    check_request(config.request)
    targets = {}
    if original is not None:
        of_original = _attackable(original, "pretrain")
        check_is_original(original, run, config)
        names = [request.name for request in deletions.requests(config)]
        place = original / "-".join(["revival", *names])
        same = replace(of_original, request=config.request, earlier=config.earlier)
        targets["original"] = Target(place, original, same, original)
    if retrained is not None:
        of_retrained = _attackable(retrained, "retrain")
        _check_same(retrained, of_retrained, run, config)
        targets["retrain"] = Target(retrained, retrained, of_retrained, original)
    name = "retrain" if config.stage == "retrain" else config.method
    targets[name] = Target(run, run, config, original)
    judge = load_judge(classifier, config.problem)
    found = {name: attack(each, judge, attacker, layout) for name, each in targets.items()}
    draw_revival(run / "revival.png", {name: [record] for name, record in found.items()})
    return found


def revive_study(
    folder: Path, attacker: Attacker = Attacker(), layout: Layout = Layout()
) -> dict[str, Any]:
    """Attacks all finished runs of a study, and writes its reports.

    Args:
        folder: the folder of the study.
        attacker: the settings of the attacker.
        layout: the number of images that are drawn at once, `micro_batch`.

    Returns:
        The content of `revival.json` of the study: a record for each run.

    Raises:
        InputError: the folder holds no study of models that generate, or no evaluated run.
    """
    study = read_study(folder)
    targets = []
    for run in study.runs:
        pretrained = folder / f"seed-{run.seed}" / "pretrain"
        if run.name == "original":
            beside = [r for r in study.runs if (r.seed, r.request) == (run.seed, run.request)]
            others = [read_config(r.folder, "retrain", "unlearn") for r in beside if r is not run]
            if not others:
                continue
            request = others[0].request
            config = replace(_attackable(pretrained), request=request)
            targets.append((run, Target(run.folder, pretrained, config, pretrained)))
        else:
            targets.append(
                (run, Target(run.folder, run.folder, _attackable(run.folder), pretrained))
            )
    if not targets:
        raise InputError(
            f"{folder} has no evaluated runs to attack; finish it with jaxunlearn compare first."
        )
    judge = load_judge(folder / CLASSIFIER, targets[0][1].config.problem)
    with Workspace(folder, "study", "study.json").locked():
        entries = [
            {"seed": run.seed, "request": run.request, "name": run.name}
            | attack(target, judge, attacker, layout)
            for run, target in targets
        ]
        found = {"title": study.title, "runs": entries}
        write_record(folder / REVIVAL, found)
        write_revival_report(folder, found)
    write_report(folder)
    return found


def _attackable(run: Path, *stages: str) -> RunConfig:
    """The configuration of a run that generates."""
    config = read_config(run, *(stages or ("pretrain", "retrain", "unlearn")))
    if not config.problem.generates:
        raise InputError(
            f"{run} holds {config.problem.model}, which {config.problem.does}, but revive attacks "
            "models that generate; measure how fast a classifier relearns by jaxunlearn evidence."
        )
    return config


def _check_same(one: Path, theirs: RunConfig, run: Path, ours: RunConfig) -> None:
    """Raises unless two runs forget the same of the same."""
    same = [(each.problem, each.seed, each.request, each.earlier) for each in (theirs, ours)]
    if same[0] != same[1]:
        raise InputError(
            f"{one} has another problem, seed or forget request than {run}, or other earlier "
            "requests; give the model of the same ones."
        )


def attack(
    target: Target, judge: Judge, attacker: Attacker, layout: Layout = Layout()
) -> dict[str, Any]:
    """The record of all attacks on a model; attacks on record in its folder are not repeated."""
    problem, path = target.config.problem, target.folder / REVIVAL
    stamp = {
        "weights": read_done(target.trained)["weights"],
        "protocol": attacker.protocol(problem, judge),
    }
    original = read_done(target.original)["weights"] if target.original else None
    found = {**stamp, "original": original, "attacks": {}}
    if path.exists():
        kept = read_json(path)
        if {key: kept.get(key) for key in stamp} == stamp:
            found |= {key: kept[key] for key in ("before", "attacks")}
            if original is None:
                found["original"] = kept.get("original")
            elif kept.get("original", original) != original:
                for name in _FROM_ORIGINAL:
                    found["attacks"].pop(name, None)
    scene = _Scene(target, judge, attacker, placement_of(layout).micro_batch)
    with Workspace(target.folder).locked():
        for name in ["before", *scene.attacks()]:
            if name in found or name in found["attacks"]:
                continue
            if name == "before":
                found[name] = scene.judged(scene.weights, 0.0, steps=0)
            else:
                try:
                    found["attacks"][name] = scene.run(name)
                except Diverged as error:
                    raise Diverged(f"{run_label(target.folder)}, attack {name}: {error}") from error
                check_record(path, found, RevivalRecord)
                write_record(path, found)
                seen = found["attacks"][name]["seen"]
                say(f"{run_label(target.folder)}: {seen:.1f} % seen after {name}")
    return found


class _Scene:
    """A model under attack, with its data and its judge, loaded when they are first needed."""

    def __init__(self, target: Target, judge: Judge, attacker: Attacker, at_once: int) -> None:
        self.target, self.judge, self.attacker, self.at_once = target, judge, attacker, at_once
        self.problem, self.seed = target.config.problem, target.config.seed
        self.task: Task = load_task(self.problem)
        *self.earlier, self.request = deletions.requests(target.config)
        self.dataset = load_dataset(self.problem)
        self.labels = list(self.request.labels(self.dataset))

    @functools.cached_property
    def weights(self) -> Weights:
        return load_weights(self.target.trained, self.problem)

    @functools.cached_property
    def data(self) -> tuple[Examples, Examples]:
        """Forget data in random order, the same for all models of a seed; and retain data."""
        earlier = tuple(self.earlier) or None
        splits = load_splits(self.problem, self.seed, self.request, earlier)
        forget, retain = splits.forget, splits.retain
        if self.problem.first_stage() is not None:
            place = self.target.original or self.target.trained
            stage = self.weights.model_state[FIRST_STAGE]
            learned = load_training(self.problem, self.seed)
            latents, _ = encoded(place / AUTOENCODER, self.problem, stage, learned)
            forget, retain = (
                latents.take(np.isin(latents.index, part.index)) for part in (forget, retain)
            )
        return forget.take(np.random.default_rng(self.seed).permutation(len(forget))), retain

    @functools.cached_property
    def tokens(self) -> tuple[int, ...]:
        """The tokens that only forgotten prompts have; none for models without text."""
        text = load_text_encoder(self.problem)
        if text is None:
            return ()
        gone = np.zeros(len(text[1]), bool)
        gone[self.labels] = True
        return tuple(np.setdiff1d(text[1][gone], text[1][~gone]).tolist())

    def attacks(self) -> list[str]:
        """The attacks that this model allows."""
        count = int(np.isin(load_training(self.problem, self.seed).label, self.labels).sum())
        names = ["revival", *(f"relearning_{n}" for n in _RELEARNING if n <= count)]
        if self.task.conditions is not None:
            names += ["inversion"] + ["token_inversion"] * bool(self.tokens)
            names += ["paraphrases"] * (load_text_encoder(self.problem) is not None)
            if self.target.original is not None:
                names += _FROM_ORIGINAL
        return names

    def run(self, name: str) -> dict[str, Any]:
        """The result of an attack."""
        kind, _, number = name.partition("_")
        if name == "old_embeddings":
            return self.judged(self._with_old_embeddings(), 0.0, steps=0)
        if name == "paraphrases":
            names = enumerate(self.dataset.class_names)
            pairs = [paraphrases(n) if i in self.labels else (n, n) for i, n in names]
            asked = zip(*pairs, strict=True)
            both = [self.judged(self.weights, 0.0, steps=0, prompts=each) for each in asked]
            return {key: (both[0][key] + both[1][key]) / 2 for key in both[0]} | {"steps": 0}
        if kind in ("revival", "relearning"):
            forget, retain = self.data
            data = retain if kind == "revival" else forget.take(np.arange(int(number)))
            start = self._with_old_embeddings() if number == "old_embeddings" else self.weights
            rate = self.attacker.rate(self.problem)
            return self.judged(*self._trained(self.task, start, data, rate))
        part = _inverted(self.task, self.tokens if kind == "token" else None)
        start = Weights(*part.split(*self.weights, jax.random.key(0)))
        rate = _INVERSION_RATE * float(jnp.sqrt(jnp.mean(jnp.square(start.params))))
        found, seconds = self._trained(part.task, start, self.data[0], rate)
        return self.judged(Weights(*part.merge(*found)), seconds)

    def _with_old_embeddings(self) -> Weights:
        assert self.target.original is not None and self.task.conditions is not None
        old = self.task.conditions.read(*load_weights(self.target.original, self.problem))
        state = self.task.conditions.write(self.weights.model_state, old)
        return self.weights._replace(model_state=state)

    def _trained(
        self, task: Task, start: Weights, examples: Examples, rate: float
    ) -> tuple[Weights, float]:
        """The weights after the attacker's steps on these examples, and their seconds."""
        chosen = {
            "num_steps": self.attacker.steps,
            "retain_batch_size": _BATCH_SIZE,
            "forget_batch_size": 1,  # not used
            "optimizer": "clipped_adamw",
            "weight_decay": 0.0,
            "learning_rate": rate,
            "learning_rate_schedule": "cosine",
        }
        settings = methods.settings("finetune", chosen, generates=True)
        program = programs.of_method(task, "finetune", settings)
        numbers, data = programs.arguments(settings), to_device(examples)
        steps = self.attacker.steps
        outcome = training.run(program, numbers, start, data, data, num_steps=steps, seed=self.seed)
        return methods.weights_of(outcome.state), outcome.seconds

    def judged(
        self,
        weights: Weights,
        seconds: float,
        steps: int | None = None,
        prompts: tuple[str, ...] | None = None,
    ) -> dict[str, Any]:
        """The judge's view of the images of the forgotten classes, or of these prompts for them."""
        assert self.problem.diffusion is not None
        samples = self.problem.diffusion.samples
        labels = np.repeat(np.array(self.labels, np.int32), samples)
        numbers = np.tile(np.arange(samples, dtype=np.int32), len(self.labels))
        images = generate(self.problem, weights, labels, numbers, prompts, self.at_once)
        arrays = {"image": on_scale_of(self.dataset, images), "label": labels}
        found, _ = predict_with(self.judge.task, self.judge.weights, arrays)
        return {
            "seen": 100.0 * float(np.isin(found.argmax(axis=1), self.labels).mean()),
            "probability": float(found[:, self.labels].sum(axis=1).mean()),
            "steps": self.attacker.steps if steps is None else steps,
            "seconds": seconds,
        }


def paraphrases(prompt: str) -> tuple[str, str]:
    """The words of a prompt in two other orders: the words after "of" first, and all reversed.

    Example:
        >>> paraphrases("an inverted photo of a three")
        ('a three of an inverted photo', 'three a of photo inverted an')
    """
    before, of, after = prompt.partition(" of ")
    return f"{after}{of}{before}", " ".join(reversed(prompt.split()))


@functools.lru_cache
def _inverted(task: Task, tokens: tuple[int, ...] | None) -> TrainableSubset:
    """One task for all models, and so one compiled program."""
    return inversion(task) if tokens is None else token_inversion(task, tokens)
