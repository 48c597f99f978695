"""The adversary of a forget phase: an embedding that brings the forgotten images back.

    c* <- c* - 0.1 rms(c*) adam(grad_c* mean_i l_i(c*))      one or more before each step

l_i is the ordinary loss of forget image i, and c* the embedding of its class or prompt. An attacker
who inverts the model finds such a c*. So the method descends the mean of its objective at the
model's own embeddings and at c*. c* starts at the embeddings of the original model, and is kept in
the optimizer state.

Source of the attack: Pham et al., Circumventing Concept Erasure Methods For Text-to-Image
Generative Models, ICLR 2024.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._under_attack import Objectives, under_attack
from jaxunlearn.types import (
    Batch,
    InputError,
    Method,
    Metrics,
    ModelState,
    Params,
    Task,
    TrainState,
)

_RATE = 0.1


class Inversion(NamedTuple):
    """The state of the adversary.

    Attributes:
        embeddings: c*, a row for each label.
        memory: optimizer state of the adversary.
    """

    embeddings: jax.Array
    memory: Any


def attacked(task: Task, make: Callable[[Task], Method], *, steps: int) -> Method:
    """The method `make(task)`, whose objective "match_anchor" is also descended at c*.

    Args:
        task: the task of diffusion.
        make: function that makes the method.
        steps: number of steps of the adversary before each step of the method.

    Raises:
        InputError: the task has no `conditions`, which read and write the embeddings of labels.
    """
    if task.conditions is None:
        raise InputError(
            f"adversarial_steps is {steps}, but must be 0 for a model without known embeddings of "
            "labels; leave it out, or choose a DDPM, a DiT or a text-to-image model."
        )
    read, write = task.conditions
    losses_of = task.forget_losses or task.losses
    scale = optax.scale_by_param_block_rms()  # the unit is the root mean square of the embeddings
    adversary = optax.chain(optax.scale_by_adam(), scale, optax.scale(-_RATE))

    def start(params: Params, model_state: ModelState) -> Inversion:
        embeddings = jnp.copy(read(params, model_state))
        return Inversion(embeddings, adversary.init(embeddings))

    def move(
        attacker: Inversion, state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[Inversion, Objectives, Metrics]:
        del retain
        (embeddings, memory), key = attacker, jax.random.wrap_key_data(state.key)

        def loss_at(embeddings: jax.Array) -> jax.Array:
            model_state = write(state.model_state, embeddings)
            return jnp.mean(losses_of(state.params, model_state, forget, key, True)[0])

        loss = jnp.zeros([])
        for _ in range(steps):
            loss, grads = jax.value_and_grad(loss_at)(embeddings)
            updates, memory = adversary.update(grads, memory, embeddings)
            embeddings = optax.apply_updates(embeddings, updates)
        known = dict(task.objectives)
        known["match_anchor"] = functools.partial(known["match_anchor"], embeddings=embeddings)
        return Inversion(embeddings, memory), tuple(known.items()), {"adversary_loss": loss}

    return under_attack(task, make, start, move)
