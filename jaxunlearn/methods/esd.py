"""ESD: erases a concept by learning the opposite of guidance towards it."""

import functools

import optax

from jaxunlearn.methods import generating
from jaxunlearn.methods._build import check_generates, descend, forget_alone
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._original import remembering
from jaxunlearn.methods._teacher import outputs_of
from jaxunlearn.methods.generating import null_label_of
from jaxunlearn.types import Method, Task


def esd(
    task: Task, optimizer: optax.GradientTransformation, *, negative_guidance: NotNegative = 1.0
) -> Method:
    """Matches the original model's prediction, guided away from the forgotten class.

        L = |out(c) - (out_0(null) - eta (out_0(c) - out_0(null)))|^2,    out(c) = out(x_t, t, c)

    out_0 is the original model. The retain data are not used. The paper samples x_t from the
    original model; here it is a noisy forget example. For ESD-x on text-to-image models, set
    `trainable = "cross_attention"`.

    Args:
        task: the unlearning task; it generates.
        optimizer: any optax optimizer.
        negative_guidance: eta, the strength of the guidance away from the class.

    Raises:
        InputError: a task that classifies, or a model without a label for "no class".

    Reference: Gandikota et al., Erasing Concepts from Diffusion Models, ICCV 2023.
    """
    check_generates(task, "esd")
    outputs_of(task, "esd")
    null_label_of(task, "method esd")
    objective = functools.partial(generating.esd, negative_guidance=negative_guidance)
    return remembering(task, lambda task: descend(forget_alone(task, objective), optimizer))
