"""A task in which only a subset of the parameters, or low-rank adapters on them, are trained.

    subset        params = parameters whose path matches; the others are frozen
    adapters      W = W_0 + A B,  params = {A [in, r], B [r, out]} of the kernels whose path matches

An adapter starts at B = 0, where A has no gradient. Saliency is therefore measured as if B were
random and W unchanged, so that each factor sees a random projection of the kernel's gradient.

Frozen parameters are in the model state, which no optimizer, mask or weight decay sees, so they
stay bit-equal. A path joins the names of a parameter by slashes, as in "block0/conv/kernel".

Source of the adapters: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxunlearn.methods.wrapped import wrapped
from jaxunlearn.names import first_of
from jaxunlearn.types import FROZEN, Batch, InputError, ModelState, Params, Task


class TrainableSubset(NamedTuple):
    """A task on a subset of the parameters, or on adapters.

    Attributes:
        task: the task, whose parameters are the subset alone.
        split: `split(params, model_state, key) -> (subset, model_state with the rest)`.
        merge: `merge(subset, model_state with the rest) -> (params, model_state)`.
    """

    task: Task
    split: Callable[[Params, ModelState, jax.Array], tuple[Params, ModelState]]
    merge: Callable[[Params, ModelState], tuple[Params, ModelState]]


def trainable_subset(task: Task, pattern: str, rank: int = 0) -> TrainableSubset:
    """The task in which only parameters whose path matches, or adapters on them, are trained.

    Args:
        task: the task; its parameters are nested dictionaries.
        pattern: a regular expression, searched for in each path.
        rank: rank of the adapters; 0 trains the parameters themselves.

    Returns:
        The task and the functions that split and merge parameters.

    Raises:
        InputError: an invalid regular expression, one that matches no parameter (no kernel, for
            adapters), or a rank that is too large for a matching kernel.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> subset = trainable_subset(task, "head")
        >>> head, rest = subset.split(*task.init(jax.random.key(0)), jax.random.key(1))
        >>> list(head), "frozen" in rest
        (['head'], True)
    """
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    if not isinstance(params, dict):
        raise InputError(
            f"the parameters are a {type(params).__name__}, but must be nested dictionaries, so "
            "that they have paths; change init of the model, or train all parameters."
        )
    shapes = flatten_dict(params, sep="/")
    chosen = _matching(shapes, pattern, rank)

    def split(params: Params, model_state: ModelState, key: jax.Array) -> tuple[Params, ModelState]:
        flat = flatten_dict(params, sep="/")
        if rank:
            adapters = enumerate(chosen)
            subset = {path: _adapter(path, flat[path], rank, key, i) for i, path in adapters}
            return unflatten_dict(subset, sep="/"), {**model_state, FROZEN: params}
        subset = {path: flat[path] for path in chosen}
        rest = {path: value for path, value in flat.items() if path not in subset}
        frozen = unflatten_dict(rest, sep="/")
        return unflatten_dict(subset, sep="/"), {**model_state, FROZEN: frozen}

    def merge(
        subset: Params, model_state: ModelState, product: Callable[..., jax.Array] = jnp.matmul
    ) -> tuple[Params, ModelState]:
        model_state = dict(model_state)
        flat = flatten_dict(model_state.pop(FROZEN), sep="/")
        moved = flatten_dict(subset, sep="/")
        if rank:
            for path in chosen:
                change = product(moved[f"{path}/down"], moved[f"{path}/up"])
                flat[path] = flat[path] + change.reshape(flat[path].shape)
        else:
            flat |= moved
        return unflatten_dict(flat, sep="/"), model_state

    def of_all(function: Callable[..., Any], merge: Callable[..., Any] = merge) -> Any:
        """A function of the subset, from a function of the whole model."""

        def of_subset(
            subset: Params, model_state: ModelState, batch: Batch, *rest: Any
        ) -> tuple[jax.Array, ModelState]:
            params, inner = merge(subset, model_state)
            result, inner = function(params, inner, batch, *rest)
            return result, {**inner, FROZEN: model_state[FROZEN]}

        return of_subset

    inner = wrapped(task, of_all)._replace(init=lambda key: split(*task.init(key), key))
    if conditions := task.conditions:
        read = conditions.read
        inner = inner._replace(conditions=conditions._replace(read=lambda *w: read(*merge(*w))))
    if rank:
        with_both_factors = functools.partial(merge, product=_seen_product)
        saliency_losses = of_all(task.saliency_losses or task.losses, with_both_factors)
        inner = inner._replace(saliency_losses=saliency_losses)
    return TrainableSubset(inner, split, merge)


def _matching(shapes: dict[str, Any], pattern: str, rank: int) -> list[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"trainable is {pattern!r}, but must be a regular expression ({error}); give one that "
            "matches paths of parameters, such as 'head' or 'attention'."
        ) from error
    known = _kernels(shapes) if rank else [*shapes]
    chosen = [path for path in known if expression.search(path)]
    if not chosen:
        what = "kernel" if rank else "parameter"
        raise InputError(
            f"trainable is {pattern!r}, but must match a {what} of the model: {first_of(known, 6)}."
        )
    for path in chosen if rank else ():
        largest = min(_sides(path, shapes[path].shape))
        if rank > largest:
            raise InputError(
                f"adapter_rank is {rank}, but must be at most {largest} for {path} of shape "
                f"{shapes[path].shape}; lower it, or change the pattern {pattern!r}."
            )
    return chosen


def _kernels(shapes: dict[str, Any]) -> list[str]:
    """The paths of kernels, or of all matrices in a model that has other names for them."""
    matrices = [path for path, leaf in shapes.items() if leaf.ndim > 1]
    named = [path for path in matrices if path.rpartition("/")[2] in ("kernel", "weight")]
    return named or matrices


def _sides(path: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """A kernel as a matrix: the last axis of "kernel" is the output, the first of "weight"."""
    cut = 1 if path.endswith("weight") else -1
    return math.prod(shape[:cut]), math.prod(shape[cut:])


def _adapter(
    path: str, kernel: jax.Array, rank: int, key: jax.Array, number: int
) -> dict[str, jax.Array]:
    """A random down-projection and a zero up-projection: the model starts unchanged."""
    rows, columns = _sides(path, kernel.shape)
    down = jax.random.normal(jax.random.fold_in(key, number), (rows, rank)) / jnp.sqrt(rows)
    return {"down": down.astype(kernel.dtype), "up": jnp.zeros((rank, columns), kernel.dtype)}


def _seen_product(down: jax.Array, up: jax.Array) -> jax.Array:
    """The product of the factors, bit for bit, with its gradient at a random `up` if `up` is 0."""
    rank, columns = up.shape
    probe = jax.random.normal(jax.random.key(rank), (rank, columns)) / jnp.sqrt(columns)
    seen = down @ (up + jnp.where(jnp.any(up != 0), 0.0, probe).astype(up.dtype))
    return jax.lax.stop_gradient(down @ up) + (seen - jax.lax.stop_gradient(seen))
