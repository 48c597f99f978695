"""U-LiRA for the methods of a study: shadow models in groups, the attack, and its results.

The same shadow models give three more audits: KLOM (the divergence of margins) on forget, retain
and test data; U-LiRA on the most and the least memorised tenth of the targets; and U-LiRA on
retained examples, which shows whether unlearning has left a trace in examples that stay. Each audit
takes one model of each pair after unlearning and the other after retraining: for a target as
planned, for a retain or test example at random.

    FOLDER/config.json, group-*/     the shadow models: see `shadow_folders.py`
    FOLDER/ulira.json                the results of the attack, by model
    FOLDER/ulira.md, *.png           the same as text and pictures

A stopped command, or one whose study gained a method, continues where it stopped. The attack itself
is in `evaluation/ulira.py`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxunlearn.data import ForgetRequest
from jaxunlearn.data.examples import to_device
from jaxunlearn.evaluation.audit import epsilon_lower_bound
from jaxunlearn.evaluation.klom import gaussian_klom, klom
from jaxunlearn.evaluation.memorised import memorised_ends
from jaxunlearn.evaluation.ulira import Scores, attack, needed_scores, roc_curve, ulira_scores
from jaxunlearn.files import write_record
from jaxunlearn.studies.audits import shadow_models as shadows
from jaxunlearn.studies.audits.shadow_folders import (
    KEYS,
    Answers,
    ShadowGroup,
    ShadowSetup,
    identity,
)
from jaxunlearn.studies.audits.shadow_models import Plan, plan_shadows
from jaxunlearn.studies.console import say
from jaxunlearn.studies.problem import (
    check_classifies,
    load_dataset,
    load_splits,
    load_task,
    load_training,
)
from jaxunlearn.studies.report.ulira import write_ulira_report
from jaxunlearn.studies.runs.schema import UliraRecord, check_record
from jaxunlearn.studies.runs.unseen import check_unseen
from jaxunlearn.studies.study import Study
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.training import Diverged, programs
from jaxunlearn.training.devices import placement_of
from jaxunlearn.training.hosts import machine
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import InputError

_PAIRS_FOR_OWN_VARIANCES = 32
_ROC_POINTS = 100
_FLOORS = 2  # further draws of halves of the retrained models, to show the scatter of the floor
_CONFIDENCES = {
    "targets": "confidence",
    "retain": "retain_confidence",
    "test": "test_confidence",
}
Halves = dict[str, np.ndarray]  # by part `[K, N]`: whether a model counts as unlearned
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]  # by part, both sides `[K / 2, N]`


def ulira(
    folder: Path,
    study: Study,
    *,
    num_shadows: int = 16,
    group_size: int = 16,
    false_positive_rates: Sequence[float] = (0.01, 0.001),
    epsilon: bool = False,
    layout: Layout = Layout(),
) -> dict[str, Any]:
    """Attacks every method of a study on its first random request, and writes the results.

    Args:
        folder: the folder of the shadow models and the results.
        study: the study; its first seed and its first random request are used.
        num_shadows: the number of shadow models, even.
        group_size: the number of models that are trained at once.
        false_positive_rates: the rates at which true-positive rates are reported.
        epsilon: whether to bound epsilon from below as well, by jax-privacy.
        layout: the devices, and the share of a batch that is computed at once.

    Returns:
        The content of `ulira.json`.

    Raises:
        InputError: the study has no random request, the number of shadow models is odd or too small
            for the false-positive rates, the folder holds something else, or jax-privacy is needed
            but missing.
        Diverged: shadow models of some methods diverged; all other methods are done.
    """
    request = _request(study)
    _check_aims(study, request)
    problem, seed = study.problem, study.seeds[0]
    pool, dataset = load_training(problem, seed), load_dataset(problem)
    assert request.fraction is not None
    plan = plan_shadows(len(pool), num_shadows, request.fraction, seed)
    _check_numbers(plan, group_size, false_positive_rates)
    chosen = {name: study.run_settings(request, name) for name in study.methods}
    check_classifies(problem, "ulira")
    task, splits = load_task(problem), load_splits(problem, seed, request)
    placement = placement_of(layout)
    for method, settings in (("retrain", problem.training_settings()), *chosen.values()):
        programs.of_method(task, method, settings, placement)
        programs.arguments(settings, splits.judged.arrays())
        check_unseen(settings, splits._replace(forget=pool))
    if epsilon:  # raises now if jax-privacy is missing
        epsilon_lower_bound(Scores(np.ones((1, 1)), np.zeros((1, 1))))
    setup = ShadowSetup(
        folder,
        problem,
        task,
        to_device(pool),
        to_device(splits.copied),
        to_device(splits.judged),
        {name: jnp.asarray(values) for name, values in dataset.test.arrays().items()},
        plan,
        seed,
        placement,
    )
    wanted = identity(setup, dataset.fingerprint, request.fraction, group_size)
    workspace = Workspace(folder, "set of shadow models")
    workspace.check(wanted)
    with workspace.locked():
        workspace.claim(wanted)
        found, diverged = _ask_all(setup, chosen, group_size)
        variance = "example" if num_shadows // 2 >= _PAIRS_FOR_OWN_VARIANCES else "shared"
        planned, *others = _draw_halves(plan, found, seed)
        learned, unseen = (
            shadows.sides(plan.forgotten, found["original"]["confidence"], unlearned)
            for unlearned in (True, False)
        )
        ends = memorised_ends(learned, unseen)

        def audited(name: str, pairs: Pairs) -> dict[str, Any]:
            found_by_attack = _attack(pairs["targets"], variance, false_positive_rates, epsilon)
            return found_by_attack | _audits(pairs, ends, variance) | _accuracies(plan, found[name])

        pairs = {
            name: _pairs(planned, answers, found["retrain"]) for name, answers in found.items()
        }
        floors = [_pairs(halves, found["retrain"], found["retrain"]) for halves in others]
        report = {
            "title": study.title,
            "dataset": problem.data_name,
            "model": problem.model,
            "shadows": num_shadows,
            "targets": len(plan.targets),
            "fraction": request.fraction,
            "seed": seed,
            "variance": variance,
            "machine": machine(),
            "methods": {name: {"method": m, "settings": s} for name, (m, s) in chosen.items()},
            "models": {name: audited(name, each) for name, each in pairs.items()},
            "retrained_again": [audited("retrain", each) for each in floors],
        }
        check_record(folder / "ulira.json", report, UliraRecord)
        write_record(folder / "ulira.json", report)
        write_ulira_report(folder, report, {name: each["targets"] for name, each in pairs.items()})
    if diverged:
        raise Diverged(
            f"shadow models of {', '.join(diverged)} diverged; all other methods are in the "
            "report. Lower a learning rate or a forget scale."
        )
    return report


def _request(study: Study) -> ForgetRequest:
    for request in study.requests:
        if request.fraction is not None:
            return request
    raise InputError(
        "the study has no random request, but U-LiRA draws what its shadow models forget at "
        "random; add [[requests]] with fraction = 0.1."
    )


def _check_aims(study: Study, request: ForgetRequest) -> None:
    """Raises if a run of the study has options besides the settings of its method."""
    for name in study.methods:
        if aim := study.run_aim(request, name):
            given = next(key for key, value in dataclasses.asdict(aim).items() if value)
            raise InputError(
                f"the run {name} has {given}, but shadow models are unlearned with the settings of "
                "methods alone; leave it out, or use another study file."
            )


def _check_numbers(plan: Plan, group_size: int, rates: Sequence[float]) -> None:
    count, targets = plan.forgotten.shape
    if group_size < 1:
        raise InputError(
            f"group_size is {group_size}, but must be at least 1: that many shadow models are "
            "trained at once."
        )
    for rate in rates:
        if count // 2 * targets < needed_scores(rate):
            needed = max(shadows.LEAST_SHADOWS, 2 * -(-needed_scores(rate) // targets))
            raise InputError(
                f"{count} shadow models give {count // 2 * targets} scores of retrained models, "
                f"too few for a false-positive rate of {rate:g}; use at least {needed} shadow "
                "models, or ask for higher rates (--fpr)."
            )


def _ask_all(
    setup: ShadowSetup, chosen: dict[str, tuple[str, dict[str, Any]]], group_size: int
) -> tuple[dict[str, Answers], list[str]]:
    """The answers of all shadow models, by the name of the model; and the diverged methods."""
    groups: list[dict[str, Answers]] = []
    diverged: list[str] = []
    count = len(setup.plan.forgotten)
    for first in range(0, count, group_size):
        group = ShadowGroup(setup, slice(first, min(first + group_size, count)))
        answers = {"retrain": group.retrained(), "original": group.original()}
        for name, (method, settings) in chosen.items():
            if name in diverged:
                continue
            try:
                answers[name] = group.unlearned(name, method, settings)
            except Diverged as error:
                say(str(error), style="red")
                diverged.append(name)
        groups.append(answers)
    names = [name for name in groups[0] if all(name in each for each in groups)]
    return {
        name: {key: np.concatenate([each[name][key] for each in groups]) for key in KEYS}
        for name in names
    }, diverged


def _draw_halves(plan: Plan, found: dict[str, Answers], seed: int) -> list[Halves]:
    """Which model of each pair counts as the one that unlearned, and two more draws for the floor.

    No retrained model has seen a target, so any other halves of the retrained models show chance
    alone. All models have learned the retain examples and none the test examples, so their halves
    are drawn at random.
    """
    sizes = {part: found["retrain"][_CONFIDENCES[part]].shape[1] for part in _CONFIDENCES}
    rng = np.random.default_rng(seed)

    def draw(part: str) -> np.ndarray:
        first = rng.random((len(plan.forgotten) // 2, sizes[part])) < 0.5
        return np.stack([first, ~first], axis=1).reshape(-1, sizes[part])

    first, *others = ({part: draw(part) for part in sizes} for _ in range(1 + _FLOORS))
    return [first | {"targets": plan.forgotten}, *others]


def _pairs(halves: Halves, answers: Answers, retrained: Answers) -> Pairs:
    """The confidences of the models that unlearned and of the retrained ones, on each part."""
    return {
        part: (
            shadows.sides(forgotten, answers[_CONFIDENCES[part]], unlearned=True),
            shadows.sides(forgotten, retrained[_CONFIDENCES[part]], unlearned=False),
        )
        for part, forgotten in halves.items()
    }


def _attack(
    pair: tuple[np.ndarray, np.ndarray], variance: str, rates: Sequence[float], epsilon: bool
) -> dict[str, Any]:
    """U-LiRA on all targets."""
    scores = ulira_scores(*pair, variance)
    success = attack(scores, rates)
    bound = {"epsilon_lower_bound": epsilon_lower_bound(scores)} if epsilon else {}
    return {
        "auc": success.auc._asdict(),
        "tpr": {f"{rate:g}": value._asdict() for rate, value in success.tpr.items()},
        "roc_curve": _thin_roc(scores),
    } | bound


def _audits(pairs: Pairs, ends: tuple[np.ndarray, np.ndarray], variance: str) -> dict[str, Any]:
    """U-LiRA on other examples, and the 95th percentiles of KLOM."""

    def auc(unlearned: np.ndarray, retrained: np.ndarray) -> float:
        return attack(ulira_scores(unlearned, retrained, variance), (), num_resamples=0).auc.value

    most, least = (auc(*(side[:, end] for side in pairs["targets"])) for end in ends)
    return {
        "retain_auc": auc(*pairs["retain"]),
        "memorised_auc": {"most": most, "least": least},
    } | {
        name: {part: float(np.quantile(measure(*pair), 0.95)) for part, pair in pairs.items()}
        for name, measure in (("klom", klom), ("gaussian_klom", gaussian_klom))
    }


def _accuracies(plan: Plan, answers: Answers) -> dict[str, float]:
    return {
        "forget_accuracy": 100.0 * float(answers["correct"][plan.forgotten].mean()),
        "retain_accuracy": float(answers["retain_accuracy"].mean()),
        "test_accuracy": float(answers["test_accuracy"].mean()),
    }


def _thin_roc(scores: Scores) -> dict[str, list[float]]:
    """The ROC curve in percent, at false-positive rates evenly spaced on a logarithmic axis."""
    fpr, tpr = roc_curve(scores)
    rates = np.geomspace(1.0 / scores.retrained.size, 1.0, _ROC_POINTS)
    reached = tpr[np.searchsorted(fpr, rates + 1e-12, side="right") - 1]
    return {"fpr": (100.0 * rates).tolist(), "tpr": (100.0 * reached).tolist()}
