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
    "salun_soft": ("salun_soft", {}),
    "l1_sparse": ("l1_sparse", {}),
    "cf_k": ("cf_k", {}),
    "eu_k": ("eu_k", {}),
    "msg": ("msg", {"mask_batch_size": 4}),
    "pcgrad": ("pcgrad", {}),
    "mgda": ("mgda", {}),
    "cagrad": ("cagrad", {}),
    "nash": ("nash", {}),
    "gdr_gma": ("gdr_gma", {"bank_size": 2}),
    "famo": ("famo", {}),
    "orthograd": ("orthograd", {}),
    "scrub": ("scrub", {"num_max_steps": 1, "num_min_steps": 1}),
    "scrub_r": ("scrub_r", {"num_max_steps": 1, "num_min_steps": 1}),
    "bad_teacher": ("bad_teacher", {}),
    "boundary_shrinking": ("boundary_shrinking", {}),
    "boundary_expanding": ("boundary_expanding", {}),
    "unsir": ("unsir", {"num_noise": 5, "num_noise_steps": 3}),
    "amun": ("amun", {"num_attack_steps": 3}),
    "dmm": ("dmm", {}),
    "influence": ("influence", {"num_fisher_batches": 6, "fisher_batch_size": 4}),
    "ssd": ("ssd", {"fisher_batch_size": 4}),
    "fisher_forgetting": ("fisher_forgetting", {"fisher_batch_size": 4}),
    "eupmu": ("eupmu", {}),
    "eupmu, next batch": ("eupmu", {"estimator": "next_batch"}),
    "eupmu, exact": ("eupmu", {"estimator": "exact"}),
    "eupmu_budget": ("eupmu_budget", {"audit_every": 1}),
    "eupmu_budget, rarely audited": ("eupmu_budget", {"audit_every": 1000}),
    "sfron": ("sfron", {}),
    "sfron, FR-on": ("sfron", {"variant": "FR-on"}),
    "sfron, R-on": ("sfron", {"variant": "R-on"}),
    "sfron, R": ("sfron", {"variant": "R"}),
    "sfron, shared": ("sfron", {"share_optimizer": True}),
    "sfron, two optimizers": ("sfron", {"forget_optimizer": "adam"}),
    "sfron_released": ("sfron_released", {}),
    "eupmu_sfron": ("eupmu_sfron", {"objective": "adaptive_ascent"}),
    "eupmu_sfron, shared": (
        "eupmu_sfron",
        {"objective": "adaptive_ascent", "share_optimizer": True},
    ),
    "eupmu_sfron, next batch": ("eupmu_sfron", {"estimator": "next_batch", "saliency": False}),
}

# These run forget data alone in training mode, and those never write running statistics.
FORGET_ONLY = ("gradient_ascent", "boundary_shrinking", "boundary_expanding", "orthograd")

# These run on models that generate: test_generating.py has their cases.
GENERATING = ("selective_amnesia", "esd", "concept_ablation")

# These run on models with convolutions: test_kernels.py has their cases.
CONVOLUTIONAL = ("ct",)

# These edit the weights in `init`, and then only measure. The first draws no random number.
ONE_SHOT = ("ssd", "influence", "fisher_forgetting")


def runner(case: str) -> toy.Runner:
    """The runner of a case, compiled once for all tests."""
    name, static = CASES[case]
    return toy.runner(name, **static)
