"""SCRUB+R: SCRUB, wound back to the round whose forget accuracy is what unseen data would have."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import predict_of
from jaxunlearn.methods._limits import Count, NotNegative, Percent, Share
from jaxunlearn.methods.scrub import scrub
from jaxunlearn.types import (
    Arrays,
    Batch,
    InputError,
    Method,
    ModelState,
    Params,
    Task,
    TrainState,
)

_NO_ROUND = 101.0  # farther from the target than any accuracy in percent can be


class Snapshot(NamedTuple):
    """The best end of a round so far.

    Attributes:
        params: the parameters there.
        model_state: the running statistics there.
        gap: how far its round's forget accuracy is from the target, in points.
        total: the sum of the accuracies of this round's min steps so far.
    """

    params: Params
    model_state: ModelState
    gap: jax.Array  # shape=(), dtype=jnp.float32
    total: jax.Array  # shape=(), dtype=jnp.float32


class RewindState(NamedTuple):
    """What SCRUB+R remembers.

    Attributes:
        scrub: of SCRUB.
        snapshot: the best end of a round so far.
    """

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
) -> Method:
    """SCRUB, and at the last step the weights of the round nearest to a target forget accuracy.

        a_k = mean accuracy on the forget batches over the min steps of round k, each before it
        theta_T = the weights at the end of round argmin_k |a_k - target_accuracy|

    SCRUB alone may go on until forget examples are recognised less often than unseen ones, which
    gives them away. The paper's reference is the error on validation examples of the forgotten
    kind. A method sees no validation data, so the target is a setting: read it off the model's
    accuracy on validation examples; for classes that shall be forgotten as a whole it is 0. The
    paper evaluates each checkpoint on all forget data; here a round's batches stand for it. Steps
    after the last whole round never count.

    Args:
        task: what is unlearned; it needs outputs, a divergence and labels.
        optimizer: any optax optimizer.
        num_steps: T; at this step, and not before, the weights are wound back.
        target_accuracy: what the forget accuracy should be, in percent.
        num_max_steps: as in `scrub`.
        num_min_steps: as in `scrub`.
        max_share: as in `scrub`.
        distillation_weight: as in `scrub`.
        task_weight: as in `scrub`.

    Returns:
        A `Method`. Its metrics also hold "forget_accuracy", of this batch, and "accuracy_gap", of
        the best round so far (101 before the first), both in percent.

    Raises:
        InputError: a task without outputs and divergence, or fewer steps than one round has.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = scrub_r(task, optax.sgd(0.01), num_steps=100, target_accuracy=89.0)

    Reference: Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023.
    """
    predict = predict_of(task, "scrub_r")
    round_steps = num_max_steps + num_min_steps
    if num_steps < round_steps:
        raise InputError(
            f"num_steps is {num_steps}, but scrub_r needs at least one round of {round_steps}; "
            "take more steps, or fewer num_max_steps and num_min_steps."
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
    )

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        state = inner.init(key, params, model_state, forget, retain)
        params, model_state = jax.tree.map(jnp.copy, (params, model_state))
        gap = jnp.full([], _NO_ROUND, jnp.float32)
        snapshot = Snapshot(params, model_state, gap, jnp.zeros([]))
        return state._replace(opt_state=RewindState(state.opt_state, snapshot))

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
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
