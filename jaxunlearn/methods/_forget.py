"""The forget phase of SFR-on: a decaying, masked and clipped gradient step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jaxunlearn.methods._build import Start
from jaxunlearn.methods._saliency import arranged, fisher_mask
from jaxunlearn.transforms import SaliencyMaskState, saliency_mask
from jaxunlearn.types import Task


class ForgetPhase(NamedTuple):
    """A gradient transformation whose `init(start)` makes a mask from the data."""

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
    """Masks if `saliency`, scales by `decay`, clips, then applies `finish`.

    `mask` is "saliency" or "random"; further keywords go to `fisher_mask`.
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
