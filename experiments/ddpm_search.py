"""Settings for a study of a model that generates: one grid of learning rates for every method.

    python experiments/ddpm_search.py experiments/configs/digits_ddpm_rates.toml runs/ddpm-rates

Every method gets the same rates (`--rates`), on one pretraining seed that the study does not use.
A run is judged blind, without any retrained model and without test data: by how often the
classifier still sees the forgotten class, and by how much the Frechet distance of the other
classes to the real retain images has grown over the original model's,

    score = forgotten class seen (%) + 100 max(frechet / frechet of the original - 1, 0)

The chosen rate has the lowest score when each is averaged with the scores of the rates next to
it, itself twice: one beside a cliff, where a little less forgets nothing, is no choice for another
class. The result, `search.json`, holds every trial, best first, and the choice. What is done
is not done again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxunlearn.cli.main import one_sentence
from jaxunlearn.files import read_json, write_json
from jaxunlearn.studies.console import say
from jaxunlearn.studies.runs import evaluate_images, train
from jaxunlearn.studies.runs.results import Subject, read_cost, read_results
from jaxunlearn.studies.study import Study, load_study
from jaxunlearn.studies.workspace import Workspace
from jaxunlearn.training import Diverged
from jaxunlearn.training.hosts import machine
from jaxunlearn.types import Weights

DIVERGED = 1000.0


def score(metrics: dict[str, float], original: dict[str, float]) -> float:
    """How far a model is from having forgotten one class and kept the others."""
    grown = metrics["frechet_retain"] / original["frechet_retain"] - 1.0
    return metrics["generated_forget_accuracy"] + 100.0 * max(grown, 0.0)


def choice(trials: Sequence[dict[str, Any]]) -> float:
    """The rate with the lowest mean score of itself, twice, and of the tried rates next to it."""
    ordered = sorted(trials, key=lambda trial: trial["learning_rate"])

    def around(place: int) -> float:
        near = [ordered[place], *ordered[max(place - 1, 0) : place + 2]]
        return sum(trial["score"] for trial in near) / len(near)

    return float(ordered[min(range(len(ordered)), key=around)]["learning_rate"])


def search(folder: Path, study: Study, rates: Sequence[float]) -> None:
    """Tries all rates of all methods of a study on its first seed and request."""
    seed, request, problem, judged = (
        study.seeds[0],
        study.requests[0],
        study.problem,
        study.judge(),
    )
    assert judged is not None
    path = folder / "search.json"
    record = read_json(path) if path.exists() else {"machine": machine(), "found": {}}
    write_json(path, record)
    train.pretrain(folder / "classifier", judged, 0)
    pretrained = folder / f"seed-{seed}" / "pretrain"
    weights = train.pretrain(pretrained, problem, seed)
    judge = evaluate_images.load_judge(folder / "classifier", problem)

    def evaluated(run: Path, weights: Weights, name: str, cost: dict[str, Any]) -> dict[str, float]:
        if (run / "results.json").exists():
            return read_results(run)["metrics"]
        subject = Subject(run, weights, problem, seed, request, name, cost)
        return evaluate_images.evaluate_generated(subject, judge)

    cell = folder / f"seed-{seed}" / request.name
    original = evaluated(cell / "original", weights, "original", {})
    record["original"] = original
    for name in study.methods:
        method, settings = study.run_settings(request, name)
        for rate in rates:
            run = cell / f"{name}-{rate:g}"
            given = settings | {"learning_rate": rate}
            aim = study.run_aim(request, name)
            try:
                after = train.unlearn(run, pretrained, request, method, given, aim=aim)
                metrics = evaluated(run, after, name, read_cost(run))
                trial = {"score": score(metrics, original), "metrics": metrics}
                trial["seconds"] = read_cost(run)["seconds"]
            except Diverged:
                trial = {"score": DIVERGED}
            trials = {t["learning_rate"]: t for t in record["found"].get(name, [])}
            trials[rate] = {"learning_rate": rate} | trial
            record["found"][name] = sorted(trials.values(), key=lambda t: t["score"])
            write_json(path, record)
            say(f"{name:20} learning rate {rate:g}: score {trial['score']:.1f}")
    record["chosen"] = {name: choice(trials) for name, trials in record["found"].items()}
    write_json(path, record)
    say(json.dumps(record["chosen"], indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="a study: its first seed and request are used")
    parser.add_argument("folder", type=Path, help="receives the models and search.json")
    parser.add_argument("--rates", type=float, nargs="+", default=(1e-4, 3e-4, 1e-3))
    given = parser.parse_args()
    with one_sentence():
        Workspace(given.folder, "search", "search.json").is_claimed()
        search(given.folder, load_study(given.config), given.rates)
