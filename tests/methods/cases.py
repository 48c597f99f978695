"""Every method in every form that has code of its own."""

from typing import Any

from tests import toy

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "retrain": ("retrain", {}),
    "finetune": ("finetune", {}),
    "gradient_ascent": ("gradient_ascent", {}),
    "neggrad_plus": ("neggrad_plus", {}),
    "random_labels": ("random_labels", {}),
    "scalarization": ("scalarization", {}),
    "salun": ("salun", {}),
    "eupmu": ("eupmu", {}),
    "eupmu, next batch": ("eupmu", {"multiplier": "next_batch"}),
    "eupmu, exact": ("eupmu", {"multiplier": "exact"}),
    "sfron": ("sfron", {}),
    "sfron, FR-on": ("sfron", {"variant": "FR-on"}),
    "sfron, R-on": ("sfron", {"variant": "R-on"}),
    "sfron, R": ("sfron", {"variant": "R"}),
    "sfron_released": ("sfron_released", {}),
    "eupmu_sfron": ("eupmu_sfron", {"objective": "adaptive_ascent"}),
    "eupmu_sfron, next batch": ("eupmu_sfron", {"multiplier": "next_batch", "saliency": False}),
}


def runner(case: str) -> toy.Runner:
    """The runner of a case, compiled once for all tests."""
    name, static = CASES[case]
    return toy.runner(name, **static)
