"""Features of images, by which their looks are compared: of a classifier or of Inception-v3."""

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
        name: of the features; only those of one name are compared.
        dimension: D, how many an image has.
        stamp: the fingerprint of the network's weights.
        describe: from uint8 `[N, H, W, C]` to float32 `[N, D]`.
    """

    name: str
    dimension: int
    stamp: str
    describe: Callable[[np.ndarray], np.ndarray]


def of_classifier(name: str, task: Task, weights: Weights, images: np.ndarray) -> Features:
    """The inputs of a classifier's last dense layer.

    Args:
        name: of the model.
        task: that it learned.
        weights: of the model.
        images: uint8 `[N, H, W, C]`, at least one of those that it learned from.

    Returns:
        The `Features`.

    Raises:
        InputError: the model has no `flax.linen.Dense`.
    """

    def describe(images: np.ndarray) -> np.ndarray:
        arrays = {"image": jnp.asarray(images), "label": jnp.zeros(len(images), jnp.int32)}
        return last_features(task, weights, arrays)

    dimension = describe(images[:1]).shape[1]
    return Features(f"last features of {name}", dimension, fingerprint(weights), describe)


def of_inception(path: Path) -> Features:
    """The last pooling of Inception-v3, which Frechet distances are usually given for.

    Images are resized to 299 pixels a side; grey ones get three equal channels.

    Args:
        path: a safetensors file of the network of the Frechet distance, or a folder with one.

    Returns:
        The `Features`.

    Raises:
        InputError: the file is missing or damaged, or holds another network.
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
    """What goes into the last dense layer of a Flax linen model.

    Args:
        task: what was learned.
        weights: of the model.
        arrays: N examples.

    Returns:
        float32 `[N, F]`.

    Raises:
        InputError: the model has no `flax.linen.Dense`.
    """
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
            "the model calls no flax.linen.Dense, whose inputs linear probes read; probe models "
            "that end in a dense layer."
        )
    return inputs[-1].reshape(len(batch["label"]), -1).astype(jnp.float32)
