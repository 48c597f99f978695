"""The remain phase: fast weights that descend the retain loss, with running statistics on board.

`fast_slow` moves one tree by gradients. What else a retain batch leaves behind, the model state and
the value of the loss, travels in that tree as passengers: a passenger's "gradient" is minus its
drift, and its optimizer takes that drift as it is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.objectives import retain_loss
from jaxunlearn.transforms import fast_slow
from jaxunlearn.types import Batch, ModelState, Params, Task


class RemainPhase(NamedTuple):
    """`fast_slow` for a task.

    Attributes:
        init: `init(params, model_state) -> state`.
        update: `update(updates, state, params, model_state, retain_batches, key) -> (updates,
            state, model_state, retain loss of the last fast batch)`.
    """

    init: Callable[[Params, ModelState], Any]
    update: Callable[..., tuple[optax.Updates, Any, ModelState, jax.Array]]


def remain_phase(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_fast_steps: int,
    slow_step_size: float | jax.Array = 1.0,
    share_optimizer: bool = False,
) -> RemainPhase:
    """`fast_slow` over parameters and passengers, on stacked retain batches `[K, B, ...]`."""
    transform = fast_slow(
        optax.partition(
            {"params": optimizer, "passengers": optax.scale(-1.0)},
            {"params": "params", "passengers": "passengers"},
        ),
        num_fast_steps=num_fast_steps,
        slow_step_size=slow_step_size,
        share_optimizer=share_optimizer,
    )

    def board(params: Params, model_state: ModelState) -> dict[str, Any]:
        passengers = {"model_state": model_state, "retain_loss": jnp.zeros([])}
        return {"params": params, "passengers": passengers}

    def init(params: Params, model_state: ModelState) -> Any:
        return transform.init(board(params, model_state))

    def update(
        updates: optax.Updates,
        state: Any,
        params: Params,
        model_state: ModelState,
        retain: Batch,
        key: jax.Array,
    ) -> tuple[optax.Updates, Any, ModelState, jax.Array]:
        def grad_fn(tree: dict[str, Any], i: jax.Array) -> dict[str, Any]:
            batch = jax.tree.map(lambda x: x[i], retain)
            passengers = tree["passengers"]
            (loss, new_state), grads = jax.value_and_grad(
                lambda p: retain_loss(task, p, passengers["model_state"], batch, key), has_aux=True
            )(tree["params"])
            left_behind = {"model_state": new_state, "retain_loss": loss}
            return {
                "params": grads,
                "passengers": jax.tree.map(jnp.subtract, passengers, left_behind),
            }

        at_rest = board(updates, jax.tree.map(jnp.zeros_like, model_state))
        moved, state = transform.update(at_rest, state, board(params, model_state), grad_fn=grad_fn)
        passengers = moved["passengers"]
        model_state = optax.apply_updates(model_state, passengers["model_state"])
        return moved["params"], state, model_state, passengers["retain_loss"] / slow_step_size

    return RemainPhase(init, update)
