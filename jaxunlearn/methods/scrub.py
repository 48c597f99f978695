"""SCRUB: a student that disobeys its teacher, the original model, on the forget data alone."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import advance, begin, first
from jaxunlearn.methods._limits import Count, NotNegative, Share
from jaxunlearn.methods._teacher import Teacher, distance_from, keep
from jaxunlearn.methods.objectives import retain_loss
from jaxunlearn.types import (
    Arrays,
    Batch,
    LossPair,
    Method,
    ModelState,
    Params,
    Task,
    TrainState,
)


class ScrubState(NamedTuple):
    """What SCRUB remembers.

    Attributes:
        optimizer: of the optimizer, which takes both kinds of steps.
        teacher: the original model.
        losses: each loss as it was last measured, 0 before that.
    """

    optimizer: Any
    teacher: Teacher
    losses: LossPair


def scrub(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    num_max_steps: Count = 4,
    num_min_steps: Count = 12,
    max_share: Share = 0.6,
    distillation_weight: NotNegative = 0.5,
    task_weight: NotNegative = 1.0,
) -> Method:
    """Rounds of steps away from the teacher on forget data, then toward it on retain data.

        max step    minimise  L_f = - mean_i KL(teacher(x_i) || student(x_i))         on forget data
        min step    minimise  L_r = distillation_weight mean_i KL(teacher(x_i) || student(x_i))
                                    + task_weight mean_i l_i                          on retain data

    A round is `num_max_steps` max steps, then `num_min_steps` min steps. Past `max_share` of all
    steps there are min steps only. Running statistics move in min steps. A min step costs two
    backward passes, because a task gives its losses and its outputs separately.

    The teacher is in evaluation mode. Where the task augments, it sees the plain image and the
    student an augmented one; the paper shows both the augmented one.

    The student starts as its teacher. Where training does not differ from evaluation (no
    augmentation, no batch statistics), the divergence and its gradient are 0 there: max steps only
    widen the gap that min steps have opened, slowly at first and then ever faster.

    Args:
        task: what is unlearned; it needs outputs and a divergence.
        optimizer: any optax optimizer.
        num_steps: T, how many steps there are.
        num_max_steps: max steps at the start of a round, one or more.
        num_min_steps: min steps after them.
        max_share: the share of all steps past which there are no more max steps; 0 is
            distillation on the retain data.
        distillation_weight: of the divergence in a min step.
        task_weight: of the ordinary loss in a min step.

    Returns:
        A `Method`. In its metrics each loss is as it was last measured: 0 before the first step of
        its kind.

    Raises:
        InputError: a task without outputs and divergence.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = scrub(task, optax.sgd(0.01), num_steps=100)

    Reference: Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023.
    """
    distance = distance_from(task, "scrub")

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        del forget, retain
        state = begin(optimizer, key, params, model_state)
        unmeasured = LossPair(jnp.zeros([]), jnp.zeros([]))
        return state._replace(
            opt_state=ScrubState(state.opt_state, keep(params, model_state), unmeasured)
        )

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key, batch = jax.random.wrap_key_data(state.key), first(retain)
        optimizer_state, teacher, last = state.opt_state

        def max_step() -> tuple[Params, ModelState, LossPair]:
            loss, grads = jax.value_and_grad(
                lambda p: -distance(teacher, p, state.model_state, forget, key)[0]
            )(state.params)
            return grads, state.model_state, LossPair(loss, last.retain)

        def min_loss(params: Params) -> tuple[jax.Array, ModelState]:
            apart, _ = distance(teacher, params, state.model_state, batch, key)
            ordinary, model_state = retain_loss(task, params, state.model_state, batch, key)
            return distillation_weight * apart + task_weight * ordinary, model_state

        def min_step() -> tuple[Params, ModelState, LossPair]:
            (loss, model_state), grads = jax.value_and_grad(min_loss, has_aux=True)(state.params)
            return grads, model_state, LossPair(last.forget, loss)

        place = state.step % (num_max_steps + num_min_steps)
        away = (place < num_max_steps) & (state.step < max_share * num_steps)
        grads, model_state, losses = jax.lax.cond(away, max_step, min_step)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, state.params)
        opt_state = ScrubState(optimizer_state, teacher, losses)
        metrics = {"forget_loss": losses.forget, "retain_loss": losses.retain}
        return advance(state, updates, opt_state, model_state), metrics

    return Method(init, step)
