"""Selective synaptic dampening (SSD): shrinks the weights that matter more for the forget data."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import Start
from jaxunlearn.methods._limits import Count, NotNegative
from jaxunlearn.methods._one_shot import one_shot
from jaxunlearn.methods._passes import fisher_of
from jaxunlearn.types import Method, Params, Task


def dampened(
    params: Params,
    forget_fisher: Any,
    all_fisher: Any,
    selection: float | jax.Array,
    dampening: float | jax.Array,
) -> Params:
    """The parameters with the selected ones scaled down, from two Fisher diagonals.

        theta_i <- theta_i min(dampening F_all,i / F_f,i, 1)   where F_f,i > selection F_all,i

    Example:
        >>> f, d = jnp.array([1.0, 20.0]), jnp.array([1.0, 1.0])
        >>> dampened(jnp.array([3.0, 4.0]), f, d, selection=10.0, dampening=5.0).tolist()
        [3.0, 1.0]
    """

    def leaf(theta: jax.Array, f: jax.Array, d: jax.Array) -> jax.Array:
        selected = f > selection * d
        factor = jnp.minimum(dampening * d / jnp.where(selected, f, 1.0), 1.0)
        return jnp.where(selected, theta * factor, theta).astype(theta.dtype)

    return jax.tree.map(leaf, params, forget_fisher, all_fisher)


def ssd(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int = 1,
    selection: NotNegative = 4.0,
    dampening: NotNegative = 1.0,
    fisher_batch_size: Count = 32,
) -> Method:
    """Selective synaptic dampening (SSD): shrinks the forget data's weights, in one shot.

        theta_i <- theta_i min(dampening F_all / F_f, 1)   where F_f > selection F_all
        F = mean (grad l)^2, of single examples, in evaluation mode
        F_all = (n_f F_f + n_r F_r) / (n_f + n_r)

    The forget data are part of all data, so `F_f <= (n_f + n_r) / n_f F_all`: to forget one tenth
    of the data, a `selection` of 10 selects nothing. Choose it well below `(n_f + n_r) / n_f`.

    Args:
        task: the unlearning task.
        optimizer: not used.
        num_steps: number of steps; they only measure the losses of the finished weights.
        selection: smallest ratio of the two Fisher diagonals; alpha in the paper.
        dampening: strength of the protection; lambda in the paper.
        fisher_batch_size: batch size of the pass that computes the Fisher diagonals.

    Reference: Foster et al., Fast Machine Unlearning Without Retraining Through Selective Synaptic
    Dampening, AAAI 2024.
    """
    del optimizer, num_steps

    def edit(start: Start) -> Params:
        of_forget = fisher_of(task, start, start.forget, fisher_batch_size)
        of_retain = fisher_of(task, start, start.retain, fisher_batch_size)
        num_forget, num_retain = len(start.forget["label"]), len(start.retain["label"])
        share = num_forget / (num_forget + num_retain)
        of_all = jax.tree.map(lambda f, r: share * f + (1 - share) * r, of_forget, of_retain)
        return dampened(start.params, of_forget, of_all, selection, dampening)

    return one_shot(task, edit)
