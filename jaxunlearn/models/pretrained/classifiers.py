"""Image classifiers of torchvision, timm, transformers and pytorch-cifar.

A file of safetensors, or a folder with one and the `config.json` of timm or transformers. The
tensors determine the sizes of a model, so options are accepted only if they agree. Facts that both
leave open are arguments.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.layers import transformer_init
from jaxunlearn.models.pretrained import resnets, swins, vggs, vits
from jaxunlearn.models.pretrained.classifier_layout import Layout, Size, Source
from jaxunlearn.models.pretrained.config_json import CONFIG
from jaxunlearn.models.pretrained.layouts import remedy
from jaxunlearn.models.pretrained.names import naming
from jaxunlearn.models.pretrained.tensors import read, stored_shapes, weights_of, write
from jaxunlearn.models.published import read_json
from jaxunlearn.types import InputError, Weights

LAYOUTS = (*resnets.LAYOUTS, *vits.LAYOUTS, *swins.LAYOUTS, *vggs.LAYOUTS)
_FILE = "model.safetensors"


class Classifier(NamedTuple):
    """A classifier of another library.

    Attributes:
        library: name of its layout.
        module: the network.
        weights: parameters and model state, float32.
        size: size of the images that the files give.
        config: content of `config.json`.
        new_head: whether the head was not in the files, but drawn.
    """

    library: str
    module: Any
    weights: Weights
    size: Size
    config: Mapping[str, Any]
    new_head: bool


def load_classifier(
    path: str | os.PathLike[str], *, num_classes: int | None = None, **facts: Any
) -> Classifier:
    """Reads a ResNet, a ViT, a Swin transformer or a VGG.

    Args:
        path: a safetensors file, or a folder with one and optionally its `config.json`.
        num_classes: number of classes of a new head, for a network without one.
        **facts: facts that the files leave open: `stem_pool`, `heads`; an error asks for them.

    Raises:
        InputError: no layout is recognised, a fact is left open, or a file is missing, damaged or
            describes another network.
    """
    path = Path(path)
    folder = path.is_dir()
    weights = weights_of(path, _FILE, sharded_first=False) if folder else path
    config = read_json(path / CONFIG) if folder and (path / CONFIG).is_file() else {}
    source = Source(path, weights, stored_shapes(weights), config, dict(facts))
    layout = _layout(source)
    fields, size = layout.fields(source)
    for name in source.facts:
        raise InputError(f"{name} is given, but {path} does not leave it open; leave it out.")
    new_head = f"{layout.head}.weight" not in source.shapes
    classes = _classes(source, layout, num_classes)
    module = layout.family(num_classes=classes, **fields)
    if config and layout.config is not None:
        layout.config.check(path, config, module, size)
    wanted = _shapes(module, size)
    if new_head:
        head = wanted["params"].pop("head")
    names = naming(layout.names(module))
    variables = read(weights, wanted, names, ignore=layout.ignored)
    if new_head:
        variables["params"]["head"] = _new_head(head)
    params = variables.pop("params")
    return Classifier(layout.library, module, Weights(params, variables), size, config, new_head)


def save_classifier(
    folder: str | os.PathLike[str],
    library: str,
    module: Any,
    weights: Weights,
    *,
    like: Mapping[str, Any] | None = None,
) -> None:
    """Writes `model.safetensors`, and `config.json` where the layout has one.

    Args:
        folder: folder to write to; it is created.
        library: name of the layout: "torchvision", "timm", "transformers" or "pytorch-cifar".
        module: the network.
        weights: parameters and model state.
        like: `config.json` of an earlier file, whose options without effect are kept.

    Raises:
        InputError: the layout does not have the network, or a file cannot be written.
    """
    of_family = [layout for layout in LAYOUTS if isinstance(module, layout.family)]
    layouts = {layout.library: layout for layout in reversed(of_family)}
    if library not in layouts:
        known = ", ".join(layouts or ("orbax", "msgpack", "npz", "safetensors"))
        raise InputError(
            f"the layout is {library!r}, but must be one of {known} for {type(module).__name__}."
        )
    layout = layouts[library]
    layout.check(module)
    folder, size = Path(folder), layout.size(module, weights.params)
    if layout.config is not None:
        layout.config.write(folder, dict(like or {}), module, size)
    collections = {"params": weights.params, **weights.model_state}
    write(folder / _FILE, collections, naming(layout.names(module)), layout.stored(module))


def _layout(source: Source) -> Layout:
    """The layout of a file, by the names in it and by the library that wrote its configuration."""

    def has(expression: str) -> bool:
        return any(re.fullmatch(expression, name) for name in source.shapes)

    config = source.config
    library = (
        "timm" if "architecture" in config else "transformers" if "model_type" in config else ""
    )
    if config and not library:
        raise InputError(
            f"{source.path / CONFIG} is of no known library, but must be timm's or transformers'; "
            "give the safetensors file alone if another one wrote it."
        )
    found = [each for each in LAYOUTS if has(each.sign) and not has(each.unlike)]
    if not found:
        raise InputError(
            f"{source.path} holds no ResNet, ViT, Swin or VGG in a known layout; "
            f"{remedy(source.shapes)}"
        )
    of_library = [each for each in found if each.library == library]
    if library and not of_library:
        raise InputError(
            f"{source.path / CONFIG} is from {library}, but the tensors beside it are from "
            f"{found[0].library}; give the safetensors file alone."
        )
    return (of_library or found)[0]


def _classes(source: Source, layout: Layout, num_classes: int | None) -> int:
    """The number of classes of the stored head, or of a new one."""
    head = layout.head
    if f"{head}.weight" in source.shapes:
        stored = source.shape(f"{head}.weight", 2)[0]
        if num_classes not in (None, stored):
            raise InputError(
                f"num_classes is {num_classes}, but {source.path} has a head of {stored}; leave it "
                "out, or store the network without its head."
            )
        return stored
    inside = sorted(name for name in source.shapes if re.match(rf"{re.escape(head)}\.\d", name))
    if inside:
        raise InputError(
            f"the network in {source.path} has a head of several layers ({inside[0]!r} ...), but "
            f"must have one layer {head!r} with an output for each class, or none; store it so."
        )
    if num_classes is None:
        raise InputError(
            f"the network in {source.path} has no head {head!r}; give num_classes, for a new one."
        )
    return num_classes


def _new_head(shapes: Any) -> Any:
    """A small random matrix and no bias."""
    kernel = shapes["linear"]["kernel"].shape
    return {
        "linear": {
            "kernel": transformer_init(jax.random.key(0), kernel, jnp.float32),
            "bias": jnp.zeros(kernel[1:]),
        }
    }


def _shapes(module: nn.Module, size: Size) -> Any:
    images = jax.ShapeDtypeStruct((1, size.side, size.side, size.channels), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), images)
