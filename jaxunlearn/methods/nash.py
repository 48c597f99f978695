"""Nash bargaining: both losses gain the same in proportion, whatever their scale."""

import optax

from jaxunlearn import transforms
from jaxunlearn.methods import objectives
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._two_gradients import two_gradients
from jaxunlearn.methods.objectives import ObjectiveName
from jaxunlearn.types import Method, Task


def nash(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    objective: ObjectiveName = "random_labels",
    exponent: NotNegative = 0.5,
) -> Method:
    """Descends the direction with the largest product of both gains.

        d = w_f g_f + w_r g_r,   a = |g_r|^2,  b = |g_f|^2,  c = <g_r, g_f>
        w_r = (a + c sqrt(a / b))^(-1/2),   w_f = (b + c sqrt(b / a))^(-1/2)
        theta <- theta - opt(d)

    The direction does not shrink with the gradients: `|d|^2 = 2` always. So the learning rate
    alone decides how far a step goes, and it should end at 0.

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
        >>> method = nash(task, optax.sgd(0.001))

    Reference: Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022.
    """
    forget = objectives.named(objective, exponent, task)
    return two_gradients(task, transforms.nash(), optimizer, forget)
