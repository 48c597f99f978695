"""Linear scalarisation: one fixed weight between forgetting and retaining.

Two published baselines are this method with one objective each: NegGrad+ (ascent) and random
labels.
"""

import optax

from jaxunlearn.methods import objectives
from jaxunlearn.methods._build import descend, weighted
from jaxunlearn.methods._limits import NotNegative, Share
from jaxunlearn.methods.objectives import ObjectiveName, Redraw
from jaxunlearn.types import LossPair, Method, Task


def scalarization(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    retain_weight: NotNegative = 1.0,
    objective: ObjectiveName = "random_labels",
    exponent: NotNegative = 0.5,
) -> Method:
    """Descends `L_f + retain_weight L_r`: surgery with a multiplier that never moves.

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer.
        retain_weight: the fixed multiplier of the retain loss.
        objective: the forget objective, a name of `objectives.named`.
        exponent: of adaptive ascent.

    Returns:
        A `Method`.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = scalarization(task, optax.sgd(0.01), retain_weight=3.0)
    """
    forget = objectives.named(objective, exponent, task)
    return descend(weighted(task, forget, LossPair(1.0, retain_weight)), optimizer)


def neggrad_plus(
    task: Task, optimizer: optax.GradientTransformation, *, retain_share: Share = 0.95
) -> Method:
    """NegGrad+: descends `a L_r - (1 - a) L_f`.

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer.
        retain_share: a, the weight of the retain loss.

    Returns:
        A `Method`.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = neggrad_plus(task, optax.sgd(0.01), retain_share=0.99)

    Reference: Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023.
    """
    weights = LossPair(1.0 - retain_share, retain_share)
    return descend(weighted(task, objectives.ascent, weights), optimizer)


def random_labels(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    redraw: Redraw = "every_epoch",
    exclude_true_label: bool = False,
) -> Method:
    """Random labels (RL): fits the forget data to random labels, and the retain data to its own.

        descend  L(theta; forget, random labels) + L_r(theta)

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer.
        redraw: draw the labels anew "every_epoch", or "once".
        exclude_true_label: never draw the true label.

    Returns:
        A `Method`.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = random_labels(task, optax.sgd(0.01), redraw="once")

    Reference: Golatkar et al., Eternal Sunshine of the Spotless Net, CVPR 2020.
    """
    forget = objectives.random_labels(redraw, exclude_true_label)
    return descend(weighted(task, forget, LossPair(1.0, 1.0)), optimizer)
