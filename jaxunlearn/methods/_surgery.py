"""The step of implicit surgery, shared by all methods with a multiplier.

g = grad (L_f + lambda L_r)                  one backward pass
u = bend(g)                                  the optimizer, or fast and slow weights
lambda <- update by L_r before and after u   the multiplier sees the finished step
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn import transforms
from jaxunlearn.methods._build import Metrics, advance, first
from jaxunlearn.methods.objectives import Objective, loss_pair, retain_loss
from jaxunlearn.transforms import implicit_surgery, surgery_value_and_grad
from jaxunlearn.types import Batch, LossPair, ModelState, Params, Task, TrainState


def _decayed_adam(
    multiplier_learning_rate: float, multiplier_decay: float
) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(multiplier_decay), optax.adam(multiplier_learning_rate)
    )


# One object for all runs, whose numbers are in the state: new numbers need no new compilation.
_MULTIPLIER_OPTIMIZER = optax.inject_hyperparams(_decayed_adam)(1.0, 0.0)


class Surgery(NamedTuple):
    """`implicit_surgery` with Adam and decay for the multiplier."""

    transform: optax.GradientTransformationExtraArgs
    learning_rate: float | jax.Array
    decay: float | jax.Array

    def init(self, params: Params) -> Any:
        """The first state, which holds the numbers of the multiplier's Adam."""
        rate, decay = (jnp.array(x, jnp.float32) for x in (self.learning_rate, self.decay))
        return optax.tree.set(
            self.transform.init(params), multiplier_learning_rate=rate, multiplier_decay=decay
        )


def make_surgery(
    learning_rate: float | jax.Array, decay: float | jax.Array, **settings: Any
) -> Surgery:
    """A `Surgery` with the keywords of `implicit_surgery`."""
    return Surgery(implicit_surgery(_MULTIPLIER_OPTIMIZER, **settings), learning_rate, decay)


# bend(gradient, model_state after the retain batch) -> (updates, its own state, model_state)
Bend = Callable[[Any, ModelState], tuple[optax.Updates, Any, ModelState]]


def surgery_step(
    task: Task,
    objective: Objective,
    transform: optax.GradientTransformationExtraArgs,
    bend: Bend,
    state: TrainState,
    surgery_state: Any,
    forget: Batch,
    retain: Batch,
    *,
    scale: float | jax.Array = 1.0,
    forget_weight: float | jax.Array = 1.0,
    log_objective: bool = False,
) -> tuple[TrainState, Metrics]:
    """One step under a multiplier; the surgery uses the first of the stacked retain batches.

    The updates are multiplied by `scale`, the forget loss by `forget_weight`. With
    `log_objective`, the step descends the logarithms of the losses, and the multiplier compares
    logarithms of the retain loss. The new optimizer state is the pair of the states of `bend` and
    of the surgery.
    """
    key, batch = jax.random.wrap_key_data(state.key), first(retain)
    pair = loss_pair(task, objective)

    def seen(loss: jax.Array) -> jax.Array:
        return jnp.log(loss + 1e-8) if log_objective else loss

    def losses_fn(params: Params) -> tuple[LossPair, tuple[ModelState, LossPair]]:
        losses, model_state = pair(params, state.model_state, forget, batch, key)
        descended = LossPair(forget_weight * seen(losses.forget), seen(losses.retain))
        return descended, (model_state, losses)

    def retain_value_fn(params: Params) -> jax.Array:
        if task.joint_batch:
            return losses_fn(params)[0].retain
        return seen(retain_loss(task, params, state.model_state, batch, key)[0])

    value_and_grad = surgery_value_and_grad(losses_fn, transform, has_aux=True)
    (descended, (model_state, losses)), grads = value_and_grad(state.params, state=surgery_state)
    norm = optax.tree.norm(grads)
    updates, bent, model_state = bend(grads, model_state)
    updates, surgery_state = transform.update(
        optax.tree.scale(scale, updates),
        surgery_state,
        state.params,
        retain_value=descended.retain,
        retain_value_fn=retain_value_fn,
    )
    after = advance(state, updates, (bent, surgery_state), model_state)
    return after, surgery_metrics(losses, surgery_state) | {"gradient_norm": norm}


def surgery_metrics(losses: LossPair, opt_state: Any) -> Metrics:
    """Both losses and the multiplier, for the metrics of a step."""
    return {
        "forget_loss": losses.forget,
        "retain_loss": losses.retain,
        "multiplier": transforms.multiplier(opt_state),
    }
