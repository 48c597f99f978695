"""Conditional diffusion as a task: the error of the predicted noise, per example.

Images arrive raw: uint8 is scaled to [-1, 1], floating point (such as latents) is not scaled, and
other integers are refused. Timesteps, noise and dropped labels are drawn from one key per example
and visit, and so are mirror images (`flip`) and latents (`sampled`); a leaf "timestep" of the batch
takes the place of drawn timesteps. The label `num_classes` means no condition, if the model has a
row for it.

    L(x_0, c) = sum or mean over pixels of (out(x_t, t, c) - target)^2      [+ the variational term]

`jaxunlearn.methods.generating` has the forget objectives of this task besides the common ones.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.data.pixels import as_floats
from jaxunlearn.methods.generating import OBJECTIVES, match_noise
from jaxunlearn.models.ddpm_unet import DDPMUNet
from jaxunlearn.models.denoising import EMBEDDINGS
from jaxunlearn.models.diffusion_process import (
    Denoiser,
    add_noise,
    antithetic_timesteps,
    guided,
    split_variance,
    target,
    variational_term,
)
from jaxunlearn.models.dit import DiT
from jaxunlearn.models.frameworks import as_model
from jaxunlearn.models.process import Process
from jaxunlearn.tasks._dropout import dropout_key
from jaxunlearn.types import (
    Batch,
    Conditions,
    InputError,
    ModelState,
    Params,
    Task,
    example_keys,
)

REDUCTIONS = ("sum", "mean")


def diffusion(
    model: Any,
    process: Process,
    *,
    image_shape: tuple[int, ...],
    num_classes: int,
    reduction: str = "mean",
    label_drop: float = 0.1,
    fisher_guidance: float = 0.0,
    guided_channels: int | None = None,
    flip: bool = False,
    sampled: bool = False,
) -> Task:
    """The task of predicting noise.

    Training drops a fraction of the labels, so that the model can be guided; forget objectives drop
    none. Fisher diagonals use the errors of the guided prediction, `(1 + w) out(c) - w out(null)`.

    Args:
        model: a `jaxunlearn.types.Model` from images `[B, ...]`, timesteps `[B]` and labels `[B]`
            to noise; or a module of Flax linen, Flax NNX or Equinox, of which `jaxunlearn.models`
            makes one.
        process: diffusion process.
        image_shape: shape of one image.
        num_classes: number of classes; the label `num_classes` means none. A `DDPMUNet` with
            `num_classes=None` ignores labels.
        reduction: reduction of the squared errors of one example: "mean" over pixels, or "sum", as
            in SFR-on's paper, whose gradients are larger by the number of pixels.
        label_drop: fraction of labels that training drops; 0 if the model has no null class.
        fisher_guidance: guidance w of the predictions in Fisher diagonals.
        guided_channels: number of the first channels that it guides; None for all.
        flip: whether training mirrors half of the images. `batch["image"]` may hold the mirrored
            images too, after the others on the last axis, as an encoder sees both: the latents of
            a mirrored image are not the mirrored latents.
        sampled: whether `batch["image"]` holds the means and standard deviations of latents, on the
            last axis, from which training draws at every visit; otherwise the means are taken.

    Returns:
        A `Task` that predicts no classes.

    Raises:
        InputError: a model of another library, with other classes, or without the null class that
            label_drop or fisher_guidance needs; an unknown reduction, or a label_drop outside
            [0, 1); in its functions, a model whose output does not fit the variance of the process.

    Example:
        >>> from jaxunlearn.models import denoisers
        >>> model = denoisers.create("ddpm-tiny", (8, 8, 1), num_classes=10)
        >>> task = diffusion(model, Process(100), image_shape=(8, 8, 1), num_classes=10)
        >>> params, model_state = jax.eval_shape(task.init, jax.random.key(0))
        >>> model_state
        {}

    Reference: Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020; Ho and Salimans,
    Classifier-Free Diffusion Guidance, 2022; the variational term: Nichol and Dhariwal, 2021.
    """
    if reduction not in REDUCTIONS:
        raise InputError(f"reduction is {reduction!r}, but must be one of {', '.join(REDUCTIONS)}.")
    if not 0.0 <= label_drop < 1.0:
        raise InputError(f"label_drop is {label_drop!r}, but must be at least 0 and below 1.")
    conditional = _check_classes(model, num_classes, label_drop, fisher_guidance)
    null_label = num_classes if conditional and getattr(model, "null_class", True) else None
    has_table = isinstance(model, DDPMUNet | DiT) and conditional
    pixels = tuple(range(1, len(image_shape) + 1))
    model = as_model(model)
    reduce = jnp.sum if reduction == "sum" else jnp.mean

    def init(key: jax.Array) -> tuple[Params, ModelState]:
        nothing = jnp.zeros((1,), jnp.int32)
        images = jnp.zeros((1, *image_shape))
        return model.init(key, images, nothing, nothing)

    def visited(images: jax.Array, keys: jax.Array, train: bool) -> jax.Array:
        """The images of this visit."""
        channels = image_shape[-1]
        if flip:
            upright, mirrored = images, images[..., ::-1, :]
            if images.shape[-1] == 2 * channels * (1 + sampled):
                upright, mirrored = jnp.split(images, 2, axis=-1)
            draws = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 5)))(keys)
            turned = jnp.reshape(train & (draws < 0.5), (-1, *(1,) * len(image_shape)))
            images = jnp.where(turned, mirrored, upright)
        if not sampled or images.shape[-1] == channels:
            return images
        mean, deviation = jnp.split(images, 2, axis=-1)
        if not train:
            return mean
        noise = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 6), image_shape))(keys)
        return mean + deviation * noise

    def predicted(
        params: Params,
        model_state: ModelState,
        batch: Batch,
        labels: jax.Array,
        key: jax.Array,
        train: bool,
        guidance: float = 0.0,
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, ModelState]:
        """The output; the clean images, noise, noisy images and timesteps; the new model state."""
        keys = example_keys(key, batch)
        clean = visited(as_signal(batch["image"]), keys, train)
        timestep_keys = jax.vmap(lambda k: jax.random.fold_in(k, 0))(keys)
        drawn = antithetic_timesteps(timestep_keys, process.num_timesteps)
        timesteps = batch.get("timestep", drawn)
        noise = jax.vmap(
            lambda k, x: jax.random.normal(jax.random.fold_in(k, 1), x.shape, x.dtype)
        )(keys, clean)
        noisy = add_noise(process, clean, noise, timesteps)

        states = [model_state]

        def denoiser(x: jax.Array, t: jax.Array, c: jax.Array) -> jax.Array:
            dropout = dropout_key(key, batch, train)
            output, new = model.apply(params, model_state, x, t, c, key=dropout, train=train)
            states.append(new)
            return output.astype(x.dtype)

        predict: Denoiser = denoiser
        if guidance:
            predict = guided(process, denoiser, guidance, num_classes, guided_channels)
        output = predict(noisy, timesteps, labels)
        _check_channels(process, output.shape[-1], clean.shape[-1])
        return output, clean, noise, noisy, timesteps, states[-1]

    def losses_of(
        params: Params,
        model_state: ModelState,
        batch: Batch,
        labels: jax.Array,
        key: jax.Array,
        train: bool,
        guidance: float = 0.0,
    ) -> tuple[jax.Array, ModelState]:
        output, clean, noise, noisy, t, model_state = predicted(
            params, model_state, batch, labels, key, train, guidance
        )
        prediction, variance = split_variance(process, output)
        errors = (prediction - target(process, clean, noise, t)) ** 2
        losses = reduce(errors, axis=pixels)
        if variance is not None:
            bound = variational_term(process, clean, noisy, t, prediction, variance)
            losses += bound * (errors[0].size if reduction == "sum" else 1)
        return losses, model_state

    def losses(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, ModelState]:
        labels = batch["label"]
        if train and label_drop > 0.0:
            draws = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 2)))(
                example_keys(key, batch)
            )
            labels = jnp.where(draws < label_drop, num_classes, labels)
        return losses_of(params, model_state, batch, labels, key, train)

    def forget_losses(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, ModelState]:
        return losses_of(params, model_state, batch, batch["label"], key, train)

    def guided_losses(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, ModelState]:
        label = batch["label"]
        return losses_of(params, model_state, batch, label, key, train, fisher_guidance)

    def outputs(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, ModelState]:
        output, *_, model_state = predicted(params, model_state, batch, batch["label"], key, train)
        return split_variance(process, output)[0], model_state

    def divergence(teacher: jax.Array, student: jax.Array) -> jax.Array:
        return reduce((teacher - student) ** 2, axis=pixels)

    return Task(
        init,
        losses,
        None,
        num_classes,
        outputs,
        divergence,
        forget_losses,
        (*OBJECTIVES, ("match_noise", functools.partial(match_noise, image_shape=image_shape))),
        conditional,
        null_label,
        saliency_losses=guided_losses if fisher_guidance else None,
        num_timesteps=process.num_timesteps,
        conditions=Conditions(_read_table, _write_table) if has_table else None,
    )


def _read_table(params: Params, model_state: ModelState) -> jax.Array:
    if EMBEDDINGS in model_state:
        written: jax.Array = model_state[EMBEDDINGS]["condition"]["classes"]
        return written
    table: jax.Array = params["condition"]["classes"]["embedding"]
    return table


def _write_table(model_state: ModelState, embeddings: jax.Array) -> ModelState:
    return {**model_state, EMBEDDINGS: {"condition": {"classes": embeddings}}}


def _check_classes(model: Any, num_classes: int, label_drop: float, fisher_guidance: float) -> bool:
    """Whether the model takes the class as input; raises if the numbers of classes differ."""
    if not isinstance(model, DDPMUNet | DiT):
        return True
    if model.num_classes is None:
        return False
    if model.num_classes != num_classes:
        raise InputError(
            f"num_classes is {num_classes}, but must be {model.num_classes}, as in the model; "
            "change one of them."
        )
    if isinstance(model, DDPMUNet) and not model.null_class and (label_drop or fisher_guidance):
        name, value = (
            ("label_drop", label_drop) if label_drop else ("fisher_guidance", fisher_guidance)
        )
        raise InputError(
            f"{name} is {value}, but must be 0 for a model without a null class, which "
            f"dropped labels and guidance need; give {name}=0."
        )
    return True


def _check_channels(process: Process, given: int, channels: int) -> None:
    """Raises unless the model has outputs for a variance exactly if the process learns one."""
    wanted = 2 * channels if process.variance == "learned_range" else channels
    if given == wanted:
        return
    remedy = (
        'set learn_variance = true of the model, or the variance to "small" or "large"'
        if given < wanted
        else 'set the variance to "learned_range", or learn_variance = false of the model'
    )
    raise InputError(
        f"the output of the model has {given} channels for images of {channels}, but must have "
        f"{wanted} with the variance {process.variance!r}; {remedy}, if it has that option."
    )


def as_signal(images: jax.Array) -> jax.Array:
    """Images in float32 or wider: uint8 is scaled to [-1, 1], floating point is not scaled."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1.0
    return as_floats(images)
