"""PCGrad: where the two gradients conflict, each is projected off the other."""

import optax

from jaxunlearn import transforms
from jaxunlearn.methods import objectives
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._two_gradients import two_gradients
from jaxunlearn.methods.objectives import ObjectiveName
from jaxunlearn.types import Method, Task


def pcgrad(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    objective: ObjectiveName = "random_labels",
    exponent: NotNegative = 0.5,
) -> Method:
    """Descends the sum of both gradients, each without its part against the other.

        d = g_f + g_r - [c < 0] (c / |g_r|^2 g_r + c / |g_f|^2 g_f),   c = <g_f, g_r>
        theta <- theta - opt(d)

    So `<g_f, d> >= 0` and `<g_r, d> >= 0`: to first order neither loss rises.

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
        >>> method = pcgrad(task, optax.sgd(0.01))

    Reference: Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020.
    """
    forget = objectives.named(objective, exponent, task)
    return two_gradients(task, transforms.pcgrad(), optimizer, forget)
