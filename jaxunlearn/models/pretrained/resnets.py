"""ResNets in the layouts of torchvision, timm, transformers and pytorch-cifar.

A 7x7 stem has stride 2 and max-pooling, a 3x3 stem (as for CIFAR) has stride 1. Whether max-pooling
follows a 3x3 stem is stored in files that were written here, and is asked for otherwise; networks
of pytorch-cifar have none. Stages have strides 1, 2, 2, 2.

Source of the layouts: the public tensor names and shapes of torchvision's `resnet18`, `resnet34`
and `resnet50`, timm's models of the same names, transformers' `ResNetForImageClassification`, and
ResNets for CIFAR with a last layer `linear` and shortcuts `shortcut`.
"""

from typing import Any

from jaxunlearn.models.pretrained.classifier_layout import Layout, Size, Source, allowed
from jaxunlearn.models.pretrained.names import naming
from jaxunlearn.models.pretrained.tensors import stored_metadata
from jaxunlearn.models.pretrained.timm_config import timm_config
from jaxunlearn.models.pretrained.transformers_config import transformers_config
from jaxunlearn.models.resnet import ResNet
from jaxunlearn.types import InputError

_ARCHITECTURES = {
    "basic": (r"resnet(18|34)", "resnet18"),
    "bottleneck": (r"resnet(26|50|101|152|200)", "resnet50"),
}
_STEMS = [(7, 2, True), (3, 1, False), (3, 1, True)]  # (size, stride, pool)
_STEM_POOL = "stem_pool"  # stored beside the tensors


def _table(shortcut: str, head: str) -> dict[str, str]:
    return {
        "stem_conv": "conv1",
        "stem_norm/batch": "bn1",
        "stage#_block#/conv#": "layer@.#.conv@",
        "stage#_block#/norm#/batch": "layer@.#.bn@",
        "stage#_block#/shortcut_conv": f"layer@.#.{shortcut}.0",
        "stage#_block#/shortcut_norm/batch": f"layer@.#.{shortcut}.1",
        "head/linear": head,
    }


_NAMES, _CIFAR = _table("downsample", "fc"), _table("shortcut", "linear")
_TRANSFORMERS = {
    "stem_conv": "embedder.embedder.convolution",
    "stem_norm/batch": "embedder.embedder.normalization",
    "stage#_block#/conv#": "encoder.stages.#.layers.#.layer.#.convolution",
    "stage#_block#/norm#/batch": "encoder.stages.#.layers.#.layer.#.normalization",
    "stage#_block#/shortcut_conv": "encoder.stages.#.layers.#.shortcut.convolution",
    "stage#_block#/shortcut_norm/batch": "encoder.stages.#.layers.#.shortcut.normalization",
}
_WITH_PREFIX = {ours: f"resnet.{stored}" for ours, stored in _TRANSFORMERS.items()}
_WITH_PREFIX["head/linear"] = "classifier.1"


def _fields(source: Source, table: dict[str, str]) -> tuple[dict[str, Any], Size]:
    name = naming(table)
    width, channels, size, _ = source.shape(name(("stem_conv", "kernel")), 4)
    if size not in (3, 7):
        raise InputError(
            f"the stem of the ResNet in {source.path} is {size}x{size}, but must be 7x7 (as "
            "published) or 3x3 (as for CIFAR); give the file of such a network."
        )
    first = ("stage1_block1", "conv1", "kernel")
    source.shape(name(first), 4)
    blocks: list[int] = []
    while count := source.number_of(name, f"stage{len(blocks) + 1}_block{{}}", *first[1:]):
        blocks.append(count)
    stages = range(1, len(blocks) + 1)
    convs = [name((f"stage{i}_block1", "conv1", "kernel")) for i in stages]
    bottleneck = name(("stage1_block1", "conv3", "kernel")) in source.shapes
    pool = source.facts.pop(_STEM_POOL, None)
    return {
        "stem_width": width,
        "stem_stride": 2 if size == 7 else 1,
        "widths": tuple(source.shape(conv, 4)[0] for conv in convs),
        "blocks": tuple(blocks),
        "strides": _strides(len(blocks)),
        "block": "bottleneck" if bottleneck else "basic",
        "stem_size": size,
        "stem_pool": _stem_pool(source, size, table) if pool is None else pool,
    }, Size(32, channels)


def _stem_pool(source: Source, size: int, table: dict[str, str]) -> bool:
    """Whether max-pooling follows the stem, if it was not given."""
    kept = stored_metadata(source.weights).get(_STEM_POOL)
    if kept is not None or table is _CIFAR:
        return kept == "True"
    if size == 3:
        raise InputError(
            f"the stem of the ResNet in {source.weights} is 3x3, which leaves max-pooling open; "
            "give stem_pool=False (as usual for CIFAR) or stem_pool=True."
        )
    return True


def _strides(stages: int) -> tuple[int, ...]:
    return (1,) + (2,) * (stages - 1)


def _size(module: ResNet, params: Any) -> Size:
    return Size(32, params["stem_conv"]["kernel"].shape[2])


def _check(module: ResNet) -> None:
    allowed(module, norm=("batch",), strides=(_strides(len(module.strides)),))
    stem = (module.stem_size, module.stem_stride, module.stem_pool)
    if stem not in _STEMS:
        raise InputError(
            f"ResNet.(stem_size, stem_stride, stem_pool) is {stem!r}, but must be "
            f"{' or '.join(map(repr, _STEMS))} in the published layout."
        )


def _check_large_stem(module: ResNet) -> None:
    _check(module)
    allowed(module, stem_size=(7,))


def _check_cifar(module: ResNet) -> None:
    _check(module)
    allowed(module, stem_size=(3,), stem_pool=(False,))


def _timm_options(module: ResNet, size: Size) -> dict[str, Any]:
    return {
        "num_classes": module.num_classes,
        "num_features": module.widths[-1] * (4 if module.block == "bottleneck" else 1),
        "global_pool": "avg",
        "layers": list(module.blocks),
        "channels": list(module.widths),
        "in_chans": size.channels,
    }


def _transformers_options(module: ResNet, size: Size) -> dict[str, Any]:
    wider = 4 if module.block == "bottleneck" else 1
    return {
        "depths": tuple(module.blocks),
        "embedding_size": module.stem_width,
        "hidden_sizes": tuple(wider * width for width in module.widths),
        "layer_type": module.block,
        "num_channels": size.channels,
    }


def _layout(library: str, sign: str, table: dict[str, str], head: str) -> Layout:
    return Layout(
        library,
        ResNet,
        sign,
        lambda source: _fields(source, table),
        lambda module: table,
        head,
        _size,
        _check_large_stem,
        ignored=(r".*\.num_batches_tracked",),
    )


_TORCHVISION = _layout("torchvision", r"layer1\.0\.conv1\.weight", _NAMES, "fc")._replace(
    unlike=r"linear\.weight|.*\.shortcut\..*",
    check=_check,
    stored=lambda module: {_STEM_POOL: str(module.stem_pool)},
)
_OF_TRANSFORMERS = transformers_config(
    "resnet",
    "ResNetForImageClassification",
    _transformers_options,
    {
        "hidden_act": ["relu"],
        "downsample_in_first_stage": [False],
        "downsample_in_bottleneck": [False],
    },
    "out_features out_indices stage_names",
)
_HUGGING = _layout(
    "transformers", r"resnet\.embedder\.embedder\.convolution\.weight", _WITH_PREFIX, "classifier.1"
)._replace(config=_OF_TRANSFORMERS)
LAYOUTS = (
    _TORCHVISION,
    _TORCHVISION._replace(
        library="timm",
        check=_check_large_stem,
        config=timm_config(lambda module: _ARCHITECTURES[module.block], _timm_options),
    ),
    _layout("pytorch-cifar", _TORCHVISION.sign, _CIFAR, "linear")._replace(
        unlike=r"fc\.weight|.*\.downsample\..*", check=_check_cifar
    ),
    _HUGGING,
    _HUGGING._replace(  # without a head
        sign=r"embedder\.embedder\.convolution\.weight",
        fields=lambda source: _fields(source, _TRANSFORMERS),
        names=lambda module: _TRANSFORMERS,
    ),
)
