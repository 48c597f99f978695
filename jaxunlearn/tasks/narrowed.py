"""A task of which only a part of the parameters moves: some of them, or low-rank adapters on them.

    some          params = those whose path matches,  the others are frozen
    adapters      W = W_0 + A B,  params = {A [in, r], B [r, out]} of the kernels whose path matches

An adapter begins with B = 0, where A has no gradient. Saliency is therefore measured as if B were
random and W the same, so that each factor shows a random projection of the kernel's gradient.

What is frozen travels in the model state, which no optimizer, mask or weight decay ever sees, so it
stays bit-equal. The path of a parameter is its names joined by slashes, as in "block0/conv/kernel".

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

from jaxunlearn.types import Batch, InputError, ModelState, Params, Task

FROZEN = "frozen"  # the part of the model state that no step writes


class Narrowed(NamedTuple):
    """A task on a part of the parameters.

    Attributes:
        task: it, on the part alone.
        split: `split(params, model_state, key) -> (part, model_state with the rest)`.
        merge: `merge(part, model_state with the rest) -> (params, model_state)`.
    """

    task: Task
    split: Callable[[Params, ModelState, jax.Array], tuple[Params, ModelState]]
    merge: Callable[[Params, ModelState], tuple[Params, ModelState]]


def narrowed(task: Task, pattern: str, rank: int = 0) -> Narrowed:
    """The task of moving only the parameters whose path matches, or adapters on them.

    Args:
        task: what is unlearned; its parameters are nested dictionaries.
        pattern: a regular expression, searched for in each path.
        rank: of the adapters; 0 moves the parameters themselves.

    Returns:
        A `Narrowed` task.

    Raises:
        InputError: a pattern that is no regular expression or matches no parameter (no kernel, for
            adapters), or a rank that no matching kernel has.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> part = narrowed(task, "head")
        >>> head, rest = part.split(*task.init(jax.random.key(0)), jax.random.key(1))
        >>> list(head), "frozen" in rest
        (['head'], True)
    """
    shapes = flatten_dict(jax.eval_shape(task.init, jax.random.key(0))[0], sep="/")
    chosen = _matching(shapes, pattern, rank)

    def split(params: Params, model_state: ModelState, key: jax.Array) -> tuple[Params, ModelState]:
        flat = flatten_dict(params, sep="/")
        if rank:
            part = {path: _adapter(flat[path], rank, key, i) for i, path in enumerate(chosen)}
            return unflatten_dict(part, sep="/"), {**model_state, FROZEN: params}
        part = {path: flat[path] for path in chosen}
        rest = {path: value for path, value in flat.items() if path not in part}
        frozen = unflatten_dict(rest, sep="/")
        return unflatten_dict(part, sep="/"), {**model_state, FROZEN: frozen}

    def merge(
        part: Params, model_state: ModelState, product: Callable[..., jax.Array] = jnp.matmul
    ) -> tuple[Params, ModelState]:
        model_state = dict(model_state)
        flat = flatten_dict(model_state.pop(FROZEN), sep="/")
        moved = flatten_dict(part, sep="/")
        if rank:
            for path in chosen:
                change = product(moved[f"{path}/down"], moved[f"{path}/up"])
                flat[path] = flat[path] + change.reshape(flat[path].shape)
        else:
            flat |= moved
        return unflatten_dict(flat, sep="/"), model_state

    def of_all(function: Callable[..., Any], merge: Callable[..., Any] = merge) -> Any:
        """A function of the task, which takes and returns the whole model."""

        def on_part(
            part: Params, model_state: ModelState, batch: Batch, *rest: Any
        ) -> tuple[jax.Array, ModelState]:
            params, inner = merge(part, model_state)
            result, inner = function(params, inner, batch, *rest)
            return result, {**inner, FROZEN: model_state[FROZEN]}

        return on_part

    def predict(part: Params, model_state: ModelState, batch: Batch) -> jax.Array:
        assert task.predict is not None
        return task.predict(*merge(part, model_state), batch)

    def init(key: jax.Array) -> tuple[Params, ModelState]:
        return split(*task.init(key), key)

    with_both_factors = functools.partial(merge, product=_seen_product)
    inner = task._replace(
        init=init,
        losses=of_all(task.losses),
        predict=predict if task.predict else None,
        outputs=of_all(task.outputs) if task.outputs else None,
        forget_losses=of_all(task.forget_losses) if task.forget_losses else None,
        saliency_losses=of_all(task.saliency_losses or task.losses, with_both_factors)
        if rank
        else task.saliency_losses and of_all(task.saliency_losses),
    )
    return Narrowed(inner, split, merge)


def _matching(shapes: dict[str, Any], pattern: str, rank: int) -> list[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"trainable is {pattern!r}, which is no regular expression ({error}); give one that "
            "matches paths of parameters, such as 'head' or 'attention'."
        ) from error
    known = [path for path in shapes if not rank or path.endswith("kernel")]
    chosen = [path for path in known if expression.search(path)]
    if not chosen:
        what = "kernel" if rank else "parameter"
        raise InputError(
            f"trainable is {pattern!r}, which matches no {what} of the model; there are "
            f"{', '.join(known[:6])} and {max(len(known) - 6, 0)} more."
        )
    for path in chosen if rank else ():
        largest = min(_sides(shapes[path].shape))
        if rank > largest:
            raise InputError(
                f"adapter_rank is {rank}, but {path} of shape {shapes[path].shape} has ranks up to "
                f"{largest}; take a smaller rank, or another pattern than {pattern!r}."
            )
    return chosen


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """A kernel as a matrix: its last axis is the output."""
    return math.prod(shape[:-1]), shape[-1]


def _adapter(kernel: jax.Array, rank: int, key: jax.Array, number: int) -> dict[str, jax.Array]:
    """A random down-projection and a zero up-projection: the model begins as it was."""
    rows, columns = _sides(kernel.shape)
    down = jax.random.normal(jax.random.fold_in(key, number), (rows, rank)) / jnp.sqrt(rows)
    return {"down": down.astype(kernel.dtype), "up": jnp.zeros((rank, columns), kernel.dtype)}


def _seen_product(down: jax.Array, up: jax.Array) -> jax.Array:
    """The product of the factors, bit for bit, with the gradient that it has at a random `up`.

    Only where `up` is zero, as in the beginning; elsewhere `down` has a gradient of its own.
    """
    rank, columns = up.shape
    probe = jax.random.normal(jax.random.key(rank), (rank, columns)) / jnp.sqrt(columns)
    seen = down @ (up + jnp.where(jnp.any(up != 0), 0.0, probe).astype(up.dtype))
    return jax.lax.stop_gradient(down @ up) + (seen - jax.lax.stop_gradient(seen))
