"""UNSIR: error-maximising noise destroys the forgotten classes, and retain data repair the rest."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import Metrics, Now, Start, descend, predict_of
from jaxunlearn.methods._limits import Count, NotNegative, Share
from jaxunlearn.methods._teacher import outputs_of
from jaxunlearn.methods.objectives import retain_loss
from jaxunlearn.types import Batch, Method, ModelState, Params, Task

_NOISE_CHILD = 9  # of the run's key


class Noise(NamedTuple):
    """Images `[M, ...]` with a large loss, and the forgotten class `[M]` of each."""

    image: jax.Array
    label: jax.Array

    def batch(self, visit: jax.Array) -> Batch:
        """All of the noise as one batch, at the given visit."""
        index = jnp.arange(len(self.label), dtype=jnp.int32)
        epoch = jnp.full_like(index, visit)
        return {"image": self.image, "label": self.label, "index": index, "epoch": epoch}


def unsir(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    num_noise: Count = 64,
    num_noise_steps: Count = 40,
    noise_learning_rate: NotNegative = 0.1,
    noise_penalty: NotNegative = 0.1,
    impair_share: Share = 0.5,
) -> Method:
    """Fits noise to the forgotten classes (impair), then only the retain data (repair).

        noise     N = argmin_N mean_j (- l(N_j, y_j) + noise_penalty |N_j|^2)     once, by Adam
        impair    L = mean_j l(N_j, y_j) + L_r     in the first `impair_share` of all steps
        repair    L = L_r                          after them

    Of the forget data, only the labels `y_j` are used, evenly spread over the noise. So the method
    is meant to forget whole classes: otherwise the noise also hurts retain data of these classes.
    The noise starts as standard normal, in the units of floating-point images, and is learned in
    evaluation mode. Only retain data update running statistics.

    Args:
        task: a classification task.
        optimizer: any optax optimizer, for both phases.
        num_steps: T, the number of steps.
        num_noise: M, the number of noise images; every impair step uses all of them.
        num_noise_steps: number of Adam steps that learn the noise.
        noise_learning_rate: learning rate of the noise's Adam.
        noise_penalty: weight of the noise's squared norm.
        impair_share: fraction of all steps that impair.

    Returns:
        A `Method`. Its metrics hold "noise_loss", 0 in repair steps.

    Raises:
        InputError: a task without outputs and divergence.

    Reference: Tarun et al., Fast Yet Effective Machine Unlearning, arXiv 2111.08947.
    """
    predict_of(task, "unsir")
    outputs_of(task, "unsir")

    def remember(start: Start) -> Noise:
        return error_maximising_noise(
            task,
            start,
            num_noise=num_noise,
            num_steps=num_noise_steps,
            learning_rate=noise_learning_rate,
            penalty=noise_penalty,
        )

    def loss_fn(
        params: Params, now: Now, forget: Batch, retain: Batch
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        del forget

        def noise_loss(params: Params) -> jax.Array:
            """In training mode; the batch statistics of the noise are discarded."""
            noise = now.memory.batch(now.step)
            return jnp.mean(task.losses(params, now.model_state, noise, now.key, True)[0])

        impair = now.step < impair_share * num_steps
        harm = jax.lax.cond(impair, noise_loss, lambda params: jnp.zeros([]), params)
        ordinary, model_state = retain_loss(task, params, now.model_state, retain, now.key)
        return harm + ordinary, (model_state, {"noise_loss": harm, "retain_loss": ordinary})

    return descend(loss_fn, optimizer, remember)


def error_maximising_noise(
    task: Task,
    start: Start,
    *,
    num_noise: int,
    num_steps: int,
    learning_rate: float | jax.Array,
    penalty: float | jax.Array,
) -> Noise:
    """Descends `mean_j (- l(N_j, y_j) + penalty |N_j|^2)` over M images N, by Adam."""
    key, forget = start.key, start.forget
    places = jnp.arange(num_noise) * len(forget["label"]) // num_noise
    labels = jnp.sort(forget["label"])[places]
    shape = (num_noise, *forget["image"].shape[1:])
    drawn = jax.random.normal(jax.random.fold_in(key, _NOISE_CHILD), shape)
    adam = optax.adam(learning_rate)

    def objective(images: jax.Array) -> jax.Array:
        batch = Noise(images, labels).batch(jnp.zeros([], jnp.int32))
        losses, _ = task.losses(start.params, start.model_state, batch, key, False)
        return jnp.mean(-losses) + penalty * jnp.sum(images**2) / num_noise

    def learn(_: int, carry: tuple[jax.Array, optax.OptState]) -> tuple[jax.Array, optax.OptState]:
        images, adam_state = carry
        updates, adam_state = adam.update(jax.grad(objective)(images), adam_state)
        return optax.apply_updates(images, updates), adam_state

    images, _ = jax.lax.fori_loop(0, num_steps, learn, (drawn, adam.init(drawn)))
    return Noise(images, labels)
