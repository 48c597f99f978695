"""The logs of a run: its loggers, learning rates, and measurements on validation data."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jaxunlearn import evaluation, methods
from jaxunlearn.data import Examples
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.studies.problem import load_judged, load_task
from jaxunlearn.studies.runs.prepare import run_splits, trainable_part
from jaxunlearn.studies.runs.run_config import RunConfig
from jaxunlearn.studies.runs.unseen import losses
from jaxunlearn.training.devices import Placement
from jaxunlearn.training.loggers import Write, opened
from jaxunlearn.types import InputError, Task, TrainState

Validate = Callable[[TrainState], dict[str, float]]
_MOST_IMAGES = 256  # of the validation loss of a model that generates


def check_validation(config: RunConfig) -> None:
    """Raises an InputError if nothing of a run can be measured on validation data."""
    if config.problem.first_stage() is not None:
        raise InputError(
            f"validate_every is given, but {config.problem.model} learns from latents, of which "
            "validation data have none; leave it out."
        )
    if not len(_validation(config)):
        raise InputError(
            "validate_every is given, but there are no validation data of the retained classes; "
            "pretrain with a larger validation_fraction, or leave it out."
        )


@contextmanager
def logged(
    run: Path, config: RunConfig, placement: Placement
) -> Iterator[tuple[Write | None, Validate | None]]:
    """The functions `log` and `validate` of `training.run`, while the loggers are open."""
    task, _ = trainable_part(load_task(config.problem), config.aim)
    validate = validation(task, _validation(config)) if placement.validate_every else None
    if not placement.log:
        yield None, validate
        return
    rates = methods.learning_rates(task, config.method, config.settings)
    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    measured = "validation_loss" if task.predict is None else "validation_accuracy"
    columns = ("learning_rate", *([measured] if validate else []))
    with opened(placement.log, run, plain, columns) as write:

        def log(step: int, values: Mapping[str, float]) -> None:
            write(step, {**values, "learning_rate": float(rates[step - 1])})

        yield log, validate


def _validation(config: RunConfig) -> Examples:
    """The validation examples that judge, without forgotten classes."""
    splits = run_splits(config)
    return splits.judged if splits else load_judged(config.problem, config.seed)


def validation(task: Task, examples: Examples) -> Validate:
    """A function from the state of a run to its accuracy on validation data.

    A model that generates has a loss in its place, on the first images.
    """
    if task.predict is not None:

        def accuracy(state: TrainState) -> dict[str, float]:
            found = predict_with(task, methods.weights_of(state), examples.arrays())
            return {"validation_accuracy": evaluation.accuracy(found)}

        return accuracy
    some = {name: values[:_MOST_IMAGES] for name, values in examples.arrays().items()}

    def loss(state: TrainState) -> dict[str, float]:
        found = losses(task, methods.weights_of(state), some)
        return {"validation_loss": float(found.mean())}

    return loss
