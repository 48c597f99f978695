"""CAGrad: the direction near the average gradient that helps the worse of the two losses most."""

import optax

from jaxunlearn import transforms
from jaxunlearn.methods import objectives
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._two_gradients import two_gradients
from jaxunlearn.methods.objectives import ObjectiveName
from jaxunlearn.types import Method, Task


def cagrad(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    c: NotNegative = 0.4,
    objective: ObjectiveName = "random_labels",
    exponent: NotNegative = 0.5,
) -> Method:
    """Descends the direction of the largest worse gain, in a ball around the average gradient.

        d = argmax min(<g_f, d>, <g_r, d>)  where  |d - g_0| <= c |g_0|,  g_0 = (g_f + g_r) / 2
        theta <- theta - opt(d)

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer.
        c: the radius of the ball, relative to `|g_0|`, 0 or more; 0 is the plain average.
        objective: the forget objective, a name of `objectives.named`.
        exponent: of adaptive ascent.

    Returns:
        A `Method`.

    Raises:
        InputError: an unknown objective, or a negative `c`.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = cagrad(task, optax.sgd(0.01), c=0.5)

    Reference: Liu et al., Conflict-Averse Gradient Descent, NeurIPS 2021.
    """
    forget = objectives.named(objective, exponent, task)
    return two_gradients(task, transforms.cagrad(c=c), optimizer, forget)
