"""Soft SalUn: random labels, with a proximal step that takes small changes of weights back."""

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods.objectives import Redraw
from jaxunlearn.methods.optimizers import schedule
from jaxunlearn.methods.scalarization import random_labels
from jaxunlearn.types import Arrays, Batch, Method, ModelState, Params, Task, TrainState


def salun_soft(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    threshold: NotNegative = 1e-4,
    redraw: Redraw = "every_epoch",
    exclude_true_label: bool = False,
) -> Method:
    """Random labels under a penalty `|theta - theta_0|_1`, by proximal steps.

        theta' = theta - opt(grad (L_random labels + L_r))
        theta <- theta_0 + S(theta' - theta_0; tau_t),   S(x; tau) = sign(x) max(|x| - tau, 0)

    Where the change is at most `tau_t = threshold (1 - t / T)`, the weight is bit for bit the
    original one: the saliency of SalUn, found on the way rather than once before.

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer.
        num_steps: T, how many steps `tau_t` decays over.
        threshold: `tau_0`, the learning rate times the weight of the penalty; 0 or more, and 0 is
            random labels.
        redraw: draw the labels anew "every_epoch", or "once".
        exclude_true_label: never draw the true label.

    Returns:
        A `Method`.

    Raises:
        InputError: an unknown `redraw`.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = salun_soft(task, optax.sgd(0.01), num_steps=100)

    Reference: Fan et al., SalUn, ICLR 2024 (its variant with soft thresholding).
    """
    decay = schedule("linear", threshold, num_steps)
    relabelling = random_labels(
        task, optimizer, redraw=redraw, exclude_true_label=exclude_true_label
    )

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        state = relabelling.init(key, params, model_state, forget, retain)
        return state._replace(opt_state=(state.opt_state, jax.tree.map(jnp.copy, params)))

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        opt_state, original = state.opt_state
        threshold = decay(state.step)
        state, metrics = relabelling.step(state._replace(opt_state=opt_state), forget, retain)
        params = jax.tree.map(lambda p, o: o + _shrunk(p - o, threshold), state.params, original)
        return state._replace(params=params, opt_state=(state.opt_state, original)), metrics

    return Method(init, step)


def _shrunk(x: jax.Array, threshold: jax.Array) -> jax.Array:
    """`sign(x) max(|x| - threshold, 0)`, the soft threshold."""
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold.astype(x.dtype), 0.0)
