"""Boundary unlearning: two methods that move the forget data across the decision boundary.

| method | new class of the forget data |
| --- | --- |
| `boundary_shrinking` | the nearest wrong class |
| `boundary_expanding` | an extra shadow class, which is then dropped |

Both see only the forget data: nothing protects the retain data, and running statistics stay.

Source: Chen et al., Boundary Unlearning, CVPR 2023.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.data.pixels import as_floats
from jaxunlearn.methods._build import Metrics, Now, Start, advance, begin, descend, predict_of
from jaxunlearn.methods._limits import NotNegative
from jaxunlearn.methods._teacher import outputs_of
from jaxunlearn.methods.objectives import cross_entropy
from jaxunlearn.types import Batch, Method, ModelState, Params, Task, TrainState, unvisited

_BATCH = 256  # examples in one pass of the attack
_SHADOW_CHILD = 8  # of the run's key


def boundary_shrinking(
    task: Task, optimizer: optax.GradientTransformation, *, attack_size: NotNegative = 0.1
) -> Method:
    """Descends the loss of the forget data against their nearest wrong labels.

        x' = x + attack_size sign(grad_x l(x, y))       (FGSM, at the original weights)
        y' = argmax over c != y of outputs_c(x')        (once for every forget example)
        L_f = mean_i l(x_i, y'_i)

    The attack is in evaluation mode and is not clipped to the range of pixels.

    Args:
        task: the unlearning task; its outputs must be logits `[B, C]`, smooth in the images.
        optimizer: any optax optimizer.
        attack_size: change of each pixel, in units of floating-point images; uint8 images are
            first scaled to [0, 1].

    Raises:
        InputError: a task without outputs and divergence.
    """
    predict_of(task, "boundary_shrinking")
    outputs_of(task, "boundary_shrinking")

    def remember(start: Start) -> tuple[jax.Array, jax.Array]:
        labels = nearest_wrong_labels(task, start, attack_size)
        order = jnp.argsort(start.forget["index"])
        return start.forget["index"][order], labels[order]

    def loss_fn(
        params: Params, now: Now, forget: Batch, retain: Batch
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        del retain
        indices, labels = now.memory
        batch = forget | {"label": labels[jnp.searchsorted(indices, forget["index"])]}
        loss = jnp.mean(task.losses(params, now.model_state, batch, now.key, True)[0])
        return loss, (now.model_state, {"forget_loss": loss})

    return descend(loss_fn, optimizer, remember)


def nearest_wrong_labels(task: Task, start: Start, attack_size: float | jax.Array) -> jax.Array:
    """The likeliest wrong class of each forget example after one step of FGSM, `[N]`."""
    outputs, arrays = outputs_of(task, "boundary_shrinking"), start.forget
    params, model_state, key = start.params, start.model_state, start.key

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
    positions = jnp.arange(-(-size // per_batch) * per_batch) % size  # the last batch is padded
    return jax.lax.map(of_batch, positions.reshape(-1, per_batch)).reshape(-1)[:size]


def boundary_expanding(task: Task, optimizer: optax.GradientTransformation) -> Method:
    """Descends the loss of the forget data against a shadow class, which is dropped at the end.

        s = <u, z> + b,   z = outputs(x) of C classes
        L_f = - mean_i log softmax([z_i, s_i])_{C+1}

    The parameters, `u` and `b` are learned together; `u` and `b` are in the optimizer's state. `u`
    is drawn with variance 1 / C, `b` starts at 0.

    In the paper the shadow class is one more unit of the last layer, which sees the features. A
    task has no features, so here the class is an affine function of the logits, and distinguishes
    only examples whose logits differ.

    Args:
        task: the unlearning task; its outputs must be logits `[B, C]`.
        optimizer: any optax optimizer.

    Raises:
        InputError: a task without outputs and divergence.
    """
    predict_of(task, "boundary_expanding")
    outputs = outputs_of(task, "boundary_expanding")

    def init(key: jax.Array, params: Params, model_state: ModelState, *data: Any) -> TrainState:
        del data
        draw = jax.random.normal(jax.random.fold_in(key, _SHADOW_CHILD), (task.num_classes,))
        shadow = {"kernel": draw / jnp.sqrt(task.num_classes), "bias": jnp.zeros([])}
        state = begin(optax.identity(), key, params, model_state)
        return state._replace(opt_state=(optimizer.init((state.params, shadow)), shadow))

    def step(state: TrainState, forget: Batch, retain: Batch) -> tuple[TrainState, Metrics]:
        del retain
        key = jax.random.wrap_key_data(state.key)
        optimizer_state, shadow = state.opt_state

        def loss_fn(both: tuple[Params, Params]) -> jax.Array:
            params, extra = both
            logits, _ = outputs(params, state.model_state, forget, key, True)
            shadows = logits @ extra["kernel"] + extra["bias"]
            expanded = jnp.concatenate([logits, shadows[:, None]], axis=1)
            return jnp.mean(cross_entropy(expanded, jnp.full(len(logits), task.num_classes)))

        both = (state.params, shadow)
        loss, grads = jax.value_and_grad(loss_fn)(both)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, both)
        opt_state = (optimizer_state, optax.apply_updates(shadow, updates[1]))
        return advance(state, updates[0], opt_state, state.model_state), {"forget_loss": loss}

    return Method(init, step)
