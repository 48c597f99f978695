"""ESD: erase a concept by learning the opposite of what guidance towards it would do."""

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import advance, begin, check_generates
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._teacher import keep, outputs_of
from jaxunlearn.types import (
    Arrays,
    Batch,
    InputError,
    Method,
    ModelState,
    Params,
    Task,
    TrainState,
)


def esd(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    negative_guidance: NotNegative = 1.0,
) -> Method:
    """Matches the frozen original's prediction, guided away from what is forgotten.

        L = |out(c) - (out_0(null) - eta (out_0(c) - out_0(null)))|^2,    out(c) = out(x_t, t, c)

    out_0 is the original model. The retain data are not looked at. The paper draws x_t by sampling
    the original model; here it is a forget example with noise. ESD-x, for text-to-image models, is
    `trainable = "cross_attention"`.

    Args:
        task: what is unlearned; it generates.
        optimizer: any optax optimizer.
        negative_guidance: eta, how strongly it is guided away.

    Returns:
        A `Method`.

    Raises:
        InputError: a task that classifies, or whose model has no label for "no class".

    Example:
        >>> from jaxunlearn.models.diffusion_process import Process
        >>> from jaxunlearn.models import denoisers
        >>> from jaxunlearn.tasks import diffusion
        >>> model = denoisers.create("ddpm-tiny", (8, 8, 1), num_classes=10)
        >>> task = diffusion(model, Process(), image_shape=(8, 8, 1), num_classes=10)
        >>> method = esd(task, optax.adam(1e-5))

    Reference: Gandikota et al., Erasing Concepts from Diffusion Models, ICCV 2023.
    """
    check_generates(task, "esd")
    outputs = outputs_of(task, "esd")
    divergence, null_label = task.divergence, task.null_label
    assert divergence is not None
    if null_label is None:
        raise InputError(
            "method esd compares a class with no class, but this model has no label for none; "
            "choose another method, such as concept_ablation, or a model that was trained "
            "with dropped labels."
        )

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        del forget, retain
        state = begin(optimizer, key, params, model_state)
        return state._replace(opt_state=(state.opt_state, keep(params, model_state)))

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        del retain
        key = jax.random.wrap_key_data(state.key)
        optimizer_state, original = state.opt_state
        nothing = forget | {"label": jnp.full_like(forget["label"], null_label)}
        with_label, without = (
            outputs(original.params, original.model_state, batch, key, False)[0]
            for batch in (forget, nothing)
        )
        target = without - negative_guidance * (with_label - without)

        def loss_fn(params: Params) -> jax.Array:
            said, _ = outputs(params, state.model_state, forget, key, True)
            return jnp.mean(divergence(target, said))

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, state.params)
        after = advance(state, updates, (optimizer_state, original), state.model_state)
        return after, {"forget_loss": loss}

    return Method(init, step)
