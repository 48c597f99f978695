"""Two methods that disturb the kernels of the original model, then train on the retain data.

| method | disturbance |
| --- | --- |
| `msg` | new weights where the gradients of forget and retain data are the smallest |
| `ct` | height and width of every convolution swapped |

Source: entries of the NeurIPS 2023 machine unlearning challenge; Triantafillou et al., Are We
Making Progress in Unlearning? (arXiv 2406.09073), 2024; under these names in Cadet et al., Deep
Unlearn (arXiv 2410.01276), 2024.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.files import path_name
from jaxunlearn.methods._build import Metrics, Now, Start, descend
from jaxunlearn.methods._limits import Count, NotNegative, Share
from jaxunlearn.methods._passes import batches_of, gradient_of, saliency_losses
from jaxunlearn.methods.objectives import retain_loss
from jaxunlearn.methods.retrain import finetune
from jaxunlearn.types import Batch, InputError, Method, ModelState, Params, Task, TrainState

_REDRAWN_CHILD = 11  # of the run's key


def msg(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    fraction: Share = 0.3,
    kept_scale: NotNegative = 0.1,
    mask_batch_size: Count = 32,
) -> Method:
    """Masked small gradients (MSG): re-draws the weights with the least gradients, then trains.

        g = grad (sum_{R_s} l - sum_F l),   R_s random retain examples, as many as F
        theta_0: in each convolution, the `fraction` of weights of least |g| re-drawn (He)
        theta <- theta - opt(s * grad L_r),   s = 1 for re-drawn weights, else kept_scale

    If the model has no convolutions, the weights are those of each dense layer. g is computed in
    evaluation mode. The source trains with a warm-up and a linear decay; "one_cycle" comes close.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.
        fraction: fraction of the weights of each kernel that is re-drawn.
        kept_scale: scale of the gradients of all other parameters.
        mask_batch_size: batch size of the pass that computes the gradient.

    Raises:
        InputError: the model has no weights named kernel or weight.
    """
    leaves = _initial_leaves(task)
    if not any(_is_kernel(path, leaf, rank) for path, leaf in leaves for rank in (2, 4)):
        raise InputError(
            "method msg re-draws convolutions or dense layers, whose weights must be named kernel "
            "or weight, but this model has none; rename them, or choose another method, such as "
            "finetune."
        )

    def loss_fn(
        params: Params, now: Now, forget: Batch, retain: Batch
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        del forget

        def scaled(leaf: jax.Array, redrawn: jax.Array) -> jax.Array:
            fixed = jax.lax.stop_gradient(leaf)
            return fixed + jnp.where(redrawn, 1.0, kept_scale).astype(leaf.dtype) * (leaf - fixed)

        moving = jax.tree.map(scaled, params, now.memory)
        loss, model_state = retain_loss(task, moving, now.model_state, retain, now.key)
        return loss, (model_state, {"retain_loss": loss})

    method = descend(loss_fn, optimizer)

    def init(*start: Any) -> TrainState:
        given = Start(*start)
        mask = least_gradients(task, given, fraction=fraction, batch_size=mask_batch_size)
        fresh = _redrawn(given.params, jax.random.fold_in(given.key, _REDRAWN_CHILD))
        params = jax.tree.map(jnp.where, mask, fresh, given.params)
        state = method.init(*given._replace(params=params))
        return state._replace(opt_state=(state.opt_state[0], mask))

    return method._replace(init=init)


def least_gradients(
    task: Task, start: Start, *, fraction: float | jax.Array, batch_size: int
) -> Any:
    """The mask of the weights of least |g| in each kernel, a tree of booleans like `params`.

    `g = grad (sum_{R_s} l - sum_F l)`, on as many random retain examples as there are forget ones.
    """
    count = len(start.forget["label"])
    order, _ = batches_of(start.retain, len(start.retain["label"]), start.key)
    some = {name: leaf[order[0, :count]] for name, leaf in start.retain.items()}

    def of_sum(arrays: Any) -> Params:
        losses_fn = saliency_losses(task, start.model_state, arrays, start.key)
        return gradient_of(losses_fn, start.params, arrays, batch_size, start.key)

    gradient = jax.tree.map(jnp.subtract, of_sum(some), of_sum(start.forget))
    rank = _kernel_rank(start.params)

    def least(path: Any, leaf: jax.Array) -> jax.Array:
        if not _is_kernel(path, leaf, rank):
            return jnp.zeros(leaf.shape, bool)
        places = jnp.argsort(jnp.argsort(jnp.abs(leaf).ravel()))
        return (places < jnp.round(fraction * leaf.size)).reshape(leaf.shape)

    return jax.tree_util.tree_map_with_path(least, gradient)


def ct(task: Task, optimizer: optax.GradientTransformation) -> Method:
    """Convolution transpose (CT): swaps height and width of all convolutions, then trains.

        theta_0: W[h, w, :, :] -> W[w, h, :, :] in each convolution;   theta <- theta - opt(g_r)

    Convolutions that are not square keep their kernels.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.

    Raises:
        InputError: the model has no square convolutions larger than 1 x 1.
    """
    if not any(_swaps(path, leaf) for path, leaf in _initial_leaves(task)):
        raise InputError(
            "method ct needs a model that has square convolutions larger than 1 x 1, but this one "
            "has none; choose another method, such as msg."
        )
    method = finetune(task, optimizer)

    def swapped(path: Any, leaf: jax.Array) -> jax.Array:
        return jnp.swapaxes(leaf, *_spatial(path)) if _swaps(path, leaf) else leaf

    def init(*start: Any) -> TrainState:
        given = Start(*start)
        params = jax.tree_util.tree_map_with_path(swapped, given.params)
        return method.init(*given._replace(params=params))

    return method._replace(init=init)


def _initial_leaves(task: Task) -> list[tuple[Any, Any]]:
    """The paths and shapes of the parameters of a task."""
    return jax.tree_util.tree_leaves_with_path(jax.eval_shape(task.init, jax.random.key(0))[0])


def _kernel_rank(params: Params) -> int:
    """The number of axes of the kernels: 4 of a model with convolutions, else 2."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return 4 if any(_is_kernel(path, leaf, 4) for path, leaf in leaves) else 2


def _is_kernel(path: Any, leaf: Any, rank: int) -> bool:
    return _name(path) in ("kernel", "weight") and len(leaf.shape) == rank


def _name(path: Any) -> str:
    return path_name(path).rpartition("/")[2]


def _spatial(path: Any) -> tuple[int, int]:
    """Height and width: the first axes of Flax's kernels, the last ones of Equinox's weights."""
    return (0, 1) if _name(path) == "kernel" else (2, 3)


def _swaps(path: Any, leaf: Any) -> bool:
    """Whether a leaf is a square convolution larger than 1 x 1."""
    if not _is_kernel(path, leaf, 4):
        return False
    height, width = (leaf.shape[axis] for axis in _spatial(path))
    return bool(height == width > 1)


def _redrawn(params: Params, key: jax.Array) -> Params:
    """New kernels, normal with the variance 2 / inputs (He); other parameters as they are."""
    rank = _kernel_rank(params)
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    drawn = []
    for number, (path, leaf) in enumerate(leaves):
        if _is_kernel(path, leaf, rank):
            axes = (-2, -1) if _name(path) == "kernel" else (1, 0)
            draw = jax.nn.initializers.he_normal(*axes)
            leaf = draw(jax.random.fold_in(key, number), leaf.shape, leaf.dtype)
        drawn.append(leaf)
    return jax.tree.unflatten(structure, drawn)
