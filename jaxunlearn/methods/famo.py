"""FAMO: log losses, with weights that slow down whichever falls faster."""

import optax

from jaxunlearn import transforms
from jaxunlearn.methods import objectives
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._two_gradients import two_gradients
from jaxunlearn.types import Method, Task


def famo(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    logit_learning_rate: NotNegative = 0.025,
    logit_decay: NotNegative = 1e-3,
) -> Method:
    """Fits random labels and the retain data, so that both losses fall in the same proportion.

        d = sum_i z_i g_i / L_i / sum_i (z_i / L_i),   z = softmax(xi),   i in {forget, retain}
        theta <- theta - opt(d);   xi descends `J_softmax^T (log L_before - log L_after)` by Adam

    The forget objective is that of random labels: the logarithm asks for positive losses, and
    ascent has none.

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer.
        logit_learning_rate: the rate of the Adam that moves xi.
        logit_decay: added to the gradient of xi, times xi.

    Returns:
        A `Method`.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = famo(task, optax.sgd(0.01))

    Reference: Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023.
    """
    aggregator = transforms.famo(logit_learning_rate=logit_learning_rate, logit_decay=logit_decay)
    return two_gradients(task, aggregator, optimizer, objectives.random_labels())
