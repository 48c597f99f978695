"""EUPMU: unlearn under a bounded rise of the retain loss, by implicit (or exact) gradient surgery.

Source: Zhou et al., Efficient Utility-Preserving Machine Unlearning with Implicit Gradient Surgery
(EUPMU, arXiv 2510.22124), NeurIPS 2025.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from jaxunlearn import transforms
from jaxunlearn.methods import objectives
from jaxunlearn.methods._build import advance, begin, begin_with, first
from jaxunlearn.methods._limits import NotNegative, Positive
from jaxunlearn.methods._two_gradients import gradients_of
from jaxunlearn.methods.objectives import Objective, ObjectiveName, loss_pair, retain_loss
from jaxunlearn.transforms import implicit_surgery, surgery_value_and_grad, unilateral_surgery
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
)

Estimator = Literal["same_batch", "next_batch", "exact"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)


def _decayed_adam(
    multiplier_learning_rate: float, multiplier_decay: float
) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(multiplier_decay), optax.adam(multiplier_learning_rate)
    )


# One object for all runs, its numbers in the state: a run with other numbers compiles nothing anew.
MULTIPLIER_OPTIMIZER = optax.inject_hyperparams(_decayed_adam)(1.0, 0.0)


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
    project: bool = True,
    objective: ObjectiveName = "random_labels",
    exponent: NotNegative = 0.5,
) -> Method:
    """Descends `L_f + lambda L_r`, with lambda moved by what each step does to the retain loss.

        dtilde = (phi(L_r(theta_t)) - phi(L_r(theta_{t+1}))) / step_size + tolerance
        lambda <- max(lambda - Adam(dtilde), 0)

    At rest, or exactly with "exact", a step raises `phi` of the retain loss by at most
    `tolerance * step_size`.

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer.
        estimator: "same_batch" (one extra forward pass), "next_batch" (none), or "exact": two
            gradients, and the closed form `unilateral_surgery` with the step size measured, as
            `-<u, g_f> / |g_f|^2` with u the optimizer's update for g_f. It has no use for
            `convex`, `project` and the settings of the multiplier's optimizer.
        tolerance: the rise of `phi` of the retain loss permitted per unit step, the same for all
            three; negative demands a fall.
        step_size: the length of one step of the optimizer, in those units.
        multiplier_learning_rate: of the multiplier's Adam.
        multiplier_decay: added to the dual gradient, times the multiplier.
        initial_multiplier: where the multiplier starts.
        log_loss: `phi = log(x + 1e-8)` rather than the identity.
        convex: weigh the losses by `(1, lambda) / (1 + lambda)`.
        project: clip the stored multiplier at 0; otherwise only where it is used, as in the
            released code.
        objective: the forget objective, a name of `objectives.named`.
        exponent: of adaptive ascent.

    Returns:
        A `Method`, whose metrics hold the multiplier.

    Raises:
        InputError: an unknown estimator or objective.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = eupmu(task, optax.sgd(0.01), tolerance=0.01)

    Reference: Zhou et al. (EUPMU, arXiv 2510.22124), NeurIPS 2025.
    """
    forget_objective = objectives.named(objective, exponent, task)
    if estimator == "exact":
        permitted = tolerance * step_size
        return _exact(task, optimizer, forget_objective, permitted, log_loss=log_loss)
    if estimator not in ESTIMATORS:
        raise InputError(f"estimator is {estimator!r}, but must be one of {', '.join(ESTIMATORS)}.")
    surgery = implicit_surgery(
        MULTIPLIER_OPTIMIZER,
        tolerance=tolerance,
        step_size=step_size,
        log_loss=log_loss,
        convex=convex,
        estimator=estimator,
        initial_multiplier=initial_multiplier,
        project=project,
    )

    def transform(scale: float | jax.Array = 1.0) -> optax.GradientTransformationExtraArgs:
        return optax.chain(optimizer, optax.scale(scale), surgery)

    losses_fn = loss_pair(task, forget_objective)
    losses_and_grads = surgery_value_and_grad(losses_fn, surgery, has_aux=True)

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        del forget, retain
        state = begin(transform(), key, params, model_state)
        return state._replace(
            opt_state=with_multiplier_settings(
                state.opt_state, multiplier_learning_rate, multiplier_decay
            )
        )

    def step(
        state: TrainState, forget: Batch, retain: Batch, scale: float | jax.Array = 1.0
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key, batch = jax.random.wrap_key_data(state.key), first(retain)
        (losses, model_state), grads = losses_and_grads(
            state.params, state.model_state, forget, batch, key, state=state.opt_state
        )
        updates, opt_state = transform(scale).update(
            grads,
            state.opt_state,
            state.params,
            retain_value=losses.retain,
            retain_value_fn=lambda p: retain_loss(task, p, state.model_state, batch, key)[0],
        )
        return advance(state, updates, opt_state, model_state), surgery_metrics(losses, opt_state)

    return Method(init, step, scaled_step=step)


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

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        found = gradients(state, forget, first(retain))
        alone, _ = optimizer.update(found.forget, state.opt_state[1], state.params)
        square = optax.tree.vdot(found.forget, found.forget)
        length = -optax.tree.vdot(alone, found.forget)  # times |g_f|^2
        slope = 1.0 / (found.losses.retain + 1e-8) if log_loss else 1.0
        moves = length > 0.0
        tolerance = permitted * square / jnp.where(moves, length * slope, 1.0)
        exact = unilateral_surgery(tolerance=jnp.where(moves, tolerance, 0.0))
        updates, opt_state = optax.chain(exact, optimizer).update(
            found.forget, state.opt_state, state.params, retain_grads=found.retain
        )
        metrics = surgery_metrics(found.losses, opt_state)
        return advance(state, updates, opt_state, found.model_state), metrics

    return Method(begin_with(optax.chain(unilateral_surgery(), optimizer)), step)


def with_multiplier_settings(
    opt_state: Any, learning_rate: float | jax.Array, decay: float | jax.Array
) -> Any:
    """The state with the multiplier's Adam set to the given numbers."""
    rate, decay = jnp.array(learning_rate, jnp.float32), jnp.array(decay, jnp.float32)
    return optax.tree.set(opt_state, multiplier_learning_rate=rate, multiplier_decay=decay)


def surgery_metrics(losses: LossPair, opt_state: Any) -> dict[str, jax.Array]:
    """Both losses and the multiplier, for the metrics of a step."""
    return {
        "forget_loss": losses.forget,
        "retain_loss": losses.retain,
        "multiplier": transforms.multiplier(opt_state),
    }
