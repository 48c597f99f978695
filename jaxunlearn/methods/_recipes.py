"""Recipes: methods with the literal settings of a published experiment, by name."""

from typing import Any, NamedTuple

from jaxunlearn.methods._recipes_of_generation import GENERATING


class Recipe(NamedTuple):
    """A method with the settings of one published experiment.

    Attributes:
        method: name of the method.
        about: source and experiment in one line, then all that differs from the released code.
        settings: published settings, in place of the method's defaults.
    """

    method: str
    about: str
    settings: dict[str, Any]


# Five epochs of batches of 256 of 45,000 images, of which a tenth is forgotten: forget and retain
# examples are in the proportion of the data, in every batch and in the weights of both losses.
_UNION: dict[str, Any] = {
    "num_steps": 880,
    "forget_batch_size": 26,
    "retain_batch_size": 230,
    "learning_rate": 0.003,
    "learning_rate_schedule": "constant",
    "joint_batch": True,
}
_WEIGHTS = {"forget_weight": 0.1, "retain_weight": 0.9}
_EUPMU = _UNION | _WEIGHTS | {"clip_norm": 1.0, "tolerance": -0.01, "project": False}
_TENTH = "a random tenth of CIFAR-10, ResNet-18"
_DRAWN = """Released batches are drawn from all the data, with about 26 forget examples; here each
has exactly 26."""

RECIPES: dict[str, Recipe] = {
    "eupmu_released": Recipe(
        "eupmu",
        f"""EUPMU as released (arXiv 2510.22124): {_TENTH}.

{_DRAWN} The released loop never sets its gradients to zero, so its learning rate
belongs to gradients that add up from step to step and are then clipped. As in the paper, here each
step has its own gradient.""",
        _EUPMU,
    ),
    "eupmu_next_batch_released": Recipe(
        "eupmu",
        f"""EUPMU without the extra forward pass, as released (arXiv 2510.22124): {_TENTH}.

The differences are those of eupmu_released.""",
        _EUPMU | {"estimator": "next_batch", "convex": True, "initial_multiplier": 1.0},
    ),
    "salun_released": Recipe(
        "salun",
        f"""SalUn as a baseline of EUPMU (arXiv 2510.22124): {_TENTH}, ten epochs.

{_DRAWN}""",
        _UNION | _WEIGHTS | {"num_steps": 1760, "learning_rate": 0.01},
    ),
    "gdr_gma_released": Recipe(
        "gdr_gma",
        f"""GDR-GMA as a baseline of EUPMU (arXiv 2510.22124): {_TENTH}.

{_DRAWN} The size of the memory bank is this library's.""",
        _UNION | _WEIGHTS | {"learning_rate": 0.1, "sharpness": 100.0, "threshold": 0.02},
    ),
    "famo_released": Recipe(
        "famo",
        f"""FAMO as a baseline of EUPMU (arXiv 2510.22124): {_TENTH}.

{_DRAWN} The learning rate is EUPMU's. The weights of the losses are
left out, since they cancel in the logarithms.""",
        _UNION | {"estimator": "same_batch", "logit_decay": 1e-5},
    ),
    "cagrad_released": Recipe(
        "cagrad",
        f"""CAGrad as a baseline of EUPMU (arXiv 2510.22124): {_TENTH}.

{_DRAWN} The learning rate is EUPMU's.""",
        _UNION | _WEIGHTS | {"clip_norm": 1.0, "rescale": True},
    ),
    "scrub_released": Recipe(
        "scrub",
        """SCRUB with the distillation temperature of its released code (NeurIPS 2023).

All other settings are this library's.""",
        {"temperature": 4.0},
    ),
}
RECIPES |= {name: Recipe(*parts) for name, parts in GENERATING.items()}
