"""Memorisation: how much more a model makes of an example when it has learned from it.

    mem(i) = mean p(y_i | x_i) over models trained with i - the same over models trained without i

Models come in pairs that learn from complementary random halves of the data, so that every example
is in half of them. The original definition counts correct answers; the probability of the right
class says the same with fewer models.

Source: Feldman and Zhang, What Neural Networks Memorize and Why, NeurIPS 2020.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.studies.audits import shadow_models as shadows
from jaxunlearn.training.programs import split
from jaxunlearn.types import Arrays, Task


def memorisation(
    task: Task, settings: dict[str, Any], examples: Arrays, num_models: int = 16, seed: int = 0
) -> np.ndarray:
    """Estimates the memorisation of each example by training new models, one after the other.

    Args:
        task: what is learned.
        settings: all settings of the training, as of the method "retrain".
        examples: N of them, an even number or one more.
        num_models: how many models, an even number.
        seed: decides the halves, the initial weights and the order of the data.

    Returns:
        float64 `[N]`, from -1 to 1.
    """
    size = examples["label"].shape[0]
    train = shadows.train(task, "retrain", settings)
    values = {name: jnp.float32(value) for name, value in split(settings).numbers.items()}
    rng, labels = np.random.default_rng(seed), np.asarray(examples["label"])
    learned = np.zeros((num_models, size), bool)
    right = np.zeros((num_models, size))
    for model in range(num_models):
        if model % 2 == 0:
            order = rng.permutation(size)
        half = order[: size // 2] if model % 2 == 0 else order[size - size // 2 :]
        keys = jax.random.fold_in(jax.random.key(seed), model)[None]
        start = shadows.new_weights(task, keys)
        positions = jnp.asarray(np.sort(half))
        weights = train(values, keys, *start, examples, {}, positions[None], positions)
        probabilities, _ = shadows.predict_group(task, *weights, examples)
        learned[model, half] = True
        right[model] = np.asarray(probabilities)[0, np.arange(size), labels]
    with_it = (right * learned).sum(axis=0) / learned.sum(axis=0).clip(1)
    without_it = (right * ~learned).sum(axis=0) / (~learned).sum(axis=0).clip(1)
    return with_it - without_it
