"""Latents of an autoencoder and hidden states of a text encoder, computed in batches."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.data.batches import in_batches
from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.text_encoder import TextEncoder
from jaxunlearn.tasks.diffusion import as_signal
from jaxunlearn.types import InputError


def encode(
    model: AutoencoderKL, params: Any, images: np.ndarray, *, deviations: bool = False
) -> np.ndarray:
    """The latents of images: their means times the model's scaling factor, float32 `[N, h, w, c]`.

    Args:
        model: the autoencoder.
        params: parameters of the autoencoder.
        images: `[N, H, W, C]`, uint8, or floating-point in [-1, 1].
        deviations: whether the standard deviations follow the means on the last axis, `[N, h, w,
            2 c]`, so that latents can be drawn (`tasks.diffusion`, `sampled`).

    Raises:
        InputError: images outside this range.

    Example:
        >>> from jaxunlearn.models import latent
        >>> model = latent.create_autoencoder("tiny", channels=1)
        >>> images = np.zeros((3, 8, 8, 1), np.uint8)
        >>> variables = jax.jit(model.init)(jax.random.key(0), as_signal(jnp.asarray(images)))
        >>> encode(model, variables["params"], images).shape
        (3, 4, 4, 4)
    """
    low, high = (0, 0) if images.dtype == np.uint8 else (images.min(), images.max())
    if not (low >= -1.0 and high <= 1.0):
        raise InputError(
            f"the images are {images.dtype} with values from {low} to {high}, but must be uint8, "
            "or floating-point from -1 to 1; scale them, for example by x / 127.5 - 1."
        )

    return in_batches(functools.partial(_encoded, model, deviations, params), images)


def decode(model: AutoencoderKL, params: Any, latents: np.ndarray) -> np.ndarray:
    """The images of scaled latents `[N, h, w, c]`: float32 `[N, H, W, C]`, clipped to [-1, 1]."""
    return in_batches(functools.partial(_decoded, model, params), latents)


def encode_prompts(model: TextEncoder, params: Any, ids: np.ndarray) -> np.ndarray:
    """The hidden states of prompts, float32 `[P, L, C]`, from their token ids `[P, L]`.

    Example:
        >>> from jaxunlearn.models import latent
        >>> model = latent.create_text_encoder("tiny")
        >>> ids = np.zeros((3, 8), np.int32)
        >>> encode_prompts(model, jax.jit(model.init)(jax.random.key(0), ids)["params"], ids).shape
        (3, 8, 16)
    """
    return in_batches(functools.partial(_states, model, params), ids)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encoded(model: AutoencoderKL, deviations: bool, params: Any, batch: jax.Array) -> jax.Array:
    moments: Any = model.apply({"params": params}, as_signal(batch), method="encode")
    mean, log_variance = moments
    if deviations:
        mean = jnp.concatenate([mean, jnp.exp(0.5 * log_variance)], axis=-1)
    latents: jax.Array = model.scaling_factor * mean
    return latents


@functools.partial(jax.jit, static_argnums=0)
def _decoded(model: AutoencoderKL, params: Any, batch: jax.Array) -> jax.Array:
    unscaled = batch / model.scaling_factor
    images: Any = model.apply({"params": params}, unscaled, method="decode")
    return jnp.clip(images, -1.0, 1.0)


@functools.partial(jax.jit, static_argnums=0)
def _states(model: TextEncoder, params: Any, batch: jax.Array) -> jax.Array:
    states: Any = model.apply({"params": params}, batch)
    return states.astype(jnp.float32)
