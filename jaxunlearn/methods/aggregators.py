"""Six aggregators of multi-task learning: one direction from the forget and the retain gradient.

| method | direction | property |
| --- | --- | --- |
| `pcgrad` | sum of the gradients, each without its part against the other | no loss rises |
| `mgda` | point of least norm between both gradients | vanishes at a Pareto point |
| `cagrad` | largest worse gain near the average gradient | both losses fall if they can |
| `nash` | largest product of both gains | gains in proportion to the losses' scales |
| `gdr_gma` | both rectified, weighted by the retain loss | forgetting pauses while it is high |
| `famo` | gradient of weighted log losses | both losses fall in the same proportion |

The optimizer steps the direction: `theta <- theta - opt(d)`. `jaxunlearn.transforms.aggregation`
has the equations.

    >>> import optax
    >>> from jaxunlearn import models
    >>> from jaxunlearn.tasks import classification
    >>> model = models.create("mlp-tiny", 10)
    >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
    >>> method = cagrad(task, optax.sgd(0.01), c=0.5)
"""

from typing import Literal

import optax

from jaxunlearn import transforms
from jaxunlearn.methods import objectives
from jaxunlearn.methods._limits import Count, NotNegative
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
    """Descends along the sum of both gradients, each without its part against the other.

        d = g_f + g_r - [c < 0] (c / |g_r|^2 g_r + c / |g_f|^2 g_f),   c = <g_f, g_r>

    So `<g_f, d> >= 0` and `<g_r, d> >= 0`: to first order neither loss rises.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.
        objective: forget objective.
        exponent: exponent of adaptive ascent.

    Reference: Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020.
    """
    forget = objectives.named(objective, exponent, task)
    return two_gradients(task, transforms.pcgrad(), optimizer, forget)


def mgda(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    objective: ObjectiveName = "random_labels",
    exponent: NotNegative = 0.5,
) -> Method:
    """Descends along the shortest vector between both gradients, which is 0 at a Pareto point.

        d = w g_f + (1 - w) g_r,   w = clip(<g_r - g_f, g_r> / |g_r - g_f|^2, 0, 1)

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.
        objective: forget objective.
        exponent: exponent of adaptive ascent.

    Reference: Desideri, Multiple-gradient descent algorithm, 2012; Sener and Koltun, NeurIPS 2018.
    """
    forget = objectives.named(objective, exponent, task)
    return two_gradients(task, transforms.mgda(), optimizer, forget)


def cagrad(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    c: NotNegative = 0.4,
    rescale: bool = False,
    objective: ObjectiveName = "random_labels",
    exponent: NotNegative = 0.5,
) -> Method:
    """Descends along the vector with the largest worse gain, in a ball around the average gradient.

        d = argmax min(<g_f, d>, <g_r, d>)  where  |d - g_0| <= c |g_0|,  g_0 = (g_f + g_r) / 2

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.
        c: radius of the ball, relative to `|g_0|`; 0 is the plain average.
        rescale: whether the direction is `2 d / (1 + c^2)`, as in the released code.
        objective: forget objective.
        exponent: exponent of adaptive ascent.

    Reference: Liu et al., Conflict-Averse Gradient Descent, NeurIPS 2021.
    """
    forget = objectives.named(objective, exponent, task)
    return two_gradients(task, transforms.cagrad(c=c, rescale=rescale), optimizer, forget)


def nash(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    objective: ObjectiveName = "random_labels",
    exponent: NotNegative = 0.5,
) -> Method:
    """Descends along the vector with the largest product of both gains.

        d = w_f g_f + w_r g_r,   a = |g_r|^2,  b = |g_f|^2,  c = <g_r, g_f>
        w_r = (a + c sqrt(a / b))^(-1/2),   w_f = (b + c sqrt(b / a))^(-1/2)

    The direction does not shrink with the gradients: always `|d|^2 = 2`. So the learning rate alone
    decides the length of a step, and should decay to 0.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.
        objective: forget objective.
        exponent: exponent of adaptive ascent.

    Reference: Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022.
    """
    forget = objectives.named(objective, exponent, task)
    return two_gradients(task, transforms.nash(), optimizer, forget)


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
    """Rectifies both directions, and gives forgetting less weight as the retain loss rises.

        g_f' = g_f without its part against g_r;   g_r' = g_r without its part against m
        d = w g_f' + (1 - w) g_r',   w = 1 / (1 + exp(sharpness (L_r - threshold)))
        m = mean of the last `bank_size` forget gradients

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.
        bank_size: number of forget gradients in the memory bank; each takes the memory of the
            parameters.
        sharpness: speed at which the weight moves from forgetting to retaining.
        threshold: retain loss, in nats, at which both weigh the same.
        objective: forget objective; "ascent" in the paper.
        exponent: exponent of adaptive ascent.

    Reference: Lin et al., GDR-GMA, ACM Multimedia 2024.
    """
    forget = objectives.named(objective, exponent, task)
    aggregator = transforms.gdr_gma(bank_size=bank_size, sharpness=sharpness, threshold=threshold)
    return two_gradients(task, aggregator, optimizer, forget)


def famo(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    estimator: Literal["same_batch", "next_batch"] = "next_batch",
    logit_learning_rate: NotNegative = 0.025,
    logit_decay: NotNegative = 1e-3,
) -> Method:
    """Fits random labels and the retain data so that both losses fall in the same proportion.

        d = sum_i z_i g_i / L_i / sum_i (z_i / L_i),   z = softmax(xi),   i in {forget, retain}
        xi descends `J_softmax^T (log L_before - log L_after)` by Adam

    "next_batch" takes L_after from the next step's batches; "same_batch", as the paper does, from
    those of the step, at the cost of another forward pass. The forget objective is always random
    labels, because the logarithm needs a positive loss.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.
        estimator: batches on which the losses are measured after a step.
        logit_learning_rate: learning rate of xi's Adam.
        logit_decay: weight decay of xi.

    Reference: Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023.
    """
    aggregator = transforms.famo(logit_learning_rate=logit_learning_rate, logit_decay=logit_decay)
    return two_gradients(
        task,
        aggregator,
        optimizer,
        objectives.random_labels(),
        measure_after=estimator == "same_batch",
    )
