"""Image classifiers in flax.linen, from tiny to the published sizes, made by name.

Every model maps normalised images `[B, H, W, C]` to float32 logits `[B, num_classes]`:

    model = create("resnet18", num_classes=10)
    variables = model.init(key, images)
    logits = model.apply(variables, images, train=False)
    logits, state = model.apply(variables, images, train=True, mutable=["batch_stats"])

`variables["params"]` is a nested dict of float32 arrays. Only models with `norm="batch"` have a
second collection, `batch_stats`. No model draws random numbers after `init`.

`from_linen`, `from_nnx` and `from_equinox` make a `jaxunlearn.types.Model` of any other module.

`ABOUT` lists the sizes, and `jaxunlearn list models` prints them.
"""

from collections.abc import Callable
from typing import Any

from jaxunlearn.models.frameworks import (
    as_model,
    from_equinox,
    from_linen,
    from_nnx,
    weights_of,
    with_weights,
)
from jaxunlearn.models.mlp import MLP
from jaxunlearn.models.presets import About, Presets, add, make
from jaxunlearn.models.resnet import ResNet
from jaxunlearn.models.swin import Swin
from jaxunlearn.models.vgg import VGG
from jaxunlearn.models.vit import ViT

__all__ = [
    "MLP",
    "VGG",
    "ResNet",
    "Swin",
    "ViT",
    "as_model",
    "available",
    "create",
    "from_equinox",
    "from_linen",
    "from_nnx",
    "register",
    "weights_of",
    "with_weights",
]

# The number of parameters, and the configuration it is counted for.
ABOUT: About = {
    "mlp": (855_050, "10 classes, 32x32x3; hidden widths 256, 256"),
    "mlp-tiny": (98_666, "10 classes, 32x32x3; hidden width 32"),
    "resnet-tiny": (5_266, "10 classes; for tests"),
    "resnet10-narrow": (308_826, "10 classes; stem stride 2, widths 16 to 128"),
    "resnet18": (11_173_962, "10 classes"),
    "resnet34": (21_282_122, "10 classes"),
    "resnet50": (23_520_842, "10 classes"),
    "vgg-tiny": (6_474, "10 classes; for tests"),
    "vgg16": (14_728_266, "10 classes; conv biases included"),
    "vit-tiny-test": (29_482, "10 classes, 32x32, patches of 4x4"),
    "vit-ti": (5_717_416, "1000 classes, 224x224, patches of 16x16"),
    "vit-s": (22_050_664, "1000 classes, 224x224, patches of 16x16"),
    "vit-b": (86_567_656, "1000 classes, 224x224, patches of 16x16"),
    "swin-tiny-test": (34_886, "10 classes, 32x32, patches and windows of 2x2"),
    "swin-t": (28_288_354, "1000 classes, 224x224, patches of 4x4, window 7"),
}

_PRESETS: Presets = {
    "mlp": (MLP, {"hidden": (256, 256)}),
    "mlp-tiny": (MLP, {"hidden": (32,)}),
    "resnet-tiny": (
        ResNet,
        {"stem_width": 8, "widths": (8, 16), "blocks": (1, 1), "strides": (1, 2)},
    ),
    "resnet10-narrow": (
        ResNet,
        {"stem_width": 16, "stem_stride": 2, "widths": (16, 32, 64, 128), "blocks": (1, 1, 1, 1)},
    ),
    "resnet18": (ResNet, {"blocks": (2, 2, 2, 2)}),
    "resnet34": (ResNet, {"blocks": (3, 4, 6, 3)}),
    "resnet50": (ResNet, {"blocks": (3, 4, 6, 3), "block": "bottleneck"}),
    "vgg-tiny": (VGG, {"widths": (8, 16, 32), "convs": (1, 1, 1)}),
    "vgg16": (VGG, {}),
    "vit-tiny-test": (ViT, {"patch_size": 4, "width": 32, "depth": 2, "heads": 2}),
    "vit-ti": (ViT, {"width": 192, "heads": 3}),
    "vit-s": (ViT, {"width": 384, "heads": 6}),
    "vit-b": (ViT, {"width": 768, "heads": 12}),
    "swin-tiny-test": (
        Swin,
        {"patch_size": 2, "window": 2, "width": 16, "depths": (2, 2), "heads": (2, 4)},
    ),
    "swin-t": (Swin, {}),
}


def available() -> tuple[str, ...]:
    """The names that `create` knows, sorted.

    Example:
        >>> "resnet18" in available()
        True
    """
    return tuple(sorted(_PRESETS))


def register(constructor: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that adds a custom classifier by its name, for `create` and for every command.

    Args:
        constructor: a class or function, `constructor(num_classes, *, field=default, ...)`, that
            makes a model such as the ones here.

    Raises:
        InputError: the name of another model.

    Example::

        @models.register
        class Linear(nn.Module):
            num_classes: int

            @nn.compact
            def __call__(self, images, train=False):
                return nn.Dense(self.num_classes)(images.reshape(len(images), -1))
    """
    add(constructor, _PRESETS, ABOUT)
    return constructor


def create(name: str, num_classes: int, **overrides: Any) -> Any:
    """Make a model by name.

    Args:
        name: one of `available()`, or `module:object`: a class or function that makes a module of
            linen, NNX (from `rngs`) or Equinox (from `key`), or a `jaxunlearn.types.Model`.
        num_classes: number of logits.
        **overrides: fields of the model that differ from the named configuration. Lists count as
            tuples, and `dtype` may be given by name, so values from a JSON file are accepted.

    Returns:
        A flax module, see its docstring for how to call it; a `jaxunlearn.types.Model` of an NNX
        or Equinox module.

    Raises:
        InputError: the name is unknown, a field is unknown or missing, or a value is not allowed.

    Example:
        >>> create("resnet18", num_classes=10, norm="group").norm
        'group'
        >>> create("vit-s", num_classes=100, patch_size=4).width
        384
    """
    return make("model", _PRESETS, name, {"num_classes": num_classes}, overrides)
