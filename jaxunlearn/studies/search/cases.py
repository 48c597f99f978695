"""One pretrained model and one request, in memory, for tuning and sweeps."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxunlearn import evaluation
from jaxunlearn.data import ForgetRequest, Splits
from jaxunlearn.data.examples import to_device
from jaxunlearn.evaluation import SplitPredictions
from jaxunlearn.evaluation.predictions import predict_splits, predict_with
from jaxunlearn.methods.objectives import TEACHER_SETTINGS, needs_teachers, needs_unseen
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.problem import load_splits, load_task
from jaxunlearn.studies.runs.folder import load_weights
from jaxunlearn.studies.runs.prepare import check_original
from jaxunlearn.studies.runs.results import read_results
from jaxunlearn.studies.runs.rewind import load_start
from jaxunlearn.studies.runs.teachers import with_taught
from jaxunlearn.studies.runs.unseen import has_unseen, with_confidences, with_unseen
from jaxunlearn.training import programs
from jaxunlearn.training.groups import Member
from jaxunlearn.types import Arrays, Task, Weights


class Case(NamedTuple):
    """One pretrained model and one request, with forget and retain data on the device.

    The forget data have unseen examples beside them if there are any; `ranked(seed, **settings)`
    are the forget data with partners by teachers with these settings, trained once. `start(rewind)`
    are the weights that a run starts from, None for the original model, and `kept(rewind)` the
    retain data with their confidences. The predictions and metrics of the retrained model are there
    if it was evaluated.
    """

    task: Task
    seed: int
    original: Weights
    splits: Splits
    forget: Arrays
    retain: Arrays
    retrained: tuple[SplitPredictions, dict[str, float]] | None
    ranked: Callable[..., Arrays]
    start: Callable[[float | None], Weights]
    kept: Callable[[float | None], Arrays]


def load_case(
    problem: Problem,
    seed: int,
    request: ForgetRequest,
    pretrained: Path,
    retrained: Path | None = None,
) -> Case:
    """Loads a case, with the predictions of an evaluated retrained model if there is one."""
    oracle = None
    if retrained is not None:
        metrics = read_results(retrained)["metrics"]
        oracle = SplitPredictions.load(retrained / "predictions.npz"), metrics
    splits, original = load_splits(problem, seed, request), load_weights(pretrained, problem)
    parts = (splits.forget, splits.retain, splits.copied)
    task, (forget, retain, unseen) = load_task(problem), map(to_device, parts)
    recipe = problem.training_settings()

    @functools.cache
    def start(rewind: float | None) -> Weights:
        return original if rewind is None else load_start(pretrained, problem, {"rewind": rewind})

    @functools.cache
    def ranked(seed: int, **settings: Any) -> Arrays:
        begin = start(settings.get("rewind"))
        return with_taught(task, settings, recipe, seed, begin, forget, unseen, retain)

    @functools.cache
    def kept(rewind: float | None) -> Arrays:
        return with_confidences(task, start(rewind), retain)

    brought = with_unseen(task, original, unseen, forget) if has_unseen(splits) else forget
    return Case(task, seed, original, splits, brought, retain, oracle, ranked, start, kept)


def member(case: Case, settings: dict[str, Any], seed: int | None = None) -> Member:
    """A run of a method on a case, from all its settings; by default with the pretraining seed."""
    numbers = programs.arguments(settings, case.splits.judged.arrays())
    own, rewind = case.seed if seed is None else seed, settings.get("rewind")
    start, forget = case.start(rewind), case.forget
    if needs_teachers(settings):
        names = ("objective", *TEACHER_SETTINGS, "rewind")
        forget = case.ranked(own, **{name: settings[name] for name in names if name in settings})
    elif rewind is not None and needs_unseen(settings):
        forget = with_unseen(case.task, start, to_device(case.splits.copied), forget)
    retain = case.kept(rewind) if "keep_weight" in settings else case.retain
    return Member(numbers, own, start, forget, retain)


def check_starts(case: Case, method: str, *settings: dict[str, Any]) -> None:
    """`check_original` for the weights that each run starts from."""
    rewinds = [each.get("rewind") for each in settings]
    for rewind in dict.fromkeys(rewinds):
        some = [each for each, own in zip(settings, rewinds, strict=True) if own == rewind]
        check_original(case.task, method, case.start(rewind), case.retain, *some)


def blind_metrics(case: Case, weights: Weights) -> dict[str, float]:
    """Accuracies on the data that a blind choice may see.

    These are forget and retain data, and the validation data that no objective copies.
    """
    forget, retain, *_ = case.splits
    seen = {"forget": forget, "retain": retain, "validation": case.splits.judged}
    return {
        f"{name}_accuracy": evaluation.accuracy(predict_with(case.task, weights, part.arrays()))
        for name, part in seen.items()
    }


def all_metrics(case: Case, weights: Weights) -> dict[str, float]:
    """All metrics of a model, with the distances to the retrained model if there is one."""
    predictions = predict_splits(case.task, weights, case.splits)
    return evaluation.evaluate(predictions, *(case.retrained or ()))
