"""Image classification as a task: cross-entropy per example, and class probabilities.

Images arrive raw (uint8 or floating point) and are normalised and augmented inside the compiled
step. Augmentation draws from one key per example and visit, so it does not depend on batch size or
devices.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

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
        model: `model.apply(variables, images [B, H, W, C], train) -> logits [B, num_classes]`; what
            it keeps besides `params` (such as `batch_stats`) becomes the model state.
        image_shape: `(H, W, C)` of the images.
        num_classes: how many classes the labels range over.
        mean: mean of the pixels (in [0, 1]) by channel, or one for all.
        std: standard deviation of the pixels by channel, or one for all.
        augmentation: "none", "crop" (shifts by up to 4 pixels) or "flip_crop" (mirrored at random
            too).

    Returns:
        A `Task`.

    Raises:
        InputError: an unknown augmentation, or a mean or std of another number of channels.

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
                f"{name} has {len(value)} values, but the images have {image_shape[-1]} channels; "
                "give one value, or one per channel."
            )

    def normalised(images: jax.Array) -> jax.Array:
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255.0
        shape = (1, 1, 1, -1)
        return (images - jnp.reshape(jnp.array(mean), shape)) / jnp.reshape(jnp.array(std), shape)

    def init(key: jax.Array) -> tuple[Params, ModelState]:
        variables = dict(model.init(key, jnp.zeros((1, *image_shape)), train=False))
        return variables.pop("params"), variables

    def outputs(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, ModelState]:
        images = batch["image"]
        if train and augmentation != "none":
            images = augmented(images, example_keys(key, batch), flip=augmentation == "flip_crop")
        return model.apply(
            {"params": params, **model_state},
            normalised(images),
            train=train,
            mutable=list(model_state),
        )

    def losses(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[jax.Array, ModelState]:
        logits, new_state = outputs(params, model_state, batch, key, train)
        # Not logsumexp minus logit, which rounds small losses to 0: adaptive weights divide by one.
        log_probabilities = jax.nn.log_softmax(logits)
        losses = -jnp.take_along_axis(log_probabilities, batch["label"][:, None], axis=1)[:, 0]
        return losses, new_state

    def predict(params: Params, model_state: ModelState, batch: Batch) -> jax.Array:
        variables = {"params": params, **model_state}
        logits: Any = model.apply(variables, normalised(batch["image"]), train=False)
        return jax.nn.softmax(logits)

    return Task(init, losses, predict, num_classes, outputs, kl_divergence)


def kl_divergence(teacher: jax.Array, outputs: jax.Array) -> jax.Array:
    """`KL(softmax(teacher) || softmax(outputs))` of each example.

    Args:
        teacher: logits `[B, C]`.
        outputs: logits `[B, C]`.

    Returns:
        Nats, `[B]`.

    Example:
        >>> kl_divergence(jnp.zeros((1, 2)), jnp.zeros((1, 2))).tolist()
        [0.0]
    """
    target = jax.nn.log_softmax(teacher)
    return jnp.sum(jnp.exp(target) * (target - jax.nn.log_softmax(outputs)), axis=-1)


def augmented(images: jax.Array, keys: jax.Array, flip: bool) -> jax.Array:
    """Images shifted by up to four pixels (zero padding) and, if `flip`, mirrored at random.

    Args:
        images: `[B, H, W, C]`.
        keys: one key per image, `[B]`.
        flip: mirror left and right with probability one half.

    Returns:
        Images like `images`.
    """

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        draws = jax.random.uniform(key, (3,))
        padded = jnp.pad(image, ((_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0)))
        top, left = jnp.int32((2 * _PADDING + 1) * draws[:2])
        image = jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)
        return jnp.where(flip & (draws[2] < 0.5), image[:, ::-1], image)

    return jax.vmap(one)(images, keys)
