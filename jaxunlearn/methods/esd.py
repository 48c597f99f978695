"""ESD: erases a concept by learning the opposite of guidance towards it."""

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import Metrics, Now, check_generates, descend
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._teacher import keep, outputs_of
from jaxunlearn.types import Batch, InputError, Method, ModelState, Params, Task


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
    outputs = outputs_of(task, "esd")
    divergence, null_label = task.divergence, task.null_label
    assert divergence is not None
    if null_label is None:
        raise InputError(
            "method esd needs a model with a label for 'no class', but this one has none; choose "
            "another method, such as concept_ablation, or a model that was trained with dropped "
            "labels."
        )

    def loss_fn(
        params: Params, now: Now, forget: Batch, retain: Batch
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        del retain
        nothing = forget | {"label": jnp.full_like(forget["label"], null_label)}
        with_label, without = (
            outputs(now.memory.params, now.memory.model_state, batch, now.key, False)[0]
            for batch in (forget, nothing)
        )
        target = without - negative_guidance * (with_label - without)
        answer, _ = outputs(params, now.model_state, forget, now.key, True)
        loss = jnp.mean(divergence(target, answer))
        return loss, (now.model_state, {"forget_loss": loss})

    return descend(loss_fn, optimizer, lambda start: keep(start.params, start.model_state))
