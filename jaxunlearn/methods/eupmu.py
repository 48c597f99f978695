"""EUPMU: unlearn under a bounded rise of the retain loss, by implicit (or exact) gradient surgery.

Source: Zhou et al., Efficient Utility-Preserving Machine Unlearning with Implicit Gradient Surgery
(EUPMU, arXiv 2510.22124), NeurIPS 2025.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn import objectives, transforms
from jaxunlearn.methods._build import advance, begin, first
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._two_gradients import two_gradients
from jaxunlearn.objectives import loss_pair, retain_loss
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

MULTIPLIERS = ("same_batch", "next_batch", "exact")


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
    multiplier: str = "same_batch",
    tolerance: float | jax.Array = 0.0,
    multiplier_learning_rate: NotNegative = 1.0,
    multiplier_decay: NotNegative = 0.01,
    initial_multiplier: NotNegative = 0.0,
    log_loss: bool = True,
    convex: bool = False,
    objective: str = "random_labels",
    exponent: NotNegative = 0.5,
) -> Method:
    """Descends `L_f + lambda L_r`, with lambda moved by what each step does to the retain loss.

        dtilde = phi(L_r(theta_t)) - phi(L_r(theta_{t+1})) + tolerance
        lambda <- max(lambda - Adam(dtilde), 0)

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer.
        multiplier: "same_batch" (one extra forward pass), "next_batch" (none), or "exact" (two
            gradients and the closed form `lambda = max(0, (-<g_r, g_f> - tolerance) / |g_r|^2)`).
        tolerance: the permitted rise per step: of `phi` of the retain loss for the implicit
            multipliers, of the retain loss per unit step for the exact one. Negative demands a
            fall.
        multiplier_learning_rate: of the multiplier's Adam.
        multiplier_decay: added to the dual gradient, times the multiplier.
        initial_multiplier: where the multiplier starts.
        log_loss: `phi = log(x + 1e-8)` rather than the identity.
        convex: weigh the losses by `(1, lambda) / (1 + lambda)`.
        objective: the forget objective, a name of `objectives.named`.
        exponent: of adaptive ascent.

    Returns:
        A `Method`, whose metrics hold the multiplier.

    Raises:
        InputError: an unknown multiplier or objective.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = eupmu(task, optax.sgd(0.01), tolerance=0.01)

    Reference: Zhou et al. (EUPMU, arXiv 2510.22124), NeurIPS 2025.
    """
    forget_objective = objectives.named(objective, exponent, task)
    if multiplier == "exact":
        exact = unilateral_surgery(tolerance=tolerance)
        return two_gradients(task, exact, optimizer, forget_objective, surgery_metrics)
    if multiplier not in MULTIPLIERS:
        raise InputError(
            f"multiplier is {multiplier!r}, but must be one of {', '.join(MULTIPLIERS)}."
        )
    surgery = implicit_surgery(
        MULTIPLIER_OPTIMIZER,
        tolerance=tolerance,
        log_loss=log_loss,
        convex=convex,
        estimator=multiplier,
        initial_multiplier=initial_multiplier,
    )
    transform = optax.chain(optimizer, surgery)
    losses_fn = loss_pair(task, forget_objective)
    losses_and_grads = surgery_value_and_grad(losses_fn, surgery, has_aux=True)

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        del forget, retain
        state = begin(transform, key, params, model_state)
        return state._replace(
            opt_state=with_multiplier_settings(
                state.opt_state, multiplier_learning_rate, multiplier_decay
            )
        )

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key, batch = jax.random.wrap_key_data(state.key), first(retain)
        (losses, model_state), grads = losses_and_grads(
            state.params, state.model_state, forget, batch, key, state=state.opt_state
        )
        updates, opt_state = transform.update(
            grads,
            state.opt_state,
            state.params,
            retain_value=losses.retain,
            retain_value_fn=lambda p: retain_loss(task, p, state.model_state, batch, key)[0],
        )
        return advance(state, updates, opt_state, model_state), surgery_metrics(losses, opt_state)

    return Method(init, step)


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
