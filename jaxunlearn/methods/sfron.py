"""SFR-on: saliency-masked, adaptively weighted forgetting, bent by the remaining data's curvature.

Source: Huang et al., Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement
(arXiv 2409.19732), NeurIPS 2024.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import Metrics, Start, advance, begin
from jaxunlearn.methods._forget import ForgetOptimizer, check_forget_optimizer, forget_phase
from jaxunlearn.methods._limits import Count, CountOrZero, NotNegative, Positive
from jaxunlearn.methods._remain import remain_phase
from jaxunlearn.methods._saliency import MaskName
from jaxunlearn.methods._two_gradients import two_gradients
from jaxunlearn.methods.objectives import ObjectiveName, forget_loss, named
from jaxunlearn.methods.optimizers import ScheduleName, schedule
from jaxunlearn.types import Batch, InputError, Method, Params, Task, TrainState

Variant = Literal["SFR-on", "FR-on", "R-on", "R"]
VARIANTS: tuple[str, ...] = get_args(Variant)


def sfron(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    variant: Variant = "SFR-on",
    alpha: NotNegative = 1.0,
    alpha_schedule: ScheduleName = "linear",
    forget_learning_rate: NotNegative = 0.01,
    forget_optimizer: ForgetOptimizer = "sgd",
    clip_norm: Positive = 7.0,
    objective: ObjectiveName = "adaptive_ascent",
    exponent: NotNegative = 0.5,
    epsilon: NotNegative = 0.25,
    mask: MaskName = "saliency",
    threshold: NotNegative = 1.0,
    num_fast_steps: Count = 5,
    slow_step_size: Positive = 1.0,
    share_optimizer: bool = False,
    per_example_fisher: bool = True,
    mask_batch_size: Count = 32,
    num_mask_batches: CountOrZero = 0,
    fisher_clip_norm: float | jax.Array | None = None,
) -> Method:
    """SFR-on: a masked forget step, then retain steps of fast weights, which the weights follow.

        g = clip(m * alpha_t grad L_u),   L_u = -mean_i c_i l_i,   m = 1[F_f / F_r >= threshold]
        c_i ~ 1 / (l_i^exponent + epsilon)
        theta_0 = theta - forget_learning_rate g;   theta_{i+1} = theta_i - opt(grad L_r(theta_i))
        theta <- theta + slow_step_size (theta_K - theta)

    The ablations leave parts out: "FR-on" the saliency mask, "R-on" also the adaptive weights, and
    "R" also the geometry: each step descends `alpha_t L_u + L_r`.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer, for the fast weights.
        num_steps: T, the number of steps over which `alpha_t` decays.
        variant: the method, or an ablation.
        alpha: initial scale of the forget gradient.
        alpha_schedule: schedule of `alpha_t`: "linear" in the paper, "cosine" in the released code.
        forget_learning_rate: learning rate of the forget step, unless the optimizer is shared.
        forget_optimizer: optimizer of the forget step: plain sgd, or its own adam (DualOptim, arXiv
            2504.15827), which needs a lower forget_learning_rate.
        clip_norm: largest norm of the masked forget gradient.
        objective: L_u; "adaptive_ascent" in the paper.
        exponent: exponent of the adaptive weights.
        epsilon: epsilon of the adaptive weights, which limits the weight of an example with a loss
            of 0; 1e-15 in the released code.
        mask: the saliency mask, or as a control a random mask of the same size.
        threshold: smallest Fisher ratio of a salient parameter.
        num_fast_steps: K, the number of retain steps per forget step.
        slow_step_size: fraction of the way to the fast weights that the weights move.
        share_optimizer: whether `optimizer` also steps the forget gradient, with one momentum for
            both phases, as in the released code.
        per_example_fisher: whether gradients of single examples are squared, not batch means.
        mask_batch_size: batch size of the pass that computes the Fisher diagonals.
        num_mask_batches: largest number of random batches in that pass, for each data set; 0 uses
            all data, as in the paper, which costs about an epoch.
        fisher_clip_norm: largest norm of the gradients that are squared there; None does not clip.

    Returns:
        A `Method` that uses K retain batches per step.

    Raises:
        InputError: an unknown variant, objective, mask or schedule, or no fast steps.
    """
    if variant not in VARIANTS:
        raise InputError(f"variant is {variant!r}, but must be one of {', '.join(VARIANTS)}.")
    if num_fast_steps < 1:
        raise InputError(f"num_fast_steps is {num_fast_steps}, but must be at least 1.")
    check_forget_optimizer(forget_optimizer, share_optimizer, variant)
    exponent = exponent if variant in ("SFR-on", "FR-on") else 0.0
    forget_objective = named(objective, exponent, task, epsilon)
    decay = schedule(alpha_schedule, alpha, num_steps)
    if variant == "R":
        return two_gradients(task, _clipped_sum(decay, clip_norm), optimizer, forget_objective)

    forget_step = optax.identity() if share_optimizer else optax.scale(-forget_learning_rate)
    remain = remain_phase(
        task,
        optimizer,
        num_fast_steps=num_fast_steps,
        slow_step_size=slow_step_size,
        share_optimizer=share_optimizer,
    )
    forgetting = forget_phase(
        task,
        decay,
        forget_step,
        clip_norm=clip_norm,
        saliency=variant == "SFR-on",
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
        return state._replace(opt_state=(forgetting.init(given), remain.init(state.params)))

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.wrap_key_data(state.key)
        forget_state, remain_state = state.opt_state
        loss, grads = jax.value_and_grad(
            lambda p: forget_loss(task, forget_objective, p, state.model_state, forget, key)
        )(state.params)
        updates, forget_state = forgetting.update(grads, forget_state, state.params)
        updates, remain_state, model_state, retain_value = remain.update(
            updates, remain_state, state.params, state.model_state, retain, key
        )
        metrics = {
            "forget_loss": loss,
            "retain_loss": retain_value,
            "forget_gradient_norm": optax.tree.norm(grads),
        }
        return advance(state, updates, (forget_state, remain_state), model_state), metrics

    return Method(init, step, num_fast_steps, num_fast_steps + share_optimizer)


def sfron_released(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    alpha: NotNegative = 25.0,
    clip_norm: Positive = 7.0,
    exponent: NotNegative = 0.5,
    mask: MaskName = "saliency",
    threshold: NotNegative = 1.0,
    num_fast_steps: Count = 5,
    mask_batch_size: Count = 128,
) -> Method:
    """SFR-on with the choices of its released code.

    Both phases share one momentum, the slow weights move all the way, the Fisher diagonal squares
    batch means, the adaptive weights have a tiny epsilon, and alpha decays along a cosine.

        v <- momentum v + g,   theta <- theta - rate v   for the forget gradient, then K retain ones
        c_i ~ 1 / (l_i^exponent + 1e-15)

    With this epsilon, a forget example whose loss is 0 in float32 takes all the weight of its batch
    and has no gradient, so forget steps hardly move a model that fits all its data. `sfron` has a
    larger epsilon.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer, shared by both phases.
        num_steps: T, the number of steps over which alpha decays.
        alpha: initial scale of the forget gradient.
        clip_norm: largest norm of the masked forget gradient.
        exponent: exponent of the adaptive weights.
        mask: the saliency mask, or as a control a random mask of the same size.
        threshold: smallest Fisher ratio of a salient parameter.
        num_fast_steps: K, the number of retain steps per forget step.
        mask_batch_size: batch size of the pass that computes the Fisher diagonals.

    Raises:
        InputError: an unknown mask, or no fast steps.
    """
    return sfron(
        task,
        optimizer,
        num_steps=num_steps,
        alpha=alpha,
        alpha_schedule="cosine",
        clip_norm=clip_norm,
        exponent=exponent,
        epsilon=1e-15,
        mask=mask,
        threshold=threshold,
        num_fast_steps=num_fast_steps,
        share_optimizer=True,
        per_example_fisher=False,
        mask_batch_size=mask_batch_size,
    )


def _clipped_sum(
    decay: optax.Schedule, clip_norm: float | jax.Array
) -> optax.GradientTransformationExtraArgs:
    """The aggregator of the ablation "R": the clipped forget gradient plus the retain gradient."""
    clip = optax.chain(optax.scale_by_schedule(decay), optax.clip_by_global_norm(clip_norm))

    def update(
        forget_grads: optax.Updates,
        state: optax.OptState,
        params: Params | None = None,
        *,
        retain_grads: optax.Updates,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del params, extra
        clipped, state = clip.update(forget_grads, state)
        return jax.tree.map(jnp.add, clipped, retain_grads), state

    return optax.GradientTransformationExtraArgs(clip.init, update)
