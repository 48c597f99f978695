"""GDR-GMA: rectified gradient directions, weighed by how far the retain loss has risen."""

import optax

from jaxunlearn import transforms
from jaxunlearn.methods import objectives
from jaxunlearn.methods._limits import Count, NotNegative
from jaxunlearn.methods._two_gradients import two_gradients
from jaxunlearn.methods.objectives import ObjectiveName
from jaxunlearn.types import Method, Task


def gdr_gma(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    bank_size: Count = 4,
    sharpness: NotNegative = 10.0,
    threshold: NotNegative = 0.1,
    objective: ObjectiveName = "random_labels",
    exponent: NotNegative = 0.5,
) -> Method:
    """Rectifies both directions, and weighs forgetting down as the retain loss rises.

        g_f' = g_f without its part against g_r;   g_r' = g_r without its part against m
        d = w g_f' + (1 - w) g_r',   w = 1 / (1 + exp(sharpness (L_r - threshold)))
        theta <- theta - opt(d),   m = mean of the last `bank_size` forget gradients

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer.
        bank_size: how many forget gradients the memory bank holds, at least 1; each takes as much
            memory as the parameters.
        sharpness: how fast the weight moves from forgetting to retaining.
        threshold: the retain loss, in nats, at which both weigh the same.
        objective: the forget objective, a name of `objectives.named`; the paper's is "ascent".
        exponent: of adaptive ascent.

    Returns:
        A `Method`.

    Raises:
        InputError: an unknown objective, or a bank without room.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = gdr_gma(task, optax.sgd(0.01), bank_size=2)

    Reference: Lin et al., GDR-GMA, ACM Multimedia 2024.
    """
    forget = objectives.named(objective, exponent, task)
    aggregator = transforms.gdr_gma(bank_size=bank_size, sharpness=sharpness, threshold=threshold)
    return two_gradients(task, aggregator, optimizer, forget)
