"""Boundary shrinking (BS): hand each forget example over to the nearest wrong class."""

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.data.pixels import as_floats
from jaxunlearn.methods._build import advance, begin, predict_of
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._teacher import outputs_of
from jaxunlearn.types import Arrays, Batch, Method, ModelState, Params, Task, TrainState, unvisited

_BATCH = 256  # examples that are attacked at once


def boundary_shrinking(
    task: Task, optimizer: optax.GradientTransformation, *, attack_size: NotNegative = 0.1
) -> Method:
    """Descends the loss of the forget data against their nearest wrong labels.

        x' = x + attack_size sign(grad_x l(x, y))       (FGSM, at the original weights)
        y' = argmax over c != y of outputs_c(x')        once for every forget example
        L_f = mean_i l(x_i, y'_i)

    Nothing guards the rest; running statistics stay as they are. The attack is in evaluation mode
    and is not clipped to the range of pixels.

    Args:
        task: what is unlearned; its outputs must be logits `[B, C]`, and its images such as
            gradients pass through.
        optimizer: any optax optimizer.
        attack_size: how far each pixel is moved, in the units of floating-point images; uint8
            images are scaled to [0, 1] first.

    Returns:
        A `Method`.

    Raises:
        InputError: a task without outputs and divergence.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = boundary_shrinking(task, optax.sgd(1e-3))

    Reference: Chen et al., Boundary Unlearning, CVPR 2023.
    """
    predict_of(task, "boundary_shrinking")
    outputs_of(task, "boundary_shrinking")

    def init(
        key: jax.Array, params: Params, model_state: ModelState, forget: Arrays, retain: Arrays
    ) -> TrainState:
        del retain
        labels = nearest_wrong_labels(task, key, params, model_state, forget, attack_size)
        order = jnp.argsort(forget["index"])
        state = begin(optimizer, key, params, model_state)
        return state._replace(opt_state=(state.opt_state, forget["index"][order], labels[order]))

    def step(
        state: TrainState, forget: Batch, retain: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        del retain
        key = jax.random.wrap_key_data(state.key)
        optimizer_state, indices, labels = state.opt_state
        batch = forget | {"label": labels[jnp.searchsorted(indices, forget["index"])]}

        def loss_fn(params: Params) -> jax.Array:
            return jnp.mean(task.losses(params, state.model_state, batch, key, True)[0])

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, state.params)
        opt_state = (optimizer_state, indices, labels)
        return advance(state, updates, opt_state, state.model_state), {"forget_loss": loss}

    return Method(init, step)


def nearest_wrong_labels(
    task: Task,
    key: jax.Array,
    params: Params,
    model_state: ModelState,
    arrays: Arrays,
    attack_size: float | jax.Array,
) -> jax.Array:
    """The likeliest wrong class of each example after one step of FGSM, `[N]`.

    Args:
        task: a classification task.
        key: the key of the run.
        params: of the original model.
        model_state: of the original model.
        arrays: N examples.
        attack_size: how far each pixel is moved.

    Returns:
        Labels `[N]` of the type of `arrays["label"]`.

    Raises:
        InputError: a task without outputs and divergence.
    """
    outputs = outputs_of(task, "boundary_shrinking")

    def of_batch(positions: jax.Array) -> jax.Array:
        batch = unvisited(arrays, positions)
        batch["image"] = as_floats(batch["image"])

        def total_loss(images: jax.Array) -> jax.Array:
            attacked = batch | {"image": images}
            return jnp.sum(task.losses(params, model_state, attacked, key, False)[0])

        images = batch["image"] + attack_size * jnp.sign(jax.grad(total_loss)(batch["image"]))
        logits, _ = outputs(params, model_state, batch | {"image": images}, key, False)
        true = batch["label"][:, None] == jnp.arange(task.num_classes)[None]
        return jnp.argmax(jnp.where(true, -jnp.inf, logits), axis=-1).astype(batch["label"].dtype)

    size = len(arrays["label"])
    per_batch = min(_BATCH, size)
    positions = jnp.arange(-(-size // per_batch) * per_batch) % size  # the last batch is filled up
    return jax.lax.map(of_batch, positions.reshape(-1, per_batch)).reshape(-1)[:size]
