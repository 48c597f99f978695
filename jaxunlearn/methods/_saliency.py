"""Saliency masks from whole data sets, for `Method.init`."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from jax.flatten_util import ravel_pytree

from jaxunlearn.methods._build import Start
from jaxunlearn.methods._passes import fisher_of, gradient_of, saliency_losses
from jaxunlearn.transforms import SaliencyMaskState, fisher_ratio_mask, top_fraction_mask
from jaxunlearn.types import InputError, Method, Task, TrainState

MaskName = Literal["saliency", "random"]
MASKS: tuple[str, ...] = get_args(MaskName)
_SHUFFLE_CHILD = 4  # of the run's key


def fisher_mask(task: Task, start: Start, *, threshold: float | jax.Array, **passes: Any) -> Any:
    """`1[F_forget / F_retain >= threshold]`, with the keywords of `fisher_of`."""
    of_forget = fisher_of(task, start, start.forget, **passes)
    of_retain = fisher_of(task, start, start.retain, **passes)
    return fisher_ratio_mask(of_forget, of_retain, threshold=threshold)


def gradient_mask(task: Task, start: Start, *, fraction: float | jax.Array, batch_size: int) -> Any:
    """The given fraction of parameters with the largest summed forget gradient."""
    losses_fn = saliency_losses(task, start.model_state, start.forget, start.key)
    total = gradient_of(losses_fn, start.params, start.forget, batch_size, start.key)
    return top_fraction_mask(total, fraction)


def masked(method: Method, mask_of: Callable[[Start], Any]) -> Method:
    """A method whose optimizer ends with `saliency_mask()`, under the mask of its start."""

    def is_mask(node: Any) -> bool:
        return isinstance(node, SaliencyMaskState)

    def init(*start: Any) -> TrainState:
        mask = SaliencyMaskState(mask_of(Start(*start)))
        return jax.tree.map(
            lambda node: mask if is_mask(node) else node, method.init(*start), is_leaf=is_mask
        )

    return method._replace(init=init)


def arranged(choice: str) -> Callable[[Any, jax.Array], Any]:
    """`(mask, key of the run) -> mask`: the same ("saliency"), or shuffled as a control ("random").

    The shuffle runs over the whole tree. A method that does as well with a random mask owes nothing
    to saliency.
    """
    if choice not in MASKS:
        raise InputError(f"mask is {choice!r}, but must be one of {', '.join(MASKS)}.")

    def shuffled(mask: Any, key: jax.Array) -> Any:
        entries, in_place = ravel_pytree(mask)
        return in_place(jax.random.permutation(jax.random.fold_in(key, _SHUFFLE_CHILD), entries))

    return shuffled if choice == "random" else lambda mask, key: mask
