"""The forget phase of SFR-on: a decaying, masked and clipped gradient, ready to be stepped."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jaxunlearn.methods._build import Start
from jaxunlearn.methods._saliency import arranged, fisher_mask
from jaxunlearn.transforms import SaliencyMaskState, saliency_mask
from jaxunlearn.types import Task


class ForgetPhase(NamedTuple):
    """A gradient transformation whose mask is made from the data.

    Attributes:
        init: `init(start) -> state`.
        update: `update(grads, state, params) -> (updates, state)`.
    """

    init: Callable[[Start], Any]
    update: Callable[..., tuple[optax.Updates, Any]]


def forget_phase(
    task: Task,
    decay: optax.Schedule,
    finish: optax.GradientTransformation,
    *,
    clip_norm: float | jax.Array,
    saliency: bool,
    mask: str,
    **fisher: Any,
) -> ForgetPhase:
    """Masks if `saliency`, scales by `decay`, clips, then does `finish`.

    Args:
        task: the unlearning task.
        decay: schedule of the scale.
        finish: last transformation.
        clip_norm: largest norm of the scaled gradient.
        saliency: whether there is a mask.
        mask: "saliency" or "random".
        **fisher: keywords of `fisher_mask`.

    Returns:
        A `ForgetPhase`.
    """
    arrange = arranged(mask)
    masked = saliency_mask() if saliency else optax.identity()
    scale, clip = optax.scale_by_schedule(decay), optax.clip_by_global_norm(clip_norm)
    chain = optax.chain(masked, scale, clip, finish)

    def init(start: Start) -> Any:
        state = chain.init(start.params)
        if not saliency:
            return state
        salient = fisher_mask(task, start, **fisher)
        return (SaliencyMaskState(arrange(salient, start.key)), *state[1:])

    return ForgetPhase(init, chain.update)
