"""Published unlearning methods: one per file, each a function from a task to a `Method`.

    method = methods.eupmu(task, optax.sgd(1e-2, momentum=0.9), tolerance=0.01)
    state = method.init(key, params, model_state, forget, retain)
    state, metrics = method.step(state, forget_batch, retain_batches)

Every constructor takes the task and an optax optimizer, then its own settings by keyword. For
configurations, `build` makes a method from flat settings, the optimizer's included. `register` adds
a custom method, which is then like any of these.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import optax

from jaxunlearn.methods._build import advance, begin, first
from jaxunlearn.methods._limits import (
    Count,
    Limits,
    NotNegative,
    Positive,
    Share,
    checked,
    limits_of,
)
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
from jaxunlearn.methods.optimizers import optimizer, schedule
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
from jaxunlearn.names import closest
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

# What stands in place of defaults where the model generates images: its loss is so sharp that the
# steps of classifiers lose the retain data at once.
GENERATING_SETTINGS: dict[str, Any] = {
    "optimizer": "clipped_adamw",
    "learning_rate": 1e-4,
    "weight_decay": 0.0,
}
_GENERATING: dict[str, dict[str, Any]] = {
    "sfron": {"forget_learning_rate": 1e-3},
    "eupmu_sfron": {"forget_learning_rate": 1e-3},
    "influence": {"damping": 100.0},
}

# What every method is also told where it has a budget; without one there is no guard.
GUARD_SETTINGS: dict[str, Any] = {"guard_budget": 0.0, "guard_every": 10}

# The limits of the settings that every method has; others have theirs in the method's signature.
_LIMITS: dict[str, Limits] = {
    "num_steps": Limits(0, above=True),
    "forget_batch_size": Limits(0, above=True),
    "retain_batch_size": Limits(0, above=True),
    "learning_rate": Limits(0.0),
    "momentum": Limits(0.0, 1.0),
    "weight_decay": Limits(0.0),
    "guard_budget": Limits(0.0),
    "guard_every": Limits(0, above=True),
}

__all__ = [
    "Count",
    "Limits",
    "NotNegative",
    "Positive",
    "Share",
    "advance",
    "available",
    "begin",
    "build",
    "first",
    "guard_records",
    "guarded",
    "limits",
    "register",
    "remedy",
    "settings",
    "summary",
    *_METHODS,
]


_REMEDIES = {
    "ssd": "Raise dampening",
    "influence": "Raise damping or lower alpha",
    "fisher_forgetting": "Lower alpha or max_variance",
} | dict.fromkeys(("sfron", "sfron_released", "eupmu_sfron"), "Lower the learning rate or alpha")


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
    return (inspect.getdoc(_constructor(name)) or "").partition("\n")[0]


def remedy(name: str) -> str:
    """What to do where a method diverges, by settings that it has.

    Example:
        >>> remedy("ssd")
        'Raise dampening'
    """
    return _REMEDIES.get(name, "Lower the learning rate")


def settings(
    name: str, given: Mapping[str, Any] | None = None, *, generates: bool = False
) -> dict[str, Any]:
    """All settings of a method: the defaults, with the given ones in their place.

    Args:
        name: of the method.
        given: settings by name; numbers may be given as whole numbers.
        generates: whether the model generates images; some defaults are others then.

    Returns:
        Every setting that the method and its optimizer have, and those of the guard if a
        `guard_budget` is given.

    Raises:
        InputError: an unknown method or setting, a value of another type, or one out of range.

    Example:
        >>> settings("eupmu", {"tolerance": 1})["tolerance"]
        1.0
        >>> settings("eupmu")["optimizer"], settings("eupmu", generates=True)["optimizer"]
        ('sgd', 'clipped_adamw')
    """
    own = {parameter.name: parameter.default for parameter in _settings_of(_constructor(name))}
    defaults = COMMON_SETTINGS | own
    if generates:
        defaults = COMMON_SETTINGS | GENERATING_SETTINGS | own | _GENERATING.get(name, {})
    if given and GUARD_SETTINGS.keys() & given.keys():
        _check_guard(name, given)
        defaults |= GUARD_SETTINGS
    allowed = limits(name) if given else {}
    for key, value in (given or {}).items():
        if key not in defaults:
            raise InputError(
                f"method {name} has no setting {key!r}{closest(key, defaults)}, only "
                f"{', '.join(defaults)}."
            )
        defaults[key] = checked(name, key, value, defaults[key], allowed.get(key, Limits()))
    return defaults


def limits(name: str) -> dict[str, Limits]:
    """The limits of a method's settings that have any, by their name.

    Raises:
        InputError: an unknown method.

    Example:
        >>> str(limits("eupmu_budget")["budget"])
        'above 0 and at most 100'
    """
    return _LIMITS | _own_limits(_constructor(name))


def register(constructor: Callable[..., Method]) -> Callable[..., Method]:
    """Makes an own method known by its name, to `build` and to every command; a decorator.

    Args:
        constructor: `constructor(task, optimizer, *, setting=default, ...) -> Method`. It is called
            twice, with traced values for floating-point settings. One named `num_steps` needs no
            default. Limits stand in the annotations, as in `alpha: NotNegative = 1.0`.

    Returns:
        The constructor.

    Raises:
        InputError: the name of a method of this library, or a setting without a default or with
            one outside its limits.

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
    allowed = _own_limits(constructor)
    for setting, default in ((p.name, p.default) for p in _settings_of(constructor)):
        if default is inspect.Parameter.empty:
            raise InputError(f"setting {setting} of method {name} has no default; give one.")
        if setting in allowed:
            checked(name, setting, default, default, allowed[setting])
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
    own = {key: value for key, value in chosen.items() if key in parameters and key != "optimizer"}
    # Made twice, since the length of the schedule is known by the method.
    calls = chosen["num_steps"] * constructor(task, optax.identity(), **own).optimizer_steps
    rate = schedule(chosen["learning_rate_schedule"], chosen["learning_rate"], calls)
    made = optimizer(chosen["optimizer"], rate, chosen["momentum"], chosen["weight_decay"])
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


def _own_limits(constructor: Callable[..., Method]) -> dict[str, Limits]:
    names = getattr(inspect.unwrap(constructor), "__globals__", {})
    own = {p.name: limits_of(p, names) for p in _settings_of(constructor)}
    return {name: found for name, found in own.items() if found != Limits()}


def _constructor(name: str) -> Callable[..., Method]:
    if name not in _METHODS:
        raise InputError(
            f"method is {name!r}{closest(name, _METHODS)}, but must be one of "
            f"{', '.join(_METHODS)}."
        )
    return _METHODS[name]
