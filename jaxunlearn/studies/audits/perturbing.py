"""Residual knowledge: are forget examples still known in their neighbourhood?

Noise is added to the forget examples, `x' = x + r s n`, where s is the standard deviation of all
their values and n is standard normal. A model that merely hides an example may still classify its
neighbours better than the retrained model does. The residual knowledge is the accuracy on the
perturbed examples minus the retrained model's, with the same noise.

Source: arXiv 2601.22359, which also has worst-case neighbours; here they are random.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxunlearn import evaluation
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.types import Arrays, Task, Weights

RADII = (0.25, 0.5, 1.0)
_DRAWS = 2


def perturbed_accuracy(
    task: Task, weights: Weights, forget: Arrays, radii: Sequence[float] = RADII, seed: int = 0
) -> list[float]:
    """Accuracy in percent on the forget examples with noise of each radius r, two draws each."""
    rng, curve = np.random.default_rng(seed), []
    for radius in radii:
        draws = [
            evaluation.accuracy(predict_with(task, weights, _perturbed(forget, radius, rng)))
            for _ in range(_DRAWS)
        ]
        curve.append(float(np.mean(draws)))
    return curve


def _perturbed(forget: Arrays, radius: float, rng: np.random.Generator) -> Arrays:
    images = np.asarray(forget["image"])
    moved = images + radius * images.std() * rng.standard_normal(images.shape)
    if images.dtype == np.uint8:
        moved = np.clip(np.round(moved), 0, 255)
    return {**forget, "image": jnp.asarray(moved.astype(images.dtype))}
