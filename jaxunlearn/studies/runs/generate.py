"""Images that a model generates: every model of a problem begins with the same noise."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.data.batches import in_batches
from jaxunlearn.models.convolutions import fast_in_loops
from jaxunlearn.models.diffusion_process import Denoiser, guided, sample
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.diffusion import Diffusion
from jaxunlearn.studies.problem import Decoder, load_dataset, load_decoder, load_denoiser
from jaxunlearn.types import Weights


def generate(
    problem: Problem,
    weights: Weights,
    labels: np.ndarray,
    numbers: np.ndarray,
    prompts: tuple[str, ...] | None = None,
    at_once: int = 0,
) -> np.ndarray:
    """Generates images of classes, or of these prompts in place of them, uint8 `[N, H, W, C]`.

    The label and the number of an image within its class alone determine its initial noise; the
    number of images drawn `at_once` has no influence.
    """
    dataset, generation = load_dataset(problem), problem.diffusion
    assert generation is not None
    null_label = dataset.num_classes if prompts is None else len(prompts)
    decoder, shape = load_decoder(problem, weights)
    guidance = jnp.float32(generation.guidance) if generation.guidance else None
    denoiser, clip = load_denoiser(problem, weights, prompts), problem.first_stage() is None
    generation = replace(generation, guidance=0.0)  # one program for any strength

    def some(asked: tuple[np.ndarray, np.ndarray]) -> jax.Array:
        rest = guidance, generation, shape, null_label
        return sample_images(denoiser, decoder, *asked, *rest, clip=clip)

    asked = np.asarray(labels, np.int32), np.asarray(numbers, np.int32)
    images: np.ndarray = in_batches(some, asked, at_once or None)
    return images


@functools.partial(jax.jit, static_argnames=("generation", "shape", "null_label", "clip"))
def sample_images(
    denoiser: Denoiser,
    decoder: Decoder,
    labels: jax.Array,
    numbers: jax.Array,
    guidance: jax.Array | None,
    generation: Diffusion,
    shape: tuple[int, ...],
    null_label: int,
    *,
    clip: bool,
) -> jax.Array:
    """The compiled program that draws a batch of images, uint8 `[N, H, W, C]`.

    `guidance` replaces the guidance of `generation`. Samples are clipped to [-1, 1] where they are
    pixels; latents are not.
    """
    process = generation.process()
    if guidance is not None:
        denoiser = guided(process, denoiser, guidance, null_label, generation.guided_channels)

    @fast_in_loops
    def draw(labels: jax.Array, numbers: jax.Array) -> jax.Array:
        keys = jax.vmap(
            lambda label, number: jax.random.fold_in(
                jax.random.fold_in(jax.random.key(0), label), number
            )
        )(labels, numbers)
        samples = sample(
            process,
            denoiser,
            keys,
            labels,
            shape,
            sampler=generation.sampler,
            num_steps=generation.sampling_steps,
            eta=generation.eta,
            clip=clip,
        )
        return jnp.round((jnp.clip(decoder(samples), -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)

    return draw(labels, numbers)
