"""Image classification as a task: cross-entropy per example, and class probabilities.

Images arrive raw (`jaxunlearn.data.pixels`); the compiled step normalises and augments them.
Augmentation draws from one key per example and visit, so it does not depend on the batch size or
the devices.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxunlearn.data.pixels import as_floats
from jaxunlearn.methods.objectives import cross_entropy
from jaxunlearn.tasks._linen import caller, dropout_rngs
from jaxunlearn.types import Batch, InputError, ModelState, Params, Task, example_keys

AUGMENTATIONS = ("none", "crop", "flip_crop")
_PADDING = 4


def classification(
    model: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    augmentation: str = "none",
) -> Task:
    """The task of classifying images with a Flax linen model.

    Args:
        model: `model.apply(variables, images [B, H, W, C], train) -> logits [B, num_classes]`, or a
            tuple that begins with the logits. Its switch may also be `deterministic`, or missing;
            dropout draws from the stream "dropout". Collections other than `params` (such as
            `batch_stats`) become the model state.
        image_shape: shape `(H, W, C)` of the images.
        num_classes: number of classes.
        mean: mean of the pixels, per channel or one for all; uint8 images are divided by 255 first
            (`jaxunlearn.data.channel_statistics`).
        std: standard deviation of the pixels, likewise.
        augmentation: "none", "crop" (shifts by up to 4 pixels) or "flip_crop" (also random mirror
            images).

    Returns:
        A `Task`, whose logits and losses are float32 for models of any type.

    Raises:
        InputError: a model of another library or with other arguments, an unknown augmentation, or
            a mean or std for another number of channels; in its functions, a model with another
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
    for name, value in (("mean", mean), ("std", std)):
        if len(value) not in (1, image_shape[-1]):
            raise InputError(
                f"{name} has {len(value)} values, but must have one, or one for each of the "
                f"{image_shape[-1]} channels of the images."
            )

    call = caller(model, num_inputs=1)

    def normalised(images: jax.Array) -> jax.Array:
        shape = (1, 1, 1, -1)
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
        output, variables = call(model.init_with_output, key, images, train=False)
        logits_of(output)
        variables = dict(variables)
        return variables.pop("params"), variables

    def outputs(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, ModelState]:
        images = batch["image"]
        if train and augmentation != "none":
            images = augmented(images, example_keys(key, batch), flip=augmentation == "flip_crop")
        output, new_state = call(
            model.apply,
            {"params": params, **model_state},
            normalised(images),
            train=train,
            rngs=dropout_rngs(key, batch, train),
            mutable=list(model_state),
        )
        return logits_of(output), new_state

    def losses(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, ModelState]:
        logits, new_state = outputs(params, model_state, batch, key, train)
        return cross_entropy(logits, batch["label"]), new_state

    def predict(params: Params, model_state: ModelState, batch: Batch) -> jax.Array:
        variables = {"params": params, **model_state}
        output = call(model.apply, variables, normalised(batch["image"]), train=False)
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
