"""Recipes: methods with the literal settings of a published experiment, by name."""

from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """A method with the settings of one published experiment.

    Attributes:
        method: name of the method.
        about: source and experiment in one line, then all that differs from the released code.
        settings: settings that differ from the method's defaults.
    """

    method: str
    about: str
    settings: dict[str, Any]


# Five epochs of random batches of 256 of 45,000 images, a tenth of which is forgotten.
_UNION = {
    "num_steps": 880,
    "forget_batch_size": 26,
    "retain_batch_size": 230,
    "learning_rate": 0.003,
    "learning_rate_schedule": "constant",
}

RECIPES: dict[str, Recipe] = {
    "gdr_gma_released": Recipe(
        "gdr_gma",
        """GDR-GMA as a baseline of EUPMU (arXiv 2510.22124): a random tenth of CIFAR-10, ResNet-18.

        The size of the memory bank is this library's.""",
        _UNION | {"learning_rate": 0.1, "sharpness": 100.0, "threshold": 0.02},
    ),
}
