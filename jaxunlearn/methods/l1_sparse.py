"""l1-sparse: fine-tuning with a penalty that first prunes weights and then fades away."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods.optimizers import schedule
from jaxunlearn.methods.retrain import finetune
from jaxunlearn.types import Method, Task


def l1_sparse(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    penalty: NotNegative = 1e-4,
) -> Method:
    """Descends `L_r + gamma_t |theta|_1`, with `gamma_t = penalty (1 - t / T)`.

    Small weights, which only a few examples need, are pulled to 0; the last steps are plain
    fine-tuning. The reported loss is `L_r` alone.

    Args:
        task: the unlearning task.
        optimizer: any optax optimizer.
        num_steps: T, the number of steps over which `gamma_t` decays.
        penalty: `gamma_0`, the initial weight of the penalty; 0 is fine-tuning.

    Reference: Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023.
    """
    decay = schedule("linear", penalty, num_steps)
    return finetune(task, optax.chain(_add_signs(decay), optimizer))


def _add_signs(weight: optax.Schedule) -> optax.GradientTransformation:
    """Adds the gradient of `weight(t) |theta|_1`, which is `weight(t) sign(theta)`."""

    def init_fn(params: optax.Params) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(jnp.zeros([], jnp.int32))

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Any]:
        gamma = weight(state.count)
        updates = jax.tree.map(
            lambda g, p: g + gamma.astype(g.dtype) * jnp.sign(p), updates, params
        )
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init_fn, update_fn)
