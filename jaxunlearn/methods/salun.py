"""SalUn: random labels that move only the parameters that matter most to the forget data.

| method | parameters that may move |
| --- | --- |
| `salun` | the fraction with the largest forget gradients of the original model (hard mask) |
| `salun_soft` | parameters that move far enough, by a proximal step after every step (soft mask) |

Source: Fan et al., SalUn, ICLR 2024 (arXiv 2310.12508).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods import objectives
from jaxunlearn.methods._build import Metrics, Start, descend, weighted
from jaxunlearn.methods._limits import Count, NotNegative, Share
from jaxunlearn.methods._saliency import MaskName, arranged, gradient_mask, masked
from jaxunlearn.methods.objectives import ObjectiveName, Redraw
from jaxunlearn.methods.optimizers import schedule
from jaxunlearn.methods.scalarization import random_labels
from jaxunlearn.transforms import saliency_mask
from jaxunlearn.types import Batch, LossPair, Method, Task, TrainState


def salun(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    mask: MaskName = "saliency",
    fraction: Share = 0.5,
    redraw: Redraw = "every_epoch",
    exclude_true_label: bool = False,
    mask_batch_size: Count = 32,
    objective: ObjectiveName = "random_labels",
) -> Method:
    """Random labels with updates masked to the largest `|sum grad L_f|` of the original model.

        theta <- theta - m * opt(grad (L_f + L_r)),   L_f of random labels
        m = 1[|sum g_f| in the top fraction]

    The mask is last in the chain, so that masked weights stay bit-equal under momentum and weight
    decay.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.
        mask: the saliency mask, or as a control a random mask of the same size.
        fraction: fraction of the parameters that may move.
        redraw: whether a label is drawn at each visit of an example, or only once.
        exclude_true_label: whether the true label is never drawn.
        mask_batch_size: batch size of the pass that computes the mask.
        objective: forget objective; "match_anchor" replaces the forgotten class by another one in
            models that generate images.

    Raises:
        InputError: an unknown mask, `redraw` or objective.
    """
    arrange = arranged(mask)
    if objective == "random_labels":
        forget_objective = objectives.random_labels(redraw, exclude_true_label)
    else:
        forget_objective = objectives.named(objective, task=task)
    losses = weighted(task, forget_objective, LossPair(1.0, 1.0))
    method = descend(losses, optax.chain(optimizer, saliency_mask()))

    def mask_of(start: Start) -> Any:
        salient = gradient_mask(task, start, fraction=fraction, batch_size=mask_batch_size)
        return arrange(salient, start.key)

    return masked(method, mask_of)


def salun_soft(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    threshold: NotNegative = 1e-4,
    redraw: Redraw = "every_epoch",
    exclude_true_label: bool = False,
) -> Method:
    """Random labels with a penalty `|theta - theta_0|_1`, by proximal steps.

        theta' = theta - opt(grad (L_random labels + L_r))
        theta <- theta_0 + S(theta' - theta_0; tau_t),   S(x; tau) = sign(x) max(|x| - tau, 0)

    A weight that changes by at most `tau_t = threshold (1 - t / T)` keeps its original value bit
    for bit.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.
        num_steps: T, the number of steps over which `tau_t` decays.
        threshold: `tau_0`, the learning rate times the weight of the penalty; 0 is random labels.
        redraw: whether a label is drawn at each visit of an example, or only once.
        exclude_true_label: whether the true label is never drawn.

    Raises:
        InputError: an unknown `redraw`.
    """
    decay = schedule("linear", threshold, num_steps)
    relabelling = random_labels(
        task, optimizer, redraw=redraw, exclude_true_label=exclude_true_label
    )

    def init(*start: Any) -> TrainState:
        state = relabelling.init(*start)
        original = jax.tree.map(jnp.copy, Start(*start).params)
        return state._replace(opt_state=(state.opt_state, original))

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
        opt_state, original = state.opt_state
        tau = decay(state.step)
        state, metrics = relabelling.step(state._replace(opt_state=opt_state), forget, retain)
        params = jax.tree.map(lambda p, o: o + _shrunk(p - o, tau), state.params, original)
        return state._replace(params=params, opt_state=(state.opt_state, original)), metrics

    return Method(init, step)


def _shrunk(x: jax.Array, threshold: jax.Array) -> jax.Array:
    """`sign(x) max(|x| - threshold, 0)`, the soft threshold."""
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold.astype(x.dtype), 0.0)
