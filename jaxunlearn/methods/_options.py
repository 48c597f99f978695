"""The optional settings of methods with two losses, which `build` applies."""

from collections.abc import Mapping
from typing import Any

import optax

from jaxunlearn.methods._saliency import gradient_mask, masked
from jaxunlearn.transforms import saliency_mask
from jaxunlearn.types import InputError, LossPair, Method, Task

_MASK_BATCH = 32

# Methods that see both losses of a step at once.
_PAIRED = (
    *("scalarization", "neggrad_plus", "random_labels", "pcgrad", "mgda", "cagrad", "nash"),
    *("gdr_gma", "famo", "eupmu", "eupmu_budget"),
)
_SALUN = ("salun", "salun_soft")
_WEIGHED = ("sfron", "sfron_released", "eupmu_sfron", *_SALUN, *_PAIRED)
_ONLY_OF = {
    "ema": ("retrain",),
    "forget_weight": tuple(name for name in _WEIGHED if name != "famo"),
    "retain_weight": tuple(name for name in _WEIGHED if name != "famo"),
    "joint_batch": (*_PAIRED, *_SALUN, "eupmu_sfron"),
    "keep_weight": _WEIGHED,
    "saliency_fraction": _PAIRED,
    "fisher_clip_norm": ("sfron", "eupmu_sfron"),
}


# The budget bounds the cross-entropy, and nothing that takes its place.
_NOT_OF = {"retain_objective": ("eupmu_budget",)}


def has_option(method: str, name: str) -> bool:
    """Whether a method has an optional setting."""
    return method in _ONLY_OF.get(name, (method,)) and method not in _NOT_OF.get(name, ())


def with_weights(task: Task, optional: Mapping[str, Any]) -> Task:
    """The task with the given weights of both losses, and joint batches."""
    if optional.get("joint_batch"):
        if task.predict is None:
            raise InputError(
                "joint_batch is true, but must be false for models that generate images, which "
                "have no batch statistics; leave it out, or choose a recipe for such models."
            )
        task = task._replace(joint_batch=True)
    if "keep_weight" in optional:
        if task.predict is None:
            raise InputError(
                "keep_weight is set, but models that generate images have no confidences to keep; "
                "leave it out, or set retain_objective to match_original."
            )
        task = task._replace(keep_weight=optional["keep_weight"])
    if optional.keys() & {"forget_weight", "retain_weight"}:
        weights = (optional.get(name, 1.0) for name in ("forget_weight", "retain_weight"))
        task = task._replace(weights=LossPair(*weights))
    return task


def finished(
    optimizer: optax.GradientTransformation, optional: Mapping[str, Any]
) -> optax.GradientTransformation:
    """The optimizer, after the clipping and before the mask."""
    if "clip_norm" in optional:
        optimizer = optax.chain(optax.clip_by_global_norm(optional["clip_norm"]), optimizer)
    if "saliency_fraction" in optional:
        optimizer = optax.chain(optimizer, saliency_mask())
    return optimizer


def with_mask(method: Method, task: Task, optional: Mapping[str, Any]) -> Method:
    """The method with the mask of its start, if its optimizer is masked."""
    if "saliency_fraction" not in optional:
        return method
    fraction = optional["saliency_fraction"]
    return masked(
        method, lambda start: gradient_mask(task, start, fraction=fraction, batch_size=_MASK_BATCH)
    )
