"""UNSIR: noise that the model errs on most destroys the forgotten classes; retain data repair."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.methods._build import advance, begin, first, predict_of
from jaxunlearn.methods._limits import Count, NotNegative, Share
from jaxunlearn.methods._teacher import outputs_of
from jaxunlearn.methods.objectives import retain_loss
from jaxunlearn.types import Arrays, Batch, Method, ModelState, Params, Task, TrainState

_NOISE_CHILD = 9  # of the run's key


class Noise(NamedTuple):
    """Images that were learned to be got wrong.

    Attributes:
        image: `[M, ...]`, floating point.
        label: the forgotten class that each stands for, `[M]`.
    """

    image: jax.Array
    label: jax.Array

    def batch(self, visit: jax.Array) -> Batch:
        """All of the noise, as it is visited for the given time."""
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
    """Fits error-maximising noise to the forgotten classes (impair), then only the rest (repair).

        noise     N = argmin_N mean_j (- l(N_j, y_j) + noise_penalty |N_j|^2)     once, by Adam
        impair    L = mean_j l(N_j, y_j) + L_r     in the first `impair_share` of all steps
        repair    L = L_r                          after them

    The forget data give their labels `y_j`, evenly spread over the noise, and are never looked at.
    So it is meant for the forgetting of whole classes: noise of classes that the retain data hold
    too hurts them as well. The noise begins as standard normal, in the units of floating-point
    images, and is learned in evaluation mode. Running statistics are written by retain data only.

    Args:
        task: what is unlearned; a classification task.
        optimizer: any optax optimizer, for both phases.
        num_steps: T, how many steps there are.
        num_noise: M, how many noise images there are; every impair step uses all of them.
        num_noise_steps: how many steps they are learned for.
        noise_learning_rate: of their Adam.
        noise_penalty: of their squared norm.
        impair_share: the share of all steps that impair.

    Returns:
        A `Method`. Its metrics hold "noise_loss", 0 in repair steps.

    Raises:
        InputError: a task without outputs and divergence.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = unsir(task, optax.sgd(0.02), num_steps=100)

    Reference: Tarun et al., Fast Yet Effective Machine Unlearning, arXiv 2111.08947.
    """
    predict_of(task, "unsir")
    outputs_of(task, "unsir")

    def noise_loss(
        params: Params, model_state: ModelState, noise: Noise, visit: jax.Array, key: jax.Array
    ) -> jax.Array:
        """In training, with the batch statistics of the noise, which leave nothing behind."""
        return jnp.mean(task.losses(params, model_state, noise.batch(visit), key, True)[0])

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        del retain
        learned = error_maximising_noise(
            task,
            key,
            params,
            model_state,
            forget,
            num_noise=num_noise,
            num_steps=num_noise_steps,
            learning_rate=noise_learning_rate,
            penalty=noise_penalty,
        )
        state = begin(optimizer, key, params, model_state)
        return state._replace(opt_state=(state.opt_state, learned))

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        del forget
        key, batch = jax.random.wrap_key_data(state.key), first(retain)
        optimizer_state, noise = state.opt_state
        impair = state.step < impair_share * num_steps

        def loss_fn(params: Params) -> tuple[jax.Array, tuple[ModelState, dict[str, jax.Array]]]:
            harm = jax.lax.cond(
                impair,
                lambda p: noise_loss(p, state.model_state, noise, state.step, key),
                lambda p: jnp.zeros([]),
                params,
            )
            ordinary, model_state = retain_loss(task, params, state.model_state, batch, key)
            return harm + ordinary, (model_state, {"noise_loss": harm, "retain_loss": ordinary})

        grads, (model_state, metrics) = jax.grad(loss_fn, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, state.params)
        return advance(state, updates, (optimizer_state, noise), model_state), metrics

    return Method(init, step)


def error_maximising_noise(
    task: Task,
    key: jax.Array,
    params: Params,
    model_state: ModelState,
    forget: Arrays,
    *,
    num_noise: int,
    num_steps: int,
    learning_rate: float | jax.Array,
    penalty: float | jax.Array,
) -> Noise:
    """Descends `mean_j (- l(N_j, y_j) + penalty |N_j|^2)` over the images N, by Adam.

    Args:
        task: a classification task.
        key: the key of the run.
        params: of the original model.
        model_state: of the original model.
        forget: examples of the classes to be forgotten.
        num_noise: M.
        num_steps: of Adam.
        learning_rate: of Adam.
        penalty: of the squared norm of an image.

    Returns:
        `Noise` of M images.
    """
    places = jnp.arange(num_noise) * len(forget["label"]) // num_noise
    labels = jnp.sort(forget["label"])[places]
    shape = (num_noise, *forget["image"].shape[1:])
    start = jax.random.normal(jax.random.fold_in(key, _NOISE_CHILD), shape)
    adam = optax.adam(learning_rate)

    def objective(images: jax.Array) -> jax.Array:
        batch = Noise(images, labels).batch(jnp.zeros([], jnp.int32))
        losses, _ = task.losses(params, model_state, batch, key, False)
        return jnp.mean(-losses) + penalty * jnp.sum(images**2) / num_noise

    def learn(_: int, carry: tuple[jax.Array, optax.OptState]) -> tuple[jax.Array, optax.OptState]:
        images, adam_state = carry
        updates, adam_state = adam.update(jax.grad(objective)(images), adam_state)
        return optax.apply_updates(images, updates), adam_state

    images, _ = jax.lax.fori_loop(0, num_steps, learn, (start, adam.init(start)))
    return Noise(images, labels)
