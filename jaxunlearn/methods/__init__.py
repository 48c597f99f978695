"""Published unlearning methods: one per file, each a function from a task to a `Method`.

    method = methods.eupmu(task, optax.sgd(1e-2, momentum=0.9), tolerance=0.01)
    state = method.init(key, params, model_state, forget, retain)
    state, metrics = method.step(state, forget_batch, retain_batches)

Every constructor takes the task and an optax optimizer, then its own settings by keyword. For
configurations, `build` makes a method from flat settings, the optimizer's included. An own method
is made known by `register`, and is then like any of these.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxunlearn.methods._build import advance, begin, first
from jaxunlearn.methods.bad_teacher import bad_teacher
from jaxunlearn.methods.boundary_expanding import boundary_expanding
from jaxunlearn.methods.boundary_shrinking import boundary_shrinking
from jaxunlearn.methods.cagrad import cagrad
from jaxunlearn.methods.cf_k import cf_k
from jaxunlearn.methods.concept_ablation import concept_ablation
from jaxunlearn.methods.esd import esd
from jaxunlearn.methods.eu_k import eu_k
from jaxunlearn.methods.eupmu import eupmu
from jaxunlearn.methods.eupmu_budget import eupmu_budget
from jaxunlearn.methods.eupmu_sfron import eupmu_sfron
from jaxunlearn.methods.famo import famo
from jaxunlearn.methods.fisher_forgetting import fisher_forgetting
from jaxunlearn.methods.gdr_gma import gdr_gma
from jaxunlearn.methods.gradient_ascent import gradient_ascent
from jaxunlearn.methods.guard import guard_records, guarded
from jaxunlearn.methods.influence import influence
from jaxunlearn.methods.l1_sparse import l1_sparse
from jaxunlearn.methods.mgda import mgda
from jaxunlearn.methods.nash import nash
from jaxunlearn.methods.orthograd import orthograd
from jaxunlearn.methods.pcgrad import pcgrad
from jaxunlearn.methods.retrain import finetune, retrain
from jaxunlearn.methods.salun import salun
from jaxunlearn.methods.salun_soft import salun_soft
from jaxunlearn.methods.scalarization import neggrad_plus, random_labels, scalarization
from jaxunlearn.methods.scrub import scrub
from jaxunlearn.methods.scrub_r import scrub_r
from jaxunlearn.methods.selective_amnesia import selective_amnesia
from jaxunlearn.methods.sfron import sfron, sfron_released
from jaxunlearn.methods.ssd import ssd
from jaxunlearn.methods.unsir import unsir
from jaxunlearn.optimizers import optimizer, schedule
from jaxunlearn.types import InputError, Method, Task

_METHODS: dict[str, Callable[..., Method]] = {
    "retrain": retrain,
    "finetune": finetune,
    "gradient_ascent": gradient_ascent,
    "neggrad_plus": neggrad_plus,
    "random_labels": random_labels,
    "scalarization": scalarization,
    "salun": salun,
    "salun_soft": salun_soft,
    "l1_sparse": l1_sparse,
    "cf_k": cf_k,
    "eu_k": eu_k,
    "pcgrad": pcgrad,
    "mgda": mgda,
    "cagrad": cagrad,
    "nash": nash,
    "gdr_gma": gdr_gma,
    "famo": famo,
    "orthograd": orthograd,
    "scrub": scrub,
    "scrub_r": scrub_r,
    "bad_teacher": bad_teacher,
    "boundary_shrinking": boundary_shrinking,
    "boundary_expanding": boundary_expanding,
    "unsir": unsir,
    "influence": influence,
    "ssd": ssd,
    "fisher_forgetting": fisher_forgetting,
    "selective_amnesia": selective_amnesia,
    "esd": esd,
    "concept_ablation": concept_ablation,
    "eupmu": eupmu,
    "eupmu_budget": eupmu_budget,
    "sfron": sfron,
    "sfron_released": sfron_released,
    "eupmu_sfron": eupmu_sfron,
}

# What every method can be told besides its own settings.
COMMON_SETTINGS: dict[str, Any] = {
    "num_steps": 100,
    "forget_batch_size": 64,
    "retain_batch_size": 128,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "learning_rate_schedule": "cosine",
    "momentum": 0.9,
    "weight_decay": 5e-4,
}

# What every method is also told where it has a budget; without one there is no guard.
GUARD_SETTINGS: dict[str, Any] = {"guard_budget": 0.0, "guard_every": 10}

# What the programs can hold, whose numbers have 32 bits.
_LARGEST = {int: 2**31 - 1, float: 3.4e38, bool: 1}

# The least and the largest value of each number, and whether the least itself is allowed.
_POSITIVE = (0.0, float("inf"), False)
_NOT_NEGATIVE = (0.0, float("inf"), True)
_SHARE = (0.0, 1.0, True)
_RANGES: dict[str, tuple[float, float, bool]] = {
    "num_steps": _POSITIVE,
    "forget_batch_size": _POSITIVE,
    "retain_batch_size": _POSITIVE,
    "mask_batch_size": _POSITIVE,
    "num_mask_batches": _NOT_NEGATIVE,
    "num_fast_steps": _POSITIVE,
    "num_layers": _POSITIVE,
    "bank_size": _POSITIVE,
    "audit_every": _POSITIVE,
    "guard_every": _POSITIVE,
    "num_max_steps": _POSITIVE,
    "num_min_steps": _POSITIVE,
    "num_noise": _POSITIVE,
    "num_noise_steps": _POSITIVE,
    "num_fisher_batches": _POSITIVE,
    "fisher_batch_size": _POSITIVE,
    "damping": _POSITIVE,
    "slow_step_size": _POSITIVE,
    "clip_norm": _POSITIVE,
    "guard_budget": _NOT_NEGATIVE,
    "learning_rate": _NOT_NEGATIVE,
    "forget_learning_rate": _NOT_NEGATIVE,
    "multiplier_learning_rate": _NOT_NEGATIVE,
    "multiplier_decay": _NOT_NEGATIVE,
    "logit_learning_rate": _NOT_NEGATIVE,
    "logit_decay": _NOT_NEGATIVE,
    "penalty": _NOT_NEGATIVE,
    "radius": _NOT_NEGATIVE,
    "sharpness": _NOT_NEGATIVE,
    "noise_learning_rate": _NOT_NEGATIVE,
    "noise_penalty": _NOT_NEGATIVE,
    "attack_size": _NOT_NEGATIVE,
    "max_variance": _NOT_NEGATIVE,
    "selection": _NOT_NEGATIVE,
    "dampening": _NOT_NEGATIVE,
    "distillation_weight": _NOT_NEGATIVE,
    "task_weight": _NOT_NEGATIVE,
    "initial_multiplier": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "retain_weight": _NOT_NEGATIVE,
    "anchor_weight": _NOT_NEGATIVE,
    "negative_guidance": _NOT_NEGATIVE,
    "alpha": _NOT_NEGATIVE,
    "exponent": _NOT_NEGATIVE,
    "threshold": _NOT_NEGATIVE,
    "budget": (0.0, 100.0, False),  # percentage points
    "memory": _SHARE,
    "momentum": _SHARE,
    "fraction": _SHARE,
    "retain_share": _SHARE,
    "max_share": _SHARE,
    "impair_share": _SHARE,
    "target_accuracy": (0.0, 100.0, True),  # percent
}

__all__ = [
    "advance",
    "available",
    "begin",
    "build",
    "first",
    "guard_records",
    "guarded",
    "register",
    "settings",
    "summary",
    *_METHODS,
]


def available() -> tuple[str, ...]:
    """The names of all methods.

    Example:
        >>> "eupmu" in available() and "sfron" in available()
        True
    """
    return tuple(_METHODS)


def summary(name: str) -> str:
    """The first line of what a method's documentation says.

    Raises:
        InputError: an unknown method.
    """
    return (inspect.getdoc(_constructor(name)) or "").splitlines()[0]


def settings(name: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All settings of a method: the defaults, with the given ones in their place.

    Args:
        name: of the method.
        given: settings by name; numbers may be given as whole numbers.

    Returns:
        Every setting that the method and its optimizer have, and those of the guard if a
        `guard_budget` is given.

    Raises:
        InputError: an unknown method or setting, a value of another type, or one out of range.

    Example:
        >>> settings("eupmu", {"tolerance": 1})["tolerance"]
        1.0
    """
    own = {parameter.name: parameter.default for parameter in _settings_of(_constructor(name))}
    defaults = COMMON_SETTINGS | own
    if given and GUARD_SETTINGS.keys() & given.keys():
        _check_guard(name, given)
        defaults |= GUARD_SETTINGS
    for key, value in (given or {}).items():
        if key not in defaults:
            close = difflib.get_close_matches(key, defaults, n=1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise InputError(
                f"method {name} has no setting {key!r}, only {', '.join(defaults)}{hint}"
            )
        defaults[key] = _checked(name, key, value, defaults[key])
    return defaults


def register(constructor: Callable[..., Method]) -> Callable[..., Method]:
    """Makes an own method known by its name, to `build` and to every command; a decorator.

    Args:
        constructor: `constructor(task, optimizer, *, setting=default, ...) -> Method`. It is called
            with traced values for floating-point settings. One named `num_steps` needs no default.

    Returns:
        The constructor.

    Raises:
        InputError: the name of a method of this library, or a setting without a default.

    Example:
        >>> import optax
        >>> @register
        ... def halved(task, optimizer, *, factor: float = 0.5):
        ...     return finetune(task, optax.chain(optimizer, optax.scale(factor)))
        >>> settings("halved")["factor"]
        0.5
    """
    name = constructor.__name__
    if name in _METHODS and _METHODS[name].__module__.startswith(__name__):
        raise InputError(f"a method named {name} exists already; choose another name.")
    for parameter in _settings_of(constructor):
        if parameter.default is parameter.empty:
            raise InputError(f"setting {parameter.name} of method {name} has no default; give one.")
    _METHODS[name] = constructor
    return constructor


def build(task: Task, name: str, chosen: Mapping[str, Any]) -> Method:
    """The method of that name, with an optimizer made from the settings.

    Args:
        task: what is unlearned.
        name: of the method.
        chosen: all its settings, from `settings`; floating-point ones may be traced values. Where
            they have a `guard_budget`, also "held_out", the retain examples that it is held on.

    Returns:
        A `Method`, under its budget if there is one.

    Raises:
        InputError: an unknown method, or an unknown choice of a setting.
    """
    constructor = _constructor(name)
    parameters = inspect.signature(constructor).parameters
    optimizer_steps = chosen["num_steps"] * _optimizer_steps(name, chosen)
    rate = schedule(chosen["learning_rate_schedule"], chosen["learning_rate"], optimizer_steps)
    made = optimizer(chosen["optimizer"], rate, chosen["momentum"], chosen["weight_decay"])
    own = {key: value for key, value in chosen.items() if key in parameters and key != "optimizer"}
    method = constructor(task, made, **own)
    if "guard_budget" not in chosen:
        return method
    return guarded(
        method,
        task,
        chosen.get("held_out", {}),
        num_steps=chosen["num_steps"],
        budget=chosen["guard_budget"],
        every=chosen["guard_every"],
    )


def _check_guard(name: str, given: Mapping[str, Any]) -> None:
    if name == "retrain":
        raise InputError(
            "method retrain begins with new weights, so there is nothing to guard; leave out "
            f"{' and '.join(key for key in GUARD_SETTINGS if key in given)}."
        )
    if "guard_budget" not in given:
        raise InputError(
            f"method {name} is told guard_every, but not what to guard; give guard_budget, by how "
            "much the held-out retain loss may rise, such as 0.05."
        )


def completed(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A record of a run whose settings have, where they lack one, the default of its method.

    So a run of an older version is the same as one of today, if the method has only gained
    settings since. A method that is not known here is left as it is.

    Args:
        recorded: a record with "method" and "settings".

    Returns:
        The record.

    Example:
        >>> completed({"method": "eupmu", "settings": {"tolerance": 1.0}})["settings"]["exponent"]
        0.5
    """
    method, theirs = recorded.get("method"), recorded.get("settings")
    if method not in available() or not isinstance(theirs, dict):
        return dict(recorded)
    return {**recorded, "settings": settings(method) | theirs}


def _settings_of(constructor: Callable[..., Method]) -> list[inspect.Parameter]:
    """The settings that only this method has, and its own default of `num_steps`, if any."""
    return [
        parameter
        for parameter in inspect.signature(constructor).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
        and (parameter.name != "num_steps" or parameter.default is not parameter.empty)
    ]


def _optimizer_steps(name: str, chosen: Mapping[str, Any]) -> int:
    """How often one step of a method calls the optimizer, whose schedule counts its own steps."""
    if "num_fast_steps" not in chosen or chosen.get("variant") == "R":
        return 1
    shared = chosen.get("share_optimizer", name == "sfron_released")
    return chosen["num_fast_steps"] + int(shared)  # a shared optimizer takes the forget step too


def _constructor(name: str) -> Callable[..., Method]:
    if name not in _METHODS:
        close = difflib.get_close_matches(name, _METHODS, n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        raise InputError(f"method is {name!r}, but must be one of {', '.join(_METHODS)}{hint}")
    return _METHODS[name]


def _checked(method: str, key: str, value: Any, default: Any) -> Any:
    """The value in the type of the default, or an error that names the setting."""
    kind = type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise InputError(
            f"setting {key} of method {method} is {value!r}, but must be of type {kind.__name__}, "
            f"such as {default!r}."
        )
    if isinstance(value, float) and value != value:
        raise InputError(f"setting {key} of method {method} is not a number; give one.")
    low, high, closed = _RANGES.get(key, (float("-inf"), float("inf"), True))
    if isinstance(value, int | float) and not (
        low <= value <= high and (closed or value > low) and abs(value) <= _LARGEST[kind]
    ):
        allowed = (
            f"in [{low:g}, {high:g}]"
            if high < float("inf")
            else ("finite" if low else ("0 or more" if closed else "positive"))
        )
        if abs(value) > _LARGEST[kind]:
            allowed += f" and at most {_LARGEST[kind]:.10g} in size"
        raise InputError(
            f"setting {key} of method {method} is {value!r}, but must be {allowed}; "
            f"the default is {default!r}."
        )
    return value
