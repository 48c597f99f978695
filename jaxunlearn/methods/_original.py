"""The original model and retain data, for objectives that compare with them.

The original weights are kept in the optimizer state. During a step they are also an entry of the
model state, which the task's functions do not see.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.methods._adversary import attacked
from jaxunlearn.methods._build import first
from jaxunlearn.methods._revival import revived
from jaxunlearn.methods.wrapped import Function, wrapped
from jaxunlearn.types import (
    FROZEN,
    Arrays,
    Batch,
    InputError,
    Method,
    Metrics,
    ModelState,
    Params,
    Task,
    TrainState,
)

_ORIGINAL, _RETAIN = "original", "retain_"
_COMPARING = ("esd", "spm")  # objectives that need the original model


class Remembering(NamedTuple):
    """The optimizer state of a method that remembers the original model.

    Attributes:
        opt_state: optimizer state of the method itself.
        original: "params" and "model_state" of the original model.
    """

    opt_state: Any
    original: dict[str, Any]


def remembering(
    task: Task, make: Callable[[Task], Method], *, match_original: bool = False
) -> Method:
    """The method `make(task)`, whose objective may use the original model, as "esd" does.

    Args:
        task: the unlearning task.
        make: function that makes the method.
        match_original: whether the retain loss is the distance from the original model's outputs,
            `mean_i |out(x_t, t, c_i) - out_0(x_t, t, c_i)|^2` in diffusion, instead of the task's.

    Returns:
        A `Method` that keeps the original parameters, but no second copy of frozen ones.

    Example:
        >>> import optax
        >>> from jaxunlearn import methods
        >>> def erasing(task):
        ...     return methods.eupmu(task, optax.adam(1e-5), objective="esd")
        >>> def method(task):
        ...     return remembering(task, erasing)
    """
    method = make(_seen_by(task, match_original))

    def outside(state: TrainState) -> TrainState:
        model_state = dict(state.model_state)
        original = model_state.pop(_ORIGINAL)
        kept = Remembering(state.opt_state, original)
        return state._replace(model_state=model_state, opt_state=kept)

    def inside(state: TrainState) -> TrainState:
        opt_state, original = state.opt_state
        model_state = {**state.model_state, _ORIGINAL: original}
        return state._replace(model_state=model_state, opt_state=opt_state)

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        written = {name: part for name, part in model_state.items() if name != FROZEN}
        original = {"params": params, "model_state": written}
        given = {**model_state, _ORIGINAL: original}
        return outside(method.init(key, params, given, forget, retain))

    def within(step: Callable[..., tuple[TrainState, Metrics]]) -> Any:
        def taken(state: TrainState, *rest: Any) -> tuple[TrainState, Metrics]:
            after, metrics = step(inside(state), *rest)
            return outside(after), metrics

        return taken

    scaled = method.scaled_step and within(method.scaled_step)
    return method._replace(init=init, step=within(method.step), scaled_step=scaled)


def showing_retain(method: Method) -> Method:
    """The method whose forget batches also hold retain examples, for "concept_ablation"."""

    def showing(step: Callable[..., tuple[TrainState, Metrics]]) -> Any:
        def taken(
            state: TrainState, forget: Batch, retain: Batch, *rest: Any
        ) -> tuple[TrainState, Metrics]:
            size, shown = len(forget["label"]), first(retain)
            places = jnp.arange(size) % len(shown["label"])
            shown = {_RETAIN + name: values[places] for name, values in shown.items()}
            return step(state, forget | shown, retain, *rest)

        return taken

    scaled = method.scaled_step and showing(method.scaled_step)
    return method._replace(step=showing(method.step), scaled_step=scaled)


def shown_examples(batch: Batch) -> Batch:
    """The retain examples in a forget batch, one for each forget example."""
    shown = {k.removeprefix(_RETAIN): v for k, v in batch.items() if k.startswith(_RETAIN)}
    if not shown:
        raise InputError(
            "this objective needs retain examples in its forget batch, but there are none; make "
            "the method with methods.build or methods.showing_retain."
        )
    return shown


def original_outputs(
    task: Task, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
) -> jax.Array:
    """The outputs of the original model, without gradients."""
    assert task.outputs is not None
    if _ORIGINAL not in model_state:
        raise InputError(
            "this objective needs the original model, but the method does not keep it; make the "
            "method with methods.build or methods.remembering."
        )
    original = model_state[_ORIGINAL]
    state = {**model_state, **original["model_state"]}
    outputs, _ = task.outputs(original["params"], state, batch, key, train)
    return jax.lax.stop_gradient(outputs)


def made_for(task: Task, make: Callable[[Task], Method], settings: Mapping[str, Any]) -> Method:
    """The method `make(task)` with all that the objectives in its settings need."""
    if steps := settings.get("adversarial_steps", 0):
        make = functools.partial(attacked, make=make, steps=steps)
    if steps := settings.get("revival_steps", 0):
        rate = settings.get("revival_rate", settings["learning_rate"])
        losses = _seen_by(task, match_original=False).losses
        make = functools.partial(revived, make=make, steps=steps, rate=rate, losses=losses)
    objective, matched = settings.get("objective"), "retain_objective" in settings
    if objective in _COMPARING or matched:
        method = remembering(task, make, match_original=matched)
    else:
        method = make(task)
    return showing_retain(method) if objective == "concept_ablation" else method


def _seen_by(task: Task, match_original: bool) -> Task:
    """The task whose functions do not see the original model in the model state."""

    def hiding(function: Function) -> Function:
        def of_rest(params: Params, model_state: ModelState, *rest: Any) -> tuple[Any, ModelState]:
            model_state = dict(model_state)
            original = model_state.pop(_ORIGINAL, None)
            values, after = function(params, model_state, *rest)
            return values, after if original is None else {**after, _ORIGINAL: original}

        return of_rest

    task = wrapped(task, hiding)
    if not match_original:
        return task

    def losses(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, ModelState]:
        assert task.outputs is not None and task.divergence is not None
        target = original_outputs(task, model_state, batch, key, train)
        answer, model_state = task.outputs(params, model_state, batch, key, train)
        return task.divergence(target, answer), model_state

    saliency = task.saliency_losses or task.losses
    forget = task.forget_losses or task.losses
    return task._replace(losses=losses, forget_losses=forget, saliency_losses=saliency)
