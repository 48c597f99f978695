"""Configurations: plain dataclasses, read from TOML and JSON, strict about every field.

A *problem* has the data, the model and its training; a *study* (`jaxunlearn.studies.study`) adds
requests, methods and seeds. The problem is written to every run folder, so that a run never
continues under another one.
"""

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxunlearn import methods
from jaxunlearn.data import Reading
from jaxunlearn.data.anchors import check_choice
from jaxunlearn.data.file_names import read_names
from jaxunlearn.data.own import own_kind
from jaxunlearn.models import denoisers, latent
from jaxunlearn.objects import is_object_path
from jaxunlearn.studies.diffusion import Diffusion
from jaxunlearn.studies.fields import from_dict
from jaxunlearn.studies.plans import LATER, PIXELS, PLACES, SOURCE
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
            names = read_names(self.validation_names, "validation file")
            object.__setattr__(self, "validation_names", names)
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
        anchor: class into which an objective such as match_anchor turns forgotten classes: its
            number, nearest (by the mean images of classes), random (another kept class at each
            visit) or class+K (class+1 is the next one); by default the most similar name, or else
            the next class.
    """

    trainable: str = ""
    adapter_rank: int = 0
    anchor: int | str | None = None

    def __post_init__(self) -> None:
        if self.adapter_rank < 0:
            raise InputError(f"adapter_rank is {self.adapter_rank}, but must be 0 or more.")
        check_choice(self.anchor)


def check_seeds(seeds: Iterable[int]) -> None:
    """Raises unless seeds are distinct, non-negative and small enough for JAX."""
    seeds = tuple(seeds)
    for seed in seeds:
        if not 0 <= seed < SEEDS:
            raise InputError(f"the seed is {seed}, but must be from 0 to {SEEDS - 1}.")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"the seeds are {', '.join(map(str, seeds))}, but must be distinct.")
