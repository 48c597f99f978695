"""The remain phase: fast weights descend the retain loss and update the running statistics."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods.objectives import retain_loss
from jaxunlearn.transforms import fast_slow, fast_slow_carry, shared_fast_slow
from jaxunlearn.types import Batch, ModelState, Params, Task


class RemainPhase(NamedTuple):
    """`fast_slow` for a task.

    `update` returns the updates, its state, the model state, and the retain loss of the last batch.
    """

    init: Callable[[Params], Any]
    update: Callable[..., tuple[optax.Updates, Any, ModelState, jax.Array]]


def remain_phase(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_fast_steps: int,
    slow_step_size: float | jax.Array = 1.0,
    share_optimizer: bool = False,
    unroll: int | bool = 1,
) -> RemainPhase:
    """`fast_slow`, or `shared_fast_slow` with one optimizer, on retain batches `[K, B, ...]`."""
    transform = (shared_fast_slow if share_optimizer else fast_slow)(
        optimizer,
        num_fast_steps=num_fast_steps,
        slow_step_size=slow_step_size,
        has_carry=True,
        unroll=unroll,
    )

    def update(
        updates: optax.Updates,
        state: Any,
        params: Params,
        model_state: ModelState,
        retain: Batch,
        key: jax.Array,
    ) -> tuple[optax.Updates, Any, ModelState, jax.Array]:
        def grad_fn(fast: Params, i: jax.Array, carry: Any) -> tuple[Params, Any]:
            batch = jax.tree.map(lambda x: x[i], retain)
            (loss, model_state), grads = jax.value_and_grad(
                lambda p: retain_loss(task, p, carry[0], batch, key), has_aux=True
            )(fast)
            return grads, (model_state, loss.astype(jnp.float32))

        carry = (model_state, jnp.zeros([], jnp.float32))
        updates, state = transform.update(updates, state, params, grad_fn=grad_fn, carry=carry)
        model_state, loss = fast_slow_carry(state)
        return updates, state._replace(carry=None), model_state, loss  # the caller has the carry

    return RemainPhase(transform.init, update)
