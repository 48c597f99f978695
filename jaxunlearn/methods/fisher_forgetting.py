"""Fisher forgetting: noise on the parameters that matter little for the retain data."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import Start
from jaxunlearn.methods._limits import Count, NotNegative
from jaxunlearn.methods._one_shot import one_shot
from jaxunlearn.methods._passes import fisher_of
from jaxunlearn.types import Method, Params, Task

_NOISE_CHILD = 7  # of the run's key


def noise_variance(
    retain_fisher: Any, alpha: float | jax.Array, max_variance: float | jax.Array
) -> Any:
    """`min(alpha F^(-1/2), max_variance)`, entry by entry; all 0 if alpha is 0.

    Example:
        >>> noise_variance(jnp.array([0.0, 4.0]), 1.0, 100.0).tolist()
        [100.0, 0.5]
    """

    def variance(fisher: jax.Array) -> jax.Array:
        wanted = jnp.where(alpha > 0, alpha * jax.lax.rsqrt(fisher), 0.0)  # avoids 0 * infinity
        return jnp.minimum(wanted, max_variance)

    return jax.tree.map(variance, retain_fisher)


def fisher_forgetting(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int = 1,
    alpha: NotNegative = 1e-6,
    max_variance: NotNegative = 1e-2,
    fisher_batch_size: Count = 32,
) -> Method:
    """Adds noise to the weights that matter little for the retain data, in one shot.

        theta' = theta + sqrt(min(alpha F_r^(-1/2), max_variance)) n,   n ~ N(0, I)

    The paper's noise is `(lambda sigma^2)^(1/4) F_r^(-1/4) n`, so `alpha = (lambda sigma^2)^(1/2)`.
    F_r is the Fisher diagonal of the retain data, from the gradients of single examples with their
    true labels, in evaluation mode. The forget data are not used.

    Args:
        task: the unlearning task.
        optimizer: not used.
        num_steps: number of steps; they only measure the losses of the finished weights.
        alpha: strength of the noise.
        max_variance: largest variance of the noise, where the retain data have no effect.
        fisher_batch_size: batch size of the pass that computes the Fisher diagonal.

    Reference: Golatkar et al., Eternal Sunshine of the Spotless Net, CVPR 2020.
    """
    del optimizer, num_steps

    def edit(start: Start) -> Params:
        fisher = fisher_of(task, start, start.retain, fisher_batch_size)
        leaves, structure = jax.tree.flatten(start.params)
        keys = jax.random.split(jax.random.fold_in(start.key, _NOISE_CHILD), len(leaves))
        variances = jax.tree.leaves(noise_variance(fisher, alpha, max_variance))
        noisy = [
            leaf
            + jnp.sqrt(variance).astype(leaf.dtype) * jax.random.normal(k, leaf.shape, leaf.dtype)
            for leaf, variance, k in zip(leaves, variances, keys, strict=True)
        ]
        return jax.tree.unflatten(structure, noisy)

    return one_shot(task, edit)
