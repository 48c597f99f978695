"""EUPMU: unlearn under a bounded rise of the retain loss, by implicit (or exact) gradient surgery.

Source: Zhou et al., Efficient Utility-Preserving Machine Unlearning with Implicit Gradient Surgery
(EUPMU, arXiv 2510.22124), NeurIPS 2025.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods import objectives
from jaxunlearn.methods._build import Metrics, advance, begin, first
from jaxunlearn.methods._limits import NotNegative, Positive
from jaxunlearn.methods._surgery import make_surgery, surgery_metrics, surgery_step
from jaxunlearn.methods._two_gradients import gradients_of
from jaxunlearn.methods.objectives import Objective, ObjectiveName
from jaxunlearn.transforms import unilateral_surgery
from jaxunlearn.types import Batch, InputError, Method, ModelState, Params, Task, TrainState

Estimator = Literal["same_batch", "next_batch", "exact"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)


def eupmu(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    estimator: Estimator = "same_batch",
    tolerance: float | jax.Array = 0.0,
    step_size: Positive = 1.0,
    multiplier_learning_rate: NotNegative = 1.0,
    multiplier_decay: NotNegative = 0.01,
    initial_multiplier: NotNegative = 0.0,
    log_loss: bool = True,
    convex: bool = False,
    log_objective: bool = False,
    project: bool = True,
    objective: ObjectiveName = "random_labels",
    exponent: NotNegative = 0.5,
) -> Method:
    """Descends `L_f + lambda L_r`; the change of the retain loss in each step updates lambda.

        dtilde = (phi(L_r(theta_t)) - phi(L_r(theta_{t+1}))) / step_size + tolerance
        lambda <- max(lambda - Adam(dtilde), 0)

    with `phi(L) = log(L + 1e-8)`, or `phi(L) = L` without `log_loss`. In equilibrium, or exactly
    with "exact", a step raises `phi` of the retain loss by at most `tolerance * step_size`.

    "same_batch" costs one extra forward pass, "next_batch" none. "exact" takes two gradients and
    the closed form `unilateral_surgery`, with the step size measured as `-<u, g_f> / |g_f|^2`,
    where u is the optimizer's update for g_f. It ignores `convex`, `project` and the multiplier's
    settings.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.
        estimator: estimator of the change of the retain loss.
        tolerance: permitted rise of `phi` of the retain loss per unit step; a negative tolerance
            demands a fall.
        step_size: length of one step of the optimizer, in the units of the tolerance.
        multiplier_learning_rate: learning rate of the multiplier's Adam.
        multiplier_decay: weight decay of the multiplier.
        initial_multiplier: initial multiplier.
        log_loss: whether `phi` is the logarithm; otherwise it is the identity.
        convex: whether the losses are weighted by `(1, lambda) / (1 + lambda)`.
        log_objective: whether the step descends `log L_f + lambda log L_r`, in which constant
            factors of the losses cancel; the forget objective must be positive.
        project: whether the stored multiplier is clipped at 0; otherwise, as in the released code,
            it is clipped only where it is used.
        objective: forget objective.
        exponent: exponent of adaptive ascent.

    Returns:
        A `Method`, whose metrics hold the multiplier.

    Raises:
        InputError: an unknown estimator or objective, or a `log_objective` of losses that may be
            negative, of "exact", or without `log_loss`.
    """
    forget_objective = objectives.named(objective, exponent, task)
    if log_objective:
        _check_log_objective(estimator, objective, log_loss)
    if estimator == "exact":
        permitted = tolerance * step_size
        return _exact(task, optimizer, forget_objective, permitted, log_loss=log_loss)
    if estimator not in ESTIMATORS:
        raise InputError(f"estimator is {estimator!r}, but must be one of {', '.join(ESTIMATORS)}.")
    surgery = make_surgery(
        multiplier_learning_rate,
        multiplier_decay,
        tolerance=tolerance,
        step_size=step_size,
        log_loss=log_loss and not log_objective,  # then the losses are logarithms already
        convex=convex,
        estimator=estimator,
        initial_multiplier=initial_multiplier,
        project=project,
    )

    def init(key: jax.Array, params: Params, model_state: ModelState, *data: Any) -> TrainState:
        del data
        state = begin(optimizer, key, params, model_state)
        return state._replace(opt_state=(state.opt_state, surgery.init(params)))

    def step(
        state: TrainState, forget: Batch, retain: Batch, scale: float | jax.Array = 1.0
    ) -> tuple[TrainState, Metrics]:
        optimizer_state, surgery_state = state.opt_state

        def bend(grads: Any, model_state: ModelState) -> tuple[Any, Any, ModelState]:
            return *optimizer.update(grads, optimizer_state, state.params), model_state

        return surgery_step(
            task,
            forget_objective,
            surgery.transform,
            bend,
            state,
            surgery_state,
            forget,
            retain,
            scale=scale,
            log_objective=log_objective,
        )

    return Method(init, step, scaled_step=step)


def _check_log_objective(estimator: str, objective: str, log_loss: bool) -> None:
    if "ascent" in objective:
        raise InputError(
            f"objective is {objective!r}, but must be positive under log_objective; choose "
            "random_labels, or leave log_objective out."
        )
    if estimator == "exact" or not log_loss:
        raise InputError(
            "log_objective is true, but must be false with the estimator exact or without "
            "log_loss; leave it out."
        )


def _exact(
    task: Task,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    permitted: float | jax.Array,
    *,
    log_loss: bool,
) -> Method:
    """EUPMU in closed form; `permitted` is the rise of `phi` of the retain loss in one step."""
    gradients = gradients_of(task, objective)
    weight = 1.0 if task.weights is None else task.weights.retain  # of the constrained gradient

    def init(*start: Any) -> TrainState:
        return begin(optax.chain(unilateral_surgery(), optimizer), *start[:3])

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
        found = gradients(state, forget, first(retain))
        alone, _ = optimizer.update(found.forget, state.opt_state[1], state.params)
        square = optax.tree.vdot(found.forget, found.forget)
        length = -optax.tree.vdot(alone, found.forget)  # times |g_f|^2
        slope = 1.0 / (found.losses.retain + 1e-8) if log_loss else 1.0
        moves = length > 0.0
        tolerance = permitted * weight * square / jnp.where(moves, length * slope, 1.0)
        exact = unilateral_surgery(tolerance=jnp.where(moves, tolerance, 0.0))
        updates, opt_state = optax.chain(exact, optimizer).update(
            found.forget, state.opt_state, state.params, retain_grads=found.retain
        )
        metrics = surgery_metrics(found.losses, opt_state)
        return advance(state, updates, opt_state, found.model_state), metrics

    return Method(init, step)
