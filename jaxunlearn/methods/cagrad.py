"""CAGrad: the direction near the average gradient that helps the worse of the two losses most."""

import optax

from jaxunlearn import objectives, transforms
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._two_gradients import two_gradients
from jaxunlearn.types import Method, Task


def cagrad(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    radius: NotNegative = 0.4,
    objective: str = "random_labels",
    exponent: NotNegative = 0.5,
) -> Method:
    """Descends the direction of the largest worse gain, in a ball around the average gradient.

        d = argmax min(<g_f, d>, <g_r, d>)  where  |d - g_0| <= radius |g_0|,  g_0 = (g_f + g_r) / 2
        theta <- theta - opt(d)

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer.
        radius: of the ball, relative to `|g_0|`, 0 or more; 0 is the plain average.
        objective: the forget objective, a name of `objectives.named`.
        exponent: of adaptive ascent.

    Returns:
        A `Method`.

    Raises:
        InputError: an unknown objective, or a negative radius.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = cagrad(task, optax.sgd(0.01), radius=0.5)

    Reference: Liu et al., Conflict-Averse Gradient Descent, NeurIPS 2021.
    """
    forget = objectives.named(objective, exponent, task)
    return two_gradients(task, transforms.cagrad(radius), optimizer, forget)
