"""Conditional diffusion as a task: the error of the predicted noise, per example.

Images arrive raw: uint8 is scaled to [-1, 1], floating point (such as latents) is not scaled, and
other integers are refused. Timesteps, noise and dropped labels are drawn from one key per example
and visit, and so are mirror images (`flip`) and latents (`sampled`). The label `num_classes` means
no condition, if the model has a row for it.

    L(x_0, c) = sum or mean over pixels of (out(x_t, t, c) - target)^2      [+ the variational term]

Forget objectives of this task, besides the common ones:

    match_anchor    |out(x_t, t, c) - sg out(x_t, t, a)|^2,  a = batch["anchor"], or the next class
    match_noise     L(u, c), u uniform in [-1, 1]: the class becomes noise
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.data.pixels import as_floats
from jaxunlearn.methods.objectives import check_conditional
from jaxunlearn.models.ddpm_unet import DDPMUNet
from jaxunlearn.models.diffusion_process import (
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
from jaxunlearn.types import Batch, InputError, ModelState, Params, Task, example_keys

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
    flip: bool = False,
    sampled: bool = False,
) -> Task:
    """The task of predicting noise.

    Training drops a fraction of the labels, so that the model can be guided; forget objectives drop
    none. In evaluation mode, which Fisher diagonals use, the losses are the errors of the guided
    prediction, `(1 + w) out(c) - w out(null)`.

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
        timesteps = antithetic_timesteps(timestep_keys, process.num_timesteps)
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

        predict = guided(process, denoiser, guidance, num_classes) if guidance else denoiser
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
    ) -> tuple[jax.Array, ModelState]:
        output, clean, noise, noisy, t, model_state = predicted(
            params, model_state, batch, labels, key, train, 0.0 if train else fisher_guidance
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
        (
            ("match_anchor", match_anchor),
            ("match_noise", functools.partial(match_noise, image_shape=image_shape)),
        ),
        conditional,
        null_label,
    )


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


def match_anchor(
    task: Task,
    params: Params,
    model_state: ModelState,
    batch: Batch,
    key: jax.Array,
    anchor_guidance: float | jax.Array | None = None,
) -> jax.Array:
    """Forget images are denoised as if they showed another class.

        mean_i |out(x_t, t, c_i) - sg out(x_t, t, a_i)|^2

    The anchor a_i is `batch["anchor"]` if the batch has one, else the next class. With guidance w
    the target is `(1 + w) out(x_t, t, a_i) - w out(x_t, t, null)`.

    Args:
        task: the task of diffusion.
        params: parameters of the model.
        model_state: everything else of the model.
        batch: forget batch; its "anchor" is a class `[B]`, or bool `[B, C]`, the classes from which
            each visit draws one.
        key: key of the run.
        anchor_guidance: guidance w of the target; None for no guidance.

    Reference: Zhou et al. (EUPMU, arXiv 2510.22124), NeurIPS 2025; Fan et al. (SalUn), ICLR 2024.
    """
    assert task.divergence is not None
    check_conditional(task, "match_anchor")

    def output(label: jax.Array) -> jax.Array:
        assert task.outputs is not None
        return task.outputs(params, model_state, batch | {"label": label}, key, True)[0]

    target = output(anchors_of(task, batch, key))
    if anchor_guidance is not None:
        nothing = output(no_label(task, batch, "anchor_guidance"))
        target = (1.0 + anchor_guidance) * target - anchor_guidance * nothing
    return jnp.mean(task.divergence(jax.lax.stop_gradient(target), output(batch["label"])))


def anchors_of(task: Task, batch: Batch, key: jax.Array) -> jax.Array:
    """The anchor of each example of a forget batch at this visit, `[B]`."""
    anchor = batch.get("anchor", (batch["label"] + 1) % task.num_classes)
    if anchor.ndim == 1:
        return anchor
    draw = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 7), anchor.shape[1:]))
    return jnp.argmax(jnp.where(anchor, draw(example_keys(key, batch)), -1.0), axis=1)


def no_label(task: Task, batch: Batch, what: str) -> jax.Array:
    """The label that means no class, `[B]`; an InputError that names `what` without one."""
    if task.null_label is None:
        raise InputError(
            f"{what} needs a model with a label for 'no class', but this one has none; choose "
            "another objective, such as match_anchor, or a model that was trained with dropped "
            "labels."
        )
    return jnp.full_like(batch["label"], task.null_label)


def match_noise(
    task: Task,
    params: Params,
    model_state: ModelState,
    batch: Batch,
    key: jax.Array,
    image_shape: tuple[int, ...] | None = None,
) -> jax.Array:
    """The forgotten class becomes uniform noise: the loss of the class on images of noise.

    The noise has the shape of the images of the batch, or `image_shape`.

    Reference: Heng and Soh, Selective Amnesia, NeurIPS 2023.
    """
    assert task.forget_losses is not None
    if not task.conditional:
        raise InputError(
            "objective is 'match_noise', but must be another for a model without classes "
            "(num_classes is None), whose images would all become noise; choose 'ascent', or a "
            "model with classes."
        )
    shape = image_shape or batch["image"].shape[1:]
    images = jax.vmap(
        lambda k: jax.random.uniform(jax.random.fold_in(k, 4), shape, minval=-1.0, maxval=1.0)
    )(example_keys(key, batch))
    losses, _ = task.forget_losses(params, model_state, batch | {"image": images}, key, True)
    return jnp.mean(losses)
