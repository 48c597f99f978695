"""CF-k: catastrophic forgetting in the last k layers, by fine-tuning nothing else."""

import optax

from jaxunlearn.methods._last_layers import train_last_layers
from jaxunlearn.methods._limits import Count
from jaxunlearn.types import Method, Task


def cf_k(task: Task, optimizer: optax.GradientTransformation, *, num_layers: Count = 2) -> Method:
    """Goes on training the last k layers on the retain data; the others stay bit for bit.

        theta_last <- theta_last - opt(grad_last L_r)

    Args:
        task: what is unlearned; its parameters are a dictionary with one entry per layer.
        optimizer: any optax optimizer.
        num_layers: k, counted in top-level entries of the parameters, in the order in which the
            model makes them: 1 is the head, all of them are fine-tuning.

    Returns:
        A `Method`.

    Raises:
        InputError: parameters that are no dictionary, or more layers than there are.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = cf_k(task, optax.sgd(0.01), num_layers=1)

    Reference: Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning
    (arXiv 2201.06640), 2022.
    """
    return train_last_layers(task, optimizer, num_layers, lambda key, params, layers: params)
