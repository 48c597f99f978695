"""The configuration of a run: the content of `config.json`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxunlearn import methods
from jaxunlearn.data import ForgetRequest
from jaxunlearn.models import checkpoints
from jaxunlearn.studies.config import Aim, Problem, check_seeds
from jaxunlearn.types import InputError

ADOPT = "adopt"  # the method of an original model that was not trained here
_RETRAIN_SEEDS, _RETRAIN_AGAIN_SEEDS = 1_000_000, 2_000_000


@dataclass(frozen=True)
class RunConfig:
    """The configuration of a run: the content of `config.json`.

    Attributes:
        stage: "pretrain", "retrain" or "unlearn".
        problem: the problem.
        seed: the pretraining seed.
        method: the name of the method.
        settings: all settings of the method.
        request: the request that is forgotten or left out; None in pretraining.
        again: whether this is the second retrained model, whose distance to the first is the floor.
        start: the fingerprint of the weights that unlearning starts from.
        aim: the parameters that may change, and the anchor class; None for the defaults.
        earlier: the requests that were forgotten before or are left out too, the oldest first, or
            None.
    """

    stage: str
    problem: Problem
    seed: int
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    request: ForgetRequest | None = None
    again: bool = False
    start: str | None = None
    aim: Aim | None = None
    earlier: tuple[ForgetRequest, ...] | None = None

    def __post_init__(self) -> None:
        check_seeds([self.seed])
        if self.aim == Aim():
            object.__setattr__(self, "aim", None)
        if self.request is not None:
            object.__setattr__(self, "request", self.request.resolved())


def pretraining(problem: Problem, seed: int) -> RunConfig:
    """The configuration of a pretraining run, or of the adoption of a checkpoint."""
    if problem.checkpoint is not None:
        path = Path(problem.checkpoint)
        if (path / "fingerprints.json").is_file():
            raise InputError(
                f"the checkpoint {path} is a run of jaxunlearn already; give it to --pretrained, "
                "or export its weights first."
            )
        digest = checkpoints.digest(path, problem.step)
        source = {"checkpoint": digest, "params_key": problem.params_key}
        return RunConfig("pretrain", problem, seed, ADOPT, source)
    return RunConfig("pretrain", problem, seed, "retrain", problem.training_settings())


def retraining(
    problem: Problem,
    seed: int,
    request: ForgetRequest,
    again: bool = False,
    earlier: tuple[ForgetRequest, ...] = (),
) -> RunConfig:
    """The configuration of a retraining run."""
    settings = problem.training_settings()
    return RunConfig(
        "retrain", problem, seed, "retrain", settings, request, again, earlier=earlier or None
    )


def unlearning(
    problem: Problem,
    seed: int,
    request: ForgetRequest,
    method: str,
    settings: dict[str, Any],
    start: str | None = None,
    aim: Aim | None = None,
    earlier: tuple[ForgetRequest, ...] = (),
) -> RunConfig:
    """The configuration of an unlearning run; `start` is the fingerprint of its first weights."""
    chosen = methods.settings(method, settings, generates=problem.generates)
    if method == "retrain":
        raise InputError(
            "the method retrain begins with new weights, so there is nothing to unlearn; use "
            "jaxunlearn retrain, or the method finetune to start from the original model."
        )
    if "rewind" in chosen and problem.checkpoint is not None:
        raise InputError(
            f"rewind is {chosen['rewind']:g}, but must be left out, since the model is adopted: no "
            "step of its training was kept."
        )
    return RunConfig(
        *("unlearn", problem, seed, method, chosen, request),
        start=start,
        aim=aim,
        earlier=earlier or None,
    )


def own_seed(config: RunConfig) -> int:
    """The seed of the initial weights and the data order: retrained models have their own."""
    if config.stage != "retrain":
        return config.seed
    return config.seed + (_RETRAIN_AGAIN_SEEDS if config.again else _RETRAIN_SEEDS)
