"""Forget objectives: what to minimise on the forget data so that it is forgotten.

An objective is a function `(task, params, model_state, batch, key) -> scalar`. Pair one with the
retain loss by `loss_pair`, and hand the pair to any surgery, aggregator or weighting.

    ascent             -mean_i l_i
    adaptive ascent    -mean_i c_i l_i,  c_i proportional to 1 / sg(l_i)^exponent    (SFR-on)
    random labels      mean_i l_i against labels drawn anew                           (SalUn, EUPMU)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.transforms import adaptive_weights
from jaxunlearn.types import (
    Batch,
    InputError,
    LossPair,
    ModelState,
    Params,
    Task,
    example_keys,
)

Objective = Callable[[Task, Params, ModelState, Batch, jax.Array], jax.Array]


def ascent(
    task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
) -> jax.Array:
    """Gradient ascent on the ordinary loss: `-mean_i l_i`."""
    losses, _ = task.losses(params, model_state, batch, key, True)
    return -jnp.mean(losses)


def adaptive_ascent(exponent: float | jax.Array = 0.5, axis_name: str | None = None) -> Objective:
    """Ascent that spares what is forgotten: `-mean_i c_i l_i`, `c_i ~ 1 / sg(l_i)^exponent`.

    Args:
        exponent: 0 is plain ascent.
        axis_name: the mapped axis the batch is split over, if any.

    Returns:
        An objective.

    Reference: Huang et al. (SFR-on, arXiv 2409.19732), NeurIPS 2024.
    """

    def objective(
        task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
    ) -> jax.Array:
        losses, _ = task.losses(params, model_state, batch, key, True)
        return -jnp.mean(adaptive_weights(losses, exponent, axis_name) * losses)

    return objective


def random_labels(redraw: str = "every_epoch", exclude_true_label: bool = False) -> Objective:
    """The ordinary loss against labels drawn uniformly at random.

    Args:
        redraw: "every_epoch" draws a new label at each visit of an example, "once" always the same.
        exclude_true_label: never draw the true label.

    Returns:
        An objective.

    Raises:
        InputError: an unknown `redraw`.
    """
    if redraw not in ("every_epoch", "once"):
        raise InputError(f"redraw is {redraw!r}, but must be 'every_epoch' or 'once'.")

    def objective(
        task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
    ) -> jax.Array:
        visit = batch if redraw == "every_epoch" else batch | {"epoch": batch["epoch"] * 0}
        keys = example_keys(jax.random.fold_in(key, 1), visit)
        draw = jax.vmap(lambda k, n: jax.random.randint(k, (), 0, n), in_axes=(0, None))
        if exclude_true_label:
            labels = (batch["label"] + 1 + draw(keys, task.num_classes - 1)) % task.num_classes
        else:
            labels = draw(keys, task.num_classes)
        losses, _ = task.losses(params, model_state, batch | {"label": labels}, key, True)
        return jnp.mean(losses)

    return objective


def named(name: str, exponent: float | jax.Array = 0.5) -> Objective:
    """The objective of that name: ascent, adaptive_ascent or random_labels.

    Raises:
        InputError: an unknown name.
    """
    objectives = {
        "ascent": ascent,
        "adaptive_ascent": adaptive_ascent(exponent),
        "random_labels": random_labels(),
    }
    if name not in objectives:
        raise InputError(f"objective is {name!r}, but must be one of {', '.join(objectives)}.")
    return objectives[name]


def retain_loss(
    task: Task, params: Params, model_state: ModelState, batch: Batch, key: jax.Array
) -> tuple[jax.Array, ModelState]:
    """The mean ordinary loss on a retain batch, and the model state that it leaves behind."""
    losses, model_state = task.losses(params, model_state, batch, key, True)
    return jnp.mean(losses), model_state


def loss_pair(task: Task, objective: Objective) -> Callable[..., tuple[LossPair, Any]]:
    """Both losses of one step, for `surgery_value_and_grad(..., has_aux=True)`.

    Args:
        task: what is being unlearned.
        objective: the forget objective.

    Returns:
        `losses_fn(params, model_state, forget, retain, key) -> (LossPair, model_state)`, the model
        state as the *retain* batch leaves it: forget data never writes running statistics.
    """

    def losses_fn(
        params: Params, model_state: ModelState, forget: Batch, retain: Batch, key: jax.Array
    ) -> tuple[LossPair, ModelState]:
        forget_value = objective(task, params, model_state, forget, key)
        retain_value, new_state = retain_loss(task, params, model_state, retain, key)
        return LossPair(forget_value, retain_value), new_state

    return losses_fn
