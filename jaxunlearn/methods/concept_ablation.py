"""Concept ablation: the forgotten concept gives the same output as the concept that replaces it."""

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import Metrics, Now, check_generates, descend
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._teacher import outputs_of
from jaxunlearn.methods.objectives import check_conditional, retain_loss
from jaxunlearn.types import Batch, Method, ModelState, Params, Task


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
    outputs, divergence = outputs_of(task, "concept_ablation"), task.divergence
    assert divergence is not None

    def loss_fn(
        params: Params, now: Now, forget: Batch, retain: Batch
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        size = forget["label"].shape[0]
        asked = forget["label"][jnp.arange(retain["label"].shape[0]) % size]
        wanted, _ = outputs(params, now.model_state, retain, now.key, True)
        answer, _ = outputs(params, now.model_state, retain | {"label": asked}, now.key, True)
        forget_loss = jnp.mean(divergence(jax.lax.stop_gradient(wanted), answer))
        retain_value, model_state = retain_loss(task, params, now.model_state, retain, now.key)
        metrics = {"forget_loss": forget_loss, "retain_loss": retain_value}
        return forget_loss + retain_weight * retain_value, (model_state, metrics)

    return descend(loss_fn, optimizer)
