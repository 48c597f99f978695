"""Optimizers and schedules by name, for configurations; their numbers may be traced."""

from typing import Literal, get_args

import jax
import optax

from jaxunlearn.types import InputError

ScheduleName = Literal["constant", "cosine", "linear", "quadratic", "step", "one_cycle"]
OptimizerName = Literal["sgd", "adamw", "clipped_adamw"]
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)
OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)


def schedule(name: str, peak: float | jax.Array, num_steps: int) -> optax.Schedule:
    """A schedule of optax by name.

    Args:
        name: "constant", "cosine" `peak (1 + cos(pi t / T)) / 2`, "linear" `peak (1 - t / T)`,
            "quadratic" `peak (1 - t / T)^2`, "step" (a tenth from T / 2 on, a hundredth from 3 T /
            4), or "one_cycle" (up over 15% of the steps, then down to 0, both along cosines).
        peak: largest value.
        num_steps: T.

    Raises:
        InputError: an unknown name.
    """
    if name == "constant":
        return optax.constant_schedule(peak)
    if name == "cosine":
        return optax.cosine_decay_schedule(peak, num_steps)
    if name == "linear":
        return optax.linear_schedule(peak, 0.0, num_steps)
    if name == "quadratic":
        return optax.polynomial_schedule(peak, 0.0, 2, num_steps)
    if name == "step":
        return optax.piecewise_constant_schedule(
            peak, {0.5 * num_steps: 0.1, 0.75 * num_steps: 0.1}
        )
    if name == "one_cycle":
        top = 0.15 * num_steps
        missing = optax.cosine_decay_schedule(peak, top)
        fall = optax.cosine_decay_schedule(peak, num_steps - top)
        return optax.join_schedules([lambda count: peak - missing(count), fall], [top])
    raise InputError(f"schedule is {name!r}, but must be one of {', '.join(SCHEDULES)}.")


def rest_of(course: optax.Schedule, share: float | jax.Array, num_steps: int) -> optax.Schedule:
    """The rest of a schedule over `num_steps` steps, after a share of its course.

        rate(t) = course(share T + (1 - share) t),   T = num_steps

    Example:
        >>> print(f"{rest_of(schedule('linear', 1.0, 10), 0.8, 10)(5):.2f}")
        0.10
    """
    return lambda count: course(share * num_steps + (1.0 - share) * count)


def optimizer(
    name: str,
    learning_rate: optax.Schedule,
    momentum: float | jax.Array,
    weight_decay: float | jax.Array,
) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay, or AdamW (decoupled), by name.

    Args:
        name: "sgd", "adamw", or "clipped_adamw": AdamW on gradients clipped to the global norm 1,
            the usual optimizer of diffusion models.
        learning_rate: schedule over the optimizer's own count of steps.
        momentum: momentum of SGD; the decay of AdamW's first moment.
        weight_decay: weight decay, coupled for SGD and decoupled for AdamW.

    Raises:
        InputError: an unknown name.
    """
    if name == "sgd":
        decay = optax.add_decayed_weights(weight_decay)
        return optax.chain(decay, optax.sgd(learning_rate, momentum=momentum))
    if name not in OPTIMIZERS:
        raise InputError(f"optimizer is {name!r}, but must be one of {', '.join(OPTIMIZERS)}.")
    adamw = optax.adamw(learning_rate, b1=momentum, weight_decay=weight_decay)
    return adamw if name == "adamw" else optax.chain(optax.clip_by_global_norm(1.0), adamw)
