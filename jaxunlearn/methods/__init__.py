"""Published unlearning methods: functions of a task and an optimizer.

    >>> from jaxunlearn import models, tasks
    >>> model = models.create("mlp-tiny", 10)
    >>> task = tasks.classification(model, image_shape=(8, 8, 1), num_classes=10)
    >>> method = eupmu(task, optax.sgd(1e-2, momentum=0.9), tolerance=0.01)

    state = method.init(key, params, model_state, forget, retain)
    state, metrics = method.step(state, forget_batch, retain_batches)

The settings of a method are keywords, whose annotations hold the limits. For configurations,
`build` makes a method from flat settings, including those of the optimizer. `register` adds a
custom method. A recipe is a method with the settings of a published experiment, such as
"eupmu_released"; its name stands wherever a method's does.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn import plugins
from jaxunlearn.methods import objectives
from jaxunlearn.methods._build import advance, begin, first
from jaxunlearn.methods._limits import (
    Choices,
    Count,
    Limits,
    NotNegative,
    Positive,
    Share,
    checked,
    defaults_of,
    limits_of,
)
from jaxunlearn.methods._options import finished, has_option, with_mask, with_weights
from jaxunlearn.methods._original import made_for, remembering, showing_retain
from jaxunlearn.methods._recipes import RECIPES
from jaxunlearn.methods._settings import (
    CommonSettings,
    GuardSettings,
    ObjectiveSettings,
    OptionalSettings,
)
from jaxunlearn.methods.aggregators import cagrad, famo, gdr_gma, mgda, nash, pcgrad
from jaxunlearn.methods.amun import amun
from jaxunlearn.methods.averaging import averaged, weights_of
from jaxunlearn.methods.bad_teacher import bad_teacher
from jaxunlearn.methods.boundary import boundary_expanding, boundary_shrinking
from jaxunlearn.methods.concept_ablation import concept_ablation
from jaxunlearn.methods.dmm import dmm
from jaxunlearn.methods.esd import esd
from jaxunlearn.methods.eupmu import eupmu
from jaxunlearn.methods.eupmu_budget import eupmu_budget
from jaxunlearn.methods.eupmu_sfron import eupmu_sfron
from jaxunlearn.methods.fisher_forgetting import fisher_forgetting
from jaxunlearn.methods.guard import check_guard, guard_records, guarded
from jaxunlearn.methods.influence import influence
from jaxunlearn.methods.kernels import ct, msg
from jaxunlearn.methods.l1_sparse import l1_sparse
from jaxunlearn.methods.last_layers import cf_k, eu_k
from jaxunlearn.methods.optimizers import optimizer, rest_of, schedule
from jaxunlearn.methods.orthograd import orthograd
from jaxunlearn.methods.retrain import finetune, retrain
from jaxunlearn.methods.salun import salun, salun_soft
from jaxunlearn.methods.scalarization import (
    gradient_ascent,
    neggrad_plus,
    random_labels,
    scalarization,
)
from jaxunlearn.methods.scrub import scrub, scrub_r
from jaxunlearn.methods.selective_amnesia import selective_amnesia
from jaxunlearn.methods.sfron import sfron, sfron_released
from jaxunlearn.methods.ssd import ssd
from jaxunlearn.methods.unsir import unsir
from jaxunlearn.names import closest
from jaxunlearn.types import InputError, Method, Task

_METHODS: dict[str, Callable[..., Method]] = {
    constructor.__name__: constructor
    for constructor in (
        retrain,
        finetune,
        gradient_ascent,
        neggrad_plus,
        random_labels,
        scalarization,
        salun,
        salun_soft,
        l1_sparse,
        cf_k,
        eu_k,
        msg,
        ct,
        pcgrad,
        mgda,
        cagrad,
        nash,
        gdr_gma,
        famo,
        orthograd,
        scrub,
        scrub_r,
        bad_teacher,
        boundary_shrinking,
        boundary_expanding,
        unsir,
        amun,
        dmm,
        influence,
        ssd,
        fisher_forgetting,
        selective_amnesia,
        esd,
        concept_ablation,
        eupmu,
        eupmu_budget,
        sfron,
        sfron_released,
        eupmu_sfron,
    )
}
_BUILT_IN = (*_METHODS, *RECIPES)

COMMON_SETTINGS: dict[str, Any] = defaults_of(CommonSettings)
GUARD_SETTINGS: dict[str, Any] = defaults_of(GuardSettings)
_OPTIONAL_SETTINGS: dict[str, Any] = defaults_of(OptionalSettings)
_OBJECTIVE_SETTINGS: dict[str, Any] = defaults_of(ObjectiveSettings)

# Defaults for generative models: their loss is so sharp that a step of a classifier's size destroys
# the performance on retain data at once.
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

_REMEDIES = {
    "ssd": "Raise dampening",
    "influence": "Raise damping or lower alpha",
    "fisher_forgetting": "Lower alpha or max_variance",
} | dict.fromkeys(("sfron", "sfron_released", "eupmu_sfron"), "Lower the learning rate or alpha")

__all__ = [
    "Choices",
    "CommonSettings",
    "Count",
    "GuardSettings",
    "Limits",
    "NotNegative",
    "ObjectiveSettings",
    "OptionalSettings",
    "Positive",
    "Share",
    "about",
    "advance",
    "available",
    "averaged",
    "begin",
    "build",
    "choices",
    "completed",
    "first",
    "guard_records",
    "guarded",
    "limits",
    "method_of",
    "optional_settings",
    "recipes",
    "register",
    "remedy",
    "remembering",
    "settings",
    "showing_retain",
    "summary",
    "weights_of",
    *_METHODS,
]


def available() -> tuple[str, ...]:
    """The names of all methods.

    Example:
        >>> "eupmu" in available() and "sfron" in available()
        True
    """
    return tuple(_METHODS)


def recipes() -> tuple[str, ...]:
    """The names of all recipes.

    Example:
        >>> settings("gdr_gma_released")["sharpness"], settings("gdr_gma")["sharpness"]
        (100.0, 10.0)
    """
    return tuple(RECIPES)


def choices() -> tuple[str, ...]:
    """The names of all methods and recipes."""
    return (*available(), *recipes())


def about(name: str) -> str:
    """The text on a recipe, or a method's docstring without its arguments."""
    if name in RECIPES:
        return f"{inspect.cleandoc(RECIPES[name].about)}\n\nIt is the method {method_of(name)}."
    return (inspect.getdoc(_constructor(name)) or "").partition("\nArgs:")[0].rstrip()


def summary(name: str) -> str:
    """The first line about a method or a recipe."""
    return about(name).partition("\n")[0]


def method_of(name: str) -> str:
    """The method of a recipe; for a method, its own name."""
    return RECIPES[name].method if name in RECIPES else name


def remedy(name: str) -> str:
    """The advice for a method that diverges, such as "Raise dampening"."""
    return _REMEDIES.get(method_of(name), "Lower the learning rate")


def settings(
    name: str, given: Mapping[str, Any] | None = None, *, generates: bool = False
) -> dict[str, Any]:
    """All settings of a method and its optimizer: the given ones, and the defaults of the others.

    Args:
        name: name of the method, or of a recipe, whose settings then are the defaults.
        given: settings by name; an integer is accepted for a floating-point setting. Optional
            settings are included if they are given; those of the guard, if any of them is given.
        generates: whether the model generates images, for which some defaults differ.

    Raises:
        InputError: an unknown method or setting, a value of another type, or one out of range.

    Example:
        >>> settings("eupmu", {"tolerance": 1})["tolerance"]
        1.0
        >>> settings("eupmu")["optimizer"], settings("eupmu", generates=True)["optimizer"]
        ('sgd', 'clipped_adamw')
    """
    own, given = defaults_of(_constructor(name)), _with_recipe(name, given or {})
    defaults = COMMON_SETTINGS | own
    if generates:
        defaults = (
            COMMON_SETTINGS | GENERATING_SETTINGS | own | _GENERATING.get(method_of(name), {})
        )
    if GUARD_SETTINGS.keys() & given.keys():
        check_guard(name, given)
        defaults |= GUARD_SETTINGS
    optional = optional_settings(name)
    defaults |= {key: optional[key] for key in given if key in optional and key not in defaults}
    allowed, known = limits(name) if given else {}, defaults | optional
    for key, value in given.items():
        if key not in defaults:
            names = [each for each in known if each in own or each not in _OBJECTIVE_SETTINGS]
            raise InputError(
                f"method {name} has no setting {key!r}{closest(key, known)}; its settings are "
                f"{', '.join(names)}"
                + (", or options of its objective." if "objective" in own else ".")
            )
        defaults[key] = checked(name, key, value, defaults[key], allowed.get(key))
    chosen = given.keys() & _OBJECTIVE_SETTINGS.keys() - own.keys()
    options = {key: defaults[key] for key in chosen}
    objectives.check_options(options, defaults.get("objective"))
    return defaults


def optional_settings(name: str) -> dict[str, Any]:
    """The settings of a method that a run has only if they are given, with typical values.

    Example:
        >>> sorted(optional_settings("retrain"))
        ['clip_norm', 'ema']
    """
    own, method = defaults_of(_constructor(name)), method_of(name)
    known = _OPTIONAL_SETTINGS | (_OBJECTIVE_SETTINGS if "objective" in own else {})
    more = {k: v for k, v in known.items() if k not in own and has_option(method, k)}
    if method == "retrain":
        return {name: value for name, value in more.items() if name != "rewind"}
    return GUARD_SETTINGS | more


def limits(name: str) -> dict[str, Limits | Choices]:
    """The limits of a method's settings, by name; settings without limits are left out.

    Example:
        >>> str(limits("eupmu_budget")["budget"])
        'above 0 and at most 100'
    """
    found = limits_of(CommonSettings) | limits_of(GuardSettings) | limits_of(OptionalSettings)
    found |= limits_of(ObjectiveSettings)
    known = COMMON_SETTINGS | optional_settings(name)
    found = {key: limit for key, limit in found.items() if key in known}
    return found | limits_of(_constructor(name))


def register(constructor: Callable[..., Method]) -> Callable[..., Method]:
    """A decorator that adds a custom method, for `build` and for every command.

    Args:
        constructor: `constructor(task, optimizer, *, setting=default, ...) -> Method`. It is called
            twice, with traced values for floating-point settings. A setting named `num_steps` needs
            no default. Annotations hold the limits, as in `alpha: NotNegative = 1.0`.

    Raises:
        InputError: the name of another method, another signature, or a setting whose default is
            missing, of another type, or outside its limits.

    Example:
        >>> import optax
        >>> @register
        ... def halved(task, optimizer, *, factor: float = 0.5):
        ...     return finetune(task, optax.chain(optimizer, optax.scale(factor)))
        >>> settings("halved")["factor"]
        0.5
    """
    name, signature = constructor.__name__, inspect.signature(constructor)
    kinds = [p.kind for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    if kinds != [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2:
        raise InputError(
            f"method {name} takes {signature}, but must take (task, optimizer, *, "
            "setting=default, ...)."
        )
    allowed = limits_of(constructor)
    empty = {p.name: None for p in signature.parameters.values() if p.default is None}
    for setting, default in (defaults_of(constructor) | empty).items():
        if default is inspect.Parameter.empty:
            raise InputError(f"setting {setting} of method {name} has no default; give one.")
        if not isinstance(default, bool | int | float | str):
            raise InputError(
                f"setting {setting} of method {name} is {default!r} by default, but must be a "
                "number, a truth value or a text."
            )
        checked(name, setting, default, default, allowed.get(setting))
    plugins.claim("method", name, _BUILT_IN)
    _METHODS[name] = constructor
    return constructor


def build(task: Task, name: str, chosen: Mapping[str, Any]) -> Method:
    """A method by name, with an optimizer made from the settings.

    Args:
        task: the unlearning task.
        name: name of the method or recipe.
        chosen: all its settings, from `settings`; floating-point ones may be traced values. With a
            `guard_budget`, "held_out" holds the retain examples of the guard.

    Returns:
        A `Method`, guarded if there is a `guard_budget`.

    Raises:
        InputError: an unknown method, or an unknown choice of a setting.
    """
    optional = {key: chosen[key] for key in optional_settings(name) if key in chosen}
    task = with_weights(objectives.with_options(task, chosen), optional)
    # Built twice, because the method determines the length of the schedule.
    make, rate, _ = _planned(task, name, chosen)
    made = optimizer(chosen["optimizer"], rate, chosen["momentum"], chosen["weight_decay"])
    method = with_mask(make(finished(made, optional)), task, optional)
    if "ema" in optional:
        method = averaged(method, chosen["ema"])
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


def learning_rates(task: Task, name: str, chosen: Mapping[str, Any]) -> np.ndarray:
    """The learning rate at the first optimizer call of each step of a run, float32 `[num_steps]`.

    The arguments are those of `build`.
    """
    _, rate, calls = _planned(task, name, chosen)
    counts = jnp.arange(chosen["num_steps"]) * calls
    return np.asarray(jax.vmap(lambda count: jnp.asarray(rate(count), jnp.float32))(counts))


def _planned(
    task: Task, name: str, chosen: Mapping[str, Any]
) -> tuple[Callable[[optax.GradientTransformation], Method], optax.Schedule, int]:
    """A method as a function of its optimizer, the schedule, and its optimizer calls in a step."""
    constructor = _constructor(name)
    parameters = inspect.signature(constructor).parameters
    own = {key: value for key, value in chosen.items() if key in parameters and key != "optimizer"}

    def make(optimizer: optax.GradientTransformation) -> Method:
        return made_for(task, lambda task: constructor(task, optimizer, **own), chosen)

    plan = make(optax.identity())
    if not isinstance(plan, Method):
        raise InputError(
            f"method {name} returns {type(plan).__name__}, but must return "
            "jaxunlearn.types.Method(init, step)."
        )
    calls = chosen["num_steps"] * plan.optimizer_steps
    rate = schedule(chosen["learning_rate_schedule"], chosen["learning_rate"], calls)
    if "rewind" in chosen:
        rate = rest_of(rate, chosen["rewind"], calls)
    return make, rate, plan.optimizer_steps


def completed(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A record of a run ("method", "settings") with the default of every setting that it lacks.

    So a run of an older version equals one of today if its method has only gained settings. The
    record of an unknown method is unchanged.
    """
    method, theirs = recorded.get("method"), recorded.get("settings")
    if method not in choices() or not isinstance(theirs, dict):
        return dict(recorded)
    return {**recorded, "settings": settings(method) | theirs}


def _with_recipe(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return {**(RECIPES[name].settings if name in RECIPES else {}), **given}


def _constructor(name: str) -> Callable[..., Method]:
    if name not in choices():
        raise InputError(
            f"method is {name!r}{closest(name, choices())}, but must be one of "
            f"{', '.join(available())}, or a recipe (jaxunlearn list recipes)."
        )
    return _METHODS[method_of(name)]
