"""The attacker of a forget phase: training on retain data that brings the forgotten class back.

    phi <- phi - rate adam(clip(grad L_r(phi)))        phi <- theta before steps 0, K, 2 K, ...
    objective: (U(theta) + U(phi)) / 2,                the gradient of U(phi) is taken at phi

L_r is the ordinary loss on the retain batch of the step, and U the forget objective. A class that
is forgotten at theta alone is often only hidden: training on retain data, which do not contain it,
brings it back. So U is also descended where an attacker would be after at most K steps. Gradients
are of first order: phi counts as theta plus a constant. phi is kept in the optimizer state.

Source of the attack: DiMRA (arXiv 2512.03564); of the look-ahead: Gao et al., Meta-Unlearning on
Diffusion Models (arXiv 2410.12777), and Tamirisa et al., Tamper-Resistant Safeguards (TAR, arXiv
2408.00761).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import first
from jaxunlearn.methods._under_attack import Objectives, under_attack
from jaxunlearn.types import (
    Batch,
    BatchFunction,
    Method,
    Metrics,
    ModelState,
    Params,
    Task,
    TrainState,
)


class Revival(NamedTuple):
    """The state of the attacker.

    Attributes:
        params: phi, parameters of the attacker.
        memory: optimizer state of the attacker.
    """

    params: Params
    memory: Any


def revived(
    task: Task,
    make: Callable[[Task], Method],
    *,
    steps: int,
    rate: float | jax.Array,
    losses: BatchFunction,
) -> Method:
    """The method `make(task)`, whose forget objective is also descended at phi.

    Args:
        task: the unlearning task.
        make: function that makes the method.
        steps: K, the number of steps after which the attacker starts again from theta.
        rate: learning rate of the attacker.
        losses: the ordinary losses, also where the retain loss of the task is another.
    """
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    def start(params: Params, model_state: ModelState) -> Revival:
        del model_state
        return Revival(jax.tree.map(jnp.copy, params), optimizer.init(params))

    def move(
        attacker: Revival, state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[Revival, Objectives, Metrics]:
        del forget
        again, key = state.step % steps == 0, jax.random.wrap_key_data(state.key)
        fresh = Revival(state.params, optimizer.init(state.params))
        phi, memory = jax.tree.map(lambda a, b: jnp.where(again, a, b), fresh, attacker)

        def loss_at(phi: Params) -> jax.Array:
            return jnp.mean(losses(phi, state.model_state, first(retain), key, True)[0])

        updates, memory = optimizer.update(jax.grad(loss_at)(phi), memory, phi)
        phi = optax.apply_updates(phi, updates)
        ahead = jax.tree.map(jnp.subtract, phi, state.params)
        objectives = tuple((name, _at_both(each, ahead)) for name, each in task.objectives)
        return Revival(phi, memory), objectives, {}

    return under_attack(task, make, start, move)


def _at_both(objective: Callable[..., jax.Array], ahead: Params) -> Callable[..., jax.Array]:
    """The mean of the objective at the parameters and at the attacker's."""

    def both(task: Task, params: Params, *rest: Any, **options: Any) -> jax.Array:
        phi = jax.tree.map(jnp.add, params, ahead)
        values = (objective(task, each, *rest, **options) for each in (params, phi))
        return sum(values, jnp.zeros([])) / 2.0

    return both
