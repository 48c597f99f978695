"""Concept ablation: the forgotten concept gives the same output as the concept that replaces it."""

import optax

from jaxunlearn.methods import generating
from jaxunlearn.methods._build import check_generates, descend, weighted
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._original import showing_retain
from jaxunlearn.methods._teacher import outputs_of
from jaxunlearn.methods.objectives import check_conditional
from jaxunlearn.types import LossPair, Method, Task


def concept_ablation(
    task: Task, optimizer: optax.GradientTransformation, *, retain_weight: NotNegative = 1.0
) -> Method:
    """Makes the forgotten class's output imitate the true class's, on images of other classes.

        L = |out(x_t, t, c_f) - sg out(x_t, t, c)|^2 + retain_weight L_r,    (x, c) from retain data

    So the anchors are the remaining classes. c_f is the label of a forget example; its image is not
    used.

    Args:
        task: the unlearning task; it generates.
        optimizer: any optax optimizer.
        retain_weight: weight of the ordinary loss on the retain batch.

    Raises:
        InputError: a task that classifies, or a model without classes.

    Reference: Kumari et al., Ablating Concepts in Text-to-Image Diffusion Models, ICCV 2023, in its
    model-based form with real anchor images.
    """
    check_generates(task, "concept_ablation")
    check_conditional(task, "method concept_ablation")
    outputs_of(task, "concept_ablation")
    loss = weighted(task, generating.concept_ablation, LossPair(1.0, retain_weight))
    return showing_retain(descend(loss, optimizer))
