"""Gradient ascent (GA): climb the loss of the forget data. Nothing guards the rest."""

import jax
import optax

from jaxunlearn.methods._build import descend
from jaxunlearn.methods.objectives import ascent
from jaxunlearn.types import Batch, Method, ModelState, Params, Task


def gradient_ascent(task: Task, optimizer: optax.GradientTransformation) -> Method:
    """Descends `-L(theta; forget)`; running statistics stay as they are.

    Args:
        task: what is unlearned.
        optimizer: any optax optimizer.

    Returns:
        A `Method`.

    Example:
        >>> from jaxunlearn import models
        >>> from jaxunlearn.tasks import classification
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> method = gradient_ascent(task, optax.sgd(1e-4))

    Reference: Thudi et al., Unrolling SGD, EuroS&P 2022.
    """

    def loss_fn(
        params: Params, model_state: ModelState, forget: Batch, retain: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[ModelState, dict[str, jax.Array]]]:
        del retain
        loss = ascent(task, params, model_state, forget, key)
        return loss, (model_state, {"forget_loss": loss})

    return descend(loss_fn, optimizer)
