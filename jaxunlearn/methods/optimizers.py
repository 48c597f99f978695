"""Optimizers and schedules by name, for configurations; any number in them may be traced."""

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.types import InputError

SCHEDULES = ("constant", "cosine", "linear", "quadratic", "step", "one_cycle")
OPTIMIZERS = ("sgd", "adamw", "clipped_adamw")


def schedule(name: str, peak: float | jax.Array, num_steps: int) -> optax.Schedule:
    """The value of a schedule at a step count: constant, a decay to 0, or one-cycle.

    Args:
        name: "constant", "cosine" `peak (1 + cos(pi t / T)) / 2`, "linear" `peak (1 - t / T)`,
            "quadratic" `peak (1 - t / T)^2`, "step" (a tenth from T / 2 on, a hundredth from 3 T /
            4), or "one_cycle" (up over 15% of the steps, then down to 0, both along cosines).
        peak: the largest value.
        num_steps: T.

    Returns:
        `count -> value`.

    Raises:
        InputError: an unknown name.
    """
    if name not in SCHEDULES:
        raise InputError(f"schedule is {name!r}, but must be one of {', '.join(SCHEDULES)}.")

    def value(count: jax.Array) -> jax.Array:
        t = jnp.clip(count / num_steps, 0.0, 1.0)
        if name == "constant":
            share = jnp.ones_like(t)
        elif name == "cosine":
            share = 0.5 * (1.0 + jnp.cos(jnp.pi * t))
        elif name == "linear":
            share = 1.0 - t
        elif name == "quadratic":
            share = (1.0 - t) ** 2
        elif name == "step":
            share = jnp.where(t < 0.5, 1.0, jnp.where(t < 0.75, 0.1, 0.01))
        else:
            rise = 0.5 * (1.0 - jnp.cos(jnp.pi * jnp.clip(t / 0.15, 0.0, 1.0)))
            fall = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip((t - 0.15) / 0.85, 0.0, 1.0)))
            share = rise * fall
        return peak * share

    return value


def optimizer(
    name: str,
    learning_rate: optax.Schedule,
    momentum: float | jax.Array,
    weight_decay: float | jax.Array,
) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay, or AdamW (decoupled), by name.

    Args:
        name: "sgd", "adamw", or "clipped_adamw": of gradients clipped to the global norm 1, as
            diffusion models are trained.
        learning_rate: by the optimizer's own count of steps.
        momentum: of SGD; the decay of AdamW's first moment.
        weight_decay: as a gradient `weight_decay * params` for SGD, beside the gradient for AdamW.

    Returns:
        An optax optimizer.

    Raises:
        InputError: an unknown name.
    """
    if name == "sgd":
        return optax.chain(
            optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=momentum)
        )
    if name in ("adamw", "clipped_adamw"):
        adamw = optax.adamw(learning_rate, b1=momentum, weight_decay=weight_decay)
        clip = optax.clip_by_global_norm(1.0)
        return adamw if name == "adamw" else optax.chain(clip, adamw)
    raise InputError(f"optimizer is {name!r}, but must be one of {', '.join(OPTIMIZERS)}.")
