"""MGDA: the shortest direction between the two gradients."""

import optax

from jaxunlearn import transforms
from jaxunlearn.methods import objectives
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._two_gradients import two_gradients
from jaxunlearn.methods.objectives import ObjectiveName
from jaxunlearn.types import Method, Task


def mgda(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    objective: ObjectiveName = "random_labels",
    exponent: NotNegative = 0.5,
) -> Method:
    """Descends the point of least norm between both gradients: it vanishes at a Pareto point.

        d = w g_f + (1 - w) g_r,   w = clip(<g_r - g_f, g_r> / |g_r - g_f|^2, 0, 1)
        theta <- theta - opt(d)

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer.
        objective: the forget objective, a name of `objectives.named`.
        exponent: of adaptive ascent.

    Returns:
        A `Method`.

    Raises:
        InputError: an unknown objective.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = mgda(task, optax.sgd(0.01))

    Reference: Desideri, Multiple-gradient descent algorithm, 2012; Sener and Koltun, NeurIPS 2018.
    """
    forget = objectives.named(objective, exponent, task)
    return two_gradients(task, transforms.mgda(), optimizer, forget)
