"""Class-conditional denoisers in flax.linen, from tiny to the published sizes, made by name.

Every model maps noisy images or latents, timesteps and labels to the noise in them:

    model = create("ddpm-small", image_shape=(28, 28, 1), num_classes=10)
    variables = model.init(key, images, timesteps, labels)
    noise = model.apply(variables, images, timesteps, labels, train=False)
    noise = model.apply(variables, images, timesteps, labels, train=True, rngs={"dropout": key})

The label `num_classes` is the null condition of classifier-free guidance. The output of the
published diffusion transformers has twice the channels, the second half for the variance.

`ABOUT` lists the sizes, and `jaxunlearn list models` prints them. Published counts of diffusion
transformers include the fixed embedding of positions.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jaxunlearn.models.ddpm_unet import DDPMUNet
from jaxunlearn.models.dit import DiT
from jaxunlearn.models.presets import About, Presets, add, make

__all__ = ["DDPMUNet", "DiT", "available", "create", "register"]

# The number of parameters, and the configuration it is counted for.
ABOUT: About = {
    "ddpm-tiny": (45_321, "10 classes, 8x8x1; for tests"),
    "ddpm-small": (1_334_673, "10 classes, 28x28x1; for two CPU cores"),
    "ddpm-cifar10": (35_751_939, "10 classes, 32x32x3; 35,746,307 without classes"),
    "dit-tiny-test": (14_948, "10 classes, 8x8x1, patches of 2x2; for tests"),
    "dit-small": (1_869_072, "10 classes, 28x28x1, patches of 4x4"),
    "dit-s/2": (32_865_056, "1000 classes, 32x32x4, patches of 2x2"),
    "dit-b/2": (130_315_808, "1000 classes, 32x32x4, patches of 2x2"),
    "dit-l/2": (457_840_672, "1000 classes, 32x32x4, patches of 2x2"),
    "dit-xl/2": (674_834_720, "1000 classes, 32x32x4, patches of 2x2"),
}

_PRESETS: Presets = {
    "ddpm-tiny": (DDPMUNet, {"widths": (8, 16), "blocks": 1, "dropout": 0.0, "groups": 4}),
    "ddpm-small": (
        DDPMUNet,
        {
            "widths": (16, 32, 96),
            "blocks": 1,
            "attention_levels": (3,),
            "dropout": 0.0,
            "groups": 8,
        },
    ),
    "ddpm-cifar10": (DDPMUNet, {}),
    "dit-tiny-test": (DiT, {"width": 16, "depth": 2, "heads": 2, "learn_variance": False}),
    "dit-small": (
        DiT,
        {"patch_size": 4, "width": 128, "depth": 6, "heads": 4, "learn_variance": False},
    ),
    "dit-s/2": (DiT, {"width": 384, "depth": 12, "heads": 6}),
    "dit-b/2": (DiT, {"width": 768, "depth": 12, "heads": 12}),
    "dit-l/2": (DiT, {"width": 1024, "depth": 24, "heads": 16}),
    "dit-xl/2": (DiT, {}),
}


def available() -> tuple[str, ...]:
    """The names that `create` knows, sorted.

    Example:
        >>> "ddpm-cifar10" in available()
        True
    """
    return tuple(sorted(_PRESETS))


def register(constructor: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that adds a custom denoiser by its name, for `create` and for every command.

    Args:
        constructor: a class or function, `constructor(image_shape, num_classes, *, field=default,
            ...)`, that makes a model such as the ones here.

    Raises:
        InputError: the name of another model.

    Example::

        @denoisers.register
        def shallow(image_shape, num_classes, *, widths=(8, 16)):
            return denoisers.create("ddpm-tiny", image_shape, num_classes, widths=widths)
    """
    add(constructor, _PRESETS, ABOUT)
    return constructor


def create(
    name: str,
    image_shape: Sequence[int],
    num_classes: int | None,
    *,
    conditional: bool = True,
    **overrides: Any,
) -> Any:
    """Make a denoiser by name.

    Args:
        name: one of `available()`, or `module:object`, as in `jaxunlearn.models.create`.
        image_shape: (height, width, channels) of the images or latents.
        num_classes: number of classes, without the null condition.
        conditional: whether the model depends on the labels; False makes a U-Net that ignores them,
            as `num_classes=None` does.
        **overrides: fields of the model that differ from the named configuration. Lists count as
            tuples, and `dtype` may be given by name, so values from a JSON file are accepted.

    Returns:
        A flax module; see the module's docstring for how to call it.

    Raises:
        InputError: the name is unknown, a field is unknown, or a value is not allowed.

    Example:
        >>> create("ddpm-small", (28, 28, 1), num_classes=10, dropout=0.1).widths
        (16, 32, 96)
        >>> create("dit-s/2", (32, 32, 4), num_classes=1000, dtype="bfloat16").depth
        12
    """
    given = {"num_classes": num_classes if conditional else None, "image_shape": image_shape}
    return make("denoiser", _PRESETS, name, given, overrides)
