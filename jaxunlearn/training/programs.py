"""The program of a method, and its arguments beside the data.

The settings of a method split into constants, which are compiled in, and numbers, which are
arguments of the program. So runs that differ in numbers only share one program, compiled once.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn import methods, training
from jaxunlearn.data import Examples
from jaxunlearn.data.examples import to_device
from jaxunlearn.tasks.accumulated import accumulated, check_micro_batch
from jaxunlearn.tasks.spread import check_shares, spread
from jaxunlearn.training import Numbers, Program
from jaxunlearn.training.devices import Placement, place
from jaxunlearn.types import InputError, Method, Task

_MOST_AUDITED = 1024


class Split(NamedTuple):
    """The settings of a method, in two parts.

    Attributes:
        constants: settings that are compiled in.
        numbers: floating-point settings, which are arguments of the compiled program.
    """

    constants: dict[str, Any]
    numbers: dict[str, float]


def split(settings: dict[str, Any]) -> Split:
    """Splits settings into the constants and the numbers of a program.

    Example:
        >>> split({"num_steps": 10, "learning_rate": 0.1}).numbers
        {'learning_rate': 0.1}
    """
    numbers = {name: value for name, value in settings.items() if isinstance(value, float)}
    return Split({k: v for k, v in settings.items() if k not in numbers}, numbers)


def is_guarded(settings: dict[str, Any]) -> bool:
    """Whether the settings have a utility budget."""
    return "guard_budget" in settings


def arguments(settings: dict[str, Any], validation: Examples | None = None) -> Numbers:
    """The arguments of a method's program beside the data.

    Args:
        settings: all settings of the method.
        validation: retain examples that no model was trained on, for the guard.

    Returns:
        The numbers among the settings; for a guarded method also "held_out", some of `validation`.

    Raises:
        InputError: a guard without validation data.
    """
    numbers: Numbers = dict(split(settings).numbers)
    if not is_guarded(settings):
        return numbers
    if validation is None or len(validation) == 0:
        raise InputError(
            "guard_budget is held on validation data of the retained classes, but there are none; "
            "pretrain with a larger validation_fraction, or leave it out."
        )
    watched = validation.take(audited(len(validation)))
    return numbers | {"held_out": to_device(watched)}


def audited(count: int) -> np.ndarray:
    """The positions of the validation examples that a guard watches, evenly spaced.

    Example:
        >>> len(audited(10)), len(audited(5000)), int(audited(5000)[-1])
        (10, 1024, 4999)
    """
    return np.unique(np.linspace(0, count - 1, _MOST_AUDITED, dtype=np.int64))


def of_method(
    task: Task, method: str, settings: dict[str, Any], placement: Placement | None = None
) -> Program:
    """The program of a method, the same one for settings that differ in numbers only.

    Args:
        task: the task of the model.
        method: name of the method.
        settings: all settings of the method.
        placement: devices of the run, and how they share a batch; None is one device.

    Returns:
        A `Program`, compiled when it is first run.

    Raises:
        InputError: an unknown choice of a setting, a batch that does not divide over the devices
            or into micro-batches, or a model that has no micro-batches.
    """
    constants, _ = split(settings)
    return _program(task, method, tuple(constants.items()), placement or place())


@functools.lru_cache
def _program(
    task: Task, method: str, constants: tuple[tuple[str, Any], ...], placement: Placement
) -> Program:
    """The program of a method. It is built once here, which finds unknown choices of settings."""
    compiled_in, (mesh, axis_name, micro_batch, *_) = dict(constants), placement
    sizes = {name: compiled_in[name] for name in ("forget_batch_size", "retain_batch_size")}

    def build(numbers: dict[str, Any]) -> Method:
        return methods.build(placed, method, compiled_in | numbers)

    placed = _placed(task, placement)
    try:
        guard = {"guard_budget": 0.0} if "guard_every" in compiled_in else {}
        build(split(methods.settings(method, guard)).numbers)
        check_micro_batch(micro_batch, **sizes)
        if axis_name:
            check_shares(task, mesh.size, **sizes)
        return training.compile_program(
            build,
            **sizes,
            chunk_steps=min(placement.chunk_steps, compiled_in["num_steps"]),
            mesh=mesh,
            axis_name=axis_name,
        )
    except InputError as error:
        raise InputError(f"among the settings of method {method}, {error}") from error


def _placed(task: Task, placement: Placement) -> Task:
    """The task as devices compute it: in micro-batches, and under `pmap` in shares of them."""
    mesh, axis_name, micro_batch, *_ = placement
    if axis_name is None:
        return accumulated(task, micro_batch) if micro_batch else task
    if micro_batch:
        accumulated(task, micro_batch)  # refuses what it would refuse on one device
        check_shares(task, mesh.size, micro_batch=micro_batch)
        task = accumulated(task, micro_batch // mesh.size)
    return spread(task, axis_name)
