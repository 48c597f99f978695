"""Influence unlearning (IU): one Newton step that removes the influence of the forget examples.

    theta' = theta + alpha / n (F + damping I)^-1 sum_{i in forget} grad l_i(theta)

F, the Fisher information of the n retain examples, approximates the Hessian of their mean loss. Its
inverse is never formed: WoodFisher adds one gradient after another by the Sherman-Morrison formula,

    F_j = F_{j-1} + g_j g_j^T / m,   F_0 = damping I,   o_j = F_{j-1}^-1 g_j,
    F_j^-1 v = F_{j-1}^-1 v - o_j <o_j, v> / (m + <g_j, o_j>),

and stores only the m vectors `o_j` and their denominators.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxunlearn.methods._build import Start
from jaxunlearn.methods._limits import Count, NotNegative, Positive
from jaxunlearn.methods._one_shot import one_shot
from jaxunlearn.methods._passes import batches_of, gradient_of, plain_losses
from jaxunlearn.types import Method, Params, Task


class InverseFisher(NamedTuple):
    """`(damping I + 1/m sum_j g_j g_j^T)^-1`, in the form of WoodFisher.

    The directions are `o_j`, or zeros before gradient j is added; the denominators are
    `m + <g_j, o_j>`.
    """

    damping: float | jax.Array
    directions: jax.Array  # shape=(m, P), dtype=jnp.float32
    denominators: jax.Array  # shape=(m,), dtype=jnp.float32

    def times(self, vector: jax.Array) -> jax.Array:
        """The inverse times a vector `[P]`."""
        along = jnp.matmul(self.directions, vector, precision="highest") / self.denominators
        return vector / self.damping - jnp.matmul(along, self.directions, precision="highest")


def woodfisher(
    gradient: Callable[[jax.Array], jax.Array],
    batches: jax.Array,
    size: int,
    damping: float | jax.Array,
) -> InverseFisher:
    """The damped inverse of the mean outer product of gradients, `gradient(batches[j]) -> [P]`.

    It takes m P numbers of memory; `size` is P, and `damping` is positive.

    Example:
        >>> inverse = woodfisher(lambda g: g, jnp.array([[1.0, 0.0], [0.0, 2.0]]), 2, 0.5)
        >>> inverse.times(jnp.array([1.0, 2.5])).tolist()  # diag(0.5 + 1 / 2, 0.5 + 4 / 2)
        [1.0, 1.0]
    """
    count = len(batches)

    def add(inverse: InverseFisher, j: jax.Array) -> tuple[InverseFisher, None]:
        g = gradient(batches[j])
        o = inverse.times(g)
        return inverse._replace(
            directions=inverse.directions.at[j].set(o),
            denominators=inverse.denominators.at[j].set(count + jnp.sum(g * o)),
        ), None

    damping = jnp.asarray(damping, jnp.float32)
    start = InverseFisher(damping, jnp.zeros((count, size)), jnp.ones(count))
    return jax.lax.scan(add, start, jnp.arange(count))[0]


def influence(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int = 1,
    alpha: NotNegative = 1.0,
    damping: Positive = 0.01,
    num_fisher_batches: Count = 64,
    fisher_batch_size: Count = 32,
) -> Method:
    """Influence unlearning (IU): removes the influence of the forget examples, in one shot.

        theta' = theta + alpha / n (F + damping I)^-1 sum_f grad l,   by WoodFisher's recursion
        F = 1/m sum_j g_j g_j^T,   g_j the gradient of the mean loss of a batch of retain data

    Gradients are taken in evaluation mode, without augmentation. The run's key draws the batches
    from the retain data without replacement. Batches of one example give the empirical Fisher
    information; larger ones use more of the data but shrink F, by up to their size.

    Args:
        task: the unlearning task.
        optimizer: not used.
        num_steps: number of steps; they only measure the losses of the finished weights.
        alpha: length of the step; 1 is the Newton step of influence functions.
        damping: number that is added to the diagonal of F.
        num_fisher_batches: largest m; the method takes m times the memory of the parameters.
        fisher_batch_size: number of examples in a batch.

    Reference: Izzo et al., Approximate Data Deletion from Machine Learning Models, AISTATS 2021;
    Singh and Alistarh, WoodFisher, NeurIPS 2020; as a baseline in Jia et al., Model Sparsity Can
    Simplify Machine Unlearning, NeurIPS 2023.
    """
    del optimizer, num_steps

    def edit(start: Start) -> Params:
        key, params, model_state, forget, retain = start
        flat, unravel = ravel_pytree(params)
        losses_fn = plain_losses(task, model_state, retain, key)
        positions, weights = batches_of(retain, fisher_batch_size, key, num_fisher_batches)
        # An incomplete batch counts by its share: F = sum_j |b_j| g_j g_j^T / sum_j |b_j|.
        counts = jnp.sum(weights, axis=1)
        scales = jnp.sqrt(counts / jnp.mean(counts))

        def gradient(j: jax.Array) -> jax.Array:
            def mean_loss(p: jax.Array) -> jax.Array:
                losses = losses_fn(unravel(p), positions[j])
                return jnp.sum(weights[j] * losses) / counts[j]

            return scales[j] * jax.grad(mean_loss)(flat)

        inverse = woodfisher(gradient, jnp.arange(len(counts)), flat.size, damping)
        forget_losses = plain_losses(task, model_state, forget, key)
        total = gradient_of(forget_losses, params, forget, fisher_batch_size, key)
        step = alpha / len(retain["label"]) * inverse.times(ravel_pytree(total)[0])
        return unravel(flat + step)

    return one_shot(task, edit)
