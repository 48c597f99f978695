"""Features of images, by which their looks are compared: of a classifier or of Inception-v3.

Those of the real images are computed once and kept on disk, with what else is asked of them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.evaluation import RealImages, Statistics, describe_real
from jaxunlearn.files import read_arrays, write_arrays
from jaxunlearn.models.inception import resize
from jaxunlearn.models.pretrained.inception import load_inception
from jaxunlearn.studies.audits.probing import last_features
from jaxunlearn.studies.problem import Weights
from jaxunlearn.studies.runs.locks import in_turn
from jaxunlearn.tasks.diffusion import as_signal
from jaxunlearn.tasks.latents import in_batches
from jaxunlearn.training.checkpoints import fingerprint
from jaxunlearn.types import InputError, Task

_INCEPTION_BATCH = 25
_CONTENT = ("features", "mean", "covariance", "source", "radii", "floor")  # of a file


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


def real_images(folder: Path, features: Features, images: np.ndarray) -> RealImages:
    """Real images as generated ones are compared with them, from a file if that was done before.

    The file names the network and the images by their fingerprint; one of others, or a damaged one,
    is replaced.

    Args:
        folder: where the file is, or will be.
        features: how images are described.
        images: uint8 `[N, H, W, C]`, the real ones of the retained classes.

    Returns:
        The `RealImages`.

    Raises:
        InputError: the file cannot be written, or there are too few images.
    """
    stamp = fingerprint({"images": images, "network": np.array(features.name + features.stamp)})
    path = folder / f"real-{stamp[:16]}.npz"
    kept = _kept(path, features.name, stamp)
    if kept is not None:
        return kept
    with in_turn(folder, path.stem):
        kept = _kept(path, features.name, stamp)  # by the process that was here first
        if kept is None:
            kept = describe_real(features.describe(images), features.name)
            fitted = kept.statistics
            values = (
                *(kept.features, fitted.mean, fitted.covariance, fitted.source),
                *(kept.radii, kept.floor),
            )
            content = dict(zip(_CONTENT, map(np.asarray, values), strict=True))
            content |= {"stamp": np.array(stamp)}
            write_arrays(path, content | {"digest": np.array(fingerprint(content))})
    return kept


def _kept(path: Path, name: str, stamp: str) -> RealImages | None:
    """What a file says of real images, unless there is none, a damaged one, or one of others."""
    if not path.exists():
        return None
    try:
        kept = read_arrays(path, *_CONTENT, "stamp", "digest")
    except InputError:
        return None
    if kept.pop("digest") != fingerprint(kept) or kept["stamp"] != stamp:
        return None
    count, source = len(kept["features"]), str(kept["source"])
    fitted = Statistics(kept["mean"], kept["covariance"], count, name, source)
    return RealImages(kept["features"], fitted, kept["radii"], float(kept["floor"]))
