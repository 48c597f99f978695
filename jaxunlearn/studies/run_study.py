"""A whole study: every method, request and seed, each against its own retrained model.

Finished runs are not repeated: a stopped study continues where it stopped, and a study that gains a
method or a seed computes only new runs. A run that diverges stops only the runs that need it.

The shards of a job array share the methods of one folder. The first shard that needs a common model
trains it, while the others wait.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from jaxunlearn.data import ForgetRequest
from jaxunlearn.evaluation import custom
from jaxunlearn.evaluation.features import Features, of_inception
from jaxunlearn.files import read_json, read_record
from jaxunlearn.methods.eupmu_budget import BrokenBudget
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.console import run_label, say
from jaxunlearn.studies.report import write_report
from jaxunlearn.studies.runs import evaluate_images, rewind, run_config, train
from jaxunlearn.studies.runs.evaluate import evaluate_classifier
from jaxunlearn.studies.runs.folder import is_finished, load_weights, note_failure, read_done
from jaxunlearn.studies.runs.results import Subject, read_cost
from jaxunlearn.studies.runs.run_config import RunConfig
from jaxunlearn.studies.study import CLASSIFIER, Study
from jaxunlearn.studies.workspace import Shard, Workspace, parse_shard
from jaxunlearn.training import Diverged
from jaxunlearn.training.devices import Placement, placement_of
from jaxunlearn.training.hosts import machine
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import InputError

Evaluate = Callable[[Subject], dict[str, float]]
_CLASSIFIER_SEED = 0


class StudyCell(NamedTuple):
    """All runs of a study for one seed and one request, in one folder.

    References are the retrained models by name, the oracle first if there is one; methods are the
    unlearning runs.
    """

    folder: Path
    problem: Problem
    pretrained: Path
    seed: int
    request: ForgetRequest
    references: dict[str, RunConfig]
    methods: dict[str, RunConfig]

    @property
    def runs(self) -> dict[str, RunConfig]:
        """All runs by name, the references first."""
        return self.references | self.methods

    @property
    def oracle(self) -> Path | None:
        """The folder of the retrained model, if there is one."""
        return self.folder / "retrain" if self.references else None


def compare(
    folder: Path, study: Study, layout: Layout = Layout(), shard: str = "1/1"
) -> dict[str, Path]:
    """Runs a study and writes its report.

    Args:
        folder: the folder of the study.
        study: the study.
        layout: the devices, and the share of a batch that is computed at once.
        shard: "i/n" runs the i-th of n shares of the methods, and the models that they need.

    Returns:
        The files of the report by kind: "markdown", "html" and "json".

    Raises:
        InputError: the study, the data or the folder is invalid; damaged checkpoints aside, this is
            found before any work.
        Diverged: some runs diverged; all others are done, and the report is written.
        Interrupted: Ctrl-C or SIGTERM arrived; the state was saved.
    """
    share, placement = parse_shard(shard), placement_of(layout)
    cells, inception = check_study(folder, study, placement, share)
    workspace, whole = _workspace(folder), placement._replace(micro_batch=0)
    with workspace.locked(share.part):
        with workspace.in_turn("plan"):
            workspace.write(_planned(folder, study))
        evaluation = functools.partial(_evaluation, folder, study, inception, whole)
        return _run(folder, study, _turned(cells, share), placement, evaluation)


def check_study(
    folder: Path, study: Study, placement: Placement, share: Shard = Shard()
) -> tuple[dict[int, list[StudyCell]], Features | None]:
    """The runs of a share of a study by seed, and the network of the Frechet distance.

    Everything is validated, the folder included, and nothing is written.
    """
    mine = [name for number, name in enumerate(sorted(study.methods)) if share.has(number)]
    cells = {
        seed: [_plan(folder, study, seed, request, mine) for request in study.requests]
        for seed in study.seeds
    }
    everything = [cell for seed in study.seeds for cell in cells[seed]]
    workspace = _workspace(folder)
    workspace.is_claimed()
    _planned(folder, study)
    for seed in study.seeds:
        train.check_run(
            _pretrained(folder, seed), run_config.pretraining(study.problem, seed), placement
        )
    for cell in everything:
        for name, config in cell.runs.items():
            train.check_run(cell.folder / name, config, placement)
    judge, inception = study.judge(), None
    whole = placement._replace(micro_batch=0)  # classifiers may have BatchNorm
    if judge is not None:
        train.check_run(folder / CLASSIFIER, run_config.pretraining(judge, _CLASSIFIER_SEED), whole)
        inception = of_inception(Path(study.inception)) if study.inception else None
        for cell in everything:
            evaluate_images.check_request(cell.request)
            if inception is not None:
                evaluate_images.check_images(inception, study.problem, cell.seed, cell.request)
    return cells, inception


def planned_runs(
    folder: Path, study: Study, placement: Placement, share: Shard = Shard()
) -> dict[Path, RunConfig]:
    """The configurations of all runs of a share of a study that are not finished, by folder."""
    cells, _ = check_study(folder, study, placement, share)
    judge = study.judge()
    runs = (
        {}
        if judge is None
        else {folder / CLASSIFIER: run_config.pretraining(judge, _CLASSIFIER_SEED)}
    )
    for seed, of_seed in cells.items():
        runs[_pretrained(folder, seed)] = run_config.pretraining(study.problem, seed)
        for cell in of_seed:
            runs |= {cell.folder / name: config for name, config in cell.runs.items()}
    return {run: config for run, config in runs.items() if not is_finished(run)}


def _turned(cells: dict[int, list[StudyCell]], share: Shard) -> dict[int, list[StudyCell]]:
    """The same cells by seed; each share begins with another seed, so that few have to wait."""
    seeds = list(cells)
    first = (share.share - 1) % len(seeds)
    return {seed: cells[seed] for seed in seeds[first:] + seeds[:first]}


def _run(
    folder: Path,
    study: Study,
    cells: dict[int, list[StudyCell]],
    placement: Placement,
    evaluation: Callable[[], Evaluate],
) -> dict[str, Path]:
    """Runs everything that is not finished yet, and writes the report."""
    everything = [cell for of_seed in cells.values() for cell in of_seed]
    paths = [cell.folder / name for cell in everything for name in cell.runs]
    finished = sum(_is_evaluated(path) for path in paths)
    say(f"{len(paths)} runs besides the pretraining, {finished} of them already finished")

    failed: list[str] = []
    evaluate = evaluation()
    keep = rewind.shares(each.settings for cell in everything for each in cell.methods.values())
    for seed, of_seed in cells.items():
        pretrained, config = _pretrained(folder, seed), run_config.pretraining(study.problem, seed)
        with _noting(failed, pretrained):
            with _workspace(folder).in_turn(f"seed-{seed}"):
                train.train_run(pretrained, config, placement, keep=keep)
            for cell in of_seed:
                _compare_one(folder, cell, evaluate, failed, placement)
    written = write_report(folder)
    say(f"the report is in {folder}: {', '.join(path.name for path in written.values())}")
    if failed:
        raise Diverged(
            f"these runs diverged or broke their budget: {', '.join(failed)}. All other runs are "
            "in the report. If a loss diverged, lower a learning rate or a forget scale and delete "
            "the folder of the run; if a budget was broken, raise it."
        )
    return written


def _evaluation(
    folder: Path, study: Study, inception: Features | None, placement: Placement
) -> Evaluate:
    """The evaluation of the models of a study; a classifier that judges images is trained first."""
    judge = study.judge()
    if judge is None:
        return evaluate_classifier
    with _workspace(folder).in_turn(CLASSIFIER):
        train.train_run(
            folder / CLASSIFIER, run_config.pretraining(judge, _CLASSIFIER_SEED), placement
        )
    loaded = evaluate_images.load_judge(folder / CLASSIFIER, study.problem, inception)
    for seed in study.seeds:
        for request in study.requests:
            evaluate_images.check_images(loaded.features, study.problem, seed, request)
    say(f"{loaded.name} judges the images, with {loaded.accuracy:.2f} % accuracy on real test data")
    return functools.partial(evaluate_images.evaluate_generated, judge=loaded)


def _workspace(folder: Path) -> Workspace:
    return Workspace(folder, "study", "study.json")


def _pretrained(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed}" / "pretrain"


def _plan(
    folder: Path, study: Study, seed: int, request: ForgetRequest, methods: list[str]
) -> StudyCell:
    problem = study.problem
    references: dict[str, RunConfig] = {}
    if study.oracle:
        references["retrain"] = run_config.retraining(problem, seed, request)
    if not problem.generates:  # there the floor is the distance between halves of the real data
        references["retrain-again"] = run_config.retraining(problem, seed, request, again=True)
    return StudyCell(
        folder=folder / f"seed-{seed}" / request.name,
        problem=problem,
        pretrained=_pretrained(folder, seed),
        seed=seed,
        request=request,
        references=references,
        methods={
            name: run_config.unlearning(
                problem,
                seed,
                request,
                *study.run_settings(request, name),
                aim=study.run_aim(request, name),
            )
            for name in methods
        },
    )


def _planned(folder: Path, study: Study) -> dict[str, Any]:
    """The content of `study.json`: everything that was planned so far.

    A command for a part of the study, such as one seed, removes nothing from the plan.
    """
    before = _recorded(folder / "study.json")
    now = json.loads(json.dumps(asdict(study) | {"problem": study.problem.identity()}))
    if before:
        there, here = ({"problem": each["problem"]} for each in (before, now))
        _workspace(folder).check_same(there, here)
    for key in ("methods", "overrides"):
        now[key] = now[key] | before.get(key, {}) | now[key]  # new ones come first
    for request, theirs in before.get("overrides", {}).items():
        now["overrides"][request] = theirs | now["overrides"][request]
    names = [request.name for request in study.requests]
    requests = dict(zip(names, now["requests"], strict=True))
    requests = requests | before.get("requests", {}) | requests
    now |= {
        "requests": list(requests.values()),
        "seeds": sorted({*now["seeds"], *before.get("seeds", [])}),
    }
    return {
        "title": study.title,
        "dataset": study.problem.data_name,
        "model": study.problem.model,
        "requests": list(requests),
        "seeds": now["seeds"],
        "methods": list(now["methods"]),
        "machine": machine(),
        "configuration": now,
    }


def _recorded(path: Path) -> dict[str, Any]:
    """The recorded configuration, its requests by name; empty without a valid record."""
    if not path.exists():
        return {}
    try:
        record = read_record(path)
    except InputError as error:
        say(f"{error} It is rebuilt from the given configuration.")
        return {}
    before = record["configuration"]
    return before | {"requests": dict(zip(record["requests"], before["requests"], strict=True))}


@contextmanager
def _noting(failed: list[str], run: Path) -> Iterator[None]:
    """Records that a run diverged or broke its budget, and continues after the `with` block."""
    try:
        yield
    except (Diverged, BrokenBudget) as error:
        if isinstance(error, BrokenBudget):
            note_failure(run, error)
        failed.append(run_label(run))
        say(f"{run_label(run)}: {error}", style="red")


def _compare_one(
    folder: Path, cell: StudyCell, evaluate: Evaluate, failed: list[str], placement: Placement
) -> None:
    """All models of one seed and request, unless the retrained model diverges."""
    with _noting(failed, cell.folder / "retrain"):
        with _workspace(folder).in_turn(f"seed-{cell.seed}-{cell.request.name}"):
            for name in list(cell.references)[:1]:
                _finish(cell, name, evaluate, placement)
            _evaluate_original(cell, evaluate)
            for name in list(cell.references)[1:]:
                with _noting(failed, cell.folder / name):
                    _finish(cell, name, evaluate, placement)
        for name in cell.methods:
            with _noting(failed, cell.folder / name):
                _finish(cell, name, evaluate, placement)


def _evaluate_original(cell: StudyCell, evaluate: Evaluate) -> None:
    """Evaluates the original model, unless that is done."""
    original = cell.folder / "original"
    if _is_evaluated(original):
        return
    weights = load_weights(cell.pretrained, cell.problem)
    subject = Subject(original, weights, cell.problem, cell.seed, cell.request, "original")
    _announce(original, evaluate(subject._replace(retrained=cell.oracle)))


def _finish(cell: StudyCell, name: str, evaluate: Evaluate, placement: Placement) -> None:
    """Trains and evaluates one run, unless that is done."""
    run, config = cell.folder / name, cell.runs[name]
    if name in cell.methods:
        config = dataclasses.replace(config, start=read_done(cell.pretrained)["weights"])
    if _is_evaluated(run):
        train.check_run(run, config, placement)
        return
    weights = train.train_run(run, config, placement, cell.pretrained)
    cost, oracle = read_cost(run), None if name == "retrain" else cell.oracle
    subject = Subject(run, weights, config.problem, cell.seed, cell.request, name, cost, oracle)
    _announce(run, evaluate(subject), cost["seconds"])


def _is_evaluated(run: Path) -> bool:
    """Whether a run has results; a classifier's also with all custom metrics of now."""
    path, own = run / "results.json", custom.records()
    if not path.exists() or not own:
        return path.exists()
    found = read_json(path)
    return "judge" in found or own.items() <= found.get("own_metrics", {}).items()


def _announce(run: Path, metrics: dict[str, float], seconds: float | None = None) -> None:
    """One line on a finished run."""
    took = " " * 8 if seconds is None else f"{seconds:6.2f} s"
    seed, request, name = run.parts[-3:]
    say(f"{seed}  {request:12}  {name:16} {took}  {_in_short(metrics)}")


def _in_short(metrics: dict[str, float]) -> str:
    if "frechet_retain" in metrics:
        seen = "  ".join(
            f"{kind} {metrics[f'generated_{kind}_accuracy']:6.2f}" for kind in ("forget", "retain")
        )
        return f"recognized in images: {seen} %  Frechet {metrics['frechet_retain']:.3f}"
    kinds = ("forget", "retain", "test")
    accuracies = "  ".join(f"{kind} {metrics[f'{kind}_accuracy']:6.2f}" for kind in kinds)
    return f"accuracy: {accuracies} %"
