"""The program of a method, and what it is told beside the data.

Settings that are floating-point numbers are arguments of the program; all others are part of it. So
runs that differ in numbers only share one program, and it is compiled once.
"""

import functools
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxunlearn import methods, training
from jaxunlearn.data import Splits
from jaxunlearn.data.examples import to_device
from jaxunlearn.tasks.accumulated import accumulated, check_micro_batch
from jaxunlearn.tasks.spread import check_shares, spread
from jaxunlearn.training import Program, devices
from jaxunlearn.training.layout import Layout
from jaxunlearn.types import Arrays, InputError, Method, Task

_MOST_AUDITED = 1024


def numbers(settings: dict[str, Any]) -> dict[str, float]:
    """The settings that are arguments of a method's program: the floating-point ones."""
    return {key: value for key, value in settings.items() if isinstance(value, float)}


def is_guarded(settings: dict[str, Any]) -> bool:
    """Whether settings have a utility budget for the guard to hold."""
    return "guard_budget" in settings


def held_out(settings: dict[str, Any], splits: Splits | None) -> dict[str, Arrays]:
    """What a guarded method's program is told beside its numbers: validation examples.

    Args:
        settings: all settings of the method.
        splits: the data of the request.

    Returns:
        "held_out", some retain examples that no model was trained on; nothing without a guard.

    Raises:
        InputError: the guard has no validation data to look at.
    """
    if not is_guarded(settings):
        return {}
    if splits is None or len(splits.validation) == 0:
        raise InputError(
            "guard_budget is held on validation data of the retained classes, but there are none; "
            "pretrain with a larger validation_fraction, or leave it out."
        )
    positions = audited(len(splits.validation))
    return {"held_out": to_device(splits.validation.take(positions))}


def audited(count: int) -> np.ndarray:
    """The positions of the validation examples that a guard looks at: some, evenly spread.

    Example:
        >>> len(audited(10)), len(audited(5000)), int(audited(5000)[-1])
        (10, 1024, 4999)
    """
    return np.unique(np.linspace(0, count - 1, _MOST_AUDITED, dtype=np.int64))


def of_method(
    task: Task, method: str, settings: dict[str, Any], layout: Layout = Layout()
) -> Program:
    """The program of a method: one and the same for settings that differ in numbers only.

    Args:
        task: what is unlearned.
        method: the name of the method.
        settings: all its settings.
        layout: the devices it may use, and how much of a batch at once.

    Returns:
        A `Program`, compiled when it is first run.

    Raises:
        InputError: an unknown choice of a setting, a batch that does not divide over the devices
            or into micro-batches, a model that has no micro-batches, or fewer than one step in a
            chunk or between checkpoints.
    """
    for name in ("chunk_steps", "checkpoint_every"):
        if getattr(layout, name) < 1:
            raise InputError(f"{name} is {getattr(layout, name)}, but must be 1 or more.")
    fixed = tuple((key, value) for key, value in settings.items() if not isinstance(value, float))
    return _program(task, method, fixed, layout)


@functools.lru_cache
def _program(
    task: Task, method: str, static_settings: tuple[tuple[str, Any], ...], layout: Layout
) -> Program:
    """The program of a method. It is built once here, which finds unknown choices of settings."""
    fixed = dict(static_settings)
    sizes = {name: fixed[name] for name in ("forget_batch_size", "retain_batch_size")}
    mesh = devices.make_mesh(layout.devices, layout.parameters)
    task = _laid_out(task, layout, mesh)

    def build(numbers: dict[str, Any]) -> Method:
        return methods.build(task, method, fixed | numbers)

    try:
        guard = {"guard_budget": 0.0} if "guard_every" in fixed else {}
        defaults = methods.settings(method, guard)
        build({key: value for key, value in defaults.items() if key not in fixed})
        check_micro_batch(layout.micro_batch, **sizes)
        if devices.mapped_axis(layout):
            check_shares(task, layout.devices, **sizes)
        return training.compile_program(
            build,
            **sizes,
            chunk_steps=min(layout.chunk_steps, fixed["num_steps"]),
            mesh=mesh,
            axis_name=devices.mapped_axis(layout),
        )
    except InputError as error:
        raise InputError(f"among the settings of method {method}, {error}") from error


def _laid_out(task: Task, layout: Layout, mesh: Mesh) -> Task:
    """The task as the devices compute it: in micro-batches, and under `pmap` in shares of them."""
    whole, axis_name = task, devices.mapped_axis(layout)
    if layout.micro_batch:
        task = accumulated(whole, layout.micro_batch)
        devices.check_divides(mesh, micro_batch=layout.micro_batch)
    if axis_name is None:
        return task
    if layout.micro_batch:
        check_shares(whole, mesh.size, micro_batch=layout.micro_batch)
        task = accumulated(whole, layout.micro_batch // mesh.size)
    return spread(task, axis_name)
