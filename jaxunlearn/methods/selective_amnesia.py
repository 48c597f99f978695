"""Selective amnesia: continual learning, reversed to forget one class and nothing else."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import Metrics, Now, Start, check_generates, descend
from jaxunlearn.methods._limits import Count, CountOrZero, NotNegative
from jaxunlearn.methods._passes import fisher_of, fisher_over_timesteps
from jaxunlearn.methods._teacher import Teacher, keep
from jaxunlearn.methods.objectives import ObjectiveName, named, retain_loss
from jaxunlearn.types import Batch, InputError, Method, ModelState, Params, Task


def selective_amnesia(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    anchor_weight: NotNegative = 100.0,
    retain_weight: NotNegative = 1.0,
    objective: ObjectiveName = "match_noise",
    fisher: Literal["batches", "timesteps"] = "batches",
    fisher_batch_size: Count = 64,
    num_fisher_batches: CountOrZero = 0,
) -> Method:
    """Turns the class into noise, while elastic weights and replay preserve the rest.

        L = L_u + anchor_weight / 2 sum_j F_j (theta_j - theta_0j)^2 + retain_weight L_r

    L_u is the loss of the forgotten class on surrogate images; F is the Fisher diagonal of the
    retain data at the original weights, from squared gradients of batch means; or with
    `fisher="timesteps"`, as in the released code, of the sum over all timesteps of each example,
    `F = mean_i (grad sum_t l_i(t))^2`. The paper replays images from the original model; here the
    retain data are available.

    Args:
        task: the unlearning task; it generates.
        optimizer: any optax optimizer.
        anchor_weight: weight of the elastic penalty.
        retain_weight: weight of the retain loss (the replay).
        objective: L_u; "match_noise" in the paper.
        fisher: Fisher diagonal, of batches or of examples over all timesteps, which takes T passes
            over each example.
        fisher_batch_size: batch size of the pass that computes the Fisher diagonal.
        num_fisher_batches: largest number of random batches of examples in that pass; 0 uses all.

    Raises:
        InputError: a task that classifies, an unknown objective, or timesteps of a task that has
            none.

    Reference: Heng and Soh, Selective Amnesia: A Continual Learning Approach to Forgetting in Deep
    Generative Models, NeurIPS 2023.
    """
    check_generates(task, "selective_amnesia")
    if fisher == "timesteps" and task.num_timesteps is None:
        raise InputError(
            'fisher is "timesteps", but must be "batches" for a task without num_timesteps.'
        )
    forget_objective = named(objective, task=task)

    def remember(start: Start) -> tuple[Teacher, Any]:
        passes = {"batch_size": fisher_batch_size, "num_batches": num_fisher_batches}
        if fisher == "timesteps":
            diagonal = fisher_over_timesteps(task, start, start.retain, **passes)
        else:
            diagonal = fisher_of(task, start, start.retain, **passes, per_example=False)
        return keep(start.params, start.model_state), diagonal

    def loss_fn(
        params: Params, now: Now, forget: Batch, retain: Batch
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        original, diagonal = now.memory
        forget_loss = forget_objective(task, params, now.model_state, forget, now.key)
        retain_value, model_state = retain_loss(task, params, now.model_state, retain, now.key)
        drift = jax.tree.map(
            lambda f, p, q: jnp.sum(f * (p - q) ** 2), diagonal, params, original.params
        )
        elastic = 0.5 * anchor_weight * sum(jax.tree.leaves(drift))
        total = forget_loss + elastic + retain_weight * retain_value
        metrics = {"forget_loss": forget_loss, "retain_loss": retain_value}
        return total, (model_state, metrics)

    return descend(loss_fn, optimizer, remember)
