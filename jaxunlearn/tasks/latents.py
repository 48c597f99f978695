"""What models that rest make of the data, computed once and kept on disk.

Images become latents of an autoencoder and images again, prompts the hidden states of a text
encoder; all in batches.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.files import read_arrays, write_arrays
from jaxunlearn.models.autoencoder import AutoencoderKL
from jaxunlearn.models.text_encoder import TextEncoder
from jaxunlearn.studies.runs.locks import in_turn
from jaxunlearn.tasks.diffusion import as_signal
from jaxunlearn.training.checkpoints import fingerprint
from jaxunlearn.types import InputError


def encode(model: AutoencoderKL, params: Any, images: np.ndarray) -> np.ndarray:
    """The latents of images: the mean of each, times the model's scaling factor.

    Args:
        model: the autoencoder.
        params: its parameters.
        images: `[N, H, W, C]`, uint8, or floating-point in [-1, 1].

    Returns:
        float32 `[N, h, w, c]`.

    Raises:
        InputError: images of another range.

    Example:
        >>> from jaxunlearn.models import latent
        >>> model = latent.create_autoencoder("tiny", channels=1)
        >>> images = np.zeros((3, 8, 8, 1), np.uint8)
        >>> variables = jax.jit(model.init)(jax.random.key(0), as_signal(jnp.asarray(images)))
        >>> encode(model, variables["params"], images).shape
        (3, 4, 4, 4)
    """
    low, high = images.min(), images.max()
    if images.dtype != np.uint8 and not (low >= -1.0 and high <= 1.0):
        raise InputError(
            f"the images are {images.dtype} with values from {low} to {high}, but must be uint8, "
            "or floating-point from -1 to 1; scale them, such as by x / 127.5 - 1."
        )

    def one_batch(batch: jax.Array) -> jax.Array:
        mean: jax.Array = model.apply({"params": params}, as_signal(batch), method="encode")[0]
        return model.scaling_factor * mean

    return in_batches(jax.jit(one_batch), images)


def decode(model: AutoencoderKL, params: Any, latents: np.ndarray) -> np.ndarray:
    """The images that scaled latents stand for.

    Args:
        model: the autoencoder.
        params: its parameters.
        latents: `[N, h, w, c]`, as `encode` gives them.

    Returns:
        float32 `[N, H, W, C]`, clipped to [-1, 1].
    """

    def one_batch(batch: jax.Array) -> jax.Array:
        unscaled = batch / model.scaling_factor
        images: Any = model.apply({"params": params}, unscaled, method="decode")
        return jnp.clip(images, -1.0, 1.0)

    return in_batches(jax.jit(one_batch), latents)


def cached_latents(path: Path, model: AutoencoderKL, params: Any, images: np.ndarray) -> np.ndarray:
    """What `encode` gives, from a file if it was computed before.

    The file names the autoencoder and the images by their fingerprint; one of others, or a damaged
    one, is replaced.

    Args:
        path: the `.npz` file.
        model: the autoencoder.
        params: its parameters.
        images: `[N, H, W, C]`.

    Returns:
        float32 `[N, h, w, c]`.

    Raises:
        InputError: the file cannot be written; or images of another range.
    """
    return _cached(path, "latents", encode, model, params, images)


def encode_prompts(model: TextEncoder, params: Any, ids: np.ndarray) -> np.ndarray:
    """The hidden states of prompts.

    Args:
        model: the text encoder.
        params: its parameters.
        ids: the token ids of every prompt, `[P, L]`, from a tokenizer.

    Returns:
        float32 `[P, L, C]`.

    Example:
        >>> from jaxunlearn.models import latent
        >>> model = latent.create_text_encoder("tiny")
        >>> ids = np.zeros((3, 8), np.int32)
        >>> encode_prompts(model, jax.jit(model.init)(jax.random.key(0), ids)["params"], ids).shape
        (3, 8, 16)
    """

    def one_batch(batch: jax.Array) -> jax.Array:
        states: Any = model.apply({"params": params}, batch)
        return states.astype(jnp.float32)

    return in_batches(jax.jit(one_batch), ids)


def cached_prompt_states(
    path: Path, model: TextEncoder, params: Any, ids: np.ndarray
) -> np.ndarray:
    """What `encode_prompts` gives, from a file if it was computed before, as `cached_latents`.

    For a text encoder that is not trained; in the model state, by
    `jaxunlearn.tasks.latent_diffusion.PROMPT_STATES`, it takes the place of encoding.

    Args:
        path: the `.npz` file.
        model: the text encoder.
        params: its parameters.
        ids: the token ids of every prompt, `[P, L]`.

    Returns:
        `[P, L, C]`.

    Raises:
        InputError: the file cannot be written.
    """
    return _cached(path, "states", encode_prompts, model, params, ids)


def _cached(
    path: Path,
    name: str,
    compute: Callable[[Any, Any, np.ndarray], np.ndarray],
    model: nn.Module,
    params: Any,
    values: np.ndarray,
) -> np.ndarray:
    """`compute(model, params, values)`, kept by the fingerprint of these three."""
    stamp = np.array(fingerprint({"params": params, "values": values}) + repr(model))
    kept = _kept(path, name, stamp)
    if kept is not None:
        return kept
    with in_turn(path.parent, path.stem):
        kept = _kept(path, name, stamp)  # by the process that was here first
        if kept is None:
            kept = compute(model, params, values)
            write_arrays(path, {"stamp": stamp, name: kept})
    return kept


def _kept(path: Path, name: str, stamp: np.ndarray) -> np.ndarray | None:
    """The array of a file, unless there is none, a damaged one, or one of something else."""
    if not path.exists():
        return None
    try:
        kept = read_arrays(path, "stamp", name)
    except InputError:
        return None
    return kept[name] if kept["stamp"] == stamp else None


def in_batches(function: Any, values: np.ndarray, size: int = 100) -> np.ndarray:
    """A function of a batch, over all values; the last batch is filled up and cut again.

    Args:
        function: of `[B, ...]`, compiled.
        values: `[N, ...]`.
        size: B, or N if that is less.

    Returns:
        `[N, ...]`.
    """
    size = min(size, len(values))
    rows = []
    for start in range(0, len(values), size):
        batch = values[start : start + size]
        filled = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), axis=0)])
        rows.append(np.asarray(function(filled))[: len(batch)])
    return np.concatenate(rows)
