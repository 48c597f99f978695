"""EUPMU with an automatic tolerance, from a budget of retain accuracy stated in plain words.

The first paper leaves the choice of the tolerance open. Here it follows from what the user can say:
"the retain accuracy may fall by 0.5 points".
"""

import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods import objectives
from jaxunlearn.methods._build import advance, begin, first, predict_of
from jaxunlearn.methods._limits import Count, Limits, NotNegative, Share
from jaxunlearn.methods._passes import mean_over
from jaxunlearn.methods._winding_back import audit, watch
from jaxunlearn.methods.eupmu import (
    MULTIPLIER_OPTIMIZER,
    surgery_metrics,
    with_multiplier_settings,
)
from jaxunlearn.methods.objectives import ObjectiveName, loss_pair, retain_loss
from jaxunlearn.transforms import implicit_surgery, surgery_value_and_grad
from jaxunlearn.types import (
    Arrays,
    Batch,
    InputError,
    LossPair,
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
    """The original model breaks the budget before anything is forgotten."""


class _Ledger(NamedTuple):
    """The optimizer state of the method, without what its audits keep.

    Attributes:
        optimizer_state: of the optimizer.
        multiplier_state: of the surgery.
        average: `M_t`.
        limit: `L_max`.
    """

    optimizer_state: Any
    multiplier_state: Any
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
    """EUPMU whose tolerance is what is left of a budget, spread over the steps that are left.

        L_max = ln 2 (e_0 + budget / 100),    e_0 the retain error of the original model
        tolerance_t = (L_max - M_t) / (T - t),    M_t a moving average of the retain loss

    A wrong answer costs at least ln 2, so the share of errors is at most `L_r / ln 2`: a retain
    loss of at most `L_max` means that the retain accuracy has fallen by no more than the budget.
    While `M_t` is above `L_max`, the forget loss rests and the step repairs.

    Averages of batches lag behind, so every so many steps, and after the last one, the retain error
    itself is audited on up to 1,024 retain examples, drawn at random. Steps that broke the budget
    are wound back to the last audit that passed, and the forget loss is halved from there on. So
    the budget holds at the end on the audited examples. `check_budget` refuses one that the
    original model breaks.

    Args:
        task: what is unlearned; its loss must be the cross-entropy, in nats.
        optimizer: any optax optimizer.
        num_steps: T, how many steps there are.
        budget: by how many percentage points the retain accuracy may fall.
        audit_every: steps from one audit to the next.
        memory: of the moving average; 0 takes the last batch alone.
        multiplier_learning_rate: of the multiplier's Adam.
        multiplier_decay: added to the dual gradient, times the multiplier.
        initial_multiplier: where the multiplier starts.
        project: clip the stored multiplier at 0; otherwise only where it is used.
        objective: the forget objective, a name of `objectives.named`.
        exponent: of adaptive ascent.

    Returns:
        A `Method`, whose metrics hold the multiplier, the tolerance and the scale of the forget
        loss.

    Raises:
        InputError: an unknown objective.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = eupmu_budget(task, optax.sgd(0.01), num_steps=100, budget=0.5)

    Reference: Zhou et al. (EUPMU, arXiv 2510.22124), NeurIPS 2025, for the multiplier; the choice
    of the tolerance is this library's.
    """
    predict_of(task, "eupmu_budget")
    losses_fn = loss_pair(task, objectives.named(objective, exponent, task))

    def surgery(tolerance: float | jax.Array) -> optax.GradientTransformationExtraArgs:
        return implicit_surgery(
            MULTIPLIER_OPTIMIZER,
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
        multiplier_state = with_multiplier_settings(
            surgery(0.0).init(params), multiplier_learning_rate, multiplier_decay
        )
        limit = jnp.log(2.0) * (error + budget / 100.0)
        ledger = _Ledger(state.opt_state, multiplier_state, loss, limit)
        state = state._replace(opt_state=ledger)
        return watch(state, (params, model_state), measure, budget / 100.0, audited)

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key, batch = jax.random.wrap_key_data(state.key), first(retain)
        ledger, scale = state.opt_state.opt_state, state.opt_state.scale
        within = (ledger.average <= ledger.limit).astype(ledger.average.dtype)
        tolerance = (ledger.limit - ledger.average) / jnp.maximum(num_steps - state.step, 1)
        own_surgery = surgery(tolerance)

        def scaled(params: Params) -> tuple[LossPair, tuple[ModelState, jax.Array]]:
            losses, model_state = losses_fn(params, state.model_state, forget, batch, key)
            pair = LossPair(within * scale * losses.forget, losses.retain)
            return pair, (model_state, losses.forget)

        value_and_grad = surgery_value_and_grad(scaled, own_surgery, has_aux=True)
        (losses, (model_state, forget_loss)), grads = value_and_grad(
            state.params, state=ledger.multiplier_state
        )
        updates, optimizer_state = optimizer.update(grads, ledger.optimizer_state, state.params)
        updates, multiplier_state = own_surgery.update(
            updates,
            ledger.multiplier_state,
            state.params,
            retain_value=losses.retain,
            retain_value_fn=lambda p: retain_loss(task, p, state.model_state, batch, key)[0],
        )
        average = memory * ledger.average + (1.0 - memory) * losses.retain
        own = _Ledger(optimizer_state, multiplier_state, average, ledger.limit)
        metrics = surgery_metrics(LossPair(forget_loss, losses.retain), multiplier_state)
        metrics |= {"tolerance": tolerance, "forget_scale": scale}
        after = advance(state, updates, own, model_state)
        return audit(state, after, metrics, measure, every=audit_every, num_steps=num_steps)

    return Method(init, step)


def check_budget(
    task: Task, params: Params, model_state: ModelState, retain: Arrays, budget: float
) -> None:
    """Raises if the original model breaks a budget before anything is forgotten.

    Args:
        task: what is unlearned.
        params: of the original model.
        model_state: of the original model.
        retain: all retain examples.
        budget: in percentage points of retain accuracy.

    Raises:
        BrokenBudget: its retain loss is above `ln 2 (e_0 + budget / 100)` already.
    """
    error, loss = jax.jit(_error_and_loss, static_argnums=0)(
        task, params, model_state, retain, jax.random.key(0)
    )
    needed = 100.0 * (float(loss) / math.log(2.0) - float(error))
    if needed > budget:
        raise BrokenBudget(
            f"the budget of {budget:g} points of retain accuracy is broken by the original model "
            f"already, whose retain loss of {float(loss):.3g} is only compatible with budgets "
            f"above {needed:.3g}; allow more, or use the method eupmu with a tolerance of your own."
        )


def _error_and_loss(
    task: Task, params: Params, model_state: ModelState, arrays: Arrays, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Share of wrong answers and mean loss, in evaluation mode, over all examples."""

    def one(positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        batch = unvisited(arrays, positions)
        predicted = predict_of(task, "eupmu_budget")(params, model_state, batch)
        answers = jnp.argmax(predicted, axis=-1)
        losses, _ = task.losses(params, model_state, batch, key, False)
        return (answers != batch["label"]).astype(losses.dtype), losses

    error, loss = mean_over(arrays, _BATCH, one)
    return error, loss
