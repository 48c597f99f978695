"""Both papers chained: surgery inside, remain geometry outside.

Implicit surgery chooses the direction, fast and slow weights bend it by the curvature of the retain
loss, and the multiplier sees the *final* step, so it adds only the protection that the geometry
lacks. Sources of the parts: `eupmu.py` and `sfron.py`.
"""

from typing import Any, Literal

import jax
import optax

from jaxunlearn.methods import objectives
from jaxunlearn.methods._build import Metrics, Start, begin
from jaxunlearn.methods._forget import ForgetOptimizer, check_forget_optimizer, forget_phase
from jaxunlearn.methods._limits import Count, CountOrZero, NotNegative, Positive
from jaxunlearn.methods._remain import remain_phase
from jaxunlearn.methods._saliency import MaskName
from jaxunlearn.methods._surgery import make_surgery, surgery_step
from jaxunlearn.methods.objectives import ObjectiveName
from jaxunlearn.methods.optimizers import ScheduleName, schedule
from jaxunlearn.types import Batch, InputError, Method, ModelState, Task, TrainState


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
    forget_optimizer: ForgetOptimizer = "sgd",
    clip_norm: Positive = 7.0,
    num_fast_steps: Count = 5,
    slow_step_size: Positive = 1.0,
    share_optimizer: bool = False,
    per_example_fisher: bool = True,
    mask_batch_size: Count = 32,
    num_mask_batches: CountOrZero = 0,
    fisher_clip_norm: float | jax.Array | None = None,
) -> Method:
    """EUPMU and SFR-on chained: surgery of the forget step, retain steps, then the multiplier.

        d = grad (L_f + lambda L_r);   theta_0 = theta - forget_learning_rate clip(m * alpha_t d)
        theta_{i+1} = theta_i - opt(grad L_r(theta_i))
        theta <- theta + slow_step_size (theta_K - theta)
        lambda <- max(lambda - Adam((phi(L_r before) - phi(L_r after)) / step_size + tolerance), 0)

    with `phi(L) = log(L + 1e-8)`, or `phi(L) = L` without `log_loss`.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer, for the fast weights.
        num_steps: T, the number of steps over which `alpha_t` decays.
        estimator: estimator of the change of the retain loss.
        tolerance: permitted rise of `phi` of the retain loss per unit step; a negative tolerance
            demands a fall.
        step_size: length of one step, fast steps included, in the units of the tolerance.
        multiplier_learning_rate: learning rate of the multiplier's Adam.
        multiplier_decay: weight decay of the multiplier.
        initial_multiplier: initial multiplier.
        log_loss: whether `phi` is the logarithm; otherwise it is the identity.
        project: whether the stored multiplier is clipped at 0; otherwise it is clipped only where
            it is used.
        objective: forget objective.
        exponent: exponent of adaptive ascent.
        epsilon: epsilon of adaptive ascent, as in `sfron`.
        saliency: whether the Fisher ratio masks the forget step.
        mask: the saliency mask, or as a control a random mask of the same size.
        threshold: smallest Fisher ratio of a salient parameter.
        alpha: initial scale of the forget gradient.
        alpha_schedule: schedule of `alpha_t`.
        forget_learning_rate: learning rate of the forget step, unless the optimizer is shared.
        forget_optimizer: optimizer of the forget step: plain sgd, or its own adam (DualOptim, arXiv
            2504.15827), which needs a lower forget_learning_rate.
        clip_norm: largest norm of the masked direction.
        num_fast_steps: K, the number of retain steps per forget step.
        slow_step_size: fraction of the way to the fast weights that the weights move.
        share_optimizer: whether `optimizer` also steps the direction, with one momentum for both
            phases.
        per_example_fisher: whether gradients of single examples are squared, not batch means.
        mask_batch_size: batch size of the pass that computes the Fisher diagonals.
        num_mask_batches: largest number of random batches in that pass, for each data set; 0 uses
            all data, as in the paper, which costs about an epoch.
        fisher_clip_norm: largest norm of the gradients that are squared there; None does not clip.

    Returns:
        A `Method` that uses K + 1 retain batches per step: one for the surgery, K for the fast
        weights.

    Raises:
        InputError: an unknown estimator, objective, mask or schedule, or no fast steps.

    Reference: arXiv 2510.22124 and arXiv 2409.19732; the chain of both is this library's.
    """
    if num_fast_steps < 1:
        raise InputError(f"num_fast_steps is {num_fast_steps}, but must be at least 1.")
    check_forget_optimizer(forget_optimizer, share_optimizer)
    decay = schedule(alpha_schedule, alpha, num_steps)
    forget_objective = objectives.named(objective, exponent, task, epsilon)
    forget_step = optax.identity() if share_optimizer else optax.scale(-forget_learning_rate)
    remain = remain_phase(
        task,
        optimizer,
        num_fast_steps=num_fast_steps,
        slow_step_size=slow_step_size,
        share_optimizer=share_optimizer,
    )
    surgery = make_surgery(
        multiplier_learning_rate,
        multiplier_decay,
        tolerance=tolerance,
        step_size=step_size,
        log_loss=log_loss,
        estimator=estimator,
        initial_multiplier=initial_multiplier,
        project=project,
    )
    forgetting = forget_phase(
        task,
        decay,
        forget_step,
        clip_norm=clip_norm,
        saliency=saliency,
        mask=mask,
        adam=forget_optimizer == "adam",
        threshold=threshold,
        per_example=per_example_fisher,
        batch_size=mask_batch_size,
        num_batches=num_mask_batches,
        clip_gradients=fisher_clip_norm,
    )

    def init(*start: Any) -> TrainState:
        given, state = Start(*start), begin(optax.identity(), *start[:3])
        phases = forgetting.init(given), remain.init(state.params)
        return state._replace(opt_state=(phases, surgery.init(state.params)))

    def step(
        state: TrainState, forget: Batch, retain: Batch, scale: float | jax.Array = 1.0
    ) -> tuple[TrainState, Metrics]:
        (forget_state, remain_state), surgery_state = state.opt_state

        def bend(grads: Any, model_state: ModelState) -> tuple[Any, Any, ModelState]:
            del model_state  # the last fast step writes it
            key = jax.random.wrap_key_data(state.key)
            updates, forgotten = forgetting.update(grads, forget_state, state.params)
            rest = jax.tree.map(lambda x: x[1:], retain)
            updates, remained, model_state, _ = remain.update(
                updates, remain_state, state.params, state.model_state, rest, key
            )
            return updates, (forgotten, remained), model_state

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
        )

    steps = num_fast_steps + share_optimizer
    return Method(init, step, num_fast_steps + 1, steps, scaled_step=step)
