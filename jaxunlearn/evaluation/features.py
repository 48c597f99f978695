"""Features of images, by which sets of images are compared: of a classifier or of Inception-v3."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxunlearn.data.batches import in_batches
from jaxunlearn.files import fingerprint
from jaxunlearn.models.inception import resize
from jaxunlearn.models.pretrained.inception import load_inception
from jaxunlearn.tasks.diffusion import as_signal
from jaxunlearn.types import Arrays, InputError, Task, Weights

_INCEPTION_BATCH, _CLASSIFIER_BATCH = 25, 250


class Features(NamedTuple):
    """A network that describes images.

    Attributes:
        name: name of the features; only features of the same name are compared.
        dimension: number of features of an image, D.
        stamp: fingerprint of the network's weights.
        describe: function from images, uint8 `[N, H, W, C]`, to features, float32 `[N, D]`.
    """

    name: str
    dimension: int
    stamp: str
    describe: Callable[[np.ndarray], np.ndarray]


def of_classifier(name: str, task: Task, weights: Weights, images: np.ndarray) -> Features:
    """The inputs of a classifier's last dense layer; `images` holds at least one training image."""

    def describe(images: np.ndarray) -> np.ndarray:
        arrays = {"image": jnp.asarray(images), "label": jnp.zeros(len(images), jnp.int32)}
        return last_features(task, weights, arrays)

    dimension = describe(images[:1]).shape[1]
    return Features(f"last features of {name}", dimension, fingerprint(weights), describe)


def of_inception(path: Path) -> Features:
    """The last pooling of Inception-v3, the usual features of Frechet distances.

    Images are resized to 299 pixels a side; grey ones get three equal channels. `path` is a
    safetensors file of the network of the Frechet distance, or a folder with one.
    """
    module, params, model_state = load_inception(path, frechet=True)
    variables = {"params": params, **model_state}

    @jax.jit
    def one_batch(images: jax.Array) -> Any:
        coloured = jnp.broadcast_to(as_signal(images), (*images.shape[:3], 3))
        described: Any = module.apply(variables, resize(coloured))
        return described.features

    def describe(images: np.ndarray) -> np.ndarray:
        return in_batches(one_batch, images, _INCEPTION_BATCH)

    dimension = params["fc"]["kernel"].shape[0]
    return Features(f"Inception-v3 pool {dimension}", dimension, fingerprint(variables), describe)


def last_features(task: Task, weights: Weights, arrays: Arrays) -> np.ndarray:
    """The inputs of the last dense layer of a Flax linen model, float32 `[N, F]`."""
    return in_batches(functools.partial(_features, task, weights), arrays, _CLASSIFIER_BATCH)


@functools.partial(jax.jit, static_argnums=0)
def _features(task: Task, weights: Weights, batch: Arrays) -> jax.Array:
    inputs: list[jax.Array] = []

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
            inputs.append(args[0])
        return call(*args, **kwargs)

    assert task.predict is not None
    with nn.intercept_methods(record):
        task.predict(*weights, batch)
    if not inputs:
        raise InputError(
            "the model has no flax.linen.Dense, but must have one, whose inputs are its features; "
            "use a model that ends in a dense layer."
        )
    return inputs[-1].reshape(len(batch["label"]), -1).astype(jnp.float32)
