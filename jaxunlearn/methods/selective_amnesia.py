"""Selective amnesia: continual learning, reversed to forget one class and nothing else."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import Metrics, Now, Start, check_generates, descend
from jaxunlearn.methods._limits import Count, NotNegative
from jaxunlearn.methods._passes import fisher_of
from jaxunlearn.methods._teacher import Teacher, keep
from jaxunlearn.methods.objectives import ObjectiveName, named, retain_loss
from jaxunlearn.types import Batch, Method, ModelState, Params, Task


def selective_amnesia(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    anchor_weight: NotNegative = 100.0,
    retain_weight: NotNegative = 1.0,
    objective: ObjectiveName = "match_noise",
    fisher_batch_size: Count = 64,
) -> Method:
    """Turns the class into noise, while elastic weights and replay preserve the rest.

        L = L_u + anchor_weight / 2 sum_j F_j (theta_j - theta_0j)^2 + retain_weight L_r

    L_u is the loss of the forgotten class on surrogate images; F is the Fisher diagonal of the
    retain data at the original weights, from squared gradients of batch means. The paper replays
    images from the original model; here the retain data are available.

    Args:
        task: the unlearning task; it generates.
        optimizer: any optax optimizer.
        anchor_weight: weight of the elastic penalty.
        retain_weight: weight of the retain loss (the replay).
        objective: L_u; "match_noise" in the paper.
        fisher_batch_size: batch size of the pass that computes the Fisher diagonal.

    Raises:
        InputError: a task that classifies, or an unknown objective.

    Reference: Heng and Soh, Selective Amnesia: A Continual Learning Approach to Forgetting in Deep
    Generative Models, NeurIPS 2023.
    """
    check_generates(task, "selective_amnesia")
    forget_objective = named(objective, task=task)

    def remember(start: Start) -> tuple[Teacher, Any]:
        fisher = fisher_of(task, start, start.retain, fisher_batch_size, per_example=False)
        return keep(start.params, start.model_state), fisher

    def loss_fn(
        params: Params, now: Now, forget: Batch, retain: Batch
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        original, fisher = now.memory
        forget_loss = forget_objective(task, params, now.model_state, forget, now.key)
        retain_value, model_state = retain_loss(task, params, now.model_state, retain, now.key)
        drift = jax.tree.map(
            lambda f, p, q: jnp.sum(f * (p - q) ** 2), fisher, params, original.params
        )
        elastic = 0.5 * anchor_weight * sum(jax.tree.leaves(drift))
        total = forget_loss + elastic + retain_weight * retain_value
        metrics = {"forget_loss": forget_loss, "retain_loss": retain_value}
        return total, (model_state, metrics)

    return descend(loss_fn, optimizer, remember)
