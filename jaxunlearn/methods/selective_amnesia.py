"""Selective amnesia: continual learning turned round, to forget what is asked for and no more."""

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import advance, begin, check_generates, first
from jaxunlearn.methods._limits import Count, NotNegative
from jaxunlearn.methods._passes import fisher_of
from jaxunlearn.methods._teacher import keep
from jaxunlearn.methods.objectives import ObjectiveName, named, retain_loss
from jaxunlearn.types import Arrays, Batch, Method, ModelState, Params, Task, TrainState


def selective_amnesia(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    anchor_weight: NotNegative = 100.0,
    retain_weight: NotNegative = 1.0,
    objective: ObjectiveName = "match_noise",
    fisher_batch_size: Count = 64,
) -> Method:
    """The class becomes noise, while elastic weights and replay hold the rest.

        L = L_u + anchor_weight / 2 sum_j F_j (theta_j - theta_0j)^2 + retain_weight L_r

    L_u is the loss of the forgotten class on surrogate images; F is the diagonal of the Fisher
    information of the retain data at the original weights, from squared gradients of batch means.
    The paper replays images that the original model generates; here the retain data are at hand.

    Args:
        task: what is unlearned; it generates.
        optimizer: any optax optimizer.
        anchor_weight: of the elastic weights.
        retain_weight: of the replay.
        objective: L_u, a name of `objectives.named`: match_noise in the paper.
        fisher_batch_size: of the pass that computes the Fisher diagonal.

    Returns:
        A `Method`.

    Raises:
        InputError: a task that classifies, or an unknown objective.

    Example:
        >>> from jaxunlearn.models.diffusion_process import Process
        >>> from jaxunlearn.models import denoisers
        >>> from jaxunlearn.tasks import diffusion
        >>> model = denoisers.create("ddpm-tiny", (8, 8, 1), num_classes=10)
        >>> task = diffusion(model, Process(), image_shape=(8, 8, 1), num_classes=10)
        >>> method = selective_amnesia(task, optax.adam(1e-4))

    Reference: Heng and Soh, Selective Amnesia: A Continual Learning Approach to Forgetting in Deep
    Generative Models, NeurIPS 2023.
    """
    check_generates(task, "selective_amnesia")
    forget_objective = named(objective, task=task)

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        del forget
        state = begin(optimizer, key, params, model_state)
        fisher = fisher_of(
            task,
            key,
            params,
            model_state,
            retain,
            per_example=False,
            batch_size=fisher_batch_size,
        )
        return state._replace(opt_state=(state.opt_state, keep(params, model_state), fisher))

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key, batch = jax.random.wrap_key_data(state.key), first(retain)
        optimizer_state, original, fisher = state.opt_state

        def loss_fn(params: Params) -> tuple[jax.Array, tuple[ModelState, dict[str, jax.Array]]]:
            forget_loss = forget_objective(task, params, state.model_state, forget, key)
            retain_value, model_state = retain_loss(task, params, state.model_state, batch, key)
            drift = jax.tree.map(
                lambda f, p, q: jnp.sum(f * (p - q) ** 2), fisher, params, original.params
            )
            elastic = 0.5 * anchor_weight * sum(jax.tree.leaves(drift))
            total = forget_loss + elastic + retain_weight * retain_value
            metrics = {"forget_loss": forget_loss, "retain_loss": retain_value}
            return total, (model_state, metrics)

        grads, (model_state, metrics) = jax.grad(loss_fn, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, state.params)
        return advance(state, updates, (optimizer_state, original, fisher), model_state), metrics

    return Method(init, step)
