"""Forget data that bring unseen examples along, for objectives that compare the two.

Objectives that end when forget data look like data that was never seen (`objectives.match_unseen`
and `objectives.until_unseen`) find it in the forget batch. It is validation data, which no model
was trained on and no result is reported on.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxunlearn import objectives, results
from jaxunlearn.data import Examples, Splits
from jaxunlearn.setting import Weights, to_device
from jaxunlearn.types import Arrays, InputError, Task


def has_unseen(splits: Splits) -> bool:
    """Whether there are validation examples like those that are forgotten."""
    return len(splits.validation) > 0 and len(splits.test_forget) == 0


def check_unseen(settings: Mapping[str, Any], splits: Splits) -> None:
    """Raises if an objective needs validation examples like those that are forgotten, and has none.

    Args:
        settings: of the method, which name its objective if it has one.
        splits: the data of the request.

    Raises:
        InputError: there are none.
    """
    if not objectives.needs_unseen(settings):
        return
    if len(splits.validation) == 0:
        raise InputError(
            "the objective compares forget data with validation data, but there are none; raise "
            "validation_fraction, or choose another objective, such as random_labels."
        )
    if not has_unseen(splits):
        raise InputError(
            "the objective compares forget data with unseen data of the same kind, but where whole "
            "classes are forgotten there are none; choose another objective, such as "
            "adaptive_ascent."
        )


def with_unseen(task: Task, original: Weights, splits: Splits, forget: Arrays) -> Arrays:
    """Forget data with one validation example for each, by the order of losses.

    Args:
        task: what is unlearned.
        original: the original model.
        splits: the data of the request, of which validation data is the unseen part.
        forget: the forget data on the device.

    Returns:
        Its leaves and as many of validation data: see `objectives.with_unseen`.
    """
    losses, unseen_losses = (
        jnp.asarray(_losses(task, original, part)) for part in (splits.forget, splits.validation)
    )
    return objectives.with_unseen(forget, losses, to_device(splits.validation), unseen_losses)


def _losses(task: Task, weights: Weights, examples: Examples) -> np.ndarray:
    probabilities, labels = results.predict(task, weights, examples.arrays())
    confidence = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(np.maximum(confidence, 1e-12)).astype(np.float32)
