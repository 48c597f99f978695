"""Both papers chained: surgery inside, remain geometry outside.

Implicit surgery chooses the direction, fast and slow weights bend it by the curvature of the retain
loss, and the multiplier then sees the *final* step: what the geometry already protects, the
multiplier need not. Source of the parts: `eupmu.py` and `sfron.py`.
"""

from typing import Literal

import jax
import optax

from jaxunlearn.methods import objectives
from jaxunlearn.methods._build import advance, begin, first
from jaxunlearn.methods._forget import forget_phase
from jaxunlearn.methods._limits import Count, CountOrZero, NotNegative, Positive
from jaxunlearn.methods._remain import remain_phase
from jaxunlearn.methods._saliency import MaskName
from jaxunlearn.methods.eupmu import (
    MULTIPLIER_OPTIMIZER,
    surgery_metrics,
    with_multiplier_settings,
)
from jaxunlearn.methods.objectives import ObjectiveName, loss_pair, retain_loss
from jaxunlearn.methods.optimizers import ScheduleName, schedule
from jaxunlearn.transforms import implicit_surgery, surgery_value_and_grad
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


def eupmu_sfron(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    estimator: Literal["same_batch", "next_batch"] = "same_batch",
    tolerance: float | jax.Array = 0.0,
    step_size: Positive = 1.0,
    multiplier_learning_rate: NotNegative = 1.0,
    multiplier_decay: NotNegative = 0.01,
    initial_multiplier: NotNegative = 0.0,
    log_loss: bool = True,
    project: bool = True,
    objective: ObjectiveName = "random_labels",
    exponent: NotNegative = 0.5,
    epsilon: NotNegative = 0.25,
    saliency: bool = True,
    mask: MaskName = "saliency",
    threshold: NotNegative = 1.0,
    alpha: NotNegative = 1.0,
    alpha_schedule: ScheduleName = "linear",
    forget_learning_rate: NotNegative = 0.01,
    clip_norm: Positive = 7.0,
    num_fast_steps: Count = 5,
    slow_step_size: Positive = 1.0,
    share_optimizer: bool = False,
    per_example_fisher: bool = True,
    mask_batch_size: Count = 32,
    num_mask_batches: CountOrZero = 0,
) -> Method:
    """Surgery of the forget step, then retain steps of the fast weights, then the multiplier.

        d = grad (L_f + lambda L_r);   theta_0 = theta - forget_learning_rate clip(m * alpha_t d)
        theta_{i+1} = theta_i - opt(grad L_r(theta_i))
        theta <- theta + slow_step_size (theta_K - theta)
        lambda <- max(lambda - Adam((phi(L_r before) - phi(L_r after)) / step_size + tolerance), 0)

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer: the fast one.
        num_steps: T, how many steps `alpha_t` decays over.
        estimator: "same_batch" or "next_batch".
        tolerance: the rise of `phi` of the retain loss permitted per unit step; negative demands a
            fall.
        step_size: the length of one step, fast steps included, in those units.
        multiplier_learning_rate: of the multiplier's Adam.
        multiplier_decay: added to the dual gradient, times the multiplier.
        initial_multiplier: where the multiplier starts.
        log_loss: `phi = log(x + 1e-8)` rather than the identity.
        project: clip the stored multiplier at 0; otherwise only where it is used.
        objective: the forget objective, a name of `objectives.named`.
        exponent: of adaptive ascent.
        epsilon: of adaptive ascent, as in `sfron`.
        saliency: mask the forget step by the Fisher ratio.
        mask: "saliency", or "random" for the control: as many parameters, drawn at random.
        threshold: the least Fisher ratio to be salient.
        alpha: the scale of the forget gradient at the start.
        alpha_schedule: "linear", "cosine" or "constant".
        forget_learning_rate: the rate of the forget step, unless the optimizer is shared.
        clip_norm: the largest norm of the masked direction.
        num_fast_steps: K, retain steps per forget step.
        slow_step_size: how much of the way the weights follow.
        share_optimizer: step the direction by `optimizer` too, with one momentum for both phases.
        per_example_fisher: square the gradients of single examples; otherwise of batch means.
        mask_batch_size: of the pass that computes the Fisher diagonals.
        num_mask_batches: of that pass, at most, of random examples of either data set; 0 takes all
            of both, as in the paper, which costs about an epoch.

    Returns:
        A `Method` that uses K + 1 retain batches per step: one for the surgery, K for the fast
        weights.

    Raises:
        InputError: an unknown estimator, objective, mask or schedule, or no fast steps.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = eupmu_sfron(task, optax.sgd(0.01), num_steps=100)

    Reference: both papers: arXiv 2510.22124 and arXiv 2409.19732; their chain is this library's.
    """
    if num_fast_steps < 1:
        raise InputError(f"num_fast_steps is {num_fast_steps}, but must be at least 1.")
    decay = schedule(alpha_schedule, alpha, num_steps)
    losses_fn = loss_pair(task, objectives.named(objective, exponent, task, epsilon))
    forget_step = optax.identity() if share_optimizer else optax.scale(-forget_learning_rate)
    remain = remain_phase(
        task,
        optimizer,
        num_fast_steps=num_fast_steps,
        slow_step_size=slow_step_size,
        share_optimizer=share_optimizer,
    )
    surgery = implicit_surgery(
        MULTIPLIER_OPTIMIZER,
        tolerance=tolerance,
        step_size=step_size,
        log_loss=log_loss,
        estimator=estimator,
        initial_multiplier=initial_multiplier,
        project=project,
    )
    losses_and_grads = surgery_value_and_grad(losses_fn, surgery, has_aux=True)

    forgetting = forget_phase(
        task,
        decay,
        forget_step,
        clip_norm=clip_norm,
        saliency=saliency,
        mask=mask,
        threshold=threshold,
        per_example=per_example_fisher,
        mask_batch_size=mask_batch_size,
        num_mask_batches=num_mask_batches,
    )

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        state = begin(optax.identity(), key, params, model_state)
        forget_state = forgetting.init(key, params, model_state, forget, retain)
        surgery_state = with_multiplier_settings(
            surgery.init(params), multiplier_learning_rate, multiplier_decay
        )
        remain_state = remain.init(state.params)
        return state._replace(opt_state=(forget_state, remain_state, surgery_state))

    def step(
        state: TrainState, forget: Batch, retain: Batch, scale: float | jax.Array = 1.0
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key, batch = jax.random.wrap_key_data(state.key), first(retain)
        forget_state, remain_state, surgery_state = state.opt_state
        (losses, _), grads = losses_and_grads(
            state.params, state.model_state, forget, batch, key, state=surgery_state
        )
        updates, forget_state = forgetting.update(grads, forget_state, state.params)
        rest = jax.tree.map(lambda x: x[1:], retain)
        updates, remain_state, model_state, _ = remain.update(
            updates, remain_state, state.params, state.model_state, rest, key
        )
        updates = optax.tree.scale(scale, updates)
        updates, surgery_state = surgery.update(
            updates,
            surgery_state,
            state.params,
            retain_value=losses.retain,
            retain_value_fn=lambda p: retain_loss(task, p, state.model_state, batch, key)[0],
        )
        opt_state = (forget_state, remain_state, surgery_state)
        return advance(state, updates, opt_state, model_state), surgery_metrics(losses, opt_state)

    steps = num_fast_steps + share_optimizer
    return Method(init, step, num_fast_steps + 1, steps, scaled_step=step)
