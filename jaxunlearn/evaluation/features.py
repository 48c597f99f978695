"""Features of images, by which sets of images are compared: of a classifier or of Inception-v3."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.data.batches import in_batches
from jaxunlearn.files import fingerprint
from jaxunlearn.models.inception import resize
from jaxunlearn.models.pretrained.inception import load_inception
from jaxunlearn.tasks.diffusion import as_signal
from jaxunlearn.types import Arrays, InputError, Task, Weights

_INCEPTION_BATCH, _CLASSIFIER_BATCH = 25, 250
_EXAMPLES = 8  # to find the last layer by
_MOST_NUMBERS = 2**26  # in the gradients of a batch


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
    """The inputs of the last dense layer of a classifier, float32 `[N, F]`.

    For logits z = W h + b, the features h are the gradient of z_0 - z_1 in the weights of class 0.

    Raises:
        InputError: the logits are not such a function of any parameter.
    """
    number, axis = _last_layer(task, weights, {k: v[:_EXAMPLES] for k, v in arrays.items()})
    size = jax.tree.leaves(weights.params)[number].size
    batch = max(1, min(_CLASSIFIER_BATCH, _MOST_NUMBERS // size))
    return in_batches(functools.partial(_features, task, number, axis, weights), arrays, batch)


def _difference(task: Task, weights: Weights, batch: Arrays, leaves: dict[int, Any]) -> jax.Array:
    """The sum of z_0 - z_1 over a batch, with other values of some leaves of the parameters."""
    assert task.outputs is not None
    found, structure = jax.tree.flatten(weights.params)
    params = jax.tree.unflatten(structure, [leaves.get(i, leaf) for i, leaf in enumerate(found)])
    logits, _ = task.outputs(params, weights.model_state, batch, jax.random.key(0), False)
    return jnp.sum(logits[:, 0] - logits[:, 1])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _features(task: Task, number: int, axis: int, weights: Weights, batch: Arrays) -> jax.Array:
    kernel = jax.tree.leaves(weights.params)[number]

    def of_one(example: Arrays) -> jax.Array:
        one = {name: value[None] for name, value in example.items()}
        gradient = jax.grad(lambda x: _difference(task, weights, one, {number: x}))(kernel)
        return jnp.take(gradient, 0, axis).ravel().astype(jnp.float32)

    return jax.vmap(of_one)(batch)


def _last_layer(task: Task, weights: Weights, batch: Arrays) -> tuple[int, int]:
    """The number of the leaf with the weights of the last dense layer, and its axis of classes.

    Where all features are 0, as in a model of dead units, new weights show the layer.
    """
    found = _layer_by_gradients(task, weights, batch)
    if found is None:
        found = _layer_by_gradients(task, Weights(*task.init(jax.random.key(0))), batch)
    if found is None:
        raise InputError(
            f"the model has no dense layer of {task.num_classes} outputs at its end, but must have "
            "one, whose inputs are its features; use a model whose logits are W h + b."
        )
    return found


def _layer_by_gradients(task: Task, weights: Weights, batch: Arrays) -> tuple[int, int] | None:
    classes, leaves = task.num_classes, jax.tree.leaves(weights.params)
    wide = {
        i: leaf
        for i, leaf in enumerate(leaves)
        if leaf.ndim > 1 and leaf.size > classes and classes in (leaf.shape[0], leaf.shape[-1])
    }
    gradients = jax.jit(jax.grad(lambda x: _difference(task, weights, batch, x)))(wide)
    for number in reversed(wide):
        for axis in (-1, 0):
            if leaves[number].shape[axis] != classes:
                continue
            by_class = np.moveaxis(np.asarray(gradients[number]), axis, 0)
            if by_class[0].any() and not by_class[2:].any() and np.all(by_class[0] == -by_class[1]):
                return number, axis
    return None
