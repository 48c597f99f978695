"""A whole study: every method, request and seed, each against its own retrained model.

What is done is not done again, so a study that was stopped goes on where it stopped, and one that
gains a method or a seed computes what is new.
"""

from dataclasses import asdict
from pathlib import Path

from jaxunlearn import stages
from jaxunlearn.config import Study
from jaxunlearn.console import console
from jaxunlearn.data import ForgetRequest
from jaxunlearn.files import write_json
from jaxunlearn.report import write_report
from jaxunlearn.stages import Weights
from jaxunlearn.training import Diverged


def compare(folder: Path, study: Study, devices: int = 1) -> dict[str, Path]:
    """Runs a study and writes its report.

    Args:
        folder: of the study.
        study: what to run.
        devices: how many devices share each batch.

    Returns:
        The report's files by kind: "markdown", "html" and "json".

    Raises:
        InputError: anything wrong with the study, the data, or what the folder holds.
        Diverged: some runs did; all others are done, and the report is written.
    """
    for request in study.requests:
        for seed in study.seeds:
            stages.load_splits(study.problem, seed, request)  # every request fits, before any work
    write_json(
        folder / "study.json",
        {
            "title": study.title,
            "dataset": study.problem.data,
            "model": study.problem.model,
            "requests": [request.name for request in study.requests],
            "seeds": list(study.seeds),
            "methods": list(study.methods),
            "machine": stages.machine(),
            "configuration": asdict(study),
        },
    )
    diverged: list[str] = []
    for seed in study.seeds:
        pretrained = folder / f"seed-{seed}" / "pretrain"
        original = stages.pretrain(pretrained, study.problem, seed, devices)
        for request in study.requests:
            diverged += _compare_one(folder, study, seed, request, pretrained, original, devices)
    written = write_report(folder)
    if diverged:
        raise Diverged(f"{len(diverged)} runs diverged and have no results: {'; '.join(diverged)}")
    return written


def _compare_one(
    folder: Path,
    study: Study,
    seed: int,
    request: ForgetRequest,
    pretrained: Path,
    original: Weights,
    devices: int,
) -> list[str]:
    """All models of one seed and request, the references first; returns which runs diverged."""
    cell = folder / f"seed-{seed}" / request.name
    problem, oracle = study.problem, cell / "retrain"

    def finish(name: str, weights: Weights, trained_in: Path | None, against: Path | None) -> None:
        if (cell / name / "results.json").exists():
            return
        cost = stages.read_cost(trained_in) if trained_in else {}
        metrics = stages.evaluate(
            cell / name,
            weights,
            problem,
            seed,
            request,
            method=name,
            cost=cost,
            retrained=against,
        )
        seconds = f"{cost['seconds']:6.1f} s" if cost else " " * 8
        console.print(
            f"seed {seed}  {request.name}  {name:16s} {seconds}  "
            f"forget {metrics['forget_accuracy']:6.2f}  retain {metrics['retain_accuracy']:6.2f}  "
            f"test {metrics['test_accuracy']:6.2f}",
            highlight=False,
            soft_wrap=True,
        )

    weights = stages.retrain(oracle, problem, seed, request, devices=devices)
    finish("retrain", weights, oracle, None)
    again = cell / "retrain-again"
    weights = stages.retrain(again, problem, seed, request, again=True, devices=devices)
    finish("retrain-again", weights, again, oracle)
    finish("original", original, None, oracle)
    diverged = []
    for name in study.methods:
        method, settings = study.run_settings(request, name)
        try:
            weights = stages.unlearn(cell / name, pretrained, request, method, settings, devices)
        except Diverged as error:
            diverged.append(f"seed {seed} {request.name} {name}: {error}")
            console.print(diverged[-1], style="red", highlight=False, soft_wrap=True)
            continue
        finish(name, weights, cell / name, oracle)
    return diverged
