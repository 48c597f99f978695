"""Studies: a problem, requests to forget, methods and pretraining seeds, read from a TOML file."""

import dataclasses
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxunlearn import methods
from jaxunlearn.data import ForgetRequest
from jaxunlearn.home import expanded
from jaxunlearn.studies.config import Aim, Problem, check_seeds
from jaxunlearn.studies.fields import from_dict, read_toml
from jaxunlearn.studies.plans import read_plan
from jaxunlearn.types import InputError

CLASSIFIER = "classifier"  # the folder in a study of the model that judges its images
_AIMS = tuple(entry.name for entry in dataclasses.fields(Aim))


@dataclass(frozen=True)
class Tuned:
    """The file of settings that `jaxunlearn tune` has chosen.

    Attributes:
        overrides: settings by the name of a request, then of a run.
    """

    overrides: dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Study:
    """A problem, requests to forget, methods, and pretraining seeds.

    Attributes:
        title: title of the report.
        problem: the problem.
        requests: the requests, each for every method.
        seeds: pretraining seeds; each has its own retrained models.
        methods: settings by the name of a run. The run uses the method of that name, or the method
            in its setting `method`.
        overrides: settings by the name of a request, then of a run, in place of the settings in
            `methods`.
        tuned: file of settings that `jaxunlearn tune` has chosen, SEARCH/tuned.toml; settings in
            `methods` and `overrides` win over them.
        classifier: the classifier that judges generated images: its "model", "model_settings" and
            "training" as in a problem.
        inception: safetensors file with the network of the Frechet distance, whose features replace
            the classifier's.
        oracle: whether models are retrained, as the goal of unlearning; a study of a model that
            generates can do without.
    """

    title: str = "Machine unlearning study"
    problem: Problem = field(default_factory=Problem)
    requests: tuple[ForgetRequest, ...] = (ForgetRequest(fraction=0.1),)
    seeds: tuple[int, ...] = (0,)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    overrides: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    tuned: str | None = None
    classifier: dict[str, Any] | None = None
    inception: str | None = None
    oracle: bool = True

    def __post_init__(self) -> None:
        if self.problem.generates != (self.classifier is not None):
            raise InputError(
                "a study of a model that generates images needs a classifier to judge them, and "
                f"other studies take none; {self.problem.model} "
                + ("generates: add [classifier]." if self.problem.generates else "does not.")
            )
        self.judge()
        if self.inception is not None and not self.problem.generates:
            raise InputError(
                f"inception describes generated images, but {self.problem.model} classifies; leave "
                "it out."
            )
        if not (self.oracle or self.problem.generates):
            raise InputError(
                f"oracle is false, but must be true, since {self.problem.model} classifies and is "
                "compared with a retrained model; leave it out."
            )
        if not self.methods:
            raise InputError(
                "the study names no methods, but needs at least one of "
                f"{', '.join(methods.available())}."
            )
        for name, values in (("seeds", self.seeds), ("requests", self.requests)):
            if not values:
                raise InputError(f"the study has no {name}, but needs at least one.")
        check_seeds(self.seeds)
        names = check_requests(self.requests)
        check_runs(self.methods)
        if self.tuned is not None:
            object.__setattr__(self, "overrides", self._with_tuned(expanded(self.tuned), names))
            object.__setattr__(self, "tuned", None)
        for request, runs in self.overrides.items():
            if request not in names:
                raise InputError(
                    f"overrides name the request {request!r}, but the study has "
                    f"{', '.join(names)}; in TOML a name with a dot must be quoted, as in "
                    '[overrides."random-0.1".eupmu].'
                )
            for name in runs:
                if name not in self.methods:
                    raise InputError(
                        f"overrides of {request} name the run {name!r}, but the study has "
                        f"{', '.join(self.methods)}."
                    )
        self.problem.training_settings()
        for each in self.requests:
            for name in self.methods:
                self.run_settings(each, name)
                self.run_aim(each, name)

    def _with_tuned(self, path: Path, requests: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
        """The overrides, with all tuned settings that the study does not give itself."""
        chosen = from_dict(Tuned, read_toml(path), str(path)).overrides
        overrides = {request: dict(runs) for request, runs in self.overrides.items()}
        common = [
            (request, name)
            for request in requests
            for name in self.methods
            if name in chosen.get(request, {})
        ]
        if not common:
            there = [f"{request} {name}" for request, runs in chosen.items() for name in runs]
            raise InputError(
                f"{path} has settings of {', '.join(there) or 'nothing'}, but the study has the "
                f"requests {', '.join(requests)} and the runs {', '.join(self.methods)}; tune the "
                "same ones, or leave out tuned."
            )
        for request, name in common:
            found, runs = chosen[request][name], overrides.setdefault(request, {})
            new = {key: value for key, value in found.items() if key not in self.methods[name]}
            runs[name] = new | runs.get(name, {})
        return overrides

    def judge(self) -> Problem | None:
        """The problem of the classifier that judges generated images, on the same data."""
        if self.classifier is None:
            return None
        judge = self.problem.on_same_data(self.classifier, "the classifier")
        if not judge.classifies:
            raise InputError(
                f"the classifier is {judge.model!r}, which {judge.does}; choose a model that "
                "classifies, such as mlp."
            )
        return judge

    def run_aim(self, request: ForgetRequest, name: str) -> Aim | None:
        """The aim of a run for a request; None for the default."""
        given = self._given(request, name)
        aims = {key: given[key] for key in _AIMS if key in given}
        return from_dict(Aim, aims, f"the run {name}") if aims else None

    def run_settings(self, request: ForgetRequest, name: str) -> tuple[str, dict[str, Any]]:
        """The method of a run, and all its settings for a request."""
        given = {k: v for k, v in self._given(request, name).items() if k not in _AIMS}
        method = given.pop("method", name)
        if not isinstance(method, str) or method == "retrain":
            raise InputError(
                f"the method of run {name} is {method!r}, but must be one of "
                f"{', '.join(m for m in methods.available() if m != 'retrain')}, or a recipe."
            )
        return method, methods.settings(method, given, generates=self.problem.generates)

    def _given(self, request: ForgetRequest, name: str) -> dict[str, Any]:
        return self.methods[name] | self.overrides.get(request.name, {}).get(name, {})


def check_requests(requests: Iterable[ForgetRequest]) -> list[str]:
    """The names of requests, which must be distinct."""
    names = [request.name for request in requests]
    if len(set(names)) < len(names):
        raise InputError(f"the requests {', '.join(names)} are not all different; drop one.")
    return names


def check_runs(names: Iterable[str]) -> None:
    """Raises unless the names of runs are distinct folder names on all systems."""
    folded: dict[str, str] = {}
    for name in names:
        other = folded.setdefault(unicodedata.normalize("NFC", name.casefold()), name)
        if other != name:
            raise InputError(
                f"the runs {other!r} and {name!r} have the same name on file systems that ignore "
                "case or the composition of letters; rename one."
            )
        plain = name != "" and name[0] not in ".-" and all(c.isalnum() or c in "._-" for c in name)
        if name in ("original", "retrain", "retrain-again") or not plain:
            raise InputError(
                f"the name of a run is {name!r}, but must consist of letters, digits, dots, - and "
                "_, and must not be original, retrain or retrain-again; rename it."
            )


def load_study(path: Path) -> Study:
    """Reads a study from a TOML file."""
    return from_dict(Study, read_plan(path), "the study")
