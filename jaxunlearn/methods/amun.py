"""AMUN: forgetting by adversarial examples, which lower the confidence nearby.

A model that never saw an example is less sure of it: its decision boundary is nearer. Training on
the nearest adversarial examples of the forget data, with the labels that the original model gives
them, moves the boundary closer there and nowhere else.

Source: Ebrahimpour-Boroojeny et al., AMUN (arXiv 2503.00917), 2025.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.data.pixels import as_floats
from jaxunlearn.methods._build import Metrics, Now, Start, descend, predict_of
from jaxunlearn.methods._limits import Count, Positive
from jaxunlearn.types import Batch, Method, ModelState, Params, Task, unvisited

_BATCH = 256  # examples in one pass of the attack
_RADII = 12  # balls that are tried at most
_STEP = 2.5  # length of all steps of an attack together, in radii


class Adversaries(NamedTuple):
    """The nearest adversarial examples of the forget data, in the order of their indices.

    Attributes:
        indices: indices of the forget examples.
        images: their adversarial examples.
        labels: the classes that the original model predicts for these.
        radii: the radii of their balls; 0 for images that stay as they are.
    """

    indices: jax.Array  # shape=(N,), dtype=jnp.int32
    images: jax.Array  # shape=(N, ...), dtype=jnp.float32
    labels: jax.Array  # shape=(N,), dtype=jnp.int32
    radii: jax.Array  # shape=(N,), dtype=jnp.float32


def amun(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    attack_radius: Positive = 0.1,
    num_attack_steps: Count = 50,
) -> Method:
    """AMUN: trains on retain and forget data, and on adversarial examples of the forget data.

        x'_i = the adversarial example in the smallest ball,   y'_i = argmax f_0(x'_i) != y_i
        theta <- theta - opt(grad mean l),   over the batches of R, F and {(x'_i, y'_i)} together

    The attack is projected gradient ascent of the loss of the original model, in evaluation mode,
    within L2 balls of the radii r, 2 r, 4 r ... around the image, until the prediction is wrong; an
    image that is misclassified at once, or within none of 12 balls, stays as it is. Each radius
    takes `num_attack_steps` forward and backward passes before the first step of the run.

    Args:
        task: the unlearning task, whose losses are differentiable in the images.
        optimizer: any optax optimizer.
        attack_radius: r, the first radius, in units of floating-point images; uint8 images are
            first scaled to [0, 1].
        num_attack_steps: number of steps of the attack in each ball.

    Raises:
        InputError: the model generates images.
    """
    predict_of(task, "amun")

    def remember(start: Start) -> Adversaries:
        return adversaries(task, start, attack_radius, num_attack_steps)

    def loss_fn(
        params: Params, now: Now, forget: Batch, retain: Batch
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        found = now.memory
        places = jnp.searchsorted(found.indices, forget["index"])
        attacked = forget | {"image": found.images[places], "label": found.labels[places]}

        def losses(batch: Batch) -> tuple[jax.Array, ModelState]:
            return task.losses(params, now.model_state, batch, now.key, True)

        retained, model_state = losses(retain)
        forgotten = jnp.concatenate([losses(forget)[0], losses(attacked)[0]])
        metrics = {"forget_loss": jnp.mean(forgotten), "retain_loss": jnp.mean(retained)}
        return jnp.mean(jnp.concatenate([retained, forgotten])), (model_state, metrics)

    return descend(loss_fn, optimizer, remember)


def adversaries(
    task: Task, start: Start, first_radius: float | jax.Array, num_steps: int
) -> Adversaries:
    """The adversarial example of each forget example in the smallest ball that has one."""
    predict, arrays = predict_of(task, "amun"), start.forget
    params, model_state, key = start.params, start.model_state, start.key

    def of_batch(positions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        batch = unvisited(arrays, positions)
        images = as_floats(batch["image"])
        wide = (-1, *[1] * (images.ndim - 1))

        def predicted(x: jax.Array) -> jax.Array:
            return jnp.argmax(predict(params, model_state, batch | {"image": x}), axis=1)

        def total_loss(x: jax.Array) -> jax.Array:
            attacked = batch | {"image": x}
            return jnp.sum(task.losses(params, model_state, attacked, key, False)[0])

        def within(x: jax.Array, length: jax.Array) -> jax.Array:
            """Vectors of at most a length."""
            norms = jnp.linalg.norm(x.reshape(len(x), -1), axis=1).reshape(wide)
            return x * jnp.minimum(1.0, length / jnp.maximum(norms, 1e-30))

        def attack(radius: jax.Array) -> jax.Array:
            def ascend(_: int, moved: jax.Array) -> jax.Array:
                gradient = jax.grad(total_loss)(images + moved)
                norms = jnp.linalg.norm(gradient.reshape(len(images), -1), axis=1).reshape(wide)
                step = _STEP * radius / num_steps * gradient / jnp.maximum(norms, 1e-30)
                return within(moved + step, radius)

            return jax.lax.fori_loop(0, num_steps, ascend, jnp.zeros_like(images))

        def continues(carry: Any) -> jax.Array:
            trial, _, _, wrong = carry
            return (trial < _RADII) & ~jnp.all(wrong)

        def enlarge(carry: Any) -> Any:
            trial, found, radii, wrong = carry
            radius = first_radius * 2.0**trial
            attacked = images + attack(radius)
            new = ~wrong & (predicted(attacked) != batch["label"])
            found = jnp.where(new.reshape(wide), attacked, found)
            return trial + 1, found, jnp.where(new, radius, radii), wrong | new

        wrong = predicted(images) != batch["label"]
        none = jnp.zeros(len(images), jnp.float32)
        carry = jnp.int32(0), images, none, wrong
        _, found, radii, _ = jax.lax.while_loop(continues, enlarge, carry)
        return found, predicted(found).astype(batch["label"].dtype), radii

    size = len(arrays["label"])
    per_batch = min(_BATCH, size)
    order = jnp.argsort(arrays["index"])
    positions = order[jnp.arange(-(-size // per_batch) * per_batch) % size]
    found = jax.lax.map(of_batch, positions.reshape(-1, per_batch))
    image, label, radius = (x.reshape(-1, *x.shape[2:])[:size] for x in found)
    return Adversaries(arrays["index"][order], image, label, radius)
