"""Inception-v3 in torchvision's layout, which the network of the Fréchet distance shares.

The tensors are named as in torchvision's `inception_v3`: `Mixed_5b.branch1x1.conv.weight` and so
on. The weights that TensorFlow published for the Fréchet distance have the same names, with 1008
outputs, but need other pooling, which no tensor reveals: hence the argument `frechet`.

Source of the layout: the public tensor names and shapes of torchvision's `inception_v3`.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.models.inception import SIDE, InceptionV3
from jaxunlearn.models.pretrained.names import naming
from jaxunlearn.models.pretrained.tensors import read, stored_shape, stored_shapes, write
from jaxunlearn.types import InputError

_UNUSED = [r"AuxLogits\..*", r".*\.num_batches_tracked"]  # for training only
_NAMES = {"fc": "fc", "*/conv": "*.conv", "*/norm": "*.bn"}
_CLASSES = {True: 1008, False: 1000}  # as published, by `frechet`


def load_inception(path: str | os.PathLike[str], *, frechet: bool) -> tuple[InceptionV3, Any, Any]:
    """Reads an Inception-v3 from a safetensors file, or a folder with one.

    `frechet` marks weights of the network of the Fréchet distance. Returns `(module, params,
    model_state)`; the model state holds the norms' running statistics.
    """
    shapes = stored_shapes(path)
    width, channels, *_ = stored_shape(path, shapes, "Conv2d_1a_3x3.conv.weight", 4)
    num_classes, _ = stored_shape(path, shapes, "fc.weight", 2)
    if num_classes == _CLASSES[not frechet]:
        raise InputError(
            f"the network in {os.fspath(path)} has {num_classes} outputs, but must have "
            f"{_CLASSES[frechet]} with frechet={frechet}; give the other weights, or "
            f"frechet={not frechet}."
        )
    module = InceptionV3(num_classes, frechet=frechet, divisor=32 // width)
    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, channels), jnp.float32)
    wanted = jax.eval_shape(module.init, jax.random.key(0), images)
    variables = read(path, wanted, naming(_NAMES), ignore=_UNUSED)
    return module, variables["params"], {"batch_stats": variables["batch_stats"]}


def save_inception(
    folder: str | os.PathLike[str], module: InceptionV3, params: Any, model_state: Any
) -> None:
    """Writes `model.safetensors`, for `load_inception`; the field `frechet` is not stored."""
    del module
    variables = {"params": params, "batch_stats": model_state["batch_stats"]}
    write(Path(folder) / "model.safetensors", variables, naming(_NAMES))
