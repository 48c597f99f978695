"""The forget phase of SFR-on: a decaying, masked and clipped gradient step."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import optax

from jaxunlearn.methods._build import Start
from jaxunlearn.methods._saliency import arranged, fisher_mask
from jaxunlearn.transforms import SaliencyMaskState, saliency_mask
from jaxunlearn.types import InputError, Task

ForgetOptimizer = Literal["sgd", "adam"]


class ForgetPhase(NamedTuple):
    """A gradient transformation whose `init(start)` makes a mask from the data."""

    init: Callable[[Start], Any]
    update: Callable[..., tuple[optax.Updates, Any]]


def check_forget_optimizer(name: str, share_optimizer: bool, variant: str = "") -> None:
    """Raises an InputError if both phases have one optimizer and forgetting is given another."""
    if name != "sgd" and (share_optimizer or variant == "R"):
        sharing = "share_optimizer" if share_optimizer else "the variant R"
        raise InputError(
            f"forget_optimizer is {name!r}, but must be 'sgd' with {sharing}, which gives both "
            f"phases one optimizer; leave forget_optimizer or {sharing} out."
        )


def forget_phase(
    task: Task,
    decay: optax.Schedule,
    finish: optax.GradientTransformation,
    *,
    clip_norm: float | jax.Array,
    saliency: bool,
    mask: str,
    adam: bool = False,
    **fisher: Any,
) -> ForgetPhase:
    """Masks if `saliency`, scales by `decay`, clips, then applies `finish`.

    With `adam`, `decay` scales the direction of Adam on the masked and clipped gradient instead,
    whose own scale has no effect. `mask` is "saliency" or "random"; further keywords go to
    `fisher_mask`.
    """
    arrange = arranged(mask)
    masked = saliency_mask() if saliency else optax.identity()
    scale, clip = optax.scale_by_schedule(decay), optax.clip_by_global_norm(clip_norm)
    chain = optax.chain(masked, scale, clip, finish)
    if adam:
        chain = optax.chain(masked, clip, optax.scale_by_adam(), scale, finish)

    def init(start: Start) -> Any:
        state = chain.init(start.params)
        if not saliency:
            return state
        salient = fisher_mask(task, start, **fisher)
        return (SaliencyMaskState(arrange(salient, start.key)), *state[1:])

    return ForgetPhase(init, chain.update)
