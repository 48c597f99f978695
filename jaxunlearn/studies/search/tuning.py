"""The blind tuner: it chooses settings without looking at the retrained model or the test set.

For every request and method the same number of random settings is tried, on the same pretrained
models. The target of a setting is its distance from conditions that hold whatever was forgotten:
retain and validation accuracy stay, and the forget data look like data that was never seen,

    target = |RA - RA0| + |VA - VA0| + |FA - U|,   U = VA0, or 0 where whole classes are forgotten,

in percentage points, averaged over the seeds, where 0 marks the original model. VA is measured on
the validation data that no objective copies. A run that diverges or breaks its budget counts as
300, the largest target.

With `oracle = true` retrained models are made as well, only to measure the price of blindness: the
regret is the five-part gap of the setting chosen blind, minus the smallest gap among the same
trials. A run that diverges counts as a gap of 100.

The folder holds `tuning.json` (all trials, best first), `tuned.toml` (the chosen settings, as
overrides for a study), and the pretrained and retrained models. Finished trials are not run again.
On accelerators 16 trials run at once, as one program; on CPUs they take turns.
"""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn import methods, training
from jaxunlearn.data import ForgetRequest
from jaxunlearn.files import write_record, write_text
from jaxunlearn.methods.eupmu_budget import BrokenBudget
from jaxunlearn.studies.config import Problem, check_seeds
from jaxunlearn.studies.console import say, show_progress
from jaxunlearn.studies.fields import from_dict
from jaxunlearn.studies.plans import read_plan
from jaxunlearn.studies.problem import check_classifies, load_splits, load_task
from jaxunlearn.studies.report.tuning import FILE, chosen_toml, read_tuning, without_choice
from jaxunlearn.studies.runs import rewind, run_config, train
from jaxunlearn.studies.runs.evaluate import evaluate_classifier
from jaxunlearn.studies.runs.results import Subject, read_cost
from jaxunlearn.studies.runs.unseen import check_unseen
from jaxunlearn.studies.search import space as search_space
from jaxunlearn.studies.search.cases import (
    Case,
    all_metrics,
    blind_metrics,
    check_starts,
    load_case,
    member,
)
from jaxunlearn.studies.study import check_requests, check_runs
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.training import programs
from jaxunlearn.training.devices import Placement, placement_of
from jaxunlearn.training.groups import at_once, run_many
from jaxunlearn.training.hosts import machine
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import InputError, Weights

_WORST_TARGET, _WORST_GAP = 300.0, 100.0


@dataclass(frozen=True)
class Search:
    """A plan of what to tune.

    Attributes:
        problem: the data and the model.
        requests: forget requests, each for every method.
        seeds: pretraining seeds, which should not be seeds of the study that the settings are for.
        trials: number of settings tried for each request and method.
        search: settings by the name of a run: a value, or a range [low, high] to draw from. The run
            uses the method of that name, or the one named by its entry `method`.
        overrides: entries by the name of a request, then of a run, in place of entries in `search`.
        oracle: whether to retrain models, to measure the price of blindness.
    """

    problem: Problem
    requests: tuple[ForgetRequest, ...]
    seeds: tuple[int, ...]
    trials: int
    search: dict[str, dict[str, Any]]
    overrides: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    oracle: bool = False

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InputError(f"trials is {self.trials}, but must be 1 or more.")
        for name in ("requests", "seeds", "search"):
            if not getattr(self, name):
                raise InputError(f"the search has no {name}, but needs at least one.")
        check_seeds(self.seeds)
        names = check_requests(self.requests)
        check_runs(self.search)
        for request, runs in self.overrides.items():
            for what, name, known in (
                ("request", request, names),
                *(("run", run, list(self.search)) for run in runs),
            ):
                if name not in known:
                    raise InputError(
                        f"overrides name the {what} {name!r}, but the search has "
                        f"{', '.join(known)}; in TOML a name with a dot must be quoted."
                    )
        for each in self.requests:
            for name in self.search:
                self.proposals(each, name)

    def entries(self, request: ForgetRequest, name: str) -> dict[str, Any]:
        """The entries of a run."""
        return self.search[name] | self.overrides.get(request.name, {}).get(name, {})

    def proposals(self, request: ForgetRequest, name: str) -> tuple[str, list[dict[str, Any]]]:
        """The method of a run, and the settings to try: the same ones every time.

        More trials extend fewer trials. Without ranges there is a single trial.
        """
        entries = self.entries(request, name)
        method = entries.pop("method", name)
        fixed, ranges = search_space.from_lists(entries)
        if not isinstance(method, str):
            raise InputError(f"the method of run {name} is {method!r}, but must be a name.")
        if method == "retrain":
            raise InputError("the method retrain has nothing to unlearn; search for others.")
        search_space.check_space(method, ranges)
        methods.settings(method, fixed)
        drawn = search_space.draw(ranges, self.trials) if ranges else [{}]
        return method, [fixed | point for point in drawn]


def load_search(path: Path) -> Search:
    """Reads a search from a TOML file."""
    return from_dict(Search, read_plan(path), "the search")


def blind_target(after: dict[str, float], before: dict[str, float], unseen: float) -> float:
    """The distance of a model from conditions that hold for any model that forgot.

    `|RA - RA0| + |VA - VA0| + |FA - U|`, from 0 to 300 percentage points.

    Example:
        >>> before = {"retain_accuracy": 100.0, "validation_accuracy": 90.0}
        >>> after = {"retain_accuracy": 99.0, "validation_accuracy": 88.0, "forget_accuracy": 94.0}
        >>> blind_target(after, before, unseen=90.0)
        7.0
    """
    kept = sum(abs(after[key] - before[key]) for key in ("retain_accuracy", "validation_accuracy"))
    return kept + abs(after["forget_accuracy"] - unseen)


def tune(folder: Path, search: Search, layout: Layout = Layout()) -> dict[str, Any]:
    """Runs a search, or the rest of it, and returns the content of `tuning.json`.

    Raises Diverged if an original or a retrained model diverged, or the best trial of a run; in the
    last case all other runs are finished, and their settings are chosen.
    """
    _open(folder, search)
    placement = placement_of(layout)
    _check(folder, search, placement)
    with _workspace(folder).locked():
        return _tune(folder, search, placement)


def _tune(folder: Path, search: Search, placement: Placement) -> dict[str, Any]:
    record = _open(folder, search)
    write_record(folder / FILE, record)
    keep = rewind.shares(
        settings
        for request in search.requests
        for name in search.search
        for settings in search.proposals(request, name)[1]
    )
    for seed in search.seeds:
        config = run_config.pretraining(search.problem, seed)
        train.train_run(_pretrained(folder, seed), config, placement, keep=keep)
    for request in search.requests:
        cases = [
            load_case(
                search.problem,
                seed,
                request,
                _pretrained(folder, seed),
                _oracle(folder, search, seed, request, placement),
            )
            for seed in search.seeds
        ]
        before = [blind_metrics(case, case.original) for case in cases]
        for name in search.search:
            _tune_one(folder, search, request, name, cases, before, record, placement)
    write_text(folder / "tuned.toml", chosen_toml(record))
    lost = without_choice(record)
    if lost:
        raise training.Diverged(
            f"the best trial of {', '.join(lost)} diverged or broke its budget. The settings of "
            "all other runs are chosen; lower the range of a learning rate or of a forget scale, "
            "or raise the range of a budget."
        )
    return record


def _workspace(folder: Path) -> Workspace:
    return Workspace(folder, "search", FILE)


def _pretrained(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed}" / "pretrain"


def _retrained(folder: Path, seed: int, request: ForgetRequest) -> Path:
    return folder / f"seed-{seed}" / request.name / "retrain"


def _open(folder: Path, search: Search) -> dict[str, Any]:
    """The record of this search in the folder; raises if the folder belongs to anything else."""
    protocol = {"seeds": sorted(search.seeds), "problem": search.problem.identity()}
    workspace = _workspace(folder)
    if workspace.is_claimed():
        record = read_tuning(folder)
        theirs = record["protocol"]
        workspace.check_same({key: theirs.get(key) for key in protocol}, protocol)
        if theirs["trials"] > search.trials:
            workspace.check_same({"trials": theirs["trials"]}, {"trials": search.trials})
        for request in search.requests:
            for name in search.search:
                drawn = {_key(proposal) for proposal in search.proposals(request, name)[1]}
                if _known(record, search, request, name).keys() - drawn:
                    raise InputError(
                        f"{folder / FILE} has trials of {request.name} {name} that this search "
                        "does not draw, so another version wrote it or it was altered; name a new "
                        "folder."
                    )
    else:
        record = {"machine": machine(), "found": {}}
    return record | {"protocol": protocol | {"trials": search.trials, "oracle": search.oracle}}


def _check(folder: Path, search: Search, placement: Placement) -> None:
    """Validates every run before anything is compiled or written."""
    check_classifies(search.problem, "tune")
    task = load_task(search.problem)
    chosen: dict[ForgetRequest, list[dict[str, Any]]] = {each: [] for each in search.requests}
    for request in search.requests:
        for name in search.search:
            method, proposals = search.proposals(request, name)
            settings = methods.settings(method, proposals[0])
            programs.of_method(task, method, settings, placement)
            chosen[request].append(settings)
    for seed in search.seeds:
        pretraining = run_config.pretraining(search.problem, seed)
        train.check_run(_pretrained(folder, seed), pretraining, placement)
        for request in search.requests:
            splits = load_splits(search.problem, seed, request)
            if len(splits.validation) == 0:
                raise InputError(
                    f"{request.name} leaves no validation data, which blind tuning needs; raise "
                    f"validation_fraction, which is {search.problem.validation_fraction:g}."
                )
            for settings in chosen[request]:
                check_unseen(settings, splits)
            if search.oracle:
                retraining = run_config.retraining(search.problem, seed, request)
                train.check_run(_retrained(folder, seed, request), retraining, placement)


def _oracle(
    folder: Path, search: Search, seed: int, request: ForgetRequest, placement: Placement
) -> Path | None:
    """The folder of the retrained model, made if the search asks for it."""
    if not search.oracle:
        return None
    run = _retrained(folder, seed, request)
    config = run_config.retraining(search.problem, seed, request)
    weights = train.train_run(run, config, placement, _pretrained(folder, seed))
    if not (run / "results.json").exists():
        cost = read_cost(run)
        evaluate_classifier(Subject(run, weights, search.problem, seed, request, "retrain", cost))
    return run


def _tune_one(
    folder: Path,
    search: Search,
    request: ForgetRequest,
    name: str,
    cases: list[Case],
    before: list[dict[str, float]],
    record: dict[str, Any],
    placement: Placement,
) -> None:
    """Runs the trials of one run that are not on record yet."""
    method, proposals = search.proposals(request, name)
    entries, trials = search.entries(request, name), _known(record, search, request, name)
    runs = record["found"].setdefault(request.name, {})

    wanted = {"target", *(["five_part_gap"] if search.oracle else [])}
    left = [
        (number, proposal)
        for number, proposal in enumerate(proposals, start=1)
        if not wanted <= trials.get(_key(proposal), {}).keys()
    ]
    size = at_once()
    for first in range(0, len(left), size):
        some, clock = left[first : first + size], time.perf_counter()
        label = folder / request.name / name / f"trial {some[0][0]} of {len(proposals)}"
        settings = [proposal for _, proposal in some]
        tried = _try(label, method, settings, request, cases, before, placement)
        seconds = (time.perf_counter() - clock) / len(some)
        for (number, proposal), trial in zip(some, tried, strict=True):
            trials[_key(proposal)] = trial
            runs[name] = {"ranges": entries, "trials": sorted(trials.values(), key=_target)}
            write_record(folder / FILE, record)
            say(
                f"{request.name:12}  {name:16} trial {number:3} of {len(proposals)}"
                f"{seconds:8.1f} s  target {_target(trial):7.2f}  "
                f"best {_target(runs[name]['trials'][0]):7.2f}"
            )


def _known(
    record: dict[str, Any], search: Search, request: ForgetRequest, name: str
) -> dict[str, dict[str, Any]]:
    """The trials of a run on record, by their settings; trials of other ranges do not count."""
    found = record["found"].get(request.name, {}).get(name, {})
    trials = found["trials"] if found.get("ranges") == search.entries(request, name) else []
    return {_key(trial["settings"]): trial for trial in trials}


def _key(settings: dict[str, Any]) -> str:
    """A key that is equal for equal settings, in any order."""
    return json.dumps(settings, sort_keys=True)


def _target(trial: dict[str, Any]) -> float:
    return trial["target"]


def _try(
    label: Path,
    method: str,
    proposals: list[dict[str, Any]],
    request: ForgetRequest,
    cases: list[Case],
    before: list[dict[str, float]],
    placement: Placement,
) -> list[dict[str, Any]]:
    """The trials of some settings: means over all pretrained models."""
    chosen = [methods.settings(method, proposal) for proposal in proposals]
    rows: list[list[dict[str, float]]] = [[] for _ in proposals]
    for case, original in zip(cases, before, strict=True):
        for row, end in zip(rows, _ends(label, method, chosen, case, placement), strict=True):
            row.append(_row(end, request, case, original))
    return [_mean(row) | {"settings": each} for row, each in zip(rows, proposals, strict=True)]


def _ends(
    label: Path, method: str, chosen: list[dict[str, Any]], case: Case, placement: Placement
) -> Iterator[Weights | None]:
    """The weights that each setting leads to; None if it diverges or breaks its budget."""
    program, sound = programs.of_method(case.task, method, chosen[0], placement), []
    for settings in chosen:
        with suppress(BrokenBudget):
            check_starts(case, method, settings)
            sound.append(settings)
    members, num_steps = [member(case, each) for each in sound], chosen[0]["num_steps"]
    with show_progress(label) as on_progress:
        finished = run_many(
            program, members, num_steps=num_steps, most=at_once(), on_progress=on_progress
        )
        for settings in chosen:
            yield next(finished).weights if settings in sound else None


def _row(
    weights: Weights | None, request: ForgetRequest, case: Case, original: dict[str, float]
) -> dict[str, float]:
    """The target and the accuracies of one trial on one model."""
    if weights is None:
        gap = {} if case.retrained is None else {"five_part_gap": _WORST_GAP}
        return {"target": _WORST_TARGET, "diverged": 1.0} | gap
    seen = (blind_metrics if case.retrained is None else all_metrics)(case, weights)
    unseen = 0.0 if request.names_classes else original["validation_accuracy"]
    row = {key: seen[key] for key in (*original, "five_part_gap") if key in seen}
    return {"target": blind_target(seen, original, unseen), **row}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means over the models that have a figure, and the number of diverged runs."""
    keys = dict.fromkeys(key for row in rows for key in row)
    means = {key: float(np.mean([row[key] for row in rows if key in row])) for key in keys}
    if "diverged" in means:
        means["diverged"] = sum("diverged" in row for row in rows)
    return means
