"""Autoencoding as a task: learns the latent space of a latent diffusion model.

    L(x) = mean over pixels of (x - decode(z))^2 + kl_weight KL(N(mean, var) || N(0, I)) / pixels,
    z = mean + sqrt(var) n,   (mean, var) = encode(x)

Labels are not used. The published autoencoder also has a perceptual and an adversarial loss.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.tasks.diffusion import as_signal
from jaxunlearn.types import Batch, InputError, ModelState, Params, Task, example_keys


def autoencoding(
    model: AutoencoderKL,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    kl_weight: float = 1e-2,
) -> Task:
    """The task of encoding images and reconstructing them.

    Args:
        model: the autoencoder.
        image_shape: shape `(H, W, C)` of the images; uint8 images are scaled to [-1, 1].
        num_classes: number of classes.
        kl_weight: weight of the divergence to the standard normal distribution.

    Returns:
        A `Task` that predicts no classes; `outputs` are the reconstructed images.

    Raises:
        InputError: a negative weight.

    Example:
        >>> from jaxunlearn.models import latent
        >>> model = latent.create_autoencoder("tiny", channels=1)
        >>> task = autoencoding(model, image_shape=(8, 8, 1), num_classes=10)
        >>> params, model_state = jax.eval_shape(task.init, jax.random.key(0))
        >>> model_state
        {}

    Reference: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR
    2022, with the penalty of Kingma and Welling, Auto-Encoding Variational Bayes, 2014.
    """
    if not kl_weight >= 0.0:
        raise InputError(f"kl_weight is {kl_weight!r}, but must be 0 or more.")
    pixels = (1, 2, 3)

    def init(key: jax.Array) -> tuple[Params, ModelState]:
        variables = dict(model.init(key, jnp.zeros((1, *image_shape))))
        return variables.pop("params"), variables

    def coded(
        params: Params, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The reconstructed images, and the moments of the latents."""
        images = as_signal(batch["image"])
        moments: Any = model.apply({"params": params}, images, method="encode")
        mean, log_variance = (some.astype(images.dtype) for some in moments)
        latents = mean
        if train:
            noise = jax.vmap(lambda k: jax.random.normal(k, mean.shape[1:]))(
                example_keys(key, batch)
            )
            latents = mean + jnp.exp(0.5 * log_variance) * noise
        back: Any = model.apply({"params": params}, latents, method="decode")
        return back.astype(images.dtype), mean, log_variance

    def losses(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, ModelState]:
        back, mean, log_variance = coded(params, batch, key, train)
        error = jnp.mean((back - as_signal(batch["image"])) ** 2, axis=pixels)
        divergence = 0.5 * (mean**2 + jnp.exp(log_variance) - 1.0 - log_variance)
        penalty = jnp.sum(divergence, axis=pixels) / math.prod(image_shape)
        return error + kl_weight * penalty, model_state

    def outputs(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, ModelState]:
        return coded(params, batch, key, train)[0], model_state

    def difference(teacher: jax.Array, student: jax.Array) -> jax.Array:
        return jnp.mean((teacher - student) ** 2, axis=pixels)

    return Task(init, losses, None, num_classes, outputs, difference)
