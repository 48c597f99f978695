"""Datamodel matching (DMM): imitates the original model without the influence of the forget data.

The influence tau_j of an example on the logits is known in closed form for the last dense layer,
which is a softmax regression on its inputs h:

    z*(x) = z_0(x) - alpha sum_{j in F} tau_j(x),    -sum_j tau_j(x) = h(x) D
    (H + damping I) D = 1/n sum_{j in F} h_j (p_j - y_j)^T

H is the Hessian of the mean loss of the n retain examples in the weights of that layer: one Newton
step for the removal of F. So z* are the logits of the original model with `alpha D` added to its
last layer.

Source: Georgiev et al., Attribute-to-Delete: Machine Unlearning via Datamodel Matching
(arXiv 2410.23232), 2024, whose datamodels are regressions on many models; influence of the last
layer is much cheaper, and blind to all that the other layers learned.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from jaxunlearn.files import path_name
from jaxunlearn.methods._build import Metrics, Now, Start, descend, predict_of
from jaxunlearn.methods._limits import NotNegative, Positive
from jaxunlearn.methods._passes import batches_of
from jaxunlearn.methods._teacher import Teacher, keep, outputs_of
from jaxunlearn.methods.last_layers import last_layers, put, taken
from jaxunlearn.types import Arrays, Batch, InputError, Method, ModelState, Params, Task, unvisited

_BATCH = 32
_ITERATIONS = 200


def dmm(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    alpha: NotNegative = 1.0,
    damping: Positive = 0.01,
    retain_weight: NotNegative = 3.0,
) -> Method:
    """Datamodel matching (DMM): descends to the logits without the influence of the forget data.

        z*(x) = z_0(x) - alpha sum_{j in F} tau_j(x)
        theta <- theta - opt(grad [mean_F |z - z*|^2 + w mean_R |z - z*|^2] / (1 + w))

    tau is the influence under a Newton step of the last dense layer, by at most 200 iterations of
    conjugate gradients. Before the first step it takes a forward pass over all forget and retain
    data, whose last features are in memory until then. Each step computes its targets z* without
    augmentation.

    Args:
        task: the unlearning task; its parameters are nested dictionaries, and its last layer is
            dense, with weights named kernel or weight.
        optimizer: any optax optimizer.
        alpha: share of the influence that is removed; 1 is the Newton step.
        damping: number added to the diagonal of the Hessian, such as the weight decay.
        retain_weight: w, weight of the retain data; 3 is the mean over the forget data and three
            times as many retain examples, as in the source.

    Raises:
        InputError: the model generates images, has no outputs, or ends in no dense layer.

    Reference: Georgiev et al., Attribute-to-Delete, arXiv 2410.23232, 2024.
    """
    predict_of(task, "dmm")
    outputs, path = outputs_of(task, "dmm"), _last_dense(task)

    def remember(start: Start) -> Teacher:
        params = removed(task, path, start, alpha, damping)
        return keep(params, start.model_state)

    def loss_fn(
        params: Params, now: Now, forget: Batch, retain: Batch
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        teacher = now.memory

        def distance(batch: Batch) -> tuple[jax.Array, ModelState]:
            target, _ = outputs(teacher.params, teacher.model_state, batch, now.key, False)
            logits, model_state = outputs(params, now.model_state, batch, now.key, True)
            return jnp.mean(jnp.sum((logits - target) ** 2, axis=1)), model_state

        forget_loss, _ = distance(forget)
        retain_loss, model_state = distance(retain)
        metrics = {"forget_loss": forget_loss, "retain_loss": retain_loss}
        loss = (forget_loss + retain_weight * retain_loss) / (1.0 + retain_weight)
        return loss, (model_state, metrics)

    return descend(loss_fn, optimizer, remember)


def removed(
    task: Task, path: str, start: Start, alpha: float | jax.Array, damping: float | jax.Array
) -> Params:
    """The parameters after the Newton step of the dense layer at a path."""
    layer = _by_class(taken(start.params, (path,)))
    of_class, structure = ravel_pytree(jax.tree.map(lambda leaf: leaf[..., 0], layer))

    def features(arrays: Arrays) -> tuple[jax.Array, jax.Array, jax.Array]:
        """All h `[N, K]`, p and y `[N, C]`; h is 0 for padding."""

        def of_batch(some: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
            positions, weights = some
            batch = unvisited(arrays, positions)

            def first_logit(column: jax.Array) -> tuple[jax.Array, jax.Array]:
                changed = jax.tree.map(
                    lambda leaf, own: leaf.at[..., 0].set(own), layer, structure(column)
                )
                params = put(start.params, _by_class(changed, back=True))
                assert task.outputs is not None
                z, _ = task.outputs(params, start.model_state, batch, start.key, False)
                return z[:, 0], z

            h, z = jax.jacrev(first_logit, has_aux=True)(of_class)
            y = jax.nn.one_hot(batch["label"], z.shape[1])
            return weights[:, None] * h, jax.nn.softmax(z), y

        found = jax.lax.map(of_batch, batches_of(arrays, _BATCH, start.key))
        h, p, y = (leaf.reshape(-1, leaf.shape[-1]) for leaf in found)
        return h, p, y

    count = len(start.retain["label"])
    h, p, y = features(start.forget)
    gradient = _matmul(h.T, p - y) / count
    h, p, _ = features(start.retain)

    def hessian(step: jax.Array) -> jax.Array:
        moved = _matmul(h, step)
        moved = p * (moved - jnp.sum(p * moved, axis=1, keepdims=True))
        return _matmul(h.T, moved) / count + damping * step

    step, _ = cg(hessian, gradient, tol=1e-6, maxiter=_ITERATIONS)
    change = jax.vmap(structure, in_axes=1, out_axes=-1)(alpha * step)
    changed = jax.tree.map(jnp.add, layer, change)
    return put(start.params, _by_class(changed, back=True))


def _last_dense(task: Task) -> str:
    """The path of the last layer; an InputError unless it is dense."""
    (path,) = last_layers(task, 1)
    shapes, _ = jax.eval_shape(task.init, jax.random.key(0))
    layer = jax.eval_shape(lambda p: _by_class(taken(p, (path,))), shapes)
    leaves = jax.tree.leaves(layer)
    dense = {leaf.ndim for leaf in leaves} in ({2}, {1, 2}) and len(leaves) < 3
    if not dense or any(leaf.shape[-1] != task.num_classes for leaf in leaves):
        raise InputError(
            f"the last layer of the model, {path}, has parameters of the shapes "
            f"{', '.join(str(leaf.shape) for leaf in leaves)}, but must be dense with "
            f"{task.num_classes} outputs for the method dmm; choose another method, such as "
            "influence."
        )
    return path


def _by_class(layer: Params, back: bool = False) -> Params:
    """The parameters of a layer with the axis of the classes last, or back as they were."""

    def moved(path: Any, leaf: jax.Array) -> jax.Array:
        if path_name(path).rpartition("/")[2] != "weight":  # Flax: the outputs are last
            return leaf
        return jnp.moveaxis(leaf, -1, 0) if back else jnp.moveaxis(leaf, 0, -1)

    return jax.tree_util.tree_map_with_path(moved, layer)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")
