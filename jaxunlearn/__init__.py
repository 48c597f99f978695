"""jaxunlearn: make a trained model forget, with optax gradient transformations.

`import jaxunlearn` is the core and needs jax and optax only, which it imports when the first of its
names is used. The rest is imported by name: `jaxunlearn.methods`, `jaxunlearn.tasks`,
`jaxunlearn.training`, `jaxunlearn.evaluation`, `jaxunlearn.models`, `jaxunlearn.data`,
`jaxunlearn.report`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxunlearn.version import __version__

if TYPE_CHECKING:
    from jaxunlearn import transforms as transforms
    from jaxunlearn import types as types
    from jaxunlearn.transforms import (
        FamoState,
        FastSlowState,
        GdrGmaState,
        ImplicitSurgeryState,
        SaliencyMaskState,
        UnilateralSurgeryState,
        adaptive_weights,
        cagrad,
        dual_gradient,
        famo,
        fast_slow,
        fast_slow_carry,
        fisher_diagonal,
        fisher_ratio_mask,
        gdr_gma,
        implicit_surgery,
        loss_weights,
        mgda,
        multiplier,
        nash,
        pcgrad,
        saliency_mask,
        shared_fast_slow,
        surgery_value_and_grad,
        top_fraction_mask,
        unilateral_surgery,
    )
    from jaxunlearn.types import InputError, LossPair

__all__ = [
    "FamoState",
    "FastSlowState",
    "GdrGmaState",
    "ImplicitSurgeryState",
    "InputError",
    "LossPair",
    "SaliencyMaskState",
    "UnilateralSurgeryState",
    "__version__",
    "adaptive_weights",
    "cagrad",
    "dual_gradient",
    "famo",
    "fast_slow",
    "fast_slow_carry",
    "fisher_diagonal",
    "fisher_ratio_mask",
    "gdr_gma",
    "implicit_surgery",
    "loss_weights",
    "mgda",
    "multiplier",
    "nash",
    "pcgrad",
    "saliency_mask",
    "shared_fast_slow",
    "surgery_value_and_grad",
    "top_fraction_mask",
    "unilateral_surgery",
]

_FLOORS = ("transforms", "types")

if not TYPE_CHECKING:  # type checkers see the imports above, and so every misspelt name

    def __getattr__(name: str) -> Any:
        if name in _FLOORS:
            return importlib.import_module(f"jaxunlearn.{name}")
        if name in __all__:
            home = "types" if name in ("InputError", "LossPair") else "transforms"
            return getattr(importlib.import_module(f"jaxunlearn.{home}"), name)
        raise AttributeError(f"module 'jaxunlearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_FLOORS})
