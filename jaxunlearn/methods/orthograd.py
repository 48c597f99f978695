"""OrthoGrad: the forget gradient, orthogonal to the gradient of each single retain example."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods import objectives
from jaxunlearn.methods._build import Metrics, advance, begin, first
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods.objectives import ObjectiveName
from jaxunlearn.types import Batch, Method, Params, Task, TrainState

_LEAST = 1e-6  # smaller eigenvalues, relative to the largest one, are rounding errors


def orthograd(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    objective: ObjectiveName = "ascent",
    exponent: NotNegative = 0.5,
) -> Method:
    """Descends the forget objective, orthogonally to the gradient of each retain example.

        d = g_f - G^T (G G^T)^+ G g_f,   G = the gradients of the B examples of a retain batch
        theta <- theta - opt(d)

    So `<g_i, d> = 0` for every example i of the batch: to first order none of their losses changes,
    while other methods with two gradients protect only their mean. Retain examples are in
    evaluation mode, so running statistics stay unchanged. The method takes the memory of B
    gradients.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer; momentum and weight decay break the orthogonality.
        objective: forget objective.
        exponent: exponent of adaptive ascent.

    Reference: Shamsian et al., Go Beyond Your Means: Unlearning with Per-Sample Gradient
    Orthogonalization (arXiv 2503.02312), 2025.
    """
    forget_objective = objectives.named(objective, exponent, task)

    def init(*start: Any) -> TrainState:
        return begin(optimizer, *start[:3])

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
        key, model_state = jax.random.wrap_key_data(state.key), state.model_state

        def retain_loss(params: Params, example: Batch) -> jax.Array:
            alone = jax.tree.map(lambda leaf: leaf[None], example)
            return task.losses(params, model_state, alone, key, False)[0][0]

        forget_value, gradient = jax.value_and_grad(
            lambda p: forget_objective(task, p, model_state, forget, key)
        )(state.params)
        of_each = jax.vmap(jax.value_and_grad(retain_loss), in_axes=(None, 0))
        retain_values, gradients = of_each(state.params, first(retain))
        updates, opt_state = optimizer.update(
            without_span(gradient, gradients), state.opt_state, state.params
        )
        metrics = {"forget_loss": forget_value, "retain_loss": jnp.mean(retain_values)}
        return advance(state, updates, opt_state, model_state), metrics

    return Method(init, step)


def without_span(vector: Any, rows: Any) -> Any:
    """The part of a vector that is orthogonal to all rows: `v - G^T (G G^T)^+ G v`.

    `vector` is a tree, and `rows` the same tree with leaves `[B, ...]`; they may be zero or
    linearly dependent.

    Example:
        >>> rows = {"a": jnp.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])}
        >>> left = without_span({"a": jnp.array([4.0, 5.0, 6.0])}, rows)["a"]
        >>> [round(abs(float(x)), 3) for x in left]
        [0.0, 0.0, 6.0]
    """
    flat = [leaf.reshape(leaf.shape[0], -1).astype(jnp.float32) for leaf in jax.tree.leaves(rows)]
    norms = jnp.sqrt(sum(jnp.sum(leaf**2, axis=1) for leaf in flat))
    scale = jnp.where(norms > 0.0, 1.0 / jnp.where(norms > 0.0, norms, 1.0), 0.0)
    flat = [leaf * scale[:, None] for leaf in flat]  # the same span, better conditioned
    gram: jax.Array = sum(leaf @ leaf.T for leaf in flat)
    along = sum(
        leaf @ part.reshape(-1).astype(jnp.float32)
        for leaf, part in zip(flat, jax.tree.leaves(vector), strict=True)
    )
    values, vectors = jnp.linalg.eigh(gram)
    kept = values > _LEAST * values[-1]
    inverse = jnp.where(kept, 1.0 / jnp.where(kept, values, 1.0), 0.0)
    weights = scale * (vectors @ (inverse * (vectors.T @ along)))
    return jax.tree.map(
        lambda part, leaf: (part - jnp.tensordot(weights, leaf, axes=1)).astype(part.dtype),
        vector,
        rows,
    )
