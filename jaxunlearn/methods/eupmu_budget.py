"""EUPMU with an automatic tolerance, from a budget of retain accuracy in percentage points.

The paper leaves the tolerance open. Here it follows from a budget that a user can state: "the
retain accuracy may fall by 0.5 points".
"""

import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods import objectives
from jaxunlearn.methods._build import Metrics, begin, predict_of
from jaxunlearn.methods._limits import Count, Limits, NotNegative, Share
from jaxunlearn.methods._passes import mean_over
from jaxunlearn.methods._surgery import Surgery, make_surgery, surgery_step
from jaxunlearn.methods._winding_back import audit, watch
from jaxunlearn.methods.objectives import ObjectiveName
from jaxunlearn.types import (
    Arrays,
    Batch,
    InputError,
    Method,
    ModelState,
    Params,
    Task,
    TrainState,
    unvisited,
)

_BATCH, _MOST_AUDITED = 256, 1024
_AUDIT_CHILD = 10  # of the run's key


class BrokenBudget(InputError):
    """The original model exceeds the budget before anything is forgotten."""


class _Ledger(NamedTuple):
    """The optimizer state of the method: `average` is `M_t`, `limit` is `L_max`."""

    optimizer_state: Any
    surgery_state: Any
    average: jax.Array  # shape=(), dtype=jnp.float32
    limit: jax.Array  # shape=(), dtype=jnp.float32


def eupmu_budget(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    budget: Annotated[float | jax.Array, Limits(0.0, 100.0, above=True)] = 0.5,
    audit_every: Count = 10,
    memory: Share = 0.8,
    multiplier_learning_rate: NotNegative = 1.0,
    multiplier_decay: NotNegative = 0.01,
    initial_multiplier: NotNegative = 0.0,
    project: bool = True,
    objective: ObjectiveName = "random_labels",
    exponent: NotNegative = 0.5,
) -> Method:
    """EUPMU under a budget of retain accuracy, which sets the tolerance of every step.

        L_max = ln 2 (e_0 + budget / 100),    e_0 the retain error of the original model
        tolerance_t = (L_max - M_t) / (T - t),    M_t a moving average of the retain loss

    A wrong prediction has a loss of at least ln 2, so the retain error is at most `L_r / ln 2`: if
    the retain loss is at most `L_max`, the retain accuracy has fallen by no more than the budget.
    While `M_t` is above `L_max`, the forget loss pauses and the step repairs.

    Averages of batches lag behind. So the retain error itself is audited every `audit_every` steps
    and after the last one, on up to 1,024 random retain examples. Steps that exceed the budget are
    wound back to the last audit that passed, and the weight of the forget loss is halved from there
    on. So the budget holds at the end on the audited examples. `check_budget` refuses a budget that
    the original model exceeds.

    Args:
        task: the unlearning task; its loss must be the cross-entropy, in nats.
        optimizer: any optax optimizer.
        num_steps: T, the number of steps.
        budget: permitted fall of the retain accuracy, in percentage points.
        audit_every: number of steps between two audits.
        memory: decay of the moving average; 0 uses the last batch alone.
        multiplier_learning_rate: learning rate of the multiplier's Adam.
        multiplier_decay: weight decay of the multiplier.
        initial_multiplier: initial multiplier.
        project: whether the stored multiplier is clipped at 0; otherwise it is clipped only where
            it is used.
        objective: forget objective.
        exponent: exponent of adaptive ascent.

    Returns:
        A `Method`, whose metrics hold the multiplier, the tolerance and the scale of the forget
        loss.

    Raises:
        InputError: an unknown objective.

    Reference: Zhou et al. (EUPMU, arXiv 2510.22124), NeurIPS 2025, for the multiplier; the choice
    of the tolerance is this library's.
    """
    predict_of(task, "eupmu_budget")
    forget_objective = objectives.named(objective, exponent, task)

    def surgery(tolerance: float | jax.Array) -> Surgery:
        return make_surgery(
            multiplier_learning_rate,
            multiplier_decay,
            tolerance=tolerance,
            initial_multiplier=initial_multiplier,
            project=project,
        )

    def measure(
        params: Params, model_state: ModelState, audited: Arrays, key: jax.Array
    ) -> jax.Array:
        return _error_and_loss(task, params, model_state, audited, key)[0]

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        del forget
        error, loss = _error_and_loss(task, params, model_state, retain, key)
        size = retain["label"].shape[0]
        order = jax.random.permutation(jax.random.fold_in(key, _AUDIT_CHILD), size)
        audited = {name: values[order[:_MOST_AUDITED]] for name, values in retain.items()}
        state = begin(optimizer, key, params, model_state)
        limit = jnp.log(2.0) * (error + budget / 100.0)
        ledger = _Ledger(state.opt_state, surgery(0.0).init(params), loss, limit)
        state = state._replace(opt_state=ledger)
        return watch(state, (params, model_state), measure, budget / 100.0, audited)

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
        ledger, scale = state.opt_state.opt_state, state.opt_state.scale
        within = (ledger.average <= ledger.limit).astype(ledger.average.dtype)
        tolerance = (ledger.limit - ledger.average) / jnp.maximum(num_steps - state.step, 1)

        def bend(grads: Any, model_state: ModelState) -> tuple[Any, Any, ModelState]:
            return *optimizer.update(grads, ledger.optimizer_state, state.params), model_state

        after, metrics = surgery_step(
            task,
            forget_objective,
            surgery(tolerance).transform,
            bend,
            state,
            ledger.surgery_state,
            forget,
            retain,
            forget_weight=within * scale,
        )
        average = memory * ledger.average + (1.0 - memory) * metrics["retain_loss"]
        optimizer_state, surgery_state = after.opt_state
        ledger_after = _Ledger(optimizer_state, surgery_state, average, ledger.limit)
        after = after._replace(opt_state=ledger_after)
        metrics |= {"tolerance": tolerance, "forget_scale": scale}
        return audit(state, after, metrics, measure, every=audit_every, num_steps=num_steps)

    return Method(init, step)


def check_budget(
    task: Task, params: Params, model_state: ModelState, retain: Arrays, budget: float
) -> None:
    """Raises a BrokenBudget if the original model's retain loss is above `L_max` already."""
    error, loss = jax.jit(_error_and_loss, static_argnums=0)(
        task, params, model_state, retain, jax.random.key(0)
    )
    needed = 100.0 * (float(loss) / math.log(2.0) - float(error))
    if needed > budget:
        raise BrokenBudget(
            f"budget is {budget:g} points of retain accuracy, but must be above {needed:.3g} for "
            f"the original model, whose retain loss is {float(loss):.3g}; raise it, or use the "
            "method eupmu with a tolerance."
        )


def _error_and_loss(
    task: Task, params: Params, model_state: ModelState, arrays: Arrays, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Error rate and mean loss over all examples, in evaluation mode."""

    def one(positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        batch = unvisited(arrays, positions)
        predicted = predict_of(task, "eupmu_budget")(params, model_state, batch)
        answers = jnp.argmax(predicted, axis=-1)
        losses, _ = task.losses(params, model_state, batch, key, False)
        return (answers != batch["label"]).astype(losses.dtype), losses

    error, loss = mean_over(arrays, _BATCH, one)
    return error, loss
