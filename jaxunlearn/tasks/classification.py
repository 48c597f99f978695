"""Image classification as a task: cross-entropy per example, and class probabilities.

Images arrive raw (`jaxunlearn.data.pixels`); the compiled step normalises and augments them.
Augmentation draws from one key per example and visit, so it does not depend on the batch size or
the devices.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.data.pixels import as_floats
from jaxunlearn.methods.objectives import cross_entropy
from jaxunlearn.models.frameworks import as_model
from jaxunlearn.tasks._dropout import dropout_key
from jaxunlearn.types import Batch, InputError, ModelState, Params, Task, example_keys

AUGMENTATIONS = ("none", "crop", "flip_crop")
_PADDING = 4


def classification(
    model: Any,
    *,
    image_shape: tuple[int, ...],
    num_classes: int,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    augmentation: str = "none",
) -> Task:
    """The task of classifying images, or vectors of features.

    Args:
        model: a `jaxunlearn.types.Model` from images `[B, H, W, C]` to logits `[B, num_classes]`,
            or to a tuple that begins with the logits; or a module of Flax linen, Flax NNX or
            Equinox, of which `jaxunlearn.models` makes one (`from_linen`, `from_nnx`,
            `from_equinox`).
        image_shape: shape `(H, W, C)` of the images, or `(F,)` of the vectors.
        num_classes: number of classes.
        mean: mean of the pixels, per channel or one for all; uint8 images are divided by 255 first
            (`jaxunlearn.data.channel_statistics`).
        std: standard deviation of the pixels, likewise.
        augmentation: "none", "crop" (shifts by up to 4 pixels) or "flip_crop" (also random mirror
            images).

    Returns:
        A `Task`, whose logits and losses are float32 for models of any type.

    Raises:
        InputError: a model of another library, an unknown augmentation, or a mean or std for
            another number of channels; in its functions, a model with other arguments or another
            number of outputs, or integer images other than uint8.

    Example:
        >>> from jaxunlearn import models
        >>> model = models.create("mlp-tiny", 10)
        >>> task = classification(model, image_shape=(8, 8, 1), num_classes=10)
        >>> params, model_state = task.init(jax.random.key(0))
        >>> batch = {"image": jnp.zeros((2, 8, 8, 1), jnp.uint8)}
        >>> task.predict(params, model_state, batch).shape
        (2, 10)
    """
    if augmentation not in AUGMENTATIONS:
        raise InputError(
            f"augmentation is {augmentation!r}, but must be one of {', '.join(AUGMENTATIONS)}."
        )
    if augmentation != "none" and len(image_shape) != 3:
        raise InputError(
            f"augmentation is {augmentation!r}, but must be none for examples of the shape "
            f"{tuple(image_shape)}, which are not images."
        )
    for name, value in (("mean", mean), ("std", std)):
        if len(value) not in (1, image_shape[-1]):
            raise InputError(
                f"{name} has {len(value)} values, but must have one, or one for each of the "
                f"{image_shape[-1]} channels of the images."
            )

    model = as_model(model)

    def normalised(images: jax.Array) -> jax.Array:
        shape = (*[1] * len(image_shape), -1)
        centred = as_floats(images) - jnp.reshape(jnp.array(mean), shape)
        return centred / jnp.reshape(jnp.array(std), shape)

    def logits_of(output: Any) -> jax.Array:
        logits: jax.Array = output[0] if isinstance(output, tuple | list) else output
        if jnp.ndim(logits) != 2 or logits.shape[1] != num_classes:
            raise InputError(
                f"the logits of a batch have the shape {list(jnp.shape(logits))}, but must have "
                f"[B, {num_classes}], one for each class; change the last layer of the model, or "
                "the number of classes."
            )
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def init(key: jax.Array) -> tuple[Params, ModelState]:
        images = jnp.zeros((1, *image_shape))
        weights = model.init(key, images)
        jax.eval_shape(lambda: logits_of(model.apply(*weights, images)[0]))
        return weights

    def outputs(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, ModelState]:
        images = batch["image"]
        if train and augmentation != "none":
            images = augmented(images, example_keys(key, batch), flip=augmentation == "flip_crop")
        dropout = dropout_key(key, batch, train)
        output, new_state = model.apply(
            params, model_state, normalised(images), key=dropout, train=train
        )
        return logits_of(output), new_state

    def losses(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, ModelState]:
        logits, new_state = outputs(params, model_state, batch, key, train)
        return cross_entropy(logits, batch["label"]), new_state

    def predict(params: Params, model_state: ModelState, batch: Batch) -> jax.Array:
        output, _ = model.apply(params, model_state, normalised(batch["image"]))
        return jax.nn.softmax(logits_of(output))

    return Task(init, losses, predict, num_classes, outputs, kl_divergence)


def kl_divergence(teacher: jax.Array, outputs: jax.Array) -> jax.Array:
    """`KL(softmax(teacher) || softmax(outputs))` in nats, `[B]`, from logits `[B, C]`."""
    return optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(outputs), jax.nn.log_softmax(teacher)
    )


def augmented(images: jax.Array, keys: jax.Array, flip: bool) -> jax.Array:
    """Images `[B, H, W, C]`, shifted by up to four pixels (zero padding) and, if `flip`, mirrored.

    There is one key per image, `[B]`; the probability of a mirror image is one half.
    """

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        draws = jax.random.uniform(key, (3,))
        padded = jnp.pad(image, ((_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0)))
        top, left = jnp.int32((2 * _PADDING + 1) * draws[:2])
        image = jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)
        return jnp.where(flip & (draws[2] < 0.5), image[:, ::-1], image)

    return jax.vmap(one)(images, keys)
