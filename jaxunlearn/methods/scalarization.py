"""Linear scalarisation: fixed weights of the forget and the retain loss.

| method | descends |
| --- | --- |
| `gradient_ascent` | `-L` on the forget data alone |
| `neggrad_plus` | `a L_r - (1 - a) L` |
| `random_labels` | `L against random labels + L_r` |
| `scalarization` | `any forget objective + retain_weight L_r` |
"""

import optax

from jaxunlearn.methods import objectives
from jaxunlearn.methods._build import descend, forget_alone, weighted
from jaxunlearn.methods._limits import NotNegative, Share
from jaxunlearn.methods.objectives import ObjectiveName, Redraw
from jaxunlearn.types import LossPair, Method, Task


def gradient_ascent(task: Task, optimizer: optax.GradientTransformation) -> Method:
    """Gradient ascent (GA) on the loss of the forget data; nothing protects the retain data.

    Running statistics stay unchanged.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.

    Reference: Thudi et al., Unrolling SGD, EuroS&P 2022.
    """
    return descend(forget_alone(task, objectives.ascent), optimizer)


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
        task: the unlearning task.
        optimizer: any optax optimizer.
        retain_weight: fixed multiplier of the retain loss.
        objective: forget objective.
        exponent: exponent of adaptive ascent.
    """
    forget = objectives.named(objective, exponent, task)
    return descend(weighted(task, forget, LossPair(1.0, retain_weight)), optimizer)


def neggrad_plus(
    task: Task, optimizer: optax.GradientTransformation, *, retain_share: Share = 0.95
) -> Method:
    """NegGrad+: descends `a L_r - (1 - a) L_f`.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.
        retain_share: a, the weight of the retain loss.

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
    """Random labels (RL): fits random labels of the forget data and true labels of the retain data.

        descend  L(theta; forget, random labels) + L_r(theta)

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.
        redraw: whether a label is drawn at each visit of an example, or only once.
        exclude_true_label: whether the true label is never drawn.

    Reference: Golatkar et al., Eternal Sunshine of the Spotless Net, CVPR 2020.
    """
    forget = objectives.random_labels(redraw, exclude_true_label)
    return descend(weighted(task, forget, LossPair(1.0, 1.0)), optimizer)
