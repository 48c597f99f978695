"""Sweeps: one method with many settings and seeds, whose runs share one program.

    setting 1 2 3 ... x seed  ->  cells  ->  many runs at once  ->  one file per cell  ->  a front

The settings are a grid, or random points, which are the same every time; more trials extend
fewer trials. A cell is one setting with one seed, and names its file. A finished cell is not run
again, a run that diverges is a finished cell without metrics, and the shards of a job array share
the cells of one folder.

The folder holds `sweep.json` (the plan), `cells/` (one JSON file each), and the report:
`report.md`, `results.json` and `front.svg`.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxunlearn import methods
from jaxunlearn.data import ForgetRequest
from jaxunlearn.files import read_json, write_record
from jaxunlearn.studies.config import Problem, check_seeds
from jaxunlearn.studies.console import say, show_progress
from jaxunlearn.studies.problem import check_classifies, load_splits, load_task
from jaxunlearn.studies.report.sweep import cell_file, cell_label, write_sweep_report
from jaxunlearn.studies.runs import evaluate
from jaxunlearn.studies.runs.folder import read_done, read_pretrained
from jaxunlearn.studies.runs.rewind import check_start
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
from jaxunlearn.studies.search.space import Space
from jaxunlearn.studies.workspace import Workspace, parse_shard
from jaxunlearn.training import Diverged, programs
from jaxunlearn.training.devices import placement_of
from jaxunlearn.training.groups import Finished, at_once, run_many
from jaxunlearn.training.hosts import machine
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import InputError

_FORMAT = 2  # format of the folder; in format 1, cells were numbered


@dataclass(frozen=True)
class Sweep:
    """The plan of a sweep.

    Attributes:
        pretrained: the run folder of the original model.
        request: the forget request.
        method: the name of the method.
        space: the values of the settings that vary.
        settings: the fixed settings that differ from their defaults.
        trials: the number of points drawn from the space; None tries the whole grid.
        seeds: the seeds of data order and random labels; the pretraining seed by default.
    """

    pretrained: Path
    request: ForgetRequest
    method: str
    space: Space
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    trials: int | None = None
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "request", self.request.resolved())
        object.__setattr__(self, "seeds", tuple(sorted(self.seeds)))
        if not self.space:
            raise InputError(
                "nothing varies, so the grid is empty; name a setting and its values, as in --vary "
                "learning_rate=0.01,0.1."
            )
        if self.method == "retrain":
            raise InputError("the method retrain has nothing to unlearn; sweep another.")
        search_space.check_space(self.method, self.space)
        for name in self.space:
            if name in self.settings:
                raise InputError(
                    f"{name} has a fixed value and values to vary; leave one of them out."
                )
        if self.trials is not None and self.trials < 1:
            raise InputError(f"trials is {self.trials}, but must be 1 or more.")
        check_seeds(self.seeds)
        methods.settings(self.method, self.settings | self.points()[0])

    def points(self) -> list[dict[str, float]]:
        """The settings to try, each once."""
        if self.trials is None:
            return search_space.grid(self.space)
        drawn = search_space.draw(self.space, self.trials)
        return list({json.dumps(point): point for point in drawn}.values())


class SweepCell(NamedTuple):
    """One run of a sweep: its file, the varied settings, and the seed."""

    path: Path
    point: dict[str, float]
    seed: int


def sweep(
    folder: Path,
    plan: Sweep,
    *,
    retrained: Path | None = None,
    group_size: int = 16,
    shard: str = "1/1",
    layout: Layout = Layout(),
) -> dict[str, Path]:
    """Runs the unfinished cells of a sweep, and writes its report.

    Args:
        folder: the folder of the sweep; the same sweep continues it.
        plan: the plan.
        retrained: the evaluated run folder of the retrained model, for distances to it.
        group_size: largest number of cells that run at once on an accelerator.
        shard: "i/n" runs the i-th of n shares of the cells.
        layout: the devices, and the share of a batch that is computed at once.

    Returns:
        The files of the report by kind: "markdown", "json" and "picture".

    Raises:
        InputError: the plan, the data or a folder is invalid; found before anything is trained or
            written.
        Diverged: some cells of this shard diverged; the others are done, and the report is written.
    """
    if group_size < 1:
        raise InputError(f"group_size is {group_size}, but must be 1 or more.")
    share = parse_shard(shard)
    original = read_pretrained(plan.pretrained)
    problem, seed = original.problem, original.seed
    settings = methods.settings(plan.method, plan.settings | plan.points()[0])
    check_classifies(problem, "sweep")
    program = programs.of_method(load_task(problem), plan.method, settings, placement_of(layout))
    splits = load_splits(problem, seed, plan.request)
    if len(splits.validation) == 0:
        raise InputError(
            f"{plan.request.name} leaves no validation data, which the front needs; pretrain with "
            f"a larger validation_fraction than {problem.validation_fraction:g}."
        )
    check_unseen(settings, splits)
    tried = [settings | point for point in plan.points()]
    for each in tried:
        check_start(plan.pretrained, original, each)
    if retrained is not None:
        evaluate.check_retrained(retrained, folder, problem, seed, splits.forget.index.tolist())
    identity = _identity(plan, problem, seed, retrained)
    workspace = Workspace(folder, "sweep", "sweep.json")
    there = workspace.read()
    if there is not None:
        workspace.check_same(methods.completed(there.get("identity", {})), identity)

    case = load_case(problem, seed, plan.request, plan.pretrained, retrained)
    check_starts(case, plan.method, *tried)
    cells = [
        SweepCell(folder / "cells" / cell_file(point, run_seed), point, run_seed)
        for point in plan.points()
        for run_seed in plan.seeds or (seed,)
    ]
    with workspace.locked(share.part):
        with workspace.in_turn("plan"):
            _describe(folder, plan, identity, case, cells)
        mine = [cell for i, cell in enumerate(cells) if share.has(i)]
        waiting = [cell for cell in mine if not cell.path.exists()]
        say(f"{len(mine)} cells, {len(mine) - len(waiting)} of them already finished")
        members = [member(case, settings | cell.point, cell.seed) for cell in waiting]
        num_steps, most = settings["num_steps"], at_once(group_size)
        with show_progress(folder / f"{len(waiting)} cells") as on_progress:
            finished = run_many(
                program, members, num_steps=num_steps, most=most, on_progress=on_progress
            )
            for cell, run in zip(waiting, finished, strict=True):
                _finish(cell, run, case, num_steps)
        with workspace.in_turn("report"):
            written = write_sweep_report(folder)
    lost = [
        cell_label(cell.path.name, cell.point)
        for cell in mine
        if "diverged" in read_json(cell.path)
    ]
    if lost:
        raise Diverged(
            f"diverged: {'; '.join(lost)}. All other cells are in the report, "
            f"{written['markdown']}."
        )
    return written


def _identity(plan: Sweep, problem: Problem, seed: int, retrained: Path | None) -> dict[str, Any]:
    """The fields that identify a sweep: all but trials and seeds, which may be added."""
    varied = {
        name: {"low": values.low, "high": values.high}
        if isinstance(values, search_space.Range)
        else sorted(set(values.values))
        for name, values in sorted(plan.space.items())
    }
    identity = {
        "format": _FORMAT,
        "problem": problem.identity(),
        "seed": seed,
        "pretrained": read_done(plan.pretrained)["weights"],
        "retrained": None if retrained is None else read_done(retrained)["weights"],
        "request": dataclasses.asdict(plan.request),
        "method": plan.method,
        "settings": methods.settings(plan.method, plan.settings),
        "varied": varied,
        "search": "grid" if plan.trials is None else "random",
    }
    return json.loads(json.dumps(identity))


def _describe(
    folder: Path, plan: Sweep, identity: dict[str, Any], case: Case, cells: list[SweepCell]
) -> None:
    """Writes `sweep.json`: the plan of this command and earlier ones, and the models."""
    before, path = blind_metrics(case, case.original), folder / "sweep.json"
    theirs = read_json(path)["cells"] if path.exists() else []
    description = {
        "identity": identity,
        "request": plan.request.name,
        "unseen_accuracy": 0.0 if plan.request.names_classes else before["validation_accuracy"],
        "original": before,
        "retrained": None if case.retrained is None else case.retrained[1],
        "counts": {name: len(examples) for name, examples in case.splits._asdict().items()},
        "cells": sorted({*theirs, *(cell.path.name for cell in cells)}),
        "machine": machine(),
    }
    write_record(path, description)


def _finish(cell: SweepCell, run: Finished, case: Case, num_steps: int) -> None:
    """Evaluates a run, and writes its file."""
    entry: dict[str, Any] = {
        "settings": cell.point,
        "seed": cell.seed,
        "seconds": run.seconds,
        "group_size": run.group_size,
    }
    if run.guard is not None:
        entry["guard"] = run.guard
    name = cell_label(cell.path.name, cell.point)
    if run.weights is None:
        entry["diverged"] = run.diverged
        say(
            f"{name}: a loss or a weight became NaN or infinite at step {run.diverged} of "
            f"{num_steps}",
            style="red",
        )
    else:
        entry["metrics"] = metrics = all_metrics(case, run.weights)
        accuracies = "  ".join(
            f"{split} {metrics[f'{split}_accuracy']:6.2f}"
            for split in ("forget", "retain", "validation")
        )
        say(f"{name}: accuracy: {accuracies} %")
    write_record(cell.path, entry)
