"""A study folder, read back: the plan, the finished runs, and the unfinished ones.

The layout is `STUDY/study.json` and `STUDY/seed-<n>/<request>/<run>/`, where a run is "original",
"retrain", "retrain-again" or a method. A run has finished once its `results.json` exists; its
`predictions.npz` and `metrics.jsonl` are optional.
"""

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jaxunlearn import methods
from jaxunlearn.evaluation import SplitPredictions, distances, divergences, share_of_time
from jaxunlearn.files import check_digests, read_json
from jaxunlearn.studies.config import Aim
from jaxunlearn.studies.report.columns import REFERENCES, Column, with_own
from jaxunlearn.studies.runs.folder import DIVERGED
from jaxunlearn.studies.runs.schema import REVIVAL, Results, RevivalRecord, check_record
from jaxunlearn.studies.workspace import first_difference
from jaxunlearn.types import InputError


@dataclass(frozen=True)
class Run:
    """One finished run of one seed.

    Attributes:
        seed: the pretraining seed.
        request: the forget request, by the name of its folder.
        name: "original", "retrain", "retrain-again" or a method.
        folder: the run folder.
        metrics: all numbers: the metrics of `evaluate`, "seconds", "share_of_retraining", and
            "frechet_ratio", the Frechet distance over the original model's; in the units of
            `UNITS`.
        counts: number of examples of each split.
        finished: end of the training, in UTC as ISO 8601, or None if it is not recorded.
        machine: the recorded facts about the machine that trained it.
        guard: "start", "limit" and "end" of the held-out retain loss, and the "rollbacks", of a
            guarded run; empty otherwise.
        judged: the "judge" and the "features" of generated images; empty otherwise.
        settings: the recorded "method", its "settings", and its "aim" if it has one.
        own_metrics: records of the user's metrics and attacks, by name.
    """

    seed: int
    request: str
    name: str
    folder: Path
    metrics: Mapping[str, float]
    counts: Mapping[str, int]
    finished: str | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)
    guard: Mapping[str, float] = field(default_factory=dict)
    judged: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    own_metrics: Mapping[str, Any] = field(default_factory=dict)

    def predictions(self) -> SplitPredictions | None:
        """The predictions, or None if they were not kept."""
        path = self.folder / "predictions.npz"
        return SplitPredictions.load(path) if path.exists() else None

    def history(self) -> list[dict[str, Any]]:
        """The logged steps, each a dict with "step" and the logged quantities."""
        return read_lines(self.folder / "metrics.jsonl")


@dataclass(frozen=True)
class Unfinished:
    """A started run without results: in progress, interrupted, or diverged."""

    seed: int
    request: str
    name: str
    step: int | None
    diverged: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A study folder as the report needs it.

    Attributes:
        folder: the study folder.
        title: the title.
        dataset: the name of the data set.
        model: the name of the model.
        machines: facts about the machines that trained the runs, from most to fewest runs.
        seeds: pretraining seeds, ascending.
        requests: names of the forget requests, in the study's order.
        methods: names of the methods without the references, in the study's order.
        runs: all finished runs.
        unfinished: all started runs without results.
    """

    folder: Path
    title: str
    dataset: str
    model: str
    machines: tuple[Mapping[str, Any], ...]
    seeds: tuple[int, ...]
    requests: tuple[str, ...]
    methods: tuple[str, ...]
    runs: tuple[Run, ...]
    unfinished: tuple[Unfinished, ...] = field(default=())

    @functools.cached_property
    def columns(self) -> tuple[Column, ...]:
        """All columns that the report may show, with the metrics and attacks of the user."""
        return with_own({name: one for run in self.runs for name, one in run.own_metrics.items()})

    def select(self, request: str, name: str) -> list[Run]:
        """All seeds' runs of one method (or reference) on one request, by ascending seed."""
        return [run for run in self.runs if (run.request, run.name) == (request, name)]

    def settings(self, request: str) -> dict[str, Mapping[str, Any]]:
        """The settings of every run on a request by its name, the same with every seed."""
        started: list[Run | Unfinished] = [*self.runs, *self.unfinished]
        known = {run.name: run.settings for run in started if run.request == request}
        names = (*REFERENCES, *self.methods)
        return {name: known[name] for name in names if known.get(name)}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one per line; none if the file is missing.

    A last line that was cut short is left out.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number == len(lines) and not text.endswith("\n"):
                break
            raise InputError(f"{path}, line {number} is not a JSON object ({error}).") from None
        entries.append(entry)
    return entries


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_run(folder: Path, seed: int, request: str) -> Run:
    path = folder / "results.json"
    results = read_json(path)
    check_digests(folder, results)
    done = read_json(folder / "done.json") if (folder / "done.json").exists() else {}
    check_digests(folder, done)
    check_record(path, results, Results)
    numbers = dict(results["metrics"])
    numbers |= {
        key: results[key] for key in ("seconds", "weights_moved") if results.get(key) is not None
    }
    machine = done.get("machine") or {}
    if not isinstance(machine, dict):
        raise InputError(f"machine in {folder / 'done.json'} is {machine!r}, but must be a table.")
    return Run(
        seed,
        request,
        folder.name,
        folder,
        numbers,
        results.get("counts") or {},
        results.get("finished"),
        machine,
        results.get("guard") or {},
        {key: results[key] for key in ("judge", "features") if key in results},
        _read_settings(folder),
        results.get("own_metrics", {}),
    )


def trained_in(run: Path) -> Path:
    """The folder of a run's weights: the pretraining's for "original", which only evaluates it."""
    return run if run.name != "original" else run.parents[1] / "pretrain"


def has_weights(run: Path, fingerprint: str) -> bool:
    """Whether a run still has the weights of a finding on it; without a record they may be."""
    path = trained_in(run) / "done.json"
    return not path.exists() or read_json(path).get("weights") in (None, fingerprint)


def _read_settings(folder: Path) -> dict[str, Any]:
    """The method of a run, all its settings, and the fields of its aim that are not defaults."""
    place = trained_in(folder)
    if not (place / "config.json").exists():
        return {}
    config, usual = methods.completed(read_json(place / "config.json")), asdict(Aim())
    aim = {k: v for k, v in (config.get("aim") or {}).items() if v != usual.get(k)}
    chosen = {key: config[key] for key in ("method", "settings") if key in config}
    return chosen | ({"aim": aim} if aim else {})


def _complete(run: Run, retrained: Run) -> Run:
    """Adds the distances to the retrained model that are missing in the run's results."""
    numbers: dict[str, float] = dict(run.metrics)
    derived: dict[str, float] = {}
    try:
        if "frechet_retain" not in numbers:  # models that generate have other metrics
            derived = distances(numbers, retrained.metrics)
        if "kl_to_retrained" not in numbers:
            ours, theirs = run.predictions(), retrained.predictions()
            if ours is not None and theirs is not None:
                derived.update(divergences(ours, theirs))
    except InputError as error:
        raise InputError(f"{run.folder} cannot be compared: {error}") from None
    costs = ({**each.metrics, "machine": each.machine} for each in (run, retrained))
    share = share_of_time(*costs)
    if share is not None:
        derived["share_of_retraining"] = share
    return replace(run, metrics={**derived, **numbers})


def _beside_original(run: Run, original: Run) -> Run:
    """Adds the Frechet distance divided by the original model's of the same seed."""
    key = "frechet_retain"
    if key not in run.metrics or not original.metrics.get(key):
        return run
    ratio = run.metrics[key] / original.metrics[key]
    return replace(run, metrics={**run.metrics, "frechet_ratio": ratio})


def _revived(runs: list[Run]) -> list[Run]:
    """Adds the results of `jaxunlearn revive`, if all runs as they are were attacked alike."""
    paths = [run.folder / REVIVAL for run in runs]
    if not paths or not all(path.exists() for path in paths):
        return runs
    records = [read_json(path) for path in paths]
    for path, record in zip(paths, records, strict=True):
        check_record(path, record, RevivalRecord)
    attacked = list(zip(runs, records, strict=True))
    if any(record["protocol"] != records[0]["protocol"] for record in records):
        return runs
    if not all(has_weights(run.folder, record["weights"]) for run, record in attacked):
        return runs
    return [
        replace(
            run,
            metrics={
                **run.metrics,
                **{f"seen_after_{name}": one["seen"] for name, one in record["attacks"].items()},
            },
        )
        for run, record in attacked
    ]


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and path.name[0] != ".")


def check_study_folder(folder: Path) -> None:
    """Raises an InputError unless a folder holds a study."""
    if not (folder / "study.json").is_file():
        raise InputError(f"{folder} holds no study; give the folder of jaxunlearn compare.")


def _check_protocols(folder: Path) -> None:
    """Raises unless all runs learned the same problem, and the runs of each folder are alike.

    Runs of a method have the same settings, runs of a request the same request, and runs of a seed
    the same seed.
    """
    first: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = {}
    found = folder.glob("seed-*/*/*/config.json")
    runs = [path for path in found if path.parts[-3] != "pretrain"]  # there, an autoencoder
    paths = [*folder.glob("seed-*/pretrain/config.json"), *runs]
    for path in sorted(paths):
        config, parts = methods.completed(read_json(path)), path.relative_to(folder).parts
        of_problem = {"problem": config.get("problem")}
        of_method = {key: config.get(key) for key in ("method", "settings", "aim")}
        of_request = {key: config.get(key) for key in ("request", "earlier")}
        checked = [((), of_problem), (parts[1:-1], of_method)]
        checked += [((parts[0],), {"seed": config.get("seed")})]
        checked += [((parts[1],), of_request)] if parts[1] != "pretrain" else []
        for key, present in checked:
            other, expected = first.setdefault(key, (path.parent, present))
            check_alike(other, expected, path.parent, present)


def check_alike(one: Path, ours: Mapping[str, Any], other: Path, theirs: Mapping[str, Any]) -> None:
    """Raises unless the protocols of two folders are the same."""
    difference = first_difference(ours, theirs)
    if difference is not None:
        name, first, second = difference
        raise InputError(
            f"{one} and {other} come from different protocols, but must be alike in one report: "
            f"{name} is {first} in the first, but {second} in the second; move one of them out of "
            "the study."
        )


def _check_judges(runs: list[Run]) -> None:
    """Raises unless all generated images were judged alike, so that distances are comparable."""
    for run in runs[1:]:
        difference = first_difference(dict(runs[0].judged), dict(run.judged))
        if difference is not None:
            name, there, here = difference
            raise InputError(
                f"{runs[0].folder} and {run.folder} were judged differently, but must be judged "
                f"alike in one report: {name} is {there} in the first, but {here} in the second; "
                "evaluate all runs of the study alike."
            )


def _machines(runs: Iterable[Run]) -> tuple[dict[str, Any], ...]:
    """The machines that trained the runs, from most to fewest runs."""
    often = Counter(json.dumps(dict(run.machine)) for run in runs if run.machine)
    return tuple(json.loads(text) for text, _ in often.most_common())


def _ordered(planned: Any, found: Iterable[str]) -> tuple[str, ...]:
    names = sorted(set(found))
    first = [name for name in planned if name in names] if isinstance(planned, list) else []
    return tuple(dict.fromkeys([*first, *names]))


def read_study(folder: str | Path) -> Study:
    """Reads a study folder, finished or not.

    Args:
        folder: the folder with `study.json`.

    Returns:
        The study. Runs have their distances to the finished retrained model of the same seed and
        request, even if they were evaluated before it.

    Raises:
        InputError: the folder holds no study, a file is malformed, or two runs come from different
            protocols.
    """
    folder = Path(folder)
    check_study_folder(folder)
    plan = read_json(folder / "study.json")
    machine = plan.get("machine") or {}
    if not isinstance(machine, dict):
        raise InputError(f"machine in {folder / 'study.json'} is {machine!r}, but must be a table.")
    _check_protocols(folder)
    runs: list[Run] = []
    unfinished: list[Unfinished] = []
    for seed_folder in _folders(folder):
        match = re.fullmatch(r"seed-(\d+)", seed_folder.name)
        if match is None:
            continue
        seed = int(match[1])
        for request_folder in _folders(seed_folder):
            if request_folder.name == "pretrain":
                continue
            group = []
            for path in _folders(request_folder):
                if (path / "results.json").exists():
                    group.append(_read_run(path, seed, request_folder.name))
                else:
                    steps = [entry.get("step") for entry in read_lines(path / "metrics.jsonl")]
                    last = steps[-1] if steps and is_number(steps[-1]) else None
                    diverged = (path / DIVERGED).exists() and not (path / "done.json").exists()
                    place = (seed, request_folder.name, path.name)
                    unfinished.append(Unfinished(*place, last, diverged, _read_settings(path)))
            original = next((run for run in group if run.name == "original"), None)
            if original is not None:
                group = [_beside_original(run, original) for run in group]
            retrained = next((run for run in group if run.name == "retrain"), None)
            if retrained is not None:
                group = [run if run is retrained else _complete(run, retrained) for run in group]
            runs.extend(group)
    runs.sort(key=lambda run: run.seed)
    _check_judges(runs)
    runs = _revived(runs)
    everything: list[Run | Unfinished] = [*runs, *unfinished]
    names = {each.name for each in everything} - set(REFERENCES)
    return Study(
        folder=folder,
        title=str(plan.get("title") or folder.resolve().name),
        dataset=str(plan.get("dataset") or "not recorded"),
        model=str(plan.get("model") or "not recorded"),
        machines=_machines(runs) or ((machine,) if machine else ()),
        seeds=tuple(sorted({each.seed for each in everything})),
        requests=_ordered(plan.get("requests"), (each.request for each in everything)),
        methods=_ordered(plan.get("methods"), names),
        runs=tuple(runs),
        unfinished=tuple(unfinished),
    )
