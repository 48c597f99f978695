"""Memorisation: the gain in confidence on an example from learning it.

    mem(i) = mean p(y_i | x_i) over models trained with i - the same over models trained without i

Models come in pairs that learn from complementary random halves of the data, so that half of the
models learn each example. The original definition counts correct answers; the probability of the
right class estimates the same with fewer models.

Source: Feldman and Zhang, What Neural Networks Memorize and Why, NeurIPS 2020.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.studies.audits import shadow_models as shadows
from jaxunlearn.training import Diverged
from jaxunlearn.training.devices import Placement
from jaxunlearn.types import Arrays, Task


def memorisation(
    task: Task,
    settings: dict[str, Any],
    examples: Arrays,
    num_models: int = 16,
    seed: int = 0,
    placement: Placement | None = None,
) -> np.ndarray:
    """Estimates the memorisation of N examples, float64 `[N]`, from an even number of new models.

    `settings` are all settings of the method "retrain", with which the models are trained.
    """
    size, labels = len(examples["label"]), np.asarray(examples["label"])
    rng, halves = np.random.default_rng(seed), []
    for _ in range(0, num_models, 2):
        order = rng.permutation(size)
        halves += [np.sort(order[: size // 2]), np.sort(order[size - size // 2 :])]
    root = jax.random.key(seed)
    keys = jax.vmap(lambda model: jax.random.fold_in(root, model))(jnp.arange(num_models))
    starts = (shadows.new_weights(task, key) for key in keys)
    ends = shadows.train(
        task, "retrain", settings, keys, starts, examples, halves, halves, placement=placement
    )
    learned, right = np.zeros((num_models, size), bool), np.zeros((num_models, size))
    for model, (half, weights) in enumerate(zip(halves, ends, strict=True)):
        if weights is None:
            raise Diverged(
                f"model {model} of memorisation diverged; lower the learning rate of its training."
            )
        learned[model, half] = True
        probabilities = predict_with(task, weights, examples).probabilities
        right[model] = probabilities[np.arange(size), labels]
    with_it = (right * learned).sum(axis=0) / learned.sum(axis=0).clip(1)
    without_it = (right * ~learned).sum(axis=0) / (~learned).sum(axis=0).clip(1)
    return with_it - without_it
