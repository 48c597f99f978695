"""SCRUB: a student that disobeys its teacher, the original model, on the forget data alone.

| method | final weights |
| --- | --- |
| `scrub` | the weights of the last step |
| `scrub_r` | SCRUB+R: the weights of the round whose forget accuracy is nearest to a target |

Source: Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import Metrics, Start, advance, begin, first, predict_of
from jaxunlearn.methods._limits import Count, NotNegative, Percent, Positive, Share
from jaxunlearn.methods._teacher import Teacher, distance_from, keep
from jaxunlearn.methods.objectives import retain_loss
from jaxunlearn.types import (
    Batch,
    InputError,
    LossPair,
    Method,
    ModelState,
    Params,
    Task,
    TrainState,
)

_NO_ROUND = 101.0  # farther from the target than any accuracy in percent


class ScrubState(NamedTuple):
    """The optimizer state of SCRUB.

    Attributes:
        optimizer: state of the optimizer, which takes both kinds of steps.
        teacher: original model.
        losses: latest measurement of each loss, 0 before the first.
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
    temperature: Positive = 1.0,
) -> Method:
    """SCRUB: rounds of steps away from the teacher on forget data, then towards it on retain data.

        max step    minimise  L_f = - mean_i KL(teacher(x_i) || student(x_i))         on forget data
        min step    minimise  L_r = distillation_weight mean_i KL(teacher(x_i) || student(x_i))
                                    + task_weight mean_i l_i                          on retain data

    A round is `num_max_steps` max steps, then `num_min_steps` min steps. After `max_share` of all
    steps there are only min steps. Only min steps update running statistics. A min step costs two
    backward passes, because a task has separate functions for losses and outputs.

    The teacher is in evaluation mode. If the task augments, the teacher receives the plain image
    and the student the augmented one; in the paper both receive the augmented one.

    The student starts as a copy of its teacher. Without augmentation and batch statistics, the
    divergence and its gradient are 0 there: max steps only widen the gap that min steps have
    opened, at an accelerating rate.

    Args:
        task: the unlearning task; it needs outputs and a divergence.
        optimizer: any optax optimizer.
        num_steps: T, the number of steps.
        num_max_steps: number of max steps, which begin a round.
        num_min_steps: number of min steps, which end a round.
        max_share: fraction of all steps after which there are no more max steps; 0 is distillation
            on the retain data.
        distillation_weight: weight of the divergence in a min step.
        task_weight: weight of the ordinary loss in a min step.
        temperature: temperature t of the distillation: outputs are divided by t, and the divergence
            is multiplied by t^2; 4 in the released code.

    Returns:
        A `Method`. Its metrics hold the latest measurement of each loss, 0 before the first.

    Raises:
        InputError: a task without outputs and divergence.
    """
    distance = distance_from(task, "scrub", temperature)

    def init(key: jax.Array, params: Params, model_state: ModelState, *data: Any) -> TrainState:
        del data
        state = begin(optimizer, key, params, model_state)
        unmeasured = LossPair(jnp.zeros([]), jnp.zeros([]))
        return state._replace(
            opt_state=ScrubState(state.opt_state, keep(params, model_state), unmeasured)
        )

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
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


class Snapshot(NamedTuple):
    """The best end of a round so far.

    Attributes:
        params: parameters at that end.
        model_state: running statistics at that end.
        gap: distance of that round's forget accuracy from the target, in points.
        total: sum of the accuracies in the current round's min steps so far.
    """

    params: Params
    model_state: ModelState
    gap: jax.Array  # shape=(), dtype=jnp.float32
    total: jax.Array  # shape=(), dtype=jnp.float32


class RewindState(NamedTuple):
    """The optimizer state of SCRUB+R: the state of SCRUB, and the best end of a round so far."""

    scrub: Any
    snapshot: Snapshot


def scrub_r(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    target_accuracy: Percent = 90.0,
    num_max_steps: Count = 4,
    num_min_steps: Count = 12,
    max_share: Share = 0.6,
    distillation_weight: NotNegative = 0.5,
    task_weight: NotNegative = 1.0,
    temperature: Positive = 1.0,
) -> Method:
    """SCRUB+R: SCRUB, then the weights of the round nearest to a target forget accuracy.

        a_k = mean accuracy on the forget batches over the min steps of round k, each before it
        theta_T = the weights at the end of round argmin_k |a_k - target_accuracy|

    SCRUB alone may continue until forget examples are recognised less often than unseen ones, which
    gives them away. The paper's reference is the error on validation examples that resemble the
    forget data. A method has no validation data, so the target is a setting: the model's accuracy
    on such examples, or 0 to forget whole classes. The paper evaluates each checkpoint on all
    forget data; here the batches of a round represent them. Steps after the last complete round
    are discarded.

    Args:
        task: the unlearning task; it needs outputs, a divergence and labels.
        optimizer: any optax optimizer.
        num_steps: T, the number of steps, after which the weights are wound back.
        target_accuracy: target of the forget accuracy, in percent.
        num_max_steps: number of max steps, which begin a round.
        num_min_steps: number of min steps, which end a round.
        max_share: fraction of all steps after which there are no more max steps.
        distillation_weight: weight of the divergence in a min step.
        task_weight: weight of the ordinary loss in a min step.
        temperature: temperature t of the distillation: outputs are divided by t, and the divergence
            is multiplied by t^2; 4 in the released code.

    Returns:
        A `Method`. Its metrics also hold "forget_accuracy" of this batch and "accuracy_gap" of the
        best round so far (101 before the first), both in percent.

    Raises:
        InputError: a task without outputs and divergence, or fewer steps than one round has.
    """
    predict = predict_of(task, "scrub_r")
    round_steps = num_max_steps + num_min_steps
    if num_steps < round_steps:
        raise InputError(
            f"num_steps is {num_steps}, but must be at least {round_steps}, one round of scrub_r; "
            "raise it, or lower num_max_steps or num_min_steps."
        )
    inner = scrub(
        task,
        optimizer,
        num_steps=num_steps,
        num_max_steps=num_max_steps,
        num_min_steps=num_min_steps,
        max_share=max_share,
        distillation_weight=distillation_weight,
        task_weight=task_weight,
        temperature=temperature,
    )

    def init(*start: Any) -> TrainState:
        state, given = inner.init(*start), Start(*start)
        params, model_state = keep(given.params, given.model_state)
        gap = jnp.full([], _NO_ROUND, jnp.float32)
        snapshot = Snapshot(params, model_state, gap, jnp.zeros([]))
        return state._replace(opt_state=RewindState(state.opt_state, snapshot))

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
        inner_state, snapshot = state.opt_state
        place = state.step % round_steps
        predicted = jnp.argmax(predict(state.params, state.model_state, forget), axis=-1)
        accuracy = 100.0 * jnp.mean(predicted == forget["label"])
        state, metrics = inner.step(state._replace(opt_state=inner_state), forget, retain)
        total = jnp.where(place == 0, 0.0, snapshot.total)
        total = total + jnp.where(place < num_max_steps, 0.0, accuracy)
        gap = jnp.abs(total / num_min_steps - target_accuracy)
        best = (place == round_steps - 1) & (gap < snapshot.gap)
        params, model_state, gap = optax.tree.where(
            best,
            (state.params, state.model_state, gap),
            (snapshot.params, snapshot.model_state, snapshot.gap),
        )
        last = state.step == num_steps
        state = state._replace(
            params=optax.tree.where(last, params, state.params),
            model_state=optax.tree.where(last, model_state, state.model_state),
            opt_state=RewindState(state.opt_state, Snapshot(params, model_state, gap, total)),
        )
        return state, metrics | {"forget_accuracy": accuracy, "accuracy_gap": gap}

    return Method(init, step)
