"""The forget phase of SFR-on: a decaying, masked and clipped gradient, ready to be stepped."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jaxunlearn.methods._saliency import MaskName, arranged, fisher_mask
from jaxunlearn.transforms import SaliencyMaskState, saliency_mask
from jaxunlearn.types import Arrays, ModelState, Params, Task


class ForgetPhase(NamedTuple):
    """A gradient transformation whose mask is made from the data.

    Attributes:
        init: `init(key, params, model_state, forget, retain) -> state`.
        update: `update(grads, state, params) -> (updates, state)`.
    """

    init: Callable[[jax.Array, Params, ModelState, Arrays, Arrays], Any]
    update: Callable[..., tuple[optax.Updates, Any]]


def forget_phase(
    task: Task,
    decay: optax.Schedule,
    finish: optax.GradientTransformation,
    *,
    clip_norm: float | jax.Array,
    saliency: bool,
    mask: MaskName,
    threshold: float | jax.Array,
    per_example: bool,
    mask_batch_size: int,
    num_mask_batches: int,
) -> ForgetPhase:
    """Scales by `decay`, masks by the Fisher ratio if `saliency`, clips, and then does `finish`."""
    arrange = arranged(mask)
    masked = saliency_mask() if saliency else optax.identity()
    scale, clip = optax.scale_by_schedule(decay), optax.clip_by_global_norm(clip_norm)
    chain = optax.chain(masked, scale, clip, finish)

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> Any:
        state = chain.init(params)
        if saliency:
            salient = fisher_mask(
                task,
                key,
                params,
                model_state,
                forget,
                retain,
                threshold=threshold,
                per_example=per_example,
                batch_size=mask_batch_size,
                num_batches=num_mask_batches,
            )
            state = (SaliencyMaskState(arrange(salient, key)), *state[1:])
        return state

    return ForgetPhase(init, chain.update)
