"""The adversary of a forget phase: an embedding that brings the forgotten images back.

    c* <- c* - 0.1 rms(c*) adam(grad_c* mean_i l_i(c*))      repeated before each step of a method

l_i is the ordinary loss of forget image i, and c* the embedding of its class or prompt. An attacker
who inverts the model finds such a c*, so the objective is descended at the model's embeddings and
at c*. c* starts at the embeddings of the original model, and is kept in the optimizer state.

Source of the attack: Pham et al., Circumventing Concept Erasure Methods For Text-to-Image
Generative Models, ICLR 2024.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.types import Batch, InputError, Method, Metrics, Task, TrainState

_RATE = 0.1


class Attacked(NamedTuple):
    """The optimizer state of a method with an adversary.

    Attributes:
        opt_state: optimizer state of the method itself.
        embeddings: c*, a row for each label.
        memory: optimizer state of the adversary.
    """

    opt_state: Any
    embeddings: jax.Array
    memory: Any


def attacked(task: Task, make: Callable[[Task], Method], *, steps: int) -> Method:
    """The method `make(task)`, whose objective "match_anchor" is also descended at c*.

    Args:
        task: the task of diffusion.
        make: function that makes the method.
        steps: number of steps of the adversary in each step of the method.

    Raises:
        InputError: the task has no access to the embeddings of labels.
    """
    if task.conditions is None:
        raise InputError(
            f"adversarial_steps is {steps}, but must be 0 for a model without known embeddings of "
            "labels; leave it out, or choose a DDPM, a DiT or a text-to-image model."
        )
    method, (read, write) = make(task), task.conditions
    scale = optax.scale_by_param_block_rms()  # the unit is the root mean square of the embeddings
    adversary = optax.chain(optax.scale_by_adam(), scale, optax.scale(-_RATE))

    def init(*start: Any) -> TrainState:
        state, embeddings = method.init(*start), jnp.copy(read(*start[1:3]))
        opt_state = Attacked(state.opt_state, embeddings, adversary.init(embeddings))
        return state._replace(opt_state=opt_state)

    def inverted(state: TrainState, forget: Batch) -> tuple[jax.Array, Any, jax.Array]:
        _, embeddings, memory = state.opt_state
        key, losses_of = jax.random.wrap_key_data(state.key), task.forget_losses or task.losses

        def loss_at(embeddings: jax.Array) -> jax.Array:
            model_state = write(state.model_state, embeddings)
            return jnp.mean(losses_of(state.params, model_state, forget, key, True)[0])

        loss = jnp.zeros([])
        for _ in range(steps):
            loss, grads = jax.value_and_grad(loss_at)(embeddings)
            updates, memory = adversary.update(grads, memory, embeddings)
            embeddings = optax.apply_updates(embeddings, updates)
        return embeddings, memory, loss

    def within(name: str) -> Callable[..., tuple[TrainState, Metrics]]:
        def taken(state: TrainState, forget: Batch, *rest: Any) -> tuple[TrainState, Metrics]:
            embeddings, memory, loss = inverted(state, forget)
            known = dict(task.objectives)
            known["match_anchor"] = functools.partial(known["match_anchor"], embeddings=embeddings)
            step = getattr(make(task._replace(objectives=tuple(known.items()))), name)
            own = state._replace(opt_state=state.opt_state.opt_state)
            after, metrics = step(own, forget, *rest)
            opt_state = Attacked(after.opt_state, embeddings, memory)
            return after._replace(opt_state=opt_state), metrics | {"adversary_loss": loss}

        return taken

    scaled = method.scaled_step and within("scaled_step")
    return method._replace(init=init, step=within("step"), scaled_step=scaled)
