"""Configurations: plain dataclasses, read from TOML and JSON, strict about every field.

A *problem* has the data, the model and its training; a *study* adds requests, methods and seeds.
The problem is written to every run folder, so that a run never continues under another one.
"""

import dataclasses
import json
import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxunlearn import methods
from jaxunlearn.data import ForgetRequest, Reading
from jaxunlearn.data.file_names import read_names
from jaxunlearn.data.own import own_kind
from jaxunlearn.home import expanded
from jaxunlearn.models import denoisers, latent
from jaxunlearn.objects import is_object_path
from jaxunlearn.studies.diffusion import Diffusion
from jaxunlearn.studies.fields import from_dict, read_toml
from jaxunlearn.studies.plans import LATER, PIXELS, PLACES, SOURCE, read_plan
from jaxunlearn.types import InputError

SEEDS = 2**31  # half of the seeds that JAX distinguishes; retrained models use some of the others


@dataclass(frozen=True)
class Problem:
    """The data, the model and its training.

    Problems of the same data are equal, wherever the data is.

    Attributes:
        data: name of the data set, such as digits, fashion_mnist or cifar10 (jaxunlearn list data),
            or the user's own data, folder:DIR, npz:FILE, csv:FILE or my_package.data:load.
        data_dir: folder of prepared data and decoded images; a user cache folder by default.
        folder: folder of the raw files of fashion_mnist or tiny_imagenet.
        image_size: side of the square that images in a folder are resized to.
        test_fraction: share of the user's own examples that becomes test data, if there is none.
        label: column with the labels in a CSV file.
        broken: whether broken image files are refused or skipped.
        captions: file with the caption of each image in a folder, as CSV or JSON lines; each
            distinct caption is a class, and the prompt of a text-to-image model.
        validation_fraction: share of the training split held out before anything else.
        validation_names: file with the names of the user's own validation images, one a line, in
            place of a random share.
        train_size: number of the other training examples to learn from, drawn by the seed; all by
            default.
        augmentation: augmentation in training; the augmentation of the data set by default.
        model: name of the model, such as mlp, resnet18 or vit-ti (jaxunlearn list models), or
            module:object of your own, such as my_package.nets:MyNet.
        model_settings: fields of the model that differ from its preset, such as norm=group; the
            fields of a text-to-image model's parts are under "text_encoder" and "unet".
        autoencoder: the autoencoder of a model of latents: its "model", "model_settings" and
            "training" or "checkpoint" as in a problem; the autoencoder of the same size by default.
        diffusion: diffusion of a model that generates, such as ddpm-small; none for classifiers.
            A model of your own generates if it has one.
        training: settings of pretraining and retraining: the settings of the method "retrain".
        mean: mean of the pixels that the weights were trained with, for each channel or one for
            all; bytes are divided by 255 first. The mean of the training data by default.
        std: standard deviation of the pixels, likewise.
        checkpoint: file or folder with the weights of the original model, which are adopted
            instead of training it.
        step: step of the checkpoint, if it has several; the newest by default.
        params_key: path of the parameters in the checkpoint, such as ema_params; found by their
            names by default.
        tokenizer: folder of the tokenizer of an adopted text-to-image model; the words of the class
            names are the tokens of others.
    """

    data: str = "digits"
    data_dir: str | None = field(default=None, compare=False)
    folder: str | None = field(default=None, compare=False)
    image_size: int | None = None
    test_fraction: float | None = None
    label: str | None = None
    broken: Literal["refuse", "skip"] = "refuse"
    captions: str | None = field(default=None, compare=False)
    validation_fraction: float = 0.1
    validation_names: tuple[str, ...] | str | None = None
    train_size: int | None = None
    augmentation: Literal["none", "crop", "flip_crop"] | None = None
    model: str = "mlp"
    model_settings: dict[str, Any] = field(default_factory=dict)
    diffusion: Diffusion | None = None
    training: dict[str, Any] = field(default_factory=dict)
    autoencoder: dict[str, Any] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    checkpoint: str | None = field(default=None, compare=False)
    step: int | None = field(default=None, compare=False)
    params_key: str | None = field(default=None, compare=False)
    tokenizer: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        kind, path = own_kind(self.data) or (None, "")
        if path:  # a place, which is no part of the identity
            object.__setattr__(self, "data", kind)
            object.__setattr__(self, "folder", path)
        if isinstance(self.validation_names, str):  # the names themselves are kept in records
            object.__setattr__(self, "validation_names", read_names(self.validation_names))
        self._check_pixels()
        if self.checkpoint is None and (self.step is not None or self.params_key is not None):
            raise InputError(
                "step and params_key are places in a checkpoint, but there is none; give the "
                "checkpoint, or leave them out."
            )
        if self.generates and self.diffusion is None:
            object.__setattr__(self, "diffusion", Diffusion())
        if not self.generates and self.diffusion is not None:
            raise InputError(
                f"the model {self.model!r} {self.does}, so there is no diffusion to set; leave it "
                f"out, or choose one of {', '.join((*denoisers.available(), *latent.PIPELINES))}."
            )
        if self.autoencoder is not None and self.model not in latent.PIPELINES:
            raise InputError(
                f"the model {self.model!r} works on pixels, so there is no autoencoder to set; "
                f"leave it out, or choose one of {', '.join(latent.PIPELINES)}."
            )
        self.first_stage()
        if self.diffusion and self.diffusion.latents != "mean" and not self.first_stage():
            raise InputError(
                f"latents is {self.diffusion.latents!r}, but must be left out, since the model "
                f"{self.model!r} works on pixels."
            )
        for name in ("name", "num_classes", "axis_name", "scaling_factor"):
            if name in self.model_settings:
                raise InputError(
                    f"model_settings contain {name}, which the model, the data and the devices "
                    "determine; leave it out."
                )

    def identity(self) -> dict[str, Any]:
        """The fields that identify the problem, as in JSON, without paths and default settings."""
        plain = json.loads(json.dumps(dataclasses.asdict(self)))
        if self.diffusion is not None:
            plain["diffusion"] = self.diffusion.identity()
        defaults = dataclasses.replace(self, training={}).training_settings()
        plain["training"] = {
            name: value for name, value in self.training.items() if value != defaults.get(name)
        }
        if self.autoencoder is not None:
            parts = plain["autoencoder"].items()
            plain["autoencoder"] = {name: value for name, value in parts if name not in SOURCE}
        usual = {entry.name: entry.default for entry in dataclasses.fields(self)}
        left_out = {
            *PLACES,
            *SOURCE,
            *(name for name in (*LATER, *PIXELS) if plain[name] == usual[name]),
        }
        return {name: value for name, value in plain.items() if name not in left_out}

    @property
    def data_name(self) -> str:
        """The name of the data in reports: folder:DIR without the folders above it."""
        if self.folder is None or own_kind(self.data) is None:
            return self.data
        return f"{self.data}:{Path(self.folder).name}"

    def reading(self) -> Reading:
        """The options of reading the user's own data."""
        names = (entry.name for entry in dataclasses.fields(Reading))
        return Reading(**{name: getattr(self, name) for name in names})

    def _check_pixels(self) -> None:
        """Raises if the mean or the deviation of the pixels is impossible or has no effect."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is None:
                continue
            if not self.classifies:
                raise InputError(
                    f"the model {self.model!r} {self.does}, and takes pixels from -1 to 1; leave "
                    f"out {name}."
                )
            if not values or not all(math.isfinite(value) for value in values):
                raise InputError(f"{name} is {list(values)}, but must be finite numbers.")
            if name == "std" and min(values) <= 0.0:
                raise InputError(f"std is {list(values)}, but must be numbers above 0.")

    @property
    def generates(self) -> bool:
        """Whether the model generates images, rather than classifies them."""
        if is_object_path(self.model):
            return self.diffusion is not None
        return self.model in (*denoisers.available(), *latent.PIPELINES)

    @property
    def classifies(self) -> bool:
        """Whether the model classifies images, rather than generates or encodes them."""
        return not self.generates and self.model not in latent.AUTOENCODERS

    @property
    def does(self) -> str:
        """The work of the model, in words."""
        kinds = ((self.generates, "generates images"), (self.classifies, "classifies"))
        return next((words for does, words in kinds if does), "encodes images")

    def first_stage(self) -> "Problem | None":
        """The problem of the autoencoder of a model of latents, on the same data."""
        if self.model not in latent.PIPELINES:
            return None
        same_size = {"model": latent.PIPELINES[self.model]}
        found = self.on_same_data(same_size | (self.autoencoder or {}), "the autoencoder")
        if found.model not in latent.AUTOENCODERS:
            raise InputError(
                f"the autoencoder is {found.model!r}, but must be one of "
                f"{', '.join(latent.AUTOENCODERS)}."
            )
        return found

    def on_same_data(self, given: dict[str, Any], what: str) -> "Problem":
        """Another problem on the same data, with `given` as its other fields; `what` names it."""
        data = ("data", *PLACES, *LATER, "validation_fraction", "train_size")
        for name in data:
            if name in given:
                raise InputError(
                    f"{what} has a {name} of its own, but must share the {name} of the problem; "
                    "leave it out."
                )
        return from_dict(Problem, {name: getattr(self, name) for name in data} | given, what)

    def training_settings(self) -> dict[str, Any]:
        """All settings of pretraining and retraining: one-cycle SGD by default.

        Models that generate, and autoencoders, learn by clipped Adam, along one cycle as well.
        """
        defaults = {
            "num_steps": 500,
            "learning_rate": 0.1,
            "learning_rate_schedule": "one_cycle",
        }
        if not self.classifies:
            defaults |= {
                "optimizer": "clipped_adamw",
                "learning_rate": 1e-3,
                "weight_decay": 0.0,
            }
        return methods.settings("retrain", defaults | self.training)


@dataclass(frozen=True)
class Aim:
    """Options of an unlearning run besides the settings of its method.

    Attributes:
        trainable: regular expression; only parameters with a matching path, such as head, change.
        adapter_rank: rank of low-rank adapters that are trained instead of the kernels among these
            parameters; 0 trains the parameters themselves.
        anchor: class into which the objective match_anchor turns forgotten classes; by default each
            turns into the next class.
    """

    trainable: str = ""
    adapter_rank: int = 0
    anchor: int | None = None

    def __post_init__(self) -> None:
        if self.adapter_rank < 0:
            raise InputError(f"adapter_rank is {self.adapter_rank}, but must be 0 or more.")


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
                f"{', '.join(m for m in methods.available() if m != 'retrain')}."
            )
        return method, methods.settings(method, given, generates=self.problem.generates)

    def _given(self, request: ForgetRequest, name: str) -> dict[str, Any]:
        return self.methods[name] | self.overrides.get(request.name, {}).get(name, {})


_AIMS = tuple(entry.name for entry in dataclasses.fields(Aim))


def check_seeds(seeds: Iterable[int]) -> None:
    """Raises unless seeds are distinct, non-negative and small enough for JAX."""
    seeds = tuple(seeds)
    if len(set(seeds)) < len(seeds) or not all(0 <= seed < SEEDS for seed in seeds):
        raise InputError(f"seeds are {seeds}, but must be distinct and from 0 to {SEEDS - 1}.")


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
