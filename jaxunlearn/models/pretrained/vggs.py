"""VGGs in the layouts of torchvision and pytorch-cifar.

The convolutions, their norms, activations and poolings are numbered through as `features.N`. For
ImageNet three linear layers follow, for CIFAR one.

Source of the layouts: the public tensor names and shapes of torchvision's `vgg16` and `vgg16_bn`,
and of VGGs for CIFAR with one layer `classifier`.
"""

import re
from typing import Any

from jaxunlearn.models.pretrained.classifier_layout import Layout, Size, Source, allowed
from jaxunlearn.models.vgg import VGG

_DENSE = (0, 3)  # hidden layers, between activations and dropout
_LAST = 6


def _names(module: VGG) -> dict[str, str]:
    names, place = {}, 0
    for stage, count in enumerate(module.convs, start=1):
        for i in range(1, count + 1):
            names[f"stage{stage}_conv{i}"] = f"features.{place}"
            names[f"stage{stage}_norm{i}/batch"] = f"features.{place + 1}"
            place += 3 if module.norm == "batch" else 2
        place += 1  # pooling
    dense = {f"hidden{i}": f"classifier.{n}" for i, n in enumerate(_DENSE, start=1)}
    return names | dense | {"head/linear": f"classifier.{_LAST}" if module.hidden else "classifier"}


def _fields(source: Source) -> tuple[dict[str, Any], Size]:
    numbers = [re.fullmatch(r"features\.(\d+)\.weight", name) for name in source.shapes]
    places = sorted(int(found[1]) for found in numbers if found)
    convs = [n for n in places if len(source.shapes[f"features.{n}.weight"]) == 4]
    channels = source.shape("features.0.weight", 4)[1]
    batch = "features.1.running_mean" in source.shapes
    counts, widths = [0], []
    for place, following in zip(convs, [*convs[1:], None], strict=True):
        counts[-1] += 1
        if following is None or following - place > (3 if batch else 2):  # a pooling between
            widths.append(source.shape(f"features.{place}.weight", 4)[0])
            counts.append(0)
    hidden = [f"classifier.{n}.weight" for n in _DENSE]
    return {
        "widths": tuple(widths),
        "convs": tuple(counts[:-1]),
        "norm": "batch" if batch else "none",
        "hidden": tuple(source.shape(n, 2)[0] for n in hidden if n in source.shapes),
    }, Size(2 ** len(widths), channels)


def _size(module: VGG, params: Any) -> Size:
    return Size(2 ** len(module.widths), params["stage1_conv1"]["kernel"].shape[2])


def _check(module: VGG) -> None:
    allowed(module, norm=("batch", "none"))


def _check_published(module: VGG) -> None:
    _check(module)
    if len(module.hidden) != len(_DENSE):
        allowed(module, hidden=((4096, 4096),))


def _check_cifar(module: VGG) -> None:
    _check(module)
    allowed(module, hidden=((),))


_SIGN = r"features\.0\.weight"
_TORCHVISION = Layout(
    "torchvision",
    VGG,
    _SIGN,
    _fields,
    _names,
    f"classifier.{_LAST}",
    _size,
    _check_published,
    unlike=r"classifier\.weight|features\.norm0\.weight",
    ignored=(r".*\.num_batches_tracked",),
)
LAYOUTS = (
    _TORCHVISION,
    _TORCHVISION._replace(
        library="pytorch-cifar", head="classifier", check=_check_cifar, unlike=r"classifier\..*\..*"
    ),
)
